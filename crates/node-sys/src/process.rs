//! Making processes: fork, clone into namespaces, and spawning the agent process.
//!
//! Invariant: [`fork`] and [`clone_child`] only work in a process with one thread, so that the child, which goes on
//! as ordinary Rust code, never meets a lock that a vanished thread holds.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

/// Flag for [`clone_child`]: a pid namespace, whose init process the child is.
pub const NEW_PID: i32 = libc::CLONE_NEWPID;
/// Flag for [`clone_child`]: a copy of the mounts.
pub const NEW_MOUNT: i32 = libc::CLONE_NEWNS;
/// Flag for [`clone_child`]: a network without interfaces but loopback.
pub const NEW_NETWORK: i32 = libc::CLONE_NEWNET;
/// Flag for [`clone_child`]: System V IPC and POSIX queues of its own.
pub const NEW_IPC: i32 = libc::CLONE_NEWIPC;
/// Flag for [`clone_child`]: a host name of its own.
pub const NEW_UTS: i32 = libc::CLONE_NEWUTS;
/// Flag for [`clone_child`]: user ids of its own, which also own its other namespaces.
pub const NEW_USER: i32 = libc::CLONE_NEWUSER;

/// Which side of a [`fork`] the caller is on.
#[derive(Debug)]
pub enum Side {
    /// The new process.
    Child,
    /// The old one, which now has this child.
    Parent(Pid),
}

/// Forks a single-threaded process.
///
/// # Errors
/// When the process has more than one thread, or the kernel refuses.
pub fn fork() -> io::Result<Side> {
    require_single_thread()?;
    // SAFETY: there is one thread, so the child has every lock in a state that it can go on with.
    let pid = unsafe { libc::fork() };
    side_of(pid.into())
}

/// The child of [`clone_child`], as its parent sees it.
#[derive(Debug)]
pub struct Child {
    /// Its pid in the parent's pid namespace; only for what takes no pidfd.
    pub pid: Pid,
    /// What to signal and wait on.
    pub pidfd: OwnedFd,
}

/// Forks a single-threaded process into the new namespaces that `flags` name (`CLONE_NEW*`, or 0 for none);
/// `None` is the child.
///
/// # Errors
/// When the process has more than one thread, or the kernel refuses.
pub fn clone_child(flags: libc::c_int) -> io::Result<Option<Child>> {
    require_single_thread()?;
    let mut pidfd: libc::c_int = -1;
    let arguments = CloneArguments {
        flags: u64::from((flags | libc::CLONE_PIDFD).cast_unsigned()),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArguments::default()
    };
    let size = size_of::<CloneArguments>();
    // SAFETY: without a stack of its own the child goes on from here on a copy of ours, as after fork; there is one
    // thread; `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) };
    match side_of(pid)? {
        Side::Child => Ok(None),
        Side::Parent(pid) => {
            // SAFETY: the kernel has just opened this descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some(Child { pid, pidfd }))
        }
    }
}

/// The kernel's `struct clone_args`, in its first version but for the pidfd.
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

fn side_of(pid: libc::c_long) -> io::Result<Side> {
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(pid.map_or(Side::Child, Side::Parent))
}

pub(crate) fn require_single_thread() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 { Ok(()) } else { Err(io::Error::other(format!("cannot fork with {threads} threads"))) }
}

/// Closes every descriptor above standard error that this process inherited. For the first lines of `main` only.
///
/// # Errors
/// When the process has more than one thread, or the kernel refuses.
pub fn close_inherited() -> io::Result<()> {
    require_single_thread()?;
    // SAFETY: called before this process has opened anything that it keeps; all above 2 was inherited, owned by nobody.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `new` the process's standard descriptor `number` (0, 1 or 2).
///
/// # Errors
/// When the kernel refuses.
pub fn set_standard(number: i32, new: &impl AsRawFd) -> io::Result<()> {
    if !(0..=2).contains(&number) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: the standard descriptors are owned by no Rust value.
    let done = unsafe { libc::dup2(new.as_raw_fd(), number) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A program to start as a process of its own session.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// Program and arguments; the program is looked up in the `PATH` of `env`.
    pub command: &'a [String],
    /// The whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// The directory to start in.
    pub dir: &'a Path,
    /// Descriptors 0, 1 and 2.
    pub stdio: [Stdio; 3],
    /// Dies with the thread that starts it.
    pub die_with_parent: bool,
    /// Descriptor 0 is a terminal, which becomes that of its session.
    pub terminal: bool,
}

/// Starts a program in its own session and process group; the caller reaps it.
///
/// # Errors
/// When the program cannot be found or executed.
pub fn spawn(spawn: Spawn<'_>) -> io::Result<Pid> {
    let Some((program, arguments)) = spawn.command.split_first() else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let [stdin, stdout, stderr] = spawn.stdio;
    let mut command = Command::new(OsStr::new(program));
    command.args(arguments).env_clear().envs(spawn.env).current_dir(spawn.dir);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let (die_with_parent, terminal) = (spawn.die_with_parent, spawn.terminal);
    let set_up = move || {
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if die_with_parent {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls; it neither allocates nor takes locks.
    unsafe { command.pre_exec(set_up) };
    let child = command.spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("a pid out of range"))
}

/// Sends SIGKILL to every process of this pid namespace but its init process, which must be the caller.
///
/// # Errors
/// When the caller is not pid 1: then this would be the whole host.
pub fn kill_all_but_init() -> io::Result<()> {
    if !rustix::process::getpid().is_init() || rustix::process::getppid().is_some() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    // SAFETY: a plain system call.
    let done = unsafe { libc::kill(-1, libc::SIGKILL) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_init_process_kills_everything() {
        assert_eq!(kill_all_but_init().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_process_with_threads_is_not_forked() {
        // The test harness runs this on a second thread.
        assert!(fork().unwrap_err().to_string().contains("threads"));
        assert!(clone_child(0).unwrap_err().to_string().contains("threads"));
    }
}
