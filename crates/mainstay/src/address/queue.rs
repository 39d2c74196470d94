//! Which Redis, if one is to carry the turns of operations.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use mainstay_operations::turns::Address;

/// The flags.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct QueueArgs {
    /// Redis, such as redis://queue.example.org, without password: replicas tell each other over it what can be carried out, at
    /// once; losing it costs time and nothing else [env: MAINSTAY_QUEUE, where a password may be in it]
    #[arg(long, value_name = "URL")]
    pub(crate) queue: Option<String>,
    /// The file with the password for it; nobody else may read it
    #[arg(long, value_name = "FILE", env = "MAINSTAY_QUEUE_PASSWORD_FILE")]
    pub(crate) queue_password_file: Option<PathBuf>,
}

impl QueueArgs {
    /// The Redis, when one is named, with its password.
    ///
    /// # Errors
    /// As [`super::resolve`].
    pub(crate) fn address(&self) -> anyhow::Result<Option<Address>> {
        let environment = std::env::var(<Address as super::Address>::VARIABLE).ok();
        super::resolve(self.queue.as_deref(), environment, self.queue_password_file.as_deref())
    }
}

impl super::Address for Address {
    const FLAG: &str = "--queue";
    const VARIABLE: &str = "MAINSTAY_QUEUE";
    const WHAT: &str = "queue";

    fn parse(url: &str) -> anyhow::Result<Self> {
        Ok(Self::parse(url)?)
    }

    fn has_password(&self) -> bool {
        self.has_password()
    }

    fn with_password(self, password: &[u8]) -> anyhow::Result<Self> {
        Ok(self.with_password(std::str::from_utf8(password).context("it is not UTF-8")?))
    }
}
