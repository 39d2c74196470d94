//! `mainstay demo`: one agent session on real input, end to end, with the control plane killed half-way.
//!
//! Everything it shows goes through the same program that a user runs: `serve`, `apply`, `messages`, `send`, `get`,
//! `delete`. What it claims at the end it has checked; any check that fails makes the demo fail.
//!
//! However it ends, by a failure or by Ctrl-C in any of its steps, it takes along what it has started.

pub(crate) mod args;
mod follow;
mod interrupt;
mod repo;
mod show;
mod stage;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine as _;
use interrupt::Interrupts;
use mainstay_api::phase::Phase;
use mainstay_api::session::Session;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use args::DemoArgs;
use follow::Messages;
use repo::Repo;
use show::{say, show_log, show_message, show_timeline, tell, warn};
use stage::Stage;

use crate::cli::failure::{CliError, CliResult};

const PROJECT: &str = "ferry";
const SESSION: &str = "fix-change";
/// After this step of the agent the control plane is killed.
const KILL_AFTER_STEP: u64 = 4;
/// How long the control plane is away, so that one can see the agent work on.
const AWAY: Duration = Duration::from_secs(1);
/// Longest time for the whole session.
const PATIENCE: Duration = Duration::from_mins(1);

/// When what happened, as a watch showed it.
#[derive(Default)]
struct Timeline {
    created: Option<Instant>,
    running: Option<Instant>,
    first_message: Option<Instant>,
    finished: Option<(Phase, Instant, Session)>,
}

/// Runs the demo.
///
/// # Errors
/// Whatever did not go as it should, and an interruption.
pub(crate) async fn run(args: DemoArgs) -> CliResult {
    let began = Instant::now();
    repo::has_programs()?;
    let mut interrupts = Interrupts::new().map_err(anyhow::Error::from)?;
    let scratch = tempfile::Builder::new().prefix("mainstay-demo-").tempdir().context("make a temporary directory")?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| scratch.path().join("data"));
    let mut stage = Stage::new(&data_dir, scratch.path().join("serve.log"))?;
    let played = tokio::select! {
        played = play(&mut stage, scratch.path(), !args.no_kill) => Some(played),
        () = interrupts.next() => None,
    };
    match played {
        Some(Ok(())) if args.keep => {
            leave(&mut stage, &scratch.keep());
            return Ok(());
        }
        Some(Ok(())) => {}
        Some(Err(_)) => show_log(stage.log()),
        None => warn("Interrupted. Taking along what was started; once more to leave it."),
    }
    let cleaned = tokio::select! {
        cleaned = clean_up(&mut stage, matches!(played, Some(Ok(())))) => cleaned,
        () = interrupts.second() => Err(anyhow::anyhow!("interrupted again")),
    };
    if cleaned.is_err() {
        warn(&format!("What could not be taken along is in {}", scratch.keep().display()));
    }
    played.unwrap_or(Ok(()))?;
    cleaned?;
    if interrupts.any() {
        return Err(CliError::Interrupted);
    }
    let took = began.elapsed().as_secs_f64();
    say(&format!("Done in {took:.1} s. Nothing was lost, nothing was done twice, nothing is left over."));
    Ok(())
}

async fn play(stage: &mut Stage, scratch: &Path, kill: bool) -> anyhow::Result<()> {
    say("A git repository with a small program whose test fails");
    let repo = Repo::create(&scratch.join("ferry")).await?;
    let (passes, verdict) = repo.test().await?;
    ensure!(!passes, "the demo's test was to fail at first");
    tell(&format!("git log: {}", repo.show(&["log", "--oneline"]).await?));
    tell(&format!("tests:   {verdict}"));

    say("A control plane: mainstay serve, SQLite, TLS, one process");
    let took = stage.start().await?.as_millis();
    tell(&format!("{} ready after {took} ms (first start: makes its CA and keys)", stage.url()?));

    let story = timeout(PATIENCE, story(stage, &repo, kill)).await;
    story.unwrap_or_else(|_| Err(anyhow::anyhow!("the session did not end in {} s", PATIENCE.as_secs())))
}

fn leave(stage: &mut Stage, scratch: &Path) {
    stage.leave();
    say("Left running, as asked");
    tell(&format!("export KUBECONFIG={}", stage.kubeconfig().display()));
    tell("mainstay get sessions -n ferry; kubectl get sessions -n ferry; mainstay status");
    tell(&format!("when done: stop the server, then rm -r {}", scratch.display()));
}

async fn story(stage: &mut Stage, repo: &Repo, kill: bool) -> anyhow::Result<()> {
    say("Project, Credential, Agent and Session: mainstay apply -f -");
    let manifests = manifests(&repo.bundle().await?);
    let client = client(&stage.kubeconfig()).await?;
    let mut phases = follow::phases(client, PROJECT, SESSION);
    let applied =
        stage.run(&["apply", "-f", "-"], &manifests, &[("DEMO_GIT_TOKEN", "demo-token-not-a-secret")]).await?;
    applied.lines().for_each(tell);

    say("The agent's messages, live: mainstay messages fix-change -f");
    let mut timeline = Timeline::default();
    let patch = converse(stage, kill, &mut timeline, &mut phases).await?;
    while timeline.finished.is_none() {
        note_phase(phases.recv().await.context("the watch of the session ended")?, &mut timeline);
    }
    let session = has_completed(&timeline)?;
    let attempts = session.status.as_ref().map(|status| status.attempts);
    ensure!(attempts == Some(1), "the agent was started {attempts:?} times, not once");

    say("What the agent did, applied to the repository here: git am");
    repo.apply(&patch).await?;
    repo.show(&["show", "--stat", "--patch", "--format=%h %an: %s", "HEAD"]).await?.lines().for_each(tell);
    let (passes, verdict) = repo.test().await?;
    ensure!(passes, "the tests still fail: {verdict}");
    tell(&format!("tests:   {verdict}"));

    say("The session: mainstay get session fix-change -o wide");
    stage.run(&["get", "session", SESSION, "-n", PROJECT, "-o", "wide"], "", &[]).await?.lines().for_each(tell);
    tell(&format!("its sandbox: {}", isolation(stage).await?));
    show_timeline(&timeline);
    Ok(())
}

