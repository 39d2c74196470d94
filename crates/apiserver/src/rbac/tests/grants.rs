//! Nobody grants what they do not hold.

use super::*;
use crate::rbac::guard::Change;

async fn admit(fixture: &Fixture, who: &Identity, what: &str, old: Option<&Value>, new: &Value) -> bool {
    let change = Change { what: attributes(what), new, old };
    match fixture.authorizer.admit(who, &change).await {
        Decision::Unavailable(error) => panic!("{error}"),
        decision => decision.is_allowed(),
    }
}

fn role(verbs: &str, resource: &str) -> Value {
    json!({"rules": [{"verbs": [verbs], "apiGroups": [""], "resources": [resource]}]})
}

#[tokio::test]
async fn a_role_holds_no_more_than_its_author() {
    let fixture = fixture().await;
    fixture.bind("team", "ann", "mainstay:owner").await;
    let ann = user("ann");
    assert!(admit(&fixture, &ann, "create r:roles team/x", None, &role("get", "pods")).await);
    assert!(admit(&fixture, &ann, "create r:roles team/x", None, &json!({})).await);
    for too_much in
        [role("create", "pods"), role("*", "pods"), role("get", "*"), role("get", "pods/exec"), json!({"rules": 7})]
    {
        assert!(!admit(&fixture, &ann, "create r:roles team/x", None, &too_much).await, "{too_much}");
    }
    let big = role("*", "*");
    assert!(admit(&fixture, &ann, "update r:roles team/x", Some(&big), &big).await, "unchanged rules are no grant");
    assert!(!admit(&fixture, &ann, "update r:roles team/x", Some(&role("get", "pods")), &big).await);
    assert!(!admit(&fixture, &ann, "create r:roles other/x", None, &role("get", "pods")).await, "not held there");
    assert!(
        !admit(&fixture, &ann, "create r:clusterroles /x", None, &role("get", "pods")).await,
        "not held everywhere"
    );
    assert!(admit(&fixture, &Identity::admin(), "create r:clusterroles /x", None, &big).await);

    let escalate = json!({"rules": [{"verbs": ["escalate"], "apiGroups": [index::GROUP], "resources": ["roles"]}]});
    fixture.put(RBAC, "ClusterRole", "", "escalator", escalate).await;
    fixture.bind("team", "ann", "escalator").await;
    assert!(admit(&fixture, &ann, "create r:roles team/x", None, &big).await);
    assert!(!admit(&fixture, &ann, "create r:clusterroles /x", None, &big).await);
}

#[tokio::test]
async fn a_binding_gives_no_more_than_its_author_holds() {
    let fixture = fixture().await;
    fixture.bind("team", "ann", "mainstay:editor").await;
    let ann = user("ann");
    let give = |role: &str| binding("bob", "ClusterRole", role);
    let what = "create r:rolebindings team/x";
    assert!(admit(&fixture, &ann, what, None, &give("mainstay:editor")).await);
    assert!(admit(&fixture, &ann, what, None, &give("mainstay:viewer")).await);
    for more in ["mainstay:owner", "cluster-admin", "missing"] {
        assert!(!admit(&fixture, &ann, what, None, &give(more)).await, "{more}");
    }
    assert!(!admit(&fixture, &ann, "create r:rolebindings other/x", None, &give("mainstay:viewer")).await);
    assert!(!admit(&fixture, &ann, "create r:clusterrolebindings /x", None, &give("mainstay:viewer")).await);
    assert!(!admit(&fixture, &ann, what, None, &json!({"subjects": []})).await, "no roleRef");
    let owner = give("mainstay:owner");
    assert!(admit(&fixture, &ann, what, Some(&owner), &owner).await, "unchanged is no grant");
    let mut more = owner.clone();
    more["subjects"][0]["name"] = "carl".into();
    assert!(!admit(&fixture, &ann, what, Some(&owner), &more).await);

    let controller = Identity::controller("project-controller");
    assert!(admit(&fixture, &controller, what, None, &owner).await, "bind is allowed for the members' roles");
    assert!(!admit(&fixture, &controller, what, None, &give("cluster-admin")).await);
}

#[tokio::test]
async fn members_are_added_by_owners_and_quota_is_changed_from_above() {
    let fixture = fixture().await;
    fixture.bind("team", "ann", "mainstay:owner").await;
    let updater = json!({"rules": [{"verbs": ["update"], "apiGroups": ["mainstay.dev"], "resources": ["projects"]}]});
    fixture.put(RBAC, "ClusterRole", "", "updater", updater.clone()).await;
    fixture.bind("", "boss", "updater").await;
    fixture.put(RBAC, "ClusterRole", "", "local-updater", updater).await;
    fixture.bind("team", "carl", "local-updater").await;
    let project = |role: &str, sessions: u64| json!({"spec": {"members": [{"kind": "User", "name": "bob", "role": role}], "quota": {"sessions": sessions}}});
    let old = project("viewer", 5);
    let what = "update m:projects /team";
    let (ann, boss, carl) = (user("ann"), user("boss"), user("carl"));
    let table = [
        (&ann, project("owner", 5), true, "an owner makes owners"),
        (&ann, project("viewer", 6), false, "an owner does not raise the quota"),
        (&carl, project("viewer", 5), true, "nothing changed"),
        (&carl, project("owner", 5), false, "whoever is no owner makes none"),
        (&carl, json!({"spec": {"quota": {"sessions": 5}}}), true, "a member may be removed"),
        (&carl, json!({"spec": {}}), false, "the quota may not be removed"),
        (&boss, project("viewer", 6), true, "from above"),
        (&boss, project("owner", 5), false, "even from above nobody grants what they do not hold"),
        (&Identity::admin(), project("owner", 9), true, "the administrator"),
    ];
    for (who, new, allowed, why) in table {
        assert_eq!(admit(&fixture, who, what, Some(&old), &new).await, allowed, "{why}");
    }
    assert!(admit(&fixture, &carl, "create m:projects", None, &project("owner", 1)).await, "a new project");
}
