//! S15: verb x resource x role, every cell. What the table does not list must be denied.

use super::*;

const VERBS: [(char, &str); 9] = [
    ('g', "get"),
    ('l', "list"),
    ('w', "watch"),
    ('c', "create"),
    ('u', "update"),
    ('p', "patch"),
    ('d', "delete"),
    ('x', "deletecollection"),
    ('b', "bind"),
];

/// Letters as above. A name behind `#` is a resource name.
type Cells = &'static [(&'static str, &'static str)];

const VIEWER: Cells = &[
    ("m:agents", "glw"),
    ("m:sessions", "glw"),
    ("m:credentials", "glw"),
    ("m:operations", "glw"),
    ("m:operations/status", "g"),
    ("m:sessions/status", "g"),
    ("m:sessions/messages", "g"),
    ("m:sessions/heartbeat", "g"),
    ("m:credentials/status", "g"),
    (":configmaps", "glw"),
    (":events", "glw"),
    (":pods", "glw"),
    (":resourcequotas", "glw"),
    (":serviceaccounts", "glw"),
    (":pods/status", "g"),
    (":pods/log", "g"),
    (":resourcequotas/status", "g"),
];

const EDITOR: Cells = &[
    ("m:agents", "glwcupdx"),
    ("m:sessions", "glwcupdx"),
    ("m:credentials", "glwcupdx"),
    ("m:sessions/messages", "gc"),
    (":configmaps", "glwcupdx"),
    (":pods/exec", "c"),
];

const OWNER: Cells = &[
    (":secrets", "glwcupdx"),
    (":serviceaccounts", "glwcupdx"),
    (":serviceaccounts/token", "c"),
    (":pods", "glwd"),
    ("r:roles", "glwcupdx"),
    ("r:rolebindings", "glwcupdx"),
    ("m:operations", "up"),
];

fn resources(registry: &Registry) -> Vec<String> {
    let subs = ["status", "messages", "heartbeat", "log", "token", "reveal", "exec", "finalizers", "finalize", "scale"];
    let group = |group: &str| match group {
        mainstay_api::GROUP => "m".to_owned(),
        index::GROUP => "r".to_owned(),
        other => other.to_owned(),
    };
    let named = |kind: &mainstay_api::Kind| format!("{}:{}", group(kind.group), kind.plural);
    let mut all: Vec<String> = registry.iter().map(|kind| named(kind)).collect();
    for sub in subs {
        all.extend(registry.iter().map(|kind| format!("{}/{sub}", named(kind))));
    }
    all.extend(["apps:deployments".to_owned(), "m:future".to_owned()]);
    all
}

fn expected(tables: &[Cells], resource: &str, verb: char) -> bool {
    // A later table's row stands for itself; rows only ever add.
    tables.iter().flat_map(|table| table.iter()).any(|(row, verbs)| *row == resource && verbs.contains(verb))
}

async fn check(fixture: &Fixture, who: &Identity, tables: &[Cells], place: &str) -> usize {
    let mut allowed = 0;
    for resource in resources(&fixture.registry) {
        if place == "team/x" && ["m:projects", ":namespaces"].iter().any(|own| resource.starts_with(own)) {
            continue; // judged by their own name: see below
        }
        for (letter, verb) in VERBS {
            let what = format!("{verb} {resource} {place}");
            let got = fixture.may(who, &what).await;
            assert_eq!(got, expected(tables, &resource, letter), "{}: {what}", who.user());
            allowed += usize::from(got);
        }
    }
    allowed
}

#[tokio::test]
async fn members_have_the_rights_of_the_table_and_no_other() {
    let fixture = fixture().await;
    for (role, tables) in
        [("viewer", &[VIEWER][..]), ("editor", &[VIEWER, EDITOR]), ("owner", &[VIEWER, EDITOR, OWNER])]
    {
        fixture.bind("team", role, &format!("mainstay:{role}")).await;
        let who = user(role);
        assert!(check(&fixture, &who, tables, "team/x").await >= 30);
        for elsewhere in ["other/x", "", "mainstay-system/x"] {
            assert_eq!(check(&fixture, &who, &[], elsewhere).await, 0, "nothing in {elsewhere:?}");
        }
        for (letter, verb) in VERBS {
            let own = |allowed: &str| allowed.contains(letter);
            let project = if role == "owner" { "gupd" } else { "g" };
            assert_eq!(fixture.may(&who, &format!("{verb} m:projects /team")).await, own(project), "{role} {verb}");
            assert_eq!(fixture.may(&who, &format!("{verb} namespaces team/team")).await, own("g"), "{role} {verb}");
            assert_eq!(fixture.may(&who, &format!("{verb} m:projects/status /team")).await, own("g"), "{role} {verb}");
            for other in ["m:projects /other", "m:projects", "namespaces other/other", "namespaces"] {
                assert!(!fixture.may(&who, &format!("{verb} {other}")).await, "{role} {verb} {other}");
            }
        }
    }
}

