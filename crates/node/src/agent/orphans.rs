//! What no Pod accounts for: sandboxes, run directories, sockets, tokens, workspaces and cgroups of this data directory,
//! and what was killed while it made a template.
//!
//! Invariant: nothing is removed before a live read has shown that its Pod, or the Session that keeps it, is not there;
//! and nothing of another data directory is looked at.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, GroupVersionKind, ListParams};
use kube::core::ApiResource;
use mainstay_runtime::client::bounded;
use mainstay_runtime::duty::Tick;
use mainstay_runtime::fault::{Point, hit};
use mainstay_runtime::{Doing, Failure};

use super::Shared;
use super::error::{AgentError, While};
use super::layout::{is_plain, names, read_record, remove_dir};
use super::plan::Desired;
use super::ranges::Owner;
use super::sandboxes::Look;
use crate::launch::SessionRef;
use crate::sandbox::workspace;

/// Pods read at once.
const PAGE: u32 = 500;

/// A kept workspace: its key, and whose it is.
type Kept = (String, String, SessionRef);

/// Hands every orphan to a worker of its own, and removes workspaces that nobody keeps any more.
pub(super) async fn sweep(shared: Arc<Shared>, tick: Tick) -> Result<(), Failure> {
    const DOING: &str = "sweep";
    let kept = find(&shared).await.doing(DOING)?;
    tick.check()?;
    sweep_cgroups(&shared).await.doing(DOING)?;
    tick.check()?;
    let templates = shared.layout.templates();
    let tidied = shared.blocking(move || workspace::tidy_templates(&templates)).await;
    tidied.and_then(|tidied| tidied.during("remove half-made templates")).doing(DOING)?;
    // One that cannot be judged does not keep the others; the first such is the outcome.
    let mut outcome = Ok(());
    for (key, namespace, session) in kept {
        tick.check()?;
        let ended = end_kept(&shared, &key, &namespace, &session).await;
        outcome = outcome.and(ended.doing(format!("look after the kept workspace {key}")));
    }
    outcome
}

/// Tells a worker of each orphan; gives the workspaces that are kept.
async fn find(shared: &Arc<Shared>) -> Result<Vec<Kept>, AgentError> {
    let mut suspects = HashSet::new();
    for dir in [shared.layout.runs(), shared.layout.pods()] {
        suspects.extend(names(&dir).during("look for orphans")?);
    }
    let mut kept = Vec::new();
    for key in names(&shared.layout.workspaces()).during("look for orphans")? {
        match read_record::<Owner>(&shared.layout.owner(&key)).during("read a workspace's owner")? {
            Some(Owner { session: Some(session), pod, .. }) => kept.push((key, pod.namespace, session)),
            Some(Owner { session: None, .. }) | None => drop(suspects.insert(key)),
        }
    }
    // A kept workspace that is being laid out has no owner yet, but is held by its Pod.
    let is_anothers = |key: &String| shared.ranges.holder(key).is_some_and(|holder| holder != *key);
    suspects.retain(|uid| !shared.workers().contains_key(uid) && !is_anothers(uid));
    if !suspects.is_empty() {
        let living = living(shared).await?;
        for uid in suspects.iter().filter(|uid| !living.contains(*uid)) {
            tracing::info!(pod = uid, "no Pod accounts for this sandbox: removing it");
            shared.set(uid, Desired::Gone { confirmed: true });
        }
    }
    Ok(kept)
}

/// Removes a kept workspace that nobody holds once its session runs no more: when it is gone, or about to go, since then
/// it begins no other run. So a session that is seen to be gone has left no workspace, unless it had no Pod at the end:
/// then it takes until the next sweep.
pub(super) async fn end_kept(
    shared: &Shared,
    key: &str,
    namespace: &str,
    session: &SessionRef,
) -> Result<(), AgentError> {
    if shared.ranges.is_held(key) || session_goes_on(shared, namespace, session).await? {
        return Ok(());
    }
    // Whoever holds it now, a Pod that was about to begin when its session was told to go, ends it in turn.
    if shared.ranges.hold(key, key).is_err() {
        return Ok(());
    }
    tracing::info!(session = key, "removing the workspace of a session that is gone");
    let removed = remove_kept(shared, key);
    match removed {
        Ok(()) => shared.ranges.forget(key),
        Err(_) => shared.ranges.let_go(key),
    }
    removed
}

fn remove_kept(shared: &Shared, key: &str) -> Result<(), AgentError> {
    hit(Point::NodeBeforeKept)?;
    remove_dir(&shared.layout.workspace(key)).during("remove a workspace")?;
    Ok(hit(Point::NodeAfterKept)?)
}

/// Removes cgroups that no live shim answers for: a shim claims its run directory before it makes any, and removes them
/// before it gives the directory up.
async fn sweep_cgroups(shared: &Arc<Shared>) -> Result<(), AgentError> {
    let work = shared.clone();
    hit(Point::NodeBeforeSweep)?;
    let swept = shared.blocking(move || {
        let mut dead = Vec::new();
        for (uid, cgroup) in work.sandboxes.left_over(&work.instance) {
            let live = !is_plain(&uid) || matches!(work.sandboxes.look(&work.layout.run(&uid))?, Look::Live(_));
            if !live {
                tracing::info!(pod = uid, cgroup = %cgroup.display(), "removing a cgroup that no shim answers for");
                dead.push(cgroup);
            }
        }
        work.sandboxes.sweep(&work.instance, &dead)
    });
    swept.await?.during("remove cgroups that nobody answers for")?;
    Ok(hit(Point::NodeAfterSweep)?)
}

/// The uids of all Pods of this node.
async fn living(shared: &Shared) -> Result<HashSet<String>, AgentError> {
    let pods: Api<Pod> = Api::all(shared.client.clone());
    let mut uids = HashSet::new();
    let mut params = ListParams::default().fields(&super::dispatch::selector(shared)).limit(PAGE);
    loop {
        let page = bounded(pods.list(&params)).await.during("list the Pods of this node")?;
        uids.extend(page.items.into_iter().filter_map(|pod| pod.metadata.uid));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(uids),
        }
    }
}

async fn session_goes_on(shared: &Shared, namespace: &str, session: &SessionRef) -> Result<bool, AgentError> {
    let kind = GroupVersionKind::gvk(mainstay_api::GROUP, mainstay_api::VERSION, "Session");
    let kind = ApiResource::from_gvk_with_plural(&kind, "sessions");
    let sessions: Api<DynamicObject> = Api::namespaced_with(shared.client.clone(), namespace, &kind);
    let found = bounded(sessions.get_opt(&session.name)).await.during("read the session of a kept workspace")?;
    let meta = found.map(|found| found.metadata);
    Ok(meta.is_some_and(|meta| meta.uid.as_ref() == Some(&session.uid) && meta.deletion_timestamp.is_none()))
}
