//! The task that renews what is held, and takes what is wanted.

use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::lease::Held;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    BALANCE, COURTESY, FULL_COURTESY, GIVE_UP, Holding, Kept, LOOK, Leadership, Lease, MOST_COURTESY, RENEW, SILENCE,
    WORD,
};
use crate::lock;
use crate::postgres::link::{self, Link, Parameters, Session};
use crate::postgres::shared::{LEASES, Shared};

/// Keeps what is held, and takes what is wanted, until the store is closed; then hands everything back.
pub(in crate::postgres) async fn run(shared: Arc<Shared>) {
    let stopping = shared.tasks.stopping();
    let name = format!("mainstay {} leads", shared.options.replica);
    let mut keeper = Keeper {
        link: Link::new(&shared.options.address, name, &shared.connections, None),
        leadership: Arc::clone(&shared.leadership),
        session: None,
        renewed: Instant::now(),
        balanced: Instant::now(),
        shared: Arc::clone(&shared),
    };
    while !stopping.is_cancelled() && !shared.health.is_closed() {
        let wanted = keeper.round().await;
        let pause = if wanted { LOOK } else { Duration::from_millis(500) };
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.leadership.changed.notified() => {}
            () = stopping.cancelled() => {}
        }
    }
    keeper.leave().await;
}

struct Keeper {
    shared: Arc<Shared>,
    leadership: Arc<Leadership>,
    link: Link,
    /// The session that has the lock, and its number in the database; `None` behind a pooler.
    session: Option<(Arc<Session>, Option<i32>)>,
    renewed: Instant,
    balanced: Instant,
}

impl Keeper {
    /// One look; tells whether a lease is wanted that is not held here.
    async fn round(&mut self) -> bool {
        self.give_up();
        let word = timeout(WORD, async {
            self.sit().await?;
            self.hand_back().await?;
            self.renew().await?;
            self.look().await
        });
        if let Ok(Err(failure)) = word.await {
            tracing::debug!(?failure, "leases could not be looked at");
        }
        self.give_up();
        lock(&self.leadership.leases).values().any(Lease::is_wanted)
    }

    /// What could not be renewed in time is not held any more, and what is renewed later is not either.
    fn give_up(&self) {
        for (name, lease) in lock(&self.leadership.leases).iter_mut() {
            if let Some(holding) = &lease.held
                && holding.renewed.elapsed() > GIVE_UP
                && !holding.lost.is_cancelled()
            {
                tracing::warn!(
                    lease = name,
                    term = holding.term,
                    "a lease could not be renewed in time: it is given up"
                );
                holding.lost.cancel();
            }
        }
    }

