//! `mainstay migrate`: from a data directory into a database that replicas share.

use std::path::PathBuf;

use clap::Args;
use mainstay_runtime::failure::chain_of;
use mainstay_store::StoreError;
use mainstay_store::migrate::{MigrateError, Migration};
use mainstay_store::sqlite::backup::Progress;
use mainstay_store::sqlite::moved::MOVED;

use super::failure::{CliError, CliResult};
use super::fsck;
use super::offline::{contents, examine};
use crate::address::database::DatabaseArgs;
use crate::archive::KEY;
use crate::output;
use crate::output::progress::Meter;

/// Move the state of a data directory into PostgreSQL
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay migrate --database postgres://mainstay@db.example.org/mainstay --database-password-file /etc/mainstay/password
  MAINSTAY_DATABASE=postgres://mainstay:...@db.example.org/mainstay mainstay migrate --data-dir /srv/mainstay

The server must be stopped, and the database must be one that no server has used; sandboxes go on. All of it is moved or
nothing. Objects keep their uids and resourceVersions, messages their numbers, operations their attempts and journals. Watches
and lists that were begun before end with 410 and are begun anew. The keys go along, wrapped; their key file stays, and
every replica is given it (--key-file). The directory is served with --database from then on; without, it is refused, until
DIR/moved-to-postgres is removed: then it goes on with what it had.")]
pub(crate) struct MigrateArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA_DIR", default_value_os_t = crate::connect::default_data_dir())]
    data_dir: PathBuf,
    /// The file with the key that wraps the others, to check them with; DIR/key if none is named
    #[arg(long, value_name = "FILE", env = "MAINSTAY_KEY_FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Runs `mainstay migrate`.
pub(crate) fn run(args: &MigrateArgs) -> CliResult {
    let address = args.database.address().map_err(|error| CliError::Usage(format!("{error:#}")))?;
    let address = address.ok_or_else(|| {
        CliError::Usage("into which database? Give --database URL, or MAINSTAY_DATABASE in the environment".to_owned())
    })?;
    let meter = Meter::start();
    let tell: Progress<'_> = &mut |step, done, all| meter.tell(step, done, all);
    let dir = &args.data_dir;
    let migration = Migration::begin(dir)?;
    if dir.join("keys").exists() {
        return Err(CliError::Refused(format!(
            "{} has its keys as files, as an earlier version left them: start it once with this one, which takes them over",
            dir.display()
        )));
    }
    let report = examine(dir, args.key_file.as_deref(), tell)?;
    if !report.is_clean() {
        drop(meter);
        fsck::show(&report)?;
        return Err(CliError::Failed(format!("nothing was moved, for {} has faults", dir.display())));
    }
    let migrated = migration.run(&address, tell)?;
    drop(meter);
    let how = if migrated.repeated { "had moved" } else { "has moved" };
    output::line(format_args!("{} {how} to {address}", dir.display()))?;
    output::line(format_args!("  state    {}", contents(&migrated.contents)))?;
    output::line(format_args!("  left     {} says so", dir.join(MOVED).display()))?;
    let key = args.key_file.clone().unwrap_or_else(|| dir.join(KEY));
    let (dir, key) = (dir.display(), key.display());
    output::line(format_args!("  next     mainstay serve --data-dir {dir} --database URL --key-file {key}"))?;
    Ok(())
}

impl From<MigrateError> for CliError {
    fn from(error: MigrateError) -> Self {
        let text = chain_of(&error);
        match error {
            MigrateError::State(error) => error.into(),
            MigrateError::Database { source: StoreError::Away(_), .. } => Self::Unreachable(text),
            MigrateError::Database { source: StoreError::NewerSchema { .. }, .. } => Self::Refused(text),
            MigrateError::Database { .. } => Self::Failed(text),
            MigrateError::NotEmpty { .. } => Self::Refused(format!(
                "{text}. Name one that no server has used, or, if what is there may go, drop its schema mainstay first"
            )),
            MigrateError::Elsewhere { .. } => {
                Self::Refused(format!("{text}. Name that database, or remove the file if it is gone"))
            }
            MigrateError::Unknown { .. } => {
                Self::Failed(format!("{text}. Repeat the same command once it answers: it finds out"))
            }
        }
    }
}
