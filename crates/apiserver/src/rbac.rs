//! What a caller may do. Everything that no rule allows is denied.

use std::fmt;
use std::sync::Arc;

use mainstay_store::{Store, StoreError};

use crate::auth::identity::{Identity, MASTERS, SERVICE_ACCOUNTS, SYSTEM_NAMESPACE};

/// What is about to be done. For a path that is no resource, only `verb` and `path` are set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or a special verb such as `bind`.
    pub verb: &'a str,
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Plural of the resource; empty when this is no resource.
    pub resource: &'a str,
    /// Subresource; empty for none.
    pub subresource: &'a str,
    /// Namespace; empty for cluster-scoped resources and for all namespaces.
    pub namespace: &'a str,
    /// Name; empty for collections.
    pub name: &'a str,
    /// The path, when this is no resource.
    pub path: &'a str,
}

/// Whether something may be done.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It may, for this reason.
    Allow(String),
    /// It may not; the reason is for the audit log and names no object that the caller may not see.
    Deny(String),
    /// It could not be found out; answer with the failure, never with success.
    Unavailable(StoreError),
}

impl Decision {
    /// Whether it may be done.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Decides; cheap to clone.
#[derive(Clone)]
pub struct Authorizer {
    store: Arc<dyn Store>,
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer")
    }
}

impl Authorizer {
    /// Decides by the roles and bindings in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Whether `who` may do `what`.
    pub async fn authorize(&self, who: &Identity, what: &Attributes<'_>) -> Decision {
        if let Some(session) = who.session() {
            return if what.resource == "sessions" && what.namespace == session.namespace && what.name == session.name {
                Decision::Allow("own session".to_owned())
            } else {
                Decision::Deny("a session's token is for that session only".to_owned())
            };
        }
        let controllers = format!("{SERVICE_ACCOUNTS}:{SYSTEM_NAMESPACE}");
        if who.is_in(MASTERS) || who.is_in(&controllers) || who.is_node() {
            return Decision::Allow(String::new());
        }
        if let Err(error) = self.store.ready() {
            return Decision::Unavailable(error);
        }
        Decision::Deny("no rule allows it".to_owned())
    }
}
