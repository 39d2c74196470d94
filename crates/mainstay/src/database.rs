//! Which PostgreSQL database: said in the same way to every verb that uses one.
//!
//! A command line is seen by everybody on the machine. So a password comes from a file or from the environment, and one on
//! the command line is refused.

#[cfg(test)]
mod tests;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use mainstay_store::postgres::Address;

/// Holds the URL when the command line does not.
const VARIABLE: &str = "MAINSTAY_DATABASE";
/// No password is longer.
const PASSWORD_BYTES: u64 = 4 << 10;

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
    /// When the URL or the file cannot be used, or a password is where others see it. No password is ever in the error.
    pub(crate) fn address(&self) -> anyhow::Result<Option<Address>> {
        self.address_or(std::env::var(VARIABLE).ok())
    }

    fn address_or(&self, environment: Option<String>) -> anyhow::Result<Option<Address>> {
        let address = match (&self.database, environment.filter(|url| !url.is_empty())) {
            (Some(url), _) => {
                let address = Address::parse(url).context("--database")?;
                ensure!(
                    !address.has_password(),
                    "--database holds a password, which everybody on this machine can see; give it by \
                     --database-password-file FILE, or the whole URL in {VARIABLE}"
                );
                address
            }
            (None, Some(url)) => Address::parse(&url).context(VARIABLE)?,
            (None, None) if self.database_password_file.is_some() => {
                bail!("a file with a password is named, and no database; give --database URL")
            }
            (None, None) => return Ok(None),
        };
        let Some(file) = &self.database_password_file else { return Ok(Some(address)) };
        ensure!(!address.has_password(), "{VARIABLE} holds a password, and a file with one is named; give one of them");
        let password = password(file).with_context(|| format!("the database's password in {}", file.display()))?;
        Ok(Some(address.with_password(&password)))
    }
}

/// What a file holds, without the end of its line.
fn password(file: &Path) -> anyhow::Result<Vec<u8>> {
    let found = std::fs::metadata(file)?;
    let others = found.mode() & 0o007;
    ensure!(others == 0, "others may read it; chmod 600 it");
    ensure!(found.len() <= PASSWORD_BYTES, "it has more than {PASSWORD_BYTES} bytes");
    let mut password = std::fs::read(file)?;
    while password.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        password.pop();
    }
    ensure!(!password.is_empty(), "it is empty");
    Ok(password)
}
