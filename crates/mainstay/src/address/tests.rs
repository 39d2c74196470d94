use std::fmt::{Debug, Display};
use std::os::unix::fs::PermissionsExt as _;

use mainstay_operations::turns;
use mainstay_store::postgres;

use super::*;

const URL: &str = "postgres://me@127.0.0.1/db";
const WITH_PASSWORD: &str = "postgres://me:hunter2@127.0.0.1/db";

fn of_database(flag: Option<&str>, environment: Option<&str>, file: Option<&Path>) -> Option<postgres::Address> {
    resolve(flag, environment.map(str::to_owned), file).unwrap()
}

fn refused<A: Address + Debug>(flag: Option<&str>, environment: Option<&str>, file: Option<&Path>) -> String {
    let said = format!("{:#}", resolve::<A>(flag, environment.map(str::to_owned), file).unwrap_err());
    assert!(!said.contains("hunter2"), "{said}");
    said
}

#[test]
fn the_command_line_names_a_database_and_else_the_environment_does() {
    assert!(of_database(None, None, None).is_none());
    assert!(of_database(None, Some(""), None).is_none());
    let found = of_database(Some("postgres://me@127.0.0.1/other"), Some(WITH_PASSWORD), None).unwrap();
    assert_eq!((found.to_string(), found.has_password()), ("other at 127.0.0.1".to_owned(), false));
    let found = of_database(None, Some(WITH_PASSWORD), None).unwrap();
    assert_eq!((found.to_string(), found.has_password()), ("db at 127.0.0.1".to_owned(), true));
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    for url in [WITH_PASSWORD, "postgres://me@127.0.0.1/db?password=hunter2"] {
        let said = refused::<postgres::Address>(Some(url), None, None);
        assert!(said.contains("--database-password-file") && said.contains("MAINSTAY_DATABASE"), "{said}");
    }
    let malformed = "postgres://me:hunter2@127.0.0.1:port/db";
    refused::<postgres::Address>(Some(malformed), None, None);
    refused::<postgres::Address>(None, Some(malformed), None);
    let said = refused::<turns::Address>(Some("redis://:hunter2@127.0.0.1"), None, None);
    assert!(said.contains("--queue-password-file") && said.contains("MAINSTAY_QUEUE"), "{said}");
    refused::<turns::Address>(None, Some("redis://:hunter2@127.0.0.1:port"), None);
}

fn a_file_gives<A: Address + Display + Debug>(url: &str, with_password: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let allow = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(0o640);
    assert_eq!(password(&file).unwrap(), b"hunter2");
    assert!(resolve::<A>(Some(url), None, Some(&file)).unwrap().unwrap().has_password());
    assert!(resolve::<A>(None, Some(url.to_owned()), Some(&file)).unwrap().unwrap().has_password());
    // Which of two passwords is meant nobody knows, and for what neither.
    assert!(refused::<A>(None, Some(with_password), Some(&file)).contains("one of them"));
    assert!(refused::<A>(None, None, Some(&file)).contains(&format!("{} URL", A::FLAG)));
    allow(0o644);
    assert!(refused::<A>(Some(url), None, Some(&file)).contains("chmod 600"));
    allow(0o600);
    std::fs::write(&file, "\n").unwrap();
    assert!(refused::<A>(Some(url), None, Some(&file)).contains("empty"));
    assert!(refused::<A>(Some(url), None, Some(&dir.path().join("none"))).contains("none"));
}

#[test]
fn a_file_gives_the_password_and_is_not_for_others() {
    a_file_gives::<postgres::Address>(URL, WITH_PASSWORD);
    a_file_gives::<turns::Address>("redis://127.0.0.1", "redis://:hunter2@127.0.0.1");
}
