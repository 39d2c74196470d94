//! Several replicas over one ring: one file and the store are all that each needs.

use super::*;
use crate::crypt::{CryptError, Place, Sealer};

const PLACE: Place<'static> =
    Place { group: "", resource: "secrets", namespace: "n", name: "s", uid: "u", field: "data.x" };

struct Replicas {
    store: Arc<dyn Store>,
    dir: tempfile::TempDir,
}

impl Replicas {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: store(dir.path()), dir }
    }

    fn file(&self, replica: &str) -> std::path::PathBuf {
        self.dir.path().join(replica)
    }

    async fn join(&self, replica: &str, settle: Duration) -> Result<Keys, KeysError> {
        self.join_at(replica, settle, now()).await
    }

    async fn join_at(&self, replica: &str, settle: Duration, now: Timestamp) -> Result<Keys, KeysError> {
        let file = self.file(replica);
        let opening = Opening { file: &file, may_make: false, data_dir: None, settle };
        Keys::open(self.store.clone(), opening, now).await
    }
}

fn give(from: &Path, to: &Path) {
    files::write(to, &fs::read(from).unwrap()).unwrap();
}

#[tokio::test]
async fn replicas_that_start_at_once_agree_and_one_without_the_file_is_refused() {
    let replicas = Replicas::new();
    let missing = replicas.join("a", Duration::ZERO).await.unwrap_err();
    assert!(matches!(missing, KeysError::Missing { .. }), "{missing}");
    assert!(replicas.store.ring().await.unwrap().rows.is_empty() && !replicas.file("a").exists());
    wrapping::WrappingKey::make(&replicas.file("a")).unwrap();
    give(&replicas.file("a"), &replicas.file("b"));
    let (a, b) = futures::join!(replicas.join("a", Duration::ZERO), replicas.join("b", Duration::ZERO));
    assert_eq!(marks(&a.unwrap()), marks(&b.unwrap()));
    wrapping::WrappingKey::make(&replicas.file("c")).unwrap();
    assert!(matches!(replicas.join("c", Duration::ZERO).await, Err(KeysError::Mismatch { .. })));
}

#[tokio::test]
async fn rotations_at_once_are_all_made_and_all_replicas_see_the_same() {
    let replicas = Replicas::new();
    wrapping::WrappingKey::make(&replicas.file("a")).unwrap();
    give(&replicas.file("a"), &replicas.file("b"));
    let (a, b) = (replicas.join("a", Duration::ZERO).await.unwrap(), replicas.join("b", Duration::ZERO).await.unwrap());
    let sealed = Sealer::new(&a).seal(&PLACE, b"old").unwrap();
    let (one, other) = futures::join!(a.rotate(KeyName::Data, now()), b.rotate(KeyName::Data, now()));
    let mut versions = [one.unwrap(), other.unwrap()];
    versions.sort_unstable();
    assert_eq!(versions, [2, 3]);
    for keys in [&a, &b] {
        keys.refresh().await.unwrap();
        assert_eq!(*Sealer::new(keys).open(&PLACE, &sealed).unwrap(), b"old");
    }
    assert_eq!(marks(&a), marks(&b));
    for _ in 0..5 {
        a.rotate(KeyName::Data, now()).await.unwrap();
    }
    assert!(matches!(a.rotate(KeyName::Data, now()).await, Err(KeysError::TooMany { count: 8, .. })));
}

/// Nobody seals with what another may not know yet, and nobody seals with what may be retired.
#[tokio::test(start_paused = true)]
async fn a_new_version_is_used_when_all_know_it_and_none_by_who_hears_nothing() {
    let replicas = Replicas::new();
    wrapping::WrappingKey::make(&replicas.file("a")).unwrap();
    give(&replicas.file("a"), &replicas.file("b"));
    let settle = Duration::from_secs(10);
    let (a, b) = (replicas.join("a", settle).await.unwrap(), replicas.join("b", settle).await.unwrap());
    let id = |keys: &Keys| Sealer::new(keys).seal(&PLACE, b"x").map(|text| text[..20].to_owned());
    let old = id(&a).unwrap();
    a.rotate(KeyName::Data, now()).await.unwrap();
    assert_eq!(id(&a).unwrap(), old, "b does not know of it");
    assert!(a.versions().iter().any(|version| version.state == rotation::State::Next));
    tokio::time::advance(settle).await;
    let new = Sealer::new(&a).seal(&PLACE, b"x").unwrap();
    assert_ne!(new[..20], old);
    assert_eq!(
        Sealer::new(&b).open(&PLACE, &new),
        Err(CryptError::UnknownKey),
        "b was not told, which takes 5 s at most"
    );
    b.refresh().await.unwrap();
    assert_eq!(*Sealer::new(&b).open(&PLACE, &new).unwrap(), b"x");
    assert_eq!(id(&b).unwrap(), old);
    tokio::time::advance(STALE + Duration::from_secs(1)).await;
    assert_eq!(id(&b), Err(CryptError::Stale));
    assert_eq!(*Sealer::new(&b).open(&PLACE, &new).unwrap(), b"x", "reads go on");
    b.refresh().await.unwrap();
    assert_eq!(id(&b).unwrap(), new[..20]);
}

