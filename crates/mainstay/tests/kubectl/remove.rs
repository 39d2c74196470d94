//! `delete` and `wait`.

use super::*;

fn owned(name: &str, uid: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  ownerReferences:\n  \
         - {{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}, blockOwnerDeletion: true}}\n"
    )
}

fn owner_and_child(kubectl: &Kubectl) {
    kubectl.input("create -f -", &config("owner", "1")).ok();
    let uid = kubectl.run("get cm owner -o jsonpath={.metadata.uid}").ok();
    kubectl.input("create -f -", &owned("child", &uid)).ok();
}

#[test]
fn dependents_follow_as_the_cascade_says() {
    let kubectl = Kubectl::new();
    let gone = "configmap \"owner\" deleted from default namespace\n";
    owner_and_child(&kubectl);
    assert_eq!(kubectl.run("delete cm owner --cascade=foreground").ok(), gone);
    kubectl.run("get cm child").failed(1, "configmaps \"child\" not found");
    owner_and_child(&kubectl);
    assert_eq!(kubectl.run("delete cm owner --cascade=background").ok(), gone);
    kubectl.run("wait --for=delete cm/child --timeout=30s").ok();
    owner_and_child(&kubectl);
    assert_eq!(kubectl.run("delete cm owner --cascade=orphan").ok(), gone);
    let child = kubectl.json("cm child");
    assert!(child["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty), "{child}");
    assert_eq!(
        kubectl.run("delete cm child --dry-run=server").ok(),
        "configmap \"child\" deleted from default namespace (server dry run)\n"
    );
    kubectl.run("get cm child").ok();
    assert_eq!(kubectl.run("delete cm --all -o name").ok(), "configmap/child\n");
    assert_eq!(kubectl.run("delete cm none --ignore-not-found").ok(), "");
    kubectl.run("delete cm none").failed(1, "configmaps \"none\" not found");
}

#[test]
fn a_delete_waits_for_finalizers() {
    let kubectl = Kubectl::new();
    kubectl
        .input("create -f -", &config("held", "1").replace("labels:", "finalizers: [example.org/hold], labels:"))
        .ok();
    assert_eq!(kubectl.run("delete cm held --wait=false").ok(), "configmap \"held\" deleted from default namespace\n");
    kubectl.run("delete cm held --timeout=1s").failed(1, "timed out waiting for the condition");
    kubectl.run("wait --for=jsonpath={.metadata.deletionTimestamp} cm/held --timeout=10s").ok();
    let waiting = kubectl.follow("wait --for=delete cm/held --timeout=60s");
    kubectl.run("patch cm held --type=merge -p {\"metadata\":{\"finalizers\":null}}").ok();
    assert_eq!(waiting.rest().1, Some(0));
    kubectl.run("get cm held").failed(1, "not found");
}

#[test]
fn wait_sees_conditions_fields_and_ends() {
    let kubectl = Kubectl::new();
    let waiting = kubectl.follow("wait --for=create project/web --timeout=60s");
    kubectl.input("create -f -", super::PROJECTS).ok();
    assert_eq!(waiting.rest(), (vec!["project.mainstay.dev/web condition met".to_owned()], Some(0)));
    kubectl.run("wait --for=condition=Ready projects --all --timeout=30s").ok();
    kubectl.input("create -f -", &session("web", "s", ECHO)).ok();
    kubectl.run("wait -n web --for=condition=Ready session/s --timeout=60s").ok();
    kubectl.run("wait -n web --for=jsonpath={.status.phase}=Running session -l app=s --timeout=60s").ok();
    kubectl.run("wait -n web --for=condition=Finished session/s --timeout=1s").failed(1, "timed out waiting");
    let finished = kubectl.follow("wait -n web --for=condition=Finished session/s --timeout=60s");
    kubectl.run("patch session s -n web --type=merge -p {\"spec\":{\"desiredState\":\"Stopped\"}}").ok();
    assert_eq!(finished.rest().1, Some(0));
    kubectl.run("wait -n web --for=condition=Ready=false session/s --timeout=60s").ok();
    let gone = kubectl.follow("wait --for=delete project/web --timeout=60s");
    assert_eq!(kubectl.run("delete projects --all").ok().lines().count(), 2);
    assert_eq!(gone.rest().1, Some(0));
    kubectl.run("get ns web").failed(1, "namespaces \"web\" not found");
    kubectl.run("delete namespace default").failed(1, "this namespace may not be deleted");
}
