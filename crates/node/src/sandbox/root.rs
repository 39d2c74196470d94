//! The file system that a sandbox sees: an allow-list, built on an empty tmpfs.
//!
//! | path | what |
//! |---|---|
//! | `/usr /opt /bin /sbin /lib*` | the host's, read-only; symbolic links stay such |
//! | `/etc` | made up, with the host's certificates and linker configuration |
//! | `/dev` | seven devices, `shm`, descriptors |
//! | `/proc` | of the sandbox's own processes; the host's knobs masked |
//! | `/tmp`, `/dev/shm` | private, of a bounded size |
//! | `/workspace` (as the launch says) | the workspace |
//! | `/mainstay` | socket and token directories, credentials, files |
//!
//! Nothing else: no `/run`, `/var`, `/home`, `/root`, `/srv`, `/mnt`, `/sys`, and none of the host's sockets.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use mainstay_node_sys::mounts::{Forbid, forbid};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::pivot_root;

use super::{During, SandboxError, etc, files, hostname};
use crate::launch::Launch;

/// Looked for on the host; each is there or not.
const SYSTEM: &[&str] = &["usr", "opt", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];
/// Files of the kernel that tell of, or act on, more than the sandbox.
const MASKED_FILES: &[&str] =
    &["kcore", "keys", "key-users", "sysrq-trigger", "timer_list", "sched_debug", "latency_stats"];
const MASKED_DIRS: &[&str] = &["acpi", "scsi", "asound"];
const READ_ONLY_DIRS: &[&str] = &["sys", "irq", "bus", "fs"];
const TMP_SIZE: u64 = 512 << 20;
const SHM_SIZE: u64 = 64 << 20;

/// The tree while it is built.
pub(super) struct Root<'a> {
    launch: &'a Launch,
    dir: &'a Path,
    owner: u32,
}

impl<'a> Root<'a> {
    /// An empty tree over the run directory, in a mount namespace that the host no longer sees; what belongs to the
    /// sandbox's user gets `owner`.
    pub(super) fn new(launch: &'a Launch, owner: u32) -> Result<Self, SandboxError> {
        let recursive = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", recursive).during("make the mounts private")?;
        let dir = launch.run_dir.as_path();
        let root = Self { launch, dir, owner };
        root.tmpfs("", "mode=0755,size=32m,nr_inodes=16k").during("mount the root")?;
        Ok(root)
    }

    /// Everything but the workspace, for which it makes the directory.
    pub(super) fn fill(&self) -> Result<(), SandboxError> {
        for name in SYSTEM {
            self.system(name).during(format!("bind /{name}"))?;
        }
        etc::write(&self.dir.join("etc"), hostname(&self.launch.pod.name)).during("make up /etc")?;
        self.bind_etc().during("bind parts of /etc")?;
        self.devices().during("make /dev")?;
        self.proc().during("mount /proc")?;
        self.private_tmpfs("tmp", TMP_SIZE).during("mount /tmp")?;
        self.private_tmpfs("dev/shm", SHM_SIZE).during("mount /dev/shm")?;
        self.mainstay()?;
        let workspace = self.workspace()?;
        DirBuilder::new().recursive(true).mode(0o755).create(&workspace).during("make the workspace's mount point")
    }

    /// Where the workspace is to be mounted.
    pub(super) fn workspace(&self) -> Result<PathBuf, SandboxError> {
        let mount = Path::new(&self.launch.workspace.mount);
        let inside = mount.strip_prefix("/").ok().filter(|inside| {
            let plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
            let first = inside.components().next().and_then(|part| part.as_os_str().to_str());
            let taken = ["etc", "dev", "proc", "tmp", "sys", "mainstay"];
            plain && first.is_some_and(|first| !SYSTEM.contains(&first) && !taken.contains(&first))
        });
        let inside =
            inside.ok_or_else(|| SandboxError::Invalid(format!("no workspace can be at {}", mount.display())))?;
        Ok(self.dir.join(inside))
    }

    /// A workspace in memory, for who may not mount an image.
    pub(super) fn workspace_in_memory(&self) -> Result<(), SandboxError> {
        let target = self.workspace()?;
        let options = format!("mode=0755,size={}", self.launch.workspace.size_bytes);
        let inside = target.strip_prefix(self.dir).unwrap_or(&target).to_owned();
        self.tmpfs(&inside.to_string_lossy(), &options).during("mount the workspace")?;
        chown(&target, Some(self.owner), Some(self.owner)).during("give the workspace to the sandbox")
    }

