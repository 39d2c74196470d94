//! The history is compacted beneath those who watch and list: what they can have they get, and for the rest they are told to
//! begin anew.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use mainstay_runtime::Tasks;
use mainstay_store::postgres::{Address, Options};
use mainstay_store::{PostgresStore, Revision, Store};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::calls::{Answer, CONFIG_MAPS};
use crate::cases::report;
use crate::follower::Follower;
use crate::parted::{ENOUGH, LEASE, busy, more, settled};
use crate::stage::{Fleet, GLANCE};

/// Compactions while clients write and watch.
const ROUNDS: usize = 10;

/// A fourth process, in this one: the floor is raised by whoever is told to.
async fn compactor(fleet: &Fleet) -> anyhow::Result<Arc<PostgresStore>> {
    let options = Options::new(Address::parse(&fleet.database().url)?, "compactor");
    Ok(spawn_blocking(|| PostgresStore::open(options)).await??)
}

/// Waits until every replica refuses what is below the floor.
async fn heard(fleet: &Fleet, below: u64) -> anyhow::Result<()> {
    for replica in &fleet.replicas {
        let path = format!("{CONFIG_MAPS}?resourceVersion={below}&resourceVersionMatch=Exact&limit=1");
        while replica.api.get(&path).await.code != Some(410) {
            sleep(GLANCE).await;
        }
    }
    Ok(())
}

/// The pages of a list that is begun before the floor rises above it.
async fn continued(fleet: &Fleet, store: &PostgresStore) -> anyhow::Result<Answer> {
    let first = fleet.replicas[0].api.get(&format!("{CONFIG_MAPS}?limit=3")).await.json();
    let token = first["metadata"]["continue"].as_str().context("more pages")?.to_owned();
    let at: u64 = first["metadata"]["resourceVersion"].as_str().context("a revision")?.parse()?;
    let path = format!("{CONFIG_MAPS}?limit=3&continue={token}");
    let second = fleet.replicas[1].api.get(&path).await;
    ensure!(second.code == Some(200), "the second page, of another replica: {second:?}");
    while store.revision().0 <= at {
        sleep(GLANCE).await;
    }
    store.compact(Revision(at + 1)).await?;
    heard(fleet, at).await?;
    Ok(fleet.replicas[1].api.get(&path).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_while_history_is_compacted_misses_no_deletion() -> anyhow::Result<()> {
    let fleet = Fleet::start(3, |_, _| {}).await?;
    let store = compactor(&fleet).await?;
    let (ledger, mut followers) = busy(&fleet, fleet.leader(LEASE).await?).await?;
    let early = store.revision().0;
    let third = continued(&fleet, &store).await?;
    ensure!(third.code == Some(410), "a page of what was compacted: {third:?}");
    // The floor is where watchers are, and goes along with them.
    for _ in 0..ROUNDS {
        more(&ledger, ENOUGH / 4).await?;
        store.compact(store.revision()).await?;
    }
    // A deletion is the newest change, and the floor is exactly there.
    let api = &fleet.replicas[0].api;
    let doomed = api.create("doomed", None).await.revision().context("doomed")?;
    let deleted = api.call("DELETE", &format!("{CONFIG_MAPS}/doomed"), None, &Value::Null).await;
    ensure!(deleted.code == Some(200), "{deleted:?}");
    let rows = fleet.sql("SELECT max(revision) FROM mainstay.history WHERE name = 'doomed' AND kind = 2").await?;
    let gone: u64 = rows.first().context("no deletion")?.parse()?;
    store.reach(Revision(gone)).await?;
    store.compact(Revision(gone)).await?;
    heard(&fleet, gone - 1).await?;
    let tasks = Tasks::new();
    let follow = |at: usize, from: u64| {
        let apis = (0..3).map(|next| fleet.replicas[(at + next) % 3].api.clone()).collect();
        Follower::follow(&tasks, apis, from)
    };
    // Below, just below, at, and above.
    let begun = followers.len();
    for (at, from) in [early, doomed, gone - 1, gone, gone + 1].into_iter().enumerate() {
        followers.push(follow(at, from));
    }
    more(&ledger, ENOUGH).await?;
    let history = settled(&fleet, ledger, followers).await?;
    let verdict = history.judge(&fleet).await?;
    let gaps: Vec<usize> = history.seen.iter().skip(begun).map(|seen| seen.gaps.len()).collect();
    ensure!(gaps == [1, 1, 1, 0, 0], "of those that began below, just below, at and above the floor: {gaps:?}");
    let live: usize = history.seen.iter().take(begun).map(|seen| seen.gaps.len()).sum();
    store.close().await;
    let figures = json!({
        "compactions": ROUNDS + 2, "events": verdict.events, "live_watchers_told_to_begin_anew": live,
        "acknowledged": verdict.acknowledged,
    });
    report("D17 history is compacted beneath watches and lists", 1, &figures)
}
