//! A thousand watchers whose server dies, and watchers whose streams are cut anywhere: all resume, and miss nothing.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use mainstay_runtime::Tasks;
use mainstay_testkit::crash::Seed;
use mainstay_testkit::proxy::{Direction, Fault, Proxy};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::calls::Api;
use crate::cases::{all, report};
use crate::follower::Follower;
use crate::ledger::Ledger;
use crate::parted::{more, settled};
use crate::stage::{Fleet, GLANCE, PATIENCE, Replica, takes_up};

/// Watchers over all replicas.
const HERD: usize = 1_000;
/// Those of one that was killed are back within this.
const BACK: Duration = Duration::from_secs(5);
/// Between two writes: each is told to all of the herd.
const PACE: Duration = Duration::from_millis(100);
/// Watchers whose streams are cut, how often, and after how many bytes at most.
const CUT: usize = 6;
const CUTS: usize = 40;
const BYTES: u64 = 12_000;
/// Between two cuts.
const APART: Duration = Duration::from_millis(150);

/// A client of its own, with connections of its own, by way of a proxy.
async fn client(replica: &Replica, proxy: &Proxy) -> anyhow::Result<Api> {
    let mut kubeconfig = Kubeconfig::read_from(replica.server.kubeconfig())?;
    for cluster in &mut kubeconfig.clusters {
        cluster.cluster.as_mut().context("no cluster")?.server = Some(format!("https://{}", proxy.address()));
    }
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Api::new(mainstay_runtime::client::remote(&config, PATIENCE)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_of_watchers_whose_server_dies_resumes_elsewhere_and_misses_nothing() -> anyhow::Result<()> {
    if !takes_up("a herd", 2) {
        return Ok(());
    }
    let count = if all() { HERD } else { HERD / 5 };
    let mut fleet = Fleet::start(3, |_, _| {}).await?;
    let from = fleet.replicas[0].api.create("first", None).await.revision().context("a revision")?;
    let (tasks, mut ledger) = (Tasks::new(), Ledger::paced(PACE));
    let mut followers = Vec::new();
    for at in 0..count {
        let mut apis: Vec<_> = fleet.replicas.iter().map(|replica| replica.api.clone()).collect();
        apis.rotate_left(at % 3);
        followers.push(Follower::follow(&tasks, apis, from));
    }
    // The one that dies has no writer of its own: what is asked is what watchers see.
    ledger.writes(1, &fleet.replicas[1].api, None);
    let begun = Instant::now();
    while followers.iter().any(|follower| follower.began().is_none()) {
        ensure!(begun.elapsed() < PATIENCE, "not all begin");
        sleep(GLANCE).await;
    }
    let together = begun.elapsed();
    more(&ledger, 10).await?;
    let killed = Instant::now();
    fleet.replicas[0].server.kill9()?;
    let is_back = |follower: &Follower| follower.began().is_some_and(|began| began > killed);
    while followers.iter().step_by(3).any(|follower| !is_back(follower)) {
        let away = followers.iter().step_by(3).filter(|follower| !is_back(follower)).count();
        ensure!(killed.elapsed() < PATIENCE, "{away} of {count} do not come back");
        sleep(GLANCE).await;
    }
    let mut backs: Vec<Duration> = followers.iter().step_by(3).filter_map(|one| Some(one.began()? - killed)).collect();
    backs.sort_unstable();
    let last = backs.last().copied().unwrap_or_default();
    more(&ledger, 10).await?;
    fleet.replicas[0].server.restart()?;
    fleet.replicas[0].api = Api::new(fleet.replicas[0].server.client().await?);
    let history = settled(&fleet, ledger, followers).await?;
    let verdict = history.judge(&fleet).await?;
    let gaps: usize = history.seen.iter().map(|seen| seen.gaps.len()).sum();
    ensure!(gaps == 0, "{gaps} were told to begin anew");
    ensure!(last <= BACK, "the last is back after {last:?}");
    let figures = json!({
        "watchers": count, "all_began_s": together.as_secs_f64(), "back_median_s": backs[backs.len() / 2].as_secs_f64(),
        "back_last_s": last.as_secs_f64(), "events": verdict.events,
    });
    report("D15 a herd of watchers, one replica of three killed", 1, &figures)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_cut_anywhere_are_resumed_without_a_gap() -> anyhow::Result<()> {
    let cuts = if all() { CUTS } else { CUTS / 5 };
    let fleet = Fleet::start(3, |_, _| {}).await?;
    let from = fleet.replicas[0].api.create("first", None).await.revision().context("a revision")?;
    let mut proxies = Vec::new();
    for replica in &fleet.replicas {
        let url = replica.server.url()?;
        proxies.push(Proxy::start(url.trim_start_matches("https://").parse()?).await?);
    }
    let (tasks, mut ledger) = (Tasks::new(), Ledger::open());
    let mut followers = Vec::new();
    for at in 0..CUT {
        let mut apis = Vec::new();
        for (replica, proxy) in fleet.replicas.iter().zip(&proxies) {
            apis.push(client(replica, proxy).await?);
        }
        apis.rotate_left(at % 3);
        followers.push(Follower::follow(&tasks, apis, from));
    }
    for (at, replica) in fleet.replicas.iter().enumerate() {
        ledger.writes(at, &replica.api, None);
    }
    let mut seed = Seed::fresh("where streams are cut");
    for _ in 0..cuts {
        for proxy in &proxies {
            proxy.set(Fault::CutAfter(Direction::ToClient, seed.upto(BYTES))).await?;
        }
        sleep(APART).await;
    }
    for proxy in &proxies {
        proxy.set(Fault::Pass).await?;
    }
    let history = settled(&fleet, ledger, followers).await?;
    let verdict = history.judge(&fleet).await?;
    let (resumed, gaps) =
        history.seen.iter().fold((0, 0), |(resumed, gaps), seen| (resumed + seen.resumed, gaps + seen.gaps.len()));
    ensure!(gaps == 0, "{gaps} were told to begin anew");
    ensure!(resumed >= cuts, "only {resumed} streams were resumed, so that this shows little");
    let figures = json!({ "watchers": CUT, "resumed": resumed, "events": verdict.events });
    report("D16 streams are cut at any byte", cuts, &figures)
}
