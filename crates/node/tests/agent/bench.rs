//! The work bench: a data directory, an agent that can be stopped and started again, and waiting under a deadline.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_node::agent::{AgentConfig, Handle, Sandboxes, Shims, start, term};
use mainstay_node::launch::{Isolation, Order, Verb};
use mainstay_node::sandbox::probe::{Support, probe};
use mainstay_node::shim::{client, record};
use mainstay_runtime::duty::Duties;
use mainstay_runtime::{Clock, Tasks};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_api::FakeApi;

const DEADLINE: Duration = Duration::from_mins(1);
/// A host that limits processes and nothing else.
fn support() -> Support {
    let controllers = vec!["pids".to_owned()];
    Support { root: true, user_namespaces: true, controllers, landlock: 0, loop_devices: false, mkfs: false }
}

pub(crate) struct Bench {
    dir: TempDir,
    pub(crate) api: FakeApi,
    isolation: Isolation,
    sandboxes: Arc<dyn Sandboxes>,
    newest: u64,
    running: Option<(Tasks, Handle)>,
}

impl Bench {
    /// A bench whose agent runs.
    pub(crate) fn new() -> Self {
        let mut bench = Self::idle();
        bench.start();
        bench
    }

    /// A bench whose agent does not run yet.
    pub(crate) fn idle() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = Arc::new(Shims);
        Self { dir, api: FakeApi::new(), isolation: Isolation::None, sandboxes, newest: 0, running: None }
    }

    /// A bench whose agent runs and has these sandboxes.
    pub(crate) fn with(sandboxes: impl Sandboxes) -> Self {
        let mut bench = Self::idle();
        bench.sandboxes = Arc::new(sandboxes);
        bench.start();
        bench
    }

    /// A bench whose agent isolates its sandboxes as it does by default.
    pub(crate) fn isolated() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes namespaces, mounts and cgroups: run it as root");
        let mut bench = Self::idle();
        bench.isolation = Isolation::Full;
        bench.start();
        bench
    }

    pub(crate) fn start(&mut self) {
        let tasks = Tasks::new();
        let (client, newest, clock) = (self.api.client(), self.newest, Clock::system());
        let taken = async { term::take(&client, "local", newest, &term::Machine::default(), &clock).await.unwrap() };
        let term = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(taken));
        let config = AgentConfig {
            client: self.api.client(),
            api: self.api.relayed(),
            dir: self.path("node"),
            exe: env!("CARGO_BIN_EXE_mainstay-shim-test").into(),
            duties: Duties::alone(tasks.clone(), Clock::system()),
            tasks: tasks.clone(),
            clock: Clock::system(),
            term,
            support: if self.isolation == Isolation::None { support() } else { probe() },
            isolation: self.isolation,
            sandboxes: self.sandboxes.clone(),
        };
        self.running = Some((tasks, start(config).unwrap()));
    }

    /// Stops the agent; its sandboxes go on.
    pub(crate) async fn stop(&mut self) {
        let (tasks, _) = self.running.take().unwrap();
        tasks.shutdown(Duration::from_secs(20)).await.unwrap();
    }

    /// Whether the agent has ended, or is about to.
    pub(crate) fn is_ending(&self) -> bool {
        self.running.as_ref().unwrap().0.stopping().is_cancelled()
    }

    /// Starts a newer agent than one of this term.
    pub(crate) fn start_after(&mut self, newest: u64) {
        self.newest = newest;
        self.start();
    }

    pub(crate) fn agent(&self) -> &Handle {
        &self.running.as_ref().unwrap().1
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn run_dir(&self, uid: &str) -> PathBuf {
        self.path("node/run").join(uid)
    }

    /// What is left in the agent's directories.
    pub(crate) fn left_over(&self) -> Vec<PathBuf> {
        let dirs = ["node/run", "node/pods", "node/workspaces"].map(|dir| self.path(dir));
        let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Waits until the Pod's status satisfies `is`; returns it.
    pub(crate) async fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let look = || self.api.pod(name).map(|pod| pod["status"].clone()).filter(|status| is(status));
        eventually(&format!("{name}: {what}"), look).await
    }

    pub(crate) async fn ready(&self, name: &str) -> Value {
        self.until(name, "ready", |status| condition(status, "Ready") == "True").await
    }

    pub(crate) async fn finished(&self, name: &str) -> Value {
        self.until(name, "finished", |status| ["Succeeded", "Failed"].contains(&status["phase"].as_str().unwrap()))
            .await
    }

    /// Thirty Pods are Ready at one time, and nothing is left of them once they are deleted.
    pub(crate) async fn thirty_live_at_once(&self) {
        let names: Vec<_> = (0..30).map(|number| format!("fix-{number}")).collect();
        let uids: Vec<_> = names.iter().map(|name| self.api.create(pod(name, "exec sleep 600"))).collect();
        for name in &names {
            self.ready(name).await;
        }
        assert!(uids.iter().all(|uid| record::is_live(&self.run_dir(uid)).unwrap()), "all live at one time");
        for name in &names {
            self.api.delete(name, 0);
        }
        for name in &names {
            self.gone_object(name).await;
        }
        eventually("no left-overs", || self.left_over().is_empty().then_some(())).await;
    }

    async fn gone_object(&self, name: &str) {
        eventually("the object's end", || self.api.pod(name).is_none().then_some(())).await;
    }

    /// Waits until the object, and everything that was made for it, has gone.
    pub(crate) async fn gone(&self, name: &str) {
        self.gone_object(name).await;
        eventually("no left-overs", || self.left_over().is_empty().then_some(())).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let runs = std::fs::read_dir(self.path("node/run")).into_iter().flatten().filter_map(Result::ok);
        for run in runs.map(|run| run.path()).filter(|run| record::is_live(run).unwrap_or(false)) {
            client::send(&run, &Order { fence: u64::MAX, verb: Verb::Stop { grace_seconds: 0 } }).ok();
        }
    }
}

/// The status of a condition, or nothing.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> &'a str {
    let conditions = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|one| one["type"] == kind).map_or("", |one| one["status"].as_str().unwrap())
}

/// A Pod that runs `sh -c script` for session `fix`.
pub(crate) fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "finalizers": ["mainstay.dev/node"],
            "labels": { "mainstay.dev/session": "fix" },
            "annotations": { "mainstay.dev/session-uid": "s-1", "mainstay.dev/run": "1", "mainstay.dev/adaptor": "exec" },
        },
        "spec": {
            "nodeName": "local", "restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "agent", "command": ["/bin/sh", "-c", script], "resources": {},
                "volumeMounts": [{ "name": "workspace", "mountPath": "/workspace" }],
            }],
            "volumes": [{ "name": "workspace", "emptyDir": { "sizeLimit": "64Mi" } }],
        },
    })
}

/// Waits for a state, under a deadline.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