    /// Makes the tree the root of this process, and of nothing else.
    pub(super) fn enter(self) -> Result<(), SandboxError> {
        std::env::set_current_dir(self.dir).during("enter the root")?;
        pivot_root(".", ".").during("enter the root")?;
        unmount(".", UnmountFlags::DETACH).during("let go of the host's root")?;
        std::env::set_current_dir("/").during("enter the root")?;
        forbid(Path::new("/"), Forbid::WRITING.and(Forbid::PRIVILEGE), false).during("make the root read-only")
    }

    fn tmpfs(&self, inside: &str, options: &str) -> io::Result<()> {
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(mount("tmpfs", self.dir.join(inside), "tmpfs", flags, options.as_c_str())?)
    }

    fn private_tmpfs(&self, inside: &str, size: u64) -> io::Result<()> {
        self.directory(inside)?;
        self.tmpfs(inside, &format!("mode=1777,size={size}"))
    }

    fn directory(&self, inside: &str) -> io::Result<PathBuf> {
        let dir = self.dir.join(inside);
        DirBuilder::new().recursive(true).mode(0o755).create(&dir)?;
        Ok(dir)
    }

    fn system(&self, name: &str) -> io::Result<()> {
        let source = Path::new("/").join(name);
        let Ok(found) = source.symlink_metadata() else { return Ok(()) };
        if found.is_symlink() {
            return symlink(std::fs::read_link(&source)?, self.dir.join(name));
        }
        if found.is_dir() {
            self.bind_read_only(&source, &self.directory(name)?, Forbid::default())?;
        }
        Ok(())
    }

    fn bind_read_only(&self, source: &Path, target: &Path, also: Forbid) -> io::Result<()> {
        debug_assert!(target.starts_with(self.dir), "only below the new root");
        mount_bind_recursive(source, target)?;
        forbid(target, Forbid::WRITING.and(Forbid::PRIVILEGE).and(also), true)
    }

    fn bind_etc(&self) -> io::Result<()> {
        for name in etc::BOUND {
            let source = Path::new("/etc").join(name);
            let Ok(found) = source.metadata() else { continue };
            let target = self.dir.join("etc").join(name);
            if found.is_dir() {
                DirBuilder::new().recursive(true).mode(0o755).create(&target)?;
            } else {
                target.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                File::create(&target)?;
            }
            self.bind_read_only(&source, &target, Forbid::EXECUTION)?;
        }
        Ok(())
    }

    fn devices(&self) -> io::Result<()> {
        let dev = self.directory("dev")?;
        for name in DEVICES {
            File::create(dev.join(name))?;
            mount_bind(Path::new("/dev").join(name), dev.join(name))?;
            forbid(&dev.join(name), Forbid::SET_UID.and(Forbid::EXECUTION), false)?;
        }
        let links = [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")];
        links.iter().try_for_each(|(name, to)| symlink(to, dev.join(name)))
    }

    fn proc(&self) -> io::Result<()> {
        let proc = self.directory("proc")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", &proc, "proc", flags, c"hidepid=2")?;
        for name in MASKED_FILES.iter().map(|name| proc.join(name)).filter(|file| file.exists()) {
            mount_bind("/dev/null", name)?;
        }
        for dir in MASKED_DIRS.iter().map(|name| proc.join(name)).filter(|dir| dir.exists()) {
            mount("tmpfs", &dir, "tmpfs", flags | MountFlags::RDONLY, c"size=4k,nr_inodes=2")?;
        }
        for dir in READ_ONLY_DIRS.iter().map(|name| proc.join(name)).filter(|dir| dir.exists()) {
            mount_bind(&dir, &dir)?;
            forbid(&dir, Forbid::WRITING, false)?;
        }
        Ok(())
    }

    fn mainstay(&self) -> Result<(), SandboxError> {
        let top = self.directory("mainstay").during("make /mainstay")?;
        for name in ["credentials", "files"] {
            self.directory(&format!("mainstay/{name}")).during("make /mainstay")?;
        }
        files::write(&self.launch.files, &top, Some(self.owner))?;
        for (source, name) in [(&self.launch.sock_dir, "run"), (&self.launch.token_dir, "token")] {
            let target = self.directory(&format!("mainstay/{name}")).during("make /mainstay")?;
            if !source.is_dir() {
                continue;
            }
            self.bind_read_only(source, &target, Forbid::EXECUTION).during(format!("bind /mainstay/{name}"))?;
        }
        std::fs::set_permissions(&top, Permissions::from_mode(0o755)).during("make /mainstay")
    }
}
