//! Replicas that change the ring of keys at once, and crashes meanwhile: of all that read one generation one changes it,
//! generations are never given again, and what was acknowledged stays, whole.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::join_all;

use super::{Dice, Fixture, Outcome, ensure, text};
use crate::keyring::{KeyRow, MAX_WRAPPED, Ring, RingChange};
use crate::{Store, StoreError};

const ROUNDS: u64 = 3;
const REPLICAS: u64 = 3;
/// The names that rows have.
const NAMES: [&str; 2] = ["left", "right"];

type Rows = BTreeMap<(String, u64), u64>;

/// What is known for sure, over all rounds.
#[derive(Default)]
struct Known {
    /// Generations that were acknowledged, and those that they took the place of.
    made: BTreeMap<u64, u64>,
    /// The rings that somebody asked for, and the one that there was: who was not told may have succeeded.
    asked: Vec<Rows>,
}

#[derive(Default)]
struct Round {
    crashed: Cell<bool>,
    acts: Cell<u64>,
    known: RefCell<Known>,
}

pub(super) async fn run(fixture: &dyn Fixture, seed: u64, steps: usize) -> Outcome {
    let mut store = fixture.open();
    plain(&*store).await?;
    let start = store.ring().await.map_err(|error| text(&error))?;
    let mut known = Known { made: [(start.generation, 0)].into(), asked: vec![rows_of(&start)] };
    for number in 0..ROUNDS {
        let round = Round { known: RefCell::new(known), ..Round::default() };
        let dice = |task: u64| Dice(seed ^ (number << 48) ^ (task << 32));
        let replicas = (0..REPLICAS).map(|task| replica(&*store, dice(task), &round).boxed_local());
        let crash = async {
            let enough = dice(100).roll(steps as u64);
            for _ in 0..1_000_000 {
                if round.acts.get() >= enough {
                    break;
                }
                tokio::task::yield_now().await;
            }
            round.crashed.set(true);
            fixture.crash()
        };
        let (outcomes, after) = futures::join!(join_all(replicas), crash);
        outcomes.into_iter().collect::<Outcome>()?;
        store = after;
        known = round.known.into_inner();
        judge(&store.ring().await.map_err(|error| text(&error))?, &mut known)?;
    }
    store.close().await;
    Ok(())
}

/// What one caller alone can see.
async fn plain(store: &dyn Store) -> Outcome {
    let failed = |error: StoreError| text(&error);
    let mut changes = store.ring_changes();
    let ring = store.ring().await.map_err(failed)?;
    ensure!(ring == Ring::default(), "a new store has {ring:?}");
    let row = |name: &str, version, bytes: &'static str| KeyRow {
        name: name.into(),
        version,
        wrapped: bytes.into(),
        created_ms: 5,
    };
    let add = vec![row("b", 2, "two"), row("a", 1, "one"), row("b", 1, "")];
    let first = store.change_ring(RingChange { generation: 0, add, remove: vec![("a".into(), 1)] }).await;
    let Some(generation) = first.map_err(failed)? else { return Err("an empty ring was not changed".to_owned()) };
    ensure!(generation > 0, "the first generation is {generation}");
    let seen = tokio::time::timeout(std::time::Duration::from_secs(20), changes.wait_for(|seen| *seen == generation));
    ensure!(seen.await.is_ok_and(|seen| seen.is_ok()), "the change is not told");
    let ring = store.ring().await.map_err(failed)?;
    let rows = vec![row("a", 1, "one"), row("b", 1, ""), row("b", 2, "two")];
    ensure!(ring == Ring { generation, rows: rows.clone() }, "after a change there is {ring:?}");

    let stale = RingChange { generation: 0, remove: vec![("a".into(), 1)], add: vec![row("c", 1, "three")] };
    let stale = store.change_ring(stale).await.map_err(failed)?;
    ensure!(stale.is_none(), "a change of a generation that is over was made");
    let large = KeyRow { wrapped: vec![0; MAX_WRAPPED + 1].into(), ..row("c", 1, "") };
    let large = store.change_ring(RingChange { generation, add: vec![large], remove: Vec::new() }).await;
    ensure!(matches!(large, Err(StoreError::TooLarge { .. })), "a key without end gives {large:?}");
    let ring = store.ring().await.map_err(failed)?;
    ensure!(ring == Ring { generation, rows }, "what was refused has changed the ring: {ring:?}");

    // The same version once more takes the place of the first; what is removed may be gone already.
    let remove = vec![("b".into(), 1), ("a".into(), 9), ("a".into(), 1)];
    let change = RingChange { generation, remove, add: vec![row("b", 2, "wrapped anew")] };
    let second = store.change_ring(change).await.map_err(failed)?;
    ensure!(second.is_some_and(|second| second > generation), "{second:?} comes after {generation}");
    let ring = store.ring().await.map_err(failed)?;
    ensure!(ring.rows == [row("b", 2, "wrapped anew")], "after a removal there is {ring:?}");
    let empty = RingChange { generation: ring.generation, remove: vec![("b".into(), 2)], add: Vec::new() };
    store.change_ring(empty).await.map_err(failed).map(drop)
}

