//! Redis, which carries the turns of operations, is killed, emptied, stopped, failed over to a replica that lacks what came
//! last, cut off from one server or from all: it costs time, and nothing else.

use anyhow::{Context as _, ensure};
use mainstay_testkit::drill_backend::{DrillBackend, doubled};
use mainstay_testkit::proxy::{Fault, Proxy};
use mainstay_testkit::redis::{Keeps, Redis};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cases::{drawn, report, run};
use crate::races::{BATCH, PATH, operations};
use crate::stage::{Fleet, GLANCE, PATIENCE, figures};

/// Operations of a case. A batch is more than a server has places for: the others are told of the rest.
const OPERATIONS: usize = 400;
/// What nobody tells of by a turn is found within this, in seconds: by the hints that go over the database. By nothing but
/// the look at the queue that needs no telling it would be 30.
const FOUND: &str = "5.0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Killed, and away until all is done.
    Dead,
    /// Killed, and started again without what it held.
    Reborn,
    /// Emptied again and again.
    Flushed,
    /// Its process stands still: connections stay, and nobody answers.
    Silent,
    /// One server's connections are reset, and no new ones made.
    CutForOne,
    /// Nothing passes between it and one server, and nothing is closed.
    SilentForOne,
    /// A replica takes over that has heard nothing of what came last.
    FailedOver,
}

impl Case {
    const ALL: [Self; 7] =
        [Self::Dead, Self::Reborn, Self::Flushed, Self::Silent, Self::CutForOne, Self::SilentForOne, Self::FailedOver];
}

/// Redis as the servers reach it: each over a network of its own.
struct Reached {
    redis: Redis,
    links: Vec<Proxy>,
    /// Who took over.
    next: Option<Redis>,
}

impl Reached {
    async fn start(servers: usize) -> anyhow::Result<Self> {
        let redis = tokio::task::spawn_blocking(|| Redis::start(Keeps::Nothing)).await??;
        let mut links = Vec::new();
        for _ in 0..servers {
            links.push(Proxy::start(redis.address()).await?);
        }
        Ok(Self { redis, links, next: None })
    }

    /// Does to it what the case says.
    async fn suffers(&mut self, case: Case) -> anyhow::Result<()> {
        match case {
            Case::Dead | Case::Reborn => self.redis.kill9()?,
            Case::Flushed => self.redis.flush()?,
            Case::Silent => self.redis.pause()?,
            Case::CutForOne => {
                self.links[1].set(Fault::Refuse).await?;
                self.links[1].cut();
            }
            Case::SilentForOne => self.links[1].set(Fault::Blackhole).await?,
            Case::FailedOver => {
                let replica = self.redis.replica()?;
                // It hears of nothing more.
                replica.promote()?;
                for link in &self.links {
                    link.lead_to(replica.address());
                }
                self.next = Some(replica);
            }
        }
        Ok(())
    }

    /// What goes on while the case does.
    fn goes_on(&mut self, case: Case) -> anyhow::Result<()> {
        match case {
            Case::Flushed => self.redis.flush(),
            _ => Ok(()),
        }
    }

    async fn recovers(&mut self, case: Case) -> anyhow::Result<()> {
        match case {
            Case::Dead | Case::Flushed | Case::FailedOver => Ok(()),
            Case::Reborn => self.redis.restart(),
            Case::Silent => self.redis.resume(),
            Case::CutForOne | Case::SilentForOne => self.links[1].set(Fault::Pass).await,
        }
    }
}

/// How many turns of this sort the servers have counted.
async fn turns(fleet: &Fleet, what: &str) -> anyhow::Result<f64> {
    let mut count = 0.0;
    for replica in &fleet.replicas {
        let text = replica.api.get("/metrics").await.text;
        let name = format!("mainstay_operation_turns_total{{what=\"{what}\"}}");
        count += figures(&text).get(&name).copied().unwrap_or_default();
    }
    Ok(count)
}

