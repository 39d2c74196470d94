//! `mainstay backup`: the state of a data directory as one file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use mainstay_runtime::Clock;
use mainstay_store::sqlite::backup::{Progress, STATE, copy};

use super::failure::{CliError, CliResult};
use super::fsck;
use super::offline::{contents, examine, size};
use crate::archive::{self, Archive, ArchiveError, KEY, KUBECONFIG, Manifest, PARTS, Work};
use crate::output;
use crate::output::progress::Meter;

/// Back up a data directory into one file, also while the server runs
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay backup --to /backup/mainstay-$(date +%F).tar
  mainstay backup --data-dir /srv/mainstay --to - | age -r age1... > mainstay.tar.age

The file holds everything that was acknowledged before, and DIR/key, which opens its secrets: keep it as you keep those. A key
file that is kept elsewhere, or left out by --without-key, is not in it: then the two are worth nothing without each other.
It is checked before it has its name. Beside it, room for twice its size is needed meanwhile. Workspaces and logs of sandboxes are not in it.")]
pub(crate) struct BackupArgs {
    /// The file, or - for standard output
    #[arg(long, value_name = "FILE|-")]
    to: PathBuf,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA_DIR", default_value_os_t = crate::connect::default_data_dir())]
    data_dir: PathBuf,
    /// The file with the key that wraps the others, to check them with; DIR/key if none is named
    #[arg(long, value_name = "FILE", env = "MAINSTAY_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Leave DIR/key out: the backup then opens nothing, and is of no use, without it
    #[arg(long)]
    without_key: bool,
}

/// Runs `mainstay backup`.
pub(crate) fn run(args: &BackupArgs) -> CliResult {
    let meter = Meter::start();
    let tell: Progress<'_> = &mut |step, done, all| meter.tell(step, done, all);
    if args.to.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            return Err(CliError::Usage(
                "a backup is not for a terminal: name a file, or send it somewhere".to_owned(),
            ));
        }
        let work = Work::beside(&args.data_dir.join("backup"))?;
        let manifest = gather(args, work.path(), tell)?;
        let bytes = archive::write(work.path(), &manifest, io::stdout().lock(), tell)?;
        drop(meter);
        output::note(summary(args, &manifest, bytes));
        return Ok(());
    }
    if fs::metadata(&args.to).is_ok_and(|found| !found.is_file()) || args.to.file_name().is_none() {
        return Err(CliError::Usage(format!("--to {}: name a file", args.to.display())));
    }
    let work = Work::beside(&args.to)?;
    let manifest = gather(args, work.path(), tell)?;
    let made = work.path().join("archive");
    let bytes = make(work.path(), &manifest, &made, tell)?;
    let mut written = Archive::open(&made, tell)?;
    written.verify(tell)?;
    if written.manifest != manifest {
        return Err(CliError::Failed(format!("{} was not written as it should be", made.display())));
    }
    publish(&made, &args.to)?;
    drop(meter);
    output::line(summary(args, &manifest, bytes))?;
    Ok(())
}

/// Brings all parts into a directory, and checks them there: what is in the file is what was checked.
fn gather(args: &BackupArgs, into: &Path, tell: Progress<'_>) -> CliResult<Manifest> {
    let dir = &*args.data_dir;
    let state = copy(dir, &into.join(STATE), tell)?;
    // After the database: a key that it needs is never taken away.
    let apart = args.without_key || !dir.join(KEY).exists();
    // The admin's token would be readable there; a start writes that file from the database.
    let secret = |name: &str| name == KEY || (name == KUBECONFIG && !dir.join("keys").exists());
    for name in PARTS.into_iter().filter(|name| *name != STATE && !(apart && secret(name))) {
        take(&dir.join(name), &into.join(name))?;
    }
    let taken = Some(into.join(KEY)).filter(|taken| taken.exists());
    let key = taken.or_else(|| args.key_file.clone()).unwrap_or_else(|| dir.join(KEY));
    let report = examine(into, Some(&key), tell)?;
    if !report.is_clean() {
        fsck::show(&report)?;
        return Err(CliError::Failed(format!(
            "nothing was backed up, for {} has faults; to keep it as it is, copy the directory while no server runs",
            dir.display()
        )));
    }
    Ok(Manifest::of(into, state, Clock::system().now(), tell).map_err(ArchiveError::io("read the parts in", into))?)
}

/// Copies a part, if it is there.
fn take(from: &Path, to: &Path) -> Result<(), ArchiveError> {
    let mut part = match File::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(ArchiveError::io("open", from))?,
    };
    let above = to.parent().unwrap_or(to);
    DirBuilder::new().recursive(true).mode(0o700).create(above).map_err(ArchiveError::io("make", above))?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let mut made = made.map_err(ArchiveError::io("make", to))?;
    io::copy(&mut part, &mut made).map(drop).map_err(ArchiveError::io("copy", from))
}

fn make(parts: &Path, manifest: &Manifest, file: &Path, tell: Progress<'_>) -> Result<u64, ArchiveError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut made = made.map_err(ArchiveError::io("make", file))?;
    let bytes = archive::write(parts, manifest, &mut made, tell).map_err(ArchiveError::io("write", file))?;
    made.sync_all().map_err(ArchiveError::io("sync", file))?;
    Ok(bytes)
}

/// Gives the file its name, durably.
fn publish(made: &Path, name: &Path) -> Result<(), ArchiveError> {
    fs::rename(made, name).map_err(ArchiveError::io("rename to", name))?;
    let above = name.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(above).and_then(|above| above.sync_all()).map_err(ArchiveError::io("sync", above))
}

fn summary(args: &BackupArgs, manifest: &Manifest, bytes: u64) -> String {
    let to = if args.to.as_os_str() == "-" { "standard output".into() } else { args.to.display().to_string() };
    let checked = if args.to.as_os_str() == "-" {
        "the copy that it was made from; what arrived is checked by mainstay restore"
    } else {
        "read back, digests and database"
    };
    let secrets = if manifest.parts.iter().any(|part| part.name == KEY || part.name.starts_with("keys/")) {
        "It holds secrets: with its keys, every Secret and Credential and the admin's token can be read."
    } else {
        "Its key file is not in it: it is of no use without that one. Keep the two apart."
    };
    format!(
        "{} is backed up to {to}\n  state    {}\n  size     {}\n  checked  {checked}\n  {secrets}",
        args.data_dir.display(),
        contents(&manifest.state),
        size(bytes),
    )
}
