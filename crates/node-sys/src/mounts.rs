//! Attributes of mounts, for a whole tree at once.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What to forbid on a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forbid(u64);

impl Forbid {
    /// Set-user-id programs gain nothing, devices do not open.
    pub const PRIVILEGE: Self = Self(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);
    /// Nothing is written.
    pub const WRITING: Self = Self(libc::MOUNT_ATTR_RDONLY);
    /// Nothing is executed.
    pub const EXECUTION: Self = Self(libc::MOUNT_ATTR_NOEXEC);
    /// Set-user-id programs gain nothing; devices do open.
    pub const SET_UID: Self = Self(libc::MOUNT_ATTR_NOSUID);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Default)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Forbids things on the mount at `path`, and on all below it when `recursive`; what is forbidden already stays so.
///
/// # Errors
/// When `path` is not a mount, or the kernel refuses.
pub fn forbid(path: &Path, what: Forbid, recursive: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes { set: what.0, ..Attributes::default() };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<Attributes>();
    // SAFETY: both pointers are valid for the call, and the size is the structure's own.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, path.as_ptr(), flags, &raw const attributes, size)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
