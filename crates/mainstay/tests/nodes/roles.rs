//! Roles: what each answers about its health, and how it ends.

use std::process::{Command, Stdio};
use std::time::Duration;

use mainstay_testkit::server::Server;
use rustix::process::Signal;

use tokio::time::Instant;

use crate::EXE;
use crate::stage::{Machine, Stage};

/// What is answered at a URL: its status, and its text.
pub(crate) fn probe(url: &str) -> (u16, String) {
    probe_as("", url)
}

/// The same, for whoever has this token.
pub(crate) fn probe_as(token: &str, url: &str) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["-sk", "-m", "20", "-w", "\n%{http_code}", url]);
    if !token.is_empty() {
        command.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (text, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
    (code.parse().unwrap_or(0), text.to_owned())
}

#[test]
fn a_node_tells_of_its_own_health_and_stops_well() {
    let stage = Stage::new();
    let mut machine = stage.machine("box-1");
    let health = machine.health.clone();
    for path in ["/livez", "/healthz", "/readyz"] {
        let end = Instant::now() + Duration::from_secs(20);
        while probe(&format!("{health}{path}")).0 != 200 {
            assert!(Instant::now() < end, "{path}: {:?}", probe(&format!("{health}{path}")));
        }
    }
    let (code, metrics) = probe(&format!("{health}/metrics"));
    assert!(code == 200 && metrics.contains("mainstay_node_term 1\n"), "{metrics}");
    assert_eq!(probe(&format!("{health}/api/v1/nodes")).0, 404);
    stage.session("hello", "sleep 1000");
    machine.signal(Signal::TERM);
    assert_eq!(machine.wait(), Some(0), "{}", machine.log_text());
    assert!(machine.processes() > 0, "its sandbox goes on");
    machine.start(None);
    let session = stage.get("sessions", "hello").unwrap();
    assert_eq!(session["status"]["phase"], "Running");
}

#[test]
fn an_api_server_controls_nothing() {
    let mut server = Server::idle(EXE).unwrap();
    server.set_arguments(&["--role", "api"]);
    server.restart().unwrap();
    let url = server.url().unwrap();
    assert_eq!(probe(&format!("{url}/readyz")).0, 200);
    let made = server.command(&["apply", "-f", "-"]).stdin(manifest()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let shown = server.command(&["get", "projects", "web", "-o", "json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_ne!(shown["status"]["phase"], "Active");
    server.stop().unwrap();
    server.set_arguments(&[]);
    server.restart().unwrap();
}

fn manifest() -> Stdio {
    use std::io::{Seek as _, Write as _};
    let mut file = tempfile::tempfile().unwrap();
    write!(file, "apiVersion: mainstay.dev/v1alpha1\nkind: Project\nmetadata: {{name: web}}\nspec: {{}}\n").unwrap();
    file.rewind().unwrap();
    file.into()
}

#[test]
fn a_worker_without_a_shared_store_says_which_flag_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(EXE)
        .args(["serve", "--role", "worker", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--database"), "{said}");
}

#[test]
fn a_second_signal_ends_a_process_at_once() {
    let stage = Stage::new();
    let mut machine = stage.machine("box-1");
    drop(stage);
    // A node that waits for a server that is gone has calls under way.
    machine.signal(Signal::TERM);
    machine.signal(Signal::INT);
    let code = machine.wait();
    assert!(matches!(code, Some(0 | 130)), "{code:?}: {}", machine.log_text());
    let _: &Machine = &machine;
}

#[test]
fn a_server_that_goes_says_so_before_it_refuses_anybody() {
    let mut server = Server::idle(EXE).unwrap();
    server.set_arguments(&["--role", "api", "--drain-delay", "600"]);
    server.restart().unwrap();
    let url = server.url().unwrap();
    assert_eq!(probe(&format!("{url}/readyz")).0, 200);
    let pid = rustix::process::Pid::from_raw(server.pid().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let (code, said) = probe(&format!("{url}/readyz"));
        if code == 503 && said.contains("leaving") {
            break;
        }
        assert!(code == 200 && Instant::now() < end, "{code}: {said}");
    }
    // Whoever has not noticed yet is served, over new connections, too.
    let made = server.command(&["apply", "-f", "-"]).stdin(manifest()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(130), "{}", server.log_text());
}

#[test]
fn a_node_that_goes_says_so_before_its_agent_ends() {
    let stage = Stage::new();
    let mut machine = Machine::new("box-1", &stage.server.url().unwrap());
    machine.arguments = &["--drain-delay", "600"];
    machine.start(Some(&stage.token(&[])));
    let readyz = format!("{}/readyz", machine.health);
    let end = Instant::now() + Duration::from_secs(20);
    while probe(&readyz).0 != 200 {
        assert!(Instant::now() < end, "{:?}", probe(&readyz));
    }
    machine.signal(Signal::TERM);
    while !probe(&readyz).1.contains("leaving failed: it was told to stop") {
        assert!(Instant::now() < end, "{:?}", probe(&readyz));
    }
    // It is the node as ever until then.
    assert_eq!(stage.session("hello", "sleep 1000"), "box-1");
    machine.signal(Signal::TERM);
    assert_eq!(machine.wait(), Some(130), "{}", machine.log_text());
}
