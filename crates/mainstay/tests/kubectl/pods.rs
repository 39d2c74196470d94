//! Pods, which a session's runs are: get, describe, wait, logs, delete.

use super::*;

#[test]
fn pods_are_seen_and_their_logs_read() {
    let kubectl = Kubectl::with_projects();
    kubectl.input("create -f -", &session("web", "s", ECHO)).ok();
    kubectl.run("wait -n web --for=create pod/s-1 --timeout=60s").ok();
    kubectl.run("wait -n web --for=condition=Ready pod/s-1 --timeout=60s").ok();
    let table = kubectl.run("get pods -n web -o wide").ok();
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "READY", "STATUS", "REASON", "ISOLATED", "NODE", "AGE"]);
    assert!(table.lines().nth(1).unwrap().starts_with("s-1 "), "{table}");
    assert!(kubectl.run("get po -A -l mainstay.dev/session=s -o name").ok().contains("pod/s-1"));
    let node = kubectl.run("get pod s-1 -n web -o jsonpath={.spec.nodeName}").ok();
    assert!(!node.is_empty() && table.contains(&node), "{table}");
    let on = |node: &str| {
        kubectl.run(&format!("get po -A --field-selector status.phase=Running,spec.nodeName={node} -o name")).ok()
    };
    assert_eq!((on(&node).as_str(), on("another").as_str()), ("pod/s-1\n", ""));
    let nodes = kubectl.run("get nodes").ok();
    assert!(nodes.lines().nth(1).is_some_and(|line| line.starts_with(&node) && line.contains("Ready")), "{nodes}");
    let described = squeezed(&kubectl.run("describe pod s-1 -n web").ok());
    for words in ["Controlled By: Session/s", "Status: Running", "/workspace from workspace (rw)", "Ready True"] {
        assert!(described.contains(words), "{words}: {described}");
    }

    let follow = kubectl.follow("logs -f s-1 -n web");
    assert_eq!((follow.line(), follow.line()), ("hello".to_owned(), "got first".to_owned()));
    kubectl.server.command(&["send", "s", "-n", "web", "second"]).status().unwrap();
    assert_eq!(follow.line(), "got second");
    let logs = |flags: &str| kubectl.run(&format!("logs s-1 -n web {flags}")).ok();
    assert_eq!(logs(""), "hello\ngot first\ngot second\n");
    assert_eq!(logs("--tail=1"), "got second\n");
    assert_eq!(logs("--tail=0"), "");
    assert_eq!(logs("--since=1h -c agent").lines().count(), 3);
    assert_eq!(logs("--since-time=2040-01-01T00:00:00Z"), "");
    assert_eq!(logs("--limit-bytes=5"), "hello");
    assert!(logs("--timestamps --tail=1").ends_with("Z got second\n"));
    kubectl.run("logs s-1 -n web -c other").failed(1, "other");
    kubectl.run("logs s-1 -n web --previous").failed(1, "");

    // A deleted Pod ends what follows it, and the session says why it ended.
    assert_eq!(kubectl.run("delete pod s-1 -n web").ok(), "pod \"s-1\" deleted from web namespace\n");
    assert_eq!(follow.rest(), (Vec::new(), Some(0)));
    kubectl.run("wait -n web --for=jsonpath={.status.phase}=Failed session/s --timeout=60s").ok();
    assert_eq!(kubectl.run("get session s -n web -o jsonpath={.status.stoppedReason}").ok(), "PodDeleted");
    kubectl.run("logs s-1 -n web").failed(1, "pods \"s-1\" not found");
}

#[test]
fn logs_of_an_ended_run_stay_and_follow_ends() {
    let kubectl = Kubectl::new();
    let script = "echo one; echo two >&2; exit 7";
    kubectl.input("create -f -", &session("default", "s", script)).ok();
    kubectl.run("wait --for=jsonpath={.status.phase}=Failed session/s --timeout=60s").ok();
    assert_eq!(kubectl.run("logs s-1").ok(), "one\ntwo\n");
    assert_eq!(kubectl.run("logs -f s-1").ok(), "one\ntwo\n");
    let ended = kubectl.json("pod s-1")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&7.into(), &"Error".into()));
    assert!(squeezed(&kubectl.run("describe pod s-1").ok()).contains("Exit Code: 7"));
    assert_eq!(kubectl.run("get session s -o jsonpath={.status.exitCode}").ok(), "7");
}
