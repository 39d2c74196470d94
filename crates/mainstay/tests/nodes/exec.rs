//! `kubectl exec` on a node elsewhere: over the connection that the node opened to the replica that is asked.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use mainstay_testkit::server::Server;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::cloud::Cloud;
use crate::roles::probe;
use crate::stage::{Machine, PATIENCE, Stage, log};

/// kubectl that asks this server to run a shell script in the session's Pod.
fn exec(server: &Server, script: &str) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/kubectl");
    let mut command = Command::new(program);
    command.args(["exec", "-i", "hello-1", "-n", "web", "--", "/bin/sh", "-c", script]);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", server.scratch());
    command.env("KUBECONFIG", server.kubeconfig()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a state that another process makes.
fn eventually(what: &str, machine: &Machine, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never happened: {what}\n{}", machine.log_text());
        std::thread::yield_now();
    }
}

fn processes(line: &str) -> usize {
    let line = format!("{}\0", line.replace(' ', "\0"));
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|own| own == line.as_bytes())).count()
}

fn runs_well(stage: &Stage) {
    let output = exec(&stage.server, "echo out; echo err >&2; exit 7").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*out), (Some(7), "out\n"), "{err}");
    assert!(err.contains("err\n") && err.contains("exit code 7"), "{err}");
}

fn is_linked(stage: &Stage, machine: &Machine) {
    eventually("a link", machine, || log(stage, "hello").is_some_and(|log| log.contains("said here")));
}

#[test]
fn commands_run_on_a_node_elsewhere_through_each_replica() {
    let mut cloud = Cloud::start(2, 1);
    let mut machine = cloud.api[0].machine_of("box-1", &cloud.urls());
    assert_eq!(cloud.api[0].session("hello", "echo said here; exec sleep 1000"), "box-1");
    for stage in &cloud.api {
        is_linked(stage, &machine);
        runs_well(stage);
    }
    // Both ways, beside one that reads nothing and holds up nobody.
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("sent"), dir.path().join("got"));
    let sent: Vec<u8> = (0..5_000_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    std::fs::write(&input, &sent).unwrap();
    let mut deaf = exec(&cloud.api[0].server, "exec sleep 9201").stdin(File::open(&input).unwrap()).spawn().unwrap();
    eventually("it runs", &machine, || processes("sleep 9201") == 1);
    let mut cat = exec(&cloud.api[0].server, "cat");
    cat.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap());
    assert!(cat.status().unwrap().success(), "{}", machine.log_text());
    assert!(std::fs::read(&output).unwrap() == sent);
    assert!(probe(&format!("{}/metrics", machine.health)).1.contains("mainstay_node_execs 1\n"));
    deaf.kill().unwrap();
    deaf.wait().unwrap();
    eventually("no process", &machine, || processes("sleep 9201") == 0);
    // The replica that carries one is killed: it is over, and the other goes on.
    let mut carried = exec(&cloud.api[0].server, "exec sleep 9202").spawn().unwrap();
    eventually("it runs", &machine, || processes("sleep 9202") == 1);
    cloud.api[0].server.kill9().unwrap();
    assert!(!carried.wait().unwrap().success());
    eventually("no process", &machine, || processes("sleep 9202") == 0);
    runs_well(&cloud.api[1]);
    cloud.api[0].server.restart().unwrap();
    is_linked(&cloud.api[0], &machine);
    runs_well(&cloud.api[0]);
    the_agent_ends(&cloud, &mut machine);
    for stage in &cloud.api {
        is_linked(stage, &machine);
        runs_well(stage);
    }
}

/// With its agent a command ends, however that does, and who runs it is told.
fn the_agent_ends(cloud: &Cloud, machine: &mut Machine) {
    for (signal, words) in [(Signal::TERM, "the agent of the Pod's node stops"), (Signal::KILL, "broke")] {
        let mut cut = exec(&cloud.api[1].server, "exec sleep 9203").spawn().unwrap();
        eventually("it runs", machine, || processes("sleep 9203") == 1);
        machine.signal(signal);
        machine.wait();
        let mut said = String::new();
        cut.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!cut.wait().unwrap().success() && said.contains(words), "{said}");
        eventually("no process", machine, || processes("sleep 9203") == 0);
        machine.start(None);
        for stage in &cloud.api {
            is_linked(stage, machine);
        }
    }
}
