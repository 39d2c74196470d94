//! Which hierarchies this host mounts, and which part of them is ours to use.

use std::io;
use std::path::{Path, PathBuf};

/// The interface of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified one.
    V2,
}

/// A hierarchy, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Its directory.
    pub(super) dir: PathBuf,
    /// Its interface.
    pub(super) version: Version,
    /// What it controls there; a named v1 hierarchy has its name (`name=systemd`), an empty unified one nothing.
    pub(super) controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it has this controller.
    pub(super) fn controls(&self, controller: &str) -> bool {
        self.controllers.iter().any(|held| held == controller)
    }

    /// Where a process is in this hierarchy, of the places that [`own`] tells.
    pub(super) fn place_in<'a>(&self, own: &'a [(Vec<String>, String)]) -> Option<&'a str> {
        let same = |names: &[String]| match self.version {
            Version::V1 => names.len() == self.controllers.len() && names.iter().all(|name| self.controls(name)),
            Version::V2 => names.is_empty(),
        };
        own.iter().find(|(names, _)| same(names)).map(|(_, path)| path.as_str())
    }
}

/// All hierarchies of this host whose root is mounted.
pub(super) fn mounted() -> io::Result<Vec<Hierarchy>> {
    Ok(parse_mounts(&std::fs::read_to_string("/proc/self/mountinfo")?, |dir| {
        std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default()
    }))
}

fn parse_mounts(text: &str, controllers_of: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let (Some(root), Some(dir)) = (mount.split(' ').nth(3), mount.split(' ').nth(4)) else { continue };
        let (Some(kind), Some(options)) = (source.split(' ').next(), source.split(' ').nth(2)) else { continue };
        let dir = PathBuf::from(dir);
        if root != "/" || found.iter().any(|known| known.dir == dir) {
            continue;
        }
        match kind {
            "cgroup" => {
                let plain = ["rw", "ro", "xattr", "noprefix", "clone_children", "none"];
                let named = |option: &&str| !plain.contains(option) && !option.starts_with("release_agent=");
                let controllers = options.split(',').filter(named).map(str::to_owned).collect();
                found.push(Hierarchy { dir, version: Version::V1, controllers });
            }
            "cgroup2" => {
                let controllers = controllers_of(&dir).split_whitespace().map(str::to_owned).collect();
                found.push(Hierarchy { dir, version: Version::V2, controllers });
            }
            _ => {}
        }
    }
    found
}

/// Where this process is: controllers of each hierarchy (none for the unified one) and path within it.
pub(super) fn own() -> io::Result<Vec<(Vec<String>, String)>> {
    Ok(parse_own(&std::fs::read_to_string("/proc/self/cgroup")?))
}

fn parse_own(text: &str) -> Vec<(Vec<String>, String)> {
    let split = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let named = |names: &str| names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    split.map(|(controllers, path)| (named(controllers), path.to_owned())).collect()
}

/// Has `controller` act on the children of each directory from `top` down to the parent of `top/name`.
pub(super) fn enable(top: &Path, name: &Path, controller: &str) -> io::Result<()> {
    let above: Vec<_> = name.ancestors().skip(1).map(|part| top.join(part)).collect();
    for dir in above.iter().rev() {
        let file = dir.join("cgroup.subtree_control");
        let enabled = std::fs::read_to_string(&file)?;
        if !enabled.split_whitespace().any(|held| held == controller) {
            std::fs::write(&file, format!("+{controller}"))?;
        }
    }
    Ok(())
}

/// The part of the unified hierarchy that was delegated to this user.
pub(super) fn delegated() -> Option<Hierarchy> {
    let unified = mounted().ok()?.into_iter().find(|hierarchy| hierarchy.version == Version::V2)?;
    let (_, inside) = own().ok()?.into_iter().find(|(controllers, _)| controllers.is_empty())?;
    delegated_above(&unified.dir, &inside, |path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok())
}

