//! The figures of docs/benchmarks.md: real processes, default isolation, TLS, rights, a real disk, and floors beside them.
//!
//! `scripts/bench [NAME...] [--runs N] [--patience SECONDS] [--lives N]` builds and runs it: the table goes to standard output, what
//! happens meanwhile to standard error. `MAINSTAY_BENCH_EXE` names the program to measure. Data goes below `TMPDIR`.
#![expect(clippy::print_stderr, reason = "a bench tells what it sees")]

#[path = "figures/creates.rs"]
mod creates;
#[path = "figures/driver.rs"]
mod driver;
#[path = "figures/echo.rs"]
mod echo;
#[path = "figures/fleet.rs"]
mod fleet;
#[path = "figures/floors.rs"]
mod floors;
#[path = "figures/footprint.rs"]
mod footprint;
#[path = "figures/herd.rs"]
mod herd;
#[path = "figures/layers.rs"]
mod layers;
#[path = "figures/link.rs"]
mod link;
#[path = "figures/operations.rs"]
mod operations;
#[path = "figures/queue.rs"]
mod queue;
#[path = "figures/replicas.rs"]
mod replicas;
#[path = "figures/sessions.rs"]
mod sessions;
#[path = "figures/stage.rs"]
mod stage;
#[path = "figures/table.rs"]
mod table;
#[path = "figures/takeover.rs"]
mod takeover;
#[path = "figures/watch.rs"]
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use mainstay_testkit::bench::{machine, wait_quiet};

/// All benches, in the order in which they run.
const NAMES: [&str; 14] = [
    "floors",
    "at-once",
    "life",
    "first-message",
    "creates",
    "operations",
    "queue",
    "watch",
    "driver",
    "layers",
    "footprint",
    "replicas",
    "takeover",
    "herd",
];

/// What the command line asks for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    exe: PathBuf,
    names: Vec<String>,
    runs: Option<usize>,
    lives: usize,
    patience: Duration,
}

impl Plan {
    fn read() -> anyhow::Result<Self> {
        let exe = std::env::var_os("MAINSTAY_BENCH_EXE").unwrap_or_else(|| env!("CARGO_BIN_EXE_mainstay").into());
        let mut plan =
            Self { exe: exe.into(), names: Vec::new(), runs: None, lives: 1_000, patience: Duration::from_secs(5) };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // Cargo says that this is a bench.
                "--bench" => {}
                "--runs" => plan.runs = arguments.next().map(|text| text.parse()).transpose()?,
                "--lives" => plan.lives = arguments.next().map_or(Ok(0), |text| text.parse())?,
                "--patience" => {
                    plan.patience = Duration::from_secs(arguments.next().map_or(Ok(0), |text| text.parse())?);
                }
                name => {
                    ensure!(NAMES.contains(&name), "no bench {name:?}; there are {}", NAMES.join(", "));
                    plan.names.push(name.to_owned());
                }
            }
        }
        Ok(plan)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    /// Sessions of the long run.
    pub(crate) fn lives(&self) -> usize {
        self.lives.max(2)
    }

    /// How often a figure is measured.
    pub(crate) fn runs(&self, usual: usize) -> usize {
        self.runs.unwrap_or(usual)
    }

    /// Waits for a quiet moment, and says how quiet it was.
    pub(crate) async fn settle(&self) -> f64 {
        wait_quiet(self.patience).await
    }
}

fn main() -> anyhow::Result<()> {
    // The clients share one thread: they are not what is measured.
    let clients = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    if std::env::args().nth(1).as_deref() == Some(echo::ARGUMENT) {
        return tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?
            .block_on(echo::serve());
    }
    let plan = Plan::read()?;
    eprintln!("machine: {}", machine(&std::env::temp_dir()));
    eprintln!("program: {}", plan.exe.display());
    eprintln!("load: {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    let (runtime, mut failed) = (clients()?, Vec::new());
    table::head();
    for name in NAMES.into_iter().filter(|name| plan.wants(name)) {
        eprintln!("\n== {name}");
        let done = match name {
            "floors" => runtime.block_on(floors::run(&plan)),
            "at-once" => runtime.block_on(sessions::at_once(&plan)),
            "life" => runtime.block_on(sessions::life(&plan)),
            "first-message" => runtime.block_on(sessions::first_message(&plan)),
            "creates" => runtime.block_on(creates::run(&plan)),
            "operations" => runtime.block_on(operations::run(&plan)),
            "queue" => tokio::runtime::Runtime::new()?.block_on(queue::run(&plan)),
            "watch" => runtime.block_on(watch::run(&plan)),
            // The driver and its API share a process, on threads as many as there are cores.
            "driver" => tokio::runtime::Runtime::new()?.block_on(driver::run(&plan)),
            "layers" => runtime.block_on(layers::run(&plan)),
            "footprint" => runtime.block_on(footprint::run(&plan)),
            "replicas" => runtime.block_on(replicas::run(&plan)),
            "takeover" => runtime.block_on(takeover::run(&plan)),
            _ => runtime.block_on(herd::run(&plan)),
        };
        // The others' figures are worth having all the same.
        if let Err(error) = done {
            eprintln!("{name} failed: {error:#}");
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
