//! How the node agent starts a shim and speaks to a live one. Blocking, with bounds; call it off the async threads.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use mainstay_runtime::clock::boottime;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

use super::control::short_path;
use super::record::{CONTROL, EXEC};
use crate::launch::{Answer, Launch, Order};
use crate::sandbox::{During, SandboxError};
use crate::supervisor::link::Reader;

/// The hidden verb that makes the binary a shim.
pub const VERB: &str = "__shim";
/// How long a new shim may take to claim its run directory.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a live shim may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The first words of a new shim.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcome {
    claimed: Option<bool>,
    error: Option<String>,
}

/// Starts a shim (`exe __shim`) for `launch` and returns once it has claimed the run directory; from then on its
/// records tell everything.
///
/// # Errors
/// [`SandboxError::Claimed`] when the directory is there already, and what else kept the shim from claiming it.
/// A timeout leaves it open whether the shim claims later: look at the run directory.
pub fn spawn(exe: &Path, launch: &Launch) -> Result<(), SandboxError> {
    spawn_within(exe, launch, CLAIM_TIMEOUT)
}

fn spawn_within(exe: &Path, launch: &Launch, timeout: Duration) -> Result<(), SandboxError> {
    let input = serde_json::to_vec(launch).map_err(io::Error::from).during("encode the launch")?;
    let mut command = Command::new(exe);
    command.arg(VERB).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).current_dir("/");
    let mut child = command.spawn().during("start a shim")?;
    let limit = Limit(boottime() + timeout);
    let outcome = claim_outcome(&mut child, &input, limit);
    // Only the first of its three processes, which ends with the claim. Killed, it ends at once, even if it was stopped.
    if outcome.is_err() || limit.wait_for_end(&child).is_err() {
        child.kill().ok();
    }
    child.wait().during("wait for the shim to detach")?;
    let line = outcome?;
    let outcome: Outcome = serde_json::from_slice(&line).map_err(io::Error::from).during("read a new shim's words")?;
    match outcome {
        Outcome { claimed: Some(true), error: None } => Ok(()),
        Outcome { error: Some(words), .. } if words == SandboxError::Claimed.to_string() => Err(SandboxError::Claimed),
        Outcome { error, .. } => Err(SandboxError::Reported(error.unwrap_or_else(|| "the shim did not claim".into()))),
    }
}

fn claim_outcome(child: &mut Child, input: &[u8], limit: Limit) -> Result<Vec<u8>, SandboxError> {
    let stdin = child.stdin.take().ok_or_else(|| SandboxError::Invalid("no pipe to the shim".into()))?;
    let mut stdout = child.stdout.take().ok_or_else(|| SandboxError::Invalid("no pipe from the shim".into()))?;
    // A shim that has given up has closed its end, and says why on the other pipe.
    match hand_over(stdin, input, limit) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.during("hand the launch to the shim")?,
    }
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        limit.wait_for(&stdout, PollFlags::IN).during("wait for the shim's claim")?;
        let mut chunk = [0; 4096];
        let count = stdout.read(&mut chunk).during("read a new shim's words")?;
        if count == 0 {
            return Err(SandboxError::Reported("the shim ended before it claimed".into()));
        }
        line.extend_from_slice(&chunk[..count]);
    }
    Ok(line)
}

