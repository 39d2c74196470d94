//! Who a caller is.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The group of those who may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of everyone who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of node agents.
pub const NODES: &str = "system:nodes";
/// The group of those who hold a token that lets one node join.
pub const JOINERS: &str = "system:mainstay:joiners";
/// The group of all service accounts; with `:NAMESPACE` that of one namespace's.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// The namespace of Mainstay's own service accounts.
pub const SYSTEM_NAMESPACE: &str = "mainstay-system";
/// The extra key under which the uid of the session that a token is bound to is shown.
pub const SESSION_UID: &str = "session-uid";

/// A known caller; cheap to clone. Every identity is in [`AUTHENTICATED`]: there is no anonymous one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Arc<Who>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Who {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
    session: Option<SessionBinding>,
}

/// The session that a caller's token is bound to; such a caller may use nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionBinding {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a later session of the same name is another one.
    pub uid: String,
}

impl Identity {
    /// A user with these groups, and [`AUTHENTICATED`].
    pub fn new(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        groups.push(AUTHENTICATED.to_owned());
        groups.sort();
        groups.dedup();
        let (uid, extra) = (String::new(), BTreeMap::new());
        Self(Arc::new(Who { user: user.into(), uid, groups, extra, session: None }))
    }

    /// The administrator of the data directory.
    pub fn admin() -> Self {
        Self::new("admin", [MASTERS])
    }

    /// The node agent of a node.
    pub fn node(name: &str) -> Self {
        Self::new(format!("system:node:{name}"), [NODES])
    }

    /// Whoever holds the token with this id, which lets one node join.
    pub fn joiner(token: &str) -> Self {
        Self::new(format!("system:mainstay:joiner:{token}"), [JOINERS])
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = [SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
        Self::new(format!("system:serviceaccount:{namespace}:{name}"), groups)
    }

    /// One of Mainstay's own controllers, such as `session-controller`: see [`crate::rbac::policy::CONTROLLERS`].
    pub fn controller(name: &str) -> Self {
        Self::service_account(SYSTEM_NAMESPACE, name)
    }

    /// The same caller with the uid of the object that stands for it.
    #[must_use]
    pub fn with_uid(mut self, uid: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).uid = uid.into();
        self
    }

    /// The same caller with one more extra.
    #[must_use]
    pub fn with_extra(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).extra.entry(key.into()).or_default().push(value.into());
        self
    }

    /// The same caller, confined to one session.
    #[must_use]
    pub fn bound_to(self, session: SessionBinding) -> Self {
        let mut bound = self.with_extra(SESSION_UID, session.uid.clone());
        Arc::make_mut(&mut bound.0).session = Some(session);
        bound
    }

    /// User name.
    pub fn user(&self) -> &str {
        &self.0.user
    }

    /// Uid; empty for users that no object stands for.
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// Groups, sorted.
    pub fn groups(&self) -> &[String] {
        &self.0.groups
    }

    /// What else is known, as reviews show it.
    pub fn extra(&self) -> &BTreeMap<String, Vec<String>> {
        &self.0.extra
    }

    /// The session that this caller is confined to.
    pub fn session(&self) -> Option<&SessionBinding> {
        self.0.session.as_ref()
    }

    /// Whether the caller is in this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.0.groups.iter().any(|mine| mine == group)
    }

    /// Whether this is Mainstay itself: one of its controllers.
    pub fn is_platform(&self) -> bool {
        self.0.session.is_none() && self.is_in(&format!("{SERVICE_ACCOUNTS}:{SYSTEM_NAMESPACE}"))
    }

    /// The id of the token that lets this caller have one node join.
    pub fn joins_with(&self) -> Option<&str> {
        let token = self.0.user.strip_prefix("system:mainstay:joiner:")?;
        (self.0.session.is_none() && self.is_in(JOINERS)).then_some(token)
    }

    /// The name of the node whose agent this is.
    pub fn node_name(&self) -> Option<&str> {
        self.0.user.strip_prefix("system:node:").filter(|_| self.is_node())
    }

    /// Whether this is a node agent, and not something that merely claims the group.
    pub fn is_node(&self) -> bool {
        self.0.session.is_none() && self.0.user.starts_with("system:node:") && self.is_in(NODES)
    }
}
