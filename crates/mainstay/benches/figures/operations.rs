//! Operations without steps, from a create over HTTPS to their end: how many a second, and how soon each begins.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use mainstay_runtime::{Clock, Timestamp};
use mainstay_testkit::bench::{Sample, fdatasync, usage};
use mainstay_testkit::server::Server;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Plan;
use crate::link::{Access, Link};
use crate::table::{Aim, Floor, Row};

const OPERATIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/operations";
/// Operations of a run, so many a request, on so many connections.
const COUNT: usize = 20_000;
const BATCH: usize = 250;
const CONNECTIONS: usize = 4;
/// Operations whose start is timed, one after the other.
const STARTS: usize = 300;
/// What waits when the claim of a backlog is timed.
const BACKLOG: usize = 100_000;

fn operation(name: &str, run_at: Option<&str>) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "handler": "noop", "runAt": run_at } })
}

fn list(items: &[Value]) -> String {
    json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "OperationList", "items": items }).to_string()
}

/// Throughput and starts; the starts again with a backlog that is not due.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let (mut rates, mut creates, mut starts, mut behind, mut memory) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut syncs, mut others) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs(3) {
        others.push(plan.settle().await);
        let server = Server::start(&plan.exe)?;
        let access = Access::of(&server.kubeconfig())?;
        let pid = server.pid().context("a server")?;
        syncs.push(fdatasync(server.scratch(), 500)?.median());
        let mut link = access.connect().await?;
        starts.push(begun(&mut link, "alone").await?);
        let (create, done) = flood(std::slice::from_ref(&access), std::slice::from_mut(&mut link)).await?;
        creates.push(create);
        rates.push(done);
        let before = usage(pid)?.resident;
        waiting(&mut link).await?;
        behind.push(begun(&mut link, "behind").await?);
        memory.push(usage(pid)?.resident - before);
    }
    let bound = "CPU: the clients, the API and the workers share two cores";
    Row {
        what: "operations without steps, durable, created over HTTPS 250 at a time, to their end",
        aim: Aim::AtLeast(5_000.0),
        unit: "per s",
        runs: &rates,
        floors: &[
            Floor { what: "their creation alone", unit: "per s", runs: &creates },
            Floor { what: "fdatasync p50", unit: "ms", runs: &syncs },
        ],
        bound,
        others: &others,
        bench: "operations",
    }
    .print();
    Row {
        what: "from sending the create to the start of the attempt, p99",
        aim: Aim::AtMost(10.0),
        unit: "ms",
        runs: &starts,
        floors: &[
            Floor { what: "with 100,000 others waiting", unit: "ms", runs: &behind },
            Floor { what: "memory that these took", unit: "MB", runs: &memory },
        ],
        bound: "two commits and a request",
        others: &others,
        bench: "operations",
    }
    .print();
    Ok(())
}

/// Milliseconds from the sending of a create to the start that the operation tells: the 99th percentile.
pub(crate) async fn begun(link: &mut Link, label: &str) -> anyhow::Result<f64> {
    let clock = Clock::system();
    let mut times = Vec::new();
    for at in 0..STARTS {
        let name = format!("{label}-{at}");
        let sent = clock.now();
        link.send(Method::POST, OPERATIONS, operation(&name, None).to_string()).await?;
        let started = loop {
            let found: Value =
                serde_json::from_slice(&link.send(Method::GET, &format!("{OPERATIONS}/{name}"), "").await?)?;
            if found["status"]["phase"] == "Succeeded" {
                break found["status"]["startedAt"].as_str().context("a start")?.parse::<Timestamp>()?;
            }
        };
        times.push(Duration::try_from(started.duration_since(sent)).unwrap_or_default());
    }
    let sample = Sample::of_times(times);
    eprintln!("  {label}: p50 {:.2} ms, p99 {:.2} ms", sample.median(), sample.percentile(99.0));
    Ok(sample.percentile(99.0))
}

/// Operations a second, over these servers: created, and ended.
pub(crate) async fn flood(servers: &[Access], links: &mut [Link]) -> anyhow::Result<(f64, f64)> {
    let before = succeeded(links).await?;
    let since = Instant::now();
    let mut clients = Vec::new();
    for (client, access) in servers.iter().cycle().take(CONNECTIONS).enumerate() {
        let mut link = access.connect().await?;
        clients.push(access.tasks().spawn("load", async move {
            for batch in 0..COUNT / CONNECTIONS / BATCH {
                let items: Vec<Value> =
                    (0..BATCH).map(|at| operation(&format!("f{client}-{batch}-{at}"), None)).collect();
                let answer = link.send(Method::POST, OPERATIONS, list(&items)).await?;
                ensure!(answer.len() > BATCH * 100, "{}", String::from_utf8_lossy(&answer));
            }
            anyhow::Ok(())
        }));
    }
    for client in clients {
        client.await??;
    }
    let created = since.elapsed();
    while succeeded(links).await? - before < COUNT as u64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let done = since.elapsed();
    let rate = |span: Duration| f64::from(u32::try_from(COUNT).unwrap_or(0)) / span.as_secs_f64();
    eprintln!("  {COUNT} created in {created:.2?}, done in {done:.2?}: {:.0}/s", rate(done));
    Ok((rate(created), rate(done)))
}

/// How many attempts have succeeded, on all servers.
async fn succeeded(links: &mut [Link]) -> anyhow::Result<u64> {
    let mut count = 0;
    for link in links {
        let text = String::from_utf8(link.send(Method::GET, "/metrics", "").await?.to_vec())?;
        let line = text.lines().find(|line| {
            line.starts_with("mainstay_operation_attempts_total") && line.contains("noop") && line.contains("succeeded")
        });
        count += line.and_then(|line| line.rsplit(' ').next()).map_or(Ok(0), str::parse::<u64>)?;
    }
    Ok(count)
}

/// Puts operations into the queue that are not due for long.
async fn waiting(link: &mut Link) -> anyhow::Result<()> {
    for batch in 0..BACKLOG / BATCH {
        let items: Vec<Value> =
            (0..BATCH).map(|at| operation(&format!("w{batch}-{at}"), Some("2099-01-01T00:00:00Z"))).collect();
        link.send(Method::POST, OPERATIONS, list(&items)).await?;
    }
    Ok(())
}
