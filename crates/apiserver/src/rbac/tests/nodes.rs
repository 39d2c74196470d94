//! A node agent gets what its unfinished Pods need.

use super::*;
use crate::rbac::guard::Change;
use crate::token::TokenRequest;

fn pod(node: &str, phase: &str) -> Value {
    json!({
        "metadata": {
            "labels": {"mainstay.dev/session": "fix"},
            "annotations": {"mainstay.dev/session-uid": "u-1"},
            "finalizers": ["mainstay.dev/node"],
        },
        "spec": {"nodeName": node, "volumes": [
            {"name": "workspace", "emptyDir": {}},
            {"name": "a", "secret": {"secretName": "plain"}},
            {"name": "b", "secret": {"secretName": "credential/forge"}},
            {"name": "c", "configMap": {"name": "files"}},
        ]},
        "status": {"phase": phase},
    })
}

const NEEDED: [&str; 4] = [
    "get secrets team/plain",
    "get configmaps team/files",
    "get m:credentials/reveal team/forge",
    "create serviceaccounts/token team/default",
];

async fn needs(fixture: &Fixture, who: &Identity) -> Vec<bool> {
    let mut got = Vec::new();
    for what in NEEDED {
        got.push(fixture.may(who, what).await);
    }
    got
}

#[tokio::test]
async fn a_node_gets_what_its_pods_refer_to_while_they_run() {
    let fixture = fixture().await;
    let node = Identity::node("local");
    assert_eq!(needs(&fixture, &node).await, [false; 4], "no Pod, no need");
    fixture.put("v1", "Pod", "team", "fix-1", pod("elsewhere", "Running")).await;
    assert_eq!(needs(&fixture, &node).await, [false; 4], "another node's Pod");
    let made = fixture.put("v1", "Pod", "team", "fix-1", pod("local", "Pending")).await;
    assert_eq!(needs(&fixture, &node).await, [true; 4]);
    for what in NEEDED {
        assert!(!fixture.may(&node, &what.replace("team", "other")).await, "{what} elsewhere");
        assert!(!fixture.may(&Identity::controller("session-controller"), what).await || what.contains("configmaps"));
    }
    let impostors = [
        Identity::new("ann", [NODES]),
        Identity::new("system:node:local", [""; 0]),
        Identity::service_account("team", "default"),
        Identity::admin(),
    ];
    for who in impostors {
        assert!(!fixture.may(&who, "get m:credentials/reveal team/forge").await, "{}", who.user());
    }
    fixture.put("v1", "Pod", "team", "fix-1", pod("local", "Succeeded")).await;
    assert_eq!(needs(&fixture, &node).await, [false; 4], "a finished Pod needs nothing");
    fixture.put("v1", "Pod", "team", "fix-2", pod("local", "Running")).await;
    assert_eq!(needs(&fixture, &node).await, [true; 4]);
    fixture.delete(&made).await;
    assert_eq!(needs(&fixture, &node).await, [true; 4], "the other Pod still needs it");
    let key = Key::new("/pods", "team", "fix-2");
    let second = fixture.store.get(&key).await.unwrap().unwrap();
    fixture.delete(&second).await;
    assert_eq!(needs(&fixture, &node).await, [false; 4]);
}

#[tokio::test]
async fn a_node_watches_pods_writes_their_status_and_little_else() {
    let fixture = fixture().await;
    let node = Identity::node("local");
    fixture.put("v1", "Pod", "team", "mine", pod("local", "Running")).await;
    fixture.put("v1", "Pod", "team", "theirs", pod("elsewhere", "Running")).await;
    let yes = [
        "get pods team/mine",
        "get pods team/gone",
        "patch pods/status team/mine",
        "update pods/status team/mine",
        "update pods team/mine",
        "patch pods team/mine",
        // Whose workspace it may keep, without any Pod.
        "get m:sessions team/fix",
        "get /api",
        "patch pods/status team/gone",
    ];
    for what in yes {
        assert!(fixture.may(&node, what).await, "{what}");
    }
    let no = [
        // Of which node is what the selector says: see `a_node_reads_and_writes_what_is_its_own_and_nothing_else`.
        "list pods",
        "watch pods",
        "get pods team/theirs",
        "create events team",
        "get nodes elsewhere",
        "create pods team",
        "delete pods team/mine",
        "patch pods/status team/theirs",
        "update pods team/theirs",
        "list secrets team",
        "watch secrets team",
        "list configmaps team",
        "get secrets team/other",
        "list m:sessions team",
        "watch m:sessions team",
        "patch m:sessions team/fix",
        "get m:sessions/messages team/fix",
        "get m:credentials team/forge",
        "create m:sessions/messages team/fix",
        "update m:sessions/heartbeat team/fix",
        "update m:sessions/status team/fix",
        "get /metrics",
        "list namespaces",
        "create r:rolebindings team",
    ];
    for what in no {
        assert!(!fixture.may(&node, what).await, "{what}");
    }
}

#[tokio::test]
async fn a_node_changes_only_its_finalizer_of_a_pod() {
    let fixture = fixture().await;
    let node = Identity::node("local");
    let old = pod("local", "Failed");
    let what = attributes("update pods team/fix-1");
    let admit = async |new: &Value| {
        let change = Change { what, new, old: Some(&old) };
        fixture.authorizer.admit(&node, &change).await.is_allowed()
    };
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!([]);
    new["metadata"]["resourceVersion"] = "9".into();
    assert!(admit(&new).await);
    new["metadata"].as_object_mut().unwrap().remove("finalizers");
    assert!(admit(&new).await);
    for pointer in ["/spec/nodeName", "/metadata/labels/mainstay.dev~1session", "/spec/volumes/1/secret/secretName"] {
        let mut new = old.clone();
        *new.pointer_mut(pointer).unwrap() = "other".into();
        assert!(!admit(&new).await, "{pointer}");
    }
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["mainstay.dev/node", "theirs"]);
    assert!(!admit(&new).await);
}

#[tokio::test]
async fn a_sessions_token_goes_to_the_node_that_runs_it_only() {
    let fixture = fixture().await;
    fixture.put("v1", "Pod", "team", "fix-1", pod("local", "Running")).await;
    let request = |kind: &str, version: &str, uid: Option<&str>| {
        let bound = json!({"apiVersion": version, "kind": kind, "name": "fix", "uid": uid});
        TokenRequest::from_body("team", "default", &json!({"spec": {"boundObjectRef": bound}})).unwrap()
    };
    let session = |uid| request("Session", "mainstay.dev/v1alpha1", uid);
    let unbound = TokenRequest::from_body("team", "default", &json!({})).unwrap();
    let (node, owner) = (Identity::node("local"), user("owner"));
    let table = [
        (&node, session(Some("u-1")), true),
        (&node, session(Some("u-2")), false),
        (&node, session(None), false),
        (&node, request("Pod", "v1", Some("u-1")), false),
        (&node, unbound.clone(), false),
        (&Identity::node("elsewhere"), session(Some("u-1")), false),
        (&owner, session(Some("u-1")), false),
        (&owner, unbound, true),
        (&owner, request("Secret", "v1", None), true),
    ];
    for (who, request, allowed) in table {
        let decision = fixture.authorizer.admit_token(who, &request).await;
        assert_eq!(decision.is_allowed(), allowed, "{}: {request:?}: {decision:?}", who.user());
    }
}
