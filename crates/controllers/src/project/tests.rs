use std::fmt::Write;

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn project(changes: &Value) -> Project {
    let mut object = json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Project",
        "metadata": { "name": "demo", "uid": "p-1", "generation": 1, "finalizers": ["mainstay.dev/project"] },
        "spec": {}, "status": { "phase": "Pending" },
    });
    json_patch::merge(&mut object, changes);
    serde_json::from_value(object).unwrap()
}

fn namespace(owner: &str, deleting: bool) -> Namespace {
    let owner = json!([{ "apiVersion": "v", "kind": "Project", "name": "demo", "uid": owner }]);
    let deleted = deleting.then_some(NOW);
    let object =
        json!({ "metadata": { "name": "demo", "uid": "n-1", "ownerReferences": owner, "deletionTimestamp": deleted } });
    serde_json::from_value(object).unwrap()
}

fn words(project: &Project, observed: &Observed) -> String {
    let plan = ProjectReconciler::plan(project, observed, NOW.parse().unwrap());
    assert_eq!(plan.next, Next::AwaitChange);
    plan.actions.iter().fold(String::new(), |mut words, action| {
        match action {
            Action::Bind(binding) => write!(words, "bind {}", binding.metadata.name.as_deref().unwrap()),
            Action::Mark(binding) => write!(words, "mark {}", binding.metadata.name.as_deref().unwrap()),
            Action::Unbind(binding) => write!(words, "unbind {}", binding.metadata.name.as_deref().unwrap()),
            Action::WriteStatus(said) => {
                let reasons: Vec<&str> = said.conditions.iter().map(|condition| &*condition.reason).collect();
                write!(words, "{:?} {}", said.phase, reasons.join("+"))
            }
            Action::Order(operation) => write!(words, "order {}", operation.metadata.name.as_deref().unwrap()),
            Action::SetQuota(body, new) => write!(words, "quota {} {new}", body["spec"]["hard"]),
            other => write!(words, "{other:?}"),
        }
        .unwrap();
        words.push_str("; ");
        words
    })
}

fn ready() -> Observed {
    Observed { namespace: Some(namespace("p-1", false)), has_account: true, ..Observed::default() }
}

/// R2.
#[test]
fn a_project_gets_the_namespace_of_its_name() {
    assert_eq!(words(&project(&json!({})), &Observed::default()), "CreateNamespace; CreateAccount; Active Active; ");
    assert_eq!(words(&project(&json!({})), &ready()), "Active Active; ");
    let made = Desired::of(&project(&json!({}))).namespace();
    assert_eq!(made["metadata"]["labels"]["mainstay.dev/project"], "demo");
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "p-1");
}

#[test]
fn a_foreign_namespace_is_never_adopted() {
    let taken = Observed { namespace: Some(namespace("somebody", false)), ..Observed::default() };
    assert_eq!(words(&project(&json!({ "spec": { "quota": { "running": 1 } } })), &taken), "Pending NamespaceTaken; ");
    let going = Observed { namespace: Some(namespace("p-1", true)), ..Observed::default() };
    assert_eq!(words(&project(&json!({})), &going), "Pending NamespaceTerminating; ");
    let deleting = project(&json!({ "metadata": { "deletionTimestamp": NOW } }));
    assert_eq!(words(&deleting, &taken), "RemoveFinalizer; ", "R39: nor deleted");
}

/// R27.
#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let condition =
        json!([{ "type": "Ready", "status": "True", "reason": "Active", "message": "", "lastTransitionTime": NOW }]);
    let settled =
        project(&json!({ "status": { "phase": "Active", "observedGeneration": 1, "conditions": condition } }));
    assert_eq!(words(&settled, &ready()), "");
}

