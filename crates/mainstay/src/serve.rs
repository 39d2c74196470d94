//! `mainstay serve`: opens the parts in order, runs until it is told to stop, and closes them in reverse.
//!
//! | opened | needs | closed |
//! |---|---|---|
//! | data directory, log | - | |
//! | store (its lock keeps a second instance out) | directory | last, when nothing can write any more |
//! | keys, TLS, tokens, rights | store | with the process |
//! | API server, listener | all above | stops accepting, drains 5 s |
//! | controllers, node agent | the API, in process | finish their effects; sandboxes go on |

pub(crate) mod args;
mod dir;
mod figures;
mod log;
mod node;

use std::net::SocketAddr;
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
use mainstay_apiserver::{Access, ApiServer, Config, Identity, Limits, inprocess};
use mainstay_controllers::FencingToken;
use mainstay_controllers::driver::Surroundings;
use mainstay_runtime::{Clock, Tasks};
use mainstay_store::Store;
use mainstay_store::sqlite::{Options, SqliteStore};
use tokio::signal::unix::{Signal, SignalKind, signal};

use args::ServeArgs;

/// Time for everything to finish after SIGTERM.
const GRACE: Duration = Duration::from_secs(25);
/// The counter whose value is the fencing token of this start.
const FENCE: &str = "fence";

/// What all parts share.
#[derive(Clone)]
struct Base {
    dir: PathBuf,
    store: Arc<SqliteStore>,
    registry: Arc<Registry>,
    clock: Clock,
    tasks: Tasks,
    /// Raised at each start: what an earlier one ordered is told apart from what this one orders.
    fence: u64,
}

/// Runs the control plane until SIGTERM or SIGINT.
///
/// # Errors
/// When a part cannot be opened, an essential task ends, or not all finish within the grace period.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    log::init(&args.log)?;
    // Before anything is open: whoever stops a server that is still starting gets a clean end, too.
    let signals = Signals::new()?;
    let dir = args.data_dir;
    dir::prepare(&dir)?;
    let base = open(&dir).await?;
    let (server, listener) = api(&base, args.listen).await?;
    let address = listener.address()?;
    start(&base, &server, listener).await?;
    announce(&dir, address)?;
    let asked = signals.wait(&base.tasks).await;
    close(&base, asked).await
}

async fn open(dir: &Path) -> anyhow::Result<Base> {
    let store = SqliteStore::open(Options::new(dir)).with_context(|| format!("open the store in {}", dir.display()))?;
    let fence = node::raise_fence(&*store, FENCE, dir).await.context("raise the fencing token")?;
    let clock = Clock::kept_in(&dir.join("clock")).context("open the clock")?;
    let (tasks, registry) = (Tasks::new(), Arc::new(Registry::standard()));
    Ok(Base { dir: dir.to_owned(), store, registry, clock, tasks, fence })
}

/// The API server and its bound port; nothing is served yet.
async fn api(base: &Base, listen: SocketAddr) -> anyhow::Result<(ApiServer, Listener)> {
    let keys = Arc::new(Keys::open_or_create(&base.dir, base.clock.now()).context("open the keys")?);
    let names = server_names(listen);
    let tls = Tls::new(&keys, &names, &base.clock).context("set up TLS")?;
    tls.keep_current(keys.clone(), names, base.clock.clone(), &base.tasks);
    let listener = Listener::bind(listen, tls.acceptor()).await.with_context(|| format!("listen on {listen}"))?;
    let url = format!("https://{}", listener.address()?);
    keys.write_kubeconfig(&dir::kubeconfig(&base.dir), &url).context("write the admin kubeconfig")?;

    let store: Arc<dyn Store> = base.store.clone();
    rbac::bootstrap(&store, &base.registry, &base.clock).await.context("store the built-in roles")?;
    let subjects = Arc::new(StoreSubjects::new(store.clone()));
    let tokens = Arc::new(Tokens::new(&keys, subjects, base.clock.clone()).context("open the token-signing key")?);
    let access = Access {
        authenticator: Arc::new(Authenticator::new(keys.clone(), tokens.clone())),
        tokens,
        authorizer: Authorizer::new(store.clone()),
    };
    let config = Config {
        store,
        registry: base.registry.clone(),
        access,
        sealer: Arc::new(Sealer::new(&keys).context("open the data key")?),
        clock: base.clock.clone(),
        tasks: base.tasks.clone(),
        limits: Limits::default(),
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok((ApiServer::new(config).context("compile the kinds' schemas")?, listener))
}

/// Starts what runs: each is a tracked task, told to stop and joined by [`close`].
async fn start(base: &Base, server: &ApiServer, listener: Listener) -> anyhow::Result<()> {
    let serving = server.clone();
    drop(base.tasks.essential("listener", |stop| listener.serve(serving, stop)));
    let client = |name: &str| inprocess::client(server.clone(), Identity::controller(name), base.tasks.clone());
    let surroundings =
        Surroundings { tasks: base.tasks.clone(), clock: base.clock.clone(), fence: FencingToken(base.fence) };
    let controllers = mainstay_controllers::start(client, &surroundings, &base.registry);
    server.set_figures(Arc::new(figures::Controllers(controllers)));
    node::start(base, server).await.context("start the node agent")
}

/// Says where the server is: to people on the screen, to the command line in a file.
fn announce(dir: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let url = format!("https://{address}");
    dir::write_endpoint(dir, &url)?;
    anstream::println!("mainstay {} serves {url}", env!("CARGO_PKG_VERSION"));
    anstream::println!("  state       {}", dir.display());
    anstream::println!(
        "  kubeconfig  {}   (kubectl --kubeconfig ..., or: mainstay get projects)",
        dir::kubeconfig(dir).display()
    );
    anstream::println!("ready");
    Ok(())
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
    async fn wait(mut self, tasks: &Tasks) -> bool {
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
