//! Removing what a sandbox left on the host when its shim was killed before it could.

use std::io::ErrorKind;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Kills what is in a cgroup and removes it; says so when it cannot. The kernel has already killed the sandbox's own
/// processes with their init.
pub(crate) fn remove_cgroup(dir: &Path) {
    let members = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        kill_process(pid, Signal::KILL).ok();
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(cgroup = %dir.display(), %error, "a lost sandbox's cgroup could not be removed"),
    }
}
