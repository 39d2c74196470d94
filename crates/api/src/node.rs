//! `Node`: a machine whose agent realises Pods. A part of the core kind, in names that `kubectl get nodes` knows.
//!
//! A node is made when its agent joins, never by the agent. Whether it is alive is told by its `Lease` of the same name, in
//! [`names::NODE_LEASES`]: the agent renews it every [`RENEW_SECONDS`], and its `leaseTransitions` is the agent's *term*.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::common::quoted;
use crate::field::FieldError;
use crate::kind::{Column, Kind, Rules, Unknown};
use crate::pod::PodCondition;
use crate::{common, names};

/// How long a node's lease lasts, in seconds; a Pod of a node that is silent for longer is lost.
pub const LEASE_SECONDS: u32 = 12;
/// How often an agent renews its lease, in seconds.
pub const RENEW_SECONDS: u32 = 3;

/// A machine that realises Pods: what of the core kind `Node` is served here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Always `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: Option<String>,
    /// Always `Node`.
    pub kind: Option<String>,
    /// Name, labels and so on.
    #[schemars(with = "Value")]
    pub metadata: ObjectMeta,
    /// What is wanted of it.
    #[serde(default)]
    pub spec: NodeSpec,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
}

/// What is wanted of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// It gets no new Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unschedulable: Option<bool>,
}

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// `Ready`: whether its agent was heard of lately. Written by the control plane.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
    /// What it runs. Written by its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_info: Option<NodeInfo>,
}

/// What a node runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// The version of Mainstay.
    #[serde(default)]
    pub kubelet_version: String,
    /// The machine's architecture.
    #[serde(default)]
    pub architecture: String,
    /// Its operating system.
    #[serde(default)]
    pub operating_system: String,
    /// The version of its kernel.
    #[serde(default)]
    pub kernel_version: String,
}

/// The row of this kind in the registry.
pub fn kind() -> Kind {
    Kind {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        categories: &[],
        namespaced: false,
        status: true,
        core: true,
        columns: COLUMNS,
        selectable: &["spec.unschedulable"],
        schema: crate::schema::of::<Node>,
        unknown: Unknown::Refuse,
        rules: Rules { check, ..Rules::NONE },
    }
}

const COLUMNS: &[Column] = &[
    Column {
        name: "Status",
        kind: "string",
        path: "status.conditions[Ready].reason",
        priority: 0,
        description: "Whether its agent was heard of lately",
    },
    Column {
        name: "Version",
        kind: "string",
        path: "status.nodeInfo.kubeletVersion",
        priority: 0,
        description: "The version of its agent",
    },
    Column {
        name: "Unschedulable",
        kind: "boolean",
        path: "spec.unschedulable",
        priority: 1,
        description: "It gets no new Pods",
    },
    Column {
        name: "Kernel",
        kind: "string",
        path: "status.nodeInfo.kernelVersion",
        priority: 1,
        description: "The version of its kernel",
    },
];

fn check(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let fault = name_fault(name).filter(|_| !name.is_empty());
    let named = fault.map(|fault| FieldError::invalid("metadata.name", quoted(name), fault));
    // Whoever set it back would let a machine in that another has followed.
    let fell = old.is_some_and(|old| join_of(new) < join_of(old));
    let path = format!("metadata.annotations[{}]", names::JOIN);
    let fell = fell.then(|| FieldError::invalid(path, join_of(new).to_string(), "must not fall"));
    named.into_iter().chain(fell).collect()
}

/// The number of the join that a Node, or a node's Lease, names; 0 for none.
pub fn join_of(object: &Value) -> u64 {
    object["metadata"]["annotations"][names::JOIN].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What is wrong with the name of a node, if anything: it is a DNS name in lower case, of at most 63 characters.
pub fn name_fault(name: &str) -> Option<&'static str> {
    if name.len() > 63 { Some("must be at most 63 characters") } else { common::name_fault(name) }
}

/// A host's name as the name of a node, if it can be one.
pub fn name_of_host(host: &str) -> Option<String> {
    let name = host.trim().to_ascii_lowercase();
    name_fault(&name).is_none().then_some(name)
}

/// What a connection that a node opened is turned round to.
pub const LINK_PROTOCOL: &str = "mainstay-node-link";

/// What the server asks of a node over its link (`POST /logs`): 200 with the bytes, 404 without such a log, 409 before the
/// sandbox has started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogRequest {
    /// Uid of the Pod.
    pub pod_uid: String,
    /// Go on as the log grows, until the sandbox ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only lines written at or after this time.
    pub since: Option<jiff::Timestamp>,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
}

