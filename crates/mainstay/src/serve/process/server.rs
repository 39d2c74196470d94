//! The parts of those that have a store: one after the other, each on what those before it have left.

use std::fs::File;
use std::future::ready;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;
use mainstay_api::Registry;
use mainstay_apiserver::auth::Authenticator;
use mainstay_apiserver::crypt::Sealer;
use mainstay_apiserver::keys::{Keys, server_names};
use mainstay_apiserver::listener::Listener;
use mainstay_apiserver::rbac::{self, Authorizer};
use mainstay_apiserver::tls::Tls;
use mainstay_apiserver::token::{StoreSubjects, Tokens};
use mainstay_apiserver::{Access, ApiServer, Config, Identity, Limits, Part, inprocess, presence};
use mainstay_controllers::Office;
use mainstay_operations::turns::Turns;
use mainstay_runtime::duty::Duties;
use mainstay_runtime::resilience::gates::Gates;
use mainstay_store::Store;

use super::Process;
use crate::serve::role::Role;
use crate::serve::{breakers, dir, figures, keys, name, node, operations as work, room, state, turns};

/// The counter of starts.
const STARTS: &str = "starts";

/// An open store, and the API server on it.
#[derive(Clone)]
pub(crate) struct Served {
    /// Keeps other processes out of the directory, where the state itself is elsewhere.
    held: Option<Arc<File>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) duties: Duties,
    /// What the workers count.
    pub(crate) worked: mainstay_operations::Metrics,
    /// What is counted of turns.
    pub(crate) turned: mainstay_operations::turns::Metrics,
    /// How replicas tell each other of operations, where Redis carries that.
    pub(crate) turns: Option<Turns>,
    /// What stands in front of backends.
    pub(crate) gates: Arc<Gates>,
    pub(crate) keys: Arc<Keys>,
    /// Set once the listener is.
    pub(crate) api: Option<Api>,
}

/// The API server, and how it is reached.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) server: ApiServer,
    url: String,
    controllers: Option<Part>,
    node_agent: Option<Part>,
    watching: Option<figures::Controllers>,
}

impl Served {
    /// Whether the state is in a database elsewhere.
    pub(crate) const fn is_shared(&self) -> bool {
        self.held.is_some()
    }

    /// The API server.
    pub(crate) fn server(&self) -> anyhow::Result<&ApiServer> {
        Ok(&self.api()?.server)
    }

    fn api(&self) -> anyhow::Result<&Api> {
        self.api.as_ref().context("the API server has not been made yet")
    }
}

/// Opens the store, with its keys.
pub(crate) async fn store(process: &mut Process) -> anyhow::Result<()> {
    let (dir, address) = (process.dir(), process.args.database.address()?);
    ensure!(
        process.role() != Role::Worker || address.is_some(),
        "--role worker needs a store that it shares with those that serve the API (--database postgres://...); the one in \
         --data-dir is one process's alone"
    );
    let further = process.args.further.step()?;
    let (store, held) = state::opened((&process.tasks, &process.front), dir, address.clone(), further).await?;
    state::guard(&process.tasks, &store);
    let keys = keys::open(process, &store, address.is_some()).await?;
    let turned = mainstay_operations::turns::Metrics::default();
    let turns = turns::open(process, address.is_some(), turned.clone())?;
    if let Some(turns) = &turns {
        turns.tell(&process.tasks, store.made_ready());
    }
    process.served = Some(Served {
        duties: Duties::new(process.tasks.clone(), process.clock.clone(), store.leases()),
        registry: Arc::new(Registry::standard()),
        worked: mainstay_operations::Metrics::default(),
        turned,
        turns,
        gates: Arc::new(breakers::gates()),
        held,
        store,
        keys,
        api: None,
    });
    Ok(())
}

/// When nothing can write any more.
pub(crate) async fn close_store(process: &Process) {
    if let Some(served) = &process.served {
        served.store.close().await;
    }
}

/// Where clients on this machine find who listens there: at no address in particular is at every one, also the loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

/// Makes the API server, and lets it have the socket. A worker answers there about its health alone.
pub(crate) async fn listener(process: &mut Process) -> anyhow::Result<()> {
    let served = process.served()?.clone();
    let keys = served.keys.clone();
    let names = server_names(process.args.listen, &process.args.tls_names);
    let tls = Tls::new(&keys, &names, &process.clock).context("set up TLS")?;
    tls.keep_current(Keys::clone(&keys), names, process.clock.clone(), &process.tasks, &served.duties);
    let server = api_server(process, &served)?;
    server.set_gates(served.gates.clone());
    let leaving = process.leaving.clone();
    server
        .expect("leaving")
        .runs(move || if leaving.is_cancelled() { Err("it was told to stop".to_owned()) } else { Ok(()) });
    let url = format!("https://{}", reachable(process.front.address()));
    let expects = |part: &str| process.role().parts().any(|of| of.name == part);
    let api = Api {
        controllers: expects("controllers").then(|| server.expect("controllers")),
        node_agent: expects("node-agent").then(|| server.expect("node-agent")),
        watching: None,
        url,
        server: server.clone(),
    };
    process.served = Some(Served { api: Some(api), ..served });
    let acceptor = tls.acceptor();
    let serve = |socket, stop| Listener::over(socket, acceptor).serve(server, stop).boxed();
    ready(process.front.hand_over(Box::new(serve))).await
}

