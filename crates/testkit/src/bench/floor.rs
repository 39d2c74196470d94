//! Floors: the least that the machine itself takes for what a figure cannot do without.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use tokio::time::Instant;

use super::Sample;

/// Appends of 4 KB to a file in `dir`, each forced to the disk: milliseconds.
///
/// # Errors
/// When the file cannot be written.
pub fn fdatasync(dir: &Path, times: usize) -> anyhow::Result<Sample> {
    let path = dir.join("fdatasync-floor");
    let mut file = File::create(&path).context("make the file of the floor")?;
    let taken = (0..times).map(|_| {
        let since = Instant::now();
        file.write_all(&[7; 4_096])?;
        file.sync_data()?;
        Ok(since.elapsed())
    });
    let taken: Vec<_> = taken.collect::<std::io::Result<_>>().context("append and sync")?;
    std::fs::remove_file(path)?;
    Ok(Sample::of_times(taken))
}

/// Starts of `true`, each from fork to its end: milliseconds.
///
/// # Errors
/// When it does not run.
pub fn spawn(times: usize) -> anyhow::Result<Sample> {
    starts(times, &["/bin/true"])
}

/// Starts of `true` in bubblewrap with all namespaces and a read-only /usr; nothing where it is not installed.
///
/// # Errors
/// When it is there and does not work.
pub fn bubblewrap(times: usize) -> anyhow::Result<Option<Sample>> {
    if !Path::new("/usr/bin/bwrap").exists() {
        return Ok(None);
    }
    let command = [
        "/usr/bin/bwrap",
        "--unshare-all",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "/usr/bin/true",
    ];
    starts(times, &command).map(Some)
}

fn starts(times: usize, command: &[&str]) -> anyhow::Result<Sample> {
    let (program, arguments) = command.split_first().context("a command")?;
    let start = |_| {
        let since = Instant::now();
        let status = Command::new(program).args(arguments).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "{program} ended with {status}");
        Ok(since.elapsed())
    };
    let taken: Vec<_> = (0..times).map(start).collect::<anyhow::Result<_>>()?;
    Ok(Sample::of_times(taken))
}