/// The nearest directory above our own, `inside`, where we may make others, with what acts on those.
fn delegated_above(unified: &Path, inside: &str, writable: impl Fn(&Path) -> bool) -> Option<Hierarchy> {
    let own = unified.join(inside.trim_start_matches('/'));
    let above = own.ancestors().skip(1).take_while(|dir| dir.starts_with(unified));
    above.map(Path::to_owned).find_map(|dir| {
        let enabled = std::fs::read_to_string(dir.join("cgroup.subtree_control")).ok()?;
        let ours = writable(&dir) && writable(&dir.join("cgroup.procs"));
        let controllers: Vec<_> = enabled.split_whitespace().map(str::to_owned).collect();
        (ours && !controllers.is_empty()).then_some(Hierarchy { dir, version: Version::V2, controllers })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_are_read() {
        let text = "\
24 1 0:21 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
25 1 0:22 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
26 1 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
27 1 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
28 1 0:21 /docker/x /other rw - cgroup cgroup rw,memory
29 1 0:25 / /proc rw - proc proc rw";
        let found = parse_mounts(text, |_| "hugetlb\n".into());
        let short: Vec<_> = found.iter().map(|held| (held.version, held.controllers.join(","))).collect();
        let (v1, v2) = (Version::V1, Version::V2);
        let wanted = [(v1, "memory"), (v1, "cpu,cpuacct"), (v1, "name=systemd"), (v2, "hugetlb")];
        assert_eq!(short, wanted.map(|(version, names)| (version, names.to_owned())));
        let own = parse_own("4:memory:/a\n3:cpuacct,cpu:/b\n1:name=systemd:/system.slice/c.service\n0::/d:e\n");
        let places: Vec<_> = found.iter().map(|held| held.place_in(&own).unwrap()).collect();
        assert_eq!(places, ["/a", "/b", "/system.slice/c.service", "/d:e"]);
    }
    #[test]
    fn unified_hosts_are_read() {
        let text = "\
23 1 0:20 / /sys rw,nosuid - sysfs sysfs rw
30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
        let found = parse_mounts(text, |dir| {
            assert_eq!(dir, Path::new("/sys/fs/cgroup"));
            "cpuset cpu io memory hugetlb pids rdma misc\n".into()
        });
        assert_eq!(found.len(), 1);
        assert!(["memory", "pids", "cpu"].iter().all(|name| found[0].controls(name)));
        let own = parse_own("0::/system.slice/mainstay.service\n");
        assert_eq!(found[0].place_in(&own), Some("/system.slice/mainstay.service"));
    }

    #[test]
    fn a_controller_is_enabled_on_the_way_down_where_it_is_not() {
        let top = tempfile::tempdir().unwrap();
        let levels = [("", "cpu memory\n"), ("mainstay", ""), ("mainstay/i", "pids\n")];
        for (dir, enabled) in levels {
            std::fs::create_dir_all(top.path().join(dir)).unwrap();
            std::fs::write(top.path().join(dir).join("cgroup.subtree_control"), enabled).unwrap();
        }
        enable(top.path(), Path::new("mainstay/i/pod"), "memory").unwrap();
        let now = levels
            .map(|(dir, _)| std::fs::read_to_string(top.path().join(dir).join("cgroup.subtree_control")).unwrap());
        assert_eq!(now, ["cpu memory\n", "+memory", "+memory"]);
    }

    #[test]
    fn a_users_part_is_the_nearest_that_is_writable_and_has_controllers() {
        let top = tempfile::tempdir().unwrap();
        let user = "user.slice/user-1000.slice/user@1000.service";
        let levels = [("", "cpu memory pids"), (user, "memory pids"), (&format!("{user}/app.slice"), "")];
        for (dir, enabled) in levels {
            std::fs::create_dir_all(top.path().join(dir)).unwrap();
            std::fs::write(top.path().join(dir).join("cgroup.subtree_control"), enabled).unwrap();
        }
        let theirs = top.path().join(user);
        let find = |inside: &str| delegated_above(top.path(), inside, |path| path.starts_with(&theirs));
        let found = find(&format!("/{user}/app.slice/demo.scope")).unwrap();
        assert_eq!((found.dir.as_path(), found.controllers.join(" ").as_str()), (theirs.as_path(), "memory pids"));
        assert_eq!(find("/user.slice/user-1000.slice/session-1.scope"), None, "a login session has no part of its own");
    }
}
