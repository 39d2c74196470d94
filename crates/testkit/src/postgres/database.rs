//! A database of a test's own.

/// One database of a cluster; it stays until the cluster goes.
#[derive(Debug, Clone)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// How its owner reaches it, by TCP and with a password: `postgres://USER:PASSWORD@127.0.0.1:PORT/NAME`. The owner is
    /// no superuser.
    pub url: String,
}
