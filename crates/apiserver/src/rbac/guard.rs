//! What a verb alone does not decide: nobody grants what they do not hold, a node changes of a Pod only its own
//! finalizer, and only those above a project change its quota.
//!
//! Asked after [`Authorizer::authorize`], with the object before and after the change.

use mainstay_api::GROUP as OURS;
use serde_json::Value;

use super::index::{BindingBody, GROUP};
use super::rule::Rule;
use super::{Attributes, Authorizer, Data, Decision, node_name};
use crate::auth::identity::{Identity, MASTERS};
use crate::token::{BoundKind, TokenRequest};

/// The finalizer by which a node agent keeps a Pod until its sandbox is gone.
const NODE_FINALIZER: &str = "mainstay.dev/node";

/// A write that is about to happen.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What is written; `verb` is not looked at.
    pub what: Attributes<'a>,
    /// The object as it will be.
    pub new: &'a Value,
    /// The object as it is; `None` when it is created.
    pub old: Option<&'a Value>,
}

impl Authorizer {
    /// Whether `who` may make this change, given that the verb is allowed.
    pub async fn admit(&self, who: &Identity, change: &Change<'_>) -> Decision {
        if who.is_in(MASTERS) || !is_guarded(who, &change.what) {
            return Decision::Allow(String::new());
        }
        match self.0.current().await {
            Ok(data) => data.admit(who, change).map_or_else(Decision::Deny, |()| Decision::Allow(String::new())),
            Err(error) => Decision::Unavailable(error),
        }
    }

    /// Whether `who` may have this token issued, given that `create` on `serviceaccounts/token` is allowed.
    ///
    /// A token that speaks for a session goes to the node that runs it, and to nobody else.
    pub async fn admit_token(&self, who: &Identity, request: &TokenRequest) -> Decision {
        let bound = request.bound();
        let session = bound.filter(|bound| bound.kind == BoundKind::Session);
        if who.is_in(MASTERS) || (session.is_none() && !who.is_node()) {
            return Decision::Allow(String::new());
        }
        let Some(uid) = session.and_then(|session| session.uid.as_deref()).filter(|_| who.is_node()) else {
            let why = if who.is_node() {
                "a node agent asks for tokens bound to a session's uid only"
            } else {
                "only the node agent asks for a session's token"
            };
            return Decision::deny(why);
        };
        match self.0.current().await {
            Ok(data) if data.pods.runs(node_name(who), request.namespace(), uid) => {
                Decision::Allow("node: its Pod runs the session".to_owned())
            }
            Ok(_) => Decision::deny("no unfinished Pod of this node runs the session"),
            Err(error) => Decision::Unavailable(error),
        }
    }
}

fn is_guarded(who: &Identity, what: &Attributes<'_>) -> bool {
    match (what.group, what.resource) {
        _ if !what.subresource.is_empty() => false,
        (GROUP, _) | (OURS, "projects") => true,
        ("", "pods") => who.is_node(),
        _ => false,
    }
}

type Verdict = Result<(), String>;

impl Data {
    fn admit(&self, who: &Identity, change: &Change<'_>) -> Verdict {
        match change.what.resource {
            "roles" | "clusterroles" => self.admit_role(who, change),
            "rolebindings" | "clusterrolebindings" => self.admit_binding(who, change),
            "projects" => self.admit_project(who, change),
            "pods" => admit_pod(change),
            _ => Err("this kind of grant is not known".to_owned()),
        }
    }

    fn admit_role(&self, who: &Identity, change: &Change<'_>) -> Verdict {
        if change.old.is_some_and(|old| old["rules"] == change.new["rules"]) {
            return Ok(());
        }
        if self.may(who, &Attributes { verb: "escalate", ..change.what }) {
            return Ok(());
        }
        let rules: Option<Vec<Rule>> =
            serde_json::from_value(change.new["rules"].clone()).map_err(|error| format!("rules: {error}"))?;
        self.holds(who, change.what.namespace, &rules.unwrap_or_default())
    }

