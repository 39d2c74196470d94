//! Sessions in real sandboxes: many at once, whole lives, and the time to the first message.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http::Method;
use mainstay_testkit::bench::{Busy, Sample, bubblewrap, fdatasync, spawn, usage};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::Plan;
use crate::stage::{SESSIONS, Stage, next, session};
use crate::table::{Aim, Floor, Row};

/// Sessions created at once.
const AT_ONCE: usize = 30;
/// Sessions of the long run that are there at a time.
const ALIVE: usize = 50;
/// Sessions one after the other.
const FIRST: usize = 200;
const PATIENCE: Duration = Duration::from_mins(1);

/// 30 sessions created at once, until the last is Running: with a workspace size that no sandbox ever had, so that nothing
/// is there before the sessions; and with the usual size, whose empty file system the node agent keeps as a template.
pub(crate) async fn at_once(plan: &Plan) -> anyhow::Result<()> {
    for (what, spec) in [
        ("30 sessions created -> all Running, cold", json!({ "workspace": { "size": "640Mi" } })),
        ("the same, the workspace's file system made ahead", json!({})),
    ] {
        let (mut all, mut bare, mut boxed) = (Vec::new(), Vec::new(), Vec::new());
        let (mut cpu, mut machine, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.runs(5) {
            others.push(plan.settle().await);
            let mut stage = Stage::open(&plan.exe, &["/bin/sleep", "600"]).await?;
            let before = Busy::now();
            let (times, used) = running(&mut stage, &spec).await?;
            machine.push(Busy::now().percent_since(before));
            stage.check_isolation().await?;
            stage.close().await?;
            cpu.push(used);
            all.push(times.max());
            bare.push(spawn(AT_ONCE)?.mean() * 30.0);
            boxed.extend(bubblewrap(AT_ONCE)?.map(|sample| sample.mean() * 30.0));
            let (first, half) = (times.min(), times.median());
            eprintln!("  all {:.0} ms (first {first:.0}, half {half:.0}), server {used:.0} ms of CPU", times.max());
        }
        let bound = format!(
            "CPU: both cores {:.0} % busy (mounts, namespaces, cgroups, two execs a sandbox); {:.0} ms of it in the server",
            median(&machine),
            median(&cpu)
        );
        Row {
            what,
            aim: Aim::AtMost(300.0),
            unit: "ms",
            runs: &all,
            floors: &[
                Floor { what: "30 x fork and exec of `true`, in turn", unit: "ms", runs: &bare },
                Floor { what: "30 x bubblewrap, in turn", unit: "ms", runs: &boxed },
            ],
            bound: &bound,
            others: &others,
            bench: "at-once",
        }
        .print();
    }
    Ok(())
}

fn median(runs: &[f64]) -> f64 {
    runs.iter().copied().collect::<Sample>().median()
}

/// Times from the first create to each session's Running; and the server's CPU time.
async fn running(stage: &mut Stage, spec: &Value) -> anyhow::Result<(Sample, f64)> {
    let pid = stage.server.pid().context("a server")?;
    let mut changes = stage.follow().await?;
    let (began, cpu) = (Instant::now(), usage(pid)?.cpu);
    let creates = (0..AT_ONCE).map(|number| {
        let (mut link, body) = (stage.link.clone(), session(&format!("s{number}"), spec));
        async move { link.send(Method::POST, SESSIONS, body).await }
    });
    futures::future::try_join_all(creates).await?;
    let mut at = HashMap::new();
    while at.len() < AT_ONCE {
        let seen = next(&mut changes).await?;
        match seen.phase.as_deref() {
            Some("Running") => drop(at.entry(seen.name).or_insert(seen.at)),
            Some("Failed" | "Completed") => bail!("{} ended:\n{}", seen.name, stage.server.log_text()),
            _ => {}
        }
    }
    let cpu = (usage(pid)?.cpu - cpu) * 1e3;
    Ok((Sample::of_times(at.values().map(|at| at.duration_since(began))), cpu))
}

/// Whole lives: created, Running, Completed, deleted, gone; so many alive at a time.
pub(crate) async fn life(plan: &Plan) -> anyhow::Result<()> {
    let (mut rates, mut floors, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let (mut machine, mut memory, mut others) = (Vec::new(), [const { Vec::new() }; 3], Vec::new());
    for _ in 0..plan.runs(3) {
        others.push(plan.settle().await);
        let stage = Stage::open(&plan.exe, &["/bin/echo", "done"]).await?;
        let pid = stage.server.pid().context("a server")?;
        let mut lives = Lives { memory: Vec::new(), ended: Vec::new(), failed: 0, gone: 0, begun: HashMap::new() };
        let (began, before, busy) = (Instant::now(), usage(pid)?.cpu, Busy::now());
        if let Err(error) = lives.run(&stage, pid, plan.lives()).await {
            return Err(error.context(stage.left().await));
        }
        let took = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let count = plan.lives() as f64;
        rates.push(count / took);
        cpu.push((usage(pid)?.cpu - before) * 1e3 / count);
        machine.push(Busy::now().percent_since(busy));
        floors.push(1e3 / spawn(100)?.median());
        let ended = Sample::of_times(lives.ended.iter().copied());
        eprintln!(
            "  {:.1} sessions/s, {} errors, resident {:.1?} MB at start, middle, end; to Completed p50 {:.0} ms p99 {:.0} ms",
            count / took,
            lives.failed,
            lives.memory,
            ended.median(),
            ended.percentile(99.0),
        );
        ensure!(lives.failed == 0, "sessions failed:\n{}", stage.server.log_text());
        memory.iter_mut().zip(lives.memory).for_each(|(runs, resident)| runs.push(resident));
        stage.close().await?;
    }
    let bound = format!(
        "CPU: both cores {:.0} % busy, {:.1} ms of a session's in the server, the rest in its sandbox; no session failed",
        median(&machine),
        median(&cpu)
    );
    let row = |what: &str, aim: Aim, unit: &str, runs: &[f64], floors: &[Floor<'_>], bound: &str| {
        Row { what, aim, unit, runs, floors, bound, others: &others, bench: "life" }.print();
    };
    let floors = [Floor { what: "fork and exec of `true`, in turn", unit: "per s", runs: &floors }];
    let what = format!("{} sessions, whole life, trivial agent, 50 at once", plan.lives());
    row(&what, Aim::AtLeast(50.0), "per s", &rates, &floors, &bound);
    for (when, runs) in ["at the start", "in the middle", "at the end"].into_iter().zip(&memory) {
        row(&format!("the server's resident memory, {when}"), Aim::None, "MB", runs, &[], "history kept for watchers");
    }
    Ok(())
}

struct Lives {
    memory: Vec<f64>,
    ended: Vec<Duration>,
    begun: HashMap<String, Instant>,
    failed: usize,
    gone: usize,
}

impl Lives {
    async fn run(&mut self, stage: &Stage, pid: u32, count: usize) -> anyhow::Result<()> {
        let mut changes = stage.follow().await?;
        self.remember(pid)?;
        let mut created = 0;
        while self.gone < count {
            while created < count && created - self.gone < ALIVE {
                let name = format!("s{created}");
                self.begun.insert(name.clone(), Instant::now());
                request(stage, Method::POST, SESSIONS.to_owned(), session(&name, &json!({})));
                created += 1;
            }
            let seen = next(&mut changes).await?;
            match seen.phase.as_deref() {
                None => {
                    self.gone += 1;
                    if self.gone.is_multiple_of(count / 2) {
                        self.remember(pid)?;
                    }
                }
                Some(phase @ ("Completed" | "Failed")) => {
                    // The phase comes again with each later change.
                    if let Some(begun) = self.begun.remove(&seen.name) {
                        self.ended.push(seen.at.duration_since(begun));
                        self.failed += usize::from(phase == "Failed");
                        request(stage, Method::DELETE, format!("{SESSIONS}/{}", seen.name), String::new());
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn remember(&mut self, pid: u32) -> anyhow::Result<()> {
        let now = usage(pid)?;
        eprintln!("  {} have gone: resident {:.1} MB, {:.1} of it anonymous", self.gone, now.resident, now.anonymous);
        self.memory.push(now.resident);
        Ok(())
    }
}

/// Sends a request without waiting for the answer.
fn request(stage: &Stage, method: Method, path: String, body: String) {
    let mut link = stage.link.clone();
    drop(stage.access.tasks().spawn("request", async move {
        if let Err(error) = link.send(method, &path, body).await {
            eprintln!("  refused: {error:#}");
        }
    }));
}

/// From the create's first byte to the agent's first message in a reader's hands, sessions one after the other.
pub(crate) async fn first_message(plan: &Plan) -> anyhow::Result<()> {
    let (mut middle, mut tail, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let (mut syncs, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs(5) {
        others.push(plan.settle().await);
        let mut stage = Stage::open(&plan.exe, &["/bin/echo", "hello"]).await?;
        let mut changes = stage.follow().await?;
        let mut times = Vec::new();
        for number in 0..FIRST {
            let name = format!("s{number}");
            times.push(first(&mut stage, &name).await?);
            while next(&mut changes).await?.phase.as_deref() != Some("Completed") {}
            stage.link.send(Method::DELETE, &format!("{SESSIONS}/{name}"), "").await?;
            while next(&mut changes).await?.phase.is_some() {}
        }
        let sample = Sample::of_times(times);
        syncs.push(fdatasync(stage.server.scratch(), 500)?.median());
        starts.extend(bubblewrap(50)?.map(|sample| sample.median()));
        eprintln!("  p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", sample.median(), sample.percentile(99.0), sample.max());
        middle.push(sample.median());
        tail.push(sample.percentile(99.0));
        stage.close().await?;
    }
    let floors = [
        Floor { what: "bubblewrap, start to end, p50", unit: "ms", runs: &starts },
        Floor { what: "fdatasync p50", unit: "us", runs: &syncs.iter().map(|ms| ms * 1e3).collect::<Vec<_>>() },
    ];
    let bound =
        "the steps in turn: commits, the shim, the sandbox's kernel objects, the agent's exec, the message's commit";
    for (which, aim, runs) in [("p50", 50.0, &middle), ("p99", 150.0, &tail)] {
        Row {
            what: &format!("create -> first message from the agent, {which} of 200"),
            aim: Aim::AtMost(aim),
            unit: "ms",
            runs,
            floors: &floors,
            bound,
            others: &others,
            bench: "first-message",
        }
        .print();
    }
    Ok(())
}

async fn first(stage: &mut Stage, name: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    stage.link.send(Method::POST, SESSIONS, session(name, &json!({}))).await?;
    let mut lines = stage.link.lines(&format!("{SESSIONS}/{name}/messages?follow=true&types=agent")).await?;
    let line = timeout(PATIENCE, lines.next()).await.context("no message came")??;
    let took = began.elapsed();
    let message: Value = serde_json::from_slice(&line)?;
    ensure!(message["text"] == "hello", "not the agent's message: {message}");
    Ok(took)
}
