//! Running a command in a Pod's sandbox, for `pods/exec`: its bytes go between the server and pipes, or a terminal, of ours.
//!
//! What is held is bounded, beside what a pipe holds: one piece of output, and [`INPUT_UNITS`] of input. Who does not read holds up
//! the command, and a command that does not read holds up who writes. The command ends with its input's stream, with whoever takes its output, with this agent,
//! and with the sandbox; see [`crate::shim::exec`] for how.

mod ends;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use mainstay_api::exec::{ExecEnd, ExecFrame, ExecRequest, INPUT_UNITS, units};
use mainstay_runtime::{Class, Classify, Reason};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use self::ends::{Ends, Input, Output, Terminal};
use super::layout::is_plain;
use super::sandboxes::Look;
use super::{Handle, Shared};
use crate::launch::Isolation;
use crate::sandbox::INSIDE_ID;
use crate::shim::exec::{ExecOrder, ending, order};

/// Commands at a time on one node.
const MOST: usize = 64;
/// How long the last word may wait for who does not take it.
const LAST_WORD: Duration = Duration::from_secs(10);

/// What is said while a command runs.
pub type ExecFrames = BoxStream<'static, io::Result<ExecFrame>>;

/// A command cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The sandbox is not there: not yet, or not any more.
    #[error("the Pod's sandbox is not running")]
    NotRunning,
    /// As many run as may.
    #[error("{MOST} commands run on this node, which are all that may")]
    TooMany,
    /// The sandbox was started by a version that knew nothing of this.
    #[error("the Pod's sandbox was started by an earlier version, which takes no further commands")]
    Unsupported,
    /// It could not be handed over.
    #[error("the command could not be handed to the sandbox")]
    Io(#[from] io::Error),
}

impl Classify for ExecError {
    fn class(&self) -> Class {
        match self {
            Self::NotRunning => Class::Terminal(Reason::NotFound),
            Self::Unsupported => Class::Terminal(Reason::Unsupported),
            Self::TooMany | Self::Io(_) => Class::TRANSIENT,
        }
    }
}

/// The commands of a node.
#[derive(Debug)]
pub(super) struct Execs(Arc<Semaphore>);

impl Default for Execs {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

impl Execs {
    /// How many run.
    pub(super) fn running(&self) -> usize {
        MOST - self.0.available_permits()
    }
}

impl Handle {
    /// How many commands run in sandboxes of this node beside their agent processes.
    pub fn execs(&self) -> usize {
        self.0.execs.running()
    }

