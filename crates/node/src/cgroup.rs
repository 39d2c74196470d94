//! Cgroups: limits that the kernel keeps, and counts that it takes, on v1, v2 and hybrid hosts.
//!
//! A sandbox gets `mainstay/INSTANCE/POD_UID` right below the root of each hierarchy that it needs, outside of the
//! control plane's own cgroup: neither the service's limits nor its end touch a sandbox. An ordinary user gets the same
//! below the directory that was delegated to it, or no limits.

mod hierarchy;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_runtime::clock::boottime;
use rustix::event::{Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use self::hierarchy::{Hierarchy, Version, mounted, own};
use crate::launch::Limits;
use crate::sandbox::{During, SandboxError};

/// The directory of all of ours, and where shims stay.
const TOP: &str = "mainstay";
const SHIMS: &str = "mainstay/shims";
/// The period of CPU limits, in microseconds.
const PERIOD: u64 = 100_000;
/// How often a directory is made anew because another sandbox's end took the one above.
const ATTEMPTS: u32 = 100;
/// How long the kernel may take to let go of an emptied cgroup.
const REMOVAL: Duration = Duration::from_secs(5);

/// One sandbox's cgroups.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    dirs: Vec<(PathBuf, Version)>,
    in_force: Vec<String>,
}

/// The limits that are asked for: controller, how it is written in v1 and in v2.
fn wanted(limits: &Limits) -> Vec<Limit> {
    let mut wanted = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        let value = bytes.to_string();
        let v1 =
            vec![("memory.limit_in_bytes", value.clone(), true), ("memory.memsw.limit_in_bytes", value.clone(), false)];
        let v2 = vec![("memory.max", value, true), ("memory.swap.max", "0".into(), false)];
        wanted.push(Limit { controller: "memory", v1, v2 });
    }
    if let Some(pids) = limits.pids {
        let file = vec![("pids.max", pids.to_string(), true)];
        wanted.push(Limit { controller: "pids", v1: file.clone(), v2: file });
    }
    if let Some(millis) = limits.cpu_millis {
        let quota = (millis * (PERIOD / 1000)).max(1000);
        let v1 = vec![("cpu.cfs_period_us", PERIOD.to_string(), true), ("cpu.cfs_quota_us", quota.to_string(), true)];
        wanted.push(Limit { controller: "cpu", v1, v2: vec![("cpu.max", format!("{quota} {PERIOD}"), true)] });
    }
    wanted
}

/// Files to write (name, value, whether it must exist).
type Files = Vec<(&'static str, String, bool)>;

#[derive(Debug)]
struct Limit {
    controller: &'static str,
    v1: Files,
    v2: Files,
}

/// The controllers that a sandbox of this user can be limited with.
pub(crate) fn enforceable(root: bool) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for hierarchy in parents(root) {
        found.extend(
            hierarchy.controllers.iter().filter(|name| ["memory", "pids", "cpu"].contains(&name.as_str())).cloned(),
        );
    }
    found
}

/// The directories below which a sandbox's cgroups are made.
fn parents(root: bool) -> Vec<Hierarchy> {
    if root { mounted().unwrap_or_default() } else { hierarchy::delegated().into_iter().collect() }
}

/// A sandbox's directory below each of them.
fn name_of(instance: &str, pod_uid: &str) -> PathBuf {
    Path::new(TOP).join(instance).join(pod_uid)
}

/// Those of this process's user.
fn own_parents() -> Vec<Hierarchy> {
    parents(rustix::process::geteuid().is_root())
}

impl Cgroups {
    /// Makes the cgroups of one sandbox and writes its limits. With `root`, always with the memory controller, if
    /// there is one, since it also counts kills.
    pub(crate) fn create(instance: &str, pod_uid: &str, limits: &Limits, root: bool) -> Result<Self, SandboxError> {
        Self::create_below(&parents(root), &name_of(instance, pod_uid), limits, root)
    }