/// Reads, and changes what it has read, until the crash.
async fn replica(store: &dyn Store, mut dice: Dice, round: &Round) -> Outcome {
    while !round.crashed.get() {
        let ring = match store.ring().await {
            Ok(ring) => ring,
            Err(_) if round.crashed.get() => break,
            Err(error) => return Err(text(&error)),
        };
        let mut change = RingChange { generation: ring.generation, ..RingChange::default() };
        for name in NAMES {
            let newest = ring.rows.iter().filter(|row| *row.name == *name).map(|row| row.version).max().unwrap_or(0);
            if dice.roll(2) == 0 {
                let (wrapped, created_ms) = (vec![7; 8], i64::try_from(dice.roll(1_000)).unwrap_or(0));
                change.add.push(KeyRow { name: name.into(), version: newest + 1, wrapped: wrapped.into(), created_ms });
                change.remove.extend((newest > 2).then(|| (name.into(), newest - 2)));
            }
        }
        let after = applied(&ring, &change);
        round.known.borrow_mut().asked.push(after);
        let told = store.change_ring(change).await;
        round.acts.set(round.acts.get() + 1);
        match told {
            _ if round.crashed.get() => break,
            Ok(Some(generation)) => {
                let made = &mut round.known.borrow_mut().made;
                let twice = made.values().any(|before| *before == ring.generation);
                ensure!(!twice, "generation {} was changed twice", ring.generation);
                ensure!(generation > ring.generation, "{generation} comes after {}", ring.generation);
                ensure!(made.insert(generation, ring.generation).is_none(), "{generation} was given twice");
            }
            // Somebody else was faster; told or not, it is newer than what was read.
            Ok(None) => {
                let newer = store.ring().await;
                let newer = round.crashed.get() || newer.is_ok_and(|newer| newer.generation > ring.generation);
                ensure!(newer, "{} was refused, and is the newest", ring.generation);
            }
            Err(error) => return Err(text(&error)),
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn rows_of(ring: &Ring) -> Rows {
    ring.rows.iter().map(|row| ((row.name.to_string(), row.version), row.created_ms.unsigned_abs())).collect()
}

fn applied(ring: &Ring, change: &RingChange) -> Rows {
    let mut rows = rows_of(ring);
    for (name, version) in &change.remove {
        rows.remove(&(name.to_string(), *version));
    }
    rows.extend(change.add.iter().map(|row| ((row.name.to_string(), row.version), row.created_ms.unsigned_abs())));
    rows
}

/// After a crash the ring is one that somebody asked for, whole, and not older than what was acknowledged.
fn judge(ring: &Ring, known: &mut Known) -> Outcome {
    let newest = known.made.last_key_value().map_or(0, |(generation, _)| *generation);
    ensure!(ring.generation >= newest, "{newest} was acknowledged, there is {}", ring.generation);
    let rows = rows_of(ring);
    ensure!(known.asked.contains(&rows), "nobody asked for {ring:?}");
    *known = Known { made: [(ring.generation, 0)].into(), asked: vec![rows] };
    Ok(())
}
