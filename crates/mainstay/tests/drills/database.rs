//! Which database a run's servers use: a file of their own, or PostgreSQL.
//!
//! [`ENV`] says it, `sqlite` or `postgres`; ordinary runs draw one. Every server of PostgreSQL's has a database of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;

use anyhow::Context as _;
use mainstay_testkit::crash::Seed;
use mainstay_testkit::postgres;
use mainstay_testkit::server::Server;

/// Names the database.
const ENV: &str = "MAINSTAY_DRILLS_DATABASE";
/// What it is called there.
const NAMES: [&str; 2] = ["sqlite", "postgres"];

/// Whether this run's servers use PostgreSQL.
fn is_postgres() -> bool {
    static CHOICE: OnceLock<bool> = OnceLock::new();
    *CHOICE.get_or_init(|| match std::env::var(ENV) {
        Ok(name) => {
            assert!(NAMES.contains(&&*name), "{ENV}={name}: expected one of {NAMES:?}");
            name == NAMES[1]
        }
        Err(_) => Seed::fresh("the database, 1 SQLite or 2 PostgreSQL").upto(2) == 2,
    })
}

/// Tells a server that does not run yet which database it has, over all its starts.
pub(crate) fn give(server: &mut Server) -> anyhow::Result<()> {
    if !is_postgres() {
        return Ok(());
    }
    let database = postgres::shared()?.database()?;
    let key = server.scratch().join("key");
    std::fs::write(&key, rand::random::<[u8; 32]>())?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    server.set_env("MAINSTAY_DATABASE", Some(&database.url));
    server.set_env("MAINSTAY_KEY_FILE", Some(key.to_str().context("a path")?));
    Ok(())
}
