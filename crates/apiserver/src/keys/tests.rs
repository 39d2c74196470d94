//! Keys: made once for all replicas, kept, renewed when due, refused when others could have touched them.

mod sharing;
mod takeover;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::ToSpan;
use mainstay_store::{Options, SqliteStore, Store};

use super::*;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn after_days(days: i64) -> Timestamp {
    now() + (days * 24).hours()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names() -> Vec<String> {
    server_names("127.0.0.1:7443".parse().unwrap(), &[])
}

fn token_of(path: &Path) -> String {
    kubeconfig::read_token(path).unwrap().unwrap().to_string()
}

fn store(dir: &Path) -> Arc<dyn Store> {
    SqliteStore::open(Options::new(dir)).unwrap()
}

/// The keys of a directory, over this store.
async fn open(store: &Arc<dyn Store>, dir: &Path) -> Result<Keys, KeysError> {
    let file = dir.join("key");
    let opening = Opening { file: &file, may_make: true, data_dir: Some(dir), settle: Duration::ZERO };
    Keys::open(store.clone(), opening, now()).await
}

/// What tells whether two have the same keys: no key, but what each is known by.
fn marks(keys: &Keys) -> Vec<String> {
    let material = keys.material();
    let mut marks = vec![keys.authority_pem()];
    marks.extend(material.signers.iter().map(|one| one.key.header().to_owned()));
    marks.extend(material.data.iter().map(|one| one.key.id().to_owned()));
    marks.extend(material.admin.iter().map(|one| one.key.to_string()));
    marks
}

#[tokio::test]
async fn keys_are_private_and_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    let before = marks(&open(&first, dir.path()).await.unwrap());
    first.close().await;
    drop(first);
    let second = store(dir.path());
    assert_eq!(before, marks(&open(&second, dir.path()).await.unwrap()));
    let key = dir.path().join("key");
    assert_eq!((mode(&key), fs::read(&key).unwrap().len()), (0o600, 32));
    assert!(!dir.path().join("keys").exists());
}

#[test]
fn the_server_certificate_is_renewed_when_it_is_due_or_names_change() {
    let keys = Keys::ephemeral(now()).unwrap();
    let renewed = |old: &Leaf, names: &[String], now| keys.leaf(Some(old), names, now).unwrap();
    let first = keys.leaf(None, &names(), now()).unwrap();
    assert_eq!(renewed(&first, &names(), after_days(333)).certificate, first.certificate, "32 days left");
    let second = renewed(&first, &names(), after_days(336));
    assert_ne!(second.certificate, first.certificate, "29 days left");
    let mut more = names();
    more.push("10.1.2.3".to_owned());
    assert_ne!(renewed(&second, &more, after_days(336)).certificate, second.certificate);
    let early = renewed(&second, &names(), now());
    assert_ne!(early.certificate, second.certificate, "a clock that was set back makes it not valid yet");
}

#[tokio::test]
async fn an_authority_is_renewed_while_it_can_still_outlive_a_leaf() {
    let keys = Keys::ephemeral(now()).unwrap();
    let first = keys.authority_pem();
    for early in [Timestamp::UNIX_EPOCH + 48.hours(), now(), after_days(3200)] {
        keys.renew_authority(early).await.unwrap();
        assert_eq!(keys.authority_pem(), first, "{early}");
    }
    keys.renew_authority(after_days(3400)).await.unwrap();
    let both = keys.authority_pem();
    assert!(both.ends_with(&first) && both.len() > first.len(), "the old one is trusted, too");
}

#[test]
fn names_are_checked_and_each_is_there_once() {
    let more = ["Box.example.org", "10.1.2.3", "FD00::1", "localhost"].map(str::to_owned);
    let names = server_names("0.0.0.0:7443".parse().unwrap(), &more);
    for name in ["127.0.0.1", "::1", "localhost", "box.example.org", "10.1.2.3", "fd00::1"] {
        assert_eq!(names.iter().filter(|known| *known == name).count(), 1, "{name} in {names:?}");
    }
    assert!(!names.contains(&"0.0.0.0".to_owned()), "nobody connects to that");
    let long = format!("{}.org", "x".repeat(64));
    for wrong in ["", "a b", "*.example.org", "a..b", "-a", "a-", "box.example.org:7443", "https://x", &long] {
        assert!(certificate_name(wrong).is_err(), "{wrong:?}");
    }
}

