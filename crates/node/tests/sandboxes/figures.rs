//! Measurements, printed: `cargo test --release -p mainstay-node --test sandboxes -- --ignored --nocapture figures`.

use std::process::Command;
use std::time::Duration;

use mainstay_node::launch::{Isolation, Limits};
use mainstay_node::shim::record;
use mainstay_runtime::{Clock, Timestamp};

use crate::bench::{Bench, ended, eventually, log_text, start, stop};
use crate::fake_api::FakeApi;

const RUNS: usize = 50;

fn median(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    format!("p50 {:.2} ms, p90 {:.2} ms", times[times.len() / 2], times[times.len() * 9 / 10])
}

fn millis_since(start: Timestamp, end: Timestamp) -> f64 {
    Duration::try_from(end.duration_since(start)).unwrap().as_secs_f64() * 1000.0
}

#[tokio::test]
#[ignore = "a measurement"]
async fn figures_of_a_start() {
    let clock = Clock::system();
    for (isolation, limits) in [
        (Isolation::None, Limits::default()),
        (Isolation::Full, Limits::default()),
        (Isolation::Full, Limits { cpu_millis: Some(1000), memory_bytes: Some(1 << 30), pids: Some(512) }),
    ] {
        let bench = Bench::new(isolation);
        let (mut claimed, mut running, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=RUNS {
            let mut launch = bench.bare(&format!("r{round}"), "");
            launch.command = ["/bin/echo", "up"].map(str::to_owned).to_vec();
            launch.limits = limits;
            launch.workspace.size_bytes = 1 << 30;
            let before = clock.now();
            let run_dir = start(&launch);
            let after = clock.now();
            ended(&run_dir).await;
            let log = log_text(&run_dir);
            let up: Timestamp = log.split(' ').next().unwrap().parse().unwrap();
            // The first one also makes the template.
            if round > 0 {
                claimed.push(millis_since(before, after));
                running.push(millis_since(before, up));
                gone.push(millis_since(before, clock.now()));
            }
        }
        println!("{isolation:?} {limits:?}");
        println!("  claimed: {}", median(claimed));
        println!("  the agent process's first output: {}", median(running));
        println!("  ended and cleaned up (seen by polling): {}", median(gone));
    }
    let mut plain = Vec::new();
    for _ in 0..RUNS {
        let before = clock.now();
        Command::new("/bin/echo").output().unwrap();
        plain.push(millis_since(before, clock.now()));
    }
    println!("fork and exec of echo, to its end: {}", median(plain));
}

fn memory(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn figures_of_memory() {
    let bench = Bench::new(Isolation::Full);
    let api = FakeApi::new();
    api.say("hello");
    let launch = bench.shell("memory", "while read line; do echo \"got $line\"; done");
    let run_dir = start(&launch);
    let _listening = api.listen(&launch.sock_dir);
    eventually("the answer", || (!api.texts("agent").is_empty()).then_some(())).await;
    let state = record::read_state(&run_dir).unwrap().unwrap();
    let mut total = 0;
    for (name, pid) in [("shim", state.shim_pid), ("supervisor", state.init_pid.unwrap())] {
        let dirty = memory(pid, "Private_Dirty:");
        total += dirty;
        println!(
            "{name}: Private_Dirty {dirty} kB, Shared_Dirty {} kB, Pss {} kB",
            memory(pid, "Shared_Dirty:"),
            memory(pid, "Pss:")
        );
    }
    println!("together: Private_Dirty {total} kB");
    assert!(total <= 4096, "shim and supervisor together stay within 4 MB, but have {total} kB");
    stop(&run_dir, 9, 0);
    ended(&run_dir).await;
}
