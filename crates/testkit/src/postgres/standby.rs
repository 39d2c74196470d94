//! A second cluster that follows the first, and takes its place.

use anyhow::{Context as _, ensure};

use super::{Cluster, FIRST_DATABASE};
use crate::daemon::run;

/// When a commit on the primary is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// When the standby has it on disk, too: what was answered survives a promotion.
    Sync,
    /// When the primary has it on disk: the last commits may be lost by a promotion.
    Async,
}

impl Cluster {
    /// A standby of this cluster that follows it, and answers reads. Where commits wait for it, they wait for ever while it
    /// is away.
    ///
    /// # Errors
    /// When it cannot be made, or does not follow.
    pub fn standby(&mut self, replication: Replication) -> anyhow::Result<Self> {
        let mut standby = Self::idle(self.settings, self.password.clone())?;
        let mut backup = self.client("pg_basebackup");
        let primary =
            format!("host={} port={} application_name=standby", self.daemon.dir().display(), self.listen.port());
        backup.arg("-D").arg(standby.data()).args(["--checkpoint=fast", "--write-recovery-conf", "--no-sync", "-d"]);
        backup.arg(primary).current_dir(standby.dir());
        run(backup, "").context("copy a cluster")?;
        standby.restart()?;
        let sync = replication == Replication::Sync;
        if sync {
            self.set("synchronous_standby_names", "standby")?;
        }
        let query = "SELECT state, sync_state FROM pg_stat_replication WHERE application_name = 'standby'";
        let wanted = if sync { "streaming|sync" } else { "streaming|async" };
        self.wait_for("followed", query, wanted)?;
        Ok(standby)
    }

    /// Makes a primary of this standby: it takes writes, on a timeline of its own, when this returns.
    ///
    /// # Errors
    /// When it is none, or does not become a primary.
    pub fn promote(&mut self) -> anyhow::Result<()> {
        let promoted = self.sql(FIRST_DATABASE, "SELECT pg_promote(wait_seconds => 60)")?;
        ensure!(promoted == "t", "it was not promoted:\n{}", self.log_text());
        Ok(())
    }

    /// Sets one of PostgreSQL's settings that needs no restart, over restarts.
    ///
    /// # Errors
    /// When there is none of that name or with such a value.
    pub fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.sql(FIRST_DATABASE, &format!("ALTER SYSTEM SET {name} = '{value}';\nSELECT pg_reload_conf();")).map(drop)
    }
}
