//! Random histories, step by step and with crashes, against the model.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Strategy, prop_oneof};

use super::model::{Model, Refusal};
use super::validator::{Recording, validate};
use super::{Fixture, Outcome, draft, drain, ensure, key, text};
use crate::given::Given;
use crate::object::{Object, Requires, Revision, Write};
use crate::watch::{Scope, Watch, WatchEnd};
use crate::{ListQuery, Store, StoreError};

/// A step; revisions are given by how far they lie behind the newest.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Create(u8, u32),
    CreateWithin {
        key: u8,
        value: u32,
        other: u8,
        stale: Staleness,
    },
    /// Whatever can be done to the key.
    Given {
        key: u8,
        value: u32,
        other: Option<(u8, Staleness)>,
        behind: Option<u64>,
    },
    Update(u8, u32, Staleness),
    Delete(u8, u32, Staleness),
    List {
        scope: u8,
        limit: usize,
        behind: u64,
    },
    Watch {
        scope: u8,
        behind: u64,
    },
    Drain,
    Abandon(usize),
    Compact {
        behind: u64,
    },
    Reopen,
    Crash,
}

/// Whether the writer knows the newest revision.
type Staleness = bool;

pub(super) fn history(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let key = 0_u8..16;
    let step = prop_oneof![
        8 => (key.clone(), 0_u32..1_000).prop_map(|(key, value)| Step::Create(key, value)),
        4 => (key.clone(), 0_u32..1_000, key.clone(), proptest::bool::weighted(0.2))
            .prop_map(|(key, value, other, stale)| Step::CreateWithin { key, value, other, stale }),
        6 => (key.clone(), 0_u32..1_000, option::of((key.clone(), proptest::bool::weighted(0.2))), option::of(0_u64..6))
            .prop_map(|(key, value, other, behind)| Step::Given { key, value, other, behind }),
        10 => (key.clone(), 0_u32..1_000, proptest::bool::weighted(0.2)).prop_map(|(k, v, s)| Step::Update(k, v, s)),
        5 => (key, 0_u32..1_000, proptest::bool::weighted(0.2)).prop_map(|(k, v, s)| Step::Delete(k, v, s)),
        3 => (0_u8..32, 1_usize..5, 0_u64..20).prop_map(|(scope, limit, behind)| Step::List { scope, limit, behind }),
        3 => (0_u8..32, 0_u64..40).prop_map(|(scope, behind)| Step::Watch { scope, behind }),
        3 => proptest::strategy::Just(Step::Drain),
        1 => (0_usize..4).prop_map(Step::Abandon),
        1 => (0_u64..30).prop_map(|behind| Step::Compact { behind }),
        1 => proptest::strategy::Just(Step::Reopen),
        1 => proptest::strategy::Just(Step::Crash),
    ];
    vec(step, 1..=steps)
}

struct Run<'f> {
    fixture: &'f dyn Fixture,
    store: Arc<dyn Store>,
    model: Model,
    watches: Vec<(Watch, Recording)>,
}

pub(super) async fn run(fixture: &dyn Fixture, history: Vec<Step>) -> Outcome {
    let mut run = Run { fixture, store: fixture.open(), model: Model::default(), watches: Vec::new() };
    for step in history {
        let said = format!("{step:?}");
        run.step(step).await.map_err(|why| format!("at {said}: {why}"))?;
        ensure!(run.store.revision() == run.model.revision(), "after {said}: revision {}", run.store.revision());
    }
    run.reopen().await?;
    run.judge().await?;
    run.store.close().await;
    Ok(())
}

/// Scopes of every form.
fn scope(number: u8) -> Scope {
    let one = key(number);
    let scope = Scope::resource(one.resource.clone());
    match number >> 3 {
        0 => scope,
        1 => scope.within(one.namespace),
        2 => Scope::object(&one),
        _ => Scope { name: Some(one.name), ..scope },
    }
}

