//! What the members of a project may do, and nobody else.

use serde_json::{Value, json};

use super::team::{PROJECTS, Team, path};

/// Method, path, body.
type Deed = (&'static str, String, Value);

fn new(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

fn say(id: &str) -> Value {
    json!({"messages": [{"id": id, "type": "user", "text": "x"}]})
}

fn get(plural: &str) -> Deed {
    ("GET", path(plural), Value::Null)
}

/// What all members may.
fn looking() -> Vec<Deed> {
    let project = ("GET", format!("{PROJECTS}/team"), Value::Null);
    let namespace = ("GET", "/api/v1/namespaces/team".to_owned(), Value::Null);
    let within = [
        "sessions",
        "sessions/s",
        "sessions/s/status",
        "sessions/s/messages",
        "sessions/s/heartbeat",
        "agents",
        "agents/a",
        "credentials",
        "credentials/c",
        "configmaps/c",
        "events",
        "pods",
        "pods/s-1",
        "pods/s-1/log",
        "resourcequotas",
        "serviceaccounts",
    ];
    within.into_iter().map(get).chain([project, namespace]).collect()
}

/// What editors may beyond that.
fn working() -> Vec<Deed> {
    vec![
        ("POST", path("sessions"), new("made", &json!({"command": ["/bin/true"], "desiredState": "Stopped"}))),
        ("POST", path("agents"), new("made", &json!({}))),
        ("POST", path("credentials"), new("made", &json!({"provider": "x", "token": "hush"}))),
        ("POST", path("configmaps"), json!({"metadata": {"name": "made"}})),
        ("POST", path("sessions/s/messages"), say("from-a-member")),
        ("PATCH", path("credentials/c"), json!({"spec": {"token": "other"}})),
        ("PATCH", path("sessions/s"), json!({"metadata": {"labels": {"a": "b"}}})),
        ("DELETE", path("agents/made"), Value::Null),
        ("DELETE", path("credentials/made"), Value::Null),
        ("DELETE", path("configmaps/made"), Value::Null),
        ("DELETE", path("sessions/made"), Value::Null),
    ]
}

/// What owners may beyond that.
fn owning() -> Vec<Deed> {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "mainstay:viewer"});
    let subjects = json!([{"kind": "User", "name": "ann"}]);
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}]);
    vec![
        get("secrets"),
        get("secrets/s"),
        get("rolebindings"),
        ("POST", path("secrets"), json!({"metadata": {"name": "made"}})),
        ("DELETE", path("secrets/made"), Value::Null),
        ("POST", path("serviceaccounts"), json!({"metadata": {"name": "made"}})),
        ("POST", path("serviceaccounts/made/token"), json!({})),
        ("POST", path("roles"), json!({"metadata": {"name": "made"}, "rules": rules})),
        ("POST", path("rolebindings"), json!({"metadata": {"name": "made"}, "roleRef": role, "subjects": subjects})),
        ("DELETE", path("rolebindings/made"), Value::Null),
        ("DELETE", path("roles/made"), Value::Null),
        ("DELETE", path("serviceaccounts/made"), Value::Null),
        ("PATCH", format!("{PROJECTS}/team"), json!({"spec": {"displayName": "Ours"}})),
    ]
}

