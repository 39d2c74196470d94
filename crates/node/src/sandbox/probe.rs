//! What this host can enforce for this user: a Pod that asks for more is refused, and told what is missing.

use std::path::Path;

use mainstay_node_sys::paths::landlock_version;
use mainstay_node_sys::privileges::try_namespaces;

use super::namespaces;
use crate::cgroup;
use crate::launch::{Isolation, Limits};

/// What an ordinary user lacks, with what commonly forbids it.
const NO_USER_NAMESPACES: &str = "user namespaces for ordinary users (forbidden by \
     kernel.apparmor_restrict_unprivileged_userns, kernel.unprivileged_userns_clone, user.max_user_namespaces, or the \
     container that this runs in)";

/// What can be enforced here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// We are root.
    pub root: bool,
    /// This user may make user namespaces, and others in them.
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
    let installed = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].iter();
    Support {
        root,
        user_namespaces: try_namespaces(namespaces(Isolation::User)).is_ok(),
        controllers: cgroup::enforceable(root),
        landlock: landlock_version(),
        loop_devices: Path::new("/dev/loop-control").exists(),
        mkfs: installed.map(|dir| Path::new(dir).join("mkfs.ext4")).any(|path| path.exists()),
    }
}

impl Support {
    /// The isolation of this user's sandboxes. Where [`Support::missing`] names what it lacks, none is made: without
    /// isolation an agent could read all that this user can, the administrator's own key included.
    pub const fn isolation(&self) -> Isolation {
        if self.root { Isolation::Full } else { Isolation::User }
    }

    /// What is missing for a sandbox of that kind, in words; empty when it can be had.
    pub fn missing(&self, isolation: Isolation, limits: &Limits, keep: bool) -> Vec<String> {
        let mut missing = Vec::new();
        match isolation {
            Isolation::Full => {
                let needs = [
                    (self.root, "root"),
                    (self.user_namespaces, "user namespaces"),
                    (self.loop_devices, "loop devices (/dev/loop-control)"),
                    (self.mkfs, "mkfs.ext4"),
                ];
                missing.extend(needs.iter().filter(|(there, _)| !there).map(|(_, name)| (*name).to_owned()));
            }
            Isolation::User => {
                if !self.user_namespaces {
                    missing.push(NO_USER_NAMESPACES.into());
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

    #[test]
    fn a_user_without_user_namespaces_gets_no_sandbox_rather_than_one_without_isolation() {
        let none = Support {
            root: false,
            user_namespaces: false,
            controllers: Vec::new(),
            landlock: 0,
            loop_devices: false,
            mkfs: false,
        };
        assert_eq!(none.isolation(), Isolation::User);
        assert_eq!(none.missing(none.isolation(), &Limits::default(), false), [NO_USER_NAMESPACES]);
    }
}
