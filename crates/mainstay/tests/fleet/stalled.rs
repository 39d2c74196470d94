//! The database stalls: commits that do not end, connections that are accepted and never answered, one that comes late.
//! Every call ends, leaders stay, and nothing is out of order.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_runtime::Tasks;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cases::{drawn, report, run};
use crate::parted::{ENOUGH, LEASE, answered, busy, more, settled};
use crate::stage::{Fleet, takes_up};

/// For so long, in seconds: longer than a silent leader keeps its lease.
const STALLS: u64 = 13;
/// Reads go on meanwhile, where they are not what is stalled.
const READ: Duration = Duration::from_secs(2);
/// The commit of what is called `late` takes longer than this (`recorder.sql`).
const LATE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Somebody holds the log's lock: no commit of anybody's ends.
    Commits,
    /// The leader's connections answer nothing, but for the one that is reserved for leases.
    Pool,
}

/// The processes of the database that serve a replica, but for its leases.
async fn pool(fleet: &Fleet, at: usize) -> anyhow::Result<Vec<Pid>> {
    let name = &fleet.replicas[at].name;
    let rows = fleet
        .sql(format!(
            "SELECT pid FROM pg_stat_activity
             WHERE application_name LIKE 'mainstay {name} %' AND application_name NOT LIKE '% leads'"
        ))
        .await?;
    rows.iter().map(|row| Pid::from_raw(row.parse()?).context("a pid")).collect()
}

fn tell(pids: &[Pid], signal: Signal) {
    for pid in pids {
        // One that has ended needs none.
        kill_process(*pid, signal).ok();
    }
}

async fn stalls(case: &Case) -> anyhow::Result<()> {
    let fleet = Fleet::start(3, |_, _| {}).await?;
    let held = fleet.rests().await?;
    let (term, leader) = fleet.leader(LEASE).await?;
    let (ledger, followers) = busy(&fleet, (term, leader)).await?;
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let stopped = pool(&fleet, leader).await?;
    match case {
        Case::Commits => {
            let hold = format!("BEGIN; SELECT FROM mainstay.log FOR UPDATE; SELECT pg_sleep({STALLS}); COMMIT;");
            let reads = async {
                while began.elapsed() < Duration::from_secs(STALLS) {
                    let answer = fleet.replicas[leader].api.get("/api/v1/namespaces/default").await;
                    ensure!(answer.code == Some(200), "reads do not go on: {answer:?}");
                    slowest = slowest.max(answer.took);
                    sleep(Duration::from_millis(100)).await;
                }
                anyhow::Ok(())
            };
            tokio::try_join!(fleet.sql(hold), reads)?;
            ensure!(slowest <= READ, "a read took {slowest:?}");
        }
        Case::Pool => {
            tell(&stopped, Signal::STOP);
            sleep(Duration::from_secs(STALLS)).await;
            tell(&stopped, Signal::CONT);
        }
    }
    let over = Instant::now();
    let now = fleet.leases().await?;
    ensure!(now == held, "who leads has changed from {held:?} to {now:?}");
    more(&ledger, ENOUGH).await?;
    let history = settled(&fleet, ledger, followers).await?;
    let (refused, longest) = answered(&history.told.said, leader, (began, over))?;
    let verdict = history.judge(&fleet).await?;
    let figures = json!({
        "stalled_s": over.duration_since(began).as_secs_f64(), "refused": refused,
        "longest_answer_s": longest.as_secs_f64(), "slowest_read_s": slowest.as_secs_f64(),
        "acknowledged": verdict.acknowledged,
    });
    report(&format!("D6 the database stalls: {case:?}"), 1, &figures)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_end_and_leaders_stay_while_the_database_stalls() -> anyhow::Result<()> {
    if !takes_up("stalls", 4) {
        return Ok(());
    }
    run("D6 the database stalls", drawn("stalls", vec![Case::Commits, Case::Pool], 1), stalls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_late_is_seen_before_those_that_came_after() -> anyhow::Result<()> {
    let fleet = Fleet::start(3, |_, _| {}).await?;
    let (ledger, followers) = busy(&fleet, fleet.leader(LEASE).await?).await?;
    let (tasks, began) = (Tasks::new(), Instant::now());
    let (api, asked) = (fleet.replicas[0].api.clone(), "late");
    let late = tasks.spawn("late", async move { api.create(asked, None).await });
    // Its revision is given, and it is not committed.
    let under_way = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while fleet.sql(under_way).await?.first().is_none_or(|count| count == "0") {
        ensure!(began.elapsed() < LATE, "it is not under way");
    }
    let early = fleet.replicas[1].api.create("early", None).await;
    let late = late.await.context("the request failed")?;
    let (late_revision, early_revision) = (late.revision().context("late")?, early.revision().context("early")?);
    ensure!(late.took >= LATE && late_revision < early_revision, "late: {late:?}; early: {early:?}");
    let history = settled(&fleet, ledger, followers).await?;
    let verdict = history.judge(&fleet).await?;
    let figures = json!({ "late_by_s": late.took.as_secs_f64(), "events": verdict.events });
    report("D19 a commit that comes late", 1, &figures)
}