/// Writes all of `input`, and closes the pipe.
fn hand_over(mut to: ChildStdin, mut input: &[u8], limit: Limit) -> io::Result<()> {
    ioctl_fionbio(&to, true)?;
    while !input.is_empty() {
        limit.wait_for(&to, PollFlags::OUT)?;
        match to.write(input) {
            Ok(count) => input = &input[count..],
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time at which a new shim must have claimed, on the clock that counts while the machine sleeps.
#[derive(Debug, Clone, Copy)]
struct Limit(Duration);

impl Limit {
    /// Waits until `fd` is ready, or broken.
    fn wait_for(self, fd: &impl AsFd, events: PollFlags) -> io::Result<()> {
        loop {
            let left = Timespec::try_from(self.0.saturating_sub(boottime())).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(fd, events)], Some(&left)) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the process has ended.
    fn wait_for_end(self, child: &Child) -> io::Result<()> {
        self.wait_for(&pidfd_open(Pid::from_child(child), PidfdFlags::empty())?, PollFlags::IN)
    }
}

/// Gives an order to the live shim of `run_dir`.
///
/// # Errors
/// When there is no live shim, or it does not answer in time; then the order may or may not have been taken, and
/// repeating it is harmless.
pub fn send(run_dir: &Path, order: &Order) -> io::Result<Answer> {
    let mut stream = connect(run_dir)?;
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Reader::default().receive(&stream)
}

/// A silent connection to the live shim of `run_dir`: reading from it ends, or fails with a reset, once the shim has
/// gone. Its timeouts are those of [`send`].
///
/// # Errors
/// When there is no live shim.
pub fn connect(run_dir: &Path) -> io::Result<UnixStream> {
    connect_within(run_dir, CONTROL, ANSWER_TIMEOUT)
}

/// A connection to the supervisor of the live sandbox of `run_dir`, which takes one command: see [`super::exec`].
///
/// # Errors
/// When there is none. Of a sandbox that an earlier version started there is no such socket.
pub(crate) fn connect_for_exec(run_dir: &Path) -> io::Result<UnixStream> {
    connect_within(run_dir, EXEC, ANSWER_TIMEOUT)
}

fn connect_within(run_dir: &Path, name: &str, timeout: Duration) -> io::Result<UnixStream> {
    let (_dir, path) = short_path(run_dir, name)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Before it connects: a stopped shim accepts nothing, and once its queue is full, connecting waits, too.
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(timeout))?;
    #[expect(clippy::disallowed_methods, reason = "blocking, and bounded by the lines above")]
    net::connect(&socket, &SocketAddrUnix::new(&path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::{Adaptor, Isolation, Limits, LogLimits, PodRef, Workspace};

    fn launch(dir: &Path) -> Launch {
        Launch {
            pod: PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() },
            session: None,
            adaptor: Adaptor::Exec,
            command: vec!["/bin/true".into()],
            env: [].into(),
            working_dir: "/".into(),
            limits: Limits::default(),
            grace_seconds: 1,
            deadline_seconds: None,
            fence: 1,
            workspace: Workspace { dir: dir.join("w"), mount: "/workspace".into(), size_bytes: 0, keep: false },
            files: Vec::new(),
            run_dir: dir.join("run"),
            sock_dir: dir.join("sock"),
            token_dir: dir.join("token"),
            instance: "i".into(),
            isolation: Isolation::None,
            uid_base: 0,
            log: LogLimits { file_bytes: 1, files: 1 },
        }
    }

    /// A shim that stops after these words.
    fn stopping(dir: &Path, words: &str) -> std::path::PathBuf {
        let path = dir.join("shim");
        // Written by another process: a file that this one has open for writing could not be executed.
        let script = "printf '#!/bin/sh\\n%s\\nkill -STOP $$\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let made = Command::new("/bin/sh").args(["-c", script]).arg(&path).arg(words).status().unwrap();
        assert!(made.success());
        path
    }

    #[test]
    fn a_shim_that_stops_does_not_hold_up_whoever_starts_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut large = launch(dir.path());
        large.env.insert("LARGE".into(), "x".repeat(1 << 20));
        for (at, launch) in [large, launch(dir.path())].iter().enumerate() {
            let since = boottime();
            let error = spawn_within(&stopping(dir.path(), ""), launch, Duration::from_millis(200)).unwrap_err();
            let SandboxError::System { source, doing } = error else { panic!("{error}") };
            let expected = ["hand the launch to the shim", "wait for the shim's claim"][at];
            assert_eq!((source.kind(), doing.as_ref()), (io::ErrorKind::TimedOut, expected));
            assert!(boottime().saturating_sub(since) < Duration::from_secs(10));
        }
    }

    #[test]
    fn a_shim_that_accepts_nothing_does_not_hold_up_whoever_calls_it() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join(CONTROL)).unwrap();
        net::listen(&listener, 0).unwrap();
        let span = Duration::from_millis(100);
        let since = boottime();
        let mut first = connect_within(dir.path(), CONTROL, span).unwrap();
        assert_eq!(first.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "it does not answer");
        assert_eq!(
            connect_within(dir.path(), CONTROL, span).unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "its queue is full"
        );
        assert!(boottime().saturating_sub(since) < Duration::from_secs(10));
    }

    #[test]
    fn a_claim_counts_though_the_first_process_stays() {
        let dir = tempfile::tempdir().unwrap();
        let exe = stopping(dir.path(), "cat > /dev/null; echo '{\"claimed\":true}'");
        spawn_within(&exe, &launch(dir.path()), Duration::from_secs(1)).unwrap();
    }
}