const EVENTS: (&str, &str) = (":events", "cup");

const PROJECT_CONTROLLER: Cells = &[
    ("m:projects", "glwup"),
    ("m:projects/status", "gup"),
    ("m:sessions", "glwupd"),
    ("m:operations", "glwcupd"),
    ("m:agents", "glw"),
    ("m:credentials", "glw"),
    (":namespaces", "glwcupd"),
    (":resourcequotas", "glwcupd"),
    (":serviceaccounts", "glwc"),
    (":pods", "glw"),
    ("r:rolebindings", "glwcupd"),
    EVENTS,
];

#[tokio::test]
async fn controllers_have_the_rights_of_the_table_and_no_other() {
    let fixture = fixture().await;
    let session: Cells = &[
        ("m:sessions", "glwup"),
        ("m:projects", "glw"),
        ("m:agents", "glw"),
        ("m:credentials", "glw"),
        ("m:sessions/status", "gup"),
        ("m:sessions/messages", "gc"),
        ("m:sessions/heartbeat", "g"),
        (":pods", "glwcupd"),
        (":namespaces", "glw"),
        (":configmaps", "glw"),
        (":resourcequotas", "glw"),
        (":nodes", "glw"),
        EVENTS,
    ];
    let node: Cells = &[
        (":nodes", "glwcup"),
        (":nodes/status", "gup"),
        (":pods", "glwup"),
        (":pods/status", "gup"),
        ("coordination.k8s.io:leases", "glwcd"),
        EVENTS,
    ];
    let token: Cells = &[("m:sessions", "glw"), (":pods", "glwp"), EVENTS];
    let event: Cells = &[(":events", "glwd")];
    for (name, table) in [
        ("session-controller", session),
        ("project-controller", PROJECT_CONTROLLER),
        ("token-controller", token),
        ("event-controller", event),
        ("node-controller", node),
        ("api-server", &[("coordination.k8s.io:leases", "lcpd")]),
    ] {
        check(&fixture, &Identity::controller(name), &[table], "team/x").await;
    }
    for name in policy::CONTROLLERS {
        let who = Identity::controller(name);
        for kind in fixture.registry.iter() {
            let group = if kind.group == mainstay_api::GROUP { "m" } else { kind.group };
            let reaches_all = ["namespace-controller", "garbage-collector"].contains(&name);
            for (verb, all) in [("list", true), ("delete", true), ("create", false), ("escalate", false)] {
                let what = format!("{verb} {group}:{} team/x", kind.plural);
                let got = fixture.may(&who, &what).await;
                assert!(!reaches_all || got || !all, "{name}: {what}");
                assert!(verb != "escalate" || !got, "{name}: {what}");
            }
            assert!(!fixture.may(&who, &format!("get {group}:{}/reveal team/x", kind.plural)).await);
        }
        for what in [
            "create serviceaccounts/token team/default",
            "get /metrics",
            "create r:clusterrolebindings",
            "bind r:clusterroles /cluster-admin",
        ] {
            assert!(!fixture.may(&who, what).await, "{name}: {what}");
        }
    }
}

#[tokio::test]
async fn only_the_project_controller_binds_members() {
    let fixture = fixture().await;
    let project = Identity::controller("project-controller");
    for role in ["owner", "editor", "viewer"] {
        assert!(fixture.may(&project, &format!("bind r:clusterroles team/mainstay:{role}")).await);
    }
    let rules = fixture.authorizer.rules_for(&project, "team").await.unwrap();
    assert!(rules.rules.iter().any(|rule| rule.verbs == ["bind"]) && !rules.incomplete);
}
