//! The parts of a node: an agent for a server elsewhere, with no store of its own.

mod client;
mod health;
mod identity;
mod join;
mod link;
mod servers;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use hyper::upgrade::Upgraded;
use mainstay_api::names::REPLICA_HEADER;
use mainstay_node::agent::{self, AgentConfig, Shims, term};
use mainstay_runtime::client::{CallError, HttpError, open};
use mainstay_runtime::duty::{Duties, table};
use mainstay_runtime::failure::{Class, Classify as _};
use mainstay_runtime::{Failure, KeyBackoff, Reason};

use super::process::Process;
use super::{name, node};
use client::Clients;
use identity::Identity;
use servers::Servers;

/// A machine that has joined.
#[derive(Clone)]
pub(super) struct Machine {
    /// The name of its node.
    name: String,
    identity: Identity,
    clients: Clients,
    duties: Duties,
    seen: health::Seen,
}

/// Finds this machine's certificate, or gets one with the join token.
pub(super) async fn identity(process: &mut Process) -> anyhow::Result<()> {
    let dir = process.dir().join("node");
    process.front.begins("identity", "it has not joined yet");
    let name = name::of(&dir, process.args.node_name.as_deref())?;
    let held = identity::lock(&dir)?;
    let now = process.clock.now();
    let kept = identity::read(&dir)?.filter(|kept| kept.until > now);
    let known = kept.as_ref().map_or(&[][..], |kept| &kept.servers);
    // What is said now counts, and is remembered.
    let urls = if process.servers.is_empty() { known.to_vec() } else { process.servers.clone() };
    let servers = Servers::of(&urls)?;
    let kept = match kept {
        Some(kept) if kept.servers == urls => kept,
        Some(kept) => remembered(&dir, identity::Kept { servers: urls, ..kept })?,
        None => remembered(&dir, identity::Kept { servers: urls, ..joined(process, &servers, &name).await? })?,
    };
    let identity = Identity::new(dir, kept, held)?;
    let clients = Clients::new(&servers, &identity)?;
    let duties = Duties::alone(process.tasks.clone(), process.clock.clone());
    process.machine = Some(Machine { name, identity, clients, duties, seen: health::Seen::default() });
    Ok(())
}

fn remembered(dir: &Path, kept: identity::Kept) -> anyhow::Result<identity::Kept> {
    identity::write(dir, &kept)?;
    Ok(kept)
}

/// Joins with the token that is given, by the first server that answers.
async fn joined(process: &Process, servers: &Servers, name: &str) -> anyhow::Result<identity::Kept> {
    let token = process.args.join_token()?.with_context(|| {
        format!(
            "this machine has no valid certificate: make a token for it, `mainstay node token {name}`, and give it with \
             --join-token-file"
        )
    })?;
    let own = term::Machine::of(&process.dir().join("node")).context("read which machine this is")?;
    let mut last = anyhow::anyhow!("there is no server");
    for server in servers.all() {
        match join::join(server, name, &own, &token).await {
            Ok(joined) => {
                tracing::info!(node = name, %server, "joined");
                return Ok(joined);
            }
            Err(error) => {
                let refused = error.downcast_ref::<CallError>().is_some_and(|error| error.status().is_some());
                last = error.context(format!("join {server}"));
                if refused {
                    break;
                }
                tracing::warn!(error = format!("{last:#}"), "not joined");
            }
        }
    }
    Err(last)
}

/// Answers about its health.
pub(super) async fn health(process: &mut Process) -> anyhow::Result<()> {
    let machine = process.machine()?;
    let (tasks, leaving) = (process.tasks.clone(), process.leaving.clone());
    let answers = health::Answers::new(machine.seen.clone(), machine.duties.clone(), tasks, leaving);
    process.front.answers(Arc::new(move |method, path, here| answers.answer(method, path, here)));
    let address = process.front.address();
    anstream::println!("mainstay {} is node {}, health at https://{address}", env!("CARGO_PKG_VERSION"), machine.name);
    std::future::ready(Ok(())).await
}

