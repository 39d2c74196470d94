//! Operations: read, cancelled, replayed and deleted as kubectl does it.

use super::*;

/// An operation that is not due in this test.
fn later(name: &str, more: &str) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Operation\nmetadata: {{name: {name}{more}}}\n\
         spec: {{handler: drill, payload: {{n: 1}}, runAt: \"2999-01-01T00:00:00Z\"}}\n---\n"
    )
}

/// The metadata by which it serves a project.
fn owned_by(kubectl: &Kubectl, project: &str) -> String {
    let uid = kubectl.json(&format!("project {project}"))["metadata"]["uid"].clone();
    format!(
        ", ownerReferences: [{{apiVersion: mainstay.dev/v1alpha1, kind: Project, name: {project}, uid: {uid}, controller: true}}]"
    )
}

#[test]
fn operations_are_shown() {
    let kubectl = Kubectl::new();
    assert_eq!(kubectl.input("create -f -", &later("a", "")).ok(), "operation.mainstay.dev/a created\n");
    let table = kubectl.run("get ops").ok();
    assert_eq!(squeezed(table.lines().next().unwrap()), "NAME HANDLER PHASE ATTEMPTS REASON AGE");
    assert!(squeezed(&table).contains("a drill Waiting 0 NotDue"), "{table}");
    assert!(kubectl.run("get op a -o wide").ok().contains("OWNER"));
    let yaml = kubectl.run("get operation a -o yaml").ok();
    assert!(yaml.contains("phase: Waiting") && yaml.contains("its spec.runAt lies ahead"), "{yaml}");
    let described = squeezed(&kubectl.run("describe operation a").ok());
    assert!(described.contains("Handler: drill") && described.contains("Reason: NotDue"), "{described}");
    assert_eq!(kubectl.run("get ops --field-selector spec.handler=drill -o name").ok(), "operation.mainstay.dev/a\n");
    assert_eq!(kubectl.run("get ops --field-selector status.phase=Dead -o name").ok(), "");
    assert!(kubectl.run("get mainstay -o name").ok().contains("operation.mainstay.dev/a"));
    assert!(kubectl.run("explain operation.spec.runAt").ok().contains("Not before this time"));
}

#[test]
fn an_order_is_cancelled_and_otherwise_stays() {
    let kubectl = Kubectl::new();
    kubectl.input("create -f -", &later("a", "")).ok();
    let patch = |patch: &str| kubectl.exact(&["patch", "op", "a", "--type=merge", "-p", patch], "");
    patch(r#"{"spec":{"handler":"other"}}"#).failed(1, "spec.handler: Forbidden: stays as it was created");
    patch(r#"{"spec":{"replays":1}}"#).failed(1, "it has not died: only a dead letter is replayed");
    let status = r#"{"status":{"phase":"Dead"}}"#;
    kubectl
        .exact(&["patch", "op", "a", "--type=merge", "--subresource=status", "-p", status], "")
        .failed(1, "its status is written by the queue");
    assert_eq!(patch(r#"{"spec":{"cancelled":true}}"#).ok(), "operation.mainstay.dev/a patched\n");
    assert_eq!(kubectl.json("op a")["spec"]["cancelled"], true);
    patch(r#"{"spec":{"cancelled":false}}"#).failed(1, "spec.cancelled: Forbidden: cannot be taken back");
    kubectl.input("apply -f -", &later("b", "")).ok();
    assert_eq!(kubectl.input("apply -f -", &later("b", "")).ok(), "operation.mainstay.dev/b unchanged\n");
}

#[test]
fn one_that_somebody_waits_for_is_not_deleted() {
    let kubectl = Kubectl::with_projects();
    kubectl.input("create -f -", &later("a", &owned_by(&kubectl, "web"))).ok();
    kubectl.run("delete op a").failed(1, "it has not ended, and Project \"web\" waits for it: cancel it first");
    assert!(kubectl.json("op a")["metadata"]["deletionTimestamp"].is_null());
    kubectl.input("create -f -", &later("b", "")).ok();
    kubectl.run("delete op b --wait=false").ok();
    let unknown = later("c", ", ownerReferences: [{apiVersion: v9, kind: Castle, name: c, uid: u, controller: true}]");
    kubectl.input("create -f -", &unknown).failed(1, "has no such kind");
}

#[test]
fn a_list_is_created_in_one_request() {
    let kubectl = Kubectl::new();
    let item = |name: &str| serde_json::json!({"metadata": {"name": name}, "spec": {"handler": "drill", "runAt": "2999-01-01T00:00:00Z"}});
    let list = serde_json::json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "OperationList", "items": [item("a"), item("b")]});
    let path = "/apis/mainstay.dev/v1alpha1/namespaces/default/operations";
    let made = kubectl.exact(&["create", "--raw", path, "-f", "-"], &list.to_string()).ok();
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["items"][1]["metadata"]["name"], "b");
    assert_eq!(kubectl.run("get ops -o name").ok().lines().count(), 2);
}

#[test]
fn a_dead_letter_is_replayed_and_deleted() {
    let kubectl = Kubectl::new();
    let nobody = "apiVersion: mainstay.dev/v1alpha1\nkind: Operation\nmetadata: {name: a}\nspec: {handler: nobody}\n";
    kubectl.input("create -f -", nobody).ok();
    let dead = |attempts: u32| {
        kubectl.run(&format!("wait --for=jsonpath={{.status.attempts}}={attempts} op/a --timeout=30s")).ok();
        kubectl.run("wait --for=jsonpath={.status.phase}=Dead op/a --timeout=30s").ok();
        kubectl.json("op a")
    };
    assert_eq!(dead(1)["status"]["reason"], "UnknownHandler");
    assert_eq!(kubectl.run("get ops --field-selector status.phase=Dead -o name").ok(), "operation.mainstay.dev/a\n");
    let replay = ["patch", "op", "a", "--type=merge", "-p", r#"{"spec":{"replays":1}}"#];
    assert_eq!(kubectl.exact(&replay, "").ok(), "operation.mainstay.dev/a patched\n");
    assert_eq!(dead(2)["spec"]["replays"], 1);
    kubectl
        .exact(&["patch", "op", "a", "--type=merge", "-p", r#"{"spec":{"cancelled":true}}"#], "")
        .failed(1, "spec.cancelled: Forbidden: it has ended already: it is Dead");
    let deleted = kubectl.run("delete op a").ok();
    assert!(deleted.starts_with("operation.mainstay.dev \"a\" deleted"), "{deleted}");
    kubectl.run("get op a").failed(1, "not found");
}
