//! Creates and operations a second over PostgreSQL: one replica, three, and with Redis.

use mainstay_testkit::bench::fdatasync;

use crate::creates::{CLIENTS, load};
use crate::fleet::Fleet;
use crate::table::{Aim, Floor, Row};
use crate::{Plan, operations};

/// How many replicas, and whether a Redis is between them.
const SHAPES: [(usize, bool); 4] = [(1, false), (3, false), (1, true), (3, true)];

#[derive(Default)]
struct Runs {
    creates: Vec<f64>,
    operations: Vec<f64>,
    starts: Vec<f64>,
}

/// All shapes in turn.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let mut runs: [Runs; 4] = Default::default();
    let (mut syncs, mut others) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs(3) {
        for (runs, (replicas, with_redis)) in runs.iter_mut().zip(SHAPES) {
            others.push(plan.settle().await);
            let fleet = Fleet::start(plan, replicas, with_redis)?;
            let (access, pids) =
                (fleet.access()?, fleet.servers.iter().filter_map(mainstay_testkit::server::Server::pid));
            let pids: Vec<u32> = pids.collect();
            eprintln!("  {replicas} replicas{}", if with_redis { ", with Redis" } else { "" });
            syncs.push(fdatasync(fleet.servers[0].scratch(), 500)?.median());
            load(&access, &pids, 16, std::time::Duration::from_secs(1), "warm").await?;
            if !with_redis {
                let clients = CLIENTS[CLIENTS.len() - 1];
                runs.creates
                    .push(load(&access, &pids, clients, std::time::Duration::from_secs(4), "c").await?.per_second);
            }
            runs.starts.push(operations::begun(&mut access[0].connect().await?, "alone").await?);
            // A server does not keep connections that ask for nothing.
            let mut links = Vec::new();
            for access in &access {
                links.push(access.connect().await?);
            }
            runs.operations.push(operations::flood(&access, &mut links).await?.1);
        }
    }
    rows(&runs, &syncs, &others);
    Ok(())
}

fn rows([one, three, one_redis, three_redis]: &[Runs; 4], syncs: &[f64], others: &[f64]) {
    let sync = Floor { what: "fdatasync p50", unit: "ms", runs: syncs };
    let row = |what: &str, aim: Aim, unit, runs: &[f64], floor: Floor<'_>, bound: &str| {
        Row { what, aim, unit, runs, floors: &[floor], bound, others, bench: "replicas" }.print();
    };
    let than_one = || Floor { what: "one replica", unit: "per s", runs: &one.creates };
    let cores = "CPU: clients, servers and PostgreSQL share two cores";
    let creates = "creates of 1 KB ConfigMaps over HTTPS, 64 clients, PostgreSQL";
    row(&format!("{creates}, one replica"), Aim::AtLeast(5_000.0), "per s", &one.creates, sync, cores);
    let median = one.creates.iter().copied().collect::<mainstay_testkit::bench::Sample>().median();
    row(
        &format!("{creates}, three replicas"),
        Aim::AtLeast((0.8 * median).round()),
        "per s",
        &three.creates,
        than_one(),
        cores,
    );
    let done = "operations without steps over PostgreSQL, created 250 at a time, to their end";
    let start = "from sending the create to the start of the attempt, p99, over PostgreSQL";
    for (name, of, plain, start_aim) in [
        ("one replica", one, None, 20.0),
        ("three replicas", three, None, 20.0),
        ("one replica, turns over Redis", one_redis, Some(one), 5.0),
        ("three replicas, turns over Redis", three_redis, Some(three), 5.0),
    ] {
        let floor = plain.map_or(Floor { what: "fdatasync p50", unit: "ms", runs: syncs }, |plain| Floor {
            what: "without Redis",
            unit: "per s",
            runs: &plain.operations,
        });
        row(&format!("{done}, {name}"), Aim::AtLeast(5_000.0), "per s", &of.operations, floor, cores);
        let floor = Floor { what: "fdatasync p50", unit: "ms", runs: syncs };
        row(
            &format!("{start}, {name}"),
            Aim::AtMost(start_aim),
            "ms",
            &of.starts,
            floor,
            "three commits and a request",
        );
    }
}
