//! Durable creates of 1 KB ConfigMaps over HTTPS, by clients in another process on the same cores.

use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use mainstay_testkit::bench::{Sample, fdatasync, usage};
use mainstay_testkit::server::Server;
use serde_json::json;
use tokio::time::Instant;

use crate::link::{Access, Link};
use crate::table::{Aim, Floor, Row};
use crate::{Plan, echo, floors};

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const CLIENTS: [usize; 3] = [1, 16, 64];
const SPAN: Duration = Duration::from_secs(3);

/// What the runs at one number of clients gave.
#[derive(Default)]
struct Runs {
    creates: Vec<f64>,
    server: Vec<f64>,
    clients: Vec<f64>,
    echoes: Vec<f64>,
    rows: Vec<f64>,
}

/// Creates at 1, 16 and 64 clients; beside them an echo through the same HTTP and TLS, and plain SQLite.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let mut runs: [Runs; 3] = Default::default();
    let (mut syncs, mut others) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs(5) {
        others.push(plan.settle().await);
        let server = Server::start(&plan.exe)?;
        let one = [Access::of(&server.kubeconfig())?];
        let pid = server.pid().context("a server")?;
        load(&one, &[pid], 16, Duration::from_secs(1), "warm").await?;
        syncs.push(fdatasync(server.scratch(), 500)?.median());
        for (runs, clients) in runs.iter_mut().zip(CLIENTS) {
            let rate = load(&one, &[pid], clients, SPAN, &format!("c{clients}")).await?;
            runs.creates.push(rate.per_second);
            runs.server.push(rate.server);
            runs.clients.push(rate.clients);
        }
        drop(server);
        let peer = echo::Peer::start()?;
        for (runs, clients) in runs.iter_mut().zip(CLIENTS) {
            runs.echoes.push(echoed(&peer, clients).await?);
            runs.rows.push(floors::sqlite(u32::try_from(clients)?)?);
        }
    }
    for ((runs, clients), aim) in runs.iter().zip(CLIENTS).zip([1_500.0, 8_000.0, 10_000.0]) {
        runs.row(clients, aim, &syncs, &others);
    }
    Ok(())
}

impl Runs {
    fn row(&self, clients: usize, aim: f64, syncs: &[f64], others: &[f64]) {
        let median = |runs: &[f64]| runs.iter().copied().collect::<Sample>().median();
        let bound = format!(
            "CPU of a create: {:.0} us in the server, {:.0} us in the clients, on the same two cores; then the disk's sync",
            median(&self.server),
            median(&self.clients),
        );
        let rows = format!("SQLite, {clients} rows a commit");
        Row {
            what: &format!("creates of 1 KB ConfigMaps, durable, over HTTPS, {clients} clients"),
            aim: Aim::AtLeast(aim),
            unit: "per s",
            runs: &self.creates,
            floors: &[
                Floor { what: "echo over the same HTTP/2 and TLS", unit: "per s", runs: &self.echoes },
                Floor { what: &rows, unit: "per s", runs: &self.rows },
                Floor { what: "fdatasync p50", unit: "ms", runs: syncs },
            ],
            bound: &bound,
            others,
            bench: "creates",
        }
        .print();
    }
}

async fn echoed(peer: &echo::Peer, clients: usize) -> anyhow::Result<f64> {
    let peers = std::slice::from_ref(&peer.access);
    Ok(load(peers, &[peer.pid()], clients, Duration::from_secs(1), "echo").await?.per_second)
}

/// Creates per second, and microseconds of CPU that each took.
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    server: f64,
    clients: f64,
}

/// A ConfigMap of 1 KB.
pub(crate) fn map(name: &str) -> String {
    let data = json!({ "text": "x".repeat(880) });
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data }).to_string()
}

/// So many clients over servers with these processes, each with a connection of its own and one request at a time.
pub(crate) async fn load(
    servers: &[Access],
    pids: &[u32],
    clients: usize,
    span: Duration,
    label: &str,
) -> anyhow::Result<Rate> {
    let mut links = Vec::new();
    for access in servers.iter().cycle().take(clients) {
        links.push(access.connect().await?);
    }
    let theirs = || pids.iter().map(|pid| Ok(usage(*pid)?.cpu)).sum::<anyhow::Result<f64>>();
    let (access, began, before, ours) = (&servers[0], Instant::now(), theirs()?, usage(std::process::id())?.cpu);
    let runs = links.into_iter().enumerate().map(|(client, link)| {
        let prefix = format!("{label}-{client}");
        access.tasks().spawn("load", client_loop(link, prefix, began, span))
    });
    let runs: Vec<_> = runs.collect();
    let mut times = Vec::new();
    for run in runs {
        times.extend(run.await??);
    }
    let took = began.elapsed().as_secs_f64();
    let sample = Sample::of_times(times);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let count = sample.len() as f64;
    let rate = Rate {
        per_second: count / took,
        server: (theirs()? - before) * 1e6 / count,
        clients: (usage(std::process::id())?.cpu - ours) * 1e6 / count,
    };
    eprintln!(
        "  {label}, {clients} clients: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms; CPU of the server {:.0} us, of the clients {:.0} us",
        rate.per_second,
        sample.median(),
        sample.percentile(99.0),
        rate.server,
        rate.clients,
    );
    Ok(rate)
}

async fn client_loop(mut link: Link, prefix: String, began: Instant, span: Duration) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    while began.elapsed() < span {
        let body = map(&format!("{prefix}-{}", times.len()));
        let since = Instant::now();
        link.send(Method::POST, MAPS, body).await?;
        times.push(since.elapsed());
    }
    Ok(times)
}
