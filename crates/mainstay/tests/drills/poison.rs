//! Operations that do harm become dead letters, also those that take the process with them; others do not wait for it.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, bail, ensure};
use futures::future::try_join_all;
use mainstay_testkit::crash::{death, start};
use mainstay_testkit::server::Server;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cases::report;
use crate::exe;
use crate::kind::Kind;
use crate::stage::Stage;

/// What a server may take in address space, in KiB: more than it needs, less than the machine has.
const ADDRESS_SPACE_KIB: u64 = 4 * 1024 * 1024;
/// After so many lost workers an operation is taken for their cause.
const DEATHS: usize = 5;
const NEIGHBOURS: usize = 10;
/// From so many lost workers on it is suspected, and begun beside no other suspect.
const SUSPECTED: usize = 2;
/// Those beside what takes the process along, and how long each takes.
const SLOW_NEIGHBOURS: usize = 4;
const SLOW_SECONDS: u32 = 5;

/// Operations that come to a good end beside the poison.
async fn neighbours(stage: &Stage) -> anyhow::Result<()> {
    let names: Vec<String> = (0..NEIGHBOURS).map(|at| format!("neighbour-{at}")).collect();
    try_join_all(names.iter().map(|name| async move {
        stage.order(name, &Kind::RunTask.spec(name)).await?;
        stage.ended(name, "Succeeded", "Succeeded").await
    }))
    .await?;
    let effects = stage.judged().await?;
    ensure!(effects.len() == NEIGHBOURS, "{effects:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_becomes_a_dead_letter_and_others_go_on() -> anyhow::Result<()> {
    let (stage, server) = Stage::running().await?;
    let began = Instant::now();
    let poison = [
        ("unknown", json!({ "handler": "nobody" }), "UnknownHandler"),
        ("undecodable", json!({ "handler": "provision", "payload": { "name": 7 } }), "Invalid"),
        (
            "panics",
            json!({ "handler": "drill-poison", "payload": { "harm": "panic" }, "maxAttempts": 2 }),
            "AttemptsExhausted",
        ),
    ];
    for (name, spec, _) in &poison {
        stage.order(name, spec).await?;
    }
    neighbours(&stage).await?;
    for (name, _, reason) in &poison {
        stage.ended(name, "Dead", reason).await?;
    }
    drop(server);
    report("poison that leaves the process alive", poison.len(), &json!({ "took_s": began.elapsed().as_secs_f64() }))
}

/// A program that runs the server in so much memory and no more.
fn bounded(server: &Server) -> anyhow::Result<std::path::PathBuf> {
    let wrapper = server.scratch().join("bounded");
    std::fs::write(&wrapper, format!("#!/bin/sh\nulimit -v {ADDRESS_SPACE_KIB}\nexec {} \"$@\"\n", exe().display()))?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    Ok(wrapper)
}

/// Starts the server again whenever it has died, until it is told to stop; how often it had to.
async fn kept_up(mut server: Server, mut stop: watch::Receiver<bool>) -> anyhow::Result<(Server, usize)> {
    let mut deaths = 0;
    loop {
        let dead = tokio::select! {
            dead = death(&server) => dead.map(|()| true)?,
            _ = stop.wait_for(|stop| *stop) => false,
        };
        if !dead {
            return Ok((server, deaths));
        }
        let status = server.wait()?;
        ensure!(!status.success(), "it ended by itself:\n{}", server.log_text());
        deaths += 1;
        ensure!(deaths < 3 * DEATHS, "it dies for ever:\n{}", server.log_text());
        // It may die before it is ready: then it is started once more.
        loop {
            let (given_back, ready) = start(server).await?;
            server = given_back;
            if ready.is_ok() {
                break;
            }
            server.wait()?;
            deaths += 1;
            ensure!(deaths < 3 * DEATHS, "it does not come up any more:\n{}", server.log_text());
        }
    }
}

/// Those beside the bomb, which comes when all of them are under way: their one step takes longer than it takes the bomb to
/// kill, so that none gets it done beside it.
async fn bombed(stage: &Stage) -> anyhow::Result<Value> {
    let names: Vec<String> = (0..SLOW_NEIGHBOURS).map(|at| format!("neighbour-{at}")).collect();
    let slow = json!({ "handler": "drill-poison", "payload": { "harm": "time" }, "timeoutSeconds": SLOW_SECONDS });
    for name in &names {
        stage.order(name, &slow).await?;
        stage.until(name, "Running", |status| status["phase"] == "Running").await?;
    }
    let bomb = json!({ "handler": "drill-poison", "payload": { "harm": "memory" }, "priority": 1 });
    stage.order("bomb", &bomb).await?;
    for name in &names {
        stage.ended(name, "Succeeded", "Succeeded").await?;
    }
    stage.ended("bomb", "Dead", "WorkersLost").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kills_its_worker_is_found_out_and_its_neighbours_are_cleared() -> anyhow::Result<()> {
    let place = Server::idle(exe())?;
    let (stage, server) = Stage::of(Server::idle(bounded(&place)?)?).await?;
    let (stop, stopped) = watch::channel(false);
    let tasks = mainstay_runtime::Tasks::new();
    let mut keeper = tasks.spawn("keeper", kept_up(server, stopped));
    let began = Instant::now();
    let ended = tokio::select! {
        ended = bombed(&stage) => ended?,
        gave_up = &mut keeper => {
            gave_up.context("the keeper failed")??;
            bail!("nobody keeps the server up");
        }
    };
    stop.send_replace(true);
    let (server, deaths) = keeper.await.context("the keeper failed")??;
    let lost = |note: &&Value| note["reason"] == "Lost";
    let noted = |operation: &Value| {
        operation["status"]["history"].as_array().map_or(0, |notes| notes.iter().filter(lost).count())
    };
    ensure!((noted(&ended), deaths) == (DEATHS, DEATHS), "{deaths} deaths: {ended}\n{}", stage.last_words());
    let mut most = 0;
    for at in 0..SLOW_NEIGHBOURS {
        let neighbour = stage.read(&format!("neighbour-{at}")).await?.unwrap_or_default();
        most = most.max(noted(&neighbour));
    }
    // Until it was suspected itself; of those that died after that it was none.
    ensure!(most == SUSPECTED, "a neighbour lost {most} workers\n{}", stage.last_words());
    drop(server);
    let figures = json!({
        "deaths": deaths, "neighbours": SLOW_NEIGHBOURS, "took_s": began.elapsed().as_secs_f64(),
    });
    report("an operation that takes memory until the process dies", 1, &figures)
}
