//! A project on a server of the test's own, and what can be seen of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_api::phase::Phase;
use mainstay_api::session::Session;
use mainstay_runtime::Tasks;
use mainstay_testkit::crash::client::{Answer, Client, Objects};
use mainstay_testkit::crash::{leftovers, start};
use mainstay_testkit::server::{Server, processes_naming};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::EXE;

/// Longest time for one step of a session, over all deaths of the server.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
const ROUNDS_ENV: &str = "MAINSTAY_CRASH_ROUNDS";
const PAUSE: Duration = Duration::from_millis(10);
const PROJECT: &str = "crash";
const PROJECTS: &str = "/apis/mainstay.dev/v1alpha1/projects";

/// A project whose sessions are looked after.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) sessions: Objects<Session>,
    scratch: PathBuf,
}

/// One message, as a reader gets it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) run: u64,
    pub(crate) text: String,
    pub(crate) redelivered: bool,
}

impl World {
    /// With a project. The server must run.
    pub(crate) async fn new(server: &Server) -> anyhow::Result<Self> {
        let world = Self::begin(server).await?;
        world.project().await?;
        Ok(world)
    }

    /// Without a project yet. The server must have run once.
    pub(crate) async fn begin(server: &Server) -> anyhow::Result<Self> {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make namespaces, mounts and cgroups: run them as root"
        );
        let client = Client::new(server.client().await?);
        let sessions = client.objects(PROJECT, &Tasks::new());
        Ok(Self { client, sessions, scratch: server.scratch().to_owned() })
    }

    /// Makes the project.
    pub(crate) async fn project(&self) -> anyhow::Result<()> {
        let project = json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "Project", "metadata": { "name": PROJECT },
            "spec": { "sessionDefaults": { "workspaceSize": "16Mi" } },
        });
        self.client.create(PROJECTS, &project).await?;
        let until = Instant::now() + PATIENCE;
        while self.client.get(&format!("{PROJECTS}/{PROJECT}")).await?.json()?["status"]["phase"] != "Active" {
            ensure!(Instant::now() < until, "the project did not become active");
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Where a session is, and the path below it.
    pub(crate) fn path(name: &str, below: &str) -> String {
        format!("/apis/mainstay.dev/v1alpha1/namespaces/{PROJECT}/sessions/{name}{below}")
    }

    /// Creates a session that runs a shell script.
    pub(crate) async fn create(&self, name: &str, script: &str, spec: Value) -> anyhow::Result<()> {
        let mut session = json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "metadata": { "name": name }, "spec": spec,
        });
        session["spec"]["command"] = json!(["/bin/sh", "-c", script]);
        session["spec"]["env"] = json!([{ "name": "CRASH_MARK", "value": self.mark(name) }]);
        self.client.create(Self::path("", "").trim_end_matches('/'), &session).await
    }

    /// Changes a session's spec.
    pub(crate) async fn change(&self, name: &str, spec: &Value) -> anyhow::Result<()> {
        self.client.call("PATCH", &Self::path(name, ""), &json!({ "spec": spec })).await?.done()?;
        Ok(())
    }

    /// Waits until a session is as it should be.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&Session) -> bool,
    ) -> anyhow::Result<Session> {
        let mut sessions = self.sessions.clone();
        let seen = timeout(PATIENCE, sessions.wait_for(|all| all.get(name).is_some_and(&holds))).await;
        match seen {
            Ok(found) => found?.get(name).cloned().context("a session"),
            Err(_) => {
                anyhow::bail!("session {name} was to be {what} in {PATIENCE:?}: {:?}", self.sessions.borrow().get(name))
            }
        }
    }

    /// Waits until a run is in this phase, or beyond it.
    pub(crate) async fn phase(&self, name: &str, run: u64, phase: Phase) -> anyhow::Result<Session> {
        let session = self.until(name, phase.as_str(), |session| {
            let status = session.status.as_ref();
            status
                .is_some_and(|status| status.run == Some(run) && (status.phase == phase || status.phase.is_terminal()))
        });
        let session = session.await?;
        let found = session.status.as_ref().map(|status| status.phase);
        ensure!(found == Some(phase), "session {name}, run {run}, was to be {phase}: {:?}", session.status);
        Ok(session)
    }

    /// Waits until a session is gone.
    pub(crate) async fn gone(&self, name: &str) -> anyhow::Result<()> {
        self.absent(&Self::path(name, "")).await
    }

    /// Waits until there is no such object.
    async fn absent(&self, path: &str) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.client.get(path).await?;
            if matches!(found, Answer::Refused(404, _)) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{path} was to go in {PATIENCE:?}: {found:?}");
            sleep(PAUSE).await;
        }
    }

    /// All messages of a session. Their numbers have no gap, and no id is there twice.
    pub(crate) async fn messages(&self, name: &str) -> anyhow::Result<Vec<Message>> {
        let body = self.client.get(&Self::path(name, "/messages")).await?.done()?;
        let messages = body.lines().map(Message::read).collect::<anyhow::Result<Vec<_>>>()?;
        let mut ids = std::collections::HashSet::new();
        for (message, number) in messages.iter().zip(1..) {
            ensure!(message.number == number, "{name}: message {} came as number {number}", message.number);
            ensure!(ids.insert(message.id.as_str()), "{name}: message {:?} is there twice", message.id);
        }
        Ok(messages)
    }

    /// What the agent said in a run, in order.
    pub(crate) async fn said(&self, name: &str, run: u64) -> anyhow::Result<Vec<String>> {
        let all = self.messages(name).await?;
        Ok(all.into_iter().filter(|said| said.kind == "agent" && said.run == run).map(|said| said.text).collect())
    }

    /// Waits until the agent has said this in a run.
    pub(crate) async fn heard(&self, name: &str, run: u64, text: &str) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = self.said(name, run).await?;
            if said.iter().any(|said| said == text) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{name}, run {run}, was to say {text:?} in {PATIENCE:?}: {said:?}");
            sleep(PAUSE).await;
        }
    }

    /// Sends a user message under an id; its number.
    pub(crate) async fn send(&self, name: &str, id: &str, text: &str) -> anyhow::Result<u64> {
        let body = json!({ "messages": [{ "id": id, "type": "user", "text": text }] });
        let sent = self.client.call("POST", &Self::path(name, "/messages"), &body).await?.json()?;
        sent["messages"][0]["number"].as_u64().with_context(|| format!("a number in {sent}"))
    }

    /// The uid of a run's Pod, once it is there.
    pub(crate) async fn pod_uid(&self, name: &str, run: u64) -> anyhow::Result<String> {
        let path = Self::pod(name, run);
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.get(&path).await? {
                Answer::Refused(404, _) => ensure!(Instant::now() < until, "{path} never came"),
                pod => return Ok(pod.json()?["metadata"]["uid"].as_str().unwrap_or_default().to_owned()),
            }
            sleep(PAUSE).await;
        }
    }

    /// The log of a run's Pod.
    pub(crate) async fn log(&self, name: &str, run: u64) -> anyhow::Result<Answer> {
        self.client.get(&format!("{}/log", Self::pod(name, run))).await
    }

    fn pod(name: &str, run: u64) -> String {
        format!("/api/v1/namespaces/{PROJECT}/pods/{name}-{run}")
    }

    /// Orders a new token for a live run, and waits until its sandbox has it.
    pub(crate) async fn renew_token(&self, name: &str, run: u64) -> anyhow::Result<()> {
        let token = self.scratch.join("data/node/pods").join(self.pod_uid(name, run).await?).join("token/token");
        let before = std::fs::read(&token)?;
        let order = json!({ "metadata": { "annotations": { "mainstay.dev/token-renewal": "by the test" } } });
        self.client.call("PATCH", &Self::pod(name, run), &order).await?.done()?;
        let until = Instant::now() + PATIENCE;
        while std::fs::read(&token)? == before {
            ensure!(Instant::now() < until, "{name} got no new token");
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Creates a Pod that runs a shell script, as a person would.
    pub(crate) async fn create_pod(&self, name: &str, script: &str) -> anyhow::Result<()> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("{name}-1") },
            "spec": {
                "restartPolicy": "Never",
                "containers": [{ "name": "agent", "command": ["/bin/sh", "-c", script], "workingDir": "/" }],
            },
        });
        self.client.create(&format!("/api/v1/namespaces/{PROJECT}/pods"), &pod).await
    }

    /// Deletes it.
    pub(crate) async fn delete_pod(&self, name: &str) -> anyhow::Result<()> {
        self.client.delete(&Self::pod(name, 1)).await.map(drop)
    }

    /// Waits until it is so.
    pub(crate) async fn until_pod(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(Option<&Value>) -> bool,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let pod = match self.client.get(&Self::pod(name, 1)).await? {
                Answer::Refused(404, _) => None,
                pod => Some(pod.json()?),
            };
            if holds(pod.as_ref()) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "Pod {name} was to be {what} in {PATIENCE:?}: {pod:?}");
            sleep(PAUSE).await;
        }
    }

    /// What every process of a session's agent has in its environment.
    fn mark(&self, name: &str) -> String {
        format!("{}/mark-{name}.", self.scratch.display())
    }

    /// The processes of a session's agent on this host.
    pub(crate) fn agents(&self, name: &str) -> Vec<u32> {
        let mut agents = processes_naming(&self.mark(name));
        agents.sort_unstable();
        agents
    }

    /// Waits until no process of a session's agent is there.
    pub(crate) async fn quiet(&self, name: &str) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.agents(name).is_empty() {
            ensure!(Instant::now() < until, "the agent of {name} still runs: {:?}", self.agents(name));
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Deletes the project and waits until the server has nothing of it.
    pub(crate) async fn end(&self) -> anyhow::Result<()> {
        let project = format!("{PROJECTS}/{PROJECT}");
        self.client.delete(&project).await?;
        self.absent(&project).await?;
        self.absent(&format!("/api/v1/namespaces/{PROJECT}")).await
    }
}

