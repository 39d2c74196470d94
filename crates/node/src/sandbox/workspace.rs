//! The workspace: an ext4 file system in a sparse file, so that its size is a limit that the kernel keeps.
//!
//! The shim prepares the file by copying a template's few blocks of data, so that a start does not pay for mkfs. The
//! init process mounts it through a loop device within its own mount namespace: both go when the namespace goes.
//!
//! A workspace that does not outlive its sandbox has no journal and forces nothing to the disk: after a crash nobody
//! reads it, and a start waits for no other program's writes. One that is kept has both.
//!
//! Invariant: one mount at a time. The shim holds a lock on the workspace, and waits until no loop device has the file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mainstay_node_sys::loop_device::{LoopDevice, is_attached};
use mainstay_runtime::clock::boottime;
use rustix::event::{Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};

use super::{During, SandboxError};
use crate::launch::{Launch, PodRef, SessionRef};

const IMAGE: &str = "image.ext4";
const LOCK: &str = "lock";
const OWNER: &str = "owner.json";
/// The extension of a template that is being made.
const HALF_MADE: &str = "new";
/// How long an earlier sandbox's mount may take to go.
const RELEASE: Duration = Duration::from_secs(10);
/// Ids of one sandbox.
const RANGE: u32 = 65_536;

/// Whose workspace it is, beside the image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    pod: PodRef,
    session: Option<SessionRef>,
    uid_base: u32,
    size_bytes: u64,
}

/// A workspace that is ours while this lives.
#[derive(Debug)]
pub(crate) struct Held {
    _lock: File,
}

/// Has the image ready, and holds it. Runs in the shim.
pub(crate) fn prepare(launch: &Launch) -> Result<Held, SandboxError> {
    let workspace = &launch.workspace;
    DirBuilder::new().recursive(true).mode(0o700).create(&workspace.dir).during("make the workspace's directory")?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(workspace.dir.join(LOCK));
    let lock = lock.during("open the workspace's lock")?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).during("take the workspace, which another sandbox has")?;
    let image = workspace.dir.join(IMAGE);
    if image.exists() {
        wait_released(&image).during("wait for the workspace's last mount to go")?;
        let size = image.metadata().during("look at the workspace's image")?.len();
        if size != rounded(workspace.size_bytes) {
            let message = format!("the kept workspace has {size} bytes, and cannot become {}", workspace.size_bytes);
            return Err(SandboxError::Invalid(message));
        }
        return Ok(Held { _lock: lock });
    }
    let templates = templates_of(&workspace.dir);
    let template = template(&templates, workspace.size_bytes, workspace.keep)?;
    let temporary = workspace.dir.join("image.new");
    copy_sparse(&template, &temporary).during("copy the workspace's template")?;
    std::fs::rename(&temporary, &image).during("copy the workspace's template")?;
    Ok(Held { _lock: lock })
}

/// Mounts the image at `target` and has it belong to the sandbox. Runs in the init process, as root of the host.
pub(crate) fn attach(launch: &Launch, target: &Path, inside_id: u32) -> Result<(), SandboxError> {
    let dir = &launch.workspace.dir;
    let image = OpenOptions::new().read(true).write(true).open(dir.join(IMAGE)).during("open the workspace's image")?;
    let device = LoopDevice::attach(&image).during("attach the workspace to a loop device")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let options = if launch.workspace.keep { c"noinit_itable" } else { c"noinit_itable,nobarrier" };
    mount(device.path(), target, "ext4", flags, options).during("mount the workspace")?;
    let id = launch.uid_base + inside_id;
    match read_owner(dir) {
        None => {
            // Made by mkfs for root; a program that wants an empty directory would stumble over it.
            std::fs::remove_dir(target.join("lost+found")).ok();
            lchown(target, Some(id), Some(id)).during("give the workspace to the sandbox")?;
        }
        Some(owner) if owner.uid_base != launch.uid_base => {
            shift(target, owner.uid_base, launch.uid_base).during("give the workspace to the new run")?;
        }
        Some(_) => {}
    }
    let (pod, session, size_bytes) = (launch.pod.clone(), launch.session.clone(), launch.workspace.size_bytes);
    let owner = Owner { pod, session, uid_base: launch.uid_base, size_bytes };
    write_owner(dir, &owner).during("note the workspace's owner")
}

/// Removes a workspace that is not kept. Runs in the shim, when the sandbox has gone.
pub(crate) fn remove(launch: &Launch) {
    let dir = &launch.workspace.dir;
    // A kept one must be free before the next run, and may be asked for at once.
    wait_released(&dir.join(IMAGE)).ok();
    if !launch.workspace.keep {
        std::fs::remove_dir_all(dir).ok();
    }
}

fn read_owner(dir: &Path) -> Option<Owner> {
    serde_json::from_slice(&std::fs::read(dir.join(OWNER)).ok()?).ok()
}