    /// Runs a command in a Pod's sandbox; `input` is what the server says, and what is returned is the answer, which ends with
    /// [`ExecFrame::End`].
    ///
    /// # Errors
    /// See [`ExecError`]. A command that cannot be executed is an [`ExecEnd`].
    ///
    /// # Cancel safety
    /// What was started when it is dropped is ended.
    pub async fn exec(&self, request: ExecRequest, input: ExecFrames) -> Result<ExecFrames, ExecError> {
        let permit = self.0.execs.0.clone().try_acquire_owned().map_err(|_| ExecError::TooMany)?;
        let shared = self.0.clone();
        let handed = tokio::task::spawn_blocking(move || shared.hand_over(&request));
        let (leash, ends) = handed.await.map_err(io::Error::other)??;
        let (output, answer) = channel(1);
        let exec = Exec { leash: UnixStream::from_std(leash)?, output, stop: self.0.tasks.stopping(), _permit: permit };
        drop(self.0.tasks.spawn("exec", exec.run(input, ends)));
        Ok(received(answer))
    }
}

fn received(mut from: Receiver<io::Result<ExecFrame>>) -> ExecFrames {
    stream::poll_fn(move |context| from.poll_recv(context)).boxed()
}

impl Shared {
    /// Gives the command, with its ends, to the sandbox; blocking.
    fn hand_over(&self, request: &ExecRequest) -> Result<(std::os::unix::net::UnixStream, Ends), ExecError> {
        if !is_plain(&request.pod_uid) {
            return Err(ExecError::NotRunning);
        }
        let run_dir = self.layout.run(&request.pod_uid);
        let Look::Live(Some(state)) = self.sandboxes.look(&run_dir)? else { return Err(ExecError::NotRunning) };
        if state.started_at.is_none() {
            return Err(ExecError::NotRunning);
        }
        let owner = (state.isolation.asked == Isolation::Full).then_some(state.uid_base + INSIDE_ID);
        let (ends, given) = Ends::make(request, owner)?;
        let terminal = request.tty;
        let standard = [request.stdin, request.stdout, request.stderr];
        let wanted = ExecOrder { command: request.command.clone(), standard, terminal };
        match order(&run_dir, &wanted, &given) {
            Ok(leash) => Ok((leash, ends)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ExecError::Unsupported),
            // Its supervisor has ended, or does so now.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::BrokenPipe) => {
                Err(ExecError::NotRunning)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A command that was handed over.
struct Exec {
    leash: UnixStream,
    output: Sender<io::Result<ExecFrame>>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Exec {
    async fn run(self, input: ExecFrames, ends: Ends) {
        let end = self.carry(input, ends).await;
        // The leash goes with us: what runs still is ended.
        if let Some(end) = end {
            tokio::time::timeout(LAST_WORD, self.output.send(Ok(ExecFrame::End(end)))).await.ok();
        }
    }

    /// Until it has ended; `None` when nobody wants to know.
    async fn carry(&self, input: ExecFrames, ends: Ends) -> Option<ExecEnd> {
        let Ends { input: pipe, terminal, outputs } = ends;
        let ended = CancellationToken::new();
        let outputs = outputs.into_iter().map(|output| self.pass_on(output, ended.clone()));
        let outputs = futures::future::join_all(outputs);
        let ending = async {
            let how = ending(&self.leash).await;
            ended.cancel();
            how.unwrap_or_else(|_| ExecEnd::failed("the sandbox has ended"))
        };
        tokio::select! {
            (end, _) = async { tokio::join!(ending, outputs) } => Some(end),
            () = self.feed(input, pipe, &terminal) => None,
            () = self.output.closed() => None,
            () = self.stop.cancelled() => Some(ExecEnd::failed("the agent of the Pod's node stops")),
        }
    }

    /// Passes on what the command writes, to the end of the stream, or to the last that it has written when it ended.
    async fn pass_on(&self, mut from: Output, ended: CancellationToken) {
        while let Some(chunk) = from.next(&ended).await {
            let frame = if from.is_errors() { ExecFrame::Stderr(chunk) } else { ExecFrame::Stdout(chunk) };
            if self.output.send(Ok(frame)).await.is_err() {
                return;
            }
        }
    }

    /// Gives the command its input, until whoever sends it has gone. What is sent is read at once, so that this is noticed; what the
    /// command has not taken is bounded by what was said to be taken.
    async fn feed(&self, mut from: ExecFrames, mut to: Input, terminal: &Terminal) {
        let (pass, mut waiting) = channel(usize::try_from(INPUT_UNITS).unwrap_or_default() + 1);
        let reading = async {
            while let Some(Ok(frame)) = from.next().await {
                match frame {
                    ExecFrame::Resize(size) => terminal.resize(size),
                    // More than there is room for is sent by nobody of ours.
                    ExecFrame::Stdin(_) | ExecFrame::StdinEnd => {
                        if pass.try_send(frame).is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        };
        let writing = async {
            while let Some(frame) = waiting.recv().await {
                if let ExecFrame::Stdin(bytes) = frame {
                    to.write(&bytes).await;
                    self.output.send(Ok(ExecFrame::Taken(units(bytes.len())))).await.ok();
                } else {
                    to.finish().await;
                }
            }
        };
        tokio::select! {
            () = reading => {}
            // It has no end of its own.
            () = writing => {}
        }
    }
}
