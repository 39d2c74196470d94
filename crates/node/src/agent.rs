//! The node agent: keeps the sandboxes of this machine as the Pods of its node say.
//!
//! A watch tells of Pods; each has one task (`worker`) that observes, plans (`plan`, pure) and applies. Started and
//! adopted sandboxes are watched alike. The agent can die at any time: shims, records and the API hold all state.
//!
//! Where to look: `prepare` and `sources` make a launch of a Pod; `relay` is the sandbox's door to the API; `logs` reads
//! what it wrote, `exec` runs something in it; `orphans` finds what no Pod accounts for.

mod dispatch;
mod error;
pub mod exec;
mod layout;
pub mod logs;
mod notices;
mod orphans;
mod plan;
mod prepare;
mod ranges;
mod records;
pub mod relay;
mod sandboxes;
mod sources;
mod status;
pub mod term;
mod token;
mod view;
mod worker;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use kube::Client;
use mainstay_api::{quantity, session};
use mainstay_runtime::client::bounded_client;
use mainstay_runtime::duty::Duties;
use mainstay_runtime::failure::chain_of;
use mainstay_runtime::{Clock, Tasks};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::error::AgentError;
pub use self::sandboxes::{Look, Sandboxes, Shims};

use self::error::While;
use self::exec::Execs;
use self::layout::{Layout, is_plain, read_record};
use self::logs::{Following, LogError, LogOptions, LogStream};
use self::notices::Notices;
use self::plan::Desired;
use self::prepare::Host;
use self::ranges::Ranges;
use self::records::PodRecord;
use self::term::Term;
use crate::launch::{Isolation, PodRef};
use crate::sandbox::probe::Support;
use crate::sandbox::workspace;
use crate::shim::{LOG_DIR, record};

/// What a node agent is made of.
pub struct AgentConfig {
    /// The API, as `system:node:NAME`.
    pub client: Client,
    /// Where requests of sandboxes go.
    pub api: relay::Api,
    /// `DIR/node`.
    pub dir: PathBuf,
    /// The program that has the verb `__shim`.
    pub exe: PathBuf,
    /// The owner of the agent's tasks.
    pub tasks: Tasks,
    /// What the process does periodically; the agent adds its own.
    pub duties: Duties,
    /// The time.
    pub clock: Clock,
    /// The term that this start has taken.
    pub term: Term,
    /// What this host and user can enforce; a Pod that asks for more is refused.
    pub support: Support,
    /// How far sandboxes are set apart: [`Support::isolation`], but in tests.
    pub isolation: Isolation,
    /// The sandboxes: [`Shims`], but in tests.
    pub sandboxes: Arc<dyn Sandboxes>,
}

/// The running agent; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

/// What all parts of the agent share.
pub(crate) struct Shared {
    client: Client,
    api: relay::Api,
    layout: Layout,
    exe: PathBuf,
    tasks: Tasks,
    duties: Duties,
    clock: Clock,
    term: Term,
    renewed: watch::Sender<Option<Instant>>,
    instance: String,
    host: Host,
    sandboxes: Arc<dyn Sandboxes>,
    ranges: Ranges,
    execs: Execs,
    notices: Notices,
    workers: Mutex<HashMap<String, Attended>>,
    /// Cancelled once a shim, or the API, has refused what this agent does as an older one's than it knows.
    term_over: CancellationToken,
}

/// A Pod with a worker.
#[derive(Debug)]
struct Attended {
    /// Tells the worker what to make true.
    inbox: watch::Sender<Desired>,
    /// Cancelled once its sandbox has gone.
    gone: CancellationToken,
}

/// Starts the node agent. Needs a Tokio runtime.
///
/// # Errors
/// When its directory cannot be used.
pub fn start(config: AgentConfig) -> Result<Handle, AgentError> {
    let layout = Layout::new(config.dir).during("lay out the node agent's directory")?;
    let shared = Arc::new(Shared {
        instance: layout.instance().during("read the instance id")?,
        ranges: Ranges::load(&layout).during("read whose the workspaces are")?,
        execs: Execs::default(),
        notices: Notices::start(&config.tasks).during("watch directories")?,
        client: term::fenced(bounded_client(config.client), &config.term),
        api: config.api,
        layout,
        exe: config.exe,
        tasks: config.tasks,
        duties: config.duties,
        clock: config.clock,
        term: config.term,
        renewed: watch::Sender::new(None),
        host: Host { isolation: config.isolation, support: config.support },
        sandboxes: config.sandboxes,
        workers: Mutex::default(),
        term_over: CancellationToken::new(),
    });
    prepare_template(&shared);
    let work = shared.clone();
    shared.tasks.essential("node agent", |stop| dispatch::run(work, stop));
    let kept = term::Kept {
        client: shared.client.clone(),
        term: shared.term.clone(),
        clock: shared.clock.clone(),
        renewed: shared.renewed.clone(),
        over: shared.term_over.clone(),
    };
    shared.tasks.essential("node lease", |stop| kept.keep(stop));
    Ok(Handle(shared))
}

