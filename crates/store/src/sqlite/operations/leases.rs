//! Who holds what runs, and until when: in memory, changed only after the commit that says so.
//!
//! A lease is judged by the clock of the caller: the instant at which a renewal or a claim was called.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Clock;
use rusqlite::Connection;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::operation::{Attempt, Renewal};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// See the module.
#[derive(Debug)]
pub(in crate::sqlite) struct Leases {
    held: Mutex<HashMap<Arc<str>, Lease>>,
    changes: watch::Sender<u64>,
    fenced: AtomicU64,
    lost: AtomicU64,
    /// The newest turn of a lane. One that was given in a transaction that failed is left out.
    turn: AtomicU64,
    /// Tells for how long operations wait, for figures: nothing is decided by it.
    clock: Clock,
    /// What the wall clock was at the newest claim, in milliseconds since 1970; `None` before the first.
    wall_ms: Mutex<Option<i64>>,
}

/// One attempt that runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) number: u64,
    /// `None` when its worker died with the process before.
    pub(super) expires: Option<Instant>,
    /// It is to be cancelled.
    pub(super) cancelled: bool,
    /// It was when it was claimed: whatever its holder decides, it decides knowing that.
    pub(super) knew: bool,
}

/// What a transaction changes in memory, once it is committed.
#[derive(Debug, Default)]
pub(in crate::sqlite) struct Effects {
    /// In the order of the jobs: one may drop what another grants.
    pub(super) leases: Vec<(Arc<str>, Hold)>,
    /// Something can be claimed, or is to be cancelled, that was not before.
    pub(super) wake: bool,
    pub(super) fenced: u64,
    pub(super) lost: u64,
    /// The wall clock, in milliseconds since 1970, when there was a claim.
    pub(super) wall_ms: Option<i64>,
}

/// What becomes of an operation's lease.
#[derive(Debug)]
pub(super) enum Hold {
    Granted(Lease),
    Cancelled,
    Dropped,
}

impl Leases {
    /// Whatever runs on disk has lost its worker: it is put back by the first claim, which knows the time.
    pub(in crate::sqlite) fn load(connection: &Connection, clock: Clock) -> rusqlite::Result<Self> {
        let select = "SELECT uid, attempt FROM operations WHERE state = 3 AND state IN (0, 3)";
        let mut select = connection.prepare(select)?;
        let orphan = |number| Lease { number, expires: None, cancelled: false, knew: false };
        let held = select.query_map([], |row| Ok((row.get(0)?, orphan(row.get(1)?))))?;
        let turn = connection.query_row("SELECT ifnull(max(turn), 0) FROM lanes", [], |row| row.get(0))?;
        Ok(Self {
            held: Mutex::new(held.collect::<rusqlite::Result<_>>()?),
            changes: watch::Sender::new(0),
            fenced: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            turn: AtomicU64::new(turn),
            clock,
            wall_ms: Mutex::new(None),
        })
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What was refused as fenced, and what was lost.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.fenced.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    /// How long ago that was; nothing when it is not known, or ahead.
    pub(super) fn since(&self, at_ms: i64) -> Duration {
        let span = if at_ms > 0 { self.now_ms().saturating_sub(at_ms) } else { 0 };
        Duration::from_millis(u64::try_from(span).unwrap_or(0))
    }

    /// What the wall clock was at the newest claim; `None` before the first.
    pub(super) fn wall_ms(&self) -> Option<i64> {
        *lock(&self.wall_ms)
    }

    pub(super) fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn renew(&self, attempts: &[Attempt], lease: Duration) -> Vec<Renewal> {
        self.renew_by(Instant::now, attempts, lease)
    }

    /// The same by another clock.
    fn renew_by(&self, clock: impl FnOnce() -> Instant, attempts: &[Attempt], lease: Duration) -> Vec<Renewal> {
        let mut held = lock(&self.held);
        // Under the lock: a claim that finds a lease expired has looked at the clock before.
        let now = clock();
        let renew = |attempt: &Attempt| match held.get_mut(&attempt.id) {
            Some(found) if found.number == attempt.number && found.is_held(now) => {
                found.expires = Some(now + lease);
                if found.cancelled { Renewal::Cancelled } else { Renewal::Held }
            }
            _ => Renewal::Lost,
        };
        let renewals: Vec<Renewal> = attempts.iter().map(renew).collect();
        let lost = renewals.iter().filter(|renewal| **renewal == Renewal::Lost).count();
        self.fenced.fetch_add(lost as u64, Ordering::Relaxed);
        renewals
    }

    /// The lease of an attempt, when there is one.
    pub(super) fn of(&self, attempt: &Attempt) -> Option<Lease> {
        lock(&self.held).get(&attempt.id).copied().filter(|lease| lease.number == attempt.number)
    }

    /// Attempts whose leases have expired, in an order of their own.
    pub(super) fn expired(&self, now: Instant) -> Vec<Attempt> {
        let held = lock(&self.held);
        let expired = held.iter().filter(|(_, lease)| !lease.is_held(now));
        let mut expired: Vec<Attempt> =
            expired.map(|(id, lease)| Attempt { id: Arc::clone(id), number: lease.number }).collect();
        expired.sort_unstable();
        expired
    }

    /// When the first of the leases expires, once these effects are in force.
    pub(super) fn next_expiry(&self, effects: &Effects, now: Instant) -> Option<Duration> {
        let mut ahead: HashMap<&str, Option<Instant>> = HashMap::new();
        for (id, hold) in &effects.leases {
            match hold {
                Hold::Granted(lease) => drop(ahead.insert(id, lease.expires)),
                Hold::Dropped => drop(ahead.insert(id, None)),
                Hold::Cancelled => {}
            }
        }
        let held = lock(&self.held);
        let others = held.iter().filter(|(id, _)| !ahead.contains_key(&***id)).filter_map(|(_, lease)| lease.expires);
        let expires = others.chain(ahead.values().copied().flatten()).filter(|expires| *expires > now).min();
        expires.map(|expires| expires - now)
    }

    /// The transaction is committed, and what it wrote is visible.
    pub(in crate::sqlite) fn publish(&self, effects: Effects) {
        let mut held = lock(&self.held);
        for (id, hold) in effects.leases {
            match hold {
                Hold::Granted(lease) => drop(held.insert(id, lease)),
                Hold::Dropped => drop(held.remove(&id)),
                Hold::Cancelled => drop(held.get_mut(&id).map(|lease| lease.cancelled = true)),
            }
        }
        drop(held);
        if let Some(wall_ms) = effects.wall_ms {
            *lock(&self.wall_ms) = Some(wall_ms);
        }
        self.fenced.fetch_add(effects.fenced, Ordering::Relaxed);
        self.lost.fetch_add(effects.lost, Ordering::Relaxed);
        if effects.wake {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}

impl Lease {
    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires > now)
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod models;
