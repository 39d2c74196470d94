//! A backend that notes every effect. It refuses a token older than one it has seen, and does not tell repetitions apart: so
//! whatever is done twice is seen to be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::operation::{At, EffectKey, Handler, Progress, Step, Work};
use mainstay_runtime::{Class, Failure};
use serde_json::Value;
use tokio::time::sleep;

use crate::dice::Dice;

/// The handler's name.
pub(crate) const HANDLER: &str = "paint";
/// Its steps.
pub(crate) const STEPS: [&str; 2] = ["prime", "coat"];

/// See the module.
#[derive(Debug)]
pub(crate) struct Backend {
    state: Mutex<State>,
    /// Whether an older token is refused.
    fences: bool,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    /// By operation and step: how often it was done.
    effects: BTreeMap<(Arc<str>, Arc<str>), u32>,
    /// The newest token that was seen, by operation.
    tokens: BTreeMap<Arc<str>, u64>,
    /// Under way, and when they come.
    late: Vec<(u64, EffectKey)>,
    now_ms: u64,
}

impl Backend {
    pub(crate) fn new(dice: Dice, fences: bool) -> Arc<Self> {
        let state = State { dice, effects: BTreeMap::new(), tokens: BTreeMap::new(), late: Vec::new(), now_ms: 0 };
        Arc::new(Self { state: Mutex::new(state), fences })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time goes on: what was late comes.
    pub(crate) fn tick(&self, now_ms: u64) {
        let mut state = self.lock();
        state.now_ms = now_ms;
        let (due, late): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.late).into_iter().partition(|(at, _)| *at <= now_ms);
        state.late = late;
        for (_, key) in due {
            // Whoever asked does not wait for an answer any more.
            state.effect(&key, self.fences).ok();
        }
    }

    /// How often each step of each operation was done.
    pub(crate) fn effects(&self) -> BTreeMap<(Arc<str>, Arc<str>), u32> {
        self.lock().effects.clone()
    }

    /// The words of one call: how long it takes, how much longer its answer, and what becomes of it.
    fn draw(&self) -> (Duration, Duration, u64) {
        let dice = &mut self.lock().dice;
        (dice.millis(1..120), dice.millis(1..120), dice.within(0..100))
    }
}

impl State {
    fn sees(&mut self, key: &EffectKey, fences: bool) -> Result<(), Failure> {
        let newest = self.tokens.entry(Arc::clone(&key.operation)).or_default();
        if fences && key.token < *newest {
            return Err(Failure::new(Class::Fenced, "the backend has seen a newer token"));
        }
        *newest = key.token.max(*newest);
        Ok(())
    }

    fn effect(&mut self, key: &EffectKey, fences: bool) -> Result<(), Failure> {
        self.sees(key, fences)?;
        *self.effects.entry((Arc::clone(&key.operation), Arc::clone(&key.step))).or_default() += 1;
        Ok(())
    }
}

struct Stroke {
    name: &'static str,
    backend: Arc<Backend>,
}

fn silence() -> Failure {
    Failure::new(Class::Indeterminate, "the backend did not answer")
}

impl Step for Stroke {
    fn name(&self) -> &str {
        self.name
    }

    fn observe<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        async move {
            let (there, back, chance) = self.backend.draw();
            sleep(there).await;
            if chance < 5 {
                return Err(silence());
            }
            let done = {
                let mut state = self.backend.lock();
                state.sees(&at.key, self.backend.fences)?;
                state.effects.contains_key(&(Arc::clone(&at.key.operation), Arc::clone(&at.key.step)))
            };
            sleep(back).await;
            Ok(done.then_some(Progress::DONE))
        }
        .boxed()
    }

    fn act<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        async move {
            let (there, back, chance) = self.backend.draw();
            sleep(there).await;
            match chance {
                0..5 => return Err(silence()),
                5..9 => return Err(Failure::new(Class::TRANSIENT, "the backend is busy")),
                9..14 => {
                    let mut state = self.backend.lock();
                    let at_ms = state.now_ms + state.dice.within(100..6_000);
                    state.late.push((at_ms, at.key.clone()));
                    return Err(silence());
                }
                _ => self.backend.lock().effect(&at.key, self.backend.fences)?,
            }
            sleep(back).await;
            if chance < 20 { Err(silence()) } else { Ok(Progress::Done(Value::from(at.key.token))) }
        }
        .boxed()
    }
}

/// Paints, in two steps.
pub(crate) struct Painter(pub(crate) Arc<Backend>);

impl Handler for Painter {
    fn name(&self) -> &'static str {
        HANDLER
    }

    fn steps(&self, _: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        let step = |name| Box::new(Stroke { name, backend: Arc::clone(&self.0) }) as Box<dyn Step>;
        Ok(STEPS.into_iter().map(step).collect())
    }
}