/// The newest term that a sandbox of the agent's directory `dir` has seen; 0 when there is none. An order of an older one
/// is refused.
pub fn newest_term(dir: &Path) -> u64 {
    let runs = Layout::at(dir.to_owned()).runs();
    let uids = layout::names(&runs).unwrap_or_default();
    // A shim that cannot be read is on its way in or out, or lost.
    let fences = uids.iter().filter_map(|uid| Some(record::read_state(&runs.join(uid)).ok()??.fence));
    fences.max().unwrap_or(0)
}

/// Makes the template of the usual workspace ahead, so that the first sandbox does not pay for it.
fn prepare_template(shared: &Arc<Shared>) {
    if shared.host.isolation != Isolation::Full {
        return;
    }
    let work = shared.clone();
    shared.tasks.spawn("workspace template", async move {
        let dir = work.layout.templates();
        let made = work.blocking(move || {
            let size = quantity::units(session::DEFAULT_WORKSPACE_SIZE).unwrap_or(1 << 30);
            workspace::template(&dir, size, false)
        });
        if let Ok(Err(error)) = made.await {
            tracing::warn!(error = chain_of(&error), "the template of a workspace could not be made ahead");
        }
    });
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("dir", &self.dir)
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("layout", &self.layout).field("host", &self.host).finish_non_exhaustive()
    }
}

impl Handle {
    /// The number of its term.
    pub fn term(&self) -> u64 {
        self.0.term.number
    }

    /// Whether another has taken its place: it may write no more, and ends.
    pub fn is_deposed(&self) -> bool {
        self.0.term_over.is_cancelled()
    }

    /// How long ago its lease was last renewed; `None` before the first time.
    pub fn renewed(&self) -> Option<Duration> {
        self.0.renewed.borrow().map(|at| at.elapsed())
    }

    /// How many Pods it looks after.
    pub fn pods(&self) -> usize {
        self.0.workers().len()
    }

    /// The log of a Pod, which is there until the Pod object goes.
    ///
    /// # Errors
    /// See [`LogError`].
    pub async fn logs(&self, pod_uid: &str, options: LogOptions) -> Result<LogStream, LogError> {
        let shared = &self.0;
        if !is_plain(pod_uid) {
            return Err(LogError::NoSuchLog);
        }
        let run_dir = shared.layout.run(pod_uid);
        let dir = run_dir.join(LOG_DIR);
        if !dir.is_dir() {
            let known = shared.workers().contains_key(pod_uid);
            return Err(if known { LogError::NotStarted } else { LogError::NoSuchLog });
        }
        // From here on, nothing that is written goes unnoticed.
        let follow = || Ok(Following { watch: shared.notices.watch(&dir)?, ended: shared.end_of(pod_uid)? });
        let following = options.follow.then(follow).transpose().map_err(LogError::Io)?;
        let opened = tokio::task::spawn_blocking(move || logs::read(dir, &options, following)).await;
        Ok(opened.map_err(std::io::Error::other)??)
    }
}

impl Shared {
    fn workers(&self) -> MutexGuard<'_, HashMap<String, Attended>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of a Pod's sandbox, which its worker awaits for everybody.
    fn end_of(&self, uid: &str) -> std::io::Result<BoxFuture<'static, ()>> {
        let run_dir = self.layout.run(uid);
        if !matches!(self.sandboxes.look(&run_dir)?, Look::Live(_)) {
            return Ok(Box::pin(std::future::ready(())));
        }
        let gone = self.workers().get(uid).map(|attended| attended.gone.clone());
        Ok(match gone {
            Some(gone) => Box::pin(gone.cancelled_owned()),
            None => self.sandboxes.gone(run_dir),
        })
    }

    /// Runs what may block on a thread that may.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, AgentError> {
        tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other).during("run a blocking call")
    }

    /// The name of a Pod, from what is written down about it here.
    fn known_as(&self, uid: &str) -> Result<Option<PodRef>, AgentError> {
        let own: Option<PodRecord> = read_record(&self.layout.record(uid)).during("read the Pod's record")?;
        if let Some(own) = own {
            return Ok(Some(own.pod));
        }
        let run_dir = self.layout.run(uid);
        if let Some(state) = record::read_state(&run_dir).during("read the sandbox's state")? {
            return Ok(Some(state.pod));
        }
        Ok(record::read_exit(&run_dir).during("read the sandbox's record")?.map(|exit| exit.pod))
    }

    /// The uids of a Pod's sandbox as the host sees them, and who owns what it is given, if not we.
    fn uids_of(&self, pod: &str, isolation: Isolation) -> (Range<u32>, Option<u32>) {
        match (isolation, self.ranges.held_by(pod)) {
            (Isolation::Full, Some(base)) => (base..base + ranges::SIZE, Some(base + ranges::INSIDE)),
            // Nobody may connect before it is known who.
            (Isolation::Full, None) => (0..0, None),
            (Isolation::User | Isolation::None, _) => {
                let own = rustix::process::geteuid().as_raw();
                (own..own.saturating_add(1), None)
            }
        }
    }
}