impl Run<'_> {
    async fn step(&mut self, step: Step) -> Outcome {
        match step {
            Step::Create(k, value) => {
                self.write(Write::Create { key: key(k), draft: draft(value), requires: None }).await
            }
            Step::CreateWithin { key: k, value, other, stale } => {
                let requires = Some(Requires { key: key(other), revision: self.expected(other, stale) });
                self.write(Write::Create { key: key(k), draft: draft(value), requires }).await
            }
            Step::Given { key: k, value, other, behind } => {
                let requires = other.map(|(k, stale)| Requires { key: key(k), revision: self.expected(k, stale) });
                let none_since = behind.map(|behind| self.behind(behind));
                let (key, draft) = (key(k), draft(value));
                let write = match self.model.current(&key).map(|record| record.revision) {
                    None => Write::Create { key, draft, requires: None },
                    Some(expected) if value % 3 == 0 => Write::Delete { key, draft, expected },
                    Some(expected) => Write::Update { key, draft, expected },
                };
                self.write_given(Given { fence: None, requires, none_since }, write).await
            }
            Step::Update(k, value, stale) => {
                let expected = self.expected(k, stale);
                self.write(Write::Update { key: key(k), draft: draft(value), expected }).await
            }
            Step::Delete(k, value, stale) => {
                let expected = self.expected(k, stale);
                self.write(Write::Delete { key: key(k), draft: draft(value), expected }).await
            }
            Step::List { scope: s, limit, behind } => self.list(scope(s), limit, self.behind(behind)).await,
            Step::Watch { scope: s, behind } => self.watch(scope(s), self.behind(behind)).await,
            Step::Drain => self.judge().await,
            Step::Abandon(at) => {
                if at < self.watches.len() {
                    self.watches.swap_remove(at);
                }
                Ok(())
            }
            Step::Compact { behind } => {
                let floor = self.behind(behind);
                self.store.compact(floor).await.map_err(|error| text(&error))?;
                self.model.floor = self.model.floor.max(floor);
                ensure!(self.store.floor() == self.model.floor, "the floor is {}", self.store.floor());
                Ok(())
            }
            Step::Reopen => self.reopen().await,
            Step::Crash => {
                let recordings = self.watches.drain(..).map(|(_, recording)| recording).collect();
                let crashed = std::mem::replace(&mut self.store, self.fixture.crash());
                drop(crashed);
                self.resume(recordings).await
            }
        }
    }

    fn behind(&self, behind: u64) -> Revision {
        Revision(self.model.revision().0.saturating_sub(behind))
    }

    fn expected(&self, k: u8, stale: bool) -> Revision {
        let newest = self.model.current(&key(k)).map_or(Revision(1), |record| record.revision);
        if stale { Revision(newest.0.saturating_sub(1)) } else { newest }
    }

    async fn write(&mut self, write: Write) -> Outcome {
        self.write_given(Given::default(), write).await
    }

    async fn write_given(&mut self, given: Given, write: Write) -> Outcome {
        let want = if self.model.meets(&given, &write) { self.model.write(&write) } else { Err(Refusal::Unmet) };
        let got = self.store.write_given(given.clone(), write.clone()).await;
        match (&got, &want) {
            (Ok(object), Ok(record)) => {
                ensure!(same(object, record), "wrote {object:?}, expected {record:?}");
            }
            (Err(StoreError::Exists(at)), Err(Refusal::Exists))
            | (Err(StoreError::Conflict(at)), Err(Refusal::Conflict)) => {
                let current = self.model.current(write.key());
                ensure!(current.is_some_and(|record| same(at, record)), "refused with {at:?}");
            }
            (Err(StoreError::Missing), Err(Refusal::Missing)) => {}
            (Err(StoreError::Unmet(of)), Err(Refusal::Unmet)) => {
                let required = given.requires.as_ref().or(write.requires()).map(|required| &required.key);
                ensure!(*of == *required.unwrap_or(write.key()), "{of} was not required");
            }
            _ => return Err(format!("got {got:?}, expected {want:?}")),
        }
        let got = self.store.get(write.key()).await.map_err(|error| text(&error))?;
        let want = self.model.current(write.key());
        let agrees = match (&got, want) {
            (Some(object), Some(record)) => same(object, record),
            (got, want) => got.is_none() && want.is_none(),
        };
        ensure!(agrees, "reads {got:?}, expected {want:?}");
        Ok(())
    }

    /// All pages of a list at one snapshot.
    async fn list(&self, scope: Scope, limit: usize, at: Revision) -> Outcome {
        let want = self.model.snapshot(&scope, at);
        let (mut seen, mut after) = (0, None);
        loop {
            let query = ListQuery { scope: scope.clone(), limit: Some(limit), at: Some(at), after: after.clone() };
            let page = match self.store.list(query).await {
                Ok(page) => page,
                Err(StoreError::Expired { .. }) if at < self.model.floor => return Ok(()),
                Err(error) => return Err(text(&error)),
            };
            ensure!(at >= self.model.floor, "a snapshot below the floor was served");
            let expected = &want[seen..want.len().min(seen + limit)];
            let equal = page.items.len() == expected.len()
                && page.items.iter().zip(expected).all(|(object, record)| same(object, record));
            ensure!(equal && page.revision == at, "page {page:?}, expected {expected:?}");
            seen += page.items.len();
            let rest = want.len() - seen;
            let told = page.more == (rest > 0) && page.remaining.is_none_or(|remaining| remaining == rest);
            ensure!(told, "more: {}, remaining: {:?}, expected {rest}", page.more, page.remaining);
            let Some(last) = page.items.last().filter(|_| page.more) else { return Ok(()) };
            after = Some((last.key.namespace.to_string(), last.key.name.to_string()));
        }
    }

    async fn watch(&mut self, scope: Scope, after: Revision) -> Outcome {
        let future = Revision(self.model.revision().0 + 1);
        let refused = self.store.watch(scope.clone(), future).await;
        ensure!(matches!(refused, Err(StoreError::Future { .. })), "a watch of the future: {refused:?}");
        match self.store.watch(scope.clone(), after).await {
            Ok(_) if after < self.model.floor => Err("a watch below the floor was served".to_owned()),
            Ok(watch) => {
                self.watches.push((watch, Recording::new(scope, after)));
                Ok(())
            }
            Err(StoreError::Expired { .. }) if after < self.model.floor => Ok(()),
            Err(error) => Err(text(&error)),
        }
    }

    /// Brings all watches up to date, and judges them.
    async fn judge(&mut self) -> Outcome {
        let newest = self.model.revision();
        let mut open = Vec::new();
        for (mut watch, mut recording) in std::mem::take(&mut self.watches) {
            let mut outcome = drain(&mut watch, &mut recording, newest).await;
            while outcome == Err(WatchEnd::Slow) {
                match self.store.watch(recording.scope.clone(), recording.position()).await {
                    Ok(resumed) => watch = resumed,
                    Err(StoreError::Expired { .. }) if recording.position() < self.model.floor => break,
                    Err(error) => return Err(text(&error)),
                }
                outcome = drain(&mut watch, &mut recording, newest).await;
            }
            validate(&self.model.log, &recording).map_err(|violation| format!("{violation}: {recording:?}"))?;
            match outcome {
                Ok(()) => open.push((watch, recording)),
                Err(WatchEnd::Expired | WatchEnd::Slow) if recording.position() < self.model.floor => {}
                Err(end) => return Err(format!("{end} at {}: {recording:?}", recording.position())),
            }
        }
        self.watches = open;
        Ok(())
    }

    /// Closes and opens; every watch ends after what it had been given, and is resumed.
    async fn reopen(&mut self) -> Outcome {
        self.store.close().await;
        let mut recordings = Vec::new();
        for (mut watch, mut recording) in std::mem::take(&mut self.watches) {
            while let Ok(changes) = watch.next().await {
                recording.changes(&changes);
            }
            recordings.push(recording);
        }
        let closed = Arc::clone(&self.store);
        self.store = self.fixture.open();
        drop(closed);
        self.resume(recordings).await
    }

    /// The state is as it was; what was watched is watched again.
    async fn resume(&mut self, recordings: Vec<Recording>) -> Outcome {
        ensure!(self.store.revision() == self.model.revision(), "reopened at {}", self.store.revision());
        ensure!(self.store.floor() == self.model.floor, "reopened with floor {}", self.store.floor());
        for recording in recordings {
            let after = recording.position();
            match self.store.watch(recording.scope.clone(), after).await {
                Ok(watch) => self.watches.push((watch, recording)),
                Err(StoreError::Expired { .. }) if after < self.model.floor => {}
                Err(error) => return Err(text(&error)),
            }
        }
        Ok(())
    }
}

fn same(object: &Object, record: &super::validator::Record) -> bool {
    object.key == record.key && object.revision == record.revision && object.body == record.body
}