    /// Takes the session's lock on a connection that is new.
    async fn sit(&mut self) -> Result<(), link::Failure> {
        let session = self.link.session().await?;
        if self.session.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, &session)) {
            return Ok(());
        }
        let locks = "SELECT pg_backend_pid(), pg_try_advisory_lock_shared(19795, hashtext($1))";
        let row = self.link.one(locks, &[&&*self.shared.options.replica]).await?;
        let backend: i32 = row.get(0);
        let mut same = true;
        for _ in 0..3 {
            let sql = "SELECT pg_backend_pid() = $1 AND EXISTS (SELECT FROM pg_locks
                WHERE locktype = 'advisory' AND classid = 19795 AND pid = $1 AND granted)";
            same &= self.link.one(sql, &[&backend]).await?.get::<_, bool>(0);
        }
        if !same {
            tracing::warn!(
                "the database is behind a transaction pooler: that a leader is gone is seen only after 10 s"
            );
        }
        self.session = Some((session, same.then_some(backend)));
        // Rows that name the earlier session are renewed with this one.
        self.renewed = Instant::now().checked_sub(RENEW).unwrap_or_else(Instant::now);
        Ok(())
    }

    fn backend(&self) -> Option<i32> {
        self.session.as_ref().and_then(|(_, backend)| *backend)
    }

    async fn hand_back(&self) -> Result<(), link::Failure> {
        let over: Vec<(&'static str, i64)> = lock(&self.leadership.leases)
            .iter()
            .filter_map(|(name, lease)| {
                lease.held.as_ref().filter(|holding| holding.over).map(|held| (*name, held.term))
            })
            .collect();
        for (name, term) in over {
            self.link.query("SELECT mainstay.release_lease_1($1, $2)", &[&name, &term]).await?;
            if let Some(lease) = lock(&self.leadership.leases).get_mut(name) {
                lease.held = None;
            }
            self.shared.outbound.raise(LEASES);
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), link::Failure> {
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
        let parameters: Parameters<'_> = &[&names, &terms, &self.backend()];
        let row = self.link.one("SELECT mainstay.renew_leases_1($1, $2, $3)", parameters).await?;
        let kept: Vec<String> = row.get(0);
        self.renewed = sent;
        let mut leases = lock(&self.leadership.leases);
        for (name, term) in names.into_iter().zip(terms) {
            let Some(lease) = leases.get_mut(name) else { continue };
            let Some(holding) = lease.held.as_mut().filter(|holding| holding.term == term) else { continue };
            if kept.iter().any(|kept| kept == name) {
                holding.renewed = sent;
            } else {
                tracing::warn!(lease = name, term, "another process leads");
                holding.lost.cancel();
                // Its owner finishes; there is nothing to hand back.
                if holding.over {
                    lease.held = None;
                }
            }
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), link::Failure> {
        let wanted: Vec<&'static str> = lock(&self.leadership.leases)
            .iter()
            .filter(|(_, lease)| lease.is_wanted())
            .map(|(name, _)| *name)
            .collect();
        let is_balanced = self.balanced.elapsed() < BALANCE;
        if wanted.is_empty() && is_balanced {
            return Ok(());
        }
        let rows = self.link.query("SELECT * FROM mainstay.observe_1()", &[]).await?;
        let replicas = rows.first().map_or(1, |row| row.get::<_, i64>("replicas")).max(1);
        let share = rows.len().div_ceil(usize::try_from(replicas).unwrap_or(1));
        let now = Instant::now();
        for name in wanted {
            let row = rows.iter().find(|row| row.get::<_, &str>("name") == name);
            let seen = row.map(|row| (row.get::<_, i64>("term"), row.get::<_, i64>("renewed")));
            let gone = row.is_none_or(|row| {
                row.get::<_, &str>("holder").is_empty() || (self.backend().is_some() && !row.get::<_, bool>("alive"))
            });
            if self.is_to_be_taken((name, share), seen, gone, now) {
                self.take(name, seen.map(|(term, _)| term)).await?;
            }
        }
        if !is_balanced {
            self.balanced = now;
            self.balance(share, now);
        }
        Ok(())
    }

    /// Whether it is free, or its holder has been silent for too long, and nobody else should go first.
    fn is_to_be_taken(
        &self,
        (name, share): (&'static str, usize),
        seen: Option<(i64, i64)>,
        gone: bool,
        now: Instant,
    ) -> bool {
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
        let free = gone || now.duration_since(since) >= SILENCE;
        if !free {
            lease.free = None;
            return false;
        }
        let since = *lease.free.get_or_insert(now);
        lease.left.is_none_or(|until| until <= now) && now.duration_since(since) >= courtesy(held, share)
    }

    async fn take(&self, name: &'static str, seen: Option<i64>) -> Result<(), link::Failure> {
        let sent = Instant::now();
        let parameters: Parameters<'_> = &[&name, &&*self.shared.options.replica, &self.backend(), &seen];
        let row = self.link.one("SELECT mainstay.take_lease_1($1, $2, $3, $4)", parameters).await?;
        let Some(term) = row.get::<_, Option<i64>>(0) else { return Ok(()) };
        let mut leases = lock(&self.leadership.leases);
        let Some(lease) = leases.get_mut(name) else { return Ok(()) };
        lease.free = None;
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
            let parameters: Parameters<'_> = &[&name, &term];
            timeout(WORD, self.link.query("SELECT mainstay.release_lease_1($1, $2)", parameters)).await.ok();
        }
        self.shared.outbound.raise(LEASES);
        // Nobody is granted anything any more.
        lock(&self.leadership.leases).values_mut().for_each(|lease| lease.waiting.clear());
    }
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
        assert!(courtesy(4, 4) >= MOST_COURTESY + LOOK * 4 && courtesy(9, 4) == courtesy(4, 4));
    }
}
