//! `run-task`: a task that takes a while: it is started, and then looked at until it has run.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::operation::{At, Handler, Progress, Step, Work};
use mainstay_runtime::{Class, Failure, Reason};
use serde_json::{Value, json};

use super::effect::{Effect, LOOK, Made};
use super::unsent::{Told as _, Unmet, said};
use crate::port::{Backend, Compute, Task};
use crate::{Backends, Provider, Resilient};

/// The handler's name.
pub const HANDLER: &str = "run-task";
/// What a backend calls the state of a task that still runs.
const RUNNING: &str = "running";

/// See the module. The payload is a [`Task`].
#[derive(Debug)]
pub struct RunTask<V: Provider>(Arc<Backends<V>>);

impl<V: Provider> RunTask<V> {
    /// Over these backends.
    pub const fn new(backends: Arc<Backends<V>>) -> Self {
        Self(backends)
    }
}

impl<V: Provider> Handler for RunTask<V> {
    fn name(&self) -> &'static str {
        HANDLER
    }

    fn steps(&self, work: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        let task: Arc<Task> = Arc::new(work.payload()?);
        let (started, stopped) = (Arc::clone(&work.id), Arc::clone(&work.id));
        let start = Effect::new("start", &self.0.compute, move |port, at| {
            let (name, task) = (Arc::clone(&started), Arc::clone(&task));
            async move { port.run_task(&at.key, &name, &task).await.told("start the task") }
        });
        let start = start.undone_by(move |port, key| {
            let name = Arc::clone(&stopped);
            async move { port.stop_task(&key, &name).await }
        });
        Ok(vec![start.step(), Box::new(Wait(self.0.compute.clone()))])
    }
}

/// Waits until it has run. Has no effect.
struct Wait<P>(Resilient<P>);

impl<P: Backend> Wait<P> {
    async fn look(&self, at: &At) -> Result<Progress, Unmet> {
        let step = Made::by("start", at)?.step;
        let found = self.0.until(at.deadline).find(&at.key.operation, &step).await.told("look at the task")?;
        let lost = || Failure::new(Class::Terminal(Reason::NotFound), "the backend does not know the task any more");
        let task = found.and_then(|receipt| receipt.resource).ok_or_else(lost)?;
        if task.state == RUNNING {
            return Ok(Progress::NotYet(LOOK));
        }
        Ok(Progress::Done(json!({ "id": task.id, "state": task.state })))
    }
}

impl<P: Backend> Step for Wait<P> {
    fn name(&self) -> &'static str {
        "wait"
    }

    fn observe<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn act<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        self.look(at).map(|seen| said(at, seen)).boxed()
    }

    fn undo<'a>(&'a self, _: &'a At, _: &'a Value) -> BoxFuture<'a, Result<Progress, Failure>> {
        std::future::ready(Ok(Progress::DONE)).boxed()
    }
}
