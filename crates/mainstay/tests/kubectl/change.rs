//! `patch`, `label`, `annotate`.

use super::*;

#[test]
fn merge_and_json_patches_change_what_they_name() {
    let kubectl = Kubectl::with_projects();
    let patch = |kind: &str, patch: &str| kubectl.exact(&["patch", "project", "web", kind, "-p", patch], "");
    let merged = patch("--type=merge", r#"{"spec":{"description":"d","quota":{"running":2}}}"#).ok();
    assert_eq!(merged, "project.mainstay.dev/web patched\n");
    assert_eq!(
        patch("--type=merge", r#"{"spec":{"description":"d"}}"#).ok(),
        "project.mainstay.dev/web patched (no change)\n"
    );
    let json = r#"[{"op":"test","path":"/spec/description","value":"d"},{"op":"remove","path":"/spec/description"}]"#;
    patch("--type=json", json).ok();
    patch("--type=json", json).failed(1, "");
    let project = kubectl.json("project web");
    assert_eq!((&project["spec"]["description"], &project["spec"]["quota"]["running"]), (&Value::Null, &2.into()));
    patch("--type=merge", r#"{"spec":{"quota":{"running":"many"}}}"#).failed(1, "spec.quota.running");
    patch("--type=merge", r#"{"metadata":{"name":"other"}}"#).failed(1, "");
    patch("--type=merge", r#"{"metadata":{"uid":"other"}}"#).failed(1, "");
    assert_eq!(kubectl.json("project web")["spec"], project["spec"]);
    kubectl.input("create -f -", &config("c", "1")).ok();
    kubectl.run("patch cm c --type=merge -p {\"data\":{\"a\":null,\"b\":\"2\"}}").ok();
    assert_eq!(kubectl.run("get cm c -o jsonpath={.data}").ok(), r#"{"b":"2"}"#);
}

#[test]
fn a_status_is_written_on_its_own_path_only() {
    let kubectl = Kubectl::new();
    kubectl.input("create -f -", &session("default", "s", "exit 0")).ok();
    kubectl.run("wait --for=jsonpath={.status.phase}=Completed session/s --timeout=60s").ok();
    let before = kubectl.json("session s");
    let status = r#"{"status":{"phase":"Running"}}"#;
    kubectl.exact(&["patch", "session", "s", "--type=merge", "-p", status], "").ok();
    assert_eq!(kubectl.json("session s")["status"], before["status"], "a status on the main path is ignored");
    kubectl
        .exact(&["patch", "session", "s", "--type=merge", "--subresource=status", "-p", status], "")
        .failed(1, "a session that is Completed may not become Running");
    let back = r#"{"spec":{"run":2}}"#;
    kubectl.exact(&["patch", "session", "s", "--type=merge", "-p", back], "").ok();
    kubectl.run("wait --for=jsonpath={.status.attempts}=2 session/s --timeout=60s").ok();
    kubectl
        .exact(&["patch", "session", "s", "--type=merge", "-p", r#"{"spec":{"run":1}}"#], "")
        .failed(1, "must not go back: run 2 was asked for already");
}

#[test]
fn labels_and_annotations_come_and_go() {
    let kubectl = Kubectl::with_projects();
    assert_eq!(kubectl.run("label project web tier=front").ok(), "project.mainstay.dev/web labeled\n");
    kubectl.run("label project web tier=back").failed(1, "already has a value (front), and --overwrite is false");
    kubectl.run("label project web tier=back --overwrite").ok();
    assert_eq!(kubectl.run("get proj -l tier=back -o name").ok(), "project.mainstay.dev/web\n");
    assert_eq!(kubectl.run("label project web tier-").ok(), "project.mainstay.dev/web unlabeled\n");
    assert_eq!(kubectl.run("get proj -l tier -o name").ok(), "");
    kubectl.run("label project --all both=yes").ok();
    assert_eq!(kubectl.run("get proj -l both=yes -o name").ok().lines().count(), 2);
    assert_eq!(kubectl.run("annotate project web note=x").ok(), "project.mainstay.dev/web annotated\n");
    assert_eq!(kubectl.run("annotate project web note-").ok(), "project.mainstay.dev/web annotated\n");
    kubectl.exact(&["label", "project", "web", "a=b c"], "").failed(1, "b c");
    assert_eq!(kubectl.json("project web")["metadata"]["generation"], 1, "neither is a change of the spec");
}
