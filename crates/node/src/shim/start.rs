//! Making the sandbox: the two processes part here.

use std::io::{self, PipeReader, PipeWriter};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use mainstay_node_sys::process::{Child, clone_child, set_standard};
use mainstay_runtime::failure::chain_of;

use rustix::process::Pid;

use super::claim::Claim;
use super::exec;
use crate::cgroup::{Cgroups, leave_service};
use crate::launch::{Isolation, Launch};
use crate::sandbox::{self, During, Held, INSIDE_ID, SandboxError};
use crate::supervisor;
use crate::supervisor::link::{Instruction, Reader, Report, send};

/// How long building a sandbox may take.
const BUILD_TIMEOUT: Duration = Duration::from_mins(1);

/// Which process this is after [`start`].
#[derive(Debug)]
pub(crate) enum Role {
    /// Outside: the shim, with a sandbox that is built.
    Shim(Started),
    /// Inside: the sandbox's init process, with nothing built yet.
    Init(Init),
}

/// A sandbox that is built and about to start the agent process.
#[derive(Debug)]
pub(crate) struct Started {
    /// The init process.
    pub(crate) child: Child,
    /// The socket to it, and what was read from it.
    pub(crate) link: UnixStream,
    /// See `link`.
    pub(crate) reports: Reader,
    /// Its stdout and stderr.
    pub(crate) output: [PipeReader; 2],
    /// What of the isolation is in force.
    pub(crate) in_force: Vec<String>,
}

/// What the shim makes for a sandbox and keeps until it has gone.
#[derive(Debug)]
pub(crate) struct Outside {
    /// Its limits.
    pub(crate) cgroups: Cgroups,
    _held: Held,
}

/// Makes what the sandbox needs outside.
pub(crate) fn prepare(launch: &Launch) -> Result<Outside, SandboxError> {
    let root = rustix::process::geteuid().is_root();
    if root {
        leave_service().during("leave the service's cgroups")?;
    }
    let held = sandbox::prepare(launch)?;
    let cgroups = Cgroups::create(&launch.instance, &launch.pod.uid, &launch.limits, root)?;
    Ok(Outside { cgroups, _held: held })
}

/// The init process's ends.
#[derive(Debug)]
pub(crate) struct Init {
    link: UnixStream,
    output: [PipeWriter; 2],
    exec: UnixListener,
}

/// Makes the init process and has it build the sandbox around itself.
pub(crate) fn start(launch: &Launch, cgroups: &Cgroups) -> Result<Role, SandboxError> {
    let (link, inner) = UnixStream::pair().during("make the link to the sandbox")?;
    let (stdout, inner_stdout) = io::pipe().during("make the output pipes")?;
    let (stderr, inner_stderr) = io::pipe().during("make the output pipes")?;
    // Bound here, where the run directory is; only the init process keeps it, so it is deaf once that has gone.
    let exec = exec::listen(&launch.run_dir).during("listen for further commands")?;
    let Some(child) = clone_child(sandbox::namespaces(launch.isolation)).during("make the init process")? else {
        return Ok(Role::Init(Init { link: inner, output: [inner_stdout, inner_stderr], exec }));
    };
    drop((inner, inner_stdout, inner_stderr, exec));
    let mut started =
        Started { child, link, reports: Reader::default(), output: [stdout, stderr], in_force: Vec::new() };
    match attend(launch, cgroups, &mut started) {
        Ok(()) => Ok(Role::Shim(started)),
        Err(error) => {
            rustix::process::pidfd_send_signal(&started.child.pidfd, rustix::process::Signal::KILL).ok();
            super::wait(started.child.pid);
            Err(error)
        }
    }
}

/// Gives the init process what only the outside can give, until it is ready.
fn attend(launch: &Launch, cgroups: &Cgroups, started: &mut Started) -> Result<(), SandboxError> {
    let pid = started.child.pid;
    cgroups.add(pid).during("move the sandbox into its cgroups")?;
    if launch.isolation == Isolation::User {
        map_one(pid).during("map the sandbox's user")?;
    }
    started.link.set_read_timeout(Some(BUILD_TIMEOUT)).during("bound the start")?;
    send(&started.link, &Instruction::Go).during("let the init process go on")?;
    loop {
        match started.reports.receive(&started.link).during("wait for the sandbox to be built")? {
            Report::NeedsMaps => {
                map_range(pid, launch.uid_base).during("map the sandbox's users")?;
                send(&started.link, &Instruction::Go).during("let the init process go on")?;
            }
            Report::Ready { in_force } => {
                started.in_force = in_force;
                started.in_force.extend_from_slice(cgroups.in_force());
                return started.link.set_nonblocking(true).during("watch the sandbox");
            }
            Report::Failed { message } => return Err(SandboxError::Reported(message)),
            Report::Started | Report::Answered | Report::Exited { .. } => {
                return Err(SandboxError::Reported("the init process spoke out of turn".into()));
            }
        }
    }
}

impl Init {
    /// The rest of the init process's life; returns its exit code. `claim` is kept, so that the run directory counts
    /// as live until this process has gone, even if the shim goes first.
    pub(crate) fn run(self, launch: &Launch, claim: Claim) -> i32 {
        let Self { link, output: [stdout, stderr], exec } = self;
        let redirected = set_standard(1, &stdout).and_then(|()| set_standard(2, &stderr));
        drop((stdout, stderr));
        let entered = redirected.during("redirect the output").and_then(|()| sandbox::enter(launch, &link));
        let code = match entered {
            Ok(inside) => {
                let ready = Report::Ready { in_force: inside.in_force.clone() };
                if send(&link, &ready).is_err() { 1 } else { supervisor::main(launch, &inside, (&link, exec)) }
            }
            Err(error) => {
                send(&link, &Report::Failed { message: chain_of(&error) }).ok();
                1
            }
        };
        drop(claim);
        code
    }
}

/// The sandbox's ids, from 0, are a range of the host's that nobody else has.
fn map_range(pid: Pid, base: u32) -> io::Result<()> {
    for name in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{name}"), format!("0 {base} 65536"))?;
    }
    Ok(())
}

/// The sandbox's one id is ours.
fn map_one(pid: Pid) -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("{INSIDE_ID} {user} 1"))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("{INSIDE_ID} {group} 1"))
}

impl Outside {
    /// Removes what was made, now that the sandbox has gone.
    pub(crate) fn remove(self, launch: &Launch) {
        self.cgroups.remove();
        sandbox::remove(launch);
    }
}
