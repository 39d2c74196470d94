use super::*;

#[test]
fn r6_created_configured_and_unchanged_are_true() {
    let server = server();
    let manifest = config("a", "{x: '1', y: '2'}") + &config("b", "{x: '1'}");
    assert_eq!(apply(&server, &manifest).ok(), "configmap/a created\nconfigmap/b created\n");
    let revision = || json(&run(&server, "get cm a -o json").ok())["metadata"]["resourceVersion"].clone();
    let before = revision();
    assert_eq!(apply(&server, &manifest).ok(), "configmap/a unchanged\nconfigmap/b unchanged\n");
    assert_eq!(revision(), before, "nothing was written");

    // Only the field that is taken out is cleared; what somebody else set stays.
    let patched = server.command(&["apply", "-f", "-", "--dry-run=client"]);
    assert_eq!(finish(patched, &config("a", "{x: '9'}")).ok(), "configmap/a configured (client dry run)\n");
    let patched = server.command(&["apply", "-f", "-", "--dry-run=server"]);
    assert_eq!(finish(patched, &config("a", "{x: '9'}")).ok(), "configmap/a configured (server dry run)\n");
    assert_eq!(revision(), before, "a dry run writes nothing");
    assert_eq!(apply(&server, &config("a", "{x: '1'}")).ok(), "configmap/a configured\n");
    assert_eq!(json(&run(&server, "get cm a -o json").ok())["data"], serde_json::json!({"x": "1"}));

    // What `get` shows can be applied as it is.
    let exported = run(&server, "get cm -o yaml").ok();
    assert!(apply(&server, &exported).ok().lines().all(|line| line.ends_with(" unchanged")), "{exported}");
}

/// R5.
#[test]
fn a_credentials_token_is_expanded_sent_and_never_shown() {
    let server = server();
    let manifest = "apiVersion: mainstay.dev/v1alpha1\nkind: Credential\nmetadata: {name: c}\nspec:\n  provider: github\n  token: ${TOKEN}\n";
    let with = |token: Option<&str>| {
        let mut command = server.command(&["apply", "-f", "-"]);
        command.env_remove("TOKEN").envs(token.map(|token| ("TOKEN", token)));
        finish(command, manifest)
    };
    let unset = with(None).failed(2);
    assert_eq!(unset, "error: <stdin>:6: spec.token: the environment variable TOKEN is not set\n");
    assert_eq!(run(&server, "get credential c").code, Some(3), "nothing was created");
    assert_eq!(with(Some("s3cret-one")).ok(), "credential.mainstay.dev/c created\n");
    assert_eq!(with(Some("s3cret-one")).ok(), "credential.mainstay.dev/c unchanged\n");
    assert_eq!(with(Some("s3cret-two")).ok(), "credential.mainstay.dev/c configured\n");
    for line in ["get creds -o yaml", "get creds -o json", "describe cred c", "get creds -o wide", "apply -f x"] {
        let done = run(&server, line);
        assert!(!done.out.contains("s3cret") && !done.err.contains("s3cret"), "{line}: {done:?}");
    }
    assert!(!server.log_text().contains("s3cret"), "{}", server.log_text());
}

/// R22.
#[test]
fn one_failure_does_not_stop_the_others_and_has_its_place() {
    let server = server();
    let wrong = "apiVersion: mainstay.dev/v1alpha1\nkind: Session\nmetadata:\n  name: s\nspec:\n  command: [x]\n  workspace: {size: tiny}\n---\n";
    let unknown = "apiVersion: mainstay.dev/v1alpha1\nkind: Gadget\nmetadata: {name: g}\n---\n";
    let done = apply(&server, &(wrong.to_owned() + unknown + &config("a", "{}")));
    assert_eq!(done.out, "configmap/a created\n");
    let said = done.failed(1);
    for part in [
        "<stdin>:7: spec.workspace.size",
        "the server has no kind Gadget in mainstay.dev/v1alpha1",
        "2 of 3 objects were not applied",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = apply(&server, wrong).failed(4);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("error: <stdin>:1: Session s: ") && lines[0].contains("\"tiny\": must be"), "{said}");
    assert_eq!(lines[1..], ["  <stdin>:7: spec.workspace.size"], "said once, with its place");
    let misspelt = "apiVersion: mainstay.dev/v1alpha1\nkind: Agent\nmetadata: {name: a}\nspec:\n  promt: x\n";
    let said = apply(&server, misspelt).failed(4);
    assert!(said.contains("promt"), "{said}");
    let cluster = "apiVersion: mainstay.dev/v1alpha1\nkind: Project\nmetadata: {name: p, namespace: x}\nspec: {}\n";
    assert!(apply(&server, cluster).failed(2).contains("is not in any namespace"));
}

/// R2.
#[test]
fn a_project_and_what_is_in_it_go_in_one_manifest() {
    let server = server();
    let manifest = "apiVersion: mainstay.dev/v1alpha1\nkind: Agent\nmetadata: {name: a, namespace: team}\nspec: {command: [/bin/true]}\n\
        ---\napiVersion: mainstay.dev/v1alpha1\nkind: Project\nmetadata: {name: team}\nspec: {description: d}\n";
    let done = apply(&server, manifest).ok();
    assert_eq!(done, "project.mainstay.dev/team created\nagent.mainstay.dev/a created\n");
    assert_eq!(run(&server, "get agents -A -o name").ok(), "agent.mainstay.dev/a\n");
}

#[test]
fn a_folder_and_a_kustomization_are_applied() {
    let server = server();
    let root = server.scratch().join("m");
    std::fs::create_dir_all(root.join("base")).unwrap();
    std::fs::write(root.join("base/a.yaml"), config("a", "{x: '1'}")).unwrap();
    std::fs::write(root.join("base/kustomization.yaml"), "resources: [a.yaml]\n").unwrap();
    let patch = "resources: [base]\npatches:\n- target: {kind: ConfigMap}\n  patch: '[{op: add, path: /data/y, value: \"2\"}]'\n";
    std::fs::write(root.join("kustomization.yaml"), patch).unwrap();
    let path = root.to_str().unwrap();
    assert_eq!(finish(server.command(&["apply", "-k", path]), "").ok(), "configmap/a created\n");
    assert_eq!(json(&run(&server, "get cm a -o json").ok())["data"], serde_json::json!({"x": "1", "y": "2"}));
    assert!(finish(server.command(&["apply", "-f", path]), "").failed(2).contains("use -k"));
    let results = finish(server.command(&["apply", "-k", path, "-o", "json"]), "").ok();
    assert_eq!(json(&results)["results"][0]["result"], "unchanged");
    assert_eq!(finish(server.command(&["delete", "-k", path]), "").ok(), "configmap/a deleted\n");
}
