//! A pair of servers over one directory, and a Lease that says which serves: real processes, killed and frozen, and another
//! Mainstay as the Kubernetes API that keeps the Lease.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use mainstay_testkit::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
/// Waits no longer than this for anything.
const PATIENCE: Duration = Duration::from_mins(1);
/// As long as the Lease says that it lasts; and a bit less, for what is counted from another moment.
const DURATION: Duration = Duration::from_secs(15);
const NEARLY: Duration = Duration::from_secs(12);

/// The cluster, and two servers over the first one's directory.
struct Stage {
    cluster: Server,
    pair: [Server; 2],
}

impl Stage {
    fn new() -> Self {
        let cluster = Server::start(EXE).unwrap();
        let kubeconfig = cluster.kubeconfig();
        let arguments = ["--standby-lease", "default/pair", "--standby-kubeconfig", kubeconfig.to_str().unwrap()];
        let pair = [0, 1].map(|_| {
            let mut server = Server::idle(EXE).unwrap();
            server.set_arguments(&arguments);
            server
        });
        std::fs::create_dir(pair[0].data_dir()).unwrap();
        symlink(pair[0].data_dir(), pair[1].data_dir()).unwrap();
        Self { cluster, pair }
    }

    fn lease(&self) -> Value {
        let shown = self.cluster.command(&["get", "lease", "pair", "-n", "default", "-o", "json"]).output().unwrap();
        serde_json::from_slice::<Value>(&shown.stdout).map_or(Value::Null, |lease| lease["spec"].clone())
    }

    fn term(&self) -> u64 {
        self.lease()["leaseTransitions"].as_u64().unwrap_or(0)
    }

    /// What is answered to a probe: its status.
    fn probe(&self, at: usize, path: &str) -> u16 {
        let url = format!("https://{}{path}", self.pair[at].address());
        let output =
            Command::new("curl").args(["-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().parse().unwrap_or(0)
    }

    /// It waits: healthy, and not ready.
    fn stands_by(&self, at: usize) {
        until(|| self.probe(at, "/livez") == 200, || self.pair[at].log_text());
        assert_eq!((self.probe(at, "/readyz"), self.probe(at, "/api/v1/namespaces")), (503, 503));
    }

    fn signal(&self, at: usize, signal: Signal) {
        let pid = i32::try_from(self.pair[at].pid().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn apply(&self, at: usize, name: &str) {
        let manifest = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#);
        let file = self.pair[at].scratch().join("manifest.json");
        std::fs::write(&file, manifest).unwrap();
        let mut apply = self.pair[at].command(&["apply", "-n", "default", "-f", file.to_str().unwrap()]);
        let done = apply.stdout(Stdio::null()).status().unwrap();
        assert!(done.success(), "{}", self.pair[at].log_text());
    }

    /// Whether it serves, and shows what was written.
    fn shows(&self, at: usize, name: &str) -> bool {
        assert_eq!(self.probe(at, "/readyz"), 200);
        self.pair[at].command(&["get", "configmap", name, "-n", "default"]).output().unwrap().status.success()
    }
}

#[track_caller]
fn until(mut holds: impl FnMut() -> bool, log: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it does not come:\n{}", log());
        std::thread::yield_now();
    }
}

fn serves(ready: &Receiver<()>) -> bool {
    ready.try_recv() != Err(TryRecvError::Empty)
}

#[test]
fn a_server_that_is_killed_is_followed_when_its_lease_is_over_and_one_that_stops_at_once() {
    let mut stage = Stage::new();
    stage.pair[0].restart().unwrap();
    assert_eq!(stage.term(), 1);
    let ready = stage.pair[1].spawn().unwrap();
    stage.stands_by(1);
    stage.apply(0, "one");

    stage.pair[0].kill9().unwrap();
    let killed = Instant::now();
    ready.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{}", stage.pair[1].log_text()));
    println!("after a kill the standby serves after {} ms", killed.elapsed().as_millis());
    assert!(killed.elapsed() >= NEARLY, "it did not wait until the lease was over");
    assert!(stage.shows(1, "one") && stage.term() == 2);
    stage.apply(1, "two");

    let ready = stage.pair[0].spawn().unwrap();
    stage.stands_by(0);
    stage.pair[1].stop().unwrap();
    let stopped = Instant::now();
    ready.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{}", stage.pair[0].log_text()));
    println!("after an orderly stop the standby serves after {} ms", stopped.elapsed().as_millis());
    assert!(stopped.elapsed() < NEARLY, "it waited for what was handed back");
    assert!(stage.shows(0, "two") && stage.term() == 3);
    // One that stands by ends well, too, and takes nothing along.
    let ready = stage.pair[1].spawn().unwrap();
    stage.stands_by(1);
    stage.pair[1].stop().unwrap();
    assert!(!serves(&ready) || stage.term() == 3);
    stage.pair[0].stop().unwrap();
    assert_eq!(stage.lease()["holderIdentity"], "", "it is handed back");
}

#[test]
fn of_a_server_that_is_frozen_and_its_standby_one_serves_at_a_time() {
    let mut stage = Stage::new();
    stage.pair[0].restart().unwrap();
    let ready = stage.pair[1].spawn().unwrap();
    stage.stands_by(1);
    stage.apply(0, "one");
    stage.signal(0, Signal::STOP);
    // The lease goes on, the directory does not: what is frozen may still write.
    let log = || stage.pair[1].log_text();
    until(|| stage.term() == 2 && log().contains("still another process's"), log);
    assert!(!serves(&ready) && stage.probe(1, "/livez") == 200 && stage.probe(1, "/readyz") == 503);
    stage.signal(0, Signal::CONT);
    assert_eq!(stage.pair[0].wait().unwrap().code(), Some(1), "{}", stage.pair[0].log_text());
    assert!(stage.pair[0].log_text().contains("the lease is lost"), "{}", stage.pair[0].log_text());
    ready.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{}", stage.pair[1].log_text()));
    assert!(stage.shows(1, "one") && stage.term() == 2);

    // Nobody can renew: who serves ends before another may think that it can, and one of them serves when that is over.
    let ready = stage.pair[0].spawn().unwrap();
    stage.stands_by(0);
    stage.cluster.kill9().unwrap();
    let away = Instant::now();
    assert_eq!(stage.pair[1].wait().unwrap().code(), Some(1), "{}", stage.pair[1].log_text());
    println!("a server whose lease cannot be renewed ends after {} ms", away.elapsed().as_millis());
    assert!(away.elapsed() < DURATION, "it ended after {:?}", away.elapsed());
    assert!(!serves(&ready), "{}", stage.pair[0].log_text());
    stage.cluster.restart().unwrap();
    ready.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{}", stage.pair[0].log_text()));
    assert!(stage.shows(0, "one") && stage.term() == 3);
}
