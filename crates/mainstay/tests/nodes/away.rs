//! All servers of the API are away, and nodes and workers are not: nobody is given up for a silence that says nothing.

use mainstay_testkit::server::processes_naming;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::cloud::{Cloud, signal};
use crate::stage::{Machine, PATIENCE, ready};

/// How long the API is away: twice as long as it takes to give a silent node's Pods up.
const AWAY_MILLISECONDS: u64 = 30_000;

/// The agent, the shims and what runs in the sandboxes of a machine.
fn processes(machine: &Machine) -> Vec<u32> {
    let mut all = processes_naming(&machine.dir().display().to_string());
    all.sort_unstable();
    all
}

/// Waits until one worker has looked at nodes for so long, by what it wrote to the database meanwhile.
fn looked_on(cloud: &Cloud, milliseconds: u64) {
    let ((term, from), end) = (cloud.watched(), Instant::now() + 2 * PATIENCE);
    loop {
        let (now, until) = cloud.watched();
        assert_eq!(now, term, "one worker leads all the while: {}", cloud.workers[0].log_text());
        if until >= from + milliseconds {
            return;
        }
        assert!(Instant::now() < end, "{}", cloud.workers[0].log_text());
    }
}

#[test]
fn while_all_servers_of_the_api_are_away_no_node_is_given_up() {
    let cloud = Cloud::start(2, 1);
    let machine = cloud.api[0].machine_of("box-1", &cloud.urls());
    let stage = &cloud.api[1];
    assert_eq!(stage.session("hello", "sleep 1000"), "box-1");
    let uid = |pod: &str| stage.get("pods", pod).unwrap()["metadata"]["uid"].clone();
    let (before, pod) = (processes(&machine), uid("hello-1"));
    assert!(before.len() > 2, "an agent, a shim, a sandbox: {before:?}");
    // The worker sees who serves by now.
    looked_on(&cloud, 10_000);
    for stage in &cloud.api {
        signal(&stage.server, Signal::STOP);
    }
    looked_on(&cloud, AWAY_MILLISECONDS);
    let said = cloud.workers[0].log_text();
    for stage in &cloud.api {
        signal(&stage.server, Signal::CONT);
    }
    assert!(!said.contains("its result is lost"), "{said}");
    assert!(said.contains("no server of the API is seen to be there"), "{said}");
    // For longer than it takes to give up whoever does not come back.
    looked_on(&cloud, AWAY_MILLISECONDS);
    let session = stage.get("sessions", "hello").unwrap();
    assert_eq!((&session["status"]["phase"], &session["status"]["run"]), (&"Running".into(), &1.into()), "{session}");
    assert_eq!(uid("hello-1"), pod);
    assert_eq!(processes(&machine), before, "nothing was ended, nothing begun");
    stage.until("nodes", "box-1", |node| ready(node) == Some(true));
    // A node that is silent while others could be heard is given up, as ever.
    let began = Instant::now();
    machine.signal(Signal::STOP);
    let lost = stage.until("sessions", "hello", |session| session["status"]["phase"] == "Failed");
    assert_eq!(lost["status"]["stoppedReason"], "NodeLost", "{lost}");
    assert!(began.elapsed().as_secs() >= 9, "not before its lease is over");
    let left = || stage.run(&["get", "leases", "-n", "mainstay-system", "-o", "name"], "");
    assert_eq!(left().lines().filter(|line| line.contains("apiserver-")).count(), 2, "one each: {}", left());
}
