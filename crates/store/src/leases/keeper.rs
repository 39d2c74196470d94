//! The task that renews what is held, and takes what is wanted.

use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Clock;
use mainstay_runtime::guard::Guard;
use mainstay_runtime::lease::Held;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    BALANCE, COURTESY, FULL_COURTESY, GIVE_UP, Holding, IDLE, Kept, Leadership, Lease, MOST_COURTESY, Observed, RENEW,
    Row, SILENCE, SOON, SPURNED, Table, WORD,
};
use crate::error::StoreError;
use crate::lock;

/// Keeps what is held, and takes what is wanted, until it is told to stop; then hands everything back.
pub(crate) async fn run<T: Table>(table: T, leadership: Arc<Leadership>, stopping: CancellationToken) {
    let now = Instant::now();
    let mut keeper =
        Keeper { table, leadership: Arc::clone(&leadership), renewed: now, balanced: now, spurned: None, heard: now };
    while !stopping.is_cancelled() && !keeper.table.is_over() {
        let pause = keeper.round().await;
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = leadership.changed.notified() => {}
            () = sleep(pause) => {}
        }
    }
    keeper.leave().await;
}

struct Keeper<T> {
    table: T,
    leadership: Arc<Leadership>,
    renewed: Instant,
    balanced: Instant,
    /// When one that was handed back for others was taken back: none of them took it.
    spurned: Option<Instant>,
    /// When the table last answered, or was known not to be there.
    heard: Instant,
}

impl<T: Table> Keeper<T> {
    /// One look; tells when the next is due.
    async fn round(&mut self) -> Duration {
        self.give_up();
        let word = timeout(WORD, async {
            if self.table.sit().await? {
                // Rows that name the earlier session are renewed with this one.
                self.renewed = Instant::now().checked_sub(RENEW).unwrap_or_else(Instant::now);
            }
            self.hand_back().await?;
            self.renew().await?;
            self.look().await
        });
        match word.await {
            Ok(Ok(())) => self.heard = Instant::now(),
            Ok(Err(failure)) => {
                lock(&self.leadership.counts).failed += 1;
                tracing::debug!(?failure, "leases could not be looked at");
                self.heard = Instant::now();
            }
            // What is renewed by words that arrive without an answer would be kept from everybody.
            Err(_) if self.heard.elapsed() > GIVE_UP => {
                lock(&self.leadership.counts).failed += 1;
                tracing::warn!("nobody answers what is said of leases: the session is given up");
                self.table.hang_up().await;
                self.heard = Instant::now();
            }
            Err(_) => lock(&self.leadership.counts).failed += 1,
        }
        self.give_up();
        self.pause()
    }

    fn pause(&self) -> Duration {
        let leases = lock(&self.leadership.leases);
        let wanted = leases.values().filter(|lease| lease.is_wanted());
        let pause = |lease: &Lease| if lease.free.is_some() { SOON } else { self.table.looks() };
        wanted.map(pause).min().unwrap_or(IDLE)
    }

    /// What could not be renewed in time is not held any more, and what is renewed later is not either.
    fn give_up(&self) {
        for (name, lease) in lock(&self.leadership.leases).iter_mut() {
            if let Some(holding) = &lease.held
                && holding.renewed.elapsed() > GIVE_UP
                && !holding.lost.is_cancelled()
                && Guard::LeaseTerm.holds()
            {
                tracing::warn!(
                    lease = name,
                    term = holding.term,
                    "a lease could not be renewed in time: it is given up"
                );
                holding.lost.cancel();
                lock(&self.leadership.counts).given_up += 1;
            }
        }
    }