/// Whatever is wrong with the key file is said, and nothing is changed by a start that is refused.
#[tokio::test]
async fn key_files_that_are_wrong_are_refused_clearly_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let before = marks(&open(&store, dir.path()).await.unwrap());
    let ring = store.ring().await.unwrap();
    let path = dir.path().join("key");
    let good = fs::read(&path).unwrap();
    let put = |content: &[u8], mode| {
        fs::remove_file(&path).ok();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (content, mode, words) in [
        (&good[..], 0o640, "its mode is 0640, and must be 0600"),
        (&good, 0o604, "its mode is 0604, and must be 0600"),
        (&good[..31], 0o600, "it has 31 bytes, and must have 32 random ones"),
        (&[], 0o600, "it has 0 bytes"),
        (&[7; 32], 0o600, "the key file does not match: the keys in the database are wrapped by key"),
    ] {
        put(content, mode);
        let error = mainstay_runtime::failure::chain_of(&open(&store, dir.path()).await.unwrap_err());
        assert!(error.contains(words), "{error}");
        assert_eq!(store.ring().await.unwrap(), ring);
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    let missing = open(&store, dir.path()).await.unwrap_err();
    assert!(matches!(missing, KeysError::NoKeyFile { .. }), "{missing}");
    assert!(!path.exists(), "no other key is made for keys that are there");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, rustix::fs::Mode::from_bits_retain(0o600), 0).unwrap();
    assert!(matches!(open(&store, dir.path()).await, Err(KeysError::Unsafe { .. })), "without a hang");
    // A link to a good file is good: that is how Kubernetes hands out Secrets.
    fs::remove_file(&path).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, &good).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o400)).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert_eq!(marks(&open(&store, dir.path()).await.unwrap()), before);
}

#[tokio::test]
async fn what_was_changed_in_the_ring_or_moved_there_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    open(&store, dir.path()).await.unwrap();
    let ring = store.ring().await.unwrap();
    let data = ring.rows.iter().find(|row| *row.name == *"data").unwrap();
    let admin = ring.rows.iter().find(|row| *row.name == *"admin").unwrap();
    let mut flipped = data.wrapped.to_vec();
    flipped[40] ^= 1;
    for wrapped in [flipped.into(), admin.wrapped.clone(), "".into(), "x".repeat(99).into()] {
        let generation = store.ring().await.unwrap().generation;
        let row = mainstay_store::KeyRow { wrapped, ..data.clone() };
        let change = mainstay_store::RingChange { generation, add: vec![row], remove: Vec::new() };
        store.change_ring(change).await.unwrap().unwrap();
        let error = open(&store, dir.path()).await.unwrap_err();
        assert!(matches!(&error, KeysError::Unusable { name, version: 1, .. } if name == "data"), "{error}");
    }
}

#[tokio::test]
async fn the_kubeconfig_is_written_from_the_ring_and_a_rotation_ends_the_token_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.kubeconfig");
    let store = store(dir.path());
    let keys = open(&store, dir.path()).await.unwrap();
    assert!(!keys.is_admin_token(""));
    keys.write_kubeconfig(&path, "https://127.0.0.1:7443").unwrap();
    let first = token_of(&path);
    assert_eq!(mode(&path), 0o600);
    assert!(keys.is_admin_token(&first) && !keys.is_admin_token(&first[1..]));
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
    let before = inode();
    keys.write_kubeconfig(&path, "https://127.0.0.1:7443").unwrap();
    assert_eq!(inode(), before, "what is right is not written again");

    fs::remove_file(&path).unwrap();
    keys.write_kubeconfig(&path, "https://127.0.0.1:9999").unwrap();
    assert_eq!(token_of(&path), first, "the other replicas' kubeconfigs live on");
    assert!(fs::read_to_string(&path).unwrap().contains("server: \"https://127.0.0.1:9999\""));

    keys.rotate(KeyName::Admin, now()).await.unwrap();
    keys.write_kubeconfig(&path, "https://127.0.0.1:9999").unwrap();
    assert!(keys.is_admin_token(&token_of(&path)) && !keys.is_admin_token(&first), "the old token died");
    assert_eq!(keys.versions().iter().filter(|version| version.name == "admin").count(), 1);
}
