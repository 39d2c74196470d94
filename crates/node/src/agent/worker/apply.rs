//! The effects of a plan, one each.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use mainstay_api::names::NODE_FINALIZER;
use mainstay_runtime::client::bounded;
use mainstay_runtime::fault::{Point, again, hit};
use serde_json::json;

use super::{
    Action, AgentError, Class, Classify, Desired, Look, Observed, Relay, Token, View, While, Worker, chain_of, status,
};
use crate::agent::layout::{Keep, read_record, remove_dir};
use crate::agent::orphans;
use crate::agent::records::PodRecord;
use crate::agent::relay::{Door, Subject};
use crate::agent::token::Claims;
use crate::launch::{Order, SessionRef, Verb};
use crate::sandbox::TOKEN;

/// Where a test can cut in before an action and after it; an action that only reads has none.
const fn points(action: &Action) -> Option<(Point, Point)> {
    Some(match action {
        Action::Confirm => return None,
        Action::Claim => (Point::NodeBeforeClaim, Point::NodeAfterClaim),
        Action::Start => (Point::NodeBeforeStart, Point::NodeAfterStart),
        Action::Serve => (Point::NodeBeforeServe, Point::NodeAfterServe),
        Action::Stop(_) => (Point::NodeBeforeStop, Point::NodeAfterStop),
        Action::Report(_) => (Point::NodeBeforeReport, Point::NodeAfterReport),
        Action::RenewToken => (Point::NodeBeforeRenew, Point::NodeAfterRenew),
        Action::Release => (Point::NodeBeforeRelease, Point::NodeAfterRelease),
        Action::CleanUp => (Point::NodeBeforeCleanup, Point::NodeAfterCleanup),
        Action::Unclaim => (Point::NodeBeforeUnclaim, Point::NodeAfterUnclaim),
    })
}

