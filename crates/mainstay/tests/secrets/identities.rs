//! The platform's own identities have what their work needs, and nothing else.
//!
//! The node agent has no token and so cannot be played from outside; its rights are tested with the authorizer.

use serde_json::{Value, json};

use super::team::{PROJECTS, Team, path};

/// What no controller has a use for.
fn never() -> Vec<(&'static str, String, Value)> {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    let bind =
        |name: &str| json!({"metadata": {"name": name}, "roleRef": role, "subjects": [{"kind": "User", "name": "x"}]});
    let rules =
        json!({"metadata": {"name": "up"}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    vec![
        ("GET", path("credentials/c/reveal"), Value::Null),
        ("POST", path("secrets"), json!({"metadata": {"name": "made"}})),
        ("POST", path("credentials"), json!({"metadata": {"name": "made"}, "spec": {"provider": "x"}})),
        ("POST", path("sessions"), json!({"metadata": {"name": "made"}, "spec": {"command": ["x"]}})),
        ("POST", PROJECTS.to_owned(), json!({"metadata": {"name": "made"}, "spec": {}})),
        ("POST", path("serviceaccounts/owner/token"), json!({})),
        ("POST", "/api/v1/namespaces/mainstay-system/serviceaccounts/session-controller/token".to_owned(), json!({})),
        ("POST", path("roles"), rules.clone()),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(), rules),
        ("POST", path("rolebindings"), bind("up")),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned(), bind("up")),
        ("PUT", path("sessions/s/heartbeat"), json!({"run": 1, "podUID": "x"})),
        ("PATCH", path("pods/s-1/status"), json!({"status": {"phase": "Failed"}})),
        ("GET", path("pods/s-1/log"), Value::Null),
        ("GET", "/metrics".to_owned(), Value::Null),
    ]
}

#[test]
fn a_controller_may_not_do_what_is_not_its_work() {
    let team = Team::new();
    let secrets = || vec![("GET", path("secrets")), ("GET", path("secrets/s"))];
    let own: [(&str, Vec<(&str, String)>); 5] = [
        (
            "session-controller",
            [
                secrets(),
                vec![
                    ("DELETE", path("sessions/s")),
                    ("PATCH", format!("{PROJECTS}/team")),
                    ("DELETE", path("agents/a")),
                ],
            ]
            .concat(),
        ),
        (
            "project-controller",
            [
                secrets(),
                vec![
                    ("PATCH", path("credentials/c")),
                    ("DELETE", path("pods/s-1")),
                    ("GET", path("sessions/s/messages")),
                ],
            ]
            .concat(),
        ),
        // These two see every object, to delete it: they change none, or make none.
        (
            "namespace-controller",
            vec![("PATCH", path("secrets/s")), ("PATCH", path("sessions/s")), ("PATCH", format!("{PROJECTS}/team"))],
        ),
        ("garbage-collector", vec![("GET", path("sessions/s/messages")), ("PATCH", path("sessions/s/status"))]),
        (
            "token-controller",
            [
                secrets(),
                vec![("PATCH", path("sessions/s")), ("DELETE", path("pods/s-1")), ("GET", path("credentials/c"))],
            ]
            .concat(),
        ),
    ];
    for (name, own) in own {
        let token = team.token_of("mainstay-system", name);
        let own = own.into_iter().map(|(method, path)| (method, path, json!({})));
        for (method, path, body) in own.chain(never()) {
            let answer = team.call(&token, method, &path, &body);
            answer.refused(403, "", &format!("{name}: {method} {path}"));
        }
        let sees = team.call(&token, "GET", &path("sessions"), &Value::Null);
        assert_eq!(sees.status, 200, "{name} is who it should be: {}", sees.text());
    }
}

#[test]
fn nobody_is_a_node_or_a_master_by_saying_so() {
    let team = Team::new();
    let owner = team.token("owner");
    team.until_status(&owner, &path("secrets"), 200);
    // Names that start with system: are the platform's.
    for name in ["system:node:local", "system:admin"] {
        let member = json!({"spec": {"members": [{"name": name, "role": "owner"}]}});
        let answer = team.wire.json("PATCH", &format!("{PROJECTS}/team"), &member);
        answer.refused(422, "names that start with system: are the platform's", name);
    }
    // An owner gives others nothing that owners do not have.
    let role = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    for name in ["cluster-admin", "system:controller:session-controller", "none-such"] {
        let subjects =
            json!([{"kind": "Group", "name": "system:masters"}, {"kind": "User", "name": "system:node:local"}]);
        let binding = json!({"metadata": {"name": "up"}, "roleRef": role(name), "subjects": subjects});
        team.call(&owner, "POST", &path("rolebindings"), &binding).refused(403, "", name);
    }
    // The right to grant is checked when a binding that exists is changed, too.
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}]);
    team.call(&owner, "POST", &path("roles"), &json!({"metadata": {"name": "low"}, "rules": rules})).expect(201);
    let high =
        json!({"rules": [{"verbs": ["get"], "apiGroups": ["mainstay.dev"], "resources": ["credentials/reveal"]}]});
    team.call(&owner, "PATCH", &path("roles/low"), &high).refused(
        403,
        "would grant rights that it does not hold",
        "low",
    );
    assert_eq!(team.call(&owner, "GET", &path("credentials/c/reveal"), &Value::Null).status, 403);
    // Not even the administrator reads a credential's token.
    team.wire.call("GET", &path("credentials/c/reveal"), "", "").refused(403, "credentials/reveal", "admin");
}
