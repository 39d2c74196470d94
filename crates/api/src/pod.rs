//! `Pod`: one sandbox. A part of the core kind: every field that is accepted is enforced, every other is refused by name.

mod check;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kind::{Column, Kind, Rules, Unknown};

/// A sandbox: what of the core kind `Pod` is served here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Always `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: Option<String>,
    /// Always `Pod`.
    pub kind: Option<String>,
    /// Name, labels and so on.
    #[schemars(with = "Value")]
    pub metadata: ObjectMeta,
    /// What is to run; cannot be changed.
    pub spec: PodSpec,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PodStatus>,
}

/// What a sandbox is to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node that realises it; the first one that is ready, with the fewest Pods, when nobody says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Always `Never`: what has run is never run again.
    #[serde(default = "never")]
    pub restart_policy: String,
    /// Time between SIGTERM and SIGKILL, in seconds.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 0, max = 3_600))]
    pub termination_grace_period_seconds: u64,
    /// Longest life of the sandbox, in seconds; enforced by its shim even while the control plane is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub active_deadline_seconds: Option<u64>,
    /// Exactly one.
    #[schemars(length(min = 1, max = 1))]
    pub containers: Vec<Container>,
    /// Where its files come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 70))]
    pub volumes: Vec<Volume>,
}

fn never() -> String {
    "Never".to_owned()
}
const fn default_grace() -> u64 {
    10
}

/// The process of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name, for `kubectl logs -c`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Absent or `host`: the programs of this machine, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The program, with leading arguments.
    #[schemars(length(min = 1, max = 256))]
    pub command: Vec<String>,
    /// More arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// Environment of the process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub env: Vec<PodEnv>,
    /// Where it starts; `/workspace` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Its limits.
    #[serde(default)]
    pub resources: PodResources,
    /// Where volumes appear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 70))]
    pub volume_mounts: Vec<VolumeMount>,
}

/// One environment variable of a sandbox's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodEnv {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Value taken from a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvSource>,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvSource {
    /// A key of a Secret, or of a Credential (name `credential/NAME`).
    pub secret_key_ref: SecretKey,
}

/// A key of a Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret, or `credential/NAME`.
    pub name: String,
    /// Its key.
    pub key: String,
}

/// Limits of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodResources {
    /// `cpu`, `memory`, `mainstay.dev/pids`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// A source of files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name, for volumeMounts.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The workspace: an empty directory of a limited size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    /// Files that exist in memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolume>,
    /// Read-only files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolume>,
}

/// An empty directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDir {
    /// Its size, a real limit; 1Gi when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<String>,
}

/// Files of a Secret or Credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretVolume {
    /// Name of the Secret, or `credential/NAME`.
    pub secret_name: String,
    /// Permission bits of the files; 0400 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 511))]
    pub default_mode: Option<u32>,
}

/// Files of a ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapVolume {
    /// Name of the ConfigMap.
    pub name: String,
}

/// Where a volume appears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// Name of the volume.
    pub name: String,
    /// Absolute path: `/workspace` for the workspace, below `/mainstay` for files.
    pub mount_path: String,
    /// Files are always read-only; a workspace is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
}

/// What is known of a sandbox; written by the node agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in words: the root cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the node agent took it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// `Isolated`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
    /// The state of its one process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Value>")]
    pub container_statuses: Vec<k8s_openapi::api::core::v1::ContainerStatus>,
}

/// A condition of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCondition {
    /// Which.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

/// The row of this kind in the registry.
pub fn kind() -> Kind {
    Kind {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
        status: true,
        core: true,
        columns: COLUMNS,
        selectable: &["spec.nodeName", "status.phase"],
        schema: crate::schema::of::<Pod>,
        unknown: Unknown::Refuse,
        rules: Rules { on_create, check: check::check, ..Rules::NONE },
    }
}

const COLUMNS: &[Column] = &[
    Column {
        name: "Ready",
        kind: "string",
        path: "status.conditions[Ready].status",
        priority: 0,
        description: "Its agent is at work",
    },
    Column {
        name: "Status",
        kind: "string",
        path: "status.phase",
        priority: 0,
        description: "Where it is in its life",
    },
    Column { name: "Reason", kind: "string", path: "status.reason", priority: 0, description: "Why" },
    Column {
        name: "Isolated",
        kind: "string",
        path: "status.conditions[Isolated].status",
        priority: 1,
        description: "Set apart from the host",
    },
    Column {
        name: "Node",
        kind: "string",
        path: "spec.nodeName",
        priority: 1,
        description: "The node that realises it",
    },
];

fn on_create(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), json!({ "phase": "Pending" }));
    }
}
