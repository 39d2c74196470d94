//! Takes turns while somebody waits for them: new ones, and those that somebody else took and does not use.

use std::sync::Arc;
use std::time::Duration;

use redis::streams::{StreamAutoClaimReply, StreamId, StreamPendingCountReply, StreamReadReply};
use redis::{Cmd, Pipeline, cmd};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::link::{CALL, Failure, Link};
use super::tell::FIELD;
use super::{GROUP, Shared, lock};

/// How long Redis holds the question for new turns.
const BLOCK: Duration = Duration::from_secs(1);
/// A turn that was taken this long ago, and is not acknowledged, may be taken over.
const IDLE: Duration = Duration::from_secs(5);
/// How often it is looked for such.
const AGAIN: Duration = Duration::from_secs(5);
/// So many at a time.
const PAGE: usize = 100;
/// A turn that was taken so often is dead: it is not the turn that is to blame, but nobody should meet it again.
pub(super) const MOST_TAKEN: usize = 5;
/// Of the dead about so many are kept.
const MOST_DEAD: u64 = 1_000;

/// Works until it is told to stop.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut taking = Taking { shared, link: Link::default(), cursor: "0-0".to_owned(), look: Instant::now() };
    let mut wanted = taking.shared.wanted.subscribe();
    taking.shared.metrics.away(true);
    let work = async {
        loop {
            let Ok(free) = wanted.wait_for(|wanted| *wanted > 0).await.map(|free| *free) else { return };
            if !lock(&taking.shared.hand).is_empty() {
                // Whoever waits has been told, and will wait no longer in a moment.
                wanted.changed().await.ok();
                continue;
            }
            let taken = taking.turn(free).await;
            taking.coming(taken.is_ok());
            if taken.is_err() {
                sleep_until(taking.link.not_before()).await;
            }
        }
    };
    // What is taken in this moment, and not known, is taken over by others.
    stop.run_until_cancelled(work).await;
}

struct Taking {
    shared: Arc<Shared>,
    link: Link,
    /// How far the last look at what others took has come; from the beginning when it was over.
    cursor: String,
    /// When to look next.
    look: Instant,
}

impl Taking {
    async fn turn(&mut self, free: usize) -> Result<(), Failure> {
        while Instant::now() >= self.look && lock(&self.shared.hand).is_empty() {
            self.take_over(free).await?;
        }
        if lock(&self.shared.hand).is_empty() { self.take(free).await } else { Ok(()) }
    }

    fn coming(&self, coming: bool) {
        self.shared.metrics.away(!coming);
        let changed = self.shared.coming.send_if_modified(|known| std::mem::replace(known, coming) != coming);
        if changed && coming {
            tracing::info!(redis = %self.shared.address, "turns are coming");
        }
    }

    async fn take(&mut self, free: usize) -> Result<(), Failure> {
        let names = &self.shared.names;
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&names.consumer).arg("COUNT").arg(free.min(PAGE));
        read.arg("BLOCK").arg(millis(BLOCK)).arg("STREAMS").arg(&names.stream).arg(">");
        let shared = Arc::clone(&self.shared);
        let found: Option<StreamReadReply> = self.link.ask(&shared, &read, BLOCK + CALL).await?;
        let entries = found.into_iter().flat_map(|found| found.keys).flat_map(|key| key.ids).collect();
        self.keep(entries, "taken").await
    }

    /// One page of what others took and do not use; the next time goes on from there.
    async fn take_over(&mut self, free: usize) -> Result<(), Failure> {
        self.bury().await?;
        let (shared, page) = (Arc::clone(&self.shared), free.min(PAGE));
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(&shared.names.stream).arg(GROUP).arg(&shared.names.consumer).arg(millis(IDLE)).arg(&self.cursor);
        let found: StreamAutoClaimReply = self.link.ask(&shared, claim.arg("COUNT").arg(page), CALL).await?;
        // A page may be empty, and not the last.
        self.cursor = found.next_stream_id;
        if self.cursor == "0-0" {
            self.look = Instant::now() + AGAIN.mul_f64(0.5 + rand::random::<f64>());
        }
        self.keep(found.claimed, "taken_over").await
    }

    /// Puts those away that were taken again and again.
    async fn bury(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let mut pending: Cmd = cmd("XPENDING");
        pending.arg(&shared.names.stream).arg(GROUP).arg("IDLE").arg(millis(IDLE)).arg("-").arg("+").arg(PAGE);
        let pending: StreamPendingCountReply = self.link.ask(&shared, &pending, CALL).await?;
        let tired = pending.ids.into_iter().filter(|one| one.times_delivered >= MOST_TAKEN).map(|one| one.id);
        self.put_away(tired.collect(), "it was taken again and again").await
    }

    /// Has turns at hand, and wakes who waits. What is no turn is put away.
    async fn keep(&mut self, entries: Vec<StreamId>, what: &'static str) -> Result<(), Failure> {
        let (turns, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.map.contains_key(FIELD));
        self.put_away(others.into_iter().map(|entry| entry.id).collect(), "it is no turn").await?;
        if !turns.is_empty() {
            self.shared.metrics.count(what, turns.len() as u64);
            lock(&self.shared.hand).taken.extend(turns.into_iter().map(|turn| turn.id));
            self.shared.arrived.notify_one();
        }
        Ok(())
    }

    async fn put_away(&mut self, ids: Vec<String>, why: &str) -> Result<(), Failure> {
        if ids.is_empty() {
            return Ok(());
        }
        tracing::warn!(count = ids.len(), why, "turns are put with the dead");
        let (shared, mut commands) = (Arc::clone(&self.shared), Pipeline::new());
        for id in &ids {
            let bury = commands.cmd("XADD").arg(&shared.names.dead).arg("MAXLEN").arg("~").arg(MOST_DEAD).arg("*");
            bury.arg("id").arg(id).arg("why").arg(why);
        }
        commands.cmd("XACK").arg(&shared.names.stream).arg(GROUP).arg(&ids);
        commands.cmd("XDEL").arg(&shared.names.stream).arg(&ids);
        shared.metrics.count("dead", ids.len() as u64);
        self.link.send(&shared, &commands).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
