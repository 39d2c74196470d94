//! Joins the node agent to the API server, in both directions: neither crate knows the other.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use mainstay_api::exec::ExecRequest;
use mainstay_apiserver::nodelink::{ExecFrames, LinkError, LogOptions, LogStream, NodeLink};
use mainstay_apiserver::{ApiServer, Caller, Identity, inprocess, node};
use mainstay_node::agent::exec::ExecError;
use mainstay_node::agent::logs::{self, LogError};
use mainstay_node::agent::{self, AgentConfig, Handle, Shims, relay, term};
use mainstay_node::launch::{Isolation, Limits};
use mainstay_node::sandbox::probe::{Support, probe};
use mainstay_runtime::Tasks;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::process::Process;

/// Starts the node agent of this machine under the node's next term, and lets the API server reach its logs.
pub(super) async fn start(process: &Process, name: &str) -> anyhow::Result<()> {
    let (served, tasks) = (process.served()?, &process.tasks);
    let server = served.server()?;
    let (support, isolation) = host();
    let dir = process.dir().join("node");
    let client = inprocess::client(server.clone(), Identity::node(name), tasks.clone());
    node::register(server, name).await?;
    // Over its own store it is the only one; over a shared one another replica's host may have the same name.
    let machine = term::Machine { alone: !served.is_shared(), ..term::Machine::of(&dir)? };
    let taking = term::take(&client, name, agent::newest_term(&dir), &machine, &process.clock);
    let Some(term) = tasks.stopping().run_until_cancelled(taking).await.transpose()? else { return Ok(()) };
    term::introduce(&term::fenced(client.clone(), &term), name, env!("CARGO_PKG_VERSION")).await?;
    tracing::info!(node = name, term = term.number, "this is a node");
    let config = AgentConfig {
        client,
        api: relayed(server.clone(), tasks.clone()),
        dir,
        exe: std::env::current_exe().context("find this program")?,
        tasks: tasks.clone(),
        duties: served.duties.clone(),
        clock: process.clock.clone(),
        term,
        isolation,
        support,
        sandboxes: Arc::new(Shims),
    };
    server.set_node_link(name, Arc::new(Link(started(config).await?)));
    Ok(())
}

/// What this host can enforce, and how far sandboxes are set apart here; said in the log.
pub(super) fn host() -> (Support, Isolation) {
    let support = probe();
    let isolation = support.isolation();
    tracing::info!(?isolation, controllers = ?support.controllers, landlock = support.landlock, "sandboxes");
    let missing = support.missing(isolation, &Limits::default(), false);
    if !missing.is_empty() {
        tracing::error!("no sandbox can be made here, every Pod will be refused: missing are {}", missing.join(", "));
    }
    (support, isolation)
}

/// Starts the agent.
///
/// # Errors
/// When its directory cannot be used.
pub(super) async fn started(config: AgentConfig) -> anyhow::Result<Handle> {
    let agent = tokio::task::spawn_blocking({
        let runtime = tokio::runtime::Handle::current();
        // Starting reads directories and starts tasks.
        move || {
            let _entered = runtime.enter();
            agent::start(config)
        }
    });
    Ok(agent.await??)
}

/// The API for requests out of sandboxes: each has to show its token, like one from a socket.
fn relayed(server: ApiServer, tasks: Tasks) -> relay::Api {
    let service = tower::service_fn(move |request: Request<relay::Body>| {
        let serving = server.clone();
        // On a task of its own: a sandbox that hangs up does not cut a write in its middle.
        let answer = tasks.spawn("relayed-request", async move { serving.handle(request, Caller::Unknown).await });
        async move {
            let response: Response<_> = answer.await?;
            Ok::<_, relay::BoxError>(response.map(|body| body.map_err(Into::into).boxed_unsync()))
        }
    });
    BoxCloneSyncService::new(service.map_err(|error: relay::BoxError| error))
}

/// The node agent as the API server sees it.
struct Link(Handle);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link(local)")
    }
}

impl NodeLink for Link {
    fn logs(&self, pod_uid: &str, options: LogOptions) -> BoxFuture<'_, Result<LogStream, LinkError>> {
        let pod_uid = pod_uid.to_owned();
        let LogOptions { follow, tail_lines, since, timestamps, limit_bytes } = options;
        let options = logs::LogOptions { follow, tail_lines, since, timestamps, limit_bytes };
        Box::pin(async move {
            self.0.logs(&pod_uid, options).await.map_err(|error| match error {
                LogError::NoSuchLog => LinkError::NoSuchLog,
                LogError::NotStarted => LinkError::NotStarted,
                LogError::Io(error) => LinkError::Io(error),
            })
        })
    }

    fn exec(&self, request: ExecRequest, input: ExecFrames) -> BoxFuture<'_, Result<ExecFrames, LinkError>> {
        Box::pin(async move {
            self.0.exec(request, input).await.map_err(|error| match error {
                ExecError::NotRunning => LinkError::NotRunning,
                ExecError::TooMany => LinkError::TooMany,
                ExecError::Unsupported => LinkError::Unsupported,
                ExecError::Io(error) => LinkError::Io(error),
            })
        })
    }
}
