//! A server with one project, and what happens to its sessions.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use mainstay_testkit::server::Server;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::link::{Access, Link};

pub(crate) const GROUP: &str = "/apis/mainstay.dev/v1alpha1";
pub(crate) const SESSIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/bench/sessions";
/// Longest time for any one thing to happen.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) access: Access,
    pub(crate) link: Link,
}

/// A change of a session.
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) name: String,
    /// `None` when it has gone.
    pub(crate) phase: Option<String>,
}

impl Stage {
    /// A server, and in it a project whose default agent runs `command`.
    pub(crate) async fn open(exe: &std::path::Path, command: &[&str]) -> anyhow::Result<Self> {
        let server = Server::start(exe)?;
        let access = Access::of(&server.kubeconfig())?;
        let link = access.connect().await?;
        let mut stage = Self { server, access, link };
        let project = json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "Project", "metadata": { "name": "bench" },
            "spec": { "defaultAgent": "trivial" } });
        stage.link.send(Method::POST, &format!("{GROUP}/projects"), project.to_string()).await?;
        let agent = json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "Agent", "metadata": { "name": "trivial" },
            "spec": { "command": command } });
        // The project's namespace comes a moment later.
        let until = Instant::now() + PATIENCE;
        let agents = format!("{GROUP}/namespaces/bench/agents");
        while let Err(error) = stage.link.send(Method::POST, &agents, agent.to_string()).await {
            ensure!(Instant::now() < until, "no namespace for the agent: {error:#}");
            sleep(Duration::from_millis(5)).await;
        }
        // So do its bindings, and the node agent's preparations: what is measured begins in a settled server.
        sleep(Duration::from_millis(1_500)).await;
        Ok(stage)
    }

    /// Follows the project's sessions from now on.
    pub(crate) async fn follow(&self) -> anyhow::Result<mpsc::UnboundedReceiver<anyhow::Result<Seen>>> {
        let mut link = self.access.connect().await?;
        let list: Value = serde_json::from_slice(&link.send(Method::GET, SESSIONS, "").await?)?;
        let from = list["metadata"]["resourceVersion"].as_str().context("a revision")?;
        let mut lines = link.lines(&format!("{SESSIONS}?watch=1&resourceVersion={from}")).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        drop(self.access.tasks().spawn("follow", async move {
            let _link = link;
            loop {
                let seen = lines.next().await.and_then(|line| seen(&line));
                let ended = seen.is_err();
                if sender.send(seen).is_err() || ended {
                    return;
                }
            }
        }));
        Ok(receiver)
    }

    /// Every Pod must say that it is isolated.
    pub(crate) async fn check_isolation(&mut self) -> anyhow::Result<()> {
        let pods = self.link.send(Method::GET, "/api/v1/namespaces/bench/pods", "").await?;
        let pods: Value = serde_json::from_slice(&pods)?;
        for pod in pods["items"].as_array().context("Pods")? {
            let conditions = pod["status"]["conditions"].as_array().context("conditions")?;
            let isolated = conditions.iter().any(|one| one["type"] == "Isolated" && one["status"] == "True");
            ensure!(isolated, "{} is not isolated: {:?}", pod["metadata"]["name"], conditions);
        }
        Ok(())
    }

    /// What is there when nothing happens any more: sessions, Pods, and what the server logged.
    pub(crate) async fn left(&self) -> String {
        let mut parts = Vec::new();
        for path in [SESSIONS, "/api/v1/namespaces/bench/pods"] {
            let mut link = self.link.clone();
            let list = timeout(PATIENCE, link.send(Method::GET, path, "")).await;
            let list = list.map_err(anyhow::Error::from).and_then(|list| Ok(serde_json::from_slice::<Value>(&list?)?));
            parts.push(match list {
                Ok(list) => format!("{path}: {:#}\n", list["items"]),
                Err(error) => format!("{path}: {error:#}\n"),
            });
        }
        parts.push(self.server.log_text());
        parts.concat()
    }

    /// Deletes all sessions, waits until they have gone, and ends the server.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.link.send(Method::DELETE, SESSIONS, "").await?;
        let until = Instant::now() + PATIENCE;
        loop {
            let list: Value = serde_json::from_slice(&self.link.send(Method::GET, SESSIONS, "").await?)?;
            if list["items"].as_array().is_none_or(Vec::is_empty) {
                break;
            }
            ensure!(Instant::now() < until, "sessions did not go");
            sleep(Duration::from_millis(20)).await;
        }
        // Its connections are ours to close: this thread must not wait for it and leave them unread.
        let mut server = self.server;
        tokio::task::spawn_blocking(move || server.stop()).await?
    }
}

fn seen(line: &[u8]) -> anyhow::Result<Seen> {
    let at = Instant::now();
    let event: Value = serde_json::from_slice(line)?;
    ensure!(event["type"] != "ERROR", "the watch failed: {event}");
    let object = &event["object"];
    let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
    let phase = object["status"]["phase"].as_str().unwrap_or("Pending").to_owned();
    Ok(Seen { at, name, phase: (event["type"] != "DELETED").then_some(phase) })
}

/// The next change, under a deadline.
pub(crate) async fn next(changes: &mut mpsc::UnboundedReceiver<anyhow::Result<Seen>>) -> anyhow::Result<Seen> {
    timeout(PATIENCE, changes.recv()).await.context("nothing happened any more")?.context("the watch ended")?
}

/// A session's manifest.
pub(crate) fn session(name: &str, spec: &Value) -> String {
    json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "metadata": { "name": name }, "spec": spec })
        .to_string()
}
