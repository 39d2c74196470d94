//! `mainstay serve`: opens the parts in order, runs until it is told to stop, and closes them in reverse.
//!
//! | opened | needs | closed |
//! |---|---|---|
//! | data directory, log | - | |
//! | store (its lock keeps a second instance out) | directory | last, when nothing can write any more |
//! | keys, TLS, tokens, rights | store | with the process |
//! | API server, listener | all above | stops accepting, drains 5 s |
//! | controllers, workers, node agent | the API, in process; each controller a lease | finish their effects; sandboxes go on |
//!
//! On a full disk only the last line waits, until there is room (`room`): reads are served before.

pub(crate) mod args;
mod breakers;
mod dir;
mod drill;
mod figures;
mod log;
mod name;
mod node;
mod operations;
mod room;
mod state;
mod traces;

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mainstay_api::Registry;
use mainstay_apiserver::auth::Authenticator;
use mainstay_apiserver::crypt::Sealer;
use mainstay_apiserver::keys::{Keys, server_names};
use mainstay_apiserver::listener::Listener;
use mainstay_apiserver::rbac::{self, Authorizer};
use mainstay_apiserver::tls::Tls;
use mainstay_apiserver::token::{StoreSubjects, Tokens};
use mainstay_apiserver::{Access, ApiServer, Config, Identity, Limits, Part, inprocess};
use mainstay_controllers::Office;
use mainstay_runtime::duty::Duties;
use mainstay_runtime::resilience::gates::Gates;
use mainstay_runtime::{Clock, Tasks};
use mainstay_store::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};

use args::ServeArgs;
use traces::Traces;

/// Time for everything to finish after SIGTERM.
const GRACE: Duration = Duration::from_secs(25);
/// The counter of starts.
const STARTS: &str = "starts";

/// What all parts share.
#[derive(Clone)]
struct Base {
    dir: PathBuf,
    /// Keeps other processes out of the directory.
    _held: Option<Arc<File>>,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    clock: Clock,
    tasks: Tasks,
    duties: Duties,
    /// What the workers count.
    worked: mainstay_operations::Metrics,
    /// What stands in front of backends.
    gates: Arc<Gates>,
    keys: Arc<Keys>,
}

/// What the API server waits for before it is ready.
struct Parts {
    controllers: Part,
    node_agent: Part,
}

impl Parts {
    fn of(server: &ApiServer) -> Self {
        Self { controllers: server.expect("controllers"), node_agent: server.expect("node-agent") }
    }
}

/// Runs the control plane until SIGTERM or SIGINT.
///
/// # Errors
/// When a part cannot be opened, an essential task ends, or not all finish within the grace period.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let figures = traces::Figures::default();
    let traces = Traces::of(&args, &figures)?;
    log::init(&args.log, traces.as_ref().map(Traces::layer))?;
    // Before anything is open: whoever stops a server that is still starting gets a clean end, too.
    let mut signals = Signals::new()?;
    dir::prepare(&args.data_dir)?;
    let base = open(&args)?;
    state::guard(&base.tasks, &base.store);
    let sending = Tasks::new();
    if let Some(traces) = traces {
        traces.export(&sending);
    }
    let (server, listener) = api(&base, &args, &figures).await?;
    let url = format!("https://{}", reachable(listener.address()?));
    server.set_gates(base.gates.clone());
    let parts = Parts::of(&server);
    drop(base.tasks.essential("listener", |stop| listener.serve(server.clone(), stop)));
    let starting = base.tasks.spawn("start", start(base.clone(), server, parts, url, args));
    let asked = tokio::select! {
        started = starting => {
            started??;
            signals.wait(&base.tasks).await
        }
        asked = signals.wait(&base.tasks) => asked,
    };
    let closed = close(&base, asked).await;
    // Last: what ended meanwhile is traced, too.
    sending.shutdown(traces::FLUSH + Duration::from_secs(1)).await.ok();
    closed
}

fn open(args: &ServeArgs) -> anyhow::Result<Base> {
    let dir = args.data_dir.as_path();
    let (store, held) = state::open(dir, args.database.address()?.as_ref())?;
    let clock = Clock::kept_in(&dir.join("clock")).context("open the clock")?;
    let keys = Arc::new(Keys::open_or_create(dir, clock.now()).context("open the keys")?);
    let (tasks, registry) = (Tasks::new(), Arc::new(Registry::standard()));
    let duties = Duties::new(tasks.clone(), clock.clone(), store.leases());
    let worked = mainstay_operations::Metrics::default();
    let gates = Arc::new(breakers::gates());
    Ok(Base { dir: dir.to_owned(), _held: held, store, registry, clock, tasks, duties, worked, gates, keys })
}

/// Where clients on this machine find who listens there: at no address in particular is at every one, also the loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

