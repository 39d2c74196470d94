//! Random histories of messages, run rows and counters, against a model.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Strategy, prop_oneof};

use super::{Fixture, Outcome, ensure, text};
use crate::Store;
use crate::message::{Append, Appended, NewMessage, RunRow};

/// A step; sessions and ids are few.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Append { session: u8, ids: Vec<u8> },
    Read { session: u8, after: u64, limit: usize },
    Trim { session: u8, keep: u64 },
    Drop { session: u8 },
    Row { session: u8, run: u64, durable: bool },
    Raise { counter: u8 },
    Reopen,
}

pub(super) fn history(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let session = 0_u8..3;
    let step = prop_oneof![
        10 => (session.clone(), vec(0_u8..60, 1..5)).prop_map(|(session, ids)| Step::Append { session, ids }),
        5 => (session.clone(), 0_u64..40, 1_usize..8)
            .prop_map(|(session, after, limit)| Step::Read { session, after, limit }),
        2 => (session.clone(), 0_u64..10).prop_map(|(session, keep)| Step::Trim { session, keep }),
        1 => session.clone().prop_map(|session| Step::Drop { session }),
        2 => (session, 1_u64..100, proptest::bool::ANY)
            .prop_map(|(session, run, durable)| Step::Row { session, run, durable }),
        1 => (0_u8..2).prop_map(|counter| Step::Raise { counter }),
        1 => proptest::strategy::Just(Step::Reopen),
    ];
    vec(step, 1..=steps)
}

#[derive(Debug, Clone, Default)]
struct Session {
    /// Ids in the order of their numbers.
    ids: Vec<u8>,
    /// How many of the first are trimmed.
    trimmed: usize,
    row: Option<RunRow>,
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
        if matches!(step, Step::Reopen) {
            run.store.close().await;
            run.store = fixture.open();
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
            Step::Append { session, ids } => self.append(session, &ids).await,
            Step::Read { session, after, limit } => self.read(session, after, limit).await,
            Step::Trim { session, keep } => {
                self.store.trim_messages(&name(session), keep).await.map_err(|error| text(&error))?;
                let model = self.sessions.entry(session).or_default();
                let keep = usize::try_from(keep).unwrap_or(usize::MAX);
                model.trimmed = model.trimmed.max(model.ids.len().saturating_sub(keep));
                Ok(())
            }
            Step::Drop { session } => {
                self.store.drop_session(&name(session)).await.map_err(|error| text(&error))?;
                self.sessions.remove(&session);
                Ok(())
            }
            Step::Row { session, run, durable } => {
                let row = RunRow { run, pod_uid: run.to_string(), busy: durable, ..RunRow::default() };
                let put = self.store.put_run_row(&name(session), row.clone(), durable).await;
                put.map_err(|error| text(&error))?;
                self.sessions.entry(session).or_default().row = Some(row);
                Ok(())
            }
            Step::Raise { counter } => {
                let got = self.store.raise(&counter.to_string()).await.map_err(|error| text(&error))?;
                let model = self.counters.entry(counter).or_default();
                *model += 1;
                ensure!(got == *model, "raised to {got}, expected {model}");
                Ok(())
            }
            Step::Reopen => Ok(()),
        }
    }

    /// Every session of which the model keeps something is named, and no other that was dropped.
    async fn names(&self) -> Outcome {
        let got = self.store.sessions().await.map_err(|error| text(&error))?;
        let known = |one: &Session| !one.ids.is_empty() || one.row.is_some();
        let kept = self.sessions.iter().filter(|(_, one)| known(one)).map(|(session, _)| name(*session));
        let (got, want): (BTreeSet<_>, BTreeSet<_>) = (got.iter().map(ToString::to_string).collect(), kept.collect());
        ensure!(got == want, "the sessions are {got:?}, expected {want:?}");
        Ok(())
    }

    async fn append(&mut self, session: u8, ids: &[u8]) -> Outcome {
        let message = |id: &u8| NewMessage {
            id: id.to_string().into(),
            kind: "agent".into(),
            body: format!("{{\"id\":{id}}}").into(),
        };
        let append = Append { session: name(session).into(), messages: ids.iter().map(message).collect() };
        let counter = self.store.message_counter(&name(session)).await.map_err(|error| text(&error))?;
        let got = self.store.append(append).await.map_err(|error| text(&error))?;
        let model = self.sessions.entry(session).or_default();
        let want: Vec<Appended> = ids
            .iter()
            .map(|id| {
                let known = model.ids.iter().position(|known| known == id);
                let at = known.unwrap_or_else(|| {
                    model.ids.push(*id);
                    model.ids.len() - 1
                });
                Appended { number: at as u64 + 1, duplicate: known.is_some() }
            })
            .collect();
        ensure!(got == want, "appended {got:?}, expected {want:?}");
        ensure!(*counter.borrow() == model.ids.len() as u64, "the counter says {}", *counter.borrow());
        Ok(())
    }

    async fn read(&self, session: u8, after: u64, limit: usize) -> Outcome {
        let model = self.sessions.get(&session).cloned().unwrap_or_default();
        let row = self.store.run_row(&name(session)).await.map_err(|error| text(&error))?;
        ensure!(row == model.row, "the run row is {row:?}, expected {:?}", model.row);
        let page = self.store.messages(&name(session), after, limit).await.map_err(|error| text(&error))?;
        ensure!(page.last == model.ids.len() as u64, "the last is {}, expected {}", page.last, model.ids.len());
        let trimmed = model.trimmed as u64;
        let gap = (after < trimmed).then_some((after + 1, trimmed));
        ensure!(page.gap == gap, "the gap is {:?}, expected {gap:?}", page.gap);
        let from = usize::try_from(after.max(trimmed)).unwrap_or(usize::MAX);
        let want: Vec<String> = (from..model.ids.len())
            .take(limit)
            .map(|at| format!("{{\"number\":{},\"id\":{}}}", at + 1, model.ids[at]))
            .collect();
        let got: Vec<_> = page.messages.iter().map(|message| String::from_utf8_lossy(&message.body)).collect();
        ensure!(got == want, "read {got:?}, expected {want:?}");
        Ok(())
    }
}
