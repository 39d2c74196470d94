//! Commands beside the agent process: what they get, what they may, and that nothing of them is left.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use mainstay_api::exec::{ExecEnd, ExecFrame, ExecRequest, TerminalSize, units};
use mainstay_node::agent::exec::{ExecError, ExecFrames};
use mainstay_runtime::Tasks;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Sender, channel};

use crate::bench::{Bench, eventually, pod};

const PATIENCE: Duration = Duration::from_mins(1);

/// A command that runs.
struct Running {
    input: Sender<ExecFrame>,
    said: ExecFrames,
}

/// What a command left.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    out: Vec<u8>,
    err: Vec<u8>,
    end: ExecEnd,
}

fn request(uid: &str, script: &str) -> ExecRequest {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecRequest { pod_uid: uid.to_owned(), command, stdin: true, stdout: true, stderr: true, tty: false }
}

async fn started(bench: &Bench, request: ExecRequest) -> Result<Running, ExecError> {
    let (input, mut receive) = channel(1);
    let frames = stream::poll_fn(move |context| receive.poll_recv(context)).map(Ok).boxed();
    let said = tokio::time::timeout(PATIENCE, bench.agent().exec(request, frames)).await.unwrap()?;
    Ok(Running { input, said })
}

async fn run(bench: &Bench, uid: &str, script: &str) -> Done {
    started(bench, request(uid, script)).await.unwrap().rest().await
}

