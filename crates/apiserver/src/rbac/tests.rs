//! Authorisation against a real store: rights, revocation, grants, nodes and sessions.

use mainstay_api::Registry;
use mainstay_runtime::Clock;
use mainstay_store::sqlite::{Options, SqliteStore};
use mainstay_store::{Key, Object, Write};
use serde_json::{Value, json};

use super::bootstrap::{bootstrap, draft};
use super::*;
use crate::auth::identity::NODES;

mod grants;
mod matrix;
mod nodes;
mod rules;

struct Fixture {
    store: Arc<SqliteStore>,
    registry: Registry,
    authorizer: Authorizer,
    _dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    fixture_with(|_| {}).await
}

async fn fixture_with(change: impl FnOnce(&mut Options)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    change(&mut options);
    let store = SqliteStore::open(options).unwrap();
    let registry = Registry::standard();
    bootstrap(&(Arc::clone(&store) as Arc<dyn Store>), &registry, &Clock::system()).await.unwrap();
    let authorizer = Authorizer::new(Arc::clone(&store) as Arc<dyn Store>);
    Fixture { store, registry, authorizer, _dir: dir }
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";

impl Fixture {
    async fn bootstrap(&self) {
        let store: Arc<dyn Store> = self.store.clone();
        bootstrap(&store, &self.registry, &Clock::system()).await.unwrap();
    }

    /// Creates or replaces an object.
    async fn put(&self, version: &str, kind: &str, namespace: &str, name: &str, mut body: Value) -> Arc<Object> {
        let kind = self.registry.by_kind(version, kind).unwrap();
        let key = Key::new(kind.resource(), namespace, name);
        let metadata = body.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
        metadata["name"] = name.into();
        metadata["namespace"] = namespace.into();
        let draft = draft(kind, &body);
        let write = match self.store.get(&key).await.unwrap() {
            Some(found) => Write::Update { key, draft, expected: found.revision },
            None => Write::Create { key, draft, requires: None },
        };
        self.store.write(write).await.unwrap()
    }

    async fn delete(&self, object: &Object) {
        let kind = self.registry.iter().find(|kind| kind.resource() == *object.key.resource).unwrap();
        let draft = draft(kind, &serde_json::from_slice(&object.body).unwrap());
        let found = self.store.get(&object.key).await.unwrap().unwrap();
        let write = Write::Delete { key: object.key.clone(), draft, expected: found.revision };
        self.store.write(write).await.unwrap();
    }

    /// Binds a user to a role of the cluster in a namespace, or everywhere when that is empty.
    async fn bind(&self, namespace: &str, user: &str, role: &str) -> Arc<Object> {
        let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        let name = format!("{user}-{}", role.replace(':', "-"));
        self.put(RBAC, kind, namespace, &name, binding(user, "ClusterRole", role)).await
    }

    async fn may(&self, who: &Identity, what: &str) -> bool {
        match self.authorizer.authorize(who, &attributes(what)).await {
            Decision::Unavailable(error) => panic!("{error}"),
            decision => decision.is_allowed(),
        }
    }
}

fn binding(user: &str, kind: &str, role: &str) -> Value {
    json!({
        "subjects": [{"apiGroup": index::GROUP, "kind": "User", "name": user}],
        "roleRef": {"apiGroup": index::GROUP, "kind": kind, "name": role},
    })
}

fn user(name: &str) -> Identity {
    Identity::new(name, [""; 0])
}

/// `VERB [GROUP:]RESOURCE[/SUB] [NAMESPACE[/NAME]]`, `VERB /path`; group `m` is Mainstay's, `r` that of RBAC.
fn attributes(text: &str) -> Attributes<'_> {
    let mut words = text.split(' ');
    let (verb, what, place) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
    if what.starts_with('/') {
        return Attributes { verb, path: what, ..Attributes::default() };
    }
    let (group, what) = what.split_once(':').unwrap_or(("", what));
    let group = match group {
        "m" => mainstay_api::GROUP,
        "r" => index::GROUP,
        other => other,
    };
    let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
    let (namespace, name) = place.split_once('/').unwrap_or((place, ""));
    Attributes { verb, group, resource, subresource, namespace, name, node: "", path: "" }
}

