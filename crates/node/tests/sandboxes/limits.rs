//! Limits hold, neighbours go on, and nothing is left behind.

use std::path::Path;
use std::time::Duration;

use mainstay_node::launch::{ExitReason, Isolation, Launch};
use mainstay_node::sandbox::probe::probe;
use mainstay_node::shim::record;
use rustix::process::{Pid, Signal, kill_process};

use crate::bench::{Bench, ended, eventually, log_text, run, start, stop};

fn bench() -> Bench {
    Bench::new(Isolation::Full)
}

/// A sandbox that must not notice what its neighbour does.
async fn neighbour(bench: &Bench) -> Launch {
    let launch = bench.bare("neighbour", "while :; do echo tick; sleep 0.05; done");
    start(&launch);
    eventually("the neighbour", || log_text(&launch.run_dir).contains("tick").then_some(())).await;
    launch
}

async fn still_ticks(launch: &Launch) {
    let before = log_text(&launch.run_dir).len();
    eventually("another tick", || (log_text(&launch.run_dir).len() > before).then_some(())).await;
}

/// R8.
#[tokio::test]
async fn a_memory_bomb_is_told_as_such() {
    let bench = bench();
    let neighbour = neighbour(&bench).await;
    let mut launch = bench.bare("memory", "");
    launch.command = ["/usr/bin/perl", "-e", "my @a; push @a, \"x\" x 1048576 while 1"].map(str::to_owned).to_vec();
    launch.limits.memory_bytes = Some(64 << 20);
    let (record, _) = run(&launch).await;
    assert_eq!((record.reason, record.signal), (ExitReason::OOMKilled, Some(9)), "{record:?}");
    still_ticks(&neighbour).await;
}

#[tokio::test]
async fn a_victim_below_the_agent_does_not_make_the_agent_one() {
    let bench = bench();
    let mut launch = bench.bare("victim", "perl -e 'my @a; push @a, \"x\" x 1048576 while 1'; echo code $?; exit 5");
    launch.limits.memory_bytes = Some(64 << 20);
    let (record, output) = run(&launch).await;
    assert_eq!((record.reason, record.exit_code), (ExitReason::Error, Some(5)), "{record:?}");
    assert!(output.contains("code 137"), "{output}");
}

/// R8.
#[tokio::test]
async fn a_fork_bomb_meets_its_limit() {
    let bench = bench();
    let neighbour = neighbour(&bench).await;
    let mut launch = bench.bare("forks", "");
    let bomb = "my $n = 0; while (1) { my $p = fork; last unless defined $p; if (!$p) { sleep 1000; exit } $n++ } print \"$n\\n\"";
    launch.command = ["/usr/bin/perl", "-e", bomb].map(str::to_owned).to_vec();
    launch.limits.pids = Some(20);
    let (record, output) = run(&launch).await;
    assert_eq!(record.reason, ExitReason::Completed, "{record:?}");
    // The supervisor and the agent process count.
    assert_eq!(output.trim(), "18");
    still_ticks(&neighbour).await;
}

/// R8.
#[tokio::test]
async fn a_disk_filler_meets_its_limit() {
    let bench = bench();
    let neighbour = neighbour(&bench).await;
    let script = "dd if=/dev/zero of=/workspace/big bs=1M count=500 2>&1 | grep -o 'No space left on device'; \
                  du -m big | cut -f1; df -m . | tail -1 | awk '{print $2}'";
    let (record, output) = run(&bench.bare("filler", script)).await;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "No space left on device", "{record:?} {output}");
    assert!((40..=64).contains(&lines[1].parse::<u64>().unwrap()), "{output}");
    still_ticks(&neighbour).await;
}

#[tokio::test]
async fn a_busy_loop_gets_its_share() {
    let bench = bench();
    let mut launch = bench.bare("busy", "");
    let busy = "my $t = time + 2; 1 while time < $t; my ($u, $s) = times; printf \"%d\\n\", 1000 * ($u + $s)";
    launch.command = ["/usr/bin/perl", "-e", busy].map(str::to_owned).to_vec();
    launch.limits.cpu_millis = Some(200);
    let (_, output) = run(&launch).await;
    let millis: u64 = output.trim().parse().unwrap();
    assert!(millis < 800, "a fifth of up to two seconds, but it had {millis} ms");
}

/// What a sandbox leaves outside of its run directory.
fn left_over(launch: &Launch) -> Vec<String> {
    let mut found = Vec::new();
    let uid = &launch.pod.uid;
    found.extend(
        mainstay_node::cgroup::of_instance(&launch.instance).into_iter().map(|(_, dir)| dir.display().to_string()),
    );
    for block in std::fs::read_dir("/sys/block").unwrap() {
        let backing = std::fs::read_to_string(block.unwrap().path().join("loop/backing_file")).unwrap_or_default();
        found.extend(backing.contains(uid).then_some(backing));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(uid)).map(str::to_owned));
    found
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let bench = bench();
    let mut launch = bench.bare("clean", "(setsid sleep 1000 &); (sleep 1000 &); touch file; exit 0");
    launch.limits.memory_bytes = Some(64 << 20);
    launch.limits.pids = Some(50);
    launch.limits.cpu_millis = Some(500);
    let (record, _) = run(&launch).await;
    assert_eq!(record.reason, ExitReason::Completed, "{record:?}");
    assert_eq!(left_over(&launch), Vec::<String>::new());
    assert!(!launch.workspace.dir.exists());
}

