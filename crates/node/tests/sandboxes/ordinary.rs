//! Sandboxes of an ordinary user: one mapped id, a workspace in memory, and a clear word about what cannot be had.

use mainstay_node::launch::{ExitReason, Isolation};
use mainstay_node::shim::record;

use crate::bench::{Bench, ended, eventually, log_text, run_with, start_with, stop};
use crate::fake_api::FakeApi;

fn bench() -> Bench {
    Bench::new(Isolation::User)
}

#[tokio::test]
async fn an_ordinary_user_gets_a_sandbox_too() {
    let bench = bench();
    let exe = bench.ordinary_user();
    std::fs::write(bench.path().join("secret"), "secret").unwrap();
    let script = format!(
        "id -u; id -g; ls / | tr '\\n' ' '; echo; cat {} 2>&1 | grep -o 'No such file'; kill -0 {} 2>&1 | grep -io 'no such process'; \
         touch /usr/x /x 2>&1 | wc -l; touch here && ls; dd if=/dev/zero of=big bs=1M count=100 2>&1 | grep -o 'No space left'; \
         unshare -U true 2>&1 | grep -o 'Operation not permitted'",
        bench.path().join("secret").display(),
        std::process::id(),
    );
    let launch = bench.bare("user", &script);
    let (record, output) = run_with(&exe, &launch).await;
    assert_eq!(record.reason, ExitReason::Completed, "{record:?} {output}");
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..2], ["1000", "1000"], "{output}");
    assert!(!lines[2].contains("root") && !lines[2].contains("var"), "{output}");
    let wanted = ["No such file", "No such process", "2", "here", "No space left", "Operation not permitted"];
    assert_eq!(lines[3..], wanted, "{output}");
}

#[tokio::test]
async fn a_session_of_an_ordinary_user_talks_and_stops() {
    let bench = bench();
    let exe = bench.ordinary_user();
    let api = FakeApi::new();
    api.say("the prompt");
    let launch = bench.shell("talk", "while read line; do echo \"got $line\"; done");
    let run_dir = start_with(&exe, &launch);
    let _listening = api.listen(&launch.sock_dir);
    eventually("the answer", || api.texts("agent").contains(&"got the prompt".into()).then_some(())).await;
    let state = record::read_state(&run_dir).unwrap().unwrap();
    let all =
        "user pid mount network ipc uts cgroup no-new-privileges no-capabilities landlock seccomp limits:workspace";
    assert_eq!(state.isolation.in_force, all.split(' ').collect::<Vec<_>>(), "{}", log_text(&run_dir));
    assert!(stop(&run_dir, 9, 1).accepted);
    assert_eq!(ended(&run_dir).await.reason, ExitReason::Stopped);
}

#[tokio::test]
async fn what_an_ordinary_user_cannot_have_is_refused_by_name() {
    let bench = bench();
    let exe = bench.ordinary_user();
    let mut limited = bench.bare("limited", "true");
    limited.limits.memory_bytes = Some(64 << 20);
    let (record, _) = run_with(&exe, &limited).await;
    assert_eq!(record.reason, ExitReason::CreationFailed);
    assert!(record.message.contains("no memory controller"), "{record:?}");
    let mut kept = bench.bare("kept", "true");
    kept.workspace.keep = true;
    let (record, _) = run_with(&exe, &kept).await;
    assert_eq!(record.reason, ExitReason::CreationFailed);
    assert!(record.message.contains("a kept workspace without being root"), "{record:?}");
}
