//! The parts of a node: an agent for a server elsewhere, with no store of its own.

mod client;
mod health;
mod identity;
mod join;
mod link;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_node::agent::{self, AgentConfig, Shims, term};
use mainstay_runtime::KeyBackoff;
use mainstay_runtime::client::open;
use mainstay_runtime::duty::{Duties, table};
use mainstay_runtime::failure::{Class, Classify as _};

use super::process::Process;
use super::{name, node};
use client::Clients;
use identity::Identity;

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
    let url = process.server_url.clone().context("--role node needs --server URL, where the API is")?;
    let uri: http::Uri = url.parse().with_context(|| format!("--server {url}"))?;
    ensure!(uri.scheme_str() == Some("https") && uri.host().is_some(), "--server {url}: must be https://HOST:PORT");
    let dir = process.dir().join("node");
    let name = name::of(&dir, process.args.node_name.as_deref())?;
    let held = identity::lock(&dir)?;
    let now = process.clock.now();
    let kept = identity::read(&dir)?.filter(|kept| kept.until > now);
    let kept = if let Some(kept) = kept { kept } else { joined(process, &uri, &dir, &name).await? };
    let identity = Identity::new(dir, kept, held)?;
    let clients = Clients::new(&uri, &identity)?;
    let duties = Duties::alone(process.tasks.clone(), process.clock.clone());
    process.machine = Some(Machine { name, identity, clients, duties, seen: health::Seen::default() });
    Ok(())
}

/// Joins with the token that is given.
async fn joined(process: &Process, uri: &http::Uri, dir: &Path, name: &str) -> anyhow::Result<identity::Kept> {
    let token = process.args.join_token()?.with_context(|| {
        format!(
            "this machine has no valid certificate: make a token for it, `mainstay node token {name}`, and give it with \
             --join-token-file"
        )
    })?;
    let joined = join::join(uri, name, &token).await.context("join")?;
    identity::write(dir, &joined)?;
    tracing::info!(node = name, "joined");
    Ok(joined)
}

/// Answers about its health.
pub(super) async fn health(process: &mut Process) -> anyhow::Result<()> {
    let machine = process.machine()?;
    let answers = health::Answers::new(machine.seen.clone(), machine.duties.clone(), process.tasks.clone());
    let listen: SocketAddr = process.args.listen;
    let (address, serving) = health::bind(listen, answers, process.args.grace()).await?;
    drop(process.tasks.essential("health", serving));
    anstream::println!("mainstay {} is node {}, health at https://{address}", env!("CARGO_PKG_VERSION"), machine.name);
    Ok(())
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
        async move { identity.renew(&client, now).await }
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
            let term = term::take(client, &machine.name, agent::newest_term(dir), &process.clock).await?;
            let fenced = term::fenced(client.clone(), &term);
            term::introduce(&fenced, &machine.name, env!("CARGO_PKG_VERSION")).await?;
            Ok::<_, mainstay_runtime::Failure>(term)
        };
        let failure = match take.await {
            Ok(term) => return Ok(Some(term)),
            Err(failure) => failure,
        };
        if let Class::Terminal(_) = failure.class() {
            return Err(failure.into());
        }
        let pause = backoff.fail(rand::random());
        tracing::warn!(error = failure.chain(), ?pause, "the server cannot be asked for a term; sandboxes go on");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(None);
        }
    }
}

/// Keeps a connection over which the server can ask.
pub(super) async fn link(process: &mut Process) -> anyhow::Result<()> {
    let machine = process.machine()?.clone();
    if let Some(agent) = process.agent.clone() {
        let run = |stop| link::run(machine, agent, stop);
        drop(process.tasks.essential("link", run));
    }
    std::future::ready(Ok(())).await
}

impl Machine {
    /// One connection, from its opening.
    async fn opened(&self, term: u64) -> Result<hyper::upgrade::Upgraded, mainstay_runtime::client::HttpError> {
        open(self.clients.shown(), self.clients.link_request(&self.name, term)).await
    }
}

/// How long the server may take for one answer to a node that joins or renews.
const ASK: Duration = Duration::from_secs(30);