#[tokio::test]
async fn what_is_in_force_is_told() {
    let bench = bench();
    let mut launch = bench.bare("told", "sleep 1000");
    launch.limits.pids = Some(50);
    let run_dir = start(&launch);
    let look = || record::read_state(&run_dir).unwrap().filter(|state| state.init_pid.is_some());
    let state = eventually("the start", look).await;
    let all = "user pid mount network ipc uts cgroup no-new-privileges no-capabilities landlock seccomp limits:workspace limits:pids";
    let here = all.split(' ').filter(|name| *name != "landlock" || probe().landlock > 0).collect::<Vec<_>>();
    assert_eq!(state.isolation.in_force, here);
    stop(&run_dir, 9, 0);
    ended(&run_dir).await;
}

#[tokio::test]
async fn a_kept_workspace_goes_on_under_another_range_of_ids() {
    let bench = bench();
    let mut first = bench.bare("keep", "mkdir d; echo one > d/file; ln -s /etc/passwd link; chmod 700 d");
    first.workspace.keep = true;
    first.workspace.dir = bench.path().join("workspaces/kept");
    assert_eq!(run(&first).await.0.reason, ExitReason::Completed);
    let mut second = Launch {
        workspace: first.workspace.clone(),
        ..bench.bare("again", "cat d/file; echo two >> d/file; ls -A; stat -c %u:%a d link")
    };
    second.uid_base = 500_000;
    let (record, output) = run(&second).await;
    assert_eq!(record.reason, ExitReason::Completed, "{output}");
    assert_eq!(output.lines().collect::<Vec<_>>(), ["one", "d", "link", "1000:700", "1000:777"]);
    let mut busy = bench.bare("holds", "sleep 1000");
    busy.workspace = first.workspace.clone();
    let holding = start(&busy);
    eventually("the start", || record::read_state(&holding).unwrap()?.init_pid).await;
    let mut late = bench.bare("late", "true");
    late.workspace = first.workspace.clone();
    let (record, _) = run(&late).await;
    assert_eq!(record.reason, ExitReason::CreationFailed);
    assert!(record.message.contains("which another sandbox has"), "{record:?}");
}

#[tokio::test]
async fn a_killed_supervisor_is_recorded_and_takes_all_along() {
    let bench = bench();
    let launch = bench.bare("supervisor", "echo up; sleep 1000");
    let run_dir = start(&launch);
    eventually("the start", || log_text(&run_dir).contains("up").then_some(())).await;
    let init = record::read_state(&run_dir).unwrap().unwrap().init_pid.unwrap();
    kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
    let record = ended(&run_dir).await;
    assert_eq!((record.reason, record.signal), (ExitReason::Error, Some(9)));
    assert!(record.message.contains("supervisor"), "{record:?}");
    assert_eq!(left_over(&launch), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_shim_ends_its_sandbox_whatever_runs_there() {
    let bench = bench();
    let launch = bench.bare("shim", "trap '' TERM HUP INT; (setsid sleep 1000 &); echo up; while :; do sleep 1; done");
    let run_dir = start(&launch);
    eventually("the start", || log_text(&run_dir).contains("up").then_some(())).await;
    let state = record::read_state(&run_dir).unwrap().unwrap();
    kill_process(Pid::from_raw(state.shim_pid).unwrap(), Signal::KILL).unwrap();
    eventually("the lock's release", || (!record::is_live(&run_dir).unwrap()).then_some(())).await;
    eventually("the init process's end", || {
        (!Path::new(&format!("/proc/{}", state.init_pid.unwrap())).exists()).then_some(())
    })
    .await;
    assert!(record::read_exit(&run_dir).unwrap().is_none(), "a lost result is nobody's to invent");
    mainstay_node::cgroup::remove_all(&state.cgroups).unwrap();
    eventually("the loop device's end", || left_over(&launch).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_sandbox_whose_data_directory_was_removed_ends_by_itself() {
    let bench = bench();
    let launch = bench.bare("removed", "trap '' TERM; echo up; while :; do sleep 0.1; done");
    let run_dir = start(&launch);
    eventually("the start", || log_text(&run_dir).contains("up").then_some(())).await;
    let state = record::read_state(&run_dir).unwrap().unwrap();
    for dir in ["run", "pods", "workspaces"] {
        std::fs::remove_dir_all(bench.path().join(dir)).unwrap();
        std::fs::create_dir(bench.path().join(dir)).unwrap();
    }
    let shim = format!("/proc/{}", state.shim_pid);
    eventually("the shim's end", || (!Path::new(&shim).exists()).then_some(())).await;
    assert_eq!(left_over(&launch), Vec::<String>::new());
}

#[tokio::test]
async fn a_stop_is_graceful_first() {
    let bench = bench();
    let launch = bench.bare("graceful", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done");
    let run_dir = start(&launch);
    eventually("the trap", || log_text(&run_dir).contains("up").then_some(())).await;
    let since = tokio::time::Instant::now();
    assert!(stop(&run_dir, 9, 30).accepted);
    let record = ended(&run_dir).await;
    assert_eq!((record.reason, record.exit_code), (ExitReason::Stopped, Some(7)));
    assert!(log_text(&run_dir).contains("bye") && since.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn many_may_start_at_once() {
    let bench = bench();
    let launches: Vec<_> = (0..60u32)
        .map(|number| {
            let mut launch = bench.bare(&format!("m{number}"), "echo up > file; sleep 0.5; cat file");
            launch.uid_base = 300_000 + 65_536 * number;
            launch
        })
        .collect();
    std::thread::scope(|scope| {
        for launch in &launches {
            scope.spawn(|| start(launch));
        }
    });
    for launch in &launches {
        let record = ended(&launch.run_dir).await;
        assert_eq!(record.reason, ExitReason::Completed, "{record:?}");
        assert!(log_text(&launch.run_dir).contains("stdout F up"));
    }
    assert_eq!(left_over(&launches[0]), Vec::<String>::new());
}