impl Running {
    async fn next(&mut self) -> Option<ExecFrame> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.said.next()).await.unwrap();
            match frame.map(Result::unwrap) {
                Some(ExecFrame::Taken(_)) => {}
                frame => return frame,
            }
        }
    }

    async fn send(&self, frame: ExecFrame) {
        tokio::time::timeout(PATIENCE, self.input.send(frame)).await.unwrap().unwrap();
    }

    async fn input(&self, bytes: &'static [u8]) {
        self.send(ExecFrame::Stdin(Bytes::from_static(bytes))).await;
    }

    /// Reads until the output holds these words.
    async fn until(&mut self, words: &str) -> String {
        let mut out = Vec::new();
        loop {
            match self.next().await {
                Some(ExecFrame::Stdout(bytes)) => out.extend_from_slice(&bytes),
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&out)),
            }
            let text = String::from_utf8_lossy(&out).into_owned();
            if text.contains(words) {
                return text;
            }
        }
    }

    async fn rest(mut self) -> Done {
        let mut done = Done::default();
        loop {
            match self.next().await {
                Some(ExecFrame::Stdout(bytes)) => done.out.extend_from_slice(&bytes),
                Some(ExecFrame::Stderr(bytes)) => done.err.extend_from_slice(&bytes),
                Some(ExecFrame::End(end)) => done.end = end,
                None => return done,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn exited(code: i32) -> ExecEnd {
    ExecEnd { code: Some(code), ..ExecEnd::default() }
}

/// Live processes whose command line holds this.
fn processes(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(marker)).count()
}

async fn isolated() -> (Bench, String) {
    let bench = Bench::isolated();
    let uid = bench.api.create(pod("fix-1", "exec sleep 600"));
    bench.ready("fix-1").await;
    (bench, uid)
}

#[tokio::test(flavor = "multi_thread")]
async fn output_errors_and_the_end_are_told_apart() {
    let (bench, uid) = isolated().await;
    let done = run(&bench, &uid, "echo out; echo err >&2; exit 7").await;
    assert_eq!(done, Done { out: b"out\n".into(), err: b"err\n".into(), end: exited(7) });
    let killed = run(&bench, &uid, "kill -9 $$").await.end;
    assert_eq!(killed, ExecEnd { signal: Some(9), ..ExecEnd::default() });
    let mut absent = request(&uid, "");
    absent.command = vec!["/no/such/program".into(), "s3cret".into()];
    let why = started(&bench, absent).await.unwrap().rest().await.end.failure.unwrap();
    assert!(why.contains("/no/such/program: No such file") && !why.contains("s3cret"), "{why}");
    let mut deaf = request(&uid, "echo out; echo err >&2; cat");
    (deaf.stdin, deaf.stdout, deaf.stderr) = (false, false, true);
    let done = started(&bench, deaf).await.unwrap().rest().await;
    assert_eq!(done, Done { err: b"err\n".into(), end: exited(0), ..Done::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_comes_out_however_much_and_nothing_is_lost_at_the_end() {
    let (bench, uid) = isolated().await;
    let Running { input, mut said } = started(&bench, request(&uid, "cat")).await.unwrap();
    let sent: Vec<u8> = (0..5_000_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let frames: Vec<_> = sent.chunks(30_000).map(|chunk| ExecFrame::Stdin(Bytes::copy_from_slice(chunk))).collect();
    let room = Arc::new(Semaphore::new(64));
    let taken = room.clone();
    let writer = Tasks::new().spawn("writer", async move {
        for frame in frames.into_iter().chain([ExecFrame::StdinEnd]) {
            if matches!(frame, ExecFrame::Stdin(_)) {
                taken.acquire_many(units(30_000)).await.unwrap().forget();
            }
            input.send(frame).await.unwrap();
        }
        input
    });
    let mut got = Vec::new();
    let end = loop {
        match tokio::time::timeout(PATIENCE, said.next()).await.unwrap() {
            Some(Ok(ExecFrame::Stdout(bytes))) => got.extend_from_slice(&bytes),
            // The last piece is shorter; more room than there is does no harm any more.
            Some(Ok(ExecFrame::Taken(_))) => room.add_permits(30),
            Some(Ok(ExecFrame::End(end))) => break end,
            other => panic!("{other:?}"),
        }
    };
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(end, exited(0));
    drop(writer.await.unwrap());
    // What was written just before the end, to a reader that takes its time.
    let slow = started(&bench, request(&uid, "head -c 60000 /dev/zero")).await.unwrap();
    eventually("its end", || (processes("head -c 60000") == 0).then_some(())).await;
    let done = slow.rest().await;
    assert_eq!((done.out.len(), done.end), (60_000, exited(0)));
}

/// What tells of a process's rights.
const PROBE: &str = "grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|Seccomp_filters):' /proc/self/status; \
    for n in user pid mnt net ipc uts cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup; \
    cat /proc/self/limits; cat /proc/self/oom_score_adj; cat /proc/self/mounts; pwd; ls /; cat /proc/sys/kernel/hostname; \
    env | grep -v ^_= | sort; mount -t tmpfs x /tmp 2>&1; touch /etc/x 2>&1; ls /home /var /root /proc/1/root 2>&1";

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_the_rights_of_the_agent_process_and_sees_the_same() {
    let bench = Bench::isolated();
    let script = format!("({PROBE}) > /workspace/probe; echo probed; exec sleep 600");
    let uid = bench.api.create(pod("fix-1", &script));
    bench.ready("fix-1").await;
    eventually("the probe", || bench.api.texts().contains(&"probed".to_owned()).then_some(())).await;
    let agents = run(&bench, &uid, "cat /workspace/probe").await;
    let own = run(&bench, &uid, &format!("({PROBE}) > /workspace/own; cat /workspace/own")).await;
    let text = |done: &Done| String::from_utf8(done.out.clone()).unwrap();
    assert_eq!(text(&own), text(&agents));
    for words in
        ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Uid:\t1000"]
    {
        assert!(text(&own).contains(words), "{words}: {}", text(&own));
    }
    // Its own three descriptors, and the one that `ls` reads the directory by.
    assert_eq!(text(&run(&bench, &uid, "ls /proc/self/fd").await), "0\n1\n2\n3\n");
    // Of the host's processes it sees none: pid 1 is the supervisor, and there is nothing but the sandbox's own.
    let seen = text(&run(&bench, &uid, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await);
    assert!(seen.contains("sleep 600") && !seen.contains("mainstay") && !seen.contains("test"), "{seen}");
    // What it is given can be opened anew, and is nobody else's.
    let again = text(&run(&bench, &uid, "echo anew > /dev/stdout; cat /proc/self/fdinfo/0 | grep -c flags").await);
    assert_eq!(again, "anew\n1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_leaves_no_process_behind() {
    let (mut bench, uid) = isolated().await;
    let script = |marker: &str| format!("sleep {marker} & (set -m; sleep {marker} & wait) & echo up; wait");
    for (marker, by_input) in [("8101", true), ("8102", false)] {
        let mut running = started(&bench, request(&uid, &script(marker))).await.unwrap();
        running.until("up").await;
        eventually("its processes", || (processes(marker) >= 3).then_some(())).await;
        assert_eq!(bench.agent().execs(), 1);
        let Running { input, said } = running;
        // Either is enough.
        let (mut input, mut said) = (Some(input), Some(said));
        if by_input {
            drop(input.take());
        } else {
            drop(said.take());
        }
        eventually("no process", || (processes(marker) == 0).then_some(())).await;
        eventually("its end", || (bench.agent().execs() == 0).then_some(())).await;
    }
    // Nor who has sent what was not read; more than there is room for is not taken.
    let running = started(&bench, request(&uid, "exec sleep 8104")).await.unwrap();
    eventually("it runs", || (processes("8104") == 1).then_some(())).await;
    for _ in 0..2 {
        running.send(ExecFrame::Stdin(vec![0; 32 << 10].into())).await;
    }
    let Running { input, said } = running;
    drop(input);
    eventually("no process", || (processes("8104") == 0).then_some(())).await;
    drop(said);
    // The agent stops, and says so; the sandbox goes on.
    let mut running = started(&bench, request(&uid, &script("8103"))).await.unwrap();
    running.until("up").await;
    bench.stop().await;
    let end = running.rest().await.end;
    assert_eq!(end, ExecEnd::failed("the agent of the Pod's node stops"));
    eventually("no process", || (processes("8103") == 0).then_some(())).await;
    bench.start();
    assert_eq!(run(&bench, &uid, "echo on").await.out, b"on\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_in_the_background_does_not_hold_up_its_end() {
    let (bench, uid) = isolated().await;
    let done = run(&bench, &uid, "sleep 8201 & echo said").await;
    assert_eq!(done, Done { out: b"said\n".into(), end: exited(0), ..Done::default() });
    // It goes on, until the sandbox ends.
    eventually("what was left", || (processes("sleep\u{0}8201") == 1).then_some(())).await;
    let running = started(&bench, request(&uid, "sleep 8202")).await.unwrap();
    eventually("it runs", || (processes("8202") > 0).then_some(())).await;
    bench.api.delete("fix-1", 0);
    assert_eq!(running.rest().await.end, ExecEnd::failed("the sandbox has ended"));
    bench.gone("fix-1").await;
    assert_eq!((processes("8201"), processes("8202")), (0, 0));
    assert!(matches!(started(&bench, request(&uid, "true")).await, Err(ExecError::NotRunning)));
    for other in ["none", "../x", ""] {
        assert!(matches!(started(&bench, request(other, "true")).await, Err(ExecError::NotRunning)), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_ends_with_who_uses_it() {
    let (bench, uid) = isolated().await;
    let terminal = |script: &str| ExecRequest { tty: true, stderr: false, ..request(&uid, script) };
    let mut running = started(
        &bench,
        terminal("test -t 0 && test -t 1 && test -t 2 && echo is one $TERM; trap 'echo told' WINCH; read x; stty size; read y; stty size; exit 3"),
    )
    .await
    .unwrap();
    running.until("is one xterm").await;
    running.send(ExecFrame::Resize(TerminalSize { width: 101, height: 33 })).await;
    running.input(b"\n").await;
    running.until("33 101").await;
    running.send(ExecFrame::Resize(TerminalSize { width: 90, height: 20 })).await;
    running.input(b"\n").await;
    let done = running.rest().await;
    let out = String::from_utf8_lossy(&done.out).into_owned();
    assert!(out.contains("20 90") && out.contains("told") && done.end == exited(3), "{done:?}");
    // Keys are signals, as in any terminal.
    let mut running = started(&bench, terminal("echo up; exec sleep 8301")).await.unwrap();
    running.until("up").await;
    eventually("it runs", || (processes("sleep\u{0}8301") == 1).then_some(())).await;
    running.input(&[3]).await;
    assert_eq!(running.rest().await.end, ExecEnd { signal: Some(2), ..ExecEnd::default() });
    // The end of the input is one.
    let running = started(&bench, terminal("stty -echo; cat; echo over")).await.unwrap();
    running.input(b"line\n").await;
    running.send(ExecFrame::StdinEnd).await;
    let done = running.rest().await;
    assert!(String::from_utf8_lossy(&done.out).ends_with("over\r\n"), "{done:?}");
    // Who hangs up takes also those with it that do not listen to that.
    let mut running =
        started(&bench, terminal("trap '' HUP; (set -m; sleep 8302 &); echo up; sleep 8302")).await.unwrap();
    running.until("up").await;
    eventually("its processes", || (processes("sleep\u{0}8302") == 2).then_some(())).await;
    drop(running);
    eventually("no process", || (processes("8302") == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_run_as_may() {
    let bench = Bench::new();
    let uid = bench.api.create(pod("fix-1", "exec sleep 600"));
    bench.ready("fix-1").await;
    let mut running = Vec::new();
    for _ in 0..64 {
        running.push(started(&bench, request(&uid, "exec sleep 8401")).await.unwrap());
    }
    assert!(matches!(started(&bench, request(&uid, "true")).await, Err(ExecError::TooMany)));
    running.clear();
    eventually("room", || (bench.agent().execs() == 0).then_some(())).await;
    eventually("no process", || (processes("8401") == 0).then_some(())).await;
    assert_eq!(run(&bench, &uid, "echo again").await.out, b"again\n");
}
