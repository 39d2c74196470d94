//! The objects that every data directory has: three namespaces with their service accounts, and the built-in roles.
//!
//! Run at each start, before requests are served. What is missing is made; a role or binding of ours that was changed
//! is put back; everything else is left alone.

use std::sync::Arc;

use mainstay_api::{Kind, Registry};
use mainstay_runtime::{Class, Classify, Clock, Reason};
use mainstay_store::{Draft, Key, Object, Store, StoreError, Write};
use serde_json::{Value, json};

use super::index::GROUP;
use super::policy;
use crate::auth::identity::SYSTEM_NAMESPACE;
use crate::selector::meta_of;

/// The label of what is put here.
pub const LABEL: &str = "mainstay.dev/bootstrap";
const NAMESPACES: [&str; 3] = ["default", SYSTEM_NAMESPACE, mainstay_api::names::NODE_LEASES];
/// How often a lost race with another writer is tried again.
const ATTEMPTS: usize = 5;

/// The first objects could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The registry lacks a kind that is needed.
    #[error("the kind {0} is not in the registry")]
    Kind(&'static str),
    /// The store refused.
    #[error("cannot write {key}")]
    Store {
        /// Which object.
        key: Key,
        /// Why not.
        source: StoreError,
    },
}

impl Classify for BootstrapError {
    fn class(&self) -> Class {
        match self {
            Self::Kind(_) => Class::Terminal(Reason::Unsupported),
            Self::Store { source, .. } => source.class(),
        }
    }
}

/// Makes what is missing, and puts back what of ours was changed. Idempotent.
pub async fn bootstrap(store: &Arc<dyn Store>, registry: &Registry, clock: &Clock) -> Result<(), BootstrapError> {
    let maker = Maker { store: &**store, registry, clock };
    for namespace in NAMESPACES {
        maker.ensure(("v1", "Namespace"), "", namespace, json!({}), &[]).await?;
        maker.ensure(("v1", "ServiceAccount"), namespace, "default", json!({}), &[]).await?;
    }
    for role in policy::ROLES {
        let rules: Vec<_> = role.rows.iter().copied().flatten().map(policy::rule).collect();
        maker.role(role.name, json!(rules)).await?;
        if let Some(group) = role.group {
            let subject = json!({"apiGroup": GROUP, "kind": "Group", "name": group});
            maker.binding(role.name, subject).await?;
        }
    }
    let kinds: Vec<_> = registry.iter().map(|kind| (kind.group, kind.plural)).collect();
    for name in policy::CONTROLLERS {
        let role = format!("system:controller:{name}");
        maker.ensure(("v1", "ServiceAccount"), SYSTEM_NAMESPACE, name, json!({}), &[]).await?;
        maker.role(&role, json!(policy::controller_rules(name, &kinds))).await?;
        let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": SYSTEM_NAMESPACE});
        maker.binding(&role, subject).await?;
    }
    Ok(())
}

struct Maker<'a> {
    store: &'a dyn Store,
    registry: &'a Registry,
    clock: &'a Clock,
}

const RBAC_VERSION: &str = "rbac.authorization.k8s.io/v1";

impl Maker<'_> {
    async fn role(&self, name: &str, rules: Value) -> Result<(), BootstrapError> {
        self.ensure((RBAC_VERSION, "ClusterRole"), "", name, json!({"rules": rules}), &["rules"]).await
    }

    async fn binding(&self, name: &str, subject: Value) -> Result<(), BootstrapError> {
        let role_ref = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": name});
        let body = json!({"roleRef": role_ref, "subjects": [subject]});
        self.ensure((RBAC_VERSION, "ClusterRoleBinding"), "", name, body, &["roleRef", "subjects"]).await
    }

    /// Creates the object, or puts back the fields `ours` if they differ.
    async fn ensure(
        &self,
        (version, kind): (&str, &'static str),
        namespace: &str,
        name: &str,
        body: Value,
        ours: &[&str],
    ) -> Result<(), BootstrapError> {
        let kind = self.registry.by_kind(version, kind).ok_or(BootstrapError::Kind(kind))?;
        let key = Key::new(kind.resource(), namespace, name);
        let failed = |source| BootstrapError::Store { key: key.clone(), source };
        let mut last = StoreError::Busy;
        for _ in 0..ATTEMPTS {
            let write = match self.store.get(&key).await.map_err(failed)? {
                None => {
                    let draft = draft(kind, &self.fresh(kind, namespace, name, &body));
                    Write::Create { key: key.clone(), draft, requires: None }
                }
                Some(found) => match put_back(&found, &body, ours) {
                    None => return Ok(()),
                    Some(mended) => {
                        Write::Update { key: key.clone(), draft: draft(kind, &mended), expected: found.revision }
                    }
                },
            };
            match self.store.write(write).await {
                Ok(_) => return Ok(()),
                Err(error @ (StoreError::Exists(_) | StoreError::Conflict(_) | StoreError::Missing)) => last = error,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(last))
    }

    fn fresh(&self, kind: &Kind, namespace: &str, name: &str, body: &Value) -> Value {
        let mut object = body.clone();
        let created = jiff::Timestamp::from_second(self.clock.now().as_second()).unwrap_or_default().to_string();
        let mut metadata = json!({
            "name": name,
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": created,
            "labels": {LABEL: "defaults"},
        });
        if !namespace.is_empty() {
            metadata["namespace"] = namespace.into();
        }
        object["metadata"] = metadata;
        (kind.rules.on_create)(&mut object);
        object
    }
}

/// The stored object with our fields as they should be; `None` when they are.
fn put_back(found: &Object, body: &Value, ours: &[&str]) -> Option<Value> {
    let mut object: Value = serde_json::from_slice(&found.body).ok()?;
    if ours.iter().all(|field| object[*field] == body[*field]) {
        return None;
    }
    for field in ours {
        object[*field] = body[*field].clone();
    }
    Some(object)
}

/// The object as bytes, cut where the store puts its revision.
pub(super) fn draft(kind: &Kind, object: &Value) -> Draft {
    let head =
        format!(r#"{{"apiVersion":"{}","kind":"{}","metadata":{{"resourceVersion":""#, kind.api_version(), kind.kind);
    let mut tail = b"\"".to_vec();
    members(&mut tail, &object["metadata"], &["resourceVersion"]);
    tail.push(b'}');
    members(&mut tail, object, &["apiVersion", "kind", "metadata"]);
    tail.push(b'}');
    Draft { head: head.into(), tail: tail.into(), meta: Arc::new(meta_of(kind, object)), queued: None }
}

fn members(out: &mut Vec<u8>, object: &Value, without: &[&str]) {
    for (name, value) in object.as_object().into_iter().flatten() {
        if !without.contains(&name.as_str()) {
            out.extend_from_slice(format!(",{}:{value}", Value::from(name.as_str())).as_bytes());
        }
    }
}