/// A process that starts right after a rotation knows the new version, and the others do not yet.
#[tokio::test(start_paused = true)]
async fn who_starts_right_after_a_rotation_waits_with_the_new_version_like_the_others() {
    let replicas = Replicas::new();
    wrapping::WrappingKey::make(&replicas.file("a")).unwrap();
    give(&replicas.file("a"), &replicas.file("b"));
    let settle = Duration::from_secs(10);
    let a = replicas.join("a", settle).await.unwrap();
    let id = |keys: &Keys| Sealer::new(keys).seal(&PLACE, b"x").map(|text| text[..20].to_owned());
    let old = id(&a).unwrap();
    a.rotate(KeyName::Data, now()).await.unwrap();
    let b = replicas.join("b", settle).await.unwrap();
    assert_eq!(id(&b).unwrap(), old, "others do not know of it");
    tokio::time::advance(settle).await;
    assert_ne!(id(&b).unwrap(), old);
    // Who starts later finds it in use.
    let later = now().checked_add(2.minutes()).unwrap();
    let c = replicas.join_at("b", settle, later).await.unwrap();
    assert_eq!(id(&c).unwrap(), id(&b).unwrap());
}

#[tokio::test]
async fn another_wrapping_key_takes_the_place_of_the_old_one_on_every_replica_while_it_serves() {
    let replicas = Replicas::new();
    wrapping::WrappingKey::make(&replicas.file("a")).unwrap();
    for other in ["b", "c", "old"] {
        give(&replicas.file("a"), &replicas.file(other));
    }
    let a = replicas.join("a", Duration::ZERO).await.unwrap();
    let (b, c) = (replicas.join("b", Duration::ZERO).await.unwrap(), replicas.join("c", Duration::ZERO).await.unwrap());
    let (before, ring) = (marks(&a), replicas.store.ring().await.unwrap());
    assert!(matches!(a.rewrap().await, Err(KeysError::Missing { .. })));
    assert_eq!(replicas.store.ring().await.unwrap(), ring);
    let next = rotation::prepare_rewrap(&replicas.file("a"), None).unwrap();
    rotation::prepare_rewrap(&replicas.file("b"), Some(&next)).unwrap();
    let old = a.wrapped_by();
    assert_ne!(a.rewrap().await.unwrap(), old);
    assert_eq!(a.wrapped_by(), rotation::key_id(&replicas.file("a")).unwrap(), "the file has taken its place");
    assert!(!next.exists());
    b.refresh().await.unwrap();
    assert_eq!(b.wrapped_by(), a.wrapped_by());
    assert_eq!(marks(&b), before);
    // One that was given no file goes on with what it knows, says so, and does when it has it.
    assert!(matches!(c.refresh().await, Err(KeysError::Mismatch { .. })));
    assert_eq!(marks(&c), before);
    give(&replicas.file("a"), &replicas.file("c"));
    c.refresh().await.unwrap();
    assert!(matches!(replicas.join("old", Duration::ZERO).await, Err(KeysError::Mismatch { .. })));
    // A crash between the change of the ring and that of the file.
    fs::rename(replicas.file("a"), rotation::next_file(&replicas.file("old"))).unwrap();
    assert_eq!(marks(&replicas.join("old", Duration::ZERO).await.unwrap()), before);
    assert_eq!(rotation::key_id(&replicas.file("old")).unwrap(), a.wrapped_by());
}

/// Neither what is shown of keys nor what is stored of them holds one.
#[tokio::test]
async fn nothing_that_is_shown_or_stored_holds_a_key() {
    let replicas = Replicas::new();
    wrapping::WrappingKey::make(&replicas.file("a")).unwrap();
    let keys = replicas.join("a", Duration::ZERO).await.unwrap();
    let material = keys.material();
    let token = material.admin[0].key.to_string();
    let shown = format!("{keys:?} {:?} {} {:?}", keys.versions(), keys.wrapped_by(), material);
    assert!(!shown.contains(&token));
    let ring = replicas.store.ring().await.unwrap();
    let secret = fs::read(replicas.file("a")).unwrap();
    for row in &ring.rows {
        let plain = keys.0.wrapping.load().unwrap(row).unwrap();
        for needle in [&plain[..plain.len().min(16)], &secret[..16], token.as_bytes()] {
            assert!(!row.wrapped.windows(needle.len()).any(|part| part == needle), "{row:?}");
        }
    }
}
