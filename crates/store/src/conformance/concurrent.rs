//! Several writers, watchers that come and go, and compaction, all at once; judged by what the writers were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::join_all;

use super::validator::{Record, Recording, validate};
use super::{Dice, Fixture, Outcome, draft, drain, ensure, text};
use crate::given::Given;
use crate::object::{Key, Object, Requires, Revision, Write};
use crate::watch::{ChangeKind, Scope, WatchEnd};
use crate::{ListQuery, Store, StoreError};

const WRITERS: u64 = 4;
const WATCHERS: u64 = 6;

fn some_scope(dice: &mut Dice) -> Scope {
    let key = dice.key();
    match dice.roll(3) {
        0 => Scope::resource(key.resource),
        1 => Scope::resource(key.resource).within(key.namespace),
        _ => Scope::object(&key),
    }
}

pub(super) async fn run(fixture: &dyn Fixture, seed: u64, steps: usize) -> Outcome {
    let store = fixture.open();
    let left = AtomicUsize::new(usize::try_from(WRITERS).unwrap_or(0));
    let writers = (0..WRITERS).map(|at| {
        let (store, left) = (&store, &left);
        async move {
            let told = writer(&**store, Dice(seed ^ (at << 32)), steps).await;
            left.fetch_sub(1, Ordering::SeqCst);
            told
        }
    });
    let watchers = (0..WATCHERS).map(|at| watcher(&*store, Dice(seed ^ (at << 40) ^ 1), &left));
    let compactor = compactor(&*store, Dice(seed ^ 2), &left);
    let (told, seen, compacted) = futures::join!(join_all(writers), join_all(watchers), compactor);
    compacted?;
    let told: Result<Vec<_>, _> = told.into_iter().collect();
    let told: Vec<Told> = told?.into_iter().flatten().collect();
    let log = one_order(told.iter().map(|(record, _)| record.clone()).collect())?;
    told.iter().try_for_each(|told| stood(&log, told))?;
    for recordings in seen {
        for recording in recordings? {
            validate(&log, &recording).map_err(|violation| format!("{violation}: {recording:?}"))?;
        }
    }
    ensure!(store.revision().0 == log.len() as u64, "the store is at {}", store.revision());
    store.close().await;
    ends_as(fixture, &log).await
}

/// A successful write, and what had to hold for it.
type Told = (Record, Given);

/// Writes, and notes what it was told.
async fn writer(store: &dyn Store, mut dice: Dice, steps: usize) -> Result<Vec<Told>, String> {
    let mut told = Vec::new();
    for _ in 0..steps {
        let key = dice.key();
        let draft = draft(u32::try_from(dice.roll(1_000)).unwrap_or(0));
        let current = store.get(&key).await.map_err(|error| text(&error))?;
        let expected = current.as_ref().map_or(Revision(0), |object| object.revision);
        let (write, kind) = match (&current, dice.roll(4)) {
            (None, _) => {
                let requires = leans_on(store, &mut dice).await?;
                (Write::Create { key: key.clone(), draft, requires }, ChangeKind::Created)
            }
            (Some(_), 0) => (Write::Delete { key: key.clone(), draft, expected }, ChangeKind::Deleted),
            (Some(_), _) => (Write::Update { key: key.clone(), draft, expected }, ChangeKind::Updated),
        };
        let (mine, none_since) = (leans_on(store, &mut dice).await?, (dice.roll(2) == 0).then(|| store.revision()));
        let requires = mine.filter(|_| write.requires().is_none());
        let required = Given { requires: write.requires().cloned().or(requires.clone()), none_since, fence: None };
        match store.write_given(Given { requires, ..required.clone() }, write).await {
            Ok(object) => {
                reads_own_write(store, &object).await?;
                let previous = current.map(|object| object.revision);
                let (revision, body) = (object.revision, object.body.to_vec());
                told.push((Record { revision, key, kind, body, previous }, required));
            }
            Err(StoreError::Exists(_) | StoreError::Missing | StoreError::Conflict(_) | StoreError::Unmet(_)) => {}
            Err(error) => return Err(text(&error)),
        }
    }
    Ok(told)
}

/// Another object as it is, or nothing.
async fn leans_on(store: &dyn Store, dice: &mut Dice) -> Result<Option<Requires>, String> {
    let other = store.get(&dice.key()).await.map_err(|error| text(&error))?;
    Ok(other.map(|other| Requires { key: other.key.clone(), revision: other.revision }))
}

