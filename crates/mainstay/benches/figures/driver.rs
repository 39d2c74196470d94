//! Events per second of the driver through the in-process API.
//!
//! The updates are in the log before the clock starts: a gate holds the driver's watch back while they are written. Each
//! reconcile reads its object with one GET through the same API. The clock stops when every key was reconciled at its
//! final version; what was coalesced is told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use mainstay_api::Registry;
use mainstay_apiserver::auth::Authenticator;
use mainstay_apiserver::crypt::Sealer;
use mainstay_apiserver::keys::Keys;
use mainstay_apiserver::rbac::{self, Authorizer};
use mainstay_apiserver::token::{StoreSubjects, Tokens};
use mainstay_apiserver::{Access, ApiServer, Config, Identity, Limits, inprocess};
use mainstay_controllers::driver::{Driver, Surroundings};
use mainstay_controllers::{Effect, FencingToken, Next, Plan as Steps, Reconciler};
use mainstay_runtime::duty::Duties;
use mainstay_runtime::{Clock, Failure, Tasks, Timestamp};
use mainstay_store::{Options, SqliteStore, Store};
use mainstay_testkit::bench::Sample;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::creates::{MAPS, map};
use crate::table::{Aim, Floor, Row};

const KEYS: u64 = 10_000;
const EVENTS: u64 = 50_000;
/// Writers at once, so that commits are grouped.
const WRITERS: usize = 64;

/// Counts what it saw; the driver's own work is what is measured.
#[derive(Default)]
struct Count {
    seen: AtomicU64,
    /// Keys that were seen with their last event; each has it once, as nothing is written any more.
    last: AtomicU64,
}

struct Counting(Arc<Count>);

impl Reconciler for Counting {
    type Object = ConfigMap;
    type Observed = ();
    type Action = ();
    const NAME: &'static str = "bench";
    const CONCURRENCY: usize = 64;
    const REPORTS: bool = false;