    fn create_below(parents: &[Hierarchy], name: &Path, limits: &Limits, root: bool) -> Result<Self, SandboxError> {
        let mut cgroups = Self::default();
        for limit in wanted(limits) {
            let Some(parent) = parents.iter().find(|parent| parent.controls(limit.controller)) else {
                cgroups.remove();
                return Err(SandboxError::Unsupported(format!(
                    "limits: no {} controller is there for us",
                    limit.controller
                )));
            };
            if let Err(error) = cgroups.limit(parent, name, &limit) {
                cgroups.remove();
                return Err(error).during(format!("limit {}", limit.controller));
            }
            cgroups.in_force.push(format!("limits:{}", limit.controller));
        }
        let counting = parents.iter().find(|parent| root && parent.controls("memory"));
        if let Some(parent) = counting
            && let Err(error) = cgroups.directory(parent, name, "memory")
        {
            cgroups.remove();
            return Err(error).during("make a memory cgroup");
        }
        Ok(cgroups)
    }

    fn limit(&mut self, parent: &Hierarchy, name: &Path, limit: &Limit) -> io::Result<()> {
        let dir = self.directory(parent, name, limit.controller)?;
        let files = match parent.version {
            Version::V1 => &limit.v1,
            Version::V2 => &limit.v2,
        };
        for (file, value, required) in files {
            match std::fs::write(dir.join(file), value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {}
                written => written?,
            }
        }
        Ok(())
    }

    /// The sandbox's directory in a hierarchy, made if need be, with `controller` acting there.
    fn directory(&mut self, parent: &Hierarchy, name: &Path, controller: &str) -> io::Result<PathBuf> {
        let dir = parent.dir.join(name);
        let enabled = || match parent.version {
            Version::V1 => Ok(()),
            Version::V2 => hierarchy::enable(&parent.dir, name, controller),
        };
        if self.dirs.iter().any(|(made, _)| *made == dir) {
            enabled()?;
            return Ok(dir);
        }
        let above = dir.parent().unwrap_or(&dir);
        let mut attempt = 0;
        loop {
            attempt += 1;
            // The directory above goes with the last sandbox in it, and may have gone just now: if it goes between
            // two steps of `create_dir_all`, that says that it exists.
            let gone = |error: &io::Error, kinds: &[io::ErrorKind]| attempt < ATTEMPTS && kinds.contains(&error.kind());
            match std::fs::create_dir_all(above) {
                Err(error) if gone(&error, &[io::ErrorKind::NotFound, io::ErrorKind::AlreadyExists]) => continue,
                made => made?,
            }
            match enabled().and_then(|()| std::fs::create_dir(&dir)) {
                Err(error) if gone(&error, &[io::ErrorKind::NotFound]) => {}
                made => break made?,
            }
        }
        self.dirs.push((dir.clone(), parent.version));
        Ok(dir)
    }

    /// What is limited, in words.
    pub(crate) fn in_force(&self) -> &[String] {
        &self.in_force
    }

    /// The directories.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|(dir, _)| dir.clone()).collect()
    }

    /// Moves a process in.
    pub(crate) fn add(&self, pid: Pid) -> io::Result<()> {
        self.dirs.iter().try_for_each(|(dir, _)| join(dir, pid))
    }

    /// How many processes the kernel has killed here for want of memory.
    pub(crate) fn out_of_memory(&self) -> u64 {
        let counts = self.dirs.iter().map(|(dir, version)| {
            let file = match version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
            let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
        });
        counts.max().unwrap_or(0)
    }

    /// Kills what is left in them and removes them.
    pub(crate) fn remove(&self) {
        remove_all(&self.paths()).ok();
    }
}

fn join(dir: &Path, pid: Pid) -> io::Result<()> {
    std::fs::write(dir.join("cgroup.procs"), pid.to_string())
}