impl Message {
    fn read(line: &str) -> anyhow::Result<Self> {
        let read: Value = serde_json::from_str(line).with_context(|| format!("read the message {line}"))?;
        let text = |field: &str| read[field].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            number: read["number"].as_u64().with_context(|| format!("a message without a number: {line}"))?,
            id: text("id"),
            kind: text("type"),
            run: read["run"].as_u64().unwrap_or_default(),
            text: text("text"),
            redelivered: read["redelivered"] == true,
        })
    }
}

/// A server that has run once, calmly, and does not run now: its address and its keys are settled.
pub(crate) async fn begun() -> anyhow::Result<Server> {
    let (mut server, ready) = start(Server::idle(EXE)?).await?;
    ready?;
    server.kill9()?;
    Ok(server)
}

/// Sees that no sandbox has left anything, ends the server in an orderly way, and sees that nothing of it stays either.
pub(crate) async fn close(mut server: Server) -> anyhow::Result<()> {
    leftovers::none(&server.data_dir(), server.pid()).await?;
    let server = tokio::task::spawn_blocking(move || server.stop().map(|()| server)).await??;
    leftovers::none(&server.data_dir(), None).await
}

/// How often a test draws its faults: [`ROUNDS_ENV`], or once.
pub(crate) fn rounds() -> usize {
    std::env::var(ROUNDS_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Shows what the server said when a test failed.
pub(crate) fn with_log<T>(outcome: anyhow::Result<T>, log: &Path) -> anyhow::Result<T> {
    outcome.with_context(|| {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("the server's last words:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"))
    })
}
