//! Crashes under load: what was acknowledged is there; what was not is there whole, or not at all; and it goes on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use futures::{FutureExt, TryFutureExt};

use super::talk::{Told, append, session};
use super::validator::Recording;
use super::{Dice, Fixture, Outcome, RESOURCES, draft, drain, ensure, text};
use crate::message::Sender;
use crate::object::{Key, Revision, Write};
use crate::watch::{ChangeKind, Scope};
use crate::{Store, StoreError};

const ROUNDS: u64 = 3;
const WRITERS: u64 = 3;
const APPENDERS: u64 = 3;

/// A write that was tried, and what came of it.
#[derive(Debug, Clone)]
struct Try {
    key: Key,
    kind: ChangeKind,
    value: u32,
    /// Its revision, if it was acknowledged, and whether that was before the crash.
    told: Option<(Revision, bool)>,
}

/// An append that was tried: its sender and ids, and whether it was acknowledged before the crash.
type Spoken = (Sender, Vec<u64>, bool);

/// What a round's tasks share.
#[derive(Default)]
struct Round {
    crashed: Cell<bool>,
    tries: RefCell<Vec<Try>>,
    spoken: RefCell<Vec<Spoken>>,
    told: RefCell<Told>,
}

/// A change as the history tells it.
type Seen = (Key, ChangeKind, Vec<u8>);

pub(super) async fn run(fixture: &dyn Fixture, seed: u64, steps: usize) -> Outcome {
    let mut store = fixture.open();
    let mut history = BTreeMap::new();
    let mut told = Told::default();
    for number in 0..ROUNDS {
        let round = Round { told: RefCell::new(told), ..Round::default() };
        let dice = |task: u64| Dice(seed ^ (number << 48) ^ (task << 32));
        let writers =
            (0..WRITERS).map(|task| writer(&*store, dice(task), number * WRITERS + task, &round).boxed_local());
        let appenders = (0..APPENDERS)
            .map(|task| appender(&*store, dice(task + 10), (number * APPENDERS + task, task), &round).boxed_local());
        let crash = async {
            let enough = usize::try_from(dice(100).roll(2 * steps as u64)).unwrap_or(0);
            // Bounded, so that tasks that have failed are heard.
            for _ in 0..1_000_000 {
                if round.tries.borrow().len() + round.spoken.borrow().len() >= enough {
                    break;
                }
                tokio::task::yield_now().await;
            }
            round.crashed.set(true);
            fixture.crash()
        };
        let (outcomes, after) = futures::join!(join_all(writers.chain(appenders)), crash);
        outcomes.into_iter().collect::<Outcome>()?;
        store = after;
        history = judge_objects(&*store, &history, &round.tries.into_inner()).await?;
        told = judge_messages(&*store, round.told.into_inner(), &round.spoken.into_inner()).await?;
    }
    store.close().await;
    Ok(())
}

/// Writes until the crash, each time another value.
async fn writer(store: &dyn Store, mut dice: Dice, task: u64, round: &Round) -> Outcome {
    for turn in 0_u32.. {
        if round.crashed.get() {
            break;
        }
        let (key, value) = (dice.key(), u32::try_from(task).unwrap_or(0) * 1_000_000 + turn);
        let Ok(current) = store.get(&key).await else { break };
        let (draft, new) = (draft(value), key.clone());
        let (write, kind) = match (current.map(|object| object.revision), dice.roll(4)) {
            (None, _) => (Write::Create { key: new, draft, requires: None }, ChangeKind::Created),
            (Some(expected), 0) => (Write::Delete { key: new, draft, expected }, ChangeKind::Deleted),
            (Some(expected), _) => (Write::Update { key: new, draft, expected }, ChangeKind::Updated),
        };
        let outcome = store.write(write).await;
        let told = match outcome {
            Ok(object) => Some((object.revision, !round.crashed.get())),
            Err(StoreError::Exists(_) | StoreError::Missing | StoreError::Conflict(_)) => continue,
            // A crash leaves open what came of it.
            Err(_) if round.crashed.get() => None,
            Err(error) => return Err(text(&error)),
        };
        round.tries.borrow_mut().push(Try { key, kind, value, told });
    }
    Ok(())
}

