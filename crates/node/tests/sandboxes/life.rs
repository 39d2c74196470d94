//! A sandbox's life: started once, talking, stopped, recorded. Without isolation, since none of it depends on that.

use mainstay_node::launch::{Adaptor, ExitReason, Isolation, Order, Verb};
use mainstay_node::sandbox::SandboxError;
use mainstay_node::shim::{client, record};
use serde_json::json;

use crate::bench::{Bench, EXE, ended, eventually, log_text, run, start, stop, write_token};
use crate::fake_api::FakeApi;

fn bench() -> Bench {
    Bench::new(Isolation::None)
}

#[tokio::test]
async fn a_pod_made_by_hand_runs_and_is_recorded() {
    let bench = bench();
    let launch = bench.bare("plain", "pwd; echo $GREETING $HOME; echo oops >&2; touch here; exit 3");
    let (record, output) = run(&launch).await;
    assert_eq!((record.reason, record.exit_code), (ExitReason::Error, Some(3)), "{record:?}");
    assert!(record.started_at.is_some() && record.message.contains("code 3"));
    let home = launch.workspace.dir.join("files");
    let mut lines: Vec<_> = output.lines().map(str::to_owned).collect();
    lines.sort();
    let mut wanted = [home.display().to_string(), format!("hello {}", home.display()), "oops".into()];
    wanted.sort();
    assert_eq!(lines, wanted);
    assert!(log_text(&launch.run_dir).contains(" stderr F oops"));
    assert!(!launch.workspace.dir.exists(), "an unkept workspace goes with its sandbox");
}

/// R14.
#[tokio::test]
async fn a_run_is_never_executed_twice() {
    let bench = bench();
    let launch = bench.bare("once", "echo ran >> $MARK");
    let mark = bench.path().join("mark");
    let launch = {
        let mut launch = launch;
        launch.env.insert("MARK".into(), mark.display().to_string());
        launch
    };
    let (record, _) = run(&launch).await;
    assert_eq!(record.reason, ExitReason::Completed);
    assert!(matches!(client::spawn(EXE.as_ref(), &launch), Err(SandboxError::Claimed)));
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "ran\n");
    assert_eq!(record::read_exit(&launch.run_dir).unwrap(), Some(record));
}

#[tokio::test]
async fn a_command_that_cannot_start_is_a_failed_creation() {
    let bench = bench();
    let mut launch = bench.bare("nothing", "");
    launch.command = vec!["/no/such/program".into()];
    let (record, _) = run(&launch).await;
    assert_eq!((record.reason, record.exit_code), (ExitReason::CreationFailed, None));
    assert!(record.message.contains("/no/such/program: No such file"), "{}", record.message);
}

#[tokio::test]
async fn output_becomes_messages_and_user_messages_become_input() {
    let bench = bench();
    let api = FakeApi::new();
    api.say("the prompt");
    let launch = bench.shell("talk", "while read line; do echo \"got $line\"; echo bad >&2; done; printf rest");
    let run_dir = start(&launch);
    let listening = api.listen(&launch.sock_dir);
    eventually("the first answer", || api.texts("agent").contains(&"got the prompt".into()).then_some(())).await;
    eventually("delivery", || (api.heartbeat()["delivered"] == 1).then_some(())).await;
    api.say("more");
    eventually("the second answer", || api.texts("agent").contains(&"got more".into()).then_some(())).await;
    let first = &api.heartbeats()[0];
    assert_eq!(
        (&first["run"], &first["cursorOnly"], &first["podUID"]),
        (&json!(1), &json!(false), &json!(run_dir.file_name().unwrap().to_str().unwrap()))
    );
    assert!(api.authorizations().iter().all(|value| value == "Bearer token-1"));
    write_token(&launch, "token-2");
    let third = api.say("again");
    eventually("delivery", || (api.heartbeat()["delivered"] == third).then_some(())).await;
    assert_eq!(api.authorizations().last().unwrap(), "Bearer token-2");
    assert!(stop(&run_dir, 5, 2).accepted);
    let record = ended(&run_dir).await;
    assert_eq!((record.reason, record.signal), (ExitReason::Stopped, Some(15)), "{record:?}");
    let exited: Vec<_> = api.messages().into_iter().filter(|message| message["type"] == "system").collect();
    assert_eq!(exited[0]["data"], json!({ "event": "exited", "code": null, "signal": 15 }));
    drop(listening);
}

