//! Events per second of the driver through the in-process API.
//!
//! The updates are in the log before the clock starts: a gate holds the driver's watch back while they are written. Each
//! reconcile reads its object with one GET through the same API. Arguments: keys, events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use mainstay_api::Registry;
use mainstay_apiserver::auth::Authenticator;
use mainstay_apiserver::crypt::Sealer;
use mainstay_apiserver::keys::Keys;
use mainstay_apiserver::rbac::{self, Authorizer};
use mainstay_apiserver::token::{StoreSubjects, Tokens};
use mainstay_apiserver::{Access, ApiServer, Config, Identity, Limits, inprocess};
use mainstay_controllers::driver::{Driver, Surroundings};
use mainstay_controllers::{Effect, FencingToken, Next, Plan, Reconciler};
use mainstay_runtime::{Clock, Failure, Tasks, Timestamp};
use mainstay_store::{Options, SqliteStore, Store};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Writers at once, so that commits are grouped.
const WRITERS: usize = 64;

/// Counts what it saw; the driver's own work is what is measured.
struct Count(Arc<AtomicU64>);

impl Reconciler for Count {
    type Object = ConfigMap;
    type Observed = ();
    type Action = ();
    const NAME: &'static str = "bench";
    const CONCURRENCY: usize = 64;
    const REPORTS: bool = false;

    async fn observe(&self, _: &ConfigMap) -> Result<(), Failure> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn plan(_: &ConfigMap, (): &(), _: Timestamp) -> Plan<()> {
        Plan::settled(Next::AwaitChange)
    }

    async fn apply(&self, _: &ConfigMap, (): (), _: FencingToken) -> Result<Effect, Failure> {
        Ok(Effect::NONE)
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
async fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let keys = numbers.next().transpose()?.unwrap_or(10_000);
    let events = numbers.next().transpose()?.unwrap_or(100_000);
    let dir = tempfile::tempdir()?;
    let tasks = Tasks::new();
    let server = server(dir.path(), &tasks, usize::try_from(events)?).await?;
    let admin = inprocess::client(server.clone(), Identity::admin(), tasks.clone());
    let body = json!({ "text": "x".repeat(900) });
    let writes = (0..keys).map(|key| {
        write(&admin, "POST", MAPS.to_owned(), json!({ "metadata": { "name": format!("k{key}") }, "data": body }))
    });
    all(writes).await?;

    let (gate, opened) = watch::channel(false);
    let gated = gate_watches(admin.clone(), opened);
    let seen = Arc::new(AtomicU64::new(0));
    let driver = Driver::new(Count(Arc::clone(&seen)), gated);
    let metrics = driver.metrics();
    let clock = Clock::system();
    let began = Instant::now();
    driver.start(&Surroundings { tasks: tasks.clone(), clock, fence: FencingToken(1) });
    until(|| seen.load(Ordering::Relaxed) >= keys).await;
    println!("first list: {keys} keys reconciled in {:.3} s", began.elapsed().as_secs_f64());

    let writes = (0..events).map(|event| {
        let change = json!({ "data": { "event": event.to_string() } });
        write(&admin, "PATCH", format!("{MAPS}/k{}", event % keys), change)
    });
    let writing = Instant::now();
    all(writes).await?;
    println!("{events} updates written in {:.2} s, while the watch was held back", writing.elapsed().as_secs_f64());

    let before = (metrics.events.get(), metrics.reconciles.get(), metrics.coalesced.get());
    let began = Instant::now();
    gate.send(true)?;
    // An event is done when it was read and its key was reconciled after it: nothing is queued and nothing runs.
    let expected = before.0 + events;
    until(|| metrics.events.get() >= expected).await;
    let read = began.elapsed().as_secs_f64();
    until(|| metrics.waiting.get() == 0 && metrics.running.get() == 0).await;
    let took = began.elapsed().as_secs_f64();
    let reconciles = metrics.reconciles.get() - before.1;
    println!(
        "{} events in {took:.3} s (all read after {read:.3} s): {:.0} events/s; {reconciles} reconciles with one GET each ({:.0}/s); {} events coalesced; {} lists, {} watch failures",
        metrics.events.get() - before.0,
        events_per_second(events, took),
        events_per_second(reconciles, took),
        metrics.coalesced.get() - before.2,
        metrics.lists.get(),
        metrics.watch_failures.get(),
    );
    tasks.shutdown(Duration::from_secs(10)).await?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn events_per_second(events: u64, seconds: f64) -> f64 {
    events as f64 / seconds
}

async fn until(is: impl Fn() -> bool) {
    while !is() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// All writes, some of them at once.
async fn all(writes: impl Iterator<Item = impl Future<Output = anyhow::Result<()>>>) -> anyhow::Result<()> {
    let mut results = futures::stream::iter(writes).buffer_unordered(WRITERS);
    while let Some(result) = results.next().await {
        result?;
    }
    Ok(())
}

async fn write(client: &kube::Client, method: &str, path: String, body: Value) -> anyhow::Result<()> {
    let media = if method == "POST" { "application/json" } else { "application/merge-patch+json" };
    let request = http::Request::builder().method(method).uri(&path).header("content-type", media);
    client.request::<Value>(request.body(body.to_string().into_bytes())?).await.with_context(|| path.clone())?;
    Ok(())
}

/// A client whose watches wait until the gate is open.
fn gate_watches(client: kube::Client, opened: watch::Receiver<bool>) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (client, mut opened) = (client.clone(), opened.clone());
        async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                opened.wait_for(|open| *open).await.ok();
            }
            client.send(request).await
        }
    });
    kube::Client::new(service, "default")
}

async fn server(dir: &std::path::Path, tasks: &Tasks, events: usize) -> anyhow::Result<ApiServer> {
    let clock = Clock::system();
    let options = Options { ring_changes: events * 2, ring_bytes: events * 4_096, ..Options::new(dir) };
    let store: Arc<dyn Store> = SqliteStore::open(options)?;
    let registry = Arc::new(Registry::standard());
    rbac::bootstrap(&store, &registry, &clock).await?;
    let keys = Arc::new(Keys::open_or_create(dir, clock.now())?);
    let subjects = Arc::new(StoreSubjects::new(store.clone()));
    let tokens = Arc::new(Tokens::new(&keys, subjects, clock.clone())?);
    let access = Access {
        authenticator: Arc::new(Authenticator::new(keys.clone(), tokens.clone())),
        tokens,
        authorizer: Authorizer::new(store.clone()),
    };
    let sealer = Arc::new(Sealer::new(&keys)?);
    let (limits, version) = (Limits::default(), "0.1.0");
    let config = Config { store, registry, access, sealer, clock, tasks: tasks.clone(), limits, version };
    Ok(ApiServer::new(config)?)
}
