//! `mainstay serve`: starts the parts of its role in order, runs until it is told to stop, and ends them.
//!
//! Which parts there are, whose they are and what they need stands in [`role`], as a table. On a full disk the late ones wait
//! until there is room (`room`): reads are served before.

mod again;
pub(crate) mod args;
mod breakers;
mod dir;
mod drill;
mod ending;
mod figures;
mod front;
mod keys;
mod log;
mod machine;
mod name;
mod node;
mod operations;
mod probe;
mod process;
mod role;
mod room;
pub(crate) mod standby;
mod state;
mod traces;
mod turns;

use std::time::Duration;

use anyhow::bail;
use mainstay_runtime::{Class, Failure, Tasks};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use args::ServeArgs;
use ending::Ending;
use front::Front;
use process::{Process, server};
use traces::Traces;

/// What the second signal makes the process end with.
const CUT_SHORT: i32 = 130;

/// Runs a process of the role that is asked for, until SIGTERM or SIGINT.
///
/// # Errors
/// When a part cannot be started, an essential task ends, or not all finish within the grace period.
pub(crate) async fn run(args: ServeArgs, servers: Vec<String>) -> anyhow::Result<()> {
    let figures = traces::Figures::default();
    let traces = Traces::of(&args, &figures)?;
    log::init(&args.log, traces.as_ref().map(Traces::layer))?;
    // Before anything is open: whoever stops a process that is still starting gets a clean end, too.
    let mut signals = Signals::new()?;
    let tasks = Tasks::new();
    let front = Front::open(&args, &tasks).await?;
    let standby = tokio::select! {
        leading = standby::lead(&args, &front) => leading?,
        () = signals.again() => return Ok(()),
    };
    let sending = Tasks::new();
    if let Some(traces) = traces {
        traces.export(&sending);
    }
    let process = Process::new((args, servers), (tasks, front), figures)?;
    let (ending, mut ended) = serve(process, signals).await?;
    if let Some(standby) = standby {
        ended = ended.and(ending.close("the lease of a standby", standby.leave()).await);
    }
    // Last: what ended meanwhile is traced, too.
    sending.shutdown(ending.left().min(traces::FLUSH + Duration::from_secs(1))).await.ok();
    ended
}

/// Why a process ends.
enum Why {
    /// It was told to.
    Told,
    /// The same, before it served.
    ToldEarly,
    /// A part could not be started.
    NotStarted(anyhow::Error),
    /// An essential task has ended.
    Ended,
}

/// Starts everything, runs until told to stop, and ends it: gives what is left of the time for that, and how it went.
async fn serve(mut process: Process, mut signals: Signals) -> anyhow::Result<(Ending, anyhow::Result<()>)> {
    let why = served(&mut process, &mut signals).await;
    tokio::select! {
        closed = close(&process, why) => closed,
        () = signals.again() => {
            tracing::warn!("told to stop again: ending at once");
            #[expect(clippy::exit, reason = "whoever says it twice does not want to wait, and all that was answered is durable")]
            std::process::exit(CUT_SHORT)
        }
    }
}

/// Starts everything, and serves until there is a reason to end.
async fn served(process: &mut Process, signals: &mut Signals) -> Why {
    let tasks = process.tasks.clone();
    let started = tokio::select! {
        started = early(process) => started,
        told = signals.wait(&tasks) => return if told { Why::ToldEarly } else { Why::Ended },
    };
    if let Err(error) = started {
        return Why::NotStarted(error);
    }
    let starting = tasks.spawn("start", late(process.clone()));
    let told = tokio::select! {
        started = starting => match started.map_err(anyhow::Error::from).flatten() {
            Ok(()) => signals.wait(&tasks).await,
            Err(error) => return Why::NotStarted(error),
        },
        told = signals.wait(&tasks) => told,
    };
    if told { Why::Told } else { Why::Ended }
}

/// Starts what everything else stands on; it may wait for a database that is away.
async fn early(process: &mut Process) -> anyhow::Result<()> {
    for part in process.role().parts().filter(|part| !part.late) {
        process.start(part).await?;
    }
    Ok(())
}

/// Starts what acts by itself: each is a tracked task, told to stop and joined by [`close`].
async fn late(mut process: Process) -> anyhow::Result<()> {
    for part in process.role().parts().filter(|part| part.late) {
        process.start(part).await?;
    }
    // It is said to be ready when it is, unless it is told to stop first.
    if process.tasks.stopping().run_until_cancelled(server::all_ready(&process)).await.is_some() {
        anstream::println!("ready");
    }
    Ok(())
}

/// Tells all parts to stop, waits for them, and closes what has to be closed.
async fn close(process: &Process, why: Why) -> anyhow::Result<(Ending, anyhow::Result<()>)> {
    tracing::info!("stopping; sandboxes go on and are adopted at the next start");
    process.leaving.cancel();
    if matches!(why, Why::Told) {
        process.tasks.stopping().run_until_cancelled(sleep(process.args.drain_delay())).await;
    }
    let ending = Ending::begin(process.args.grace())?;
    let mut ended = process.tasks.shutdown(ending.left_for_tasks()).await.map_err(anyhow::Error::from);
    for part in process.role().parts().rev() {
        if let Some(close) = part.close {
            ended = ended.and(ending.close(part.name, close(process)).await);
        }
    }
    let ended = match why {
        Why::Told | Why::ToldEarly => ended,
        Why::NotStarted(error) => Err(error),
        Why::Ended if process.machine.as_ref().is_some_and(machine::Machine::is_deposed) => {
            const DOING: &str = "go on as this node: another has taken its place; see the log above";
            Err(Failure::new(Class::Fenced, DOING).into())
        }
        Why::Ended => {
            ended.and_then(|()| bail!("a part of the server that it cannot do without has ended; see the log above"))
        }
    };
    Ok((ending, ended))
}

/// What tells the process to stop.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for a signal (`true`), or for an essential task to end (`false`).
    async fn wait(&mut self, tasks: &Tasks) -> bool {
        let stopping = tasks.stopping();
        tokio::select! {
            () = self.again() => true,
            () = stopping.cancelled() => false,
        }
    }

    /// Waits for one more signal.
    async fn again(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
