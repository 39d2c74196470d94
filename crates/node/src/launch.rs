//! What is to be run, as the node agent hands it to a shim, and what the shim records of it.
//!
//! The agent writes a [`Launch`] to the new shim's standard input, so that secrets never touch a disk or argv. What a
//! later agent needs to adopt a sandbox is in the run directory: [`RunState`] in `state.json` while it lives, and
//! [`ExitRecord`] in `exit.json`, written by fsync and rename, once it has ended. Identity is the run directory's
//! lock and the boot id, never a pid.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One sandbox to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Launch {
    /// The Pod this sandbox realises.
    pub pod: PodRef,
    /// The session and run that the Pod belongs to; `None` for a Pod that somebody made by hand.
    pub session: Option<SessionRef>,
    /// How user input and output are framed for the agent process.
    pub adaptor: Adaptor,
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// The environment of the agent process, on top of the sandbox's own defaults.
    pub env: BTreeMap<String, String>,
    /// Absolute path inside the sandbox.
    pub working_dir: String,
    /// What the sandbox may use at most.
    pub limits: Limits,
    /// Time between SIGTERM and SIGKILL, in seconds.
    pub grace_seconds: u64,
    /// Longest life of the sandbox, in seconds from its start; held by the shim itself.
    pub deadline_seconds: Option<u64>,
    /// The fencing token of the control plane that ordered this; a shim refuses orders with an older one.
    pub fence: u64,
    /// Where the workspace lives.
    pub workspace: Workspace,
    /// Files that exist only in the sandbox's memory, or read-only.
    pub files: Vec<FileSet>,
    /// `DIR/node/run/POD_UID`; does not exist yet, the shim claims it by mkdir.
    pub run_dir: PathBuf,
    /// `DIR/node/pods/POD_UID/sock`: the relay's socket directory, made by the node agent before the launch and bound
    /// into the sandbox as `/mainstay/run`. The shim makes, keeps and removes nothing of it.
    pub sock_dir: PathBuf,
    /// `DIR/node/pods/POD_UID/token`: the session token's directory, likewise bound as `/mainstay/token`.
    pub token_dir: PathBuf,
    /// The id of this data directory (`DIR/node/instance`): cgroups are named `mainstay/INSTANCE/POD_UID`, so that a
    /// node agent never takes another's for an orphan of its own.
    pub instance: String,
    /// Run as the namespaces' isolation demands, or as plain child processes (tests only ask for [`Isolation::None`]).
    pub isolation: Isolation,
    /// The first host uid and gid of this sandbox's range of 65,536 (root only).
    pub uid_base: u32,
    /// Log rotation: bytes of one file, and how many are kept.
    pub log: LogLimits,
}

/// Which Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Namespace of the Pod.
    pub namespace: String,
    /// Name of the Pod.
    pub name: String,
    /// Uid of the Pod.
    pub uid: String,
}

/// Which run of which session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRef {
    /// Name of the session, in the Pod's namespace.
    pub name: String,
    /// Uid of the session.
    pub uid: String,
    /// The run's number, from 1.
    pub run: u64,
    /// End the sandbox when the agent has answered what it was asked (it went idle), instead of waiting for more.
    pub stop_on_finish: bool,
}

/// The framing between supervisor and agent process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adaptor {
    /// Lines of text each way.
    Exec,
    /// One JSON event per line each way, as agent CLIs offer.
    StreamJson,
}

/// How far the sandbox is set apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Started as root: a uid range of its own, all namespaces, cgroup limits, seccomp, Landlock.
    Full,
    /// Started as an ordinary user: one mapped uid, limits only where delegated.
    User,
    /// No isolation, for tests of what does not depend on it; the Pod says so (`Isolated=False`).
    None,
}

/// Limits; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory, page cache included.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// The writable directory that the agent process works in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// `DIR/node/workspaces/KEY`.
    pub dir: PathBuf,
    /// Where it appears in the sandbox.
    pub mount: String,
    /// Its size in bytes, a real limit.
    pub size_bytes: u64,
    /// Survives this sandbox.
    pub keep: bool,
}

/// A directory of small files inside the sandbox.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileSet {
    /// Absolute path inside the sandbox, below `/mainstay`.
    pub mount: String,
    /// Permission bits of each file.
    pub mode: u32,
    /// File name -> content, base64.
    pub files: BTreeMap<String, String>,
}

impl std::fmt::Debug for FileSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Contents may be secrets.
        f.debug_struct("FileSet").field("mount", &self.mount).field("files", &self.files.keys()).finish_non_exhaustive()
    }
}

/// Bounds of the sandbox's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLimits {
    /// Bytes of one file before it is rotated.
    pub file_bytes: u64,
    /// How many files are kept, the current one included.
    pub files: u32,
}

/// A live sandbox, as its shim describes it in `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunState {
    /// The launch, without file contents and environment values.
    pub pod: PodRef,
    /// See [`Launch::session`].
    pub session: Option<SessionRef>,
    /// The kernel boot in which it was started.
    pub boot_id: String,
    /// The shim's pid, for messages to people only.
    pub shim_pid: i32,
    /// The sandbox's init process, seen from the host.
    pub init_pid: Option<i32>,
    /// First host uid of the sandbox's range.
    pub uid_base: u32,
    /// When the init process was started, RFC 3339.
    pub started_at: Option<String>,
    /// What of the isolation is in force.
    pub isolation: EffectiveIsolation,
    /// The newest fencing token seen.
    pub fence: u64,
    /// Cgroup directories made for this sandbox.
    pub cgroups: Vec<PathBuf>,
}

/// What of the isolation is really in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveIsolation {
    /// Asked for.
    pub asked: Isolation,
    /// In force, in words: `user`, `pid`, `mount`, `network`, `ipc`, `uts`, `cgroup`, `seccomp`, `landlock`, `limits:memory` ...
    pub in_force: Vec<String>,
}

/// How a sandbox ended; written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// The Pod whose sandbox it was.
    pub pod: PodRef,
    /// Why it ended.
    pub reason: ExitReason,
    /// The agent process's exit code, if it exited by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The root cause in words, for `CreationFailed` and `Error`.
    pub message: String,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: String,
}

/// Why a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// The agent process exited with 0.
    Completed,
    /// It exited otherwise, or a signal that nobody ordered ended it.
    Error,
    /// The cgroup's OOM count rose and the agent or the init process was the victim.
    OOMKilled,
    /// The sandbox outlived its deadline.
    DeadlineExceeded,
    /// We were asked to stop it.
    Stopped,
    /// It never started.
    CreationFailed,
}

/// An order to a live shim, one JSON object per line over its control socket `run/POD_UID/control.sock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The sender's fencing token; an older one than the shim has seen is refused.
    pub fence: u64,
    /// What to do.
    pub verb: Verb,
}

/// What a shim can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// End the sandbox: SIGTERM, the grace period, SIGKILL. Repeating it is harmless.
    Stop {
        /// Grace period of this stop, in seconds.
        grace_seconds: u64,
    },
    /// Only notes the newer fencing token.
    Fence,
}

/// The shim's answer to an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the order was taken.
    pub accepted: bool,
    /// Why not.
    pub message: String,
}
