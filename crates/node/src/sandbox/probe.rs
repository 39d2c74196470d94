//! What this host can enforce for this user: a Pod that asks for more is refused, and told what is missing.

use std::path::Path;

use mainstay_node_sys::paths::landlock_version;

use crate::cgroup;
use crate::launch::{Isolation, Limits};

/// What can be enforced here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// We are root.
    pub root: bool,
    /// An ordinary user may make user namespaces.
    pub user_namespaces: bool,
    /// Controllers that limits can be written to: of `memory`, `pids`, `cpu`.
    pub controllers: Vec<String>,
    /// The kernel's Landlock version; 0 is none.
    pub landlock: i32,
    /// Loop devices can be had.
    pub loop_devices: bool,
    /// `mkfs.ext4` is installed.
    pub mkfs: bool,
}

/// Looks at this host.
pub fn probe() -> Support {
    let root = rustix::process::geteuid().is_root();
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let refused = number("/proc/sys/user/max_user_namespaces").unwrap_or(0) == 0
        || number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0)
        || number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1);
    let installed = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].iter();
    Support {
        root,
        user_namespaces: !refused && Path::new("/proc/self/ns/user").exists(),
        controllers: cgroup::enforceable(root),
        landlock: landlock_version(),
        loop_devices: Path::new("/dev/loop-control").exists(),
        mkfs: installed.map(|dir| Path::new(dir).join("mkfs.ext4")).any(|path| path.exists()),
    }
}

impl Support {
    /// The strongest isolation there is.
    pub fn isolation(&self) -> Isolation {
        match (self.root, self.user_namespaces) {
            (true, _) => Isolation::Full,
            (false, true) => Isolation::User,
            (false, false) => Isolation::None,
        }
    }

    /// What is missing for a sandbox of that kind, in words; empty when it can be had.
    pub fn missing(&self, isolation: Isolation, limits: &Limits, keep: bool) -> Vec<String> {
        let mut missing = Vec::new();
        match isolation {
            Isolation::Full => {
                let needs = [
                    (self.root, "root"),
                    (self.loop_devices, "loop devices (/dev/loop-control)"),
                    (self.mkfs, "mkfs.ext4"),
                ];
                missing.extend(needs.iter().filter(|(there, _)| !there).map(|(_, name)| (*name).to_owned()));
            }
            Isolation::User => {
                if !self.user_namespaces {
                    missing.push("user namespaces for ordinary users".into());
                }
                if keep {
                    missing.push("a kept workspace (only as root)".into());
                }
            }
            Isolation::None => {}
        }
        let wanted = [
            (limits.memory_bytes.is_some(), "memory"),
            (limits.pids.is_some(), "pids"),
            (limits.cpu_millis.is_some(), "cpu"),
        ];
        let asked = wanted.iter().filter(|(asked, _)| *asked).map(|(_, name)| *name);
        let absent = asked.filter(|name| !self.controllers.iter().any(|held| held == name));
        missing.extend(absent.map(|name| format!("the {name} limit (no such cgroup controller for this user)")));
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let weak = Support {
            root: false,
            user_namespaces: true,
            controllers: vec!["pids".into()],
            landlock: 0,
            loop_devices: true,
            mkfs: true,
        };
        assert_eq!(weak.isolation(), Isolation::User);
        let limits = Limits { memory_bytes: Some(1), pids: Some(1), cpu_millis: None };
        assert!(weak.missing(Isolation::User, &Limits::default(), false).is_empty());
        let missing = weak.missing(Isolation::User, &limits, true).join("; ");
        assert!(missing.contains("kept") && missing.contains("memory") && !missing.contains("pids"), "{missing}");
        assert_eq!(weak.missing(Isolation::Full, &Limits::default(), false), ["root"]);
    }
}