    fn admit_binding(&self, who: &Identity, change: &Change<'_>) -> Verdict {
        let same = |field: &str| change.old.is_some_and(|old| old[field] == change.new[field]);
        if same("subjects") && same("roleRef") {
            return Ok(());
        }
        let body: BindingBody = serde_json::from_value(change.new.clone())
            .map_err(|error| format!("the binding cannot be read: {error}"))?;
        let role_namespace = body.role_ref.role_namespace(change.what.namespace).ok_or("roleRef names no role")?;
        self.may_bind(who, change.what.namespace, role_namespace, &body.role_ref.name)
    }

    /// Whether a role may be given to others in a namespace (everywhere, when it is empty).
    fn may_bind(&self, who: &Identity, namespace: &str, role_namespace: &str, role: &str) -> Verdict {
        let resource = if role_namespace.is_empty() { "clusterroles" } else { "roles" };
        if self.may(
            who,
            &Attributes { verb: "bind", group: GROUP, resource, namespace, name: role, ..Attributes::default() },
        ) {
            return Ok(());
        }
        let rules = self.index.role(role_namespace, role).ok_or_else(|| format!("role \"{role}\" does not exist"))?;
        self.holds(who, namespace, rules)
    }

    fn may(&self, who: &Identity, what: &Attributes<'_>) -> bool {
        self.index.find(who, what.namespace, |held| held.rule.allows(what).then_some(())).is_some()
    }

    fn holds(&self, who: &Identity, namespace: &str, rules: &[Rule]) -> Verdict {
        let mut held = Vec::new();
        self.index.find(who, namespace, |found| {
            held.push(found.rule);
            None::<()>
        });
        match rules.iter().find(|rule| !rule.is_covered_by(&held)) {
            None => Ok(()),
            Some(rule) => {
                let rule = serde_json::to_string(rule).unwrap_or_default();
                Err(format!("user \"{}\" would grant rights that it does not hold: {rule}", who.user()))
            }
        }
    }

    /// Members get the roles `mainstay:ROLE` in the project's namespace: adding one is a grant there. In a project that
    /// is new there is nothing yet to be granted.
    fn admit_project(&self, who: &Identity, change: &Change<'_>) -> Verdict {
        let Some(old) = change.old else { return Ok(()) };
        let above = self.may(who, &Attributes { verb: "update", namespace: "", ..change.what });
        if old["spec"]["quota"] != change.new["spec"]["quota"] && !above {
            return Err("the quota of a project is changed by those who may update all projects".to_owned());
        }
        let members = |project: &Value| project["spec"]["members"].as_array().cloned().unwrap_or_default();
        let before = members(old);
        let added = members(change.new).into_iter().filter(|member| !before.contains(member));
        for member in added {
            let role = format!("mainstay:{}", member["role"].as_str().unwrap_or_default());
            self.may_bind(who, change.what.name, "", &role)?;
        }
        Ok(())
    }
}

/// A node agent may take its own finalizer off a Pod, and change nothing else outside of its status.
fn admit_pod(change: &Change<'_>) -> Verdict {
    let Some(old) = change.old else { return Err("a node agent does not create Pods".to_owned()) };
    let rest = |pod: &Value| {
        let mut pod = pod.clone();
        let finalizers = pod["metadata"]["finalizers"].take();
        if let Some(metadata) = pod["metadata"].as_object_mut() {
            for field in ["finalizers", "resourceVersion", "managedFields", "generation"] {
                metadata.remove(field);
            }
        }
        if let Some(pod) = pod.as_object_mut() {
            pod.remove("status");
        }
        let mut kept: Vec<String> = serde_json::from_value(finalizers).unwrap_or_default();
        kept.retain(|finalizer| finalizer != NODE_FINALIZER);
        (pod, kept)
    };
    if rest(old) == rest(change.new) {
        Ok(())
    } else {
        Err(format!("a node agent changes only the finalizer {NODE_FINALIZER} of a Pod"))
    }
}