/// What a write required was so when it was made.
fn stood(log: &[Record], (written, required): &Told) -> Outcome {
    let near = |record: &Record| {
        let (one, other) = (&record.key, &written.key);
        record.kind == ChangeKind::Created && one.resource == other.resource && one.namespace == other.namespace
    };
    if let Some(since) = required.none_since {
        let between = log.iter().find(|one| one.revision > since && one.revision < written.revision && near(one));
        ensure!(between.is_none(), "{written:?} required none since {since}, but {between:?}");
    }
    let Some(required) = &required.requires else { return Ok(()) };
    let earlier = |record: &&Record| record.revision < written.revision && record.key == required.key;
    let last = log.iter().rev().find(earlier);
    let held = last.is_some_and(|last| last.revision == required.revision && last.kind != ChangeKind::Deleted);
    ensure!(held, "{written:?} required {required:?}, which was {last:?}");
    Ok(())
}

/// A written object may have been deleted by another since, but never reads older.
async fn reads_own_write(store: &dyn Store, written: &Object) -> Outcome {
    let read = store.get(&written.key).await.map_err(|error| text(&error))?;
    let fresh = read.as_ref().is_none_or(|read| read.revision >= written.revision);
    ensure!(fresh && store.revision() >= written.revision, "wrote {}, reads {read:?}", written.revision);
    Ok(())
}

/// Watches, leaves at random, and resumes where it was, until the writers are done.
async fn watcher(store: &dyn Store, mut dice: Dice, left: &AtomicUsize) -> Result<Vec<Recording>, String> {
    let mut recordings = Vec::new();
    let mut recording = Recording::new(some_scope(&mut dice), Revision(0));
    loop {
        let last_round = left.load(Ordering::SeqCst) == 0;
        let resumed = store.watch(recording.scope.clone(), recording.position()).await;
        let mut watch = match resumed {
            Ok(watch) => watch,
            Err(StoreError::Expired { floor, .. }) => {
                ensure!(recording.position() < floor, "expired at {}, floor {floor}", recording.position());
                let query = ListQuery { scope: recording.scope.clone(), limit: None, at: None, after: None };
                let list = store.list(query).await.map_err(|error| text(&error))?;
                let next = Recording::new(recording.scope.clone(), list.revision);
                recordings.push(std::mem::replace(&mut recording, next));
                continue;
            }
            Err(error) => return Err(text(&error)),
        };
        let outcome = if last_round {
            drain(&mut watch, &mut recording, store.revision()).await
        } else {
            stay(&mut watch, &mut recording, dice.roll(40)).await
        };
        match outcome {
            Ok(()) | Err(WatchEnd::Slow | WatchEnd::Expired) => {}
            Err(WatchEnd::Closed) => return Err("a watch was closed".to_owned()),
        }
        if last_round && outcome.is_ok() {
            recordings.push(recording);
            return Ok(recordings);
        }
    }
}

async fn stay(watch: &mut crate::Watch, recording: &mut Recording, turns: u64) -> Result<(), WatchEnd> {
    for turn in 0..turns {
        if let Some(outcome) = watch.next().now_or_never() {
            recording.changes(&outcome?);
        }
        if turn % 3 == 0 {
            recording.progress(watch.progress());
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn compactor(store: &dyn Store, mut dice: Dice, left: &AtomicUsize) -> Outcome {
    while left.load(Ordering::SeqCst) > 0 {
        let floor = Revision(store.revision().0.saturating_sub(dice.roll(60)));
        store.compact(floor).await.map_err(|error| text(&error))?;
        ensure!(store.floor() >= floor, "compacted to {floor}, the floor is {}", store.floor());
        for _ in 0..dice.roll(50) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// What the writers were told, in one order: every revision belongs to exactly one acknowledged write.
fn one_order(mut told: Vec<Record>) -> Result<Vec<Record>, String> {
    told.sort_by_key(|record| record.revision);
    for (at, record) in told.iter().enumerate() {
        ensure!(record.revision.0 == at as u64 + 1, "revision {} in place {}", record.revision, at + 1);
    }
    let mut newest: BTreeMap<&Key, &Record> = BTreeMap::new();
    for record in &told {
        let before = newest.get(&record.key).filter(|before| before.kind != ChangeKind::Deleted);
        let before = before.map(|before| before.revision);
        ensure!(record.previous == before, "{record:?} replaced {before:?}");
        newest.insert(&record.key, record);
    }
    Ok(told)
}

/// The state, opened again, is what the log ends with.
async fn ends_as(fixture: &dyn Fixture, log: &[Record]) -> Outcome {
    let store = fixture.open();
    let newest: BTreeMap<&Key, &Record> = log.iter().map(|record| (&record.key, record)).collect();
    for (key, record) in newest {
        let read = store.get(key).await.map_err(|error| text(&error))?;
        let want = (record.kind != ChangeKind::Deleted).then_some((record.revision, record.body.clone()));
        let got = read.map(|object| (object.revision, object.body.to_vec()));
        ensure!(got == want, "{key} is {got:?}, expected {want:?}");
    }
    store.close().await;
    Ok(())
}