    async fn observe(&self, map: &ConfigMap) -> Result<(), Failure> {
        self.0.seen.fetch_add(1, Ordering::Relaxed);
        let event = map.data.as_ref().and_then(|data| data.get("event")).and_then(|text| text.parse::<u64>().ok());
        if event.is_some_and(|event| event >= EVENTS - KEYS) {
            self.0.last.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn plan(_: &ConfigMap, (): &(), _: Timestamp) -> Steps<()> {
        Steps::settled(Next::AwaitChange)
    }

    async fn apply(&self, _: &ConfigMap, (): (), _: FencingToken) -> Result<Effect, Failure> {
        Ok(Effect::NONE)
    }
}

/// The figure, and beside it the same API's bare GETs.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let (mut events, mut reconciles, mut gets) = (Vec::new(), Vec::new(), Vec::new());
    let (mut share, mut others) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs(5) {
        others.push(plan.settle().await);
        let dir = tempfile::tempdir()?;
        let tasks = Tasks::new();
        let server = server(dir.path(), &tasks).await?;
        let client = inprocess::client(server, Identity::admin(), tasks.clone());
        all((0..KEYS).map(|key| write(&client, "POST", MAPS.to_owned(), map(&format!("k{key}"))))).await?;
        let bare = bare_gets(&client, &tasks).await?;
        let (took, count, coalesced) = drive(&client, &tasks).await?;
        eprintln!(
            "  {EVENTS} events in {took:.3} s, {count} reconciles with one GET each, {coalesced} events coalesced; bare GETs \
             {bare:.0} per s"
        );
        events.push(per_second(EVENTS, took));
        reconciles.push(per_second(count, took));
        gets.push(bare);
        share.push(per_second(coalesced, 1.0));
        tasks.shutdown(Duration::from_secs(10)).await?;
    }
    let median = |runs: &[f64]| runs.iter().copied().collect::<Sample>().median();
    let bound = format!(
        "the watch's decoding, one GET a reconcile ({:.0} reconciles per s); {:.0} of {EVENTS} events coalesced",
        median(&reconciles),
        median(&share)
    );
    Row {
        what: "driver: 50,000 events on 10,000 keys through the in-process API",
        aim: Aim::AtLeast(60_000.0),
        unit: "events/s",
        runs: &events,
        floors: &[Floor { what: "the same GETs with nothing around them", unit: "per s", runs: &gets }],
        bound: &bound,
        others: &others,
        bench: "driver",
    }
    .print();
    Ok(())
}

/// Seconds, reconciles and coalesced events.
async fn drive(client: &kube::Client, tasks: &Tasks) -> anyhow::Result<(f64, u64, u64)> {
    let (gate, opened) = watch::channel(false);
    let count = Arc::new(Count::default());
    let driver = Driver::new(Counting(Arc::clone(&count)), gate_watches(client.clone(), opened));
    let metrics = driver.metrics();
    driver.start(&Surroundings { tasks: tasks.clone(), clock: Clock::system(), fence: FencingToken(1) });
    until(|| count.seen.load(Ordering::Relaxed) >= KEYS).await;
    let writes = (0..EVENTS).map(|event| {
        let change = json!({ "data": { "event": event.to_string() } }).to_string();
        write(client, "PATCH", format!("{MAPS}/k{}", event % KEYS), change)
    });
    all(writes).await?;
    let before = (metrics.reconciles.get(), metrics.coalesced.get());
    let began = Instant::now();
    gate.send(true)?;
    until(|| count.last.load(Ordering::Relaxed) >= KEYS).await;
    let took = began.elapsed().as_secs_f64();
    Ok((took, metrics.reconciles.get() - before.0, metrics.coalesced.get() - before.1))
}

/// The same GETs as the driver's, as many at once, on as many threads.
async fn bare_gets(client: &kube::Client, tasks: &Tasks) -> anyhow::Result<f64> {
    let (began, each) = (Instant::now(), 500);
    let readers: Vec<_> = (0..Counting::CONCURRENCY as u64)
        .map(|reader| {
            let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client.clone(), "default");
            tasks.spawn("reader", async move {
                for turn in 0..each {
                    maps.get(&format!("k{}", (reader * each + turn) % KEYS)).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let count = readers.len() as u64 * each;
    for reader in readers {
        reader.await??;
    }
    Ok(per_second(count, began.elapsed().as_secs_f64()))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

async fn until(is: impl Fn() -> bool) {
    while !is() {
        sleep(Duration::from_millis(1)).await;
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

async fn write(client: &kube::Client, method: &str, path: String, body: String) -> anyhow::Result<()> {
    let media = if method == "POST" { "application/json" } else { "application/merge-patch+json" };
    let request = http::Request::builder().method(method).uri(&path).header("content-type", media);
    client.request::<Value>(request.body(body.into_bytes())?).await.with_context(|| path.clone())?;
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

/// The API server as `mainstay serve` opens it, with a log in memory that holds all events.
async fn server(dir: &Path, tasks: &Tasks) -> anyhow::Result<ApiServer> {
    let clock = Clock::system();
    let events = usize::try_from(EVENTS)?;
    let options = Options { ring_changes: events * 2, ring_bytes: events * 4_096, ..Options::new(dir) };
    let store: Arc<dyn Store> = SqliteStore::open(options)?;
    let registry = Arc::new(Registry::standard());
    rbac::bootstrap(&store, &registry, &clock).await?;
    let keys = Arc::new(Keys::ephemeral(clock.now())?);
    let subjects = Arc::new(StoreSubjects::new(store.clone()));
    let tokens = Arc::new(Tokens::new(&keys, subjects, clock.clone()));
    let access = Access {
        authenticator: Arc::new(Authenticator::new(keys.clone(), tokens.clone())),
        tokens,
        authorizer: Authorizer::new(store.clone()),
    };
    let sealer = Arc::new(Sealer::new(&keys));
    let (limits, version) = (Limits::default(), "0.1.0");
    let duties = Duties::new(tasks.clone(), clock.clone(), store.leases());
    let metrics = mainstay_apiserver::metrics::registry();
    let config =
        Config { store, registry, access, sealer, clock, tasks: tasks.clone(), duties, limits, version, metrics };
    Ok(ApiServer::new(config)?)
}
