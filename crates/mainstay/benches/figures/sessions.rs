//! Sessions in real sandboxes: many at once, whole lives, and the time to the first message.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http::Method;
use mainstay_testkit::bench::{Sample, bubblewrap, fdatasync, spawn, usage};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::stage::{SESSIONS, Stage, next, session};
use crate::{Plan, say};

/// Sessions created at once.
const AT_ONCE: usize = 30;
/// Sessions of the long run, and how many of them are there at a time.
const LIVES: usize = 1_000;
const ALIVE: usize = 50;
/// Sessions one after the other.
const FIRST: usize = 200;
const PATIENCE: Duration = Duration::from_mins(1);

/// 30 sessions created at once, until the last is Running; and with a workspace size that no sandbox ever had.
pub(crate) async fn at_once(plan: &Plan) -> anyhow::Result<()> {
    for (what, spec) in [
        ("30 sessions created -> all Running", json!({})),
        ("the same, first use of a workspace size", json!({ "workspace": { "size": "640Mi" } })),
    ] {
        let (mut all, mut floors, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.runs(5) {
            let busy = plan.settle().await;
            let mut stage = Stage::open(&plan.exe, &["/bin/sleep", "600"]).await?;
            let (times, cpu) = running(&mut stage, &spec).await?;
            stage.check_isolation().await?;
            stage.close().await?;
            let bare = spawn(AT_ONCE)?;
            let boxed = bubblewrap(AT_ONCE)?.unwrap_or_default();
            println!(
                "  all {:.0} ms (first {:.0}, half {:.0}), server {cpu:.0} ms of CPU; {AT_ONCE} x fork+exec {:.0} ms, x bwrap \
                 {:.0} ms; others {busy:.0} %",
                times.max(),
                times.min(),
                times.median(),
                bare.mean() * 30.0,
                boxed.mean() * 30.0,
            );
            all.push(times.max());
            floors.push(bare.mean() * 30.0);
            starts.push(boxed.mean() * 30.0);
        }
        say(what, "ms", &all);
        say("floor, 30 x fork+exec of true, one after the other", "ms", &floors);
        say("peer, 30 x bubblewrap, one after the other", "ms", &starts);
    }
    Ok(())
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
    let (mut rates, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs(3) {
        let busy = plan.settle().await;
        let stage = Stage::open(&plan.exe, &["/bin/echo", "done"]).await?;
        let pid = stage.server.pid().context("a server")?;
        let mut lives = Lives { memory: Vec::new(), ended: Vec::new(), failed: 0, gone: 0, begun: HashMap::new() };
        let (began, cpu) = (Instant::now(), usage(pid)?.cpu);
        lives.run(&stage, pid).await?;
        let took = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let (count, cpu) = (LIVES as f64, usage(pid)?.cpu - cpu);
        let (bare, ended) = (spawn(100)?, Sample::of_times(lives.ended.iter().copied()));
        println!(
            "  {:.1} sessions/s, {} errors, resident {} MB at start, middle, end; server {:.1} ms of CPU a session; \
             to Completed p50 {:.0} ms p99 {:.0} ms; fork+exec {:.2} ms; others {busy:.0} %",
            count / took,
            lives.failed,
            lives.memory.iter().map(|mb| format!("{mb:.1}")).collect::<Vec<_>>().join(", "),
            cpu * 1e3 / count,
            ended.median(),
            ended.percentile(99.0),
            bare.median(),
        );
        ensure!(lives.failed == 0, "sessions failed:\n{}", stage.server.log_text());
        rates.push(count / took);
        floors.push(1e3 / bare.median());
        stage.close().await?;
    }
    say("1,000 whole lives, 50 at a time", "sessions/s", &rates);
    say("floor, fork+exec of true, one after the other", "per s", &floors);
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
    async fn run(&mut self, stage: &Stage, pid: u32) -> anyhow::Result<()> {
        let mut changes = stage.follow().await?;
        self.memory.push(usage(pid)?.resident);
        let mut created = 0;
        while self.gone < LIVES {
            while created < LIVES && created - self.gone < ALIVE {
                let name = format!("s{created}");
                self.begun.insert(name.clone(), Instant::now());
                request(stage, Method::POST, SESSIONS.to_owned(), session(&name, &json!({})));
                created += 1;
            }
            let seen = next(&mut changes).await?;
            match seen.phase.as_deref() {
                None => self.gone(pid)?,
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

    fn gone(&mut self, pid: u32) -> anyhow::Result<()> {
        self.gone += 1;
        if self.gone.is_multiple_of(LIVES / 2) {
            self.memory.push(usage(pid)?.resident);
        }
        Ok(())
    }
}

/// Sends a request without waiting for the answer.
fn request(stage: &Stage, method: Method, path: String, body: String) {
    let mut link = stage.link.clone();
    drop(stage.access.tasks().spawn("request", async move {
        if let Err(error) = link.send(method, &path, body).await {
            println!("  refused: {error:#}");
        }
    }));
}

/// From the create's first byte to the agent's first message in a reader's hands, sessions one after the other.
pub(crate) async fn first_message(plan: &Plan) -> anyhow::Result<()> {
    let (mut middle, mut tail, mut syncs, mut starts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.runs(5) {
        let busy = plan.settle().await;
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
        let sync = fdatasync(stage.server.scratch(), 500)?;
        let boxed = bubblewrap(50)?.unwrap_or_default();
        println!(
            "  p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; fdatasync p50 {:.3} ms, bwrap {:.1} ms; others {busy:.0} %",
            sample.median(),
            sample.percentile(99.0),
            sample.max(),
            sync.median(),
            boxed.median(),
        );
        middle.push(sample.median());
        tail.push(sample.percentile(99.0));
        syncs.push(sync.median());
        starts.push(boxed.median());
        stage.close().await?;
    }
    say("create -> first message, p50", "ms", &middle);
    say("create -> first message, p99", "ms", &tail);
    say("floor, fdatasync p50", "ms", &syncs);
    say("peer, bubblewrap start to end p50", "ms", &starts);
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