impl Worker {
    pub(super) async fn apply(&mut self, action: Action, seen: &Observed) -> Result<(), AgentError> {
        let Some((before, after)) = points(&action) else { return self.carry_out(&action, seen).await };
        hit(before)?;
        self.carry_out(&action, seen).await?;
        while again(after)? {
            self.carry_out(&action, seen).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, action: &Action, seen: &Observed) -> Result<(), AgentError> {
        match action {
            Action::Confirm => self.refresh().await,
            Action::Claim => self.set_finalizer(true).await,
            Action::Start => self.start().await,
            Action::Serve => self.serve(seen).await,
            Action::Stop(grace) => self.stop(*grace).await,
            Action::Report(status) => self.report(status).await,
            Action::RenewToken => self.renew_token().await,
            Action::Release => self.release(seen).await,
            Action::CleanUp => self.clean_up(seen).await,
            Action::Unclaim => self.set_finalizer(false).await,
        }
    }

    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.shared.client.clone(), namespace)
    }

    fn adopt_answer(&mut self, object: Pod) {
        if let Some(view) = View::new(object) {
            self.desired = Desired::Pod(Box::new(view));
        }
    }

    /// Reads the object live.
    pub(super) async fn refresh(&mut self) -> Result<(), AgentError> {
        let known = match self.view().map(|view| view.pod.clone()) {
            Some(pod) => Some(pod),
            None => self.shared.known_as(&self.uid)?,
        };
        // Without any record of its name there is no object of ours that it could belong to.
        let Some(pod) = known else {
            self.desired = Desired::Gone { confirmed: true };
            return Ok(());
        };
        let found = bounded(self.api(&pod.namespace).get_opt(&pod.name)).await.during("read the Pod")?;
        match found.and_then(View::new).filter(|found| found.pod.uid == self.uid) {
            Some(found) => self.desired = Desired::Pod(Box::new(found)),
            None => self.desired = Desired::Gone { confirmed: true },
        }
        Ok(())
    }

    pub(super) async fn report(&mut self, status: &PodStatus) -> Result<(), AgentError> {
        let Some(view) = self.view() else { return Ok(()) };
        let Some(patch) = status::patch(view, status) else { return Ok(()) };
        let api = self.api(&view.pod.namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let written = api.patch_status(&view.pod.name, &params, &patch);
        let written = bounded(written).await.during("write the Pod's status")?;
        self.adopt_answer(written);
        Ok(())
    }

    async fn set_finalizer(&mut self, wanted: bool) -> Result<(), AgentError> {
        let Some(view) = self.view().filter(|view| view.claimed != wanted) else { return Ok(()) };
        let held = view.object.metadata.finalizers.iter().flatten();
        let mut finalizers: Vec<String> = held.filter(|held| *held != NODE_FINALIZER).cloned().collect();
        if wanted {
            finalizers.push(NODE_FINALIZER.to_owned());
        }
        let metadata = json!({ "uid": view.pod.uid, "resourceVersion": view.version, "finalizers": finalizers });
        let (params, patch) = (PatchParams::default(), Patch::Merge(json!({ "metadata": metadata })));
        let api = self.api(&view.pod.namespace);
        let written = api.patch(&view.pod.name, &params, &patch);
        let written = bounded(written).await.during("write the Pod's finalizers")?;
        self.adopt_answer(written);
        Ok(())
    }

    /// Serves a live sandbox, started here or adopted.
    async fn serve(&mut self, seen: &Observed) -> Result<(), AgentError> {
        self.adopt_records(seen)?;
        self.await_end()?;
        if let Some(session) = self.session().cloned() {
            self.open_relay(&session)?;
        }
        // Every order carries the fence; this one only makes it known at once. A shim on its way out need not answer.
        if let Err(error) = self.order(Verb::Fence).await {
            if error.class() == Class::Fenced {
                return Err(error);
            }
            tracing::debug!(pod = self.uid, error = chain_of(&error), "a shim was not told the fence");
        }
        Ok(())
    }

    /// Takes over what an earlier agent has written down, if it was not this one.
    fn adopt_records(&mut self, seen: &Observed) -> Result<(), AgentError> {
        if let Look::Live(Some(state)) = &seen.look {
            // An earlier agent may have been told otherwise than this one.
            self.isolation = state.isolation.asked;
        }
        let layout = &self.shared.layout;
        let record: Option<PodRecord> = read_record(&layout.record(&self.uid)).during("read the Pod's record")?;
        if let Some(record) = record {
            self.shared.ranges.adopt(&record.workspace_key, &self.uid, record.uid_base);
            self.token.renewed_for = record.renewal;
        } else if let Look::Live(Some(state)) = &seen.look {
            self.shared.ranges.adopt(&self.uid, &self.uid, state.uid_base);
        }
        let token = std::fs::read_to_string(layout.token(&self.uid).join(TOKEN)).unwrap_or_default();
        let now = self.shared.clock.now().as_second();
        self.token.half_spent = Claims::read(&token).is_none_or(|claims| claims.is_half_spent(now));
        Ok(())
    }

    /// Wakes this worker when the run directory changes, and when the sandbox has gone.
    pub(super) fn await_end(&mut self) -> Result<(), AgentError> {
        if self.life.is_some() {
            return Ok(());
        }
        let dir = self.shared.layout.run(&self.uid);
        let mut watch = self.shared.notices.watch(&dir).during("watch the run directory")?;
        let mut end = self.shared.sandboxes.gone(dir);
        let gone = self.gone.clone();
        let stop = self.shared.tasks.stopping();
        self.life = Some(stop.clone().drop_guard());
        let wake = self.wake.clone();
        self.shared.tasks.spawn("sandbox", async move {
            loop {
                let ended = tokio::select! {
                    () = stop.cancelled() => return,
                    () = &mut end => true,
                    () = watch.changed() => false,
                };
                if ended {
                    gone.cancel();
                }
                wake.notify_one();
                if ended {
                    return;
                }
            }
        });
        // What was written before the watch began.
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn open_relay(&mut self, session: &SessionRef) -> Result<(), AgentError> {
        let Some(view) = self.view() else { return Ok(()) };
        if self.relay.is_some() {
            return Ok(());
        }
        let shared = &self.shared;
        let (uids, owner) = shared.uids_of(&self.uid, self.isolation);
        let subject = Subject::new(&view.pod, session);
        let door = Door { subject, uids, owner, heard: self.heard.clone() };
        let relay = Relay::open(&shared.layout.sock(&self.uid), door, shared.api.clone(), &shared.tasks);
        self.relay = Some(relay.during("open the relay")?);
        Ok(())
    }

    async fn stop(&mut self, grace_seconds: u64) -> Result<(), AgentError> {
        self.order(Verb::Stop { grace_seconds }).await?;
        let told = self.told_to_stop.map_or(grace_seconds, |told| told.min(grace_seconds));
        self.told_to_stop = Some(told);
        Ok(())
    }

    async fn order(&self, verb: Verb) -> Result<(), AgentError> {
        let order = Order { fence: self.shared.term.number, verb };
        let (sandboxes, dir) = (self.shared.sandboxes.clone(), self.shared.layout.run(&self.uid));
        let answer = self.shared.blocking(move || sandboxes.send(&dir, &order)).await?.during("order the shim")?;
        if answer.accepted { Ok(()) } else { Err(AgentError::Fenced(answer.message)) }
    }

    async fn renew_token(&mut self) -> Result<(), AgentError> {
        let Some(view) = self.view().cloned() else { return Ok(()) };
        let Some(session) = &view.session else { return Ok(()) };
        let token = crate::agent::token::fetch(&self.shared.client, &view.pod.namespace, session).await?;
        self.put_token(&token)?;
        let path = self.shared.layout.record(&self.uid);
        if let Some(record) = read_record::<PodRecord>(&path).during("read the Pod's record")? {
            PodRecord { renewal: view.renewal.clone(), ..record }.write(&path)?;
        }
        self.token = Token { renewed_for: view.renewal, half_spent: false };
        Ok(())
    }

    /// Puts a token in place for the sandbox, and for nobody else.
    pub(super) fn put_token(&self, token: &str) -> Result<(), AgentError> {
        let path = self.shared.layout.token(&self.uid).join(TOKEN);
        let (_, owner) = self.shared.uids_of(&self.uid, self.isolation);
        hit(Point::NodeBeforeToken)?;
        let put = crate::agent::layout::replace(&path, token.as_bytes(), 0o400, owner, Keep::ThisBoot);
        put.during("write the session token")?;
        Ok(hit(Point::NodeAfterToken)?)
    }

    /// The sandbox no longer runs: its workspace may be another run's.
    pub(super) fn let_go(&self) {
        self.shared.ranges.let_go(&self.uid);
    }

    /// Removes everything but the run directory, whose log may still be read.
    async fn release(&mut self, seen: &Observed) -> Result<(), AgentError> {
        (self.relay, self.life) = (None, None);
        match &seen.look {
            Look::Unrecorded(state) => {
                self.sweep(state.as_ref().map_or_else(Vec::new, |state| state.cgroups.clone())).await?;
            }
            // A shim removes them itself, unless it is killed between its record and that.
            Look::Ended(_, Some(state)) if state.cgroups.iter().any(|cgroup| cgroup.exists()) => {
                self.sweep(state.cgroups.clone()).await?;
            }
            Look::Absent | Look::Live(_) | Look::Ended(..) => {}
        }
        let layout = &self.shared.layout;
        remove_dir(&layout.pod(&self.uid)).during("remove socket and token")?;
        // The workspace of a Pod that keeps it is not under the Pod's uid.
        remove_dir(&layout.workspace(&self.uid)).during("remove the workspace")?;
        self.shared.ranges.let_go(&self.uid);
        self.shared.ranges.forget(&self.uid);
        Ok(())
    }

    /// Removes the cgroups of a lost sandbox: those that its shim noted, and those that it had no time to note.
    async fn sweep(&self, mut cgroups: Vec<PathBuf>) -> Result<(), AgentError> {
        hit(Point::NodeBeforeSweep)?;
        let (shared, uid) = (self.shared.clone(), self.uid.clone());
        let swept = self.shared.blocking(move || {
            let found = shared.sandboxes.left_over(&shared.instance);
            cgroups.extend(found.into_iter().filter(|(pod, _)| *pod == uid).map(|(_, cgroup)| cgroup));
            shared.sandboxes.sweep(&shared.instance, &cgroups)
        });
        swept.await?.during("remove a lost sandbox's cgroups")?;
        Ok(hit(Point::NodeAfterSweep)?)
    }

    async fn clean_up(&mut self, seen: &Observed) -> Result<(), AgentError> {
        self.release(seen).await?;
        if let Some((view, session)) = self.view().and_then(|view| Some((view, view.session.as_ref()?)))
            && view.keep
        {
            orphans::end_kept(&self.shared, &session.uid, &view.pod.namespace, session).await?;
        }
        let dir = self.shared.layout.run(&self.uid);
        self.shared.blocking(move || remove_dir(&dir)).await?.during("remove the run directory")
    }
}
