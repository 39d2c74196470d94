//! `mainstay serve`: starts the parts of its role in order, runs until it is told to stop, and ends them.
//!
//! Which parts there are, whose they are and what they need stands in [`role`], as a table. On a full disk the late ones wait
//! until there is room (`room`): reads are served before.

pub(crate) mod args;
mod breakers;
mod dir;
mod drill;
mod figures;
mod keys;
mod log;
mod machine;
mod name;
mod node;
mod operations;
mod process;
mod role;
mod room;
mod state;
mod traces;

use std::time::Duration;

use mainstay_runtime::Tasks;
use tokio::signal::unix::{Signal, SignalKind, signal};

use args::ServeArgs;
use process::{Process, server};
use traces::Traces;

/// What the second signal makes the process end with.
const CUT_SHORT: i32 = 130;

/// Runs a process of the role that is asked for, until SIGTERM or SIGINT.
///
/// # Errors
/// When a part cannot be started, an essential task ends, or not all finish within the grace period.
pub(crate) async fn run(args: ServeArgs, server_url: Option<String>) -> anyhow::Result<()> {
    let figures = traces::Figures::default();
    let traces = Traces::of(&args, &figures)?;
    log::init(&args.log, traces.as_ref().map(Traces::layer))?;
    // Before anything is open: whoever stops a process that is still starting gets a clean end, too.
    let mut signals = Signals::new()?;
    let mut process = Process::new(args, server_url, figures)?;
    let sending = Tasks::new();
    if let Some(traces) = traces {
        traces.export(&sending);
    }
    for part in process.role().parts().filter(|part| !part.late) {
        process.start(part).await?;
    }
    let starting = process.tasks.spawn("start", late(process.clone()));
    let asked = tokio::select! {
        started = starting => {
            started??;
            signals.wait(&process.tasks).await
        }
        asked = signals.wait(&process.tasks) => asked,
    };
    let closed = tokio::select! {
        closed = close(&process, asked) => closed,
        () = signals.again() => {
            tracing::warn!("told to stop again: ending at once");
            #[expect(clippy::exit, reason = "whoever says it twice does not want to wait, and all that was answered is durable")]
            std::process::exit(CUT_SHORT)
        }
    };
    // Last: what ended meanwhile is traced, too.
    sending.shutdown(traces::FLUSH + Duration::from_secs(1)).await.ok();
    closed
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
async fn close(process: &Process, asked: bool) -> anyhow::Result<()> {
    tracing::info!("stopping; sandboxes go on and are adopted at the next start");
    let joined = process.tasks.shutdown(process.args.grace()).await;
    for close in process.role().parts().rev().filter_map(|part| part.close) {
        close(process).await;
    }
    joined?;
    anyhow::ensure!(asked, "a part of the server that it cannot do without has ended; see the log above");
    Ok(())
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
