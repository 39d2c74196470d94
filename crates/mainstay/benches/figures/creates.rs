//! Durable creates of 1 KB ConfigMaps over HTTPS, by clients in another process on the same cores.

use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use mainstay_testkit::bench::{Sample, fdatasync, usage};
use mainstay_testkit::server::Server;
use serde_json::json;
use tokio::time::Instant;

use crate::link::{Access, Link};
use crate::{Plan, echo, floors, say};

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CLIENTS: [usize; 3] = [1, 16, 64];
const SPAN: Duration = Duration::from_secs(3);

/// Creates at 1, 16 and 64 clients; beside them an echo through the same HTTP and TLS, and plain SQLite.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut echoes: [Vec<f64>; 3] = Default::default();
    let (mut syncs, mut inserts) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs(5) {
        let busy = plan.settle().await;
        let server = Server::start(&plan.exe)?;
        let access = Access::of(&server.kubeconfig())?;
        let pid = server.pid().context("a server")?;
        load(&access, pid, 16, Duration::from_secs(1), "warm").await?;
        let sync = fdatasync(server.scratch(), 500)?;
        println!("  fdatasync p50 {:.3} ms; others {busy:.0} %", sync.median());
        for (at, clients) in CLIENTS.into_iter().enumerate() {
            rates[at].push(load(&access, pid, clients, SPAN, &format!("c{clients}")).await?);
        }
        drop(server);
        let peer = echo::Peer::start()?;
        for (at, clients) in CLIENTS.into_iter().enumerate() {
            echoes[at].push(load(&peer.access, peer.pid(), clients, Duration::from_secs(1), "echo").await?);
        }
        syncs.push(sync.median());
        inserts.push(floors::sqlite(1)?);
    }
    for (at, clients) in CLIENTS.into_iter().enumerate() {
        say(&format!("creates, {clients} clients"), "per s", &rates[at]);
        say(&format!("floor, echo of the same bytes, {clients} clients"), "per s", &echoes[at]);
    }
    say("floor, fdatasync p50", "ms", &syncs);
    say("floor, SQLite, one row per commit, one thread", "per s", &inserts);
    Ok(())
}

/// A ConfigMap of 1 KB.
pub(crate) fn map(name: &str) -> String {
    let data = json!({ "text": "x".repeat(880) });
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data }).to_string()
}

/// So many clients, each with a connection of its own and one request at a time; creates per second.
async fn load(access: &Access, pid: u32, clients: usize, span: Duration, label: &str) -> anyhow::Result<f64> {
    let mut links = Vec::new();
    for _ in 0..clients {
        links.push(access.connect().await?);
    }
    let (began, before, ours) = (Instant::now(), usage(pid)?.cpu, usage(std::process::id())?.cpu);
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
    println!(
        "  {label}, {clients} clients: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms; CPU of the server {:.0} us, of the clients {:.0} us",
        count / took,
        sample.median(),
        sample.percentile(99.0),
        (usage(pid)?.cpu - before) * 1e6 / count,
        (usage(std::process::id())?.cpu - ours) * 1e6 / count,
    );
    Ok(count / took)
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
