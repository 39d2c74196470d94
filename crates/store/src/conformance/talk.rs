//! Several appenders and readers of each session, and retention that lets go of the oldest, all at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;

use super::{Dice, Fixture, Outcome, ensure, text};
use crate::message::{Append, Appended, NewMessage, Page, Retention, Sender};
use crate::{Store, StoreError};

const SESSIONS: u64 = 2;
const APPENDERS: u64 = 3;
const READERS: u64 = 2;
/// So little that each run lets go of something.
pub(super) const KEEP: Retention = Retention { messages: 30, bytes: 900 };

/// What a message is known by.
pub(super) type Said = (Sender, u64);

/// What was acknowledged of a session: numbers and what has them.
#[derive(Debug, Default)]
pub(super) struct Told(pub(super) BTreeMap<u64, Said>);

pub(super) fn session(number: u64) -> String {
    format!("session-{number}")
}

/// As it is given; its size depends on its id.
fn body((sender, id): Said) -> String {
    format!("{{\"by\":\"{sender:?}\",\"id\":{id},\"text\":\"{}\"}}", "x".repeat(usize::try_from(id % 50).unwrap_or(0)))
}

pub(super) fn append(session: &str, sender: Sender, ids: &[u64]) -> Append {
    let message =
        |id: &u64| NewMessage { id: id.to_string().into(), kind: "agent".into(), body: body((sender, *id)).into() };
    Append { session: session.into(), sender, messages: ids.iter().map(message).collect(), keep: KEEP }
}

impl Told {
    /// Notes an answer: what is new has numbers in a row that nobody else has, what is repeated has that of the first time.
    pub(super) fn note(&mut self, sender: Sender, ids: &[u64], given: &[Appended]) -> Outcome {
        ensure!(given.len() == ids.len(), "{} answers for {} messages", given.len(), ids.len());
        let mut row = None;
        for (id, one) in ids.iter().zip(given) {
            let said = (sender, *id);
            if one.duplicate {
                let first = self.0.get(&one.number);
                ensure!(first == Some(&said), "{said:?} is said to be {}, which is {first:?}", one.number);
                continue;
            }
            ensure!(row.is_none_or(|before| one.number == before + 1), "{} comes after {row:?}", one.number);
            row = Some(one.number);
            let clash = self.0.insert(one.number, said);
            ensure!(clash.is_none(), "{} is both {said:?} and {clash:?}", one.number);
        }
        Ok(())
    }

    /// What a reader got after a number is that, without holes; gives where the next page begins.
    pub(super) fn check(&self, after: u64, page: &Page) -> Result<u64, String> {
        let mut at = after;
        if let Some((from, to)) = page.gap {
            ensure!(from == after + 1 && to >= from && to < page.last, "the gap {from} to {to} after {after}");
            at = to;
        }
        for message in &page.messages {
            at += 1;
            let want = self.0.get(&at).map(|said| body(*said).replacen('{', &format!("{{\"number\":{at},"), 1));
            let got = String::from_utf8_lossy(&message.body);
            // An append may be read before its appender is told.
            let right = want.as_ref().is_none_or(|want| *want == got);
            ensure!(message.number == at && right, "{got} in the place of {at}, expected {want:?}");
        }
        Ok(at)
    }

    /// All numbers from 1 on are there, and a reader gets all that is kept.
    pub(super) async fn is_whole(&self, store: &dyn Store, session: &str) -> Outcome {
        let failed = |error: StoreError| text(&error);
        let numbers: Vec<u64> = self.0.keys().copied().collect();
        ensure!(numbers == (1..=numbers.len() as u64).collect::<Vec<_>>(), "the numbers are {numbers:?}");
        let page = store.messages(session, 0, usize::MAX).await.map_err(failed)?;
        ensure!(self.check(0, &page)? == page.last && page.last == numbers.len() as u64, "the last is {}", page.last);
        ensure!(*store.message_counter(session).await.map_err(failed)?.borrow() == page.last, "the counter is wrong");
        let kept: Vec<_> = self.0.values().skip(self.0.len() - page.messages.len()).collect();
        let bytes = kept.iter().map(|said| body(**said).len() as u64).sum();
        let over = KEEP.is_over(kept.len() as u64, bytes);
        ensure!(!over && (!kept.is_empty() || numbers.is_empty()), "{} messages, {bytes} bytes are kept", kept.len());
        Ok(())
    }
}

pub(super) async fn run(fixture: &dyn Fixture, seed: u64, steps: usize) -> Outcome {
    let store = fixture.open();
    let mut all = Vec::new();
    for number in 0..SESSIONS {
        let told = Rc::new(RefCell::new(Told::default()));
        let left = Rc::new(AtomicUsize::new(usize::try_from(APPENDERS).unwrap_or(0)));
        all.push((session(number), told, left));
    }
    let mut tasks = Vec::new();
    for (number, (name, told, left)) in (0_u64..).zip(&all) {
        let dice = |task: u64| Dice(seed ^ (number << 48) ^ (task << 32));
        for task in 0..APPENDERS {
            tasks.push(futures::FutureExt::boxed_local(appender(&*store, name, task, dice(task), steps, (told, left))));
        }
        for task in 0..READERS {
            tasks.push(futures::FutureExt::boxed_local(reader(&*store, name, dice(task + 100), (told, left))));
        }
    }
    join_all(tasks).await.into_iter().collect::<Outcome>()?;
    let all: Vec<_> = all.into_iter().map(|(name, told, _)| (name, told.take())).collect();
    for (name, told) in &all {
        told.is_whole(&*store, name).await?;
    }
    store.close().await;
    let store = fixture.open();
    for (name, told) in &all {
        told.is_whole(&*store, name).await?;
    }
    store.close().await;
    Ok(())
}

type Shared<'a> = (&'a Rc<RefCell<Told>>, &'a Rc<AtomicUsize>);

/// Says things of its own, and some of them again. Two of the appenders are of one kind, and so share their names.
async fn appender(
    store: &dyn Store,
    session: &str,
    task: u64,
    mut dice: Dice,
    steps: usize,
    (told, left): Shared<'_>,
) -> Outcome {
    let sender = if task == 0 { Sender::User } else { Sender::Agent };
    let mut ids: Vec<u64> = Vec::new();
    for _ in 0..steps / 4 {
        let mut now: Vec<u64> = (0..=dice.roll(3)).map(|at| task * 100_000 + ids.len() as u64 + at).collect();
        ids.extend(&now);
        if dice.roll(3) == 0 {
            let again = usize::try_from(dice.roll(ids.len() as u64)).unwrap_or(0);
            now.push(ids[again]);
        }
        let given = store.append(append(session, sender, &now)).await.map_err(|error| text(&error))?;
        told.borrow_mut().note(sender, &now, &given)?;
    }
    left.fetch_sub(1, Ordering::SeqCst);
    Ok(())
}

/// Follows the session from its beginning to its end, in small and large steps.
async fn reader(store: &dyn Store, session: &str, mut dice: Dice, (told, left): Shared<'_>) -> Outcome {
    let mut after = 0;
    loop {
        let over = left.load(Ordering::SeqCst) == 0;
        let limit = usize::try_from(1 + dice.roll(20)).unwrap_or(1);
        let page = store.messages(session, after, limit).await.map_err(|error| text(&error))?;
        after = told.borrow().check(after, &page)?;
        if over && after == page.last {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}
