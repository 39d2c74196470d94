//! What a data directory has left on this host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use crate::server::processes_naming;

/// How long the last of it may take to go: a shim ends after its record is read.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often, and how far apart, it is looked whether a cgroup is empty.
const GLANCES: u32 = 1_000;
const GLANCE: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Everything of the sandboxes of a data directory that is on this host: processes but for `but`, directories, cgroups,
/// loop devices and mounts.
pub fn all(data_dir: &Path, but: Option<u32>) -> Vec<String> {
    let words = data_dir.display().to_string();
    let mut found: Vec<String> = processes_naming(&words)
        .into_iter()
        .filter(|pid| Some(*pid) != but)
        .map(|pid| format!("process {pid}: {}", command_of(pid)))
        .collect();
    let node = data_dir.join("node");
    for part in ["run", "pods", "workspaces"] {
        found.extend(entries(&node.join(part)).map(|path| format!("directory {}", path.display())));
    }
    let half_made = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "new");
    found.extend(entries(&node.join("templates")).filter(half_made).map(|path| format!("file {}", path.display())));
    found.extend(cgroups(data_dir).into_iter().map(|dir| format!("cgroup {}", dir.display())));
    found.extend(loop_devices(&words));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&words)).map(|line| format!("mount {line}")));
    found
}

/// Waits until nothing is left over.
///
/// # Errors
/// When something stays, naming it.
pub async fn none(data_dir: &Path, but: Option<u32>) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = all(data_dir, but);
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < until, "left over after {PATIENCE:?}:\n{}", left.join("\n"));
        sleep(PAUSE).await;
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn command_of(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Removes the cgroups of sandboxes whose processes were killed, and with them whoever could have removed them.
pub(crate) fn remove_cgroups(data_dir: &Path) {
    for dir in cgroups(data_dir) {
        for sandbox in entries(&dir).filter(|path| path.is_dir()) {
            let mut glances = 0;
            // The kernel takes a moment to let go of the killed.
            while std::fs::remove_dir(&sandbox).is_err() && sandbox.exists() && glances < GLANCES {
                glances += 1;
                std::thread::park_timeout(GLANCE);
            }
        }
        // What stays is another test's to find.
        std::fs::remove_dir(&dir).ok();
    }
}

/// Cgroups of a data directory's instance, in every hierarchy.
fn cgroups(data_dir: &Path) -> Vec<PathBuf> {
    let Ok(instance) = std::fs::read_to_string(data_dir.join("node/instance")) else { return Vec::new() };
    let instance = instance.trim();
    if instance.is_empty() {
        return Vec::new();
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let hierarchies =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let ours = hierarchies.map(|hierarchy| Path::new(hierarchy).join("mainstay").join(instance));
    ours.filter(|dir| dir.exists()).collect()
}

fn loop_devices(words: &str) -> Vec<String> {
    let backed = entries(Path::new("/sys/block")).filter_map(|device| {
        let file = std::fs::read_to_string(device.join("loop/backing_file")).ok()?;
        file.contains(words).then(|| format!("loop device {}: {}", device.display(), file.trim()))
    });
    backed.collect()
}