/// R46.
#[tokio::test]
async fn every_line_arrives_once_while_the_api_comes_and_goes() {
    let bench = bench();
    let api = FakeApi::new();
    let script =
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); [ $((i % 300)) = 0 ] && sleep 0.1; done; printf end";
    let launch = bench.shell("away", script);
    let run_dir = start(&launch);
    let mut listening = api.listen(&launch.sock_dir);
    for round in 1..8 {
        api.lose_answers(1);
        eventually("progress", || (api.messages().len() >= round * 300).then_some(())).await;
        drop(listening);
        listening = api.listen(&launch.sock_dir);
    }
    let record = ended(&run_dir).await;
    assert_eq!(record.reason, ExitReason::Completed, "{record:?}");
    let mut wanted: Vec<_> = (0..3000).map(|number| format!("line {number}")).collect();
    wanted.push("end".into());
    assert_eq!(api.texts("agent"), wanted);
    assert_eq!(log_text(&run_dir).lines().count(), 3001);
}

#[tokio::test]
async fn what_the_agent_wrote_arrives_even_if_the_api_comes_later_than_its_end() {
    let bench = bench();
    let api = FakeApi::new();
    let launch = bench.shell("late", "echo one; echo two; exit 4");
    let run_dir = start(&launch);
    eventually("the agent's end", || log_text(&run_dir).contains("two").then_some(())).await;
    assert!(record::read_exit(&run_dir).unwrap().is_none(), "it waits for the API");
    let _listening = api.listen(&launch.sock_dir);
    let record = ended(&run_dir).await;
    assert_eq!((record.reason, record.exit_code), (ExitReason::Error, Some(4)));
    assert_eq!(api.texts("agent"), ["one", "two"]);
}

/// R22.
#[tokio::test]
async fn one_unacceptable_message_holds_up_no_other() {
    let bench = bench();
    let api = FakeApi::new();
    let launch = bench.shell("refused", "echo one; echo REFUSE ME; echo two");
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    ended(&run_dir).await;
    assert_eq!(api.texts("agent"), ["one", "two"]);
    assert!(log_text(&run_dir).contains("REFUSE ME"));
}

#[tokio::test]
async fn stop_on_finish_ends_the_input_once_the_agent_was_asked() {
    let bench = bench();
    let api = FakeApi::new();
    api.say("sum it up");
    let mut launch = bench.shell("finish", "cat; echo bye");
    launch.session.as_mut().unwrap().stop_on_finish = true;
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    assert_eq!(ended(&run_dir).await.reason, ExitReason::Completed);
    assert_eq!(api.texts("agent"), ["sum it up", "bye"]);
}

#[tokio::test]
async fn stream_json_ends_with_the_answer() {
    let bench = bench();
    let api = FakeApi::new();
    api.say("hello \"you\"");
    let script =
        r#"read -r line; printf '%s\n' "$line"; echo '{"type":"result","result":"done"}'; cat; echo '{"type":"bye"}'"#;
    let mut launch = bench.shell("json", script);
    launch.adaptor = Adaptor::StreamJson;
    launch.session.as_mut().unwrap().stop_on_finish = true;
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    assert_eq!(ended(&run_dir).await.reason, ExitReason::Completed);
    let events: Vec<_> = api.messages().into_iter().filter(|message| message["type"] == "event").collect();
    assert_eq!(events[0]["data"]["message"]["content"], "hello \"you\"");
    assert_eq!((&events[1]["text"], &events[2]["data"]["type"]), (&json!("done"), &json!("bye")));
}

