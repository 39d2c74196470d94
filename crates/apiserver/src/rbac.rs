//! What a caller may do: roles and bindings, sessions confined to themselves, nodes to what their Pods need.
//!
//! Everything that no rule allows is denied. A binding that was acknowledged counts for the next request; so does
//! its removal. [`policy`] holds the roles that a new data directory gets, [`guard`] what a caller may grant or
//! change beyond the question of verbs.

use std::fmt;
use std::sync::Arc;

use mainstay_store::{Store, StoreError};

use crate::auth::identity::{Identity, MASTERS, SessionBinding};

mod bootstrap;
mod feed;
pub mod guard;
mod index;
mod node;
pub mod policy;
pub mod rule;

#[cfg(test)]
mod tests;

pub use bootstrap::{BootstrapError, LABEL as BOOTSTRAP_LABEL, bootstrap};
pub use rule::Rule;

use feed::{Data, Feed};

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
    /// The node to whose Pods a list or watch is confined; empty for none. Reviews do not ask about it.
    pub node: &'a str,
    /// The path, when this is no resource.
    pub path: &'a str,
}

impl<'a> Attributes<'a> {
    /// A Namespace and a Project are judged as if they lived in the namespace of their name, so that a binding there
    /// can give rights on them.
    fn scope(&self) -> &'a str {
        match (self.group, self.resource) {
            ("", "namespaces") | (mainstay_api::GROUP, "projects") => self.name,
            _ => self.namespace,
        }
    }
}

/// Whether something may be done.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It may, for this reason.
    Allow(String),
    /// It may not; the reason may be shown to the caller.
    Deny(String),
    /// It could not be found out; answer with the failure, never with success.
    Unavailable(StoreError),
}

impl Decision {
    /// Whether it may be done.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    fn deny(why: impl Into<String>) -> Self {
        Self::Deny(why.into())
    }
}

/// The rules that a caller holds, for SelfSubjectRulesReview.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldRules {
    /// In a stable order, each once.
    pub rules: Vec<Rule>,
    /// The caller has rights that no rule can say.
    pub incomplete: bool,
}

/// Decides; cheap to clone.
#[derive(Clone)]
pub struct Authorizer(Arc<Feed>);

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer")
    }
}

impl Authorizer {
    /// Decides by the roles and bindings in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(Arc::new(Feed::new(store)))
    }

    /// Whether decisions can be made: the roles and bindings are read when they have not been yet.
    pub(crate) async fn ready(&self) -> Result<(), StoreError> {
        self.0.current().await.map(drop)
    }

    /// Whether `who` may do `what`.
    pub async fn authorize(&self, who: &Identity, what: &Attributes<'_>) -> Decision {
        if let Some(session) = who.session() {
            return own_session(session, what);
        }
        // A Credential's token is write-only, for everyone but the node that runs a session it was granted to.
        let is_reveal = what.resource == "credentials" && what.subresource == "reveal";
        if is_reveal && !who.is_node() {
            return Decision::deny("a credential's token can be written, but not read");
        }
        if who.joins_with().is_some() {
            return joining(what);
        }
        if who.is_in(MASTERS) && !is_reveal {
            return Decision::Allow("a member of system:masters".to_owned());
        }
        match self.0.current().await {
            Ok(data) => data.decide(who, what),
            Err(error) => Decision::Unavailable(error),
        }
    }

    /// The rules that `who` holds in a namespace.
    pub async fn rules_for(&self, who: &Identity, namespace: &str) -> Result<HeldRules, StoreError> {
        if let Some(session) = who.session() {
            let rules = if session.namespace == namespace { session_rules(session) } else { Vec::new() };
            return Ok(HeldRules { rules, incomplete: false });
        }
        if who.is_in(MASTERS) {
            return Ok(HeldRules { rules: policy::everything(), incomplete: false });
        }
        let data = self.0.current().await?;
        let mut rules: Vec<Rule> = Vec::new();
        data.index.find(who, namespace, |held| {
            if !rules.contains(held.rule) {
                rules.push(held.rule.clone());
            }
            None::<()>
        });
        Ok(HeldRules { rules, incomplete: who.is_node() })
    }
}

impl Data {
    fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Decision {
        let node = who.is_node().then(|| self.pods.allows(node_name(who), what));
        if let Some(Ok(())) = node {
            return Decision::Allow("node: needed by its Pods".to_owned());
        }
        let allowed = self.index.find(who, what.scope(), |held| {
            held.rule.allows(what).then(|| {
                let (kind, place) = if held.everywhere {
                    ("ClusterRoleBinding", String::new())
                } else {
                    ("RoleBinding", format!("{}/", what.scope()))
                };
                format!("RBAC: allowed by {kind} \"{place}{}\" of role \"{}\"", held.binding, held.role)
            })
        });
        match (allowed, node) {
            (Some(reason), _) => Decision::Allow(reason),
            (None, Some(Err(why))) => Decision::deny(why),
            (None, _) => Decision::deny("no rule allows it"),
        }
    }
}

fn node_name(who: &Identity) -> &str {
    who.node_name().unwrap_or_default()
}

/// A token that lets a node join is good for its certificate, and for nothing else.
fn joining(what: &Attributes<'_>) -> Decision {
    match (what.group, what.resource, what.subresource, what.verb) {
        (mainstay_api::GROUP, "nodecertificates", "", "create") => Decision::Allow("a node's join token".to_owned()),
        _ => Decision::deny("a join token is for the certificate of one node only"),
    }
}

/// What the token of a session may do, whatever bindings say: see its own session, use its messages and heartbeat.
fn own_session(session: &SessionBinding, what: &Attributes<'_>) -> Decision {
    let own = what.group == mainstay_api::GROUP
        && what.resource == "sessions"
        && what.namespace == session.namespace
        && what.name == session.name;
    match (own, what.subresource, what.verb) {
        (true, "", "get") | (true, "messages", "get" | "create") | (true, "heartbeat", "get" | "update") => {
            Decision::Allow("the session's own token".to_owned())
        }
        _ => Decision::deny("a session's token is for that session's messages and heartbeat only"),
    }
}

fn session_rules(session: &SessionBinding) -> Vec<Rule> {
    let rule = |verbs: &[&str], resource: &str| Rule {
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        api_groups: vec![mainstay_api::GROUP.to_owned()],
        resources: vec![resource.to_owned()],
        resource_names: vec![session.name.clone()],
        ..Rule::default()
    };
    vec![
        rule(&["get"], "sessions"),
        rule(&["get", "create"], "sessions/messages"),
        rule(&["get", "update"], "sessions/heartbeat"),
    ]
}
