//! How the node agent starts a shim and speaks to a live one. Blocking, with bounds; call it off the async threads.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;

use super::control::short_path;
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
    let input = serde_json::to_vec(launch).map_err(io::Error::from).during("encode the launch")?;
    let mut command = Command::new(exe);
    command.arg(VERB).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).current_dir("/");
    let mut child = command.spawn().during("start a shim")?;
    let outcome = claim_outcome(&mut child, &input);
    if outcome.is_err() {
        child.kill().ok();
    }
    // Only the first of its three processes, which ends with the claim.
    child.wait().during("wait for the shim to detach")?;
    let line = outcome?;
    let outcome: Outcome = serde_json::from_slice(&line).map_err(io::Error::from).during("read a new shim's words")?;
    match outcome {
        Outcome { claimed: Some(true), error: None } => Ok(()),
        Outcome { error: Some(words), .. } if words == SandboxError::Claimed.to_string() => Err(SandboxError::Claimed),
        Outcome { error, .. } => Err(SandboxError::Reported(error.unwrap_or_else(|| "the shim did not claim".into()))),
    }
}

fn claim_outcome(child: &mut Child, input: &[u8]) -> Result<Vec<u8>, SandboxError> {
    let mut stdin = child.stdin.take().ok_or_else(|| SandboxError::Invalid("no pipe to the shim".into()))?;
    let mut stdout = child.stdout.take().ok_or_else(|| SandboxError::Invalid("no pipe from the shim".into()))?;
    // A shim that has given up has closed its end, and says why on the other pipe.
    match stdin.write_all(input) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.during("hand the launch to the shim")?,
    }
    drop(stdin);
    let mut line = Vec::new();
    let until = tokio::time::Instant::now() + CLAIM_TIMEOUT;
    while !line.contains(&b'\n') {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other).during("wait for the shim")?;
        let ready = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&timeout)).during("wait for the shim")?;
        if ready == 0 {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).during("wait for the shim's claim");
        }
        let mut chunk = [0; 4096];
        let count = stdout.read(&mut chunk).during("read a new shim's words")?;
        if count == 0 {
            return Err(SandboxError::Reported("the shim ended before it claimed".into()));
        }
        line.extend_from_slice(&chunk[..count]);
    }
    Ok(line)
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
    let (_dir, path) = short_path(run_dir)?;
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}
