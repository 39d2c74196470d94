//! Making the sandbox: the two processes part here.

use std::io::{self, PipeReader, PipeWriter};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mainstay_node_sys::process::{Child, clone_child, set_standard};
use mainstay_runtime::failure::chain_of;

use super::claim::Claim;
use crate::launch::{Launch, RunState};
use crate::sandbox::{self, During, SandboxError};
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

/// The init process's ends.
#[derive(Debug)]
pub(crate) struct Init {
    link: UnixStream,
    output: [PipeWriter; 2],
}

/// Makes the init process and has it build the sandbox around itself.
pub(crate) fn start(launch: &Launch) -> Result<Role, SandboxError> {
    let (link, inner) = UnixStream::pair().during("make the link to the sandbox")?;
    let (stdout, inner_stdout) = io::pipe().during("make the output pipes")?;
    let (stderr, inner_stderr) = io::pipe().during("make the output pipes")?;
    let Some(child) = clone_child(sandbox::namespaces(launch.isolation)).during("make the init process")? else {
        return Ok(Role::Init(Init { link: inner, output: [inner_stdout, inner_stderr] }));
    };
    drop((inner, inner_stdout, inner_stderr));
    let mut started =
        Started { child, link, reports: Reader::default(), output: [stdout, stderr], in_force: Vec::new() };
    match attend(&mut started) {
        Ok(()) => Ok(Role::Shim(started)),
        Err(error) => {
            rustix::process::pidfd_send_signal(&started.child.pidfd, rustix::process::Signal::KILL).ok();
            super::wait(started.child.pid);
            Err(error)
        }
    }
}

/// Gives the init process what only the outside can give, until it is ready.
fn attend(started: &mut Started) -> Result<(), SandboxError> {
    started.link.set_read_timeout(Some(BUILD_TIMEOUT)).during("bound the start")?;
    send(&started.link, &Instruction::Go).during("let the init process go on")?;
    loop {
        match started.reports.receive(&started.link).during("wait for the sandbox to be built")? {
            Report::NeedsMaps => {
                send(&started.link, &Instruction::Go).during("let the init process go on")?;
            }
            Report::Ready { in_force } => {
                started.in_force = in_force;
                return started.link.set_nonblocking(true).during("watch the sandbox");
            }
            Report::Failed { message } => return Err(SandboxError::Reported(message)),
            Report::Started | Report::Exited { .. } => {
                return Err(SandboxError::Reported("the init process spoke out of turn".into()));
            }
        }
    }
}

impl Init {
    /// The rest of the init process's life; returns its exit code. `claim` is kept, so that the run directory counts
    /// as live until this process has gone, even if the shim goes first.
    pub(crate) fn run(self, launch: &Launch, claim: Claim) -> i32 {
        let Self { link, output: [stdout, stderr] } = self;
        let redirected = set_standard(1, &stdout).and_then(|()| set_standard(2, &stderr));
        drop((stdout, stderr));
        let entered = redirected.during("redirect the output").and_then(|()| sandbox::enter(launch, &link));
        let code = match entered {
            Ok(inside) => {
                let ready = Report::Ready { in_force: inside.in_force.clone() };
                if send(&link, &ready).is_err() { 1 } else { supervisor::main(launch, &inside, &link) }
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

/// Removes what [`start`] made outside of the sandbox.
pub(crate) fn remove(launch: &Launch, _state: &RunState) {
    sandbox::remove(launch);
}