/// R51: who is no longer a member, or has another role, loses the binding.
#[test]
fn members_are_bound_and_others_are_not() {
    let members = |members: &Value| project(&json!({ "spec": { "members": members } }));
    let ann = members(&json!([{ "name": "ann@x.org", "role": "owner" }]));
    let made = words(&ann, &ready());
    assert_eq!(
        made,
        "bind owner-user-ann-x-org-f44f9c4b2d3f9c58; Active Active; ".replace("f44f9c4b2d3f9c58", &code(&made))
    );
    let bound = |project: &Project| {
        let plan = ProjectReconciler::plan(project, &ready(), NOW.parse().unwrap());
        let mut bindings = Vec::new();
        for action in plan.actions {
            if let Action::Bind(mut binding) = action {
                binding.metadata.uid = Some("b-1".to_owned());
                bindings.push(*binding);
            }
        }
        Observed { bindings, ..ready() }
    };
    assert_eq!(words(&ann, &bound(&ann)), "Active Active; ", "bound already");
    assert!(words(&members(&json!([])), &bound(&ann)).starts_with("unbind owner-user-ann-x-org-"), "removed");
    let viewer = members(&json!([{ "name": "ann@x.org", "role": "viewer" }]));
    let changed = words(&viewer, &bound(&ann));
    assert!(changed.starts_with("unbind owner-") && changed.contains("; bind viewer-user-"), "{changed}");
    let mut meddled = bound(&ann);
    meddled.bindings[0].subjects.as_mut().unwrap()[0].name = "eve".to_owned();
    let mended = words(&ann, &meddled);
    assert!(mended.starts_with("unbind owner-") && mended.contains("; bind owner-user-"), "{mended}");
    let robot = members(&json!([{ "kind": "ServiceAccount", "name": "ci", "role": "editor" }]));
    let subject = bound(&robot).bindings[0].subjects.clone().unwrap().remove(0);
    assert_eq!((subject.kind.as_str(), subject.namespace.as_deref()), ("ServiceAccount", Some("demo")));
}

/// R51: an owner may change metadata; that makes no binding somebody else's.
#[test]
fn a_binding_is_the_projects_whatever_its_metadata_says() {
    let of = |members: &Value| project(&json!({ "spec": { "members": members } }));
    let ann = of(&json!([{ "name": "ann", "role": "owner" }]));
    let mut made = Desired::of(&ann).bindings(&[]);
    let Some(Action::Bind(binding)) = made.pop() else { panic!("{made:?}") };
    let found = |change: &dyn Fn(&mut RoleBinding)| {
        let mut binding = (*binding).clone();
        change(&mut binding);
        Observed { bindings: vec![binding], ..ready() }
    };
    let (nobody, active) = (of(&json!([])), "Active Active; ");
    for (what, observed) in [
        ("no label", found(&|one| one.metadata.labels = None)),
        ("no owner", found(&|one| one.metadata.owner_references = None)),
        ("neither", found(&|one| (one.metadata.labels, one.metadata.owner_references) = (None, None))),
        ("another owner", found(&|one| one.metadata.owner_references.as_mut().unwrap()[0].uid = "x".to_owned())),
    ] {
        let mended = words(&ann, &observed);
        assert!(mended.starts_with("mark owner-user-ann-"), "{what}: {mended}");
        let plan = Desired::of(&ann).bindings(&observed.bindings);
        let [Action::Mark(marked)] = plan.as_slice() else { panic!("{what}: {plan:?}") };
        assert_eq!(**marked, *binding, "{what}: as it was made");
        let removed = words(&nobody, &observed);
        assert!(removed.starts_with("unbind owner-user-ann-") && removed.ends_with(active), "{what}: {removed}");
    }
    let dying = found(&|one| {
        one.metadata.deletion_timestamp = Some(Time(NOW.parse().unwrap()));
        one.metadata.finalizers = Some(vec!["example.org/hold".to_owned()]);
    });
    let again = words(&ann, &dying);
    assert!(again.starts_with("unbind owner-") && again.contains("; bind owner-"), "held by a finalizer: {again}");
    let theirs = found(&|one| {
        one.metadata.name = Some("readers-user-x-0123456789abcdef".to_owned());
        (one.metadata.labels, one.metadata.owner_references) = (None, None);
    });
    assert_eq!(words(&nobody, &theirs), active, "one that the members made themselves");
}

