//! Workers that contend for operations, and crashes meanwhile: each attempt has one holder, an attempt's number is never
//! given again, one key has one holder, and what was acknowledged (an end, a step) stays.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;

use super::{Dice, Fixture, Outcome, draft, ensure, text};
use crate::object::{Draft, Key, Meta, Write};
use crate::operation::{
    Attempt, Claim, Claimed, Note, OPERATIONS, Queued, Settlement, Standing, State, StepRow, StepState,
};
use crate::{Store, StoreError};

const ROUNDS: u64 = 3;
const CREATORS: u64 = 2;
const WORKERS: u64 = 3;
/// Nothing expires by itself: only a crash loses what is held.
const LEASE: Duration = Duration::from_hours(1);
/// What an object says before its operation has ended, and after.
const OPEN: u32 = 0;
const ENDED: u32 = 1;

/// What is known for sure, over all rounds.
#[derive(Default)]
struct Known {
    created: BTreeSet<Arc<str>>,
    /// Attempts that somebody was given.
    attempts: BTreeSet<Attempt>,
    ended: BTreeSet<Arc<str>>,
    /// The attempt whose entry of the step was acknowledged.
    journalled: BTreeMap<Arc<str>, u64>,
}

/// What a round's tasks share.
#[derive(Default)]
struct Round {
    crashed: Cell<bool>,
    acts: Cell<u64>,
    known: RefCell<Known>,
    /// Keys that are held now.
    held: RefCell<BTreeSet<Arc<str>>>,
}

pub(super) async fn run(fixture: &dyn Fixture, seed: u64, steps: usize) -> Outcome {
    let mut store = fixture.open();
    let mut known = Known::default();
    for number in 0..ROUNDS {
        let round = Round { known: RefCell::new(known), ..Round::default() };
        let dice = |task: u64| Dice(seed ^ (number << 48) ^ (task << 32));
        let creators =
            (0..CREATORS).map(|task| creator(&*store, dice(task), number * CREATORS + task, &round).boxed_local());
        let workers = (0..WORKERS).map(|task| worker(&*store, dice(task + 10), &round).boxed_local());
        let crash = async {
            let enough = dice(100).roll(2 * steps as u64);
            // Bounded, so that tasks that have failed are heard.
            for _ in 0..1_000_000 {
                if round.acts.get() >= enough {
                    break;
                }
                tokio::task::yield_now().await;
            }
            round.crashed.set(true);
            fixture.crash()
        };
        let (outcomes, after) = futures::join!(join_all(creators.chain(workers)), crash);
        outcomes.into_iter().collect::<Outcome>()?;
        store = after;
        known = round.known.into_inner();
        judge(&*store, &known).await?;
    }
    wind_up(&*store, &mut known).await?;
    store.close().await;
    Ok(())
}

fn key(uid: &str) -> Key {
    Key::new(OPERATIONS, "a", uid)
}

fn content(uid: &Arc<str>, value: u32, queued: Option<Queued>) -> Draft {
    Draft {
        meta: Arc::new(Meta { uid: Arc::clone(uid), ..Meta::default() }),
        queued: queued.map(Arc::new),
        ..draft(value)
    }
}

/// Creates operations until the crash; a third of them have one key.
async fn creator(store: &dyn Store, mut dice: Dice, task: u64, round: &Round) -> Outcome {
    for turn in 0_u32.. {
        if round.crashed.get() {
            break;
        }
        let keyed = dice.roll(3) == 0;
        let uid: Arc<str> = format!("{task}-{turn}{}", if keyed { "-keyed" } else { "" }).into();
        let queued = Queued {
            concurrency_key: keyed.then(|| "k".into()),
            created_ms: 1,
            ..Queued::new(if dice.roll(2) == 0 { "left" } else { "right" }, "noop")
        };
        // The key is one's own in each lane; held is told by both.
        let queued = Queued { lane: if keyed { "left".into() } else { queued.lane }, ..queued };
        let create = Write::Create { key: key(&uid), draft: content(&uid, OPEN, Some(queued)), requires: None };
        match store.write(create).await {
            Ok(_) if !round.crashed.get() => drop(round.known.borrow_mut().created.insert(uid)),
            Err(error) if !round.crashed.get() => return Err(text(&error)),
            _ => {}
        }
        round.acts.set(round.acts.get() + 1);
    }
    Ok(())
}