/// How many attempts began later than [`FOUND`] after they could have.
async fn late(fleet: &Fleet) -> anyhow::Result<f64> {
    let mut late = 0.0;
    for replica in &fleet.replicas {
        let figures = figures(&replica.api.get("/metrics").await.text);
        let all = figures.get("mainstay_operation_wait_seconds_count").context("a count")?;
        let bucket = format!("mainstay_operation_wait_seconds_bucket{{le=\"{FOUND}\"}}");
        late += all - figures.get(&bucket).context("a bucket")?;
    }
    Ok(late)
}

/// Waits until so many operations have ended well.
async fn ended(fleet: &Fleet, count: usize, reached: &mut Reached, case: Case) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let rows = fleet.sql("SELECT count(*) FROM mainstay.operations WHERE state = 4").await?;
        let ended: usize = rows.first().context("a count")?.parse()?;
        if ended == count {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{ended} of {count} have ended\n{}", fleet.last_words(0));
        reached.goes_on(case)?;
        sleep(GLANCE).await;
    }
}

/// Waits until turns come again to all.
async fn turns_come(fleet: &Fleet) -> anyhow::Result<()> {
    let begun = Instant::now();
    for (at, replica) in fleet.replicas.iter().enumerate() {
        while figures(&replica.api.get("/metrics").await.text).get("mainstay_operation_turns_away") != Some(&0.0) {
            ensure!(begun.elapsed() < PATIENCE, "no turns come to replica {at}:\n{}", fleet.last_words(at));
            sleep(GLANCE).await;
        }
    }
    Ok(())
}

async fn drill(case: Case) -> anyhow::Result<()> {
    let backend = DrillBackend::start()?;
    let mut reached = Reached::start(3).await?;
    let arguments = ["--drill-backend", &backend.url()];
    let fleet = Fleet::start(3, |at, server| {
        server.set_arguments(&arguments);
        server.set_env("MAINSTAY_QUEUE", Some(&reached.redis.url_at(reached.links[at].address())));
    })
    .await?;
    turns_come(&fleet).await?;
    let half = OPERATIONS / 2;
    for from in (0..OPERATIONS).step_by(BATCH) {
        if from == half {
            ended(&fleet, half, &mut reached, Case::Dead).await?;
            ensure!(turns(&fleet, "taken").await? > 0.0, "no turn was taken while all was well");
            reached.suffers(case).await?;
        }
        let made = fleet.replicas[from / BATCH % 3].api.call("POST", PATH, None, &operations(from)).await;
        ensure!(matches!(made.code, Some(200 | 201)), "{made:?}");
    }
    ended(&fleet, OPERATIONS, &mut reached, case).await?;
    let effects = backend.effects().await?;
    ensure!(doubled(&effects).is_empty(), "had twice: {:?}", doubled(&effects));
    ensure!(effects.len() == OPERATIONS, "{} effects of {OPERATIONS}", effects.len());
    let late = late(&fleet).await?;
    ensure!(late == 0.0, "{late} attempts began later than {FOUND} s after they could have");
    let lost = fleet.sql("SELECT count(*) FROM mainstay.operations WHERE notes::text LIKE '%Lost%'").await?;
    ensure!(lost.first().is_some_and(|count| count == "0"), "{lost:?} workers were lost");
    if case != Case::Dead {
        reached.recovers(case).await?;
        turns_come(&fleet).await?;
    }
    fleet.all_well().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_be_lost_in_any_way_and_it_costs_time_alone() -> anyhow::Result<()> {
    const NAME: &str = "D7 Redis is lost, emptied, silent, failed over, cut off";
    let cases = drawn(NAME, Case::ALL.to_vec(), 1);
    run(NAME, cases, async |case| drill(*case).await).await?;
    report("D7 operations of each case", OPERATIONS, &json!({ "lost": 0, "doubled": 0 }))
}
