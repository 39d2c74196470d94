//! Keys: made once, kept, renewed when due, refused when others could have touched them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::ToSpan;

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

#[test]
fn keys_are_private_and_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = Keys::open_or_create(dir.path(), now()).unwrap();
    let leaf = first.server_pair(&names(), now()).unwrap().certificate;
    let second = Keys::open_or_create(dir.path(), now()).unwrap();
    assert_eq!(first.authority_pem(), second.authority_pem());
    assert_eq!(first.token_key(), second.token_key());
    assert_eq!(first.data_keys()[0], second.data_keys()[0]);
    assert_eq!(leaf, second.server_pair(&names(), now()).unwrap().certificate);
    assert_eq!(mode(&dir.path().join("keys")), 0o700);
    for file in fs::read_dir(dir.path().join("keys")).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

#[test]
fn the_server_certificate_is_renewed_when_it_is_due_or_names_change() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open_or_create(dir.path(), now()).unwrap();
    let first = keys.server_pair(&names(), now()).unwrap().certificate;
    assert_eq!(keys.server_pair(&names(), after_days(333)).unwrap().certificate, first, "32 days left");
    let second = keys.server_pair(&names(), after_days(336)).unwrap().certificate;
    assert_ne!(second, first, "29 days left");
    let mut more = names();
    more.push("10.1.2.3".to_owned());
    assert_ne!(keys.server_pair(&more, after_days(336)).unwrap().certificate, second);
    let early = keys.server_pair(&more, now()).unwrap().certificate;
    assert_ne!(early, second, "a clock that was set back makes the stored one not valid yet");
    let authority = keys.authority_pem();
    let long_ago = Keys::open_or_create(dir.path(), Timestamp::UNIX_EPOCH + 48.hours()).unwrap();
    assert_eq!(long_ago.authority_pem(), authority, "but is no reason to throw the authority away");
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

#[test]
fn a_new_authority_signs_a_new_server_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let first = Keys::open_or_create(dir.path(), now()).unwrap().server_pair(&names(), now()).unwrap();
    fs::remove_file(dir.path().join("keys/ca.pem")).unwrap();
    let second = Keys::open_or_create(dir.path(), now()).unwrap().server_pair(&names(), now()).unwrap();
    assert_ne!(first.certificate, second.certificate);
    let old = Keys::open_or_create(dir.path(), now()).unwrap().authority_pem();
    let later = Keys::open_or_create(dir.path(), after_days(3400)).unwrap().authority_pem();
    assert_ne!(old, later, "an authority is renewed while it can still outlive a leaf");
}

#[test]
fn key_files_that_others_could_touch_are_refused_clearly() {
    for (file, bad) in [("ca.pem", 0o640), ("token.key", 0o604), ("data.key", 0o660), ("admin.sha256", 0o644)] {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open_or_create(dir.path(), now()).unwrap();
        keys.write_kubeconfig(&dir.path().join("admin.kubeconfig"), "https://127.0.0.1:1").unwrap();
        fs::set_permissions(dir.path().join("keys").join(file), fs::Permissions::from_mode(bad)).unwrap();
        let error = Keys::open_or_create(dir.path(), now()).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(&format!("its mode is {bad:04o}, and must be 0600")), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    Keys::open_or_create(dir.path(), now()).unwrap();
    fs::set_permissions(dir.path().join("keys"), fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(Keys::open_or_create(dir.path(), now()), Err(KeysError::Unsafe { .. })));
}

#[test]
fn links_pipes_and_damaged_files_are_refused_without_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    drop(Keys::open_or_create(dir.path(), now()).unwrap());
    let key = dir.path().join("keys/token.key");
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&key, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &key).unwrap();
    assert!(Keys::open_or_create(dir.path(), now()).is_err());
    fs::remove_file(&key).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &key,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_bits_retain(0o600),
        0,
    )
    .unwrap();
    assert!(matches!(Keys::open_or_create(dir.path(), now()), Err(KeysError::Unsafe { .. })));
    fs::remove_file(&key).unwrap();
    fs::rename(&elsewhere, &key).unwrap();
    for file in ["ca.pem", "token.key", "data.key"] {
        let path = dir.path().join("keys").join(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, "not a key").unwrap();
        let opened =
            Keys::open_or_create(dir.path(), now()).map(|keys| crate::token::Tokens::check_key(keys.token_key()));
        assert!(!matches!(opened, Ok(Ok(()))), "{file}");
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn the_kubeconfig_keeps_its_token_until_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.kubeconfig");
    let keys = Keys::open_or_create(dir.path(), now()).unwrap();
    assert!(!keys.is_admin_token(""), "nobody is admin before a kubeconfig is written");
    keys.write_kubeconfig(&path, "https://127.0.0.1:7443").unwrap();
    let first = token_of(&path);
    assert_eq!(mode(&path), 0o600);
    assert!(keys.is_admin_token(&first) && !keys.is_admin_token(&first[1..]));
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
    let before = inode();
    keys.write_kubeconfig(&path, "https://127.0.0.1:7443").unwrap();
    assert_eq!(inode(), before, "what is right is not written again");

    let keys = Keys::open_or_create(dir.path(), now()).unwrap();
    keys.write_kubeconfig(&path, "https://127.0.0.1:9999").unwrap();
    assert_eq!(token_of(&path), first);
    assert!(fs::read_to_string(&path).unwrap().contains("server: \"https://127.0.0.1:9999\""));
    for file in fs::read_dir(dir.path().join("keys")).unwrap() {
        let content = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!content.contains(&first), "the token itself is in the kubeconfig only");
    }

    fs::remove_file(&path).unwrap();
    keys.write_kubeconfig(&path, "https://127.0.0.1:9999").unwrap();
    assert_ne!(token_of(&path), first);
    assert!(!keys.is_admin_token(&first), "the old token died");
}