/// Kills every process in `dirs` and removes them. For what a shim has left behind, too.
///
/// # Errors
/// When one of them does not become empty in time.
pub fn remove_all(dirs: &[PathBuf]) -> io::Result<()> {
    let until = boottime() + REMOVAL;
    for dir in dirs {
        loop {
            match std::fs::remove_dir(dir) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if boottime() > until => return Err(error),
                Err(_) => kill_in(dir),
            }
            // Nothing tells when a cgroup has become empty in every version.
            poll(&mut [], Timespec::try_from(Duration::from_millis(2)).ok().as_ref()).ok();
        }
        // The instance's directory, if this was its last sandbox.
        let instance = dir.parent().filter(|above| above.parent().is_some_and(|top| top.ends_with(TOP)));
        instance.map(std::fs::remove_dir);
    }
    Ok(())
}

fn kill_in(dir: &Path) {
    let members = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        kill_process(pid, Signal::KILL).ok();
    }
}

/// Removes the directories of `instance` in which no sandbox's is: a shim that was killed between making the one and the
/// other leaves it so. A shim that is between the two now makes it anew.
pub fn remove_empty(instance: &str) {
    for hierarchy in own_parents() {
        std::fs::remove_dir(hierarchy.dir.join(TOP).join(instance)).ok();
    }
}

/// Cgroup directories of `instance` on this host: what is left of sandboxes nobody knows any more shows here.
pub fn of_instance(instance: &str) -> Vec<(String, PathBuf)> {
    below(&own_parents(), instance)
}

fn below(parents: &[Hierarchy], instance: &str) -> Vec<(String, PathBuf)> {
    let tops = parents.iter().map(|hierarchy| hierarchy.dir.join(TOP).join(instance));
    let entries = tops.filter_map(|top| std::fs::read_dir(top).ok()).flatten().filter_map(Result::ok);
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

/// Moves the calling shim out of the control plane's own cgroups, wherever those are not the roots, so that ending the
/// service does not end it, and its memory is not the service's.
pub(crate) fn leave_service() -> io::Result<()> {
    let own = own()?;
    for hierarchy in mounted()? {
        let inside = hierarchy.place_in(&own).unwrap_or("/");
        if inside == "/" || Path::new(inside).starts_with(Path::new("/").join(TOP)) {
            continue;
        }
        let dir = hierarchy.dir.join(SHIMS);
        std::fs::create_dir_all(&dir)?;
        join(&dir, rustix::process::getpid())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_come_and_go_below_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { dir: dir.path().to_owned(), version: Version::V1, controllers: Vec::new() };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let hierarchy = &hierarchy;
                scope.spawn(move || {
                    for number in 0..500 {
                        let name = Path::new(TOP).join("instance").join(format!("{thread}-{number}"));
                        let mut cgroups = Cgroups::default();
                        let made = cgroups.directory(hierarchy, &name, "pids").unwrap();
                        assert!(cgroups.directory(hierarchy, &name, "cpu").unwrap() == made && made.is_dir());
                        cgroups.remove();
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(dir.path().join(TOP)).unwrap().count(), 0);
    }

    #[test]
    fn what_an_ordinary_users_sandbox_left_is_found_too() {
        let dir = tempfile::tempdir().unwrap();
        let delegated =
            [Hierarchy { dir: dir.path().to_owned(), version: Version::V1, controllers: vec!["pids".to_owned()] }];
        let limits = Limits { pids: Some(9), ..Limits::default() };
        let made = Cgroups::create_below(&delegated, &name_of("instance", "pod"), &limits, false).unwrap();
        let [cgroup] = made.paths().try_into().unwrap();
        assert_eq!(std::fs::read_to_string(cgroup.join("pids.max")).unwrap(), "9");
        assert_eq!(below(&delegated, "instance"), [("pod".to_owned(), cgroup)]);
        assert!(below(&delegated, "another").is_empty());
    }

    #[test]
    fn limits_are_written_in_each_versions_words() {
        let limits = Limits { cpu_millis: Some(1500), memory_bytes: Some(64 << 20), pids: Some(100) };
        let wanted = wanted(&limits);
        let names: Vec<_> = wanted.iter().map(|limit| limit.controller).collect();
        assert_eq!(names, ["memory", "pids", "cpu"]);
        assert_eq!(wanted[2].v2[0].1, "150000 100000");
        assert_eq!(wanted[2].v1[1], ("cpu.cfs_quota_us", "150000".to_owned(), true));
    }
}
