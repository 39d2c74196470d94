//! Which PostgreSQL database.

use std::path::PathBuf;

use clap::Args;
use mainstay_store::postgres::Address;

/// The flags.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DatabaseArgs {
    /// PostgreSQL, such as postgres://mainstay@db.example.org/mainstay, without password [env: MAINSTAY_DATABASE, where a
    /// password may be in it]
    #[arg(long, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// The file with the password for it; nobody else may read it
    #[arg(long, value_name = "FILE", env = "MAINSTAY_DATABASE_PASSWORD_FILE")]
    pub(crate) database_password_file: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The database, when one is named, with its password.
    ///
    /// # Errors
    /// As [`super::resolve`].
    pub(crate) fn address(&self) -> anyhow::Result<Option<Address>> {
        let environment = std::env::var(<Address as super::Address>::VARIABLE).ok();
        super::resolve(self.database.as_deref(), environment, self.database_password_file.as_deref())
    }
}

impl super::Address for Address {
    const FLAG: &str = "--database";
    const VARIABLE: &str = "MAINSTAY_DATABASE";
    const WHAT: &str = "database";

    fn parse(url: &str) -> anyhow::Result<Self> {
        Ok(Self::parse(url)?)
    }

    fn has_password(&self) -> bool {
        self.has_password()
    }

    fn with_password(self, password: &[u8]) -> anyhow::Result<Self> {
        Ok(self.with_password(password))
    }
}
