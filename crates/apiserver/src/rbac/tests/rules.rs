//! Rules by themselves: what they match, and what covers what.

use super::*;

fn rule(verbs: &str, groups: &str, resources: &str, names: &str, paths: &str) -> Rule {
    let words =
        |text: &str| text.split_whitespace().map(|word| if word == "core" { "" } else { word }.to_owned()).collect();
    Rule {
        verbs: words(verbs),
        api_groups: words(groups),
        resources: words(resources),
        resource_names: words(names),
        non_resource_urls: words(paths),
    }
}

#[test]
fn rules_match_as_upstream() {
    let table: &[(Rule, &[&str], &[&str])] = &[
        (
            rule("get", "core", "pods", "", ""),
            &["get pods a/b"],
            &["list pods a", "get pods/log a/b", "get m:pods a/b", "get /pods"],
        ),
        (rule("*", "*", "*", "", ""), &["get pods a/b", "x m:sessions/messages a/b"], &["get /api"]),
        (rule("get", "core", "pods/log", "", ""), &["get pods/log a/b"], &["get pods a/b", "get pods/status a/b"]),
        (
            rule("get", "*", "*/status", "", ""),
            &["get pods/status a/b", "get m:sessions/status a/b"],
            &["get pods a/b", "get pods/log a/b"],
        ),
        (
            rule("get", "core", "secrets", "one two", ""),
            &["get secrets a/one", "get secrets a/two"],
            &["get secrets a/three", "get secrets a"],
        ),
        (
            rule("get", "", "", "", "/metrics /apis/*"),
            &["get /metrics", "get /apis/", "get /apis/x/y"],
            &["get /metricsx", "get /apis", "post /metrics"],
        ),
        (rule("*", "", "", "", "*"), &["get /", "delete /x"], &["get pods a/b"]),
        (rule("", "*", "*", "", "*"), &[], &["get pods a/b", "get /"]),
        (rule("get", "", "pods", "", ""), &[], &["get pods a/b"]),
    ];
    for (rule, yes, no) in table {
        for what in *yes {
            assert!(rule.allows(&attributes(what)), "{rule:?} should allow {what}");
        }
        for what in *no {
            assert!(!rule.allows(&attributes(what)), "{rule:?} should not allow {what}");
        }
    }
}

#[test]
fn only_what_is_held_covers() {
    let held = [
        rule("get list", "core", "pods", "", ""),
        rule("get", "core", "secrets", "one two", ""),
        rule("*", "mainstay.dev", "agents */status", "", ""),
        rule("get", "", "", "", "/apis/*"),
    ];
    let table = [
        (rule("get", "core", "pods", "", ""), true),
        (rule("get list", "core", "pods", "x", ""), true),
        (rule("get delete", "core", "pods", "", ""), false),
        (rule("*", "core", "pods", "", ""), false),
        (rule("get", "core", "*", "", ""), false),
        (rule("get", "*", "pods", "", ""), false),
        (rule("get", "core", "pods/log", "", ""), false),
        (rule("get", "core", "secrets", "one", ""), true),
        (rule("get", "core", "secrets", "one three", ""), false),
        (rule("get", "core", "secrets", "", ""), false),
        (rule("delete", "mainstay.dev", "agents", "", ""), true),
        (rule("*", "mainstay.dev", "agents sessions/status", "", ""), true),
        (rule("get", "mainstay.dev", "sessions", "", ""), false),
        (rule("get", "core mainstay.dev", "pods", "", ""), false),
        (rule("get", "", "", "", "/apis/x /apis/*"), true),
        (rule("get", "", "", "", "/api"), false),
        (rule("get", "", "", "", "*"), false),
        (rule("get", "core", "pods", "", "/metrics"), false),
        (rule("", "", "", "", ""), true),
    ];
    let held: Vec<&Rule> = held.iter().collect();
    for (wanted, covered) in table {
        assert_eq!(wanted.is_covered_by(&held), covered, "{wanted:?}");
    }
}

#[test]
fn a_wildcard_covers_everything_of_its_sort() {
    let everything = policy::everything();
    let held: Vec<&Rule> = everything.iter().collect();
    for wanted in [rule("*", "*", "*", "", ""), rule("x", "y", "z/w", "n", ""), rule("*", "", "", "", "*")] {
        assert!(wanted.is_covered_by(&held), "{wanted:?}");
    }
}

/// R3.
#[tokio::test]
async fn bindings_that_name_nothing_or_nobody_grant_nothing() {
    let fixture = fixture().await;
    let ann = user("ann");
    let cases = [
        binding("ann", "ClusterRole", "missing"),
        binding("ann", "Role", "mainstay:viewer"),
        binding("ann", "Unknown", "mainstay:viewer"),
        json!({"roleRef": {"apiGroup": "other", "kind": "ClusterRole", "name": "mainstay:viewer"},
               "subjects": [{"kind": "User", "name": "ann"}]}),
        json!({"roleRef": {"kind": "ClusterRole", "name": "mainstay:viewer"}, "subjects": [{"kind": "Robot", "name": "ann"}]}),
        json!({"roleRef": {"kind": "ClusterRole", "name": "mainstay:viewer"}}),
        json!({"roleRef": 7, "subjects": [{"kind": "User", "name": "ann"}]}),
        json!({}),
    ];
    for case in cases {
        fixture.put(RBAC, "RoleBinding", "team", "odd", case.clone()).await;
        assert!(!fixture.may(&ann, "get pods team/a").await, "{case}");
    }
    fixture.put(RBAC, "ClusterRole", "", "broken", json!({"rules": [{"verbs": "get"}]})).await;
    fixture.bind("", "ann", "broken").await;
    assert!(!fixture.may(&ann, "get pods team/a").await);
    // A role that appears after its binding counts from then on.
    fixture.bind("team", "ann", "late").await;
    let rules = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "nonResourceURLs": ["/metrics"]}]});
    fixture.put(RBAC, "ClusterRole", "", "late", rules).await;
    assert!(fixture.may(&ann, "get pods team/a").await);
    assert!(!fixture.may(&ann, "get pods other/a").await && !fixture.may(&ann, "list pods").await);
    assert!(!fixture.may(&ann, "get /metrics").await, "a binding in a namespace gives no paths");
}

#[tokio::test]
async fn service_accounts_and_groups_are_subjects() {
    let fixture = fixture().await;
    let robot = Identity::service_account("team", "robot");
    let role_ref = json!({"kind": "ClusterRole", "name": "mainstay:viewer"});
    let cases = [
        (json!({"kind": "ServiceAccount", "name": "robot"}), true),
        (json!({"kind": "ServiceAccount", "name": "robot", "namespace": "team"}), true),
        (json!({"kind": "ServiceAccount", "name": "robot", "namespace": "other"}), false),
        (json!({"kind": "User", "name": "robot"}), false),
        (json!({"kind": "User", "name": "system:serviceaccount:team:robot"}), true),
        (json!({"kind": "Group", "name": "system:serviceaccounts:team"}), true),
        (json!({"kind": "Group", "name": "system:serviceaccounts"}), true),
        (json!({"kind": "Group", "name": "system:serviceaccounts:other"}), false),
        (json!({"kind": "Group", "name": "system:masters"}), false),
    ];
    for (subject, allowed) in cases {
        fixture.put(RBAC, "RoleBinding", "team", "one", json!({"roleRef": role_ref, "subjects": [subject]})).await;
        assert_eq!(fixture.may(&robot, "get pods team/a").await, allowed, "{subject}");
    }
}
