//! One task per Pod: observes, plans, applies, and sleeps until something concerns it.
//!
//! Invariants:
//! - One pass at a time, and never cut short: only waits are cancelled.
//! - A failed pass waits by the key's back-off, cut short only by a deletion or by the sandbox itself, never by our own
//!   write.
//! - A worker ends with its Pod, or with the process; the sandbox goes on without it.

mod apply;
mod start;

use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::failure::chain_of;
use mainstay_runtime::{Class, Classify, KeyBackoff, Reason};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Shared;
use super::error::{AgentError, While};
use super::plan::{Action, Desired, Next, Observed, plan};
use super::relay::{Heard, Relay};
use super::sandboxes::Look;
use super::status;
use super::view::View;
use crate::launch::{Isolation, SessionRef};

/// Conflicts in a row that are answered by reading and planning again at once.
const QUICK_CONFLICTS: u32 = 3;
/// One failure may be gone with the next attempt; of this many in a row the Pod tells, and again at the milestones.
const WORTH_TELLING: u32 = 2;

/// The task of one Pod.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    uid: String,
    inbox: watch::Receiver<Desired>,
    desired: Desired,
    wake: Arc<Notify>,
    heard: Arc<Heard>,
    relay: Option<Relay>,
    /// Cancelled once the sandbox has gone, for whoever follows its log.
    gone: CancellationToken,
    /// Awaits the sandbox's end.
    life: Option<DropGuard>,
    token: Token,
    /// How far this sandbox is set apart.
    isolation: Isolation,
    told_to_stop: Option<u64>,
    running_since: Option<Instant>,
    unrecorded_since: Option<Instant>,
    backoff: KeyBackoff,
    conflicts: u32,
}

/// What is known of the Pod's session token.
#[derive(Debug, Default)]
struct Token {
    /// The order that the one in place answers.
    renewed_for: Option<String>,
    /// It was found past its half-life when the sandbox was adopted.
    half_spent: bool,
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing is left of the Pod.
    Forgotten,
    /// The process is stopping, or this control plane's term is over.
    Stopped,
}

impl Worker {
    /// A worker for the Pod that `inbox` tells of; cancels `gone` when its sandbox has gone.
    pub(crate) fn new(
        shared: Arc<Shared>,
        uid: String,
        mut inbox: watch::Receiver<Desired>,
        gone: CancellationToken,
    ) -> Self {
        let wake = Arc::new(Notify::new());
        let desired = inbox.borrow_and_update().clone();
        Self {
            isolation: shared.host.isolation,
            shared,
            uid,
            inbox,
            desired,
            heard: Arc::new(Heard::new(wake.clone())),
            wake,
            relay: None,
            gone,
            life: None,
            token: Token::default(),
            told_to_stop: None,
            running_since: None,
            unrecorded_since: None,
            backoff: KeyBackoff::default(),
            conflicts: 0,
        }
    }

    /// Works until nothing is left of the Pod, or the process stops.
    pub(crate) async fn run(mut self) -> Ended {
        loop {
            if self.shared.tasks.stopping().is_cancelled() {
                return Ended::Stopped;
            }
            let goes_on = match self.pass().await {
                Ok(Next::Never) => return Ended::Forgotten,
                Ok(next) => {
                    self.backoff.reset();
                    self.conflicts = 0;
                    match next {
                        Next::After(time) => self.wait(time, false).await,
                        Next::Now | Next::Never => true,
                    }
                }
                Err(error) => self.failed(&error).await,
            };
            if !goes_on {
                return Ended::Stopped;
            }
        }
    }

    async fn pass(&mut self) -> Result<Next, AgentError> {
        if self.inbox.has_changed().unwrap_or(false) {
            self.take_inbox();
        }
        let seen = self.observe()?;
        if !matches!(seen.look, Look::Live(_) | Look::Absent) {
            // Before its end is told, so that whoever hears of it finds the workspace free.
            self.let_go();
            // Who awaits it may be let go of below before it has seen this.
            self.gone.cancel();
        }
        let plan = plan(&self.desired, &seen, self.shared.clock.now());
        for action in plan.actions {
            self.apply(action, &seen).await?;
        }
        Ok(plan.next)
    }

