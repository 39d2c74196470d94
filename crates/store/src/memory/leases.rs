//! The table of leases, as `postgres/sql/leases.sql` keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Word;
use super::database::State;
use super::replica::Replica;
use super::session::Lost;
use crate::lease::{Fence, TERMS};
use crate::leases::{self, Observed, Row, Table};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leases {
    rows: BTreeMap<String, Lease>,
    /// Sessions that are there, and whose they are.
    sessions: BTreeMap<u64, Arc<str>>,
    newest: u64,
    handed_back: u64,
}

#[derive(Debug)]
struct Lease {
    holder: Arc<str>,
    term: u64,
    renewed_ms: u64,
    session: u64,
}

impl Leases {
    pub(super) fn disconnect(&mut self, replica: &str) {
        self.sessions.retain(|_, of| **of != *replica);
    }

    pub(super) fn handed_back(&self) -> u64 {
        self.handed_back
    }

    pub(super) fn terms(&self) -> Vec<(String, u64, String)> {
        self.rows.iter().map(|(name, lease)| (name.clone(), lease.term, lease.holder.to_string())).collect()
    }

    pub(super) fn holds(&self, fence: &Fence) -> bool {
        self.rows.get(&*fence.lease).is_some_and(|lease| lease.term == fence.term)
    }

    fn sit(&mut self, replica: &Arc<str>) -> u64 {
        self.newest += 1;
        self.sessions.insert(self.newest, Arc::clone(replica));
        self.newest
    }

    /// `moving`: what all show as the time of their renewal, where they are not seen to be still.
    fn observe(&self, replica: &Arc<str>, moving: Option<u64>) -> Observed {
        let row = |(name, lease): (&String, &Lease)| Row {
            name: name.clone(),
            term: lease.term.cast_signed(),
            renewed: moving.unwrap_or(lease.renewed_ms).cast_signed(),
            gone: lease.holder.is_empty() || lease.holder == *replica || !self.sessions.contains_key(&lease.session),
        };
        Observed { leases: self.rows.iter().map(row).collect(), replicas: self.sessions.len() }
    }

    fn renew(&mut self, held: &[(String, u64)], session: u64, now_ms: u64) -> Vec<String> {
        let mut kept = Vec::new();
        for (name, term) in held {
            if let Some(lease) = self.rows.get_mut(name).filter(|lease| lease.term == *term) {
                (lease.renewed_ms, lease.session) = (now_ms, session);
                kept.push(name.clone());
            }
        }
        kept
    }

    fn release(&mut self, name: &str, term: u64) {
        if let Some(lease) = self.rows.get_mut(name).filter(|lease| lease.term == term) {
            lease.holder = "".into();
            self.handed_back += 1;
        }
    }
}

impl State {
    fn take(&mut self, name: &str, seen: Option<(u64, u64)>, (holder, session): (&Arc<str>, u64)) -> Option<u64> {
        let earlier = self.leases.rows.get(name);
        let is_as_seen = |lease: &Lease| {
            seen.is_some_and(|(term, at)| lease.term == term && (lease.renewed_ms == at || !self.checks.still))
        };
        if earlier.is_some_and(|lease| !is_as_seen(lease)) {
            return None;
        }
        let before = earlier.map(|lease| (lease.term, lease.session, lease.holder.is_empty()));
        let term = match before {
            Some((term, ..)) if !self.checks.term => term,
            _ => self.raise(TERMS).max(before.map_or(0, |(term, ..)| term) + 1),
        };
        self.counters.insert(TERMS.to_owned(), term);
        let lease = Lease { holder: Arc::clone(holder), term, renewed_ms: self.now_ms, session };
        self.leases.rows.insert(name.to_owned(), lease);
        // Not of one who handed it back.
        if let Some((_, earlier, _)) = before.filter(|(_, earlier, free)| !free && *earlier != session) {
            self.leases.sessions.remove(&earlier);
        }
        Some(term)
    }
}

/// The table as a replica's session has it.
pub(super) struct Stored {
    replica: Arc<Replica>,
    /// 0 while there is none.
    session: AtomicU64,
}

impl Stored {
    pub(super) fn new(replica: Arc<Replica>) -> Self {
        Self { replica, session: AtomicU64::new(0) }
    }

    /// A word in the session. One that the other side has ended is over; one that does not answer is not.
    async fn word<T: Send>(&self, work: impl FnOnce(&mut State, u64) -> T + Send + 'static) -> Result<T, Lost> {
        let session = self.session.load(Ordering::Relaxed);
        let there = move |state: &mut State| state.leases.sessions.contains_key(&session).then(|| work(state, session));
        let said = self.replica.session.word(Word::Lease, there).await?;
        if said.is_none() {
            self.session.store(0, Ordering::Relaxed);
        }
        said.ok_or(Lost::Away)
    }
}

impl Table for Stored {
    fn sit(&mut self) -> leases::Word<'_, bool> {
        async move {
            if self.session.load(Ordering::Relaxed) > 0 {
                return Ok(false);
            }
            let name = Arc::clone(&self.replica.name);
            let session = self.replica.session.word(Word::Lease, move |state| state.leases.sit(&name)).await?;
            self.session.store(session, Ordering::Relaxed);
            Ok(true)
        }
        .boxed()
    }

    fn observe(&self) -> leases::Word<'_, Observed> {
        let replica = Arc::clone(&self.replica.name);
        let observe =
            move |state: &mut State, _| state.leases.observe(&replica, (!state.checks.still).then_some(state.now_ms));
        async move { Ok(self.word(observe).await?) }.boxed()
    }

    fn take(&self, name: &'static str, seen: Option<(i64, i64)>) -> leases::Word<'_, Option<i64>> {
        let holder = Arc::clone(&self.replica.name);
        let seen = seen.map(|(term, renewed)| (term.cast_unsigned(), renewed.cast_unsigned()));
        async move {
            let take = move |state: &mut State, session| {
                state.take(name, seen, (&holder, session)).map(|term| (term, state.log.newest()))
            };
            let Some((term, newest)) = self.word(take).await? else { return Ok(None) };
            self.replica.catch_up(Some(newest)).await?;
            Ok(Some(term.cast_signed()))
        }
        .boxed()
    }

    fn renew<'a>(&'a self, names: &'a [&'static str], terms: &'a [i64]) -> leases::Word<'a, Vec<String>> {
        let held: Vec<(String, u64)> =
            names.iter().zip(terms).map(|(name, term)| ((*name).to_owned(), term.cast_unsigned())).collect();
        async move { Ok(self.word(move |state, session| state.leases.renew(&held, session, state.now_ms)).await?) }
            .boxed()
    }

    fn release(&self, name: &'static str, term: i64) -> leases::Word<'_, ()> {
        async move { Ok(self.word(move |state, _| state.leases.release(name, term.cast_unsigned())).await?) }.boxed()
    }

    fn tell(&self) {}

    fn hang_up(&mut self) -> BoxFuture<'_, ()> {
        let session = self.session.swap(0, Ordering::Relaxed);
        self.replica.session.say(Word::Lease, move |state| drop(state.leases.sessions.remove(&session)));
        std::future::ready(()).boxed()
    }

    fn is_over(&self) -> bool {
        self.replica.is_closed()
    }
}
