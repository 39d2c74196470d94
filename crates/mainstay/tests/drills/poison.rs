//! Operations that do harm become dead letters, also those that take the process with them; others do not wait for it.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, ensure};
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

#[tokio::test(flavor = "multi_thread")]
async fn what_kills_its_worker_is_found_out_and_its_neighbours_are_cleared() -> anyhow::Result<()> {
    let place = Server::idle(exe())?;
    let (stage, server) = Stage::of(Server::idle(bounded(&place)?)?).await?;
    let (stop, stopped) = watch::channel(false);
    let tasks = mainstay_runtime::Tasks::new();
    let keeper = tasks.spawn("keeper", kept_up(server, stopped));
    let began = Instant::now();
    let bomb = json!({ "handler": "drill-poison", "payload": { "harm": "memory" }, "priority": 1 });
    let judged = async {
        stage.order("bomb", &bomb).await?;
        neighbours(&stage).await?;
        let neighbours_took = began.elapsed();
        let ended = stage.ended("bomb", "Dead", "WorkersLost").await?;
        anyhow::Ok((ended, neighbours_took))
    };
    let judged = judged.await;
    stop.send_replace(true);
    let (server, deaths) = keeper.await.context("the keeper failed")??;
    let (ended, neighbours_took) = judged?;
    let lost = |note: &&Value| note["reason"] == "Lost";
    let noted = ended["status"]["history"].as_array().map_or(0, |notes| notes.iter().filter(lost).count());
    ensure!((noted, deaths) == (DEATHS, DEATHS), "{deaths} deaths: {ended}\n{}", stage.last_words());
    drop(server);
    report(
        "an operation that takes memory until the process dies",
        1,
        &json!({
            "deaths": deaths, "took_s": began.elapsed().as_secs_f64(), "neighbours_took_s": neighbours_took.as_secs_f64(),
        }),
    )
}
