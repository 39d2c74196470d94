//! A server, a drill-backend, and the operations between them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_testkit::crash::client::{Answer, Client};
use mainstay_testkit::crash::{arm, start};
use mainstay_testkit::drill_backend::{DrillBackend, Effect, Guards, doubled};
use mainstay_testkit::server::Server;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{database, exe};

/// Longest time for an operation, over all that happens to it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);
/// Guards of drill-backend that are taken away, with commas between them.
const BACKEND_WITHOUT: &str = "MAINSTAY_DRILL_BACKEND_WITHOUT";
/// Between two looks.
pub(crate) const GLANCE: Duration = Duration::from_millis(10);
/// Operations here are in the namespace that every server has.
pub(crate) const OPERATIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/operations";

/// What operations act on, and how they are talked to, whichever server runs.
pub(crate) struct Stage {
    pub(crate) client: Client,
    pub(crate) backend: DrillBackend,
    log: PathBuf,
}

impl Stage {
    /// With a server that runs.
    pub(crate) async fn running() -> anyhow::Result<(Self, Server)> {
        Self::of(Server::idle(exe())?).await
    }

    /// With this server, which is started on this run's database.
    pub(crate) async fn of(mut server: Server) -> anyhow::Result<(Self, Server)> {
        database::give(&mut server)?;
        Self::as_is(server).await
    }

    /// With this server, which is started on the database that it has.
    pub(crate) async fn as_is(mut server: Server) -> anyhow::Result<(Self, Server)> {
        let mut backend = DrillBackend::start()?;
        backend.guard(guards()).await?;
        server.set_arguments(&["--drill-backend", &backend.url()]);
        let (server, ready) = start(server).await?;
        ready?;
        let client = Client::new(server.client().await?);
        let log = server.scratch().join("serve.log");
        Ok((Self { client, backend, log }, server))
    }

    /// Orders an operation; that it was ordered before is as good.
    pub(crate) async fn order(&self, name: &str, spec: &Value) -> anyhow::Result<()> {
        self.client.create(OPERATIONS, &operation(name, spec)).await
    }

    /// Changes an operation's spec.
    pub(crate) async fn change(&self, name: &str, spec: &Value) -> anyhow::Result<Answer> {
        self.client.call("PATCH", &format!("{OPERATIONS}/{name}"), &json!({ "spec": spec })).await
    }

    /// An operation as it is read; `None` when there is none.
    pub(crate) async fn read(&self, name: &str) -> anyhow::Result<Option<Value>> {
        match self.client.get(&format!("{OPERATIONS}/{name}")).await? {
            Answer::Refused(404, _) => Ok(None),
            answer => answer.json().map(Some),
        }
    }

    /// Waits until an operation's status is so.
    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.read(name).await?.with_context(|| format!("there is no operation {name}"))?;
            if holds(&found["status"]) {
                return Ok(found);
            }
            ensure!(Instant::now() < until, "{name} was to be {what} in {PATIENCE:?}: {found}\n{}", self.last_words());
            sleep(GLANCE).await;
        }
    }

    /// Waits until an operation has ended so, for this reason.
    pub(crate) async fn ended(&self, name: &str, phase: &str, reason: &str) -> anyhow::Result<Value> {
        let found = self.until(name, phase, |status| is_final(&status["phase"])).await?;
        let status = &found["status"];
        let is_so = status["phase"] == phase && (reason.is_empty() || status["reason"] == reason);
        ensure!(is_so, "{name} was to be {phase} {reason}: {status}\n{}", self.last_words());
        Ok(found)
    }

    /// Waits until there is no such object.
    pub(crate) async fn gone(&self, path: &str) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.client.get(path).await?;
            if matches!(found, Answer::Refused(404, _)) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{path} was to go in {PATIENCE:?}: {found:?}\n{}", self.last_words());
            sleep(GLANCE).await;
        }
    }

    /// What must hold of every effect, whatever happened; gives them.
    pub(crate) async fn judged(&self) -> anyhow::Result<Vec<Effect>> {
        let effects = self.backend.effects().await?;
        ensure!(doubled(&effects).is_empty(), "had twice: {:?}, of {effects:#?}", doubled(&effects));
        let mut newest = std::collections::BTreeMap::new();
        for effect in &effects {
            let newest = newest.entry(effect.operation.as_str()).or_insert(0);
            ensure!(effect.token >= *newest, "a token went back: {effect:?}, after {newest}");
            *newest = effect.token;
        }
        Ok(effects)
    }

    /// What is there: backend, kind, name and specification of each, with what was made beside it in place of its id.
    pub(crate) async fn there(&self) -> anyhow::Result<Vec<String>> {
        let all = self.backend.inventory().await?;
        let named = |text: &str| {
            // Ids are never given twice, so that they differ from run to run.
            all.iter().fold(text.to_owned(), |text, one| {
                text.replace(&format!("\"{}\"", one.id), &format!("\"<{}>\"", one.kind))
                    .replace(&format!("i-{}.", one.id), &format!("i-<{} {}>.", one.kind, one.name))
            })
        };
        let mut there: Vec<String> =
            all.iter().map(|one| named(&format!("{} {} {}", one.kind, one.name, one.spec))).collect();
        there.sort();
        Ok(there)
    }

    /// The end of the server's log.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("the server's last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

/// All of drill-backend's guards, but for those that [`BACKEND_WITHOUT`] names.
fn guards() -> Guards {
    let away = std::env::var(BACKEND_WITHOUT).unwrap_or_default();
    let holds = |name| away.split(',').all(|away| away != name);
    Guards { fence: holds("fence"), duplicate: holds("duplicate"), undone: holds("undone") }
}

/// An operation's object.
pub(crate) fn operation(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "Operation", "metadata": { "name": name }, "spec": spec })
}

fn is_final(phase: &Value) -> bool {
    ["Succeeded", "Cancelled", "Dead"].contains(&phase.as_str().unwrap_or_default())
}

/// Starts a server with this fault armed, or none.
pub(crate) async fn armed(
    mut server: Server,
    fault: Option<&str>,
    log: Option<&std::path::Path>,
) -> anyhow::Result<Server> {
    arm(&mut server, fault, log);
    let (server, ready) = start(server).await?;
    ready?;
    Ok(server)
}