    async fn hand_back(&self) -> Result<(), StoreError> {
        let over: Vec<(&'static str, i64)> = lock(&self.leadership.leases)
            .iter()
            .filter_map(|(name, lease)| {
                lease.held.as_ref().filter(|holding| holding.over).map(|held| (*name, held.term))
            })
            .collect();
        for (name, term) in over {
            self.table.release(name, term).await?;
            if let Some(lease) = lock(&self.leadership.leases).get_mut(name) {
                lease.held = None;
            }
            self.table.tell();
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        if self.renewed.elapsed() < RENEW {
            return Ok(());
        }
        let (names, terms): (Vec<&'static str>, Vec<i64>) = lock(&self.leadership.leases)
            .iter()
            .filter_map(|(name, lease)| Some((*name, lease.held.as_ref()?.term)))
            .unzip();
        if names.is_empty() {
            return Ok(());
        }
        let sent = Instant::now();
        let kept = self.table.renew(&names, &terms).await?;
        self.renewed = sent;
        let mut leases = lock(&self.leadership.leases);
        for (name, term) in names.into_iter().zip(terms) {
            let Some(lease) = leases.get_mut(name) else { continue };
            let Some(holding) = lease.held.as_mut().filter(|holding| holding.term == term) else { continue };
            if kept.iter().any(|kept| kept == name) {
                holding.renewed = sent;
            } else {
                tracing::warn!(lease = name, term, "another process leads");
                lock(&self.leadership.counts).replaced += 1;
                holding.lost.cancel();
                // Its owner finishes; there is nothing to hand back.
                if holding.over {
                    lease.held = None;
                }
            }
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let wanted: Vec<&'static str> = lock(&self.leadership.leases)
            .iter()
            .filter(|(_, lease)| lease.is_wanted())
            .map(|(name, _)| *name)
            .collect();
        let is_balanced = self.balanced.elapsed() < BALANCE;
        if wanted.is_empty() && is_balanced {
            return Ok(());
        }
        let Observed { leases: rows, replicas } = self.table.observe().await?;
        let share = rows.len().div_ceil(replicas.max(1));
        let now = Instant::now();
        for name in wanted {
            let row = rows.iter().find(|row| row.name == name);
            if self.is_to_be_taken((name, share), row, now) {
                self.take(name, row.map(|row| (row.term, row.renewed))).await?;
            }
        }
        if !is_balanced {
            self.balanced = now;
            self.balance(share, now);
        }
        Ok(())
    }

    /// Whether it is free, or its holder has been silent for too long, and nobody else should go first.
    fn is_to_be_taken(&self, (name, share): (&'static str, usize), row: Option<&Row>, now: Instant) -> bool {
        let seen = row.map(|row| (row.term, row.renewed));
        let gone = row.is_none_or(|row| row.gone);
        let mut leases = lock(&self.leadership.leases);
        let held = leases.values().filter(|lease| lease.held.is_some()).count();
        let Some(lease) = leases.get_mut(name) else { return false };
        let since = match (lease.seen, seen) {
            (Some((term, renewed, since)), Some(seen)) if (term, renewed) == seen => since,
            (_, Some((term, renewed))) => {
                lease.seen = Some((term, renewed, now));
                now
            }
            (_, None) => now,
        };
        let silent = if Guard::OwnClock.holds() { now.duration_since(since) } else { by_wall_clocks(row) };
        let free = gone || silent >= SILENCE;
        if !free {
            lease.free = None;
            return false;
        }
        let since = *lease.free.get_or_insert(now);
        lease.left.is_none_or(|until| until <= now) && now.duration_since(since) >= courtesy(held, share)
    }

    async fn take(&mut self, name: &'static str, seen: Option<(i64, i64)>) -> Result<(), StoreError> {
        let sent = Instant::now();
        let Some(term) = self.table.take(name, seen).await? else { return Ok(()) };
        let mut leases = lock(&self.leadership.leases);
        let Some(lease) = leases.get_mut(name) else { return Ok(()) };
        lease.free = None;
        if lease.left.take().is_some() && seen.is_some_and(|(term, _)| term == lease.term.cast_signed()) {
            self.spurned = Some(sent);
        }
        {
            let mut counts = lock(&self.leadership.counts);
            counts.taken += 1;
            counts.silent += lease.seen.map_or(Duration::ZERO, |(_, _, since)| since.elapsed());
        }
        lease.term = term.cast_unsigned();
        lease.began = Some(sent);
        let lost = CancellationToken::new();
        lease.held = Some(Holding { term, lost: lost.clone(), renewed: sent, over: false });
        let kept = Kept { leadership: Arc::downgrade(&self.leadership), name, term };
        let mut held = Held::new(name, term.cast_unsigned(), lost, kept);
        // Who stopped waiting holds nothing.
        while let Some(grant) = lease.waiting.pop_front() {
            match grant.send(held) {
                Ok(()) => {
                    tracing::info!(lease = name, term, "leads");
                    return Ok(());
                }
                Err(back) => held = back,
            }
        }
        // The drop of what nobody wants takes the lock that is held here.
        drop(leases);
        drop(held);
        Ok(())
    }

    /// More than the share: one is left to others.
    fn balance(&self, share: usize, now: Instant) {
        // Sessions say that others are there, not that they do anything.
        if self.spurned.is_some_and(|at| now.duration_since(at) < SPURNED) {
            return;
        }
        let mut leases = lock(&self.leadership.leases);
        let held =
            |lease: &Lease| lease.held.as_ref().is_some_and(|holding| !holding.over && !holding.lost.is_cancelled());
        if leases.values().filter(|lease| held(lease)).count() <= share {
            return;
        }
        let Some((name, lease)) =
            leases.iter_mut().filter(|(_, lease)| held(lease)).max_by_key(|(_, lease)| lease.term)
        else {
            return;
        };
        tracing::info!(lease = name, "handed back: others hold less");
        lease.left = Some(now + BALANCE);
        if let Some(holding) = &lease.held {
            holding.lost.cancel();
        }
    }

    /// Everything is handed back, for others to take at once.
    async fn leave(&self) {
        let held: Vec<(&'static str, i64)> = lock(&self.leadership.leases)
            .iter()
            .filter_map(|(name, lease)| Some((*name, lease.held.as_ref()?.term)))
            .collect();
        for (name, term) in held {
            timeout(WORD, self.table.release(name, term)).await.ok();
        }
        self.table.tell();
        // Nobody is granted anything any more.
        lock(&self.leadership.leases).values_mut().for_each(|lease| lease.waiting.clear());
    }
}

/// How long ago a lease was renewed, by the clock of whoever wrote that and by this machine's: nothing to go by.
fn by_wall_clocks(row: Option<&Row>) -> Duration {
    let ago = row.map(|row| Clock::system().now().as_millisecond() - row.renewed);
    Duration::from_millis(ago.and_then(|ago| u64::try_from(ago).ok()).unwrap_or(0))
}

/// How long others, who hold less, may go first.
fn courtesy(held: usize, share: usize) -> Duration {
    if held >= share {
        // It would be handed back again.
        return FULL_COURTESY;
    }
    COURTESY.saturating_mul(u32::try_from(held).unwrap_or(u32::MAX)).min(MOST_COURTESY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_less_goes_first_and_who_has_its_share_last() {
        assert_eq!(courtesy(0, 4), Duration::ZERO);
        assert!(courtesy(1, 4) < courtesy(3, 4) && courtesy(1_000, 4_000) == MOST_COURTESY);
        // Later than whoever has less looks for it.
        assert!(courtesy(4, 4) >= MOST_COURTESY + SOON * 4 && courtesy(9, 4) == courtesy(4, 4));
    }
}