fn has_completed(timeline: &Timeline) -> anyhow::Result<&Session> {
    let (phase, _, session) = timeline.finished.as_ref().context("the session has no end")?;
    ensure!(*phase == Phase::Completed, "the session ended as {phase}: {:?}", session.status);
    Ok(session)
}

/// Shows the messages as they come, kills and restarts the control plane after step 4, and answers the agent's question.
async fn converse(
    stage: &mut Stage,
    kill: bool,
    timeline: &mut Timeline,
    phases: &mut mpsc::Receiver<(Phase, Instant, Session)>,
) -> anyhow::Result<String> {
    let mut messages = Messages::follow(stage, PROJECT, SESSION)?;
    let (mut steps, mut patch) = (0, None);
    loop {
        let message = tokio::select! {
            message = messages.next() => message?,
            phase = phases.recv() => {
                note_phase(phase.context("the watch of the session ended")?, timeline);
                // Whoever failed says nothing more.
                if timeline.finished.is_some() {
                    has_completed(timeline)?;
                }
                continue;
            }
        };
        show_message(&message);
        let event = &message["data"];
        // The supervisor's last word, after all of the agent's.
        if event["event"] == "exited" {
            break;
        }
        let Some(step) = event["step"].as_u64() else { continue };
        timeline.first_message.get_or_insert_with(Instant::now);
        ensure!(step == steps + 1, "step {step} of the agent came after step {steps}");
        steps = step;
        if kill && step == KILL_AFTER_STEP {
            kill_and_restart(stage).await?;
        }
        match event["type"].as_str() {
            Some("question") => answer(stage).await?,
            Some("patch") => patch = event["patch"].as_str().map(str::to_owned),
            _ => {}
        }
    }
    tell(&format!(
        "{} messages, numbered 1 to {} without a gap; {steps} steps of the agent, each once",
        messages.last(),
        messages.last()
    ));
    patch.context("the agent sent no patch")
}

async fn kill_and_restart(stage: &mut Stage) -> anyhow::Result<()> {
    let pid = stage.kill().await?.context("the server is not running")?;
    warn(&format!("SIGKILL to the control plane (pid {pid}). The sandbox and its agent go on."));
    tokio::time::sleep(AWAY).await;
    let took = stage.start().await?;
    warn(&format!("After {} ms away it is started again: ready in {} ms.", AWAY.as_millis(), took.as_millis()));
    Ok(())
}

/// What of the isolation was in force, as the Pod says.
async fn isolation(stage: &Stage) -> anyhow::Result<String> {
    let pods = ["get", "pods", "-n", PROJECT, "-l", &format!("mainstay.dev/session={SESSION}"), "-o", "json"];
    let pods: Value = serde_json::from_str(&stage.run(&pods, "", &[]).await?)?;
    let conditions = pods["items"][0]["status"]["conditions"].as_array().context("the Pod has no conditions")?;
    let found = conditions.iter().find(|condition| condition["type"] == "Isolated");
    Ok(found.and_then(|found| found["message"].as_str()).unwrap_or("not isolated").to_owned())
}

async fn answer(stage: &Stage) -> anyhow::Result<()> {
    tell("$ mainstay send fix-change 'Yes, go on.'");
    stage.run(&["send", SESSION, "-n", PROJECT, "Yes, go on."], "", &[]).await.map(drop)
}

/// Deletes the project, ends the server and looks for what is left. After a play that was cut short the server is
/// started anew, since it may be away or on its way.
async fn clean_up(stage: &mut Stage, whole: bool) -> anyhow::Result<()> {
    if !whole && !stage.has_state() {
        return stage.kill().await.map(drop);
    }
    if !whole {
        stage.kill().await?;
        stage.start().await?;
    }
    say(&format!("Cleaning up: mainstay delete project {PROJECT}"));
    let deleted = stage.run(&["delete", "project", PROJECT, "--ignore-not-found"], "", &[]).await?;
    deleted.lines().for_each(tell);
    stage.stop().await?;
    let left = stage.leftovers();
    ensure!(left.is_empty(), "left over: {}", left.join("; "));
    tell("the project, its namespace, sandboxes, files and processes are gone; the server ended with 0");
    Ok(())
}

fn manifests(bundle: &[u8]) -> String {
    let files = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": SESSION, "namespace": PROJECT },
        "data": { "agent.py": include_str!("../demo/agent.py") },
        "binaryData": { "repo.bundle": base64::engine::general_purpose::STANDARD.encode(bundle) },
    });
    let (before, session) = include_str!("../demo/manifests.yaml").rsplit_once("---\n").unwrap_or_default();
    format!("{before}---\n{files}\n---\n{session}")
}

async fn client(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    Ok(mainstay_runtime::client::remote(&config, crate::connect::STREAM_IDLE)?)
}

fn note_phase((phase, at, session): (Phase, Instant, Session), timeline: &mut Timeline) {
    timeline.created.get_or_insert(at);
    match phase {
        Phase::Running => drop(timeline.running.get_or_insert(at)),
        phase if phase.is_terminal() => timeline.finished = Some((phase, at, session)),
        _ => {}
    }
}