/// Takes the node's next term, and starts the agent under it.
pub(super) async fn agent(process: &mut Process) -> anyhow::Result<()> {
    let machine = process.machine()?.clone();
    let dir = process.dir().join("node");
    let client = machine.clients.api().clone();
    let Some(term) = taken(process, &machine, &client, &dir).await? else { return Ok(()) };
    tracing::info!(node = machine.name, term = term.number, "this is a node");
    machine.seen.begin(term.number);
    let (support, isolation) = node::host();
    let config = AgentConfig {
        client,
        api: machine.clients.relay(),
        dir,
        exe: std::env::current_exe().context("find this program")?,
        tasks: process.tasks.clone(),
        duties: machine.duties.clone(),
        clock: process.clock.clone(),
        term,
        isolation,
        support,
        sandboxes: Arc::new(Shims),
    };
    let agent = node::started(config).await?;
    machine.seen.runs(agent.clone());
    process.agent = Some(agent);
    let (identity, clients, clock) = (machine.identity.clone(), machine.clients.clone(), process.clock.clone());
    machine.duties.start(&table::NODE_CERTIFICATE, move |_| {
        let (identity, client, now) = (identity.clone(), clients.api().clone(), clock.now());
        let renewed = clients.clone();
        async move {
            if identity.renew(&client, now).await? {
                renewed.refresh();
            }
            Ok(())
        }
    });
    Ok(())
}

/// Takes a term as soon as the server is there; `None` when told to stop first.
async fn taken(
    process: &Process,
    machine: &Machine,
    client: &kube::Client,
    dir: &Path,
) -> anyhow::Result<Option<term::Term>> {
    let (stop, mut backoff) = (process.tasks.stopping(), KeyBackoff::default());
    loop {
        let take = async {
            let found = term::Machine::of(dir);
            let found = found.map_err(|error| {
                Failure::caused_by(Class::Terminal(Reason::Invalid), "read which machine this is", error)
            })?;
            let own = term::Machine { join: Some(machine.identity.join()), ..found };
            let term = term::take(client, &machine.name, agent::newest_term(dir), &own, &process.clock).await?;
            let fenced = term::fenced(client.clone(), &term);
            term::introduce(&fenced, &machine.name, env!("CARGO_PKG_VERSION")).await?;
            Ok::<_, Failure>(term)
        };
        let failure = match stop.run_until_cancelled(take).await {
            None => return Ok(None),
            Some(Ok(term)) => return Ok(Some(term)),
            Some(Err(failure)) => failure,
        };
        if let Class::Terminal(_) | Class::Fenced = failure.class() {
            return Err(failure.into());
        }
        let pause = backoff.fail(rand::random());
        tracing::warn!(error = failure.chain(), ?pause, "the server cannot be asked for a term; sandboxes go on");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(None);
        }
    }
}

/// Keeps connections over which the servers can ask.
pub(super) async fn link(process: &mut Process) -> anyhow::Result<()> {
    let machine = process.machine()?.clone();
    if let Some(agent) = process.agent.clone() {
        let tasks = process.tasks.clone();
        let run = |stop| link::run(machine, agent, tasks, stop);
        drop(process.tasks.essential("link", run));
    }
    std::future::ready(Ok(())).await
}

impl Machine {
    /// Whether another has taken its place.
    pub(super) fn is_deposed(&self) -> bool {
        self.seen.is_deposed()
    }

    /// One more connection, to the server whose turn it is, and which replica that is; `None` where that is one of those that
    /// have one.
    async fn opened(&self, turn: usize, term: u64, linked: &[String]) -> Result<Option<(String, Upgraded)>, HttpError> {
        let request = self.clients.link_request(turn, &self.name, term, linked);
        // One that does not say which replica it is, is the one at its address.
        let address = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        if linked.contains(&address) {
            return Ok(None);
        }
        match open(self.clients.shown(), request).await {
            Ok((headers, connection)) => {
                let said = headers.get(REPLICA_HEADER).and_then(|said| said.to_str().ok());
                Ok(Some((said.map_or(address, str::to_owned), connection)))
            }
            Err(HttpError::Refused(StatusCode::NO_CONTENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How long the server may take for one answer to a node that joins or renews.
const ASK: Duration = Duration::from_secs(30);