    fn observe(&mut self) -> Result<Observed, AgentError> {
        let shared = &self.shared;
        let look = shared.sandboxes.look(&shared.layout.run(&self.uid)).during("read the run directory")?;
        let now = Instant::now();
        self.unrecorded_since = matches!(look, Look::Unrecorded(_)).then(|| self.unrecorded_since.unwrap_or(now));
        if matches!(&look, Look::Live(Some(state)) if state.started_at.is_some()) {
            self.running_since.get_or_insert(now);
        }
        let since = |instant: Option<Instant>| instant.map_or(Duration::ZERO, |instant| now - instant);
        Ok(Observed {
            look,
            unrecorded_for: since(self.unrecorded_since),
            served: self.life.is_some() && (self.relay.is_some() || self.session().is_none()),
            heard: self.heard.accepted(),
            running_for: since(self.running_since),
            told_to_stop: self.told_to_stop,
            prepared: shared.layout.pod(&self.uid).exists() || shared.layout.workspace(&self.uid).exists(),
            token_due: self.token_due(),
        })
    }

    /// The object, if there is one.
    fn view(&self) -> Option<&View> {
        match &self.desired {
            Desired::Pod(view) => Some(view),
            Desired::Gone { .. } => None,
        }
    }

    fn session(&self) -> Option<&SessionRef> {
        self.view().and_then(|view| view.session.as_ref())
    }

    fn token_due(&self) -> bool {
        let ordered = self.view().filter(|view| view.session.is_some()).map(|view| &view.renewal);
        self.life.is_some() && ordered.is_some_and(|order| self.token.half_spent || *order != self.token.renewed_for)
    }

    /// Takes the newest object; whether it changes what a failing pass is up against.
    fn take_inbox(&mut self) -> bool {
        let newest = self.inbox.borrow_and_update().clone();
        match (&newest, &self.desired) {
            (Desired::Pod(new), Desired::Pod(known)) if new.is_no_newer_than(known) => false,
            (Desired::Pod(new), Desired::Pod(known)) => {
                let urgent = (new.deleting, new.stop) != (known.deleting, known.stop);
                self.desired = newest;
                urgent
            }
            // What a live read has shown is not forgotten.
            (Desired::Gone { .. }, Desired::Gone { .. }) | (Desired::Pod(_), Desired::Gone { confirmed: true }) => {
                false
            }
            _ => {
                self.desired = newest;
                true
            }
        }
    }

    /// Waits until there is something to do; `false` when the process stops.
    async fn wait(&mut self, time: Duration, failing: bool) -> bool {
        let deadline = Instant::now() + time;
        let stop = self.shared.tasks.stopping();
        loop {
            tokio::select! {
                () = stop.cancelled() => return false,
                () = self.wake.notified() => return true,
                () = tokio::time::sleep_until(deadline) => return true,
                changed = self.inbox.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    let urgent = self.take_inbox();
                    if urgent || !failing {
                        return true;
                    }
                }
            }
        }
    }

    /// Decides what a failure means; `false` when the worker is to end.
    async fn failed(&mut self, error: &AgentError) -> bool {
        match error.class() {
            Class::Fenced => {
                tracing::error!(pod = self.uid, error = chain_of(error), "this control plane's term is over");
                self.shared.term_over.cancel();
                return false;
            }
            Class::Conflict | Class::Terminal(Reason::NotFound) if self.conflicts < QUICK_CONFLICTS => {
                self.conflicts += 1;
                if self.refresh().await.is_ok() {
                    return true;
                }
            }
            _ => {}
        }
        let pause = self.backoff.fail(rand::random());
        let failures = self.backoff.failures();
        tracing::warn!(pod = self.uid, failures, ?pause, error = chain_of(error), "a Pod's pass failed");
        if failures == WORTH_TELLING || self.backoff.is_milestone() {
            self.report_retrying(error, failures).await;
        }
        self.wait(pause, true).await
    }

    /// Says on a Pod that does not start why not (R17).
    async fn report_retrying(&mut self, error: &AgentError, failures: u32) {
        let Some(view) = self.view().filter(|view| view.phase() == "Pending") else { return };
        let message = format!("{} (failed {failures} times, retrying)", chain_of(error));
        let status = status::waiting(view, message, self.shared.clock.now());
        if let Err(error) = self.report(&status).await {
            tracing::warn!(pod = self.uid, error = chain_of(&error), "a Pod's failure could not be written");
        }
    }
}