/// What no member may.
fn never() -> Vec<Deed> {
    let elsewhere = |plural: &str| ("GET", path(plural).replace("/team/", "/default/"), Value::Null);
    let everywhere = |plural: &str| ("GET", path(plural).replace("/namespaces/team", ""), Value::Null);
    let admin = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    let binding = json!({"metadata": {"name": "up"}, "roleRef": admin, "subjects": [{"kind": "User", "name": "ann"}]});
    let reveal = json!([{"verbs": ["get"], "apiGroups": ["mainstay.dev"], "resources": ["credentials/reveal"]}]);
    let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    let session = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "name": "s"});
    let reports = json!({"messages": [{"id": "forged", "type": "agent", "text": "x"}]});
    vec![
        get("credentials/c/reveal"),
        get("leases"),
        elsewhere("secrets"),
        elsewhere("sessions"),
        elsewhere("configmaps"),
        everywhere("secrets"),
        everywhere("sessions"),
        everywhere("pods"),
        ("GET", PROJECTS.to_owned(), Value::Null),
        ("GET", "/api/v1/namespaces".to_owned(), Value::Null),
        ("GET", "/metrics".to_owned(), Value::Null),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(), Value::Null),
        ("POST", PROJECTS.to_owned(), new("mine", &json!({}))),
        ("POST", "/api/v1/namespaces".to_owned(), json!({"metadata": {"name": "mine"}})),
        ("DELETE", "/api/v1/namespaces/team".to_owned(), Value::Null),
        ("PATCH", format!("{PROJECTS}/team"), json!({"spec": {"quota": {"running": 1000}}})),
        ("PATCH", format!("{PROJECTS}/team/status"), json!({"status": {"phase": "Active"}})),
        ("PATCH", path("sessions/s/status"), json!({"status": {"phase": "Completed"}})),
        ("PATCH", path("pods/s-1"), json!({"metadata": {"finalizers": []}})),
        ("PATCH", path("pods/s-1/status"), json!({"status": {"phase": "Failed"}})),
        ("POST", path("pods"), new("p", &json!({"containers": [{"name": "a", "command": ["x"]}]}))),
        ("POST", path("events"), json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "team"}})),
        ("POST", path("resourcequotas"), new("q", &json!({"hard": {"pods": "9"}}))),
        ("POST", path("rolebindings"), binding.clone()),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned(), binding),
        ("POST", path("roles"), json!({"metadata": {"name": "up"}, "rules": reveal})),
        ("POST", path("roles"), json!({"metadata": {"name": "up"}, "rules": all})),
        ("POST", path("serviceaccounts/default/token"), json!({"spec": {"boundObjectRef": session}})),
        ("POST", path("sessions/s/messages"), reports),
        ("PUT", path("sessions/s/heartbeat"), json!({"run": 1, "podUID": "x"})),
    ]
}

#[test]
fn each_member_may_what_the_role_says_and_nothing_else() {
    let team = Team::new();
    let [looking, working, owning, never] = [looking(), working(), owning(), never()];
    let roles = [
        ("stranger", vec![], vec![&looking, &working, &owning, &never]),
        ("viewer", vec![&looking], vec![&working, &owning, &never]),
        ("editor", vec![&looking, &working], vec![&owning, &never]),
        ("owner", vec![&looking, &working, &owning], vec![&never]),
    ];
    for (name, may, may_not) in roles {
        let token = team.token(name);
        if !may.is_empty() {
            team.until_status(&token, &path("sessions"), 200);
        }
        for (method, path, body) in may_not.into_iter().flatten() {
            let answer = team.call(&token, method, path, body);
            answer.refused(403, "", &format!("{name}: {method} {path} {body}"));
            assert!(!answer.text().contains("hush"), "{}", answer.text());
        }
        for (method, path, body) in may.into_iter().flatten() {
            let answer = team.call(&token, method, path, body);
            assert!(answer.status < 300, "{name}: {method} {path} {body}: {}", answer.text());
            let shown = path.contains("/credentials") && answer.text().contains("hush");
            assert!(!shown, "{name}: {method} {path}: {}", answer.text());
        }
    }
    // Whoever is known may ask who they are, and what there is.
    let stranger = team.token("stranger");
    let who = team.call(&stranger, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).expect(201);
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:team:stranger");
    assert_eq!(team.call(&stranger, "GET", "/apis", &Value::Null).status, 200);
    assert!(!team.server.log_text().contains("panicked"));
}

#[test]
fn a_project_takes_no_namespace_of_others() {
    let team = Team::new();
    team.wire.json("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "theirs"}})).expect(201);
    for (name, words) in [
        ("default", "namespace \"default\" is the platform's"),
        ("mainstay-system", "namespace \"mainstay-system\" is the platform's"),
        ("kube-system", "namespace \"kube-system\" is the platform's"),
        ("theirs", "namespace \"theirs\" exists and is not this project's"),
        ("team", "already exists"),
    ] {
        team.wire.json("POST", PROJECTS, &new(name, &json!({}))).refused(409, words, name);
    }
    let owners =
        |name: &str| team.wire.get(&format!("/api/v1/namespaces/{name}"))["metadata"]["ownerReferences"].take();
    assert_eq!((owners("theirs"), owners("default")), (Value::Null, Value::Null));
}
