//! Where something is that this process uses: a URL, said in the same way to every verb that uses one.
//!
//! A command line is seen by everybody on the machine. So a password comes from a file or from the environment, and one on
//! the command line is refused.

pub(crate) mod database;
pub(crate) mod queue;
#[cfg(test)]
mod tests;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

/// No password is longer.
const PASSWORD_BYTES: u64 = 4 << 10;

/// An address of one kind.
pub(crate) trait Address: Sized {
    /// The flag that names it.
    const FLAG: &str;
    /// Holds the URL when the command line does not.
    const VARIABLE: &str;
    /// What is there, for people.
    const WHAT: &str;

    /// Reads a URL.
    ///
    /// # Errors
    /// When it is none. No password is ever in the error.
    fn parse(url: &str) -> anyhow::Result<Self>;

    /// Whether a password is in it.
    fn has_password(&self) -> bool;

    /// The same, with a password.
    ///
    /// # Errors
    /// When it cannot be one.
    fn with_password(self, password: &[u8]) -> anyhow::Result<Self>;
}

/// The address, when one is named, with its password: by the flag, or by the environment, with what the file holds.
///
/// # Errors
/// When the URL or the file cannot be used, or a password is where others see it. No password is ever in the error.
pub(crate) fn resolve<A: Address>(
    flag: Option<&str>,
    environment: Option<String>,
    file: Option<&Path>,
) -> anyhow::Result<Option<A>> {
    let (name, variable, what) = (A::FLAG, A::VARIABLE, A::WHAT);
    let address = match (flag, environment.filter(|url| !url.is_empty())) {
        (Some(url), _) => {
            let address = A::parse(url).context(name)?;
            ensure!(
                !address.has_password(),
                "{name} holds a password, which everybody on this machine can see; give it by {name}-password-file FILE, or \
                 the whole URL in {variable}"
            );
            address
        }
        (None, Some(url)) => A::parse(&url).context(variable)?,
        (None, None) if file.is_some() => {
            bail!("a file with a password is named, and no {what}; give {name} URL")
        }
        (None, None) => return Ok(None),
    };
    let Some(file) = file else { return Ok(Some(address)) };
    ensure!(!address.has_password(), "{variable} holds a password, and a file with one is named; give one of them");
    let password = password(file).with_context(|| format!("the {what}'s password in {}", file.display()))?;
    address.with_password(&password).map(Some)
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
