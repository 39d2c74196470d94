use std::os::unix::fs::PermissionsExt as _;

use super::*;

const URL: &str = "postgres://me@127.0.0.1/db";
const WITH_PASSWORD: &str = "postgres://me:hunter2@127.0.0.1/db";

fn args(database: Option<&str>, file: Option<&Path>) -> DatabaseArgs {
    DatabaseArgs { database: database.map(str::to_owned), database_password_file: file.map(Path::to_owned) }
}

fn refused(args: &DatabaseArgs, environment: Option<&str>) -> String {
    let said = format!("{:#}", args.address_or(environment.map(str::to_owned)).unwrap_err());
    assert!(!said.contains("hunter2"), "{said}");
    said
}

#[test]
fn the_command_line_names_a_database_and_else_the_environment_does() {
    assert!(args(None, None).address_or(None).unwrap().is_none());
    assert!(args(None, None).address_or(Some(String::new())).unwrap().is_none());
    let from = |args: DatabaseArgs, environment: &str| args.address_or(Some(environment.to_owned())).unwrap().unwrap();
    let found = from(args(Some("postgres://me@127.0.0.1/other"), None), WITH_PASSWORD);
    assert_eq!((found.to_string(), found.has_password()), ("other at 127.0.0.1".to_owned(), false));
    let found = from(args(None, None), WITH_PASSWORD);
    assert_eq!((found.to_string(), found.has_password()), ("db at 127.0.0.1".to_owned(), true));
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    for url in [WITH_PASSWORD, "postgres://me@127.0.0.1/db?password=hunter2"] {
        let said = refused(&args(Some(url), None), None);
        assert!(said.contains("--database-password-file") && said.contains(VARIABLE), "{said}");
    }
    refused(&args(Some("postgres://me:hunter2@127.0.0.1:port/db"), None), None);
    refused(&args(None, None), Some("postgres://me:hunter2@127.0.0.1:port/db"));
}

#[test]
fn a_file_gives_the_password_and_is_not_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let allow = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(0o640);
    assert_eq!(password(&file).unwrap(), b"hunter2");
    assert!(args(Some(URL), Some(&file)).address_or(None).unwrap().unwrap().has_password());
    assert!(args(None, Some(&file)).address_or(Some(URL.to_owned())).unwrap().unwrap().has_password());
    // Which of two passwords is meant nobody knows, and for which database neither.
    assert!(refused(&args(None, Some(&file)), Some(WITH_PASSWORD)).contains("one of them"));
    assert!(refused(&args(None, Some(&file)), None).contains("--database URL"));
    allow(0o644);
    assert!(refused(&args(Some(URL), Some(&file)), None).contains("chmod 600"));
    allow(0o600);
    std::fs::write(&file, "\n").unwrap();
    assert!(refused(&args(Some(URL), Some(&file)), None).contains("empty"));
    assert!(refused(&args(Some(URL), Some(&dir.path().join("none"))), None).contains("none"));
}