/// Appends until the crash, each time other ids.
async fn appender(store: &dyn Store, mut dice: Dice, (task, kind): (u64, u64), round: &Round) -> Outcome {
    let sender = if kind == 0 { Sender::User } else { Sender::Agent };
    let mut next = task * 1_000_000;
    while !round.crashed.get() {
        let ids: Vec<u64> = (next..=next + dice.roll(3)).collect();
        next += ids.len() as u64;
        let early = match store.append(append(&session(0), sender, &ids)).await {
            Ok(given) if !round.crashed.get() => {
                round.told.borrow_mut().note(sender, &ids, &given)?;
                true
            }
            Err(error) if !round.crashed.get() => return Err(text(&error)),
            _ => false,
        };
        round.spoken.borrow_mut().push((sender, ids, early));
    }
    Ok(())
}

/// All that ever happened, as watches from the beginning tell it.
async fn whole_history(store: &dyn Store) -> Result<BTreeMap<u64, Seen>, String> {
    let mut history = BTreeMap::new();
    for resource in RESOURCES {
        let mut recording = Recording::new(Scope::resource(resource), Revision(0));
        while recording.position() < store.revision() {
            let watch = store.watch(recording.scope.clone(), recording.position());
            let mut watch = watch.map_err(|error| text(&error)).await?;
            // A slow one is taken up again.
            drain(&mut watch, &mut recording, store.revision()).await.ok();
        }
        for record in recording.records() {
            history.insert(record.revision.0, (record.key.clone(), record.kind, record.body.clone()));
        }
    }
    Ok(history)
}

/// The history goes on where it was, has each write that was acknowledged before the crash, and nothing but what was tried.
async fn judge_objects(
    store: &dyn Store,
    before: &BTreeMap<u64, Seen>,
    tries: &[Try],
) -> Result<BTreeMap<u64, Seen>, String> {
    let history = whole_history(store).await?;
    let newest = store.revision().0;
    ensure!(history.keys().copied().eq(1..=newest), "the history to {newest} has {:?}", history.keys());
    for (revision, seen) in before {
        ensure!(history.get(revision) == Some(seen), "{revision} was {seen:?}, is {:?}", history.get(revision));
    }
    for one in tries {
        let Some((revision, early)) = one.told else { continue };
        let seen = history.get(&revision.0);
        let there = seen.is_some_and(|seen| *seen == one.seen_at(revision));
        ensure!(there || !early, "{one:?} was acknowledged before the crash; there is {seen:?}");
    }
    for (revision, seen) in history.range(before.len() as u64 + 1..) {
        let tried = tries.iter().filter(|one| one.seen_at(Revision(*revision)) == *seen).count();
        ensure!(tried == 1, "{tried} have tried what is at {revision}: {seen:?}");
    }
    let mut current = BTreeMap::new();
    for (revision, (key, kind, body)) in &history {
        current.insert(key, (*kind != ChangeKind::Deleted).then_some((*revision, body)));
    }
    for (key, want) in current {
        let got: Option<Arc<_>> = store.get(key).await.map_err(|error| text(&error))?;
        let got = got.as_ref().map(|object| (object.revision.0, object.body.to_vec()));
        ensure!(got.as_ref().map(|(at, body)| (*at, body)) == want, "{key} is {got:?}, expected {want:?}");
    }
    Ok(history)
}

impl Try {
    fn seen_at(&self, revision: Revision) -> Seen {
        (self.key.clone(), self.kind, draft(self.value).finish(revision).to_vec())
    }
}

/// What was acknowledged before the crash has its number; each other append is there whole, or not at all, and can be
/// made again without doubling anything. Gives what is there then.
async fn judge_messages(store: &dyn Store, mut told: Told, spoken: &[Spoken]) -> Result<Told, String> {
    let name = session(0);
    for (sender, ids, early) in spoken {
        let given = store.append(append(&name, *sender, ids)).await.map_err(|error| text(&error))?;
        let known = given.iter().filter(|one| one.duplicate).count();
        ensure!(known == ids.len() || (known == 0 && !early), "{known} of {ids:?} are there; early: {early}");
        if !early && known > 0 {
            // There before it could be told: as if it had been.
            let found: Vec<_> = given.iter().map(|one| crate::message::Appended { duplicate: false, ..*one }).collect();
            told.note(*sender, ids, &found)?;
        } else {
            told.note(*sender, ids, &given)?;
        }
    }
    told.is_whole(store, &name).await?;
    Ok(told)
}
