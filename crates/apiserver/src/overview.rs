//! `/status`: how the server is, in one document for people and their tools. Whoever may read `/metrics` may read it, so
//! it names what there is, and shows no content.

mod read;

use mainstay_runtime::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use read::overview;

/// The most projects that are named, those with most operations first.
pub const PROJECTS: usize = 10;
/// The most dead letters that are named, the newest first.
pub const DEAD_LETTERS: usize = 20;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The program's version.
    pub version: String,
    /// For how long the server has run.
    pub uptime_seconds: u64,
    /// Whether all checks are well.
    pub ready: bool,
    /// What `/readyz` looks at.
    pub checks: Vec<Check>,
    /// The store.
    pub store: Store,
    /// The queue of operations; `None` when it could not be read in time.
    pub queue: Option<Queue>,
    /// Operations that ended without success and wait for somebody to look; [`DEAD_LETTERS`] of them at most.
    pub dead_letters: Vec<DeadLetter>,
    /// What stands in front of backends.
    pub breakers: Vec<Breaker>,
    /// Leases that this process asked for.
    pub leases: Vec<Lease>,
    /// What is done periodically.
    pub duties: Vec<Duty>,
}

/// One readiness check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What is wrong; `None` when nothing is.
    pub failure: Option<String>,
}

/// The store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// Objects.
    pub objects: u64,
    /// The newest revision.
    pub revision: u64,
    /// The compaction floor.
    pub floor: u64,
    /// Writes that wait for the writer.
    pub queued: u64,
    /// Writes since the start.
    pub writes: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Open watches.
    pub watchers: u64,
}

/// Operations by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Depth {
    /// Can be claimed.
    pub ready: u64,
    /// Wait for their time.
    pub delayed: u64,
    /// Wait for another with their concurrency key.
    pub blocked: u64,
    /// Are carried out.
    pub running: u64,
    /// Dead letters.
    pub dead: u64,
}

/// The queue of operations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Of all projects.
    pub all: Depth,
    /// For how long the longest of those that can be claimed has waited.
    pub longest_wait_seconds: Option<f64>,
    /// What was refused because its attempt was not the current one, since the start.
    pub fenced: u64,
    /// Attempts whose worker was lost, since the start.
    pub workers_lost: u64,
    /// How many projects have operations.
    pub projects: u64,
    /// The [`PROJECTS`] with the most of them.
    pub most: Vec<Project>,
}

/// The operations of one project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// Its name.
    pub name: String,
    /// Its operations.
    #[serde(flatten)]
    pub depth: Depth,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whom it was for.
    pub project: String,
    /// Who carried it out.
    pub handler: String,
    /// `KIND/NAME` of its owner, if it has one.
    pub owner: Option<String>,
    /// Of what it died, as one word.
    pub reason: Option<String>,
    /// When it died.
    pub at: Option<Timestamp>,
}

/// The breaker and the bulkhead of one host of one backend, for one class of operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// The backend.
    pub backend: String,
    /// The class of operation.
    pub class: String,
    /// The host.
    pub host: String,
    /// `closed`, `half-open` or `open`.
    pub state: String,
    /// For how long.
    pub since_seconds: u64,
    /// Calls on their way.
    pub in_flight: u64,
    /// Calls that may be on their way.
    pub places: u64,
    /// Calls that wait for a place.
    pub waiting: u64,
    /// Calls.
    pub calls: u64,
    /// Attempts that failed by the backend's fault.
    pub sick: u64,
    /// Attempts that the open breaker refused.
    pub refused: u64,
}

/// A lease as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Its name.
    pub name: String,
    /// Whether this process holds it.
    pub held: bool,
    /// The newest term that it had here.
    pub term: u64,
    /// How long ago that term began.
    pub since_seconds: u64,
}

/// A periodic duty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Duty {
    /// Its name.
    pub name: String,
    /// Whether a pass is under way.
    pub running: bool,
    /// When a pass last succeeded.
    pub last_success: Option<Timestamp>,
    /// When the next is to begin.
    pub next: Option<Timestamp>,
    /// Passes that ended.
    pub passes: u64,
    /// Due times at which no pass could begin.
    pub missed: u64,
    /// Failures, of all classes.
    pub failures: u64,
}
