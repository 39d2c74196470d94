//! What the Pods of a node need, so that a node agent gets that, itself and its lease, and nothing else.
//!
//! But for sessions: a node keeps workspaces of sessions that have no Pod, and has to see when one of them is gone. It
//! may read by name those that ran on it last, which is looked at when the session is (`crate::node`), and list none.
//!
//! Kept like the roles: one object at a time. A finished Pod needs nothing.

use std::collections::HashMap;
use std::sync::Arc;

use mainstay_api::GROUP as OURS;
use mainstay_api::names::NODE_LEASES;
use mainstay_store::Object;
use serde::Deserialize;

use super::Attributes;

pub(super) const PODS: &str = "/pods";
/// A volume's `secretName` that begins so means a Credential.
const CREDENTIAL_PREFIX: &str = "credential/";
const SESSION_UID: &str = "mainstay.dev/session-uid";

/// What a Pod may refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Secret,
    ConfigMap,
    Credential,
}

type Reference = (Kind, Arc<str>);

/// The Pods, and what they refer to.
#[derive(Debug, Default)]
pub(super) struct Pods {
    /// By namespace.
    namespaces: HashMap<Arc<str>, HashMap<Arc<str>, Pod>>,
    /// How many unfinished Pods of a node refer to it; by namespace, node and reference.
    uses: HashMap<(Arc<str>, Arc<str>, Reference), usize>,
}

#[derive(Debug)]
struct Pod {
    node: Arc<str>,
    session_uid: Option<String>,
    finished: bool,
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    volumes: Vec<Volume>,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    value_from: Option<VariableSource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VariableSource {
    secret_key_ref: Option<SecretKey>,
}

#[derive(Deserialize)]
struct SecretKey {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    secret: Option<SecretSource>,
    config_map: Option<ConfigMapSource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretSource {
    #[serde(default)]
    secret_name: String,
}

#[derive(Deserialize)]
struct ConfigMapSource {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
}

impl Pods {
    pub(super) fn put(&mut self, object: &Object) {
        self.remove(object);
        let Ok(body) = serde_json::from_slice::<Body>(&object.body) else { return };
        let pod = Pod::read(body);
        let namespace = &object.key.namespace;
        for reference in &pod.references {
            *self.uses.entry((Arc::clone(namespace), Arc::clone(&pod.node), reference.clone())).or_default() += 1;
        }
        self.namespaces.entry(Arc::clone(namespace)).or_default().insert(Arc::clone(&object.key.name), pod);
    }

    pub(super) fn remove(&mut self, object: &Object) {
        let namespace = &object.key.namespace;
        let Some(pods) = self.namespaces.get_mut(namespace) else { return };
        let Some(pod) = pods.remove(&object.key.name) else { return };
        if pods.is_empty() {
            self.namespaces.remove(namespace);
        }
        for reference in pod.references {
            let key = (Arc::clone(namespace), Arc::clone(&pod.node), reference);
            if let Some(count) = self.uses.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.uses.remove(&key);
                }
            }
        }
    }

    /// Whether the agent of `node` may do this; `Err` says why not.
    pub(super) fn allows(&self, node: &str, what: &Attributes<'_>) -> Result<(), &'static str> {
        let used = |kind| {
            let key = (what.namespace.into(), node.into(), (kind, what.name.into()));
            if self.uses.contains_key(&key) { Ok(()) } else { Err("no unfinished Pod of this node refers to it") }
        };
        let own = |it: bool| if it { Ok(()) } else { Err("it is another node's") };
        match (what.group, what.resource, what.subresource, what.verb) {
            (OURS, "sessions", "", "get") | (OURS, "nodecertificates", "", "create") => Ok(()),
            ("", "nodes", "" | "link", "get") | ("", "nodes", "status", "get" | "update" | "patch") => {
                own(what.name == node)
            }
            ("coordination.k8s.io", "leases", "", "get" | "update" | "patch") => {
                own(what.namespace == NODE_LEASES && what.name == node)
            }
            ("", "pods", "", "list" | "watch") if what.node == node => Ok(()),
            ("", "pods", "", "list" | "watch") => Err("a node agent sees the Pods of its node only"),
            ("", "pods", "" | "status", "get" | "update" | "patch") => {
                match self.namespaces.get(what.namespace).and_then(|pods| pods.get(what.name)) {
                    Some(pod) if *pod.node != *node => Err("the Pod is another node's"),
                    _ => Ok(()),
                }
            }
            ("", "secrets", "", "get") => used(Kind::Secret),
            ("", "configmaps", "", "get") => used(Kind::ConfigMap),
            (OURS, "credentials", "reveal", "get") => used(Kind::Credential),
            // For which session is judged when the body is read.
            ("", "serviceaccounts", "token", "create") => {
                let pods = self.namespaces.get(what.namespace).into_iter().flat_map(HashMap::values);
                let mut mine = pods.filter(|pod| *pod.node == *node && !pod.finished);
                mine.next().map(drop).ok_or("no unfinished Pod of this node is in the namespace")
            }
            _ => Err("a node agent does not do this"),
        }
    }

    /// Whether an unfinished Pod of this node runs the session with this uid.
    pub(super) fn runs(&self, node: &str, namespace: &str, session_uid: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|pods| {
            pods.values()
                .any(|pod| !pod.finished && *pod.node == *node && pod.session_uid.as_deref() == Some(session_uid))
        })
    }
}

fn secret_or_credential(name: &str) -> Reference {
    match name.strip_prefix(CREDENTIAL_PREFIX) {
        Some(credential) => (Kind::Credential, credential.into()),
        None => (Kind::Secret, name.into()),
    }
}

impl Pod {
    fn read(mut body: Body) -> Self {
        let finished = matches!(body.status.phase.as_str(), "Succeeded" | "Failed");
        let mut references = Vec::new();
        if !finished {
            let variables = body.spec.containers.iter().flat_map(|container| &container.env);
            let sources = variables.filter_map(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref());
            references.extend(sources.map(|key| secret_or_credential(&key.name)));
            for volume in body.spec.volumes {
                if let Some(secret) = volume.secret {
                    references.push(secret_or_credential(&secret.secret_name));
                }
                if let Some(config) = volume.config_map {
                    references.push((Kind::ConfigMap, config.name.as_str().into()));
                }
            }
        }
        let session_uid = body.metadata.annotations.remove(SESSION_UID);
        Self { node: body.spec.node_name.into(), session_uid, finished, references }
    }
}