fn write_owner(dir: &Path, owner: &Owner) -> io::Result<()> {
    let temporary = dir.join("owner.new");
    std::fs::write(&temporary, serde_json::to_vec(owner)?)?;
    std::fs::rename(temporary, dir.join(OWNER))
}

fn wait_released(image: &Path) -> io::Result<()> {
    let image = match image.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let until = boottime() + RELEASE;
    while is_attached(&image)? {
        if boottime() > until {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        poll(&mut [], Timespec::try_from(Duration::from_millis(2)).ok().as_ref()).ok();
    }
    Ok(())
}

/// Gives every file of one range of ids to another.
fn shift(dir: &Path, from: u32, to: u32) -> io::Result<()> {
    let moved = |id: u32| id.checked_sub(from).filter(|offset| *offset < RANGE).map(|offset| to + offset);
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let found = path.symlink_metadata()?;
        lchown(&path, moved(found.uid()), moved(found.gid()))?;
        if found.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        } else if !found.is_symlink() {
            // Changing the owner clears these bits.
            std::fs::set_permissions(&path, found.permissions())?;
        }
    }
    Ok(())
}

/// `DIR/node/templates`, from `DIR/node/workspaces/KEY`.
fn templates_of(workspace: &Path) -> PathBuf {
    let node = workspace.parent().and_then(Path::parent).unwrap_or(workspace);
    node.join("templates")
}

/// Whole blocks only.
const fn rounded(size: u64) -> u64 {
    size.next_multiple_of(4096)
}

/// An empty file system of `size` bytes in `dir`, for workspaces that are kept or not, made if it is not there yet.
/// Whoever expects sandboxes of a size can call this ahead of them.
///
/// # Errors
/// When `mkfs.ext4` is missing or fails.
pub fn template(dir: &Path, size: u64, keep: bool) -> Result<PathBuf, SandboxError> {
    let size = rounded(size);
    let kind = if keep { "kept" } else { "scratch" };
    let path = dir.join(format!("{size}.{kind}.ext4"));
    if path.exists() {
        return Ok(path);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).during("make the templates' directory")?;
    let _one_at_a_time = lock_templates(dir, FlockOperation::LockExclusive).during("lock the templates")?;
    remove_half_made(dir).during("remove half-made templates")?;
    if path.exists() {
        return Ok(path);
    }
    // An mkfs whose maker was killed may be about to open its own; so this name is new.
    let temporary = dir.join(format!("{size}.{kind}.{}.{HALF_MADE}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    file.and_then(|file| file.set_len(size)).during("make a workspace template")?;
    // The file is all holes: nothing need be zeroed, now or by the kernel later.
    let options = "assume_storage_prezeroed=1,nodiscard,lazy_itable_init=0,lazy_journal_init=0";
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    mkfs.args(["-q", "-F", "-m", "0", "-E", options]);
    // It never grows; what is left out need not be copied at each start.
    mkfs.args(["-O", if keep { "^resize_inode" } else { "^resize_inode,^has_journal" }]);
    if keep && size >= 64 << 20 {
        mkfs.args(["-J", "size=4"]);
    }
    mkfs.arg(&temporary).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let made = mkfs.output().during("run mkfs.ext4")?;
    if !made.status.success() {
        std::fs::remove_file(&temporary).ok();
        let words = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        return Err(SandboxError::Reported(format!("mkfs.ext4 failed: {words}")));
    }
    std::fs::rename(&temporary, &path).during("make a workspace template")?;
    Ok(path)
}

/// Removes what is left in `dir` of templates whose maker was killed, unless one is being made, whose maker does so.
///
/// # Errors
/// When the directory cannot be read or changed.
pub fn tidy_templates(dir: &Path) -> io::Result<()> {
    match lock_templates(dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(_one_at_a_time) => remove_half_made(dir),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whoever holds it makes templates; nobody else does.
fn lock_templates(dir: &Path, how: FlockOperation) -> io::Result<File> {
    let lock = File::open(dir)?;
    loop {
        match flock(&lock, how) {
            Err(rustix::io::Errno::INTR) => {}
            locked => return Ok(locked.map(|()| lock)?),
        }
    }
}

fn remove_half_made(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == HALF_MADE) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Copies a file's data and leaves its holes.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(data))?;
        source.seek(SeekFrom::Start(data))?;
        target.seek(SeekFrom::Start(data))?;
        io::copy(&mut io::Read::take(&mut source, hole - data), &mut target)?;
        at = hole;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_maker_left_of_a_template_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (half, whole) = (dir.path().join("4096.kept.new"), dir.path().join("4096.kept.ext4"));
        tidy_templates(&dir.path().join("absent")).unwrap();
        for path in [&half, &whole] {
            std::fs::write(path, "").unwrap();
        }
        let at_work = lock_templates(dir.path(), FlockOperation::LockExclusive).unwrap();
        tidy_templates(dir.path()).unwrap();
        assert!(half.exists(), "one that is being made stays");
        drop(at_work);
        tidy_templates(dir.path()).unwrap();
        assert!(!half.exists() && whole.exists());
    }
}
