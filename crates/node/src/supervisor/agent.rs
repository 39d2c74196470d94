//! The agent process: started, reaped, ended.
//!
//! As pid 1 of its own pid namespace the supervisor reaps everything; without one it is a subreaper, so that the agent
//! process's orphans come to it all the same.

use std::fs::File;
use std::io::{self, Write};
use std::process::Stdio;

use mainstay_node_sys::process::{Spawn, kill_all_but_init, spawn};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group, wait, waitid,
};
use tokio::net::unix::pipe;

use crate::launch::Launch;
use crate::sandbox::Inside;

/// The running agent process.
#[derive(Debug)]
pub(crate) struct Agent {
    pid: Pid,
    is_init: bool,
}

/// Our ends of its pipes, when it belongs to a session.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Its standard input.
    pub(crate) stdin: pipe::Sender,
    /// Its stdout and stderr.
    pub(crate) output: [pipe::Receiver; 2],
}

/// How the agent process ended: code or signal.
pub(crate) type Ending = (Option<i32>, Option<i32>);

impl Agent {
    /// Starts the agent process; with pipes when it belongs to a session, else with our own output and no input.
    pub(crate) fn start(launch: &Launch, inside: &Inside) -> io::Result<(Self, Option<Pipes>)> {
        if !inside.working_dir.is_dir() {
            return Err(io::Error::other(format!("the working directory {} is missing", launch.working_dir)));
        }
        let (stdio, pipes) = match launch.session {
            Some(_) => piped()?,
            None => ([Stdio::null(), Stdio::inherit(), Stdio::inherit()], None),
        };
        let order = Spawn {
            command: &launch.command,
            env: &inside.env,
            dir: &inside.working_dir,
            stdio,
            die_with_parent: !inside.is_init,
            terminal: false,
        };
        // The child keeps the score that it was forked with: when memory runs out, it goes before its supervisor.
        score(inside.oom_score.as_ref(), b"500");
        let started = spawn(order);
        score(inside.oom_score.as_ref(), b"0");
        Ok((Self { pid: started?, is_init: inside.is_init }, pipes))
    }

    /// Reaps what has ended, and tells of each; the agent process's own ending, once.
    pub(crate) fn reap(&self, tell: impl Fn(Pid, Ending)) -> Option<Ending> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // As long as it is not reaped, its process group's number is its own.
        if !self.is_init && matches!(waitid(WaitId::Pid(self.pid), ended), Ok(Some(_))) {
            kill_process_group(self.pid, Signal::KILL).ok();
        }
        ending_of(self.pid, || {
            let (pid, status) = wait(WaitOptions::NOHANG).ok()??;
            let how = (status.exit_status(), status.terminating_signal());
            tell(pid, how);
            Some((pid, how))
        })
    }

    /// Asks the agent process and its group to end. Not called once it was reaped.
    pub(crate) fn terminate(&self) {
        kill_process_group(self.pid, Signal::TERM).ok();
    }

    /// Ends everything in the sandbox but the supervisor.
    pub(crate) fn kill_everything(&self) {
        if self.is_init {
            kill_all_but_init().ok();
            return;
        }
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        children.for_each(|child| {
            kill_process_group(child, Signal::KILL).ok();
            kill_process(child, Signal::KILL).ok();
        });
    }
}

/// The agent process's ending among those of all that have ended. It may end at any moment of this, so whoever is reaped
/// is looked at: nobody tells of an ending twice.
fn ending_of(agent: Pid, mut next_ended: impl FnMut() -> Option<(Pid, Ending)>) -> Option<Ending> {
    let mut ending = None;
    while let Some((pid, how)) = next_ended() {
        if pid == agent {
            ending = Some(how);
        }
    }
    ending
}

pub(super) fn score(file: Option<&File>, value: &[u8]) {
    if let Some(mut file) = file {
        file.write_all(value).ok();
    }
}

fn piped() -> io::Result<([Stdio; 3], Option<Pipes>)> {
    let (in_read, in_write) = io::pipe()?;
    let (out_read, out_write) = io::pipe()?;
    let (err_read, err_write) = io::pipe()?;
    let pipes = Pipes {
        stdin: pipe::Sender::from_owned_fd(in_write.into())?,
        output: [pipe::Receiver::from_owned_fd(out_read.into())?, pipe::Receiver::from_owned_fd(err_read.into())?],
    };
    Ok(([in_read.into(), out_write.into(), err_write.into()], Some(pipes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R15: one that ended while others were reaped was reaped as one of them, and its sandbox never ended.
    #[test]
    fn the_agents_ending_is_noticed_whenever_it_comes() {
        let pid = |raw| Pid::from_raw(raw).unwrap();
        let [agent, orphan, other] = [7, 8, 9].map(pid);
        let ended = |all: &[(Pid, Ending)]| {
            let mut all = all.iter().copied();
            let ending = ending_of(agent, || all.next());
            assert_eq!(all.next(), None, "all are reaped");
            ending
        };
        let (well, killed) = ((Some(0), None), (None, Some(9)));
        assert_eq!(ended(&[]), None);
        assert_eq!(ended(&[(orphan, well), (other, killed)]), None);
        for all in [[(agent, killed), (orphan, well)], [(orphan, well), (agent, killed)]] {
            assert_eq!(ended(&all), Some(killed));
        }
    }
}