fn api_server(process: &Process, served: &Served) -> anyhow::Result<ApiServer> {
    let (store, keys) = (served.store.clone(), &served.keys);
    let subjects = Arc::new(StoreSubjects::new(store.clone()));
    let tokens = Arc::new(Tokens::new(keys, subjects, process.clock.clone()));
    let access = Access {
        authenticator: Arc::new(Authenticator::new(keys.clone(), tokens.clone())),
        tokens,
        authorizer: Authorizer::new(store.clone()),
    };
    let mut metrics = mainstay_apiserver::metrics::registry();
    served.worked.register(&mut metrics);
    served.turned.register(&mut metrics);
    process.figures.register(&mut metrics);
    let usual = Limits::default();
    // What is cut off after that has time to end, too.
    let drain = usual.drain.min(process.args.grace() / 2);
    let limits = Limits { drain, health_only: process.role() == Role::Worker, ..usual };
    let config = Config {
        store,
        registry: served.registry.clone(),
        access,
        sealer: Arc::new(Sealer::new(keys)),
        clock: process.clock.clone(),
        tasks: process.tasks.clone(),
        duties: served.duties.clone(),
        limits,
        version: env!("CARGO_PKG_VERSION"),
        metrics,
    };
    ApiServer::new(config).context("compile the kinds' schemas")
}

/// Writes down what every start has to find, and says where the server is. What cannot be written waits for room.
pub(crate) async fn records(process: &mut Process) -> anyhow::Result<()> {
    let served = process.served()?.clone();
    let url = served.api()?.url.clone();
    let first = record(process, &served, &url).await;
    let recorded = !first.as_ref().is_err_and(room::passing(served.is_shared()));
    if recorded {
        first?;
    }
    announce(process, &url);
    if !recorded {
        room::waited_for(&process.tasks, served.is_shared(), || record(process, &served, &url)).await?;
    }
    if served.is_shared() {
        presence::keep(served.server()?, &process.dir());
    }
    keys::keep_kubeconfig(process, &served.keys, url);
    Ok(())
}

async fn record(process: &Process, served: &Served, url: &str) -> anyhow::Result<()> {
    let dir = process.dir();
    rbac::bootstrap(&served.store, &served.registry, &process.clock).await.context("store the built-in roles")?;
    served.keys.write_kubeconfig(&dir::kubeconfig(&dir), url).context("write the admin kubeconfig")?;
    dir::write_endpoint(&dir, url)
}

/// A clean end leaves no endpoint behind.
pub(crate) async fn close_records(process: &Process) {
    dir::remove_endpoint(&process.dir());
    ready(()).await;
}

fn announce(process: &Process, url: &str) {
    let dir = process.dir();
    anstream::println!("mainstay {} serves {url}", env!("CARGO_PKG_VERSION"));
    anstream::println!("  state       {}", dir.display());
    anstream::println!(
        "  kubeconfig  {}   (kubectl --kubeconfig ..., or: mainstay get projects)",
        dir::kubeconfig(&dir).display()
    );
}

/// Starts the controllers, each where its lease is held.
pub(crate) async fn controllers(process: &mut Process) -> anyhow::Result<()> {
    let served = process.served()?.clone();
    let server = served.server()?.clone();
    // This also makes the store notice that it is full, so that it says so when it is asked whether it is ready.
    let count = || async { served.store.raise(STARTS).await.context("count the start") };
    room::waited_for(&process.tasks, served.is_shared(), count).await?;
    let (leading, tasks) = (server.clone(), process.tasks.clone());
    let clients = move |name: &str, fence: &str| {
        inprocess::leader_client(leading.clone(), Identity::controller(name), tasks.clone(), fence)
    };
    let (tasks, clock, leases) = (process.tasks.clone(), process.clock.clone(), served.store.leases());
    let serves = process.role() != Role::Worker;
    let office = Office { tasks, clock, leases, clients: Arc::new(clients), serves };
    let watching = figures::Controllers(mainstay_controllers::start(&office, &served.registry));
    server.set_figures(Arc::new(watching.clone()));
    if let Some(api) = process.served.as_mut().and_then(|served| served.api.as_mut()) {
        let started = watching.clone();
        if let Some(part) = &api.controllers {
            part.runs(move || started.ready());
        }
        api.watching = Some(watching);
    }
    Ok(())
}

/// Starts the workers of operations.
pub(crate) async fn operations(process: &mut Process) -> anyhow::Result<()> {
    ready(work::start(process)).await
}

/// Starts the node agent of this machine.
pub(crate) async fn node_agent(process: &mut Process) -> anyhow::Result<()> {
    let dir = process.dir().join("node");
    let named = || ready(name::of(&dir, process.args.node_name.as_deref()));
    let name = room::waited_for(&process.tasks, false, named).await?;
    node::start(process, &name).await.context("start the node agent")?;
    if let Some(part) = process.served()?.api()?.node_agent.as_ref() {
        part.runs(|| Ok(()));
    }
    Ok(())
}

/// Waits until the controllers have seen all that they watch, where there are any.
pub(crate) async fn all_ready(process: &Process) {
    let watching = process.served.as_ref().and_then(|served| served.api.as_ref()?.watching.as_ref());
    if let Some(watching) = watching {
        watching.all_ready().await;
    }
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