/// The path over a node's link of what is run in a Pod: see [`crate::exec`].
pub const EXEC_PATH: &str = "/exec";

/// What a token that lets a node join begins with, so that scanners for leaked secrets can find one.
pub const TOKEN_PREFIX: &str = "mainstay-node_";

/// A token that lets one node join: `mainstay-node_ID.SECRET.AUTHORITY`, of which the last part is never sent.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names the Secret that it is checked by: lower-case letters and digits.
    pub id: String,
    /// What only its holder knows.
    pub secret: String,
    /// SHA-256 of the certificate of the authority that the server must show, in hex.
    pub authority: String,
}

impl JoinToken {
    /// Reads a token; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().strip_prefix(TOKEN_PREFIX)?.split('.');
        let (id, secret, authority) = (parts.next()?, parts.next()?, parts.next()?);
        let is_word =
            |text: &str| !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic());
        let ok = is_id(id) && is_word(secret) && authority.len() == 64 && parts.next().is_none();
        let hex = authority.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
        (ok && hex).then(|| Self { id: id.to_owned(), secret: secret.to_owned(), authority: authority.to_owned() })
    }

    /// The part that is shown to the server.
    pub fn bearer(&self) -> String {
        format!("{TOKEN_PREFIX}{}.{}", self.id, self.secret)
    }

    /// All of it, to be handed to the machine that is to join.
    pub fn text(&self) -> String {
        format!("{}.{}", self.bearer(), self.authority)
    }

    /// Id and secret of what was shown to the server.
    pub fn read_bearer(text: &str) -> Option<(&str, &str)> {
        text.strip_prefix(TOKEN_PREFIX)?.split_once('.').filter(|(id, _)| is_id(id))
    }

    /// The name of the Secret in `mainstay-system` by which a token with this id is checked.
    pub fn secret_name(id: &str) -> String {
        format!("node-token-{id}")
    }
}

/// It shows which token it is, and nothing of its secret.
impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn is_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The lease of a node as a fence names it: `Mainstay-Fence: nodes/NAME/TERM`.
pub fn fence(node: &str, term: u64) -> String {
    format!("{}{node}/{term}", names::NODE_FENCE)
}

/// The node and the term that a fence names.
pub fn read_fence(fence: &str) -> Option<(&str, u64)> {
    let (node, term) = fence.strip_prefix(names::NODE_FENCE)?.rsplit_once('/')?;
    Some((node, term.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hosts_name_becomes_a_nodes_where_it_can() {
        assert_eq!(name_of_host("Box-1.Example.org\n").as_deref(), Some("box-1.example.org"));
        for wrong in ["", "a_b", "-a", &"x".repeat(64)] {
            assert_eq!(name_of_host(wrong), None, "{wrong}");
        }
        assert!(!check(&json!({"metadata": {"name": "A"}}), None).is_empty());
    }

    #[test]
    fn the_number_of_joins_only_grows() {
        let node = |join: Value| json!({"metadata": {"name": "box", "annotations": {names::JOIN: join}}});
        let (none, old) = (json!({"metadata": {"name": "box"}}), node(json!("2")));
        for (new, old, good) in [
            (&node(json!("3")), &old, true),
            (&old, &old, true),
            (&node(json!("1")), &old, false),
            (&node(json!("x")), &old, false),
            (&none, &old, false),
            (&old, &none, true),
        ] {
            assert_eq!(check(new, Some(old)).is_empty(), good, "{old} became {new}");
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_does_not_show_itself() {
        let token = JoinToken { id: "ab12".to_owned(), secret: "s3Cret_-".to_owned(), authority: "0a".repeat(32) };
        assert_eq!(JoinToken::parse(&format!("{}\n", token.text())), Some(token.clone()));
        assert_eq!(JoinToken::read_bearer(&token.bearer()), Some(("ab12", "s3Cret_-")));
        assert!(!format!("{token:?}").contains("s3Cret"));
        let other = token.text();
        for wrong in [&other[1..], &other[..other.len() - 1], &format!("{other}.x"), "mainstay-node_..", "mainstay_x"] {
            assert_eq!(JoinToken::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_fence_is_read_as_it_was_written() {
        assert_eq!(read_fence(&fence("box", 7)), Some(("box", 7)));
        for wrong in ["", "nodes/box", "nodes/box/", "box/7", "nodes/box/x"] {
            assert_eq!(read_fence(wrong), None, "{wrong}");
        }
    }
}