/// Claims, journals and settles until the crash; now and then it goes on with an attempt that it has settled.
async fn worker(store: &dyn Store, mut dice: Dice, round: &Round) -> Outcome {
    while !round.crashed.get() {
        let limit = usize::try_from(1 + dice.roll(4)).unwrap_or(1);
        let claims = store.claim(Claim { limit, per_lane: 100, lease: LEASE, now_ms: 10 }).await;
        let claims = match claims {
            Ok(claims) => claims,
            Err(_) if round.crashed.get() => break,
            Err(error) => return Err(text(&error)),
        };
        if round.crashed.get() {
            break;
        }
        for claimed in &claims.claimed {
            let fresh = round.known.borrow_mut().attempts.insert(claimed.attempt.clone());
            ensure!(fresh, "{:?} was given twice", claimed.attempt);
            let alone = !is_keyed(claimed) || round.held.borrow_mut().insert("k".into());
            ensure!(alone, "{:?} runs beside another with its key", claimed.attempt);
        }
        for claimed in &claims.claimed {
            carry_out(store, &mut dice, claimed, round).await?;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn is_keyed(claimed: &Claimed) -> bool {
    claimed.attempt.id.ends_with("-keyed")
}

async fn carry_out(store: &dyn Store, dice: &mut Dice, claimed: &Claimed, round: &Round) -> Outcome {
    let attempt = &claimed.attempt;
    if dice.roll(2) == 0 {
        let told = store.journal(attempt, step()).await;
        if round.crashed.get() {
            return Ok(());
        }
        told.map_err(|error| format!("{attempt:?}: {error}"))?;
        round.known.borrow_mut().journalled.insert(Arc::clone(&attempt.id), attempt.number);
    }
    let ends = dice.roll(2) == 0;
    let settlement = if ends { end(claimed) } else { Settlement::Later { run_at_ms: 0 } };
    // Before it is told: then another may be given the key.
    if is_keyed(claimed) {
        round.held.borrow_mut().clear();
    }
    let told = store.settle(attempt, settlement).await;
    round.acts.set(round.acts.get() + 1);
    if round.crashed.get() {
        return Ok(());
    }
    told.map_err(|error| format!("{attempt:?}: {error}"))?;
    if ends {
        round.known.borrow_mut().ended.insert(Arc::clone(&attempt.id));
    }
    let again = store.settle(attempt, end(claimed)).await;
    let fenced = matches!(again, Err(StoreError::Fenced(_))) || round.crashed.get();
    ensure!(fenced, "{attempt:?} was settled twice: {again:?}");
    Ok(())
}

fn step() -> StepRow {
    StepRow { step: "s".into(), state: StepState::Done, attempt: 0, output: "null".into() }
}

fn end(claimed: &Claimed) -> Settlement {
    let (object, id) = (&claimed.object, &claimed.attempt.id);
    let note: Option<Note> = None;
    let write = Write::Update { key: object.key.clone(), draft: content(id, ENDED, None), expected: object.revision };
    Settlement::End { state: State::Succeeded, note, write: Box::new(write) }
}

/// What was acknowledged is there, and each row says what its object says.
async fn judge(store: &dyn Store, known: &Known) -> Outcome {
    let ids: Vec<Arc<str>> = known.created.iter().cloned().collect();
    let standings = store.operations(ids.clone()).await.map_err(|error| text(&error))?;
    for (id, standing) in ids.iter().zip(standings) {
        let object = store.get(&key(id)).await.map_err(|error| text(&error))?;
        let Some(Standing { row, steps }) = standing else {
            return Err(format!("{id} is gone; its object: {object:?}"));
        };
        let Some(object) = object else { return Err(format!("the object of {id} is gone")) };
        let said = object.body == draft(ENDED).finish(object.revision);
        ensure!(said == (row.state == State::Succeeded), "{id} is {row:?}, its object {object:?}");
        ensure!(said || !known.ended.contains(id), "{id} had ended, and is {row:?}");
        let last = known.attempts.range(..=Attempt { id: Arc::clone(id), number: u64::MAX }).next_back();
        let last = last.filter(|last| last.id == *id).map_or(0, |last| last.number);
        ensure!(row.attempt >= last, "attempt {last} of {id} was given; it is {row:?}");
        let journalled = known.journalled.get(id).copied().unwrap_or(0);
        let entered = steps.first().map_or(0, |step| step.attempt);
        ensure!(entered >= journalled, "attempt {journalled} of {id} had entered its step; there is {steps:?}");
    }
    Ok(())
}

/// Whatever has not ended is claimed, with a number that nobody was given, and can end.
async fn wind_up(store: &dyn Store, known: &mut Known) -> Outcome {
    loop {
        let claim = Claim { limit: 100, per_lane: 100, lease: LEASE, now_ms: 10 };
        let claims = store.claim(claim).await.map_err(|error| text(&error))?;
        if claims.claimed.is_empty() {
            break;
        }
        for claimed in claims.claimed {
            ensure!(known.attempts.insert(claimed.attempt.clone()), "{:?} was given twice", claimed.attempt);
            store.settle(&claimed.attempt, end(&claimed)).await.map_err(|error| text(&error))?;
            known.ended.insert(Arc::clone(&claimed.attempt.id));
        }
    }
    // What ended without its worker being told of it was not claimed again either.
    known.ended.extend(known.created.iter().cloned());
    judge(store, known).await
}
