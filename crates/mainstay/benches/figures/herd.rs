//! A thousand watchers over three replicas, of which one is killed: each goes on elsewhere from its last revision.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use mainstay_testkit::bench::Sample;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::Plan;
use crate::creates::{MAPS, map};
use crate::fleet::Fleet;
use crate::link::{Access, Lines, Link};
use crate::table::{Aim, Row};

const REPLICAS: usize = 3;
const WATCHERS: usize = 1_000;
/// The victim is the last replica; creates go to the first.
const VICTIM: usize = REPLICAS - 1;
const EVENTS: usize = 150;
/// The create before which it is killed.
const KILL_AT: usize = 50;
const PERIOD: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_mins(1);

/// Three times.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let (mut last, mut middle, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.runs(3) {
        others.push(plan.settle().await);
        let resumed = round(plan).await?;
        eprintln!(
            "  {} of {WATCHERS} watchers resumed elsewhere: p50 {:.0} ms, max {:.0} ms; none missed, none doubled",
            resumed.len(),
            resumed.median(),
            resumed.max()
        );
        last.push(resumed.max() / 1_000.0);
        middle.push(resumed.median() / 1_000.0);
    }
    let what =
        format!("{WATCHERS} watchers over three replicas, one killed: until its watchers had all resumed elsewhere");
    let bound = "CPU: a third of the watchers shake hands anew on two cores";
    let row = |what: &str, aim, runs: &[f64]| {
        Row { what, aim, unit: "s", runs, floors: &[], bound, others: &others, bench: "herd" }.print();
    };
    row(&format!("{what}; none missed or doubled"), Aim::AtMost(5.0), &last);
    row("the same, the median watcher", Aim::None, &middle);
    Ok(())
}

/// From the kill to the first line that each of the victim's watchers read elsewhere.
async fn round(plan: &Plan) -> anyhow::Result<Sample> {
    let mut fleet = Fleet::start(plan, REPLICAS, false)?;
    let access = Arc::new(fleet.access()?);
    let mut link = access[0].connect().await?;
    let list: Value = serde_json::from_slice(&link.send(Method::GET, MAPS, "").await?)?;
    let from: u64 = list["metadata"]["resourceVersion"].as_str().context("a revision")?.parse()?;
    let (opened, mut all_open) = watch::channel(0_usize);
    let opened = Arc::new(opened);
    let mut watchers = Vec::new();
    for number in 0..WATCHERS {
        let watcher = Watcher { access: Arc::clone(&access), at: number % REPLICAS, revision: from, resumed: None };
        let (tasks, opened) = (access[0].tasks(), Arc::clone(&opened));
        watchers.push(tasks.spawn("watcher", async move {
            timeout(PATIENCE, watcher.run(&opened)).await.context("events are missing")?
        }));
    }
    timeout(PATIENCE, all_open.wait_for(|open| *open == WATCHERS)).await??;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut killed = None;
    for number in 0..EVENTS {
        ticks.tick().await;
        if number == KILL_AT {
            killed = Some(Instant::now());
            fleet.servers[VICTIM].kill9()?;
        }
        link.send(Method::POST, MAPS, map(&format!("fan-{number:06}"))).await?;
    }
    let killed = killed.context("a kill")?;
    let mut times = Vec::new();
    for (number, watcher) in watchers.into_iter().enumerate() {
        let resumed = watcher.await??;
        ensure!(resumed.is_some() == (number % REPLICAS == VICTIM), "watcher {number} was cut off, or was not");
        times.extend(resumed.map(|at| at.saturating_duration_since(killed)));
    }
    Ok(Sample::of_times(times))
}

struct Watcher {
    access: Arc<Vec<Access>>,
    at: usize,
    revision: u64,
    /// When it read something elsewhere for the first time.
    resumed: Option<Instant>,
}

impl Watcher {
    /// Reads all events, each once, in the order of revisions; wherever there is a server.
    async fn run(mut self, opened: &watch::Sender<usize>) -> anyhow::Result<Option<Instant>> {
        let mut seen = BTreeSet::new();
        let mut open = Some(self.open().await?);
        opened.send_modify(|open| *open += 1);
        let mut moved = false;
        while seen.len() < EVENTS {
            let Some((lines, _)) = &mut open else {
                self.at = (self.at + 1) % REPLICAS;
                moved = true;
                open = self.open().await.ok();
                continue;
            };
            let Ok(line) = lines.next().await else {
                open = None;
                continue;
            };
            let event: Value = serde_json::from_slice(&line)?;
            let meta = &event["object"]["metadata"];
            ensure!(event["type"] == "ADDED", "{event}");
            let revision: u64 = meta["resourceVersion"].as_str().context("a revision")?.parse()?;
            ensure!(revision > self.revision, "revision {revision} after {}", self.revision);
            self.revision = revision;
            ensure!(seen.insert(meta["name"].as_str().context("a name")?.to_owned()), "{} came twice", meta["name"]);
            if moved && self.resumed.is_none() {
                self.resumed = Some(Instant::now());
            }
        }
        Ok(self.resumed)
    }

    async fn open(&self) -> anyhow::Result<(Lines, Link)> {
        let mut link = self.access[self.at].connect().await?;
        let path = format!("{MAPS}?watch=1&resourceVersion={}", self.revision);
        Ok((link.lines(&path).await?, link))
    }
}