/// The 16 digits after the last dash of the first word.
fn code(words: &str) -> String {
    words.split(';').next().unwrap().rsplit('-').next().unwrap().to_owned()
}

#[test]
fn different_members_never_share_a_binding() {
    let one = Desired::of(&project(&json!({}))).name().len();
    assert_eq!(one, 4);
    let twins = project(&json!({ "spec": { "members": [
        { "name": "a.b", "role": "owner" }, { "name": "a-b", "role": "owner" }, { "kind": "ServiceAccount", "name": "a-b", "role": "owner" },
    ] } }));
    let made = words(&twins, &ready());
    let mut names: Vec<&str> = made.split("; ").filter(|word| word.starts_with("bind ")).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 3, "{made}");
}

#[test]
fn the_quota_follows_the_project() {
    let limited = project(&json!({ "spec": { "quota": { "running": 2, "memory": "4Gi" } } }));
    assert_eq!(words(&limited, &ready()), "quota {\"limits.memory\":\"4Gi\",\"pods\":\"2\"} true; Active Active; ");
    let owner = json!([{ "apiVersion": "v", "kind": "Project", "name": "demo", "uid": "p-1" }]);
    let found = |hard: &Value| {
        let quota = json!({ "metadata": { "ownerReferences": owner }, "spec": { "hard": hard } });
        Observed { quota: Some(serde_json::from_value(quota).unwrap()), ..ready() }
    };
    assert_eq!(words(&limited, &found(&json!({ "limits.memory": "4Gi", "pods": "2" }))), "Active Active; ");
    let changed = words(&limited, &found(&json!({ "limits.cpu": "1", "pods": "2" })));
    assert_eq!(changed, "quota {\"limits.cpu\":null,\"limits.memory\":\"4Gi\",\"pods\":\"2\"} false; Active Active; ");
    assert_eq!(words(&project(&json!({})), &found(&json!({ "pods": "2" }))), "DropQuota; Active Active; ");
}

fn teardown(phase: &str) -> Operation {
    let object = json!({
        "metadata": { "name": "p-1-1-teardown", "namespace": "mainstay-system", "uid": "o-1" },
        "spec": { "handler": "project-teardown" }, "status": { "phase": phase, "reason": "Because" },
    });
    serde_json::from_value(object).unwrap()
}

