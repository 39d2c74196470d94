//! Long work: what a handler of operations is.
//!
//! An operation is a durable order to do something that takes long, touches systems that fail, and outlives whoever
//! carries it out. Its handler says of which [`Step`]s it consists; crate `operations` carries them out one after the other
//! and keeps a journal: *intent* before a step acts, *outcome* after. A step without outcome is in doubt: it is observed before
//! it acts again. What cannot succeed, and what is cancelled, is undone in reverse.
//!
//! What a handler may rely on, and must do:
//! - Steps of one operation are never carried out side by side, but an attempt that was given up may still be under way
//!   somewhere. So each effect carries its [`EffectKey`]; a receiver answers a repeated (operation, step) with the first
//!   result and refuses a token older than one it has seen.
//! - A step's name and place do not change between attempts, nor between versions that may take over from each other.
//! - Waiting for the world is said by [`Progress::NotYet`]: it costs no attempt and holds no worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{Class, Failure, Reason};

/// The most steps that an operation may have.
pub const MAX_STEPS: usize = 64;

/// What an effect carries, so that its receiver can tell a repetition, and who is out of date.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EffectKey {
    /// The operation's uid.
    pub operation: Arc<str>,
    /// The step's name; `undo/NAME` for what takes it back.
    pub step: Arc<str>,
    /// The attempt's number. It grows with every attempt of the operation, on whichever worker.
    pub token: u64,
}

/// What an operation is to do, as its creator said it.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The operation's uid.
    pub id: Arc<str>,
    /// Where it lives.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Which handler carries it out.
    pub handler: Arc<str>,
    /// The object that it serves, when it has one.
    pub owner: Option<Owner>,
    /// What the handler needs to know. Whoever may create operations wrote it: it is as trusted as they are.
    pub payload: Value,
}

/// The object that an operation serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its kind.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its uid.
    pub uid: Arc<str>,
}

impl Work {
    /// The payload as the handler's own type.
    ///
    /// # Errors
    /// Terminal(Invalid): it will not become readable.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        T::deserialize(&self.payload)
            .map_err(|error| Failure::caused_by(Class::Terminal(Reason::Invalid), "read the payload", error))
    }
}

/// How far a step has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It is done; later steps can read this.
    Done(Value),
    /// Nothing failed, but the world has not got there: look again after this time.
    NotYet(Duration),
}

impl Progress {
    /// Done, with nothing to tell.
    pub const DONE: Self = Self::Done(Value::Null);
}

/// What a step is given, each time it is called.
#[derive(Debug, Clone)]
pub struct At {
    /// What its effects carry.
    pub key: EffectKey,
    /// What the steps before it were done with, by name.
    pub outputs: Arc<BTreeMap<String, Value>>,
    /// The attempt has to end by then: calls take what is left for their own deadline.
    pub deadline: Instant,
    /// Cancelled when the attempt is to end early. A step looks at it between effects, never in the middle of one.
    pub cancelled: CancellationToken,
}

/// One step of an operation: one effect on the world, and how to see and undo it. All three are safe to repeat.
pub trait Step: Send + Sync {
    /// Its name, unique in the operation: lower-case letters, digits and dashes.
    fn name(&self) -> &str;

    /// What became of the effect that an earlier attempt may have had; `None` when there is no trace of it.
    ///
    /// # Errors
    /// When the world cannot be read. It stays in doubt.
    fn observe<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>>;

    /// Has the effect.
    ///
    /// # Errors
    /// Terminal ones end the operation: what was done is undone. All others are tried again.
    fn act<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Progress, Failure>>;

    /// Takes the effect back; `done` is what it was done with, `null` when there is no trace of it: then whoever would have
    /// it is told not to have it any more, should it still arrive. By default there is nothing to take back.
    ///
    /// # Errors
    /// All are tried again, but for Terminal ones.
    fn undo<'a>(&'a self, at: &'a At, done: &'a Value) -> BoxFuture<'a, Result<Progress, Failure>> {
        let _ = (at, done);
        Box::pin(std::future::ready(Ok(Progress::DONE)))
    }
}

/// Carries out one kind of operation.
pub trait Handler: Send + Sync + 'static {
    /// The name that operations call it by: lower-case letters, digits and dashes.
    fn name(&self) -> &'static str;

    /// The steps, in order; the last one's output is the operation's. Has no effect, and gives the same for the same work.
    ///
    /// # Errors
    /// Terminal, when the work makes no sense.
    fn steps(&self, work: &Work) -> Result<Vec<Box<dyn Step>>, Failure>;
}

/// All handlers of a process, by name.
#[derive(Clone, Default)]
pub struct Handlers(BTreeMap<&'static str, Arc<dyn Handler>>);

impl Handlers {
    /// These; of two with one name the later one counts.
    pub fn new(handlers: impl IntoIterator<Item = Arc<dyn Handler>>) -> Self {
        Self(handlers.into_iter().map(|handler| (handler.name(), handler)).collect())
    }

    /// The handler of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Handler>> {
        self.0.get(name)
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
