//! A step that is one effect of one backend.
//!
//! Its calls get the attempt's deadline and are not dropped at it: so the gate learns of what stalls.

use std::future::Future;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::operation::{At, EffectKey, Progress, Step};
use mainstay_runtime::{Class, Failure, Reason};
use serde_json::{Value, json};

use super::unsent::{Told as _, Unmet, said};
use crate::port::{Backend, Receipt};
use crate::{CloudError, Resilient};

/// How soon what is under way is looked at again.
pub(super) const LOOK: Duration = Duration::from_millis(500);

type Call<P> = Box<dyn Fn(Resilient<P>, At) -> BoxFuture<'static, Result<Receipt, Unmet>> + Send + Sync>;

/// See the module. Its output is the [`Made`] of what it made.
pub(super) struct Effect<P> {
    name: &'static str,
    port: Resilient<P>,
    act: Call<P>,
    undo: Option<Call<P>>,
}

/// What a step says of the effect it had, for those after it.
pub(super) struct Made {
    /// As the backend calls what was made; 0 for what leaves nothing behind.
    pub(super) id: u64,
    /// The step as the backend knows it.
    pub(super) step: String,
}

impl Made {
    /// What the step of that name made.
    ///
    /// # Errors
    /// Terminal(Corrupt), when it did not say.
    pub(super) fn by(step: &str, at: &At) -> Result<Self, Failure> {
        let output = at.outputs.get(step).unwrap_or(&Value::Null);
        let made = output["id"].as_u64().zip(output["step"].as_str());
        let (id, step) = made.ok_or_else(|| {
            Failure::new(Class::Terminal(Reason::Corrupt), format!("step {step} does not say what it made"))
        })?;
        Ok(Self { id, step: step.to_owned() })
    }

    fn told(receipt: &Receipt) -> Value {
        json!({ "id": receipt.resource.as_ref().map_or(0, |there| there.id), "step": receipt.step })
    }
}

impl<P: Backend> Effect<P> {
    /// `act` has the effect; `name` tells the step.
    pub(super) fn new<F>(
        name: &'static str,
        port: &Resilient<P>,
        act: impl Fn(Resilient<P>, At) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Receipt, Unmet>> + Send + 'static,
    {
        Self { name, port: port.clone(), act: Box::new(move |port, at| act(port, at).boxed()), undo: None }
    }

    /// `undo` takes it back, or sees to it that it is not done any more.
    pub(super) fn undone_by<F>(mut self, undo: impl Fn(Resilient<P>, EffectKey) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Receipt, CloudError>> + Send + 'static,
    {
        let doing = format!("take {} back", self.name);
        self.undo = Some(Box::new(move |port, at| {
            let (call, doing) = (undo(port, at.key), doing.clone());
            async move { call.await.told(doing) }.boxed()
        }));
        self
    }

    /// As a step among others.
    pub(super) fn step(self) -> Box<dyn Step> {
        Box::new(self)
    }
}

impl<P: Backend> Step for Effect<P> {
    fn name(&self) -> &str {
        self.name
    }

    fn observe<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        let look = async move {
            let found = self.port.until(at.deadline).find(&at.key.operation, &at.key.step).await;
            let found = found.told("look what became of a step")?;
            Ok(found.map(|receipt| Progress::Done(Made::told(&receipt))))
        };
        look.map(|seen| said(at, seen)).boxed()
    }

    fn act<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        let call = (self.act)(self.port.until(at.deadline), at.clone());
        call.map(|done| said(at, done.map(|receipt| Progress::Done(Made::told(&receipt))))).boxed()
    }

    fn undo<'a>(&'a self, at: &'a At, _: &'a Value) -> BoxFuture<'a, Result<Progress, Failure>> {
        let Some(undo) = &self.undo else { return std::future::ready(Ok(Progress::DONE)).boxed() };
        let call = undo(self.port.until(at.deadline), at.clone());
        call.map(|done| said(at, done.map(|_| Progress::DONE))).boxed()
    }
}