/// R4: first its world is torn down, and only then is the project let go.
#[test]
fn deletion_is_an_operation() {
    let deleting = project(&json!({ "metadata": { "deletionTimestamp": NOW } }));
    assert_eq!(words(&deleting, &ready()), "Terminating Terminating; order p-1-1-teardown; ");
    let at = |phase: &str| Observed { teardown: Some(teardown(phase)), ..ready() };
    assert_eq!(words(&deleting, &at("Pending")), "Terminating Terminating; ");
    assert_eq!(words(&deleting, &at("Running")), "Terminating Terminating; ");
    // Its outcome is noted before the project goes.
    let gone = |phase: &str| Observed { namespace: None, ..at(phase) };
    let plan = ProjectReconciler::plan(&deleting, &gone("Succeeded"), NOW.parse().unwrap());
    let [Action::WriteStatus(said)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!((said.operations.len(), said.operations[0].phase), (1, OperationPhase::Succeeded));
    let noted = project(&json!({
        "metadata": { "deletionTimestamp": NOW },
        "status": serde_json::to_value(status_patch(&deleting, (**said).clone())).unwrap()["status"],
    }));
    assert_eq!(words(&noted, &gone("Succeeded")), "RemoveFinalizer; ");
    // A teardown that goes on though nothing is left to see is waited for.
    assert_eq!(words(&noted, &gone("Running")), "Terminating Terminating; ");
    assert_eq!(words(&deleting, &Observed::default()), "RemoveFinalizer; ");
}

#[test]
fn a_teardown_that_dies_blocks_the_project_and_says_so() {
    let deleting = project(&json!({ "metadata": { "deletionTimestamp": NOW } }));
    let dead = Observed { teardown: Some(teardown("Dead")), ..ready() };
    let plan = ProjectReconciler::plan(&deleting, &dead, NOW.parse().unwrap());
    let [Action::WriteStatus(said)] = &plan.actions[..] else { panic!("{plan:?}") };
    let blocked = &said.conditions[1];
    assert_eq!((&*blocked.type_, &*blocked.status, &*blocked.reason), ("Blocked", "True", "OperationDead"));
    assert!(blocked.message.contains("mainstay replay operation p-1-1-teardown"), "{}", blocked.message);
    let noted = project(&json!({
        "metadata": { "deletionTimestamp": NOW }, "status": status_patch(&deleting, (**said).clone())["status"],
    }));
    assert_eq!(words(&noted, &dead), "");
    let replayed = Observed { teardown: Some(teardown("Pending")), ..ready() };
    assert_eq!(words(&noted, &replayed), "Terminating Terminating+OperationOrdered; ");
}

/// A change while it is being deleted is a new generation, and another order.
#[test]
fn a_new_generation_orders_anew() {
    let changed = project(&json!({ "metadata": { "deletionTimestamp": NOW, "generation": 2 } }));
    assert!(words(&changed, &ready()).ends_with("order p-1-2-teardown; "));
}

/// What was ordered for the spec before ends, too, and can only go when that is noted.
#[test]
fn the_end_of_an_earlier_generations_teardown_is_noted() {
    let noted = |uid: &str, name: &str, phase: &str| json!({ "uid": uid, "name": name, "phase": phase });
    let changed = |operations: Value| {
        project(&json!({
            "metadata": { "deletionTimestamp": NOW, "generation": 2 }, "status": { "operations": operations },
        }))
    };
    let open = changed(json!([noted("o-1", "p-1-1-teardown", "Pending"), noted("o-0", "p-1-0-teardown", "Dead")]));
    let status = open.status.clone().unwrap();
    let looked_for = operation::open_of(&open.metadata, &status.operations, "p-1-2-teardown");
    assert_eq!(looked_for, [inside("mainstay-system", "p-1-1-teardown")]);
    let seen = Observed { earlier: vec![teardown("Cancelled")], ..ready() };
    let plan = ProjectReconciler::plan(&open, &seen, NOW.parse().unwrap());
    let [Action::WriteStatus(said), Action::Order(_)] = &plan.actions[..] else { panic!("{plan:?}") };
    let phases: Vec<_> = said.operations.iter().map(|one| (one.uid.as_str(), one.phase)).collect();
    assert_eq!(phases, [("o-0", OperationPhase::Dead), ("o-1", OperationPhase::Cancelled)]);
    assert!(operation::open_of(&open.metadata, &said.operations, "p-1-2-teardown").is_empty());
}

#[test]
fn what_has_no_room_in_the_status_is_deleted_while_it_is_known_to_have_ended() {
    let refs: Vec<Value> = (0..16)
        .map(|at| json!({ "uid": format!("o-{}", at + 10), "name": format!("old-{at}"), "phase": "Dead" }))
        .collect();
    let full = project(&json!({ "metadata": { "deletionTimestamp": NOW }, "status": { "operations": refs } }));
    let seen = Observed { teardown: Some(teardown("Running")), ..ready() };
    let plan = ProjectReconciler::plan(&full, &seen, NOW.parse().unwrap());
    let [Action::Forget(oldest), Action::WriteStatus(said)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!(oldest.name, "old-0");
    assert_eq!((said.operations.len(), said.operations[0].name.as_str()), (16, "old-1"));
    assert_eq!(said.operations[15].uid, "o-1");
}
