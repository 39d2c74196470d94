//! A node and several replicas: it goes from one that is killed or silent to another, and is asked by all.

use mainstay_testkit::server::Server;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::cloud::{Cloud, signal};
use crate::roles::{probe, probe_as};
use crate::stage::{Machine, PATIENCE, Stage, log, ready};

/// Waits until a server gets a session's log.
fn is_reached(stage: &Stage, session: &str, words: &str, machine: &Machine) {
    let end = Instant::now() + PATIENCE;
    while !log(stage, session).is_some_and(|log| log.contains(words)) {
        assert!(Instant::now() < end, "no log of {session}:\n{}\n{}", stage.server.log_text(), machine.log_text());
    }
}

/// When the node's lease was renewed, as a server shows it.
fn renewed(stage: &Stage, node: &str) -> Value {
    let lease = stage.run(&["get", "leases", node, "-n", "kube-node-lease", "-o", "json"], "");
    let lease: Value = serde_json::from_str(&lease).unwrap();
    lease["spec"]["renewTime"].clone()
}

/// Waits until the node has renewed its lease anew, as this server sees it.
fn goes_on(stage: &Stage, node: &str, machine: &Machine) {
    let (before, end) = (renewed(stage, node), Instant::now() + PATIENCE);
    while renewed(stage, node) == before {
        assert!(Instant::now() < end, "the lease of {node} stays as it is:\n{}", machine.log_text());
    }
}

fn is_on_its_first_run(stage: &Stage, session: &str) {
    let session = stage.get("sessions", session).unwrap();
    assert_eq!((&session["status"]["phase"], &session["status"]["run"]), (&"Running".into(), &1.into()), "{session}");
}

#[test]
fn a_node_goes_from_a_server_that_is_killed_or_silent_to_another_and_all_get_its_logs() {
    let mut cloud = Cloud::start(2, 1);
    let mut machine = cloud.api[0].machine_of("box-1", &cloud.urls());
    assert_eq!(cloud.api[0].session("hello", "echo said here; sleep 1000"), "box-1");
    for stage in &cloud.api {
        is_reached(stage, "hello", "said here", &machine);
    }
    let (_, metrics) = probe(&format!("{}/metrics", machine.health));
    assert!(metrics.contains("mainstay_node_linked 2\n"), "{metrics}");
    // The first one is asked until it is gone.
    cloud.api[0].server.kill9().unwrap();
    goes_on(&cloud.api[1], "box-1", &machine);
    is_on_its_first_run(&cloud.api[1], "hello");
    is_reached(&cloud.api[1], "hello", "said here", &machine);
    cloud.api[0].server.restart().unwrap();
    is_reached(&cloud.api[0], "hello", "said here", &machine);
    // Now the other one is asked, and says nothing any more.
    signal(&cloud.api[1].server, Signal::STOP);
    goes_on(&cloud.api[0], "box-1", &machine);
    is_on_its_first_run(&cloud.api[0], "hello");
    is_reached(&cloud.api[0], "hello", "said here", &machine);
    signal(&cloud.api[1].server, Signal::CONT);
    is_reached(&cloud.api[1], "hello", "said here", &machine);
    // Where they are it knows by itself.
    machine.kill();
    machine.is_told_nothing();
    machine.start(None);
    for stage in &cloud.api {
        is_reached(stage, "hello", "said here", &machine);
        is_on_its_first_run(stage, "hello");
    }
    cloud.api[1].run(&["stop", "hello", "-n", "web"], "");
    cloud.api[0].until("sessions", "hello", |session| session["status"]["phase"] == "Stopped");
}

/// Of what a process tells of itself: that it is ready, and figures.
fn tells_of_itself(server: &Server, token: &str) {
    let url = format!("https://{}", server.address());
    for path in ["/livez", "/readyz"] {
        let end = Instant::now() + PATIENCE;
        while probe(&format!("{url}{path}")).0 != 200 {
            assert!(Instant::now() < end, "{path}: {:?}\n{}", probe(&format!("{url}{path}")), server.log_text());
        }
    }
    assert_eq!(probe(&format!("{url}/metrics")).0, 401, "figures are not for everybody");
    let (code, metrics) = probe_as(token, &format!("{url}/metrics"));
    assert!(code == 200 && metrics.contains("mainstay_duty_passes_total"), "{code}: {metrics}");
}

fn admin_token(server: &Server) -> String {
    let kubeconfig = std::fs::read_to_string(server.kubeconfig()).unwrap();
    let token = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap();
    token.trim_matches('"').to_owned()
}

#[test]
fn a_session_goes_on_while_one_process_of_each_role_is_killed() {
    let mut cloud = Cloud::start(2, 2);
    let token = admin_token(&cloud.api[0].server);
    let machine = cloud.api[0].machine_of("box-1", &cloud.urls());
    for server in cloud.api.iter().map(|stage| &stage.server).chain(&cloud.workers) {
        tells_of_itself(server, &token);
    }
    assert_eq!(probe(&format!("{}/readyz", machine.health)).0, 200);
    let worker = format!("https://{}", cloud.workers[0].address());
    assert_eq!(probe_as(&token, &format!("{worker}/api/v1/nodes")).0, 404, "a worker serves no API");
    assert_eq!(cloud.api[0].session("hello", "echo said here; sleep 1000"), "box-1");
    for (dies, lives) in [(0, 1), (1, 0)] {
        cloud.api[dies].server.kill9().unwrap();
        cloud.workers[dies].kill9().unwrap();
        let stage = &cloud.api[lives];
        goes_on(stage, "box-1", &machine);
        is_on_its_first_run(stage, "hello");
        is_reached(stage, "hello", "said here", &machine);
        // What the worker did that is gone, the other does.
        let name = format!("after-{dies}");
        assert_eq!(stage.session(&name, "sleep 1000"), "box-1");
        stage.run(&["stop", &name, "-n", "web"], "");
        stage.until("sessions", &name, |session| session["status"]["phase"] == "Stopped");
        cloud.api[dies].server.restart().unwrap();
        cloud.workers[dies].restart().unwrap();
        tells_of_itself(&cloud.api[dies].server, &token);
        tells_of_itself(&cloud.workers[dies], &token);
    }
    cloud.api[0].until("nodes", "box-1", |node| ready(node) == Some(true));
    cloud.api[0].run(&["stop", "hello", "-n", "web"], "");
    let ended = cloud.api[1].until("sessions", "hello", |session| session["status"]["phase"] == "Stopped");
    assert_eq!(ended["status"]["run"], 1, "{ended}");
}
