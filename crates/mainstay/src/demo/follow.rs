//! Follows the demo's session: its messages as a user sees them, and its phases as a watch delivers them.

use std::process::Stdio;

use anyhow::{Context, ensure};
use futures::StreamExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use mainstay_api::phase::Phase;
use mainstay_api::session::Session;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::stage::Stage;

/// The messages of one session, through `mainstay messages -f`, which reconnects by itself.
pub(crate) struct Messages {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
    last: u64,
}

impl Messages {
    /// Follows from the first message on.
    pub(crate) fn follow(stage: &Stage, namespace: &str, session: &str) -> anyhow::Result<Self> {
        let mut command = stage.command(&["messages", session, "-n", namespace, "-f", "-o", "json"]);
        let mut child = command.stderr(Stdio::null()).spawn().context("start mainstay messages -f")?;
        let stdout = child.stdout.take().context("no output of mainstay messages -f")?;
        Ok(Self { lines: BufReader::new(stdout).lines(), _child: child, last: 0 })
    }

    /// The next message. Checks that none is missing and none comes twice.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Value> {
        let line = self.lines.next_line().await?.context("the stream of messages ended early")?;
        let message: Value = serde_json::from_str(&line).with_context(|| format!("read the message {line}"))?;
        let number = message["number"].as_u64().with_context(|| format!("a message without a number: {line}"))?;
        ensure!(number == self.last + 1, "message {number} came after message {}", self.last);
        self.last = number;
        Ok(message)
    }

    /// The number of the last message.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }
}

/// Each new phase of the session and when it was seen, over a watch that resumes after the server's death.
pub(crate) fn phases(
    client: kube::Client,
    namespace: &str,
    session: &str,
) -> mpsc::Receiver<(Phase, Instant, Session)> {
    let (sender, receiver) = mpsc::channel(64);
    let sessions: Api<Session> = Api::namespaced(client, namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={session}"));
    let mut stream = watcher(sessions, config).default_backoff().applied_objects().boxed();
    let watch = async move {
        let mut last = None;
        while let Some(event) = stream.next().await {
            let Ok(session) = event else { continue };
            let phase = session.status.as_ref().map(|status| status.phase).unwrap_or_default();
            if last.replace(phase) != Some(phase) && sender.send((phase, Instant::now(), session)).await.is_err() {
                return;
            }
        }
    };
    mainstay_runtime::Tasks::new().spawn("demo phases", watch);
    receiver
}
