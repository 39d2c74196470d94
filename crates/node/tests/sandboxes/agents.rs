//! Difficult agents: what they write, close, leave behind and ignore must neither hang, nor lose, nor grow anything.

use std::path::Path;

use mainstay_node::launch::{ExitReason, Isolation};
use mainstay_node::shim::record;

use crate::bench::{Bench, ended, eventually, log_text, run, start, stop};
use crate::fake_api::FakeApi;

fn bench() -> Bench {
    Bench::new(Isolation::Full)
}

/// The init process, as the host sees it.
async fn init_of(run_dir: &Path) -> i32 {
    eventually("the start", || record::read_state(run_dir).unwrap()?.init_pid).await
}

/// A figure of a process's memory, in kB.
fn memory(pid: i32, file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_agent_that_closes_its_output_is_still_heard_to_end_and_still_listens() {
    let bench = bench();
    let api = FakeApi::new();
    let launch = bench.shell("closes", "echo up; exec >&- 2>&-; read -r line; [ \"$line\" = go ] && exit 7");
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    eventually("the first line", || (api.texts("agent") == ["up"]).then_some(())).await;
    api.say("go");
    let record = ended(&run_dir).await;
    assert_eq!((record.reason, record.exit_code), (ExitReason::Error, Some(7)), "{record:?}");
}

#[tokio::test]
async fn what_an_agent_leaves_behind_ends_with_it_and_holds_nothing_up() {
    let bench = bench();
    let api = FakeApi::new();
    // A child that keeps the pipes and ignores SIGTERM, and a daemon in a session of its own.
    let script = "(trap '' TERM HUP; exec sleep 1000) & \
                  perl -e 'use POSIX; exit 0 if fork; setsid(); exit 0 if fork; sleep 1000'; echo bye; exit 0";
    let launch = bench.shell("leaves", script);
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    let record = ended(&run_dir).await;
    assert_eq!(record.reason, ExitReason::Completed, "{record:?}");
    assert_eq!(api.texts("agent"), ["bye"]);
    let cgroups = mainstay_node::cgroup::of_instance(&launch.instance);
    assert!(cgroups.is_empty(), "processes are left in {cgroups:?}");
}

#[tokio::test]
async fn orphans_inside_are_reaped() {
    let bench = bench();
    let script = "i=0; while [ $i -lt 200 ]; do (true & exec true); i=$((i+1)); done; \
                  n=1; while [ $n -gt 0 ]; do n=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '); done; echo none";
    let (record, output) = run(&bench.bare("orphans", script)).await;
    assert_eq!((record.reason, output.as_str()), (ExitReason::Completed, "none"), "{record:?}");
}

#[tokio::test]
async fn bytes_that_are_no_text_are_logged_as_they_are_and_sent_as_text() {
    let bench = bench();
    let api = FakeApi::new();
    let launch = bench.shell("bytes", "printf 'a\\377b\\000c\\n\\033[31mred\\r\\n\\n'; printf '\\342\\202'");
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    assert_eq!(ended(&run_dir).await.reason, ExitReason::Completed);
    assert_eq!(api.texts("agent"), ["a\u{fffd}b\0c", "\u{1b}[31mred\r", "", "\u{fffd}"]);
    let log = std::fs::read(run_dir.join("log/0.log")).unwrap();
    assert!(log.windows(6).any(|bytes| bytes == b"a\xffb\0c\n"), "{}", String::from_utf8_lossy(&log));
}

#[tokio::test]
async fn a_line_of_50_mb_and_100_mb_of_lines_arrive_whole_in_bounded_memory() {
    let bench = bench();
    let api = FakeApi::new();
    let script = "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo between; \
                  yes \"$(head -c 99999 /dev/zero | tr '\\0' y)\" | head -n 1000; read -r line";
    let launch = bench.shell("much", script);
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    let init = init_of(&run_dir).await;
    let is_whole = || (api.agent_bytes() == 50_000_000 + 7 + 1000 * 99_999).then_some(());
    eventually("all of it", is_whole).await;
    let most = memory(init, "status", "VmHWM:");
    assert!(most < 48 * 1024, "the supervisor grew to {most} kB");
    let texts = api.texts("agent");
    let between = texts.iter().position(|text| text == "between").unwrap();
    assert_eq!(texts[..between].iter().map(String::len).sum::<usize>(), 50_000_000);
    assert_eq!(texts.len() - between, 1001);
    let pieces = api.messages().into_iter().filter(|message| message["data"]["continues"] == true);
    assert_eq!(pieces.count(), between - 1, "all pieces but the last say that they go on");
    let logs = std::fs::read_dir(run_dir.join("log")).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert!(logs.sum::<u64>() <= 3 << 20, "the log has its bound");
    assert!(!log_text(&run_dir).contains("could not be written"));
    stop(&run_dir, 9, 0);
    ended(&run_dir).await;
}

#[tokio::test]
async fn an_agent_waits_while_the_api_is_away_and_loses_nothing() {
    let bench = bench();
    let api = FakeApi::new();
    let line = "z".repeat(10_000);
    let script =
        format!("i=0; while [ $i -lt 2000 ]; do echo \"$i {line}\"; i=$((i+1)); echo $i > at.new; mv at.new at; done");
    let launch = bench.shell("pressure", &script);
    let run_dir = start(&launch);
    let init = init_of(&run_dir).await;
    // Two processes inside: the supervisor and the agent, which comes to wait in a write to its pipe.
    let waits = || {
        let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
        let wchan = std::fs::read_to_string(format!("/proc/{}/wchan", children.trim())).ok()?;
        wchan.contains("pipe_write").then_some(())
    };
    let at = || std::fs::read_to_string(format!("/proc/{init}/root/workspace/at")).unwrap_or_default();
    let bounded = eventually("the agent's waiting", || {
        let before = at();
        // Many looks in a row, since it also waits a moment at each turn of a pipe.
        (0..500).all(|_| waits().is_some() && at() == before).then_some(before)
    });
    let written: u64 = bounded.await.trim().parse().unwrap();
    assert!((200..1000).contains(&written), "some 4 MB are kept, not {written} lines of 10 kB");
    let most = memory(init, "status", "VmHWM:");
    assert!(most < 48 * 1024, "the supervisor grew to {most} kB");
    assert!(record::is_live(&run_dir).unwrap());
    let _listening = api.listen(&launch.sock_dir);
    assert_eq!(ended(&run_dir).await.reason, ExitReason::Completed);
    let wanted: Vec<_> = (0..2000).map(|number| format!("{number} {line}")).collect();
    assert!(api.texts("agent") == wanted, "each line once and in order");
}

#[tokio::test]
async fn an_agent_that_talks_too_fast_waits_as_it_is_told_and_loses_nothing() {
    let bench = bench();
    let api = FakeApi::new();
    api.hold_off(2);
    let launch = bench.shell("fast", "i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); done");
    let began = tokio::time::Instant::now();
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    assert_eq!(ended(&run_dir).await.reason, ExitReason::Completed);
    assert_eq!(api.texts("agent"), (0..1_000).map(|number| number.to_string()).collect::<Vec<_>>());
    let spent = began.elapsed();
    assert!(spent.as_secs() >= 2, "it was to wait a second twice, and sent all in {spent:?}");
}

#[tokio::test]
async fn an_agent_that_never_reads_is_stopped_all_the_same() {
    let bench = bench();
    let api = FakeApi::new();
    let sent = api.say(&"question ".repeat(100_000));
    let launch = bench.shell("deaf", "sleep 1000");
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    eventually("the offer", || (api.heartbeat()["offered"] == sent).then_some(())).await;
    assert!(stop(&run_dir, 9, 1).accepted);
    let record = ended(&run_dir).await;
    assert_eq!((record.reason, record.signal), (ExitReason::Stopped, Some(15)), "{record:?}");
    assert_eq!(api.heartbeat()["delivered"], 0, "what was not read whole was not delivered");
}

#[tokio::test]
async fn the_end_stands_whatever_is_ordered_while_its_last_words_wait() {
    let bench = bench();
    let mut launch = bench.shell("words", "echo last; exit 0");
    launch.deadline_seconds = Some(1);
    let run_dir = start(&launch);
    // No API to take them: the deadline passes, and a stop is ordered.
    let init = init_of(&run_dir).await;
    let children = || std::fs::read_to_string(format!("/proc/{init}/task/{init}/children"));
    let gone = || (log_text(&run_dir).contains("last") && children().is_ok_and(|all| all.is_empty())).then_some(());
    eventually("the agent's end", gone).await;
    assert!(stop(&run_dir, 9, 0).accepted);
    let record = ended(&run_dir).await;
    assert_eq!((record.reason, record.exit_code), (ExitReason::Completed, Some(0)), "{record:?}");
}

#[tokio::test]
async fn shim_and_supervisor_together_stay_within_4_mb() {
    let bench = bench();
    let api = FakeApi::new();
    api.say("hello");
    let launch = bench.shell("memory", "while read line; do echo \"got $line\"; done");
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    eventually("the answer", || (!api.texts("agent").is_empty()).then_some(())).await;
    let state = record::read_state(&run_dir).unwrap().unwrap();
    let dirty = |pid| memory(pid, "smaps_rollup", "Private_Dirty:");
    let (shim, supervisor) = (dirty(state.shim_pid), dirty(state.init_pid.unwrap()));
    assert!(shim + supervisor <= 4096, "{shim} kB and {supervisor} kB");
    stop(&run_dir, 9, 0);
    ended(&run_dir).await;
}

#[tokio::test]
async fn a_shim_has_nothing_of_who_started_it() {
    let bench = bench();
    let inherited = std::fs::File::create(bench.path().join("inherited")).unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let run_dir = start(&bench.bare("alone", "sleep 1000"));
    init_of(&run_dir).await;
    let pid = record::read_state(&run_dir).unwrap().unwrap().shim_pid;
    let proc = std::path::PathBuf::from(format!("/proc/{pid}"));
    for fd in std::fs::read_dir(proc.join("fd")).unwrap() {
        let target = std::fs::read_link(fd.unwrap().path()).unwrap();
        let own = target.starts_with(&run_dir) || target.starts_with(bench.path().join("workspaces"));
        let made = ["pipe:", "socket:", "anon_inode:", "/dev/null"]
            .iter()
            .any(|kind| target.to_string_lossy().starts_with(kind));
        assert!(own || made, "it holds {}", target.display());
    }
    assert_eq!(std::fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let own = rustix::process::getsid(None).unwrap().as_raw_nonzero().to_string();
    assert_ne!(fields[3], own, "a session of its own");
    let threads = std::fs::read_dir(proc.join("task")).unwrap().count();
    assert_eq!(threads, 1);
    stop(&run_dir, 9, 0);
    ended(&run_dir).await;
}