/// R49.
#[tokio::test]
async fn nobody_may_do_anything_without_a_rule_but_what_everyone_may() {
    let fixture = fixture().await;
    let nobody = user("nobody");
    for what in [
        "get pods team/a",
        "list m:sessions team",
        "create m:projects",
        "get /metrics",
        "get /",
        "* * *",
        "get m:projects /team",
    ] {
        assert!(!fixture.may(&nobody, what).await, "{what}");
    }
    for what in
        ["create authorization.k8s.io:selfsubjectaccessreviews", "get /apis", "get /apis/apps/v1", "get /openapi/v3"]
    {
        assert!(fixture.may(&nobody, what).await, "{what}");
    }
    let admin = Identity::admin();
    for what in ["delete m:projects /x", "get /metrics", "escalate r:clusterroles", "get secrets a/b"] {
        assert!(fixture.may(&admin, what).await, "{what}");
    }
    assert!(!fixture.may(&admin, "get m:credentials/reveal team/forge").await, "a credential's token is write-only");
}

/// R51: the removal of a member counts for the next request.
#[tokio::test]
async fn a_grant_and_its_removal_take_effect_at_once() {
    let fixture = fixture().await;
    let (ann, what) = (user("ann"), "create m:sessions team");
    for round in 0..100 {
        let bound = fixture.bind("team", "ann", "mainstay:editor").await;
        assert!(fixture.may(&ann, what).await, "round {round}");
        assert!(!fixture.may(&ann, "create m:sessions other").await);
        fixture.put("v1", "ConfigMap", "team", "noise", json!({"data": {"round": round.to_string()}})).await;
        assert!(fixture.may(&ann, what).await);
        fixture.delete(&bound).await;
        assert!(!fixture.may(&ann, what).await, "round {round}");
    }
    fixture
        .put(
            RBAC,
            "Role",
            "team",
            "own",
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        )
        .await;
    fixture.put(RBAC, "RoleBinding", "team", "own", binding("ann", "Role", "own")).await;
    assert!(fixture.may(&ann, "get pods team/a").await);
    fixture.put(RBAC, "Role", "team", "own", json!({"rules": []})).await;
    assert!(!fixture.may(&ann, "get pods team/a").await, "a changed role");
    fixture
        .put(
            RBAC,
            "Role",
            "team",
            "own",
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        )
        .await;
    fixture.put(RBAC, "RoleBinding", "team", "own", binding("bob", "Role", "own")).await;
    assert!(!fixture.may(&ann, "get pods team/a").await && fixture.may(&user("bob"), "get pods team/a").await);
}

#[tokio::test]
async fn a_watch_that_was_too_slow_is_made_anew() {
    let fixture = fixture_with(|options| options.watcher_bytes = 2_000).await;
    let ann = user("ann");
    assert!(!fixture.may(&ann, "get pods team/a").await);
    for number in 0..50 {
        fixture.bind(&format!("team-{number}"), "ann", "mainstay:viewer").await;
    }
    assert!(fixture.may(&ann, "get pods team-49/a").await && fixture.may(&ann, "get pods team-0/a").await);
    fixture.bind("team", "ann", "mainstay:viewer").await;
    assert!(fixture.may(&ann, "get pods team/a").await);
}

#[tokio::test]
async fn no_answer_is_never_an_allowance() {
    let fixture = fixture().await;
    fixture.bind("team", "ann", "mainstay:viewer").await;
    fixture.store.close().await;
    let decision = fixture.authorizer.authorize(&user("ann"), &attributes("get pods team/a")).await;
    assert!(!decision.is_allowed(), "{decision:?}");
}

