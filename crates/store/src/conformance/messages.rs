//! Random histories of messages, run rows and counters, with crashes, against a model.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Strategy, prop_oneof};

use super::{Fixture, Outcome, ensure, text};
use crate::Store;
use crate::message::{Append, Appended, NewMessage, Retention, RunRow, Sender};

/// A step; sessions and ids are few.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Append { session: u8, sender: Sender, ids: Vec<u8>, keep: Retention },
    Read { session: u8, after: u64, limit: usize },
    Drop { session: u8 },
    Row { session: u8, run: u64, durable: bool },
    Raise { counter: u8 },
    Reopen,
    Crash,
}

pub(super) fn history(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let session = 0_u8..3;
    let sender = prop_oneof![
        3 => proptest::strategy::Just(Sender::Agent),
        2 => proptest::strategy::Just(Sender::User),
        1 => proptest::strategy::Just(Sender::Platform),
    ];
    let keep = prop_oneof![
        3 => proptest::strategy::Just(Retention::ALL),
        1 => (0_u64..12, 0_u64..1_000).prop_map(|(messages, bytes)| Retention { messages, bytes }),
    ];
    let step = prop_oneof![
        10 => (session.clone(), sender, vec(0_u8..40, 1..5), keep)
            .prop_map(|(session, sender, ids, keep)| Step::Append { session, sender, ids, keep }),
        5 => (session.clone(), 0_u64..40, 1_usize..8)
            .prop_map(|(session, after, limit)| Step::Read { session, after, limit }),
        1 => session.clone().prop_map(|session| Step::Drop { session }),
        2 => (session, 1_u64..100, proptest::bool::ANY)
            .prop_map(|(session, run, durable)| Step::Row { session, run, durable }),
        1 => (0_u8..2).prop_map(|counter| Step::Raise { counter }),
        1 => proptest::strategy::Just(Step::Reopen),
        1 => proptest::strategy::Just(Step::Crash),
    ];
    vec(step, 1..=steps)
}

#[derive(Debug, Clone, Default)]
struct Session {
    /// Senders and ids in the order of their numbers.
    said: Vec<(Sender, u8)>,
    /// How many of the first are trimmed.
    trimmed: usize,
    row: Option<RunRow>,
    /// What a crash may bring back: the row that was made durable last, and those put since.
    rows: Vec<Option<RunRow>>,
}

impl Session {
    fn put(&mut self, row: RunRow, durable: bool) {
        if durable {
            self.rows.clear();
        } else if self.rows.is_empty() {
            self.rows.push(self.row.clone());
        }
        self.rows.push(Some(row.clone()));
        self.row = Some(row);
    }

    fn is_known(&self) -> bool {
        !self.said.is_empty() || self.row.is_some()
    }

    fn kept(&self) -> (u64, u64) {
        let kept = &self.said[self.trimmed..];
        (kept.len() as u64, kept.iter().map(|(_, id)| body(*id).len() as u64).sum())
    }

    fn trim(&mut self, keep: Retention) {
        let over = |keep: Retention, (count, bytes): (u64, u64)| keep.is_over(count, bytes);
        if over(keep, self.kept()) {
            while over(keep.after_stride(), self.kept()) && self.trimmed + 1 < self.said.len() {
                self.trimmed += 1;
            }
        }
    }
}

/// A message as it is given; its size depends on its id.
fn body(id: u8) -> String {
    format!("{{\"id\":{id},\"text\":\"{}\"}}", "x".repeat(usize::from(id) * 3))
}

struct Run {
    store: Arc<dyn Store>,
    sessions: HashMap<u8, Session>,
    counters: HashMap<u8, u64>,
}

pub(super) async fn run(fixture: &dyn Fixture, history: Vec<Step>) -> Outcome {
    let mut run = Run { store: fixture.open(), sessions: HashMap::new(), counters: HashMap::new() };
    for step in history {
        let said = format!("{step:?}");
        match step {
            Step::Reopen => {
                run.store.close().await;
                run.store = fixture.open();
                run.sessions.values_mut().for_each(|session| session.rows.clear());
            }
            Step::Crash => run.crash(fixture).await?,
            _ => {}
        }
        run.step(step).await.map_err(|why| format!("at {said}: {why}"))?;
    }
    for session in 0..3 {
        run.read(session, 0, usize::MAX).await?;
    }
    run.names().await?;
    run.store.close().await;
    Ok(())
}

fn name(session: u8) -> String {
    format!("session-{session}")
}

