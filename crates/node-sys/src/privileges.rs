//! Namespaces entered late, identities taken, and privileges given up for good.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// A namespace that the calling process moves into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Its cgroups become the roots that it sees.
    Cgroup,
    /// User and group ids of its own; without maps at first.
    User,
}

/// Moves the calling, single-threaded process into a new namespace.
///
/// # Errors
/// When the process has more than one thread, or the kernel refuses.
pub fn enter_new(namespace: Namespace) -> io::Result<()> {
    crate::process::require_single_thread()?;
    let flags = match namespace {
        Namespace::Cgroup => UnshareFlags::NEWCGROUP,
        Namespace::User => UnshareFlags::NEWUSER,
    };
    // SAFETY: neither flag unshares descriptors or memory.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Whether the calling user may make these namespaces (`CLONE_NEW*`, with those of users and of the host's name among
/// them) and has power in them. Tried in a child process that executes nothing, since no setting tells of all that can
/// forbid it.
///
/// # Errors
/// Why not.
pub fn try_namespaces(flags: i32) -> io::Result<()> {
    const DONE: i32 = libc::ECANCELED;
    let attempt = move || {
        // SAFETY: a plain system call, in a process with one thread that is about to end.
        if unsafe { libc::unshare(flags) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // Some hosts let everyone make a user namespace, and give no capability there.
        rustix::system::sethostname(b"probe")?;
        // Nothing is executed after an error.
        Err(io::Error::from_raw_os_error(DONE))
    };
    let mut command = Command::new("/");
    // SAFETY: the closure only makes system calls; it neither allocates nor takes locks.
    unsafe { command.pre_exec(attempt) };
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(DONE) => Ok(()),
        Err(error) => Err(error),
        Ok(mut child) => child.wait().map(drop),
    }
}

/// Becomes user and group `id`; without any supplementary group, if `may_set_groups`.
///
/// # Errors
/// When the process has more than one thread, or the kernel refuses.
pub fn become_user(id: u32, may_set_groups: bool) -> io::Result<()> {
    crate::process::require_single_thread()?;
    if may_set_groups {
        set_thread_groups(&[])?;
    }
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Gives up, for this process and all that it ever executes, the chance to gain capabilities. Comes before the change
/// of user, which needs some and leaves none to do this with.
///
/// # Errors
/// When the kernel refuses.
pub fn gain_no_capabilities() -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    for number in 0..64 {
        // The kernel knows fewer than 64; the first that it does not know ends the list.
        // SAFETY: a plain system call.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        if dropped != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Gives up every capability.
///
/// # Errors
/// When the kernel refuses.
pub fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// No core dumps, and a bounded number of descriptors.
///
/// # Errors
/// When the kernel refuses.
pub fn limit_resources(descriptors: u64) -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let highest = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(descriptors);
    setrlimit(Resource::Nofile, Rlimit { current: Some(highest), maximum: Some(highest) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_tried_in_a_process_of_its_own() {
        let name = || rustix::system::uname().nodename().to_owned();
        let before = name();
        // Whether they can be had depends on who runs this.
        try_namespaces(libc::CLONE_NEWUSER | libc::CLONE_NEWUTS).ok();
        assert_eq!(name(), before);
        assert!(try_namespaces(0x1).is_err(), "not a namespace");
    }
}
