//! What happened, and whether it may have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainstay_store::conformance::validator::{Recording, validate};
use mainstay_store::{Change, Key, Object, Revision, Scope};

use crate::orders::value;

/// A promise that was broken: which, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// In a few words, the same for all of its kind.
    pub promise: &'static str,
    /// What was seen.
    pub seen: String,
    /// The last that happened.
    pub tail: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "broken: {}: {}", self.promise, self.seen)?;
        self.tail.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Lines of a report.
const TAIL: usize = 40;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Happened>);

#[derive(Debug, Default)]
struct Happened {
    now_ms: u64,
    lines: Vec<String>,
    /// Writes that were acknowledged.
    made: Vec<Arc<Object>>,
    /// What was to be written by writes that were refused.
    refused: BTreeSet<String>,
    /// Terms that were given, and whom to.
    led: Vec<(String, u64, String)>,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Happened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tick(&self, now_ms: u64) {
        self.lock().now_ms = now_ms;
    }

    pub(crate) fn note(&self, who: &str, what: &str) {
        let mut happened = self.lock();
        let line = format!("{:>7} ms {who}: {what}", happened.now_ms);
        happened.lines.push(line);
    }

    pub(crate) fn made(&self, who: &str, object: &Arc<Object>) {
        self.note(who, &format!("wrote {} at {}: {}", object.key, object.revision, value(object)));
        self.lock().made.push(Arc::clone(object));
    }

    pub(crate) fn refused(&self, who: &str, value: &str, why: &str) {
        self.note(who, &format!("was refused {value}: {why}"));
        self.lock().refused.insert(value.to_owned());
    }

    pub(crate) fn led(&self, who: &str, lease: &str, term: u64) {
        self.note(who, &format!("leads {lease} in term {term}"));
        self.lock().led.push((lease.to_owned(), term, who.to_owned()));
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    pub(crate) fn broken(&self, promise: &'static str, seen: String) -> Broken {
        let lines = &self.lock().lines;
        Broken { promise, seen, tail: lines[lines.len().saturating_sub(TAIL)..].to_vec() }
    }

    /// Judges all but what the backend saw.
    pub(crate) fn judge(&self, log: &[Arc<Change>], watched: &[Recording]) -> Result<(), Broken> {
        self.terms_are_given_once()?;
        self.writes_are_made_once(log)?;
        self.no_write_is_stale(log)?;
        let mut whole = Recording::new(Scope::resource("all"), Revision(0));
        whole.changes(log);
        let records: Vec<_> = whole.records().cloned().collect();
        for recording in watched {
            validate(&records, recording).map_err(|violation| {
                let of = &recording.scope.resource;
                self.broken("watches are complete and in order", format!("{of}: {violation}"))
            })?;
        }
        Ok(())
    }

    fn terms_are_given_once(&self) -> Result<(), Broken> {
        let mut given = BTreeMap::new();
        let led = self.lock().led.clone();
        for (lease, term, who) in led {
            if let Some(before) = given.insert(term, (lease.clone(), who.clone())) {
                let seen = format!("term {term}: {before:?}, and {who} for {lease}");
                return Err(self.broken("a term is given once", seen));
            }
        }
        Ok(())
    }

    fn writes_are_made_once(&self, log: &[Arc<Change>]) -> Result<(), Broken> {
        let made = self.lock().made.clone();
        let refused = self.lock().refused.clone();
        for object in made {
            let there = log.get(usize::try_from(object.revision.0).unwrap_or(0).saturating_sub(1));
            if there.is_none_or(|there| there.object != object) {
                let seen = format!("{} at {}: there is {there:?}", object.key, object.revision);
                return Err(self.broken("an acknowledged write is there", seen));
            }
        }
        let mut once = BTreeSet::new();
        for object in log.iter().map(|change| &change.object).filter(|object| *object.key.resource == *NOTES) {
            let said = value(object);
            if refused.contains(&said) {
                let seen = format!("{said} is at {}", object.revision);
                return Err(self.broken("what was refused was not made", seen));
            }
            if !once.insert(said.clone()) {
                return Err(self.broken("a write is made once", format!("{said} again, at {}", object.revision)));
            }
        }
        Ok(())
    }

    /// What leaders wrote is in the order of their terms.
    fn no_write_is_stale(&self, log: &[Arc<Change>]) -> Result<(), Broken> {
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for object in log.iter().map(|change| &change.object).filter(|object| *object.key.resource == *MARKS) {
            let said = value(object);
            let Some((lease, term)) = said.split_once('/') else { continue };
            let term = term.parse().unwrap_or(0);
            let known = newest.entry(lease.to_owned()).or_default();
            if term < *known {
                let seen = format!("{} at {}, after term {known} of {lease}", object.key, object.revision);
                return Err(self.broken("no write is stale", seen));
            }
            *known = term;
        }
        Ok(())
    }
}

/// What clients write: each value once.
pub(crate) const NOTES: &str = "/notes";
/// What leaders write: whose value is LEASE/TERM.
pub(crate) const MARKS: &str = "/marks";

/// A client's object.
pub(crate) fn note(number: u64) -> Key {
    Key::new(NOTES, "a", format!("n{number}"))
}
