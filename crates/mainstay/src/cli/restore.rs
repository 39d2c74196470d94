//! `mainstay restore`: a backup's state in a data directory.

use std::path::PathBuf;

use clap::Args;
use mainstay_store::Revision;
use mainstay_store::sqlite::restore::Restore;

use super::failure::{CliError, CliResult};
use super::fsck;
use super::offline::{contents, examine};
use crate::archive::{Archive, KEY, Manifest};
use crate::output;
use crate::output::progress::Meter;

/// What makes a directory one that is in use, beside its database.
const STATE_PARTS: [&str; 2] = ["keys", "admin.kubeconfig"];
/// Says how the wall clock was set since the machine started: the directory's own knows more than a backup's.
const CLOCK: &str = "clock";

/// Put the state of a backup into a data directory
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay restore mainstay-2026-11-21.tar --data-dir /srv/mainstay
  mainstay restore mainstay-2026-11-21.tar --replace      # where it came from; what is there is kept beside

The server must be stopped; sandboxes that still live are adopted by its next start. Revisions go on in a new epoch: watches
and lists that were begun before end with 410 and are begun anew, and nothing that was given after the backup is given again.
What was written after the backup is gone.")]
pub(crate) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// Where everything is to be kept
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA_DIR", default_value_os_t = crate::connect::default_data_dir())]
    data_dir: PathBuf,
    /// The file with the key that wraps the others, to check them with; DIR/key if none is named
    #[arg(long, value_name = "FILE", env = "MAINSTAY_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Set aside a state that is there already
    #[arg(long)]
    replace: bool,
}

/// Runs `mainstay restore`.
pub(crate) fn run(args: &RestoreArgs) -> CliResult {
    let meter = Meter::start();
    let tell: mainstay_store::sqlite::backup::Progress<'_> = &mut |step, done, all| meter.tell(step, done, all);
    let mut archive = Archive::open(&args.file, tell)?;
    let dir = &args.data_dir;
    let mut restore = Restore::begin(dir, &STATE_PARTS, args.replace)?;
    // Sandboxes that live there refuse an older token.
    restore.above(Revision(mainstay_node::agent::newest_term(&dir.join("node"))));
    let has_clock = dir.join(CLOCK).exists();
    archive.extract(&restore.place(), |name| name != CLOCK || !has_clock, tell)?;
    // Whose key file is kept apart has it there already.
    let own = Some(restore.place().join(KEY)).filter(|own| own.exists());
    let key = own.or_else(|| args.key_file.clone()).unwrap_or_else(|| dir.join(KEY));
    let report = examine(&restore.place(), Some(&key), tell)?;
    if !report.is_clean() || report.contents != Some(archive.manifest.state) {
        fsck::show(&report)?;
        return Err(CliError::Failed(format!("nothing was restored: {} is not what it says", args.file.display())));
    }
    let restored = restore.finish()?;
    drop(meter);
    let Manifest { created, program, .. } = &archive.manifest;
    output::line(format_args!("{} is restored from {}", dir.display(), args.file.display()))?;
    output::line(format_args!("  taken    {created:.0} by mainstay {program}"))?;
    output::line(format_args!("  state    {}", contents(&restored.contents)))?;
    if let Some(aside) = restored.aside {
        output::line(format_args!("  before   kept in {}; it holds secrets, too", aside.display()))?;
    }
    output::line(format_args!("  next     mainstay serve --data-dir {}", dir.display()))?;
    Ok(())
}
