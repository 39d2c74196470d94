//! Labels, annotations and finalizers that are part of the protocol between controllers, API server and node agent.

/// Label on a Pod: the session that it runs.
pub const SESSION: &str = "mainstay.dev/session";
/// Label on everything of a project: its name.
pub const PROJECT: &str = "mainstay.dev/project";
/// Annotation on a Pod: uid of its session.
pub const SESSION_UID: &str = "mainstay.dev/session-uid";
/// Annotation on a Pod: number of the session's run.
pub const RUN: &str = "mainstay.dev/run";
/// Annotation on a Pod: how the supervisor talks to the agent process (`exec`, `stream-json`).
pub const ADAPTOR: &str = "mainstay.dev/adaptor";
/// Annotation on a Pod: its workspace outlives it, under the session's uid.
pub const KEEP_WORKSPACE: &str = "mainstay.dev/keep-workspace";
/// Annotation on a Pod: it ends when its agent has nothing left to do.
pub const STOP_ON_FINISH: &str = "mainstay.dev/stop-on-finish";
/// Annotation on a Pod: a change orders the node agent to fetch a new session token.
pub const TOKEN_RENEWAL: &str = "mainstay.dev/token-renewal";
/// Annotation on a Pod (`true`): its sandbox is to be ended, with the Pod's grace period; the Pod stays, with its log.
pub const STOP: &str = "mainstay.dev/stop";
/// Annotation on a Pod: the fencing token of the control plane that created it.
pub const FENCE: &str = "mainstay.dev/fence";
/// Finalizer on a Pod: its sandbox is not yet known to be gone.
pub const NODE_FINALIZER: &str = "mainstay.dev/node";
/// Finalizer on a Project: its namespace is not yet known to be gone.
pub const PROJECT_FINALIZER: &str = "mainstay.dev/project";
/// Finalizer on a Session: its Pods are not yet known to be gone. On a Pod: its session has not yet judged how it ended.
pub const SESSION_FINALIZER: &str = "mainstay.dev/session";
/// Finalizer on an Operation: it has not ended. The server puts it on, and takes it off.
pub const OPERATION_FINALIZER: &str = "mainstay.dev/operation";
/// Extended resource: processes and threads of a sandbox.
pub const PIDS: &str = "mainstay.dev/pids";
/// The name of the node of a data directory from before nodes had names of their own.
pub const LOCAL_NODE: &str = "local";
/// The namespace of the leases of nodes.
pub const NODE_LEASES: &str = "kube-node-lease";
/// What the fence of a node begins with; then its name, `/` and its term.
pub const NODE_FENCE: &str = "nodes/";
/// The header that carries the fence of a write.
pub const FENCE_HEADER: &str = "mainstay-fence";
/// The header by which a server says which replica it is, to a node that opens a link.
pub const REPLICA_HEADER: &str = "mainstay-replica";
/// The header by which a node says which replicas it has a link to: their names, with commas.
pub const LINKED_HEADER: &str = "mainstay-linked";
/// Annotation on a Node, and on its Lease: the number of a join. On the Node that of the newest, whose certificates alone are
/// good; on the Lease that of its holder, none where it is a server's own agent.
pub const JOIN: &str = "mainstay.dev/join";
/// Annotation on a node's Lease: the data directory of its holder, by the random id that is kept in it.
pub const MACHINE: &str = "mainstay.dev/machine";
/// Annotation on a node's Lease: where that directory is, so that a copy of it is told from itself: boot and inode.
pub const PLACE: &str = "mainstay.dev/place";
/// Finalizer on a Node: its Pods are not yet given up.
pub const NODE_PODS_FINALIZER: &str = "mainstay.dev/pods";
/// Type of a Secret that lets one node join.
pub const NODE_TOKEN: &str = "mainstay.dev/node-token";
/// Reason of a Pod that ended because nobody hears of its node.
pub const NODE_LOST: &str = "NodeLost";
/// Prefix of a secret volume's `secretName` that means a Credential.
pub const CREDENTIAL_PREFIX: &str = "credential/";

/// Puts a finalizer on a new object, so that it is held from its first version on.
pub(crate) fn hold(object: &mut serde_json::Value, finalizer: &str) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    let finalizers = metadata.entry("finalizers").or_insert_with(|| serde_json::Value::Array(Vec::new()));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|name| name == finalizer)
    {
        list.push(finalizer.into());
    }
}

/// The name of the Pod that realises a run of a session.
pub fn pod_name(session: &str, run: u64) -> String {
    format!("{session}-{run}")
}