impl Run {
    async fn step(&mut self, step: Step) -> Outcome {
        match step {
            Step::Append { session, sender, ids, keep } => self.append((session, sender), &ids, keep).await,
            Step::Read { session, after, limit } => self.read(session, after, limit).await,
            Step::Drop { session } => {
                self.store.drop_session(&name(session)).await.map_err(|error| text(&error))?;
                self.sessions.remove(&session);
                Ok(())
            }
            Step::Row { session, run, durable } => {
                let row = RunRow { run, pod_uid: run.to_string(), busy: durable, ..RunRow::default() };
                let put = self.store.put_run_row(&name(session), row.clone(), durable).await;
                put.map_err(|error| text(&error))?;
                self.sessions.entry(session).or_default().put(row, durable);
                Ok(())
            }
            Step::Raise { counter } => {
                let got = self.store.raise(&counter.to_string()).await.map_err(|error| text(&error))?;
                let model = self.counters.entry(counter).or_default();
                *model += 1;
                ensure!(got == *model, "raised to {got}, expected {model}");
                Ok(())
            }
            Step::Reopen | Step::Crash => Ok(()),
        }
    }

    /// A row that was not made durable may be one that was put earlier; everything else is as it was.
    async fn crash(&mut self, fixture: &dyn Fixture) -> Outcome {
        self.store = fixture.crash();
        for (session, model) in &mut self.sessions {
            let row = self.store.run_row(&name(*session)).await.map_err(|error| text(&error))?;
            let expected = if model.rows.is_empty() { row == model.row } else { model.rows.contains(&row) };
            ensure!(expected, "the run row is {row:?}, expected {:?} or one of {:?}", model.row, model.rows);
            model.row = row;
            model.rows.clear();
        }
        self.names().await
    }

    /// Every session of which the model keeps something is named, and no other that was dropped.
    async fn names(&self) -> Outcome {
        let got = self.store.sessions().await.map_err(|error| text(&error))?;
        let kept = self.sessions.iter().filter(|(_, one)| one.is_known()).map(|(session, _)| name(*session));
        let (got, want): (BTreeSet<_>, BTreeSet<_>) = (got.iter().map(ToString::to_string).collect(), kept.collect());
        ensure!(got == want, "the sessions are {got:?}, expected {want:?}");
        Ok(())
    }

    async fn append(&mut self, (session, sender): (u8, Sender), ids: &[u8], keep: Retention) -> Outcome {
        let message = |id: &u8| NewMessage { id: id.to_string().into(), kind: "agent".into(), body: body(*id).into() };
        let messages = ids.iter().map(message).collect();
        let append = Append { session: name(session).into(), sender, messages, keep };
        let counter = self.store.message_counter(&name(session)).await.map_err(|error| text(&error))?;
        let got = self.store.append(append).await.map_err(|error| text(&error))?;
        let model = self.sessions.entry(session).or_default();
        let before = model.said.len();
        let want: Vec<Appended> = ids
            .iter()
            .map(|id| {
                let known = model.said.iter().position(|known| *known == (sender, *id));
                let at = known.unwrap_or_else(|| {
                    model.said.push((sender, *id));
                    model.said.len() - 1
                });
                Appended { number: at as u64 + 1, duplicate: known.is_some() }
            })
            .collect();
        if model.said.len() > before {
            model.trim(keep);
        }
        ensure!(got == want, "appended {got:?}, expected {want:?}");
        ensure!(*counter.borrow() == model.said.len() as u64, "the counter says {}", *counter.borrow());
        Ok(())
    }

    async fn read(&self, session: u8, after: u64, limit: usize) -> Outcome {
        let model = self.sessions.get(&session).cloned().unwrap_or_default();
        let row = self.store.run_row(&name(session)).await.map_err(|error| text(&error))?;
        ensure!(row == model.row, "the run row is {row:?}, expected {:?}", model.row);
        let page = self.store.messages(&name(session), after, limit).await.map_err(|error| text(&error))?;
        ensure!(page.last == model.said.len() as u64, "the last is {}, expected {}", page.last, model.said.len());
        let trimmed = model.trimmed as u64;
        let gap = (after < trimmed).then_some((after + 1, trimmed));
        ensure!(page.gap == gap, "the gap is {:?}, expected {gap:?}", page.gap);
        let from = usize::try_from(after.max(trimmed)).unwrap_or(usize::MAX);
        let numbered = |at: usize| body(model.said[at].1).replacen('{', &format!("{{\"number\":{},", at + 1), 1);
        let want: Vec<String> = (from..model.said.len()).take(limit).map(numbered).collect();
        let got: Vec<_> = page.messages.iter().map(|message| String::from_utf8_lossy(&message.body)).collect();
        ensure!(got == want, "read {got:?}, expected {want:?}");
        Ok(())
    }
}
