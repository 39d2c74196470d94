//! A process while it runs: what its parts leave for those after them.

pub(super) mod server;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use mainstay_node::agent::Handle;
use mainstay_runtime::{Clock, Tasks};
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::front::Front;
use super::machine::Machine;
use super::role::{Part, Role};
use super::traces::Figures;
use server::Served;

/// What all parts share, and what each has made.
#[derive(Clone)]
pub(super) struct Process {
    /// The command line.
    pub(super) args: ServeArgs,
    /// The URLs of the servers, of a node's.
    pub(super) servers: Vec<String>,
    /// The parts that were started.
    started: Vec<&'static str>,
    /// Owns all tasks.
    pub(super) tasks: Tasks,
    /// Listens.
    pub(super) front: Front,
    /// It was told to stop, and says so to whoever asks whether it is ready; it still does everything.
    pub(super) leaving: CancellationToken,
    /// The time.
    pub(super) clock: Clock,
    /// What becomes of traces.
    pub(super) figures: Figures,
    /// The store and the API server on it.
    pub(super) served: Option<Served>,
    /// A node's identity and clients.
    pub(super) machine: Option<Machine>,
    /// A node's agent.
    pub(super) agent: Option<Handle>,
}

impl Process {
    /// A process with nothing started. Makes its data directory.
    pub(super) fn new(
        (args, servers): (ServeArgs, Vec<String>),
        (tasks, front): (Tasks, Front),
        figures: Figures,
    ) -> anyhow::Result<Self> {
        super::dir::prepare(&args.data_dir)?;
        let clock = Clock::kept_in(&args.data_dir.join("clock")).context("open the clock")?;
        Ok(Self {
            args,
            servers,
            started: Vec::new(),
            tasks,
            front,
            leaving: CancellationToken::new(),
            clock,
            figures,
            served: None,
            machine: None,
            agent: None,
        })
    }

    /// Starts a part, after all that it needs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) async fn start(&mut self, part: &'static Part) -> anyhow::Result<()> {
        let mut needed = self.role().parts().filter(|other| part.needs.contains(&other.name));
        let lacking = needed.find(|other| !self.started.contains(&other.name));
        ensure!(lacking.is_none(), "{} was to be started before what it needs", part.name);
        (part.start)(self).await.with_context(|| format!("start: {}", part.name))?;
        tracing::debug!(part = part.name, "started");
        self.started.push(part.name);
        Ok(())
    }

    /// The data directory.
    pub(super) fn dir(&self) -> PathBuf {
        self.args.data_dir.clone()
    }

    /// Its role.
    pub(super) fn role(&self) -> Role {
        self.args.role
    }

    /// The store and the API server, which parts before have opened.
    pub(super) fn served(&self) -> anyhow::Result<&Served> {
        self.served.as_ref().context("the store is not open yet")
    }

    /// The identity of this machine, which a part before has found.
    pub(super) fn machine(&self) -> anyhow::Result<&Machine> {
        self.machine.as_ref().context("this node has no identity yet")
    }
}
