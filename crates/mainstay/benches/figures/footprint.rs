//! Start to ready, resident memory, and the size of the binary.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use mainstay_testkit::bench::{spawn, usage};
use mainstay_testkit::server::Server;
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::creates::{MAPS, map};
use crate::link::Access;
use crate::table::{Aim, Floor, Row};

const OBJECTS: usize = 10_000;
/// Until memory is looked at.
const REST: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Runs {
    fresh: Vec<f64>,
    again: Vec<f64>,
    full: Vec<f64>,
    idle: Vec<f64>,
    loaded: Vec<f64>,
    reloaded: Vec<f64>,
    bare: Vec<f64>,
    others: Vec<f64>,
}

/// All of it.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let mut runs = Runs::default();
    for _ in 0..plan.runs(5) {
        runs.others.push(plan.settle().await);
        runs.one(plan).await?;
    }
    let starting = "generation of keys and certificates when fresh, the store's open, the kinds' schemas";
    runs.row("start to ready, fresh directory", 200.0, &runs.fresh, starting);
    runs.row("start to ready, again", 200.0, &runs.again, "the store's open, the kinds' schemas, the first lists");
    runs.row("start to ready, with 10,000 objects of 1 KB", 200.0, &runs.full, "reading all objects into memory");
    let idle = "code and tables in use, the store's cache";
    runs.row("resident, idle", 40.0, &runs.idle, idle);
    let loaded = "objects and the watch log, in memory once each";
    runs.row("resident, after the creates of 10,000 x 1 KB", 80.0, &runs.loaded, loaded);
    runs.row("resident, started with 10,000 x 1 KB", 80.0, &runs.reloaded, "the objects, in memory once");
    sizes(plan, &runs.others)
}

impl Runs {
    async fn one(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let since = Instant::now();
        let mut server = Server::start(&plan.exe)?;
        self.fresh.push(since.elapsed().as_secs_f64() * 1e3);
        sleep(REST).await;
        self.idle.push(usage(server.pid().context("a server")?)?.resident);
        self.again.push(restart(&mut server)?);
        fill(&Access::of(&server.kubeconfig())?).await?;
        sleep(REST).await;
        let loaded = usage(server.pid().context("a server")?)?;
        self.loaded.push(loaded.resident);
        self.full.push(restart(&mut server)?);
        sleep(REST).await;
        let reloaded = usage(server.pid().context("a server")?)?;
        self.reloaded.push(reloaded.resident);
        self.bare.push(spawn(100)?.median());
        eprintln!(
            "  fresh {:.0} ms, full {:.0} ms; resident {:.1} MB loaded ({:.1} anonymous), {:.1} MB restarted ({:.1} anonymous)",
            self.fresh.last().unwrap_or(&f64::NAN),
            self.full.last().unwrap_or(&f64::NAN),
            loaded.resident,
            loaded.anonymous,
            reloaded.resident,
            reloaded.anonymous,
        );
        server.stop()
    }
}

impl Runs {
    fn row(&self, what: &str, aim: f64, runs: &[f64], bound: &str) {
        let floor = [Floor { what: "fork and exec of `true`", unit: "ms", runs: &self.bare }];
        let timed = what.starts_with("start");
        let (unit, floors) = if timed { ("ms", &floor[..]) } else { ("MB", &[][..]) };
        Row { what, aim: Aim::AtMost(aim), unit, runs, floors, bound, others: &self.others, bench: "footprint" }
            .print();
    }
}

fn restart(server: &mut Server) -> anyhow::Result<f64> {
    server.stop()?;
    let since = Instant::now();
    server.restart()?;
    Ok(since.elapsed().as_secs_f64() * 1e3)
}

async fn fill(access: &Access) -> anyhow::Result<()> {
    let creates = (0..16).map(|client| async move {
        let mut link = access.connect().await?;
        for number in (client..OBJECTS).step_by(16) {
            link.send(Method::POST, MAPS, map(&format!("m{number}"))).await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(creates).await.map(drop)
}

/// Sizes of the program as it is measured, without its symbols, and as it is shipped if that was built.
fn sizes(plan: &Plan, others: &[f64]) -> anyhow::Result<()> {
    let megabytes = |path: &std::path::Path| -> anyhow::Result<f64> {
        let bytes = u32::try_from(std::fs::metadata(path)?.len() / 1_000)?;
        Ok(f64::from(bytes) / 1e3)
    };
    let dir = tempfile::tempdir()?;
    let stripped = dir.path().join("stripped");
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(&plan.exe).status()?;
    anyhow::ensure!(done.success(), "strip ended with {done}");
    let row = |what: &str, aim: Aim, size: f64| {
        let bound = "code of the TLS, SQLite and Kubernetes crates";
        Row { what, aim, unit: "MB", runs: &[size], floors: &[], bound, others, bench: "footprint" }.print();
    };
    row("binary as measured, stripped", Aim::None, megabytes(&stripped)?);
    let shipped = plan.exe.ancestors().nth(2).context("a target")?.join("dist/mainstay");
    if shipped.exists() {
        row(
            "binary as it is shipped (`cargo build --profile dist -p mainstay`)",
            Aim::AtMost(40.0),
            megabytes(&shipped)?,
        );
    }
    Ok(())
}
