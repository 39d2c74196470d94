//! Leases of a process that shares its state with no other: each is held by one task at a time, in terms that grow over
//! restarts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Held, Leases, Standing};
use crate::failure::{Class, Failure, Reason};

/// Keeps the terms of leases.
pub trait Terms: fmt::Debug + Send + Sync + 'static {
    /// Raises the term of a lease by at least one, durably, and gives it.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn raise(&self, lease: &'static str) -> BoxFuture<'_, Result<u64, Failure>>;
}

/// Terms that begin anew with the process: for tests and benches, which nothing outlives.
#[derive(Debug, Default)]
pub struct VolatileTerms(AtomicU64);

impl Terms for VolatileTerms {
    fn raise(&self, _: &'static str) -> BoxFuture<'_, Result<u64, Failure>> {
        std::future::ready(Ok(self.0.fetch_add(1, Ordering::Relaxed) + 1)).boxed()
    }
}

/// See the module. Nothing here is ever lost: only its holder ends a term.
#[derive(Debug)]
pub struct LocalLeases {
    terms: Arc<dyn Terms>,
    leases: Mutex<BTreeMap<&'static str, Arc<Local>>>,
}

#[derive(Debug)]
struct Local {
    free: Arc<Semaphore>,
    term: AtomicU64,
    began: Mutex<Option<Instant>>,
}

impl LocalLeases {
    /// No lease is held yet.
    pub fn new(terms: impl Terms) -> Self {
        Self { terms: Arc::new(terms), leases: Mutex::default() }
    }

    fn lease(&self, name: &'static str) -> Arc<Local> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let free = Arc::new(Semaphore::new(1));
            Arc::new(Local { free, term: AtomicU64::new(0), began: Mutex::default() })
        };
        leases.entry(name).or_insert_with(new).clone()
    }
}

impl Local {
    fn began(&self) -> Option<Instant> {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leases for LocalLeases {
    fn acquire(&self, name: &'static str) -> BoxFuture<'_, Result<Held, Failure>> {
        async move {
            let lease = self.lease(name);
            let closed = |error| Failure::caused_by(Class::Terminal(Reason::SystemRefused), "wait for a lease", error);
            let place = lease.free.clone().acquire_owned().await.map_err(closed)?;
            let term = self.terms.raise(name).await?;
            if term <= lease.term.fetch_max(term, Ordering::Relaxed) {
                return Err(Failure::new(Class::Terminal(Reason::Corrupt), "begin a term: it is not above the last"));
            }
            *lease.began.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            Ok(Held::new(name, term, CancellationToken::new(), place))
        }
        .boxed()
    }

    fn standings(&self) -> Vec<Standing> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = |(name, lease): (&&'static str, &Arc<Local>)| Standing {
            name,
            term: lease.term.load(Ordering::Relaxed),
            held: lease.free.available_permits() == 0,
            began: lease.began().map_or(Duration::ZERO, |began| began.elapsed()),
        };
        leases.iter().map(standing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Classify;

    #[tokio::test(start_paused = true)]
    async fn a_lease_has_one_holder_and_each_has_a_higher_term() {
        let leases = LocalLeases::new(VolatileTerms::default());
        let first = leases.acquire("a").await.unwrap();
        assert!(leases.acquire("a").now_or_never().is_none(), "it is held");
        assert_eq!(leases.acquire("b").await.unwrap().term, 2, "another lease is free, and its drop hands it back");
        let standing = |name, term, held| Standing { name, term, held, began: Duration::from_secs(7) };
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(leases.standings(), [standing("a", 1, true), standing("b", 2, false)]);
        assert!(!first.lost.is_cancelled());
        first.release();
        let second = leases.acquire("a").await.unwrap();
        assert_eq!((second.name, second.term), ("a", 3));
        assert!(!leases.standings()[1].held);
    }

    /// The terms of a store that lost what it promised.
    #[derive(Debug)]
    struct Forgetful;
    impl Terms for Forgetful {
        fn raise(&self, _: &'static str) -> BoxFuture<'_, Result<u64, Failure>> {
            std::future::ready(Ok(7)).boxed()
        }
    }

    #[tokio::test]
    async fn a_term_that_does_not_grow_is_refused_and_nothing_is_held() {
        let leases = LocalLeases::new(Forgetful);
        leases.acquire("a").await.unwrap().release();
        let refused = leases.acquire("a").await.unwrap_err();
        assert_eq!(refused.class(), Class::Terminal(Reason::Corrupt));
        assert!(!leases.standings()[0].held);
    }
}
