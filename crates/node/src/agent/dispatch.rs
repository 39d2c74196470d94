//! From the watch on Pods to one worker per Pod.
//!
//! Invariant: every Pod of this node has exactly one worker, also after a worker panics, and no worker outlives its Pod
//! (R36). The watch only tells that something changed; workers read what they act on.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_pods};
use mainstay_runtime::KeyBackoff;
use mainstay_runtime::duty::table;
use mainstay_runtime::failure::chain_of;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::layout::is_plain;
use super::plan::Desired;
use super::view::View;
use super::worker::{Ended, Worker};
use super::{Attended, Shared, orphans};

/// Runs the agent until the process stops, or until its term is over: an agent that may order nothing any more is of no
/// use, and its end is the process's.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let pods: Api<Pod> = Api::all(shared.client.clone());
    let config = watcher::Config::default().fields(&selector(&shared));
    let mut events = watch_pods(pods, config).default_backoff().boxed();
    let mut listed = HashSet::new();
    let mut sweeps = false;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            () = shared.term_over.cancelled() => return,
            event = events.try_next() => event,
        };
        match event {
            Ok(Some(Event::Init)) => listed.clear(),
            Ok(Some(Event::InitApply(pod))) => listed.extend(shared.tell(pod)),
            Ok(Some(Event::InitDone)) => {
                shared.gone_but(&listed);
                listed.clear();
                // Pods are known now, so what is not theirs can be told.
                if !std::mem::replace(&mut sweeps, true) {
                    let shared = shared.clone();
                    shared.duties.clone().start(&table::ORPHANS, move |tick| orphans::sweep(shared.clone(), tick));
                }
            }
            Ok(Some(Event::Apply(pod))) => drop(shared.tell(pod)),
            Ok(Some(Event::Delete(pod))) => {
                if let Some(uid) = pod.metadata.uid {
                    shared.gone(&uid);
                }
            }
            Ok(None) => return,
            Err(error) => tracing::warn!(error = chain_of(&error), "the watch on Pods failed and is tried again"),
        }
    }
}

/// Pods of this node.
pub(super) fn selector(shared: &Shared) -> String {
    format!("spec.nodeName={}", shared.term.node)
}

impl Shared {
    /// Tells a Pod's worker of its newest object; returns its uid.
    fn tell(self: &Arc<Self>, pod: Pod) -> Option<String> {
        let view = View::new(pod).filter(|view| is_plain(&view.pod.uid))?;
        let uid = view.pod.uid.clone();
        self.set(&uid, Desired::Pod(Box::new(view)));
        Some(uid)
    }

    /// Tells a Pod's worker that its object has gone.
    fn gone(self: &Arc<Self>, uid: &str) {
        if let Some(attended) = self.workers().get(uid) {
            attended.inbox.send_replace(Desired::Gone { confirmed: false });
        }
    }

    /// Tells all workers but these.
    fn gone_but(self: &Arc<Self>, listed: &HashSet<String>) {
        let missing: Vec<String> = self.workers().keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in &missing {
            self.gone(uid);
        }
    }

    /// Gives a Pod's worker, an old or a new one, what it should make true.
    pub(super) fn set(self: &Arc<Self>, uid: &str, desired: Desired) {
        let mut workers = self.workers();
        if let Some(attended) = workers.get(uid) {
            attended.inbox.send_replace(desired);
            return;
        }
        let (sender, inbox) = watch::channel(desired);
        let gone = CancellationToken::new();
        workers.insert(uid.to_owned(), Attended { inbox: sender, gone: gone.clone() });
        drop(workers);
        self.tasks.spawn("pod", attend(self.clone(), uid.to_owned(), inbox, gone));
    }
}

/// Keeps a worker going: a panic is one Pod's failure and no more.
async fn attend(shared: Arc<Shared>, uid: String, inbox: watch::Receiver<Desired>, gone: CancellationToken) {
    let mut backoff = KeyBackoff::default();
    loop {
        let worker = Worker::new(shared.clone(), uid.clone(), inbox.clone(), gone.clone());
        match shared.tasks.spawn("pod worker", worker.run()).await {
            Ok(Ended::Stopped) => return,
            Ok(Ended::Forgotten) => break,
            Err(error) => {
                let pause = backoff.fail(rand::random());
                tracing::error!(pod = uid, %error, ?pause, "a Pod's worker failed and is started again");
                let stop = shared.tasks.stopping();
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
            }
        }
    }
    shared.workers().remove(&uid);
}