/// The API server and its bound port; nothing is served yet.
async fn api(base: &Base, args: &ServeArgs, traces: &traces::Figures) -> anyhow::Result<(ApiServer, Listener)> {
    let (keys, listen) = (base.keys.clone(), args.listen);
    let names = server_names(listen, &args.tls_names);
    let tls = Tls::new(&keys, &names, &base.clock).context("set up TLS")?;
    tls.keep_current(keys.clone(), names, base.clock.clone(), &base.duties);
    let listener = Listener::bind(listen, tls.acceptor()).await.with_context(|| format!("listen on {listen}"))?;

    let store = base.store.clone();
    let subjects = Arc::new(StoreSubjects::new(store.clone()));
    let tokens = Arc::new(Tokens::new(&keys, subjects, base.clock.clone()).context("open the token-signing key")?);
    let access = Access {
        authenticator: Arc::new(Authenticator::new(keys.clone(), tokens.clone())),
        tokens,
        authorizer: Authorizer::new(store.clone()),
    };
    let mut metrics = mainstay_apiserver::metrics::registry();
    base.worked.register(&mut metrics);
    traces.register(&mut metrics);
    let config = Config {
        store,
        registry: base.registry.clone(),
        access,
        sealer: Arc::new(Sealer::new(&keys).context("open the data key")?),
        clock: base.clock.clone(),
        tasks: base.tasks.clone(),
        duties: base.duties.clone(),
        limits: Limits::default(),
        version: env!("CARGO_PKG_VERSION"),
        metrics,
    };
    Ok((ApiServer::new(config).context("compile the kinds' schemas")?, listener))
}

/// Starts what acts by itself: each is a tracked task, told to stop and joined by [`close`]. What writes waits for room.
async fn start(base: Base, server: ApiServer, parts: Parts, url: String, args: ServeArgs) -> anyhow::Result<()> {
    let first = record(&base, &url).await;
    let recorded = !first.as_ref().is_err_and(room::is_lacking);
    if recorded {
        first?;
    }
    announce(&base.dir, &url);
    // This also makes the store notice that it is full, so that it says so when it is asked whether it is ready.
    room::waited_for(&base.tasks, || async { base.store.raise(STARTS).await.context("count the start") }).await?;
    if !recorded {
        room::waited_for(&base.tasks, || record(&base, &url)).await?;
    }
    let (leading, tasks) = (server.clone(), base.tasks.clone());
    let clients = move |name: &str, fence: &str| {
        inprocess::leader_client(leading.clone(), Identity::controller(name), tasks.clone(), fence)
    };
    let (tasks, clock, leases) = (base.tasks.clone(), base.clock.clone(), base.store.leases());
    let office = Office { tasks, clock, leases, clients: Arc::new(clients) };
    let controllers = figures::Controllers(mainstay_controllers::start(&office, &base.registry));
    server.set_figures(Arc::new(controllers.clone()));
    let started = controllers.clone();
    parts.controllers.runs(move || started.ready());
    operations::start(&base, &server, &args)?;
    let name = name::of(&base.dir.join("node"), args.node_name.as_deref())?;
    node::start(&base, &server, &name).await.context("start the node agent")?;
    parts.node_agent.runs(|| Ok(()));
    // It is said to be ready when it is, unless it is told to stop first.
    if base.tasks.stopping().run_until_cancelled(controllers.all_ready()).await.is_some() {
        anstream::println!("ready");
    }
    Ok(())
}

/// Writes down what every start has to find, where it is not there as it should be.
async fn record(base: &Base, url: &str) -> anyhow::Result<()> {
    let store: Arc<dyn Store> = base.store.clone();
    rbac::bootstrap(&store, &base.registry, &base.clock).await.context("store the built-in roles")?;
    base.keys.write_kubeconfig(&dir::kubeconfig(&base.dir), url).context("write the admin kubeconfig")?;
    dir::write_endpoint(&base.dir, url)
}

/// Says where the server is.
fn announce(dir: &Path, url: &str) {
    anstream::println!("mainstay {} serves {url}", env!("CARGO_PKG_VERSION"));
    anstream::println!("  state       {}", dir.display());
    anstream::println!(
        "  kubeconfig  {}   (kubectl --kubeconfig ..., or: mainstay get projects)",
        dir::kubeconfig(dir).display()
    );
}

/// What tells the server to stop.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for a signal (`true`), or for an essential task to end (`false`).
    async fn wait(&mut self, tasks: &Tasks) -> bool {
        let stopping = tasks.stopping();
        tokio::select! {
            _ = self.term.recv() => true,
            _ = self.int.recv() => true,
            () = stopping.cancelled() => false,
        }
    }
}

async fn close(base: &Base, asked: bool) -> anyhow::Result<()> {
    tracing::info!("stopping; sandboxes go on and are adopted at the next start");
    let joined = base.tasks.shutdown(GRACE).await;
    base.store.close().await;
    dir::remove_endpoint(&base.dir);
    joined?;
    anyhow::ensure!(asked, "a part of the server that it cannot do without has ended; see the log above");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everywhere_is_found_at_the_loopback() {
        let cases = [
            ("0.0.0.0:7443", "127.0.0.1:7443"),
            ("[::]:7443", "[::1]:7443"),
            ("10.1.2.3:1", "10.1.2.3:1"),
            ("[fd00::1]:2", "[fd00::1]:2"),
        ];
        for (listen, found) in cases {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), found);
        }
    }
}
