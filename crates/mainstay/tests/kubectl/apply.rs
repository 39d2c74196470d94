//! `apply` and what belongs to it: created, configured, unchanged, dry runs, diff.

use super::*;

#[test]
fn apply_creates_configures_and_leaves_alone() {
    let kubectl = Kubectl::new();
    let file = kubectl.server.scratch().join("projects.yaml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let line = |verb: &str| kubectl.run(&format!("{verb} -f {}", file.display()));
    write(super::PROJECTS);
    let said = |words: &str| format!("project.mainstay.dev/web {words}\nproject.mainstay.dev/shop {words}\n");
    assert_eq!(line("apply").ok(), said("created"));
    kubectl.run("wait --for=condition=Ready project/web project/shop --timeout=30s").ok();
    let before = kubectl.json("project web");
    assert_eq!(line("apply").ok(), said("unchanged"));
    assert_eq!(kubectl.json("project web"), before, "an apply without a change writes nothing");
    assert_eq!(line("diff").ok(), "");

    write(&super::PROJECTS.replace("displayName: Web", "displayName: Net, description: New"));
    let diff = line("diff").failed(1, "");
    assert!(diff.contains("-  displayName: Web\n") && diff.contains("+  displayName: Net\n"), "{diff}");
    assert!(line("apply --dry-run=server").ok().contains("project.mainstay.dev/web configured (server dry run)"));
    assert!(line("apply --dry-run=client").ok().contains("web configured (dry run)"));
    assert_eq!(kubectl.json("project web"), before, "neither diff nor a dry run writes");
    assert!(
        line("apply").ok().starts_with("project.mainstay.dev/web configured\nproject.mainstay.dev/shop unchanged\n")
    );
    let after = kubectl.json("project web");
    assert_eq!((&after["spec"]["displayName"], &after["spec"]["description"]), (&"Net".into(), &"New".into()));
    assert_eq!(after["metadata"]["generation"], 2);

    // What a manifest no longer says is taken away; what it never said stays.
    kubectl.run("annotate project web by=hand").ok();
    write(super::PROJECTS);
    line("apply").ok();
    let back = kubectl.json("project web");
    assert_eq!((&back["spec"]["description"], &back["metadata"]["annotations"]["by"]), (&Value::Null, &"hand".into()));
    assert!(kubectl.run("apply view-last-applied project web").ok().contains("displayName: Web"));
    assert!(line("delete").ok().contains("project.mainstay.dev \"shop\" deleted"));
}

#[test]
fn apply_takes_agents_credentials_and_sessions() {
    let kubectl = Kubectl::new();
    let manifest = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Agent\nmetadata: {{name: echo}}\nspec: {{command: [/bin/sh, -c, exit 0]}}\n---\n\
         apiVersion: mainstay.dev/v1alpha1\nkind: Credential\nmetadata: {{name: git}}\nspec: {{provider: github, email: a@b.c}}\n---\n{}",
        session("default", "s", "exit 0")
    );
    let created = kubectl.input("apply -f -", &manifest).ok();
    assert_eq!(
        created,
        "agent.mainstay.dev/echo created\ncredential.mainstay.dev/git created\nsession.mainstay.dev/s created\n"
    );
    assert_eq!(kubectl.input("apply -f -", &manifest).ok(), created.replace("created", "unchanged"));
    kubectl.run("wait --for=jsonpath={.status.phase}=Completed session/s --timeout=60s").ok();
    // A finished session is not run again by an apply.
    assert_eq!(kubectl.input("apply -f -", &manifest).ok(), created.replace("created", "unchanged"));
    assert_eq!(kubectl.json("session s")["status"]["attempts"], 1);
}

#[test]
fn replace_and_create_say_what_stands_in_the_way() {
    let kubectl = Kubectl::new();
    assert_eq!(kubectl.input("create -f -", &config("c", "1")).ok(), "configmap/c created\n");
    kubectl.input("create -f -", &config("c", "1")).failed(1, "configmaps \"c\" already exists");
    assert_eq!(kubectl.input("replace -f -", &config("c", "2")).ok(), "configmap/c replaced\n");
    let old = kubectl.run("get cm c -o yaml").ok();
    assert_eq!(kubectl.input("replace -f -", &config("c", "3")).ok(), "configmap/c replaced\n");
    kubectl.input("replace -f -", &old).failed(1, "the object has been modified");
    assert_eq!(
        kubectl.input("replace --force -f -", &config("c", "4")).ok_with(""),
        "configmap \"c\" deleted from default namespace\nconfigmap/c replaced\n"
    );
    assert_eq!(kubectl.run("get cm c -o jsonpath={.data.a}").ok(), "4");
    kubectl.input("replace -f -", &config("none", "1")).failed(1, "configmaps \"none\" not found");
    assert_eq!(
        kubectl.input("create --dry-run=server -f -", &config("d", "1")).ok(),
        "configmap/d created (server dry run)\n"
    );
    kubectl.run("get cm d").failed(1, "NotFound");
}