#[tokio::test]
async fn stream_json_ends_with_an_answer_that_is_longer_than_a_message() {
    let bench = bench();
    let api = FakeApi::new();
    api.say("tell me all");
    let script = r#"read -r line; printf '{"type":"result","result":"'; head -c 700000 /dev/zero | tr '\0' x; echo '"}'; \
                  cat; echo '{"type":"bye"}'"#;
    let mut launch = bench.shell("long", script);
    launch.adaptor = Adaptor::StreamJson;
    launch.session.as_mut().unwrap().stop_on_finish = true;
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    assert_eq!(ended(&run_dir).await.reason, ExitReason::Completed);
    let pieces = api.texts("agent").concat();
    assert!(pieces.starts_with("{\"type\":\"result\"") && pieces.len() > 700_000, "{}", pieces.len());
    let events: Vec<_> = api.messages().into_iter().filter(|message| message["type"] == "event").collect();
    assert_eq!((events.len(), &events[0]["data"]["type"]), (1, &json!("bye")));
}

#[tokio::test]
async fn a_stop_is_forced_after_the_grace_period_and_takes_all_along() {
    let bench = bench();
    let launch = bench.bare("stubborn", "trap '' TERM; (setsid sleep 1000 &); echo up; while :; do sleep 0.05; done");
    let run_dir = start(&launch);
    eventually("the trap", || log_text(&run_dir).contains("up").then_some(())).await;
    assert!(!stop(&run_dir, 4, 0).accepted, "an older fencing token is refused");
    assert!(stop(&run_dir, 9, 0).accepted);
    let record = ended(&run_dir).await;
    assert_eq!((record.reason, record.signal), (ExitReason::Stopped, Some(9)), "{record:?}");
}

#[tokio::test]
async fn a_newer_fencing_token_is_remembered() {
    let bench = bench();
    let run_dir = start(&bench.bare("fence", "sleep 1000"));
    assert!(client::send(&run_dir, &Order { fence: 7, verb: Verb::Fence }).unwrap().accepted);
    assert_eq!(record::read_state(&run_dir).unwrap().unwrap().fence, 7);
    assert!(stop(&run_dir, 6, 0).message.contains("older"));
    assert!(stop(&run_dir, 7, 0).accepted);
    ended(&run_dir).await;
}

#[tokio::test]
async fn the_shim_alone_holds_the_deadline() {
    let bench = bench();
    let mut launch = bench.bare("deadline", "sleep 1000");
    launch.deadline_seconds = Some(1);
    let (record, _) = run(&launch).await;
    assert_eq!(record.reason, ExitReason::DeadlineExceeded, "{record:?}");
}

#[tokio::test]
async fn a_killed_shim_takes_its_sandbox_along_and_leaves_no_record() {
    let bench = bench();
    let mark = bench.path().join("alive");
    let mut launch = bench.bare("lost", "while :; do date +%N > $MARK; sleep 0.02; done");
    launch.env.insert("MARK".into(), mark.display().to_string());
    let run_dir = start(&launch);
    eventually("life", || mark.exists().then_some(())).await;
    let state = record::read_state(&run_dir).unwrap().unwrap();
    let connection = client::connect(&run_dir).unwrap();
    let shim = rustix::process::Pid::from_raw(state.shim_pid).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    eventually("the lock's release", || (!record::is_live(&run_dir).unwrap()).then_some(())).await;
    let told = std::io::Read::read(&mut &connection, &mut [0; 8]);
    let gone = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(told.map_or_else(gone, |count| count == 0), "whoever watches is told");
    assert!(record::read_exit(&run_dir).unwrap().is_none());
    let init = std::path::PathBuf::from(format!("/proc/{}", state.init_pid.unwrap()));
    eventually("the supervisor's end", || (!init.exists()).then_some(())).await;
    mainstay_node::cgroup::remove_all(&state.cgroups).unwrap();
    assert!(state.cgroups.iter().all(|dir| !dir.exists()), "what it left can be found and removed");
}
