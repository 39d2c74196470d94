//! `get` in every form, and `get -w`.

use super::*;

/// The columns of a table, and its rows, without ages.
fn table(text: &str) -> Vec<Vec<&str>> {
    let cut = |line| {
        let mut cells: Vec<&str> = str::split_whitespace(line).collect();
        cells.pop();
        cells
    };
    text.lines().map(cut).collect()
}

#[test]
fn tables_have_the_columns_of_the_kind() {
    let kubectl = Kubectl::with_projects();
    let rows = [vec!["NAME", "PHASE", "DISPLAY", "NAME"], vec!["shop", "Active", "Shop"], vec!["web", "Active", "Web"]];
    assert_eq!(table(&kubectl.run("get projects").ok()), rows);
    assert_eq!(table(&kubectl.run("get proj web").ok()), [rows[0].clone(), rows[2].clone()]);
    let wide = kubectl.run("get project shop -o wide").ok();
    assert_eq!(table(&wide)[0], ["NAME", "PHASE", "DISPLAY", "NAME", "MEMBERS", "DEFAULT", "AGENT"]);
    assert_eq!(table(&wide)[1], ["shop", "Active", "Shop", "1"]);
    assert_eq!(table(&kubectl.run("get proj --no-headers").ok()).len(), 2);

    kubectl.input("create -f -", &(session("web", "a", ECHO) + &session("shop", "b", "exit 3"))).ok();
    kubectl.run("wait -n web --for=jsonpath={.status.phase}=Running session/a --timeout=60s").ok();
    kubectl.run("wait -n shop --for=jsonpath={.status.phase}=Failed session/b --timeout=60s").ok();
    let all = kubectl.run("get sessions -A").ok();
    let head = ["NAMESPACE", "NAME", "PHASE", "AGENT", "MESSAGES"];
    assert_eq!(table(&all)[0], head);
    assert_eq!(
        (&table(&all)[1][..3], &table(&all)[2][..3]),
        (&["shop", "b", "Failed"][..], &["web", "a", "Running"][..])
    );
    let wide = kubectl.run("get sess -n shop -o wide").ok();
    assert!(wide.contains("REASON") && wide.contains("b-1") && wide.contains(" 3 "), "{wide}");
    let category = kubectl.run("get mainstay -A").ok();
    for name in ["project.mainstay.dev/web", "project.mainstay.dev/shop", "session.mainstay.dev/a"] {
        assert!(category.contains(name), "{name}: {category}");
    }
    assert!(kubectl.run("get all -n web").ok().contains("a-1"));
    assert_eq!(kubectl.run("get sess").ok_with("No resources found in default namespace."), "");
}

#[test]
fn every_output_format_is_understood() {
    let kubectl = Kubectl::with_projects();
    assert_eq!(kubectl.run("get proj -o name").ok(), "project.mainstay.dev/shop\nproject.mainstay.dev/web\n");
    let yaml = kubectl.run("get proj web -o yaml").ok();
    for line in ["apiVersion: mainstay.dev/v1alpha1\n", "kind: Project\n", "  displayName: Web\n", "  phase: Active\n"]
    {
        assert!(yaml.contains(line), "{line}: {yaml}");
    }
    let list = kubectl.json("proj");
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&"List".into(), 2));
    let project = kubectl.json("proj shop");
    assert_eq!(project["spec"]["members"][0]["name"], "ann");
    assert_eq!(kubectl.run("get proj -o jsonpath={.items[*].spec.displayName}").ok(), "Shop Web");
    assert_eq!(kubectl.run("get proj web -o jsonpath={.status.conditions[?(@.type==\"Ready\")].status}").ok(), "True");
    let columns = kubectl.run("get proj -o custom-columns=N:.metadata.name,T:.metadata.labels.team").ok();
    assert_eq!(columns, "N      T\nshop   b\nweb    a\n");
    assert_eq!(kubectl.run("get proj web -o go-template={{.spec.displayName}}").ok(), "Web");
    let labels = kubectl.run("get proj -L team --show-labels").ok();
    assert!(labels.lines().next().unwrap().ends_with("TEAM   LABELS") && labels.contains("team=a"), "{labels}");
    let ready = kubectl.run("get --raw /readyz?verbose").ok();
    for part in ["store", "rights", "controllers", "node-agent"] {
        assert!(ready.contains(&format!("[+]{part} ok")), "{ready}");
    }
}

#[test]
fn selectors_pages_and_orders_are_the_servers_and_kubectls() {
    let kubectl = Kubectl::new();
    kubectl.input("create -f -", &(config("c", "1") + &config("a", "3") + &config("b", "2"))).ok();
    let names = |line: &str| kubectl.run(&format!("get cm -o name {line}")).ok();
    let all = "configmap/a\nconfigmap/b\nconfigmap/c\n";
    assert_eq!(names(""), all);
    assert_eq!(names("--chunk-size=1"), all);
    assert_eq!(names("--chunk-size=2 -l app!=z"), all);
    assert_eq!(names("-l app=b"), "configmap/b\n");
    assert_eq!(names("--selector=app!=b"), "configmap/a\nconfigmap/c\n");
    assert_eq!(
        kubectl.exact(&["get", "cm", "-o", "name", "-l", "app in (a, c),app notin (a)"], "").ok(),
        "configmap/c\n"
    );
    assert_eq!(names("-l !app"), "");
    assert_eq!(names("--field-selector metadata.name=c"), "configmap/c\n");
    assert_eq!(names("--field-selector metadata.name!=c,metadata.namespace=default"), "configmap/a\nconfigmap/b\n");
    let sorted = kubectl.run("get cm --sort-by=.data.a --no-headers").ok();
    let order: Vec<&str> = sorted.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(order, ["c", "b", "a"]);
    assert_eq!(table(&kubectl.run("get cm --chunk-size=1").ok()).len(), 4);
}

#[test]
fn a_watch_shows_what_is_there_and_then_each_change() {
    let kubectl = Kubectl::with_projects();
    let list = kubectl.follow("get sessions -n web -w --no-headers -L app");
    let one = kubectl.follow("get project web -w -o jsonpath={.spec.displayName}{\"\\n\"}");
    let kinds = kubectl.follow("get projects -w --output-watch-events");
    assert_eq!(one.line(), "Web");
    kubectl.run("patch project web --type=merge -p {\"spec\":{\"displayName\":\"Net\"}}").ok();
    one.until("Net");
    kubectl.input("create -f -", &session("web", "s", ECHO)).ok();
    list.until("Running");
    kubectl.run("label session s -n web app=later --overwrite").ok();
    list.until("later");
    kubectl.run("delete session s -n web").ok();
    kubectl.run("delete project shop").ok();
    kinds.until("DELETED");
    // Selectors hold for changes too: leaving the selection is a deletion.
    let selected = kubectl.follow("get projects -l team=a -w --output-watch-events");
    assert!(selected.until("ADDED").contains("web"));
    kubectl.run("label project web team=c --overwrite").ok();
    assert!(selected.until("DELETED").contains("web"));
}