#[tokio::test]
async fn reasons_are_the_same_each_time_and_name_the_binding() {
    let fixture = fixture().await;
    for role in ["mainstay:viewer", "mainstay:owner", "mainstay:editor"] {
        fixture.bind("team", "ann", role).await;
    }
    for _ in 0..3 {
        let decision = fixture.authorizer.authorize(&user("ann"), &attributes("get pods team/a")).await;
        let Decision::Allow(reason) = decision else { panic!("{decision:?}") };
        assert_eq!(reason, "RBAC: allowed by RoleBinding \"team/ann-mainstay-editor\" of role \"mainstay:editor\"");
    }
}

/// R42, R49: a session's token is good for that session's messages and heartbeat, whatever bindings say.
#[tokio::test]
async fn a_session_may_use_itself_and_nothing_else() {
    let fixture = fixture().await;
    fixture.bind("", "system:serviceaccount:team:default", "cluster-admin").await;
    let session = SessionBinding { namespace: "team".into(), name: "a".into(), uid: "1".into() };
    let who = Identity::service_account("team", "default").bound_to(session);
    let allowed = [
        "get m:sessions team/a",
        "get m:sessions/messages team/a",
        "create m:sessions/messages team/a",
        "get m:sessions/heartbeat team/a",
        "update m:sessions/heartbeat team/a",
    ];
    for what in allowed {
        assert!(fixture.may(&who, what).await, "{what}");
        assert!(!fixture.may(&who, &what.replace("team/a", "team/b")).await, "another session: {what}");
        assert!(!fixture.may(&who, &what.replace("team/a", "other/a")).await, "another namespace: {what}");
        assert!(!fixture.may(&who, &what.replace("m:", "")).await, "another group: {what}");
    }
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
        for kind in fixture.registry.iter() {
            for sub in ["", "status", "messages", "heartbeat", "log", "token", "reveal"] {
                let resource = if sub.is_empty() { kind.plural.to_owned() } else { format!("{}/{sub}", kind.plural) };
                let group = if kind.group == mainstay_api::GROUP { "m" } else { kind.group };
                let what = format!("{verb} {group}:{resource} team/a");
                assert_eq!(fixture.may(&who, &what).await, allowed.contains(&&*what), "{what}");
            }
        }
    }
    for what in
        ["get /api", "get /metrics", "create authorization.k8s.io:selfsubjectaccessreviews", "list m:sessions team"]
    {
        assert!(!fixture.may(&who, what).await, "{what}");
    }
    let rules = fixture.authorizer.rules_for(&who, "team").await.unwrap();
    assert_eq!(rules.rules.len(), 3);
    assert!(fixture.authorizer.rules_for(&who, "other").await.unwrap().rules.is_empty());
}

#[tokio::test]
async fn bootstrap_is_idempotent_and_puts_ours_back_only() {
    let fixture = fixture().await;
    let before = fixture.store.revision();
    fixture.bootstrap().await;
    assert_eq!(fixture.store.revision(), before, "nothing was written the second time");

    let key = Key::new(index::CLUSTER_ROLES, "", "mainstay:viewer");
    let mut role: Value = serde_json::from_slice(&fixture.store.get(&key).await.unwrap().unwrap().body).unwrap();
    let uid = role["metadata"]["uid"].clone();
    let rules = role["rules"].clone();
    role["rules"] = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    role["metadata"]["annotations"] = json!({"note": "mine"});
    fixture.put(RBAC, "ClusterRole", "", "mainstay:viewer", role).await;
    let other = fixture.put(RBAC, "ClusterRole", "", "theirs", json!({"rules": []})).await;
    fixture.bootstrap().await;
    let body = fixture.store.get(&key).await.unwrap().unwrap().body.clone();
    let mended: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&mended["rules"], &mended["metadata"]["uid"]), (&rules, &uid));
    assert_eq!(mended["metadata"]["annotations"]["note"], "mine");
    assert_eq!(fixture.store.get(&other.key).await.unwrap().unwrap().revision, other.revision);
}
