//! Directories of earlier versions, and starts that end in the middle.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// What an earlier version left: an authority, a signing key, two data keys, and an admin's token with its hash.
fn earlier(dir: &Path) -> (String, Vec<[u8; 32]>) {
    let keys = dir.join("keys");
    fs::create_dir(&keys).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
    let private = |path: &Path, content: &[u8]| {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    private(&keys.join("ca.pem"), &Authority::make(1, None, now()).unwrap());
    private(&keys.join("server.pem"), b"whatever");
    private(&keys.join("token.key"), STANDARD.encode(&*crate::token::generate_key().unwrap()).as_bytes());
    let data = vec![[2; 32], [1; 32]];
    private(&keys.join("data.key"), data.iter().map(|key| STANDARD.encode(key) + "\n").collect::<String>().as_bytes());
    let token = kubeconfig::new_token().unwrap();
    private(&keys.join("admin.sha256"), STANDARD.encode(sha256(token.as_bytes())).as_bytes());
    kubeconfig::write(&dir.join("admin.kubeconfig"), "https://127.0.0.1:1", "x", &token).unwrap();
    (token.to_string(), data)
}

fn check(keys: &Keys, files: &Legacy, earlier: &(String, Vec<[u8; 32]>)) {
    let material = keys.material();
    let authority = files.versions(KeyName::Ca).unwrap();
    assert!(material.authorities[0].key.is(&authority[0]));
    assert!(material.signers[0].key.is(&files.versions(KeyName::Tokens).unwrap()[0]));
    let same = |(one, key): (&Versioned<DataKey>, &[u8; 32])| one.key.is(key);
    assert_eq!(material.data.len(), 2);
    assert!(material.data.iter().zip(&earlier.1).all(same), "the first line is the newest");
    assert!(keys.is_admin_token(&earlier.0));
}

use crate::keys::certificates::Authority;
use crate::keys::takeover::Legacy;

/// A copy of the files, which goes nowhere.
fn copy(dir: &Path) -> (tempfile::TempDir, Legacy) {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("keys")).unwrap();
    fs::set_permissions(copy.path().join("keys"), fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(dir.join("keys")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join("keys").join(path.file_name().unwrap())).unwrap();
    }
    let legacy = Legacy::of(copy.path()).unwrap().unwrap();
    (copy, legacy)
}

#[tokio::test]
async fn files_are_taken_over_once_wherever_a_crash_comes_between() {
    let dir = tempfile::tempdir().unwrap();
    let before = earlier(dir.path());
    let (kept, files) = copy(dir.path());
    let first = store(dir.path());
    // A crash when only the key file is there.
    wrapping::WrappingKey::make(&dir.path().join("key")).unwrap();
    let keys = open(&first, dir.path()).await.unwrap();
    check(&keys, &files, &before);
    assert!(!dir.path().join("keys").exists(), "they are gone once the ring has them");
    let ring = first.ring().await.unwrap();
    // A crash after the ring was changed: all files, then some of them.
    for gone in [None, Some("token.key"), Some("ca.pem")] {
        fs::create_dir(dir.path().join("keys")).unwrap();
        fs::set_permissions(dir.path().join("keys"), fs::Permissions::from_mode(0o700)).unwrap();
        for entry in fs::read_dir(kept.path().join("keys")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.path().join("keys").join(path.file_name().unwrap())).unwrap();
        }
        if let Some(gone) = gone {
            fs::remove_file(dir.path().join("keys").join(gone)).unwrap();
        }
        check(&open(&first, dir.path()).await.unwrap(), &files, &before);
        assert!(!dir.path().join("keys").exists());
        assert_eq!(first.ring().await.unwrap(), ring, "nothing is taken over twice");
    }
}

#[tokio::test]
async fn a_file_with_a_key_that_is_not_in_the_ring_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let marks_before = marks(&open(&store, dir.path()).await.unwrap());
    earlier(dir.path());
    let keys = open(&store, dir.path()).await.unwrap();
    assert_eq!(marks(&keys), marks_before);
    for file in ["ca.pem", "token.key", "data.key"] {
        assert!(dir.path().join("keys").join(file).exists(), "{file}");
    }
}

#[tokio::test]
async fn files_that_others_could_touch_or_that_hold_no_key_are_refused() {
    for (file, bad) in [("ca.pem", 0o640), ("token.key", 0o604), ("data.key", 0o660), ("admin.sha256", 0o644)] {
        let dir = tempfile::tempdir().unwrap();
        earlier(dir.path());
        let store = store(dir.path());
        let path = dir.path().join("keys").join(file);
        let good = fs::read(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(bad)).unwrap();
        let error = open(&store, dir.path()).await.unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(&format!("its mode is {bad:04o}, and must be 0600")), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if file != "admin.sha256" {
            fs::write(&path, "not a key").unwrap();
            let error = open(&store, dir.path()).await.unwrap_err();
            assert!(matches!(error, KeysError::Damaged { .. } | KeysError::Unusable { .. }), "{file}: {error}");
            assert!(path.exists());
        }
        fs::write(&path, good).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    earlier(dir.path());
    fs::set_permissions(dir.path().join("keys"), fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(open(&store(dir.path()), dir.path()).await, Err(KeysError::Unsafe { .. })));
}
