//! Many want the same at once: a thousand operations are claimed by three replicas, of which one dies; a name is deleted and
//! made anew while what it stood for is torn down.

use anyhow::{Context as _, ensure};
use mainstay_testkit::crash::start;
use mainstay_testkit::drill_backend::{DrillBackend, doubled};
use mainstay_testkit::server::Server;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::calls::{Api, CONFIG_MAPS};
use crate::cases::{all, report};
use crate::parted::LEASE;
use crate::stage::{Fleet, GLANCE, PATIENCE};

/// Operations that are claimed, in a run of every case.
const OPERATIONS: usize = 1_000;
/// Operations of one request.
pub(crate) const BATCH: usize = 100;
pub(crate) const PATH: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/operations";
const PROJECTS: &str = "/apis/mainstay.dev/v1alpha1/projects";
/// How often an object is passed on from replica to replica.
const TURNS: usize = 60;
/// What is deleted and made anew.
const NAME: &str = "again";

pub(crate) fn operations(from: usize) -> Value {
    let one = |at: usize| {
        json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "Operation", "metadata": { "name": format!("race-{at}") },
            "spec": { "handler": "run-task", "payload": { "image": "web", "command": ["looks", "1"] },
                "project": format!("p{}", at % 7) },
        })
    };
    let items: Vec<Value> = (from..from + BATCH).map(one).collect();
    json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "OperationList", "metadata": {}, "items": items })
}

/// Kills a replica, and starts it again.
async fn dies(fleet: &mut Fleet, at: usize) -> anyhow::Result<()> {
    fleet.replicas[at].server.kill9()?;
    let server = std::mem::replace(&mut fleet.replicas[at].server, Server::idle(crate::exe())?);
    let (server, ready) = start(server).await?;
    fleet.replicas[at].server = server;
    ready?;
    fleet.replicas[at].api = Api::new(fleet.replicas[at].server.client().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_operations_are_each_claimed_by_one() -> anyhow::Result<()> {
    let count = if all() { OPERATIONS } else { OPERATIONS / 5 };
    let backend = DrillBackend::start()?;
    let arguments = ["--drill-backend", &backend.url(), "--operation-lease", "3"];
    let mut fleet = Fleet::start(3, |_, server| server.set_arguments(&arguments)).await?;
    let began = Instant::now();
    for (turn, from) in (0..count).step_by(BATCH).enumerate() {
        let made = fleet.replicas[turn % 3].api.call("POST", PATH, None, &operations(from)).await;
        ensure!(made.code == Some(201) || made.code == Some(200), "{made:?}");
    }
    let done = |rows: Vec<String>| rows.first().and_then(|count| count.parse::<usize>().ok()).unwrap_or_default();
    let query = "SELECT count(*) FROM mainstay.operations WHERE state = 4";
    let (mut holders, mut died) = (std::collections::BTreeSet::new(), false);
    loop {
        holders.extend(fleet.sql("SELECT DISTINCT holder FROM mainstay.operations WHERE holder IS NOT NULL").await?);
        let ended = done(fleet.sql(query).await?);
        if ended == count {
            break;
        }
        if !died && ended > count / 4 {
            died = true;
            dies(&mut fleet, 1).await?;
        }
        ensure!(began.elapsed() < PATIENCE * 2, "{ended} of {count} have ended\n{}", fleet.last_words(0));
        sleep(GLANCE).await;
    }
    let effects = backend.effects().await?;
    ensure!(doubled(&effects).is_empty(), "had twice: {:?}", doubled(&effects));
    ensure!(effects.len() == count && died, "{} effects of {count}; died: {died}", effects.len());
    ensure!(holders.len() == 3, "only {holders:?} claimed any");
    let again = fleet.sql("SELECT count(*) FROM mainstay.operations WHERE attempt > 2").await?;
    let figures = json!({
        "operations": count, "effects": effects.len(), "replicas": holders.len(), "deaths": 1,
        "attempted_thrice": again.first(), "took_s": began.elapsed().as_secs_f64(),
    });
    report("D21 a thousand claims at once, one replica killed", 1, &figures)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_has_shown_another_takes_back_at_once() -> anyhow::Result<()> {
    let fleet = Fleet::start(3, |_, _| {}).await?;
    let path = format!("{CONFIG_MAPS}/passed-on");
    let made = fleet.replicas[0].api.create("passed-on", None).await;
    let revision = made.revision().context("a revision")?;
    for replica in &fleet.replicas {
        let read = replica.api.get(&format!("{path}?resourceVersion={revision}")).await;
        ensure!(read.code == Some(200), "what is not older than {revision}: {read:?}");
    }
    let mut object = made.json();
    for turn in 1..=TURNS {
        object["data"] = json!({ "turn": turn.to_string() });
        let put = fleet.replicas[turn % 3].api.call("PUT", &path, None, &object).await;
        ensure!(put.code == Some(200), "turn {turn}: {put:?}");
        object = put.json();
    }
    Ok(())
}

/// Deletes the project, if it is there, at a replica that has seen what was made at a revision: one that has not yet says
/// that there is none.
async fn deletes(api: &Api, seen: u64) -> anyhow::Result<()> {
    let path = format!("{PROJECTS}/{NAME}");
    let read = api.get(&format!("{path}?resourceVersion={seen}")).await;
    ensure!(matches!(read.code, Some(200 | 404)), "{read:?}");
    let deleted = api.call("DELETE", &path, None, &Value::Null).await;
    ensure!(matches!(deleted.code, Some(200 | 202 | 404)), "{deleted:?}");
    Ok(())
}

/// Deletes the project and makes it anew at once, as often as it takes until somebody has: its uid and revision.
async fn anew(fleet: &Fleet, at: usize, seen: u64) -> anyhow::Result<(String, u64)> {
    let api = &fleet.replicas[at].api;
    let begun = Instant::now();
    deletes(api, seen).await?;
    loop {
        let project = json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "Project", "metadata": { "name": NAME }, "spec": {} });
        let made = api.call("POST", PROJECTS, None, &project).await;
        if made.code == Some(201) {
            let revision = made.revision().context("a revision")?;
            return Ok((made.json()["metadata"]["uid"].as_str().context("a uid")?.to_owned(), revision));
        }
        if begun.elapsed() > PATIENCE {
            let project = api.get(&format!("{PROJECTS}/{NAME}")).await.text;
            let namespace = api.get(&format!("/api/v1/namespaces/{NAME}")).await.text;
            let rows = fleet
                .sql("SELECT name, state, attempt, failures, lost, holder, run_at, notes FROM mainstay.operations")
                .await?;
            let (leases, words) = (fleet.leases().await?, (0..3).map(|at| fleet.last_words(at)).collect::<String>());
            anyhow::bail!("the old one does not go: {project}\n{namespace}\n{rows:#?}\n{leases:#?}\n{words}");
        }
        sleep(GLANCE).await;
    }
}

/// Waits until the namespace of the project is there, and is that project's.
async fn is_its_own(api: &Api, uid: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let project = api.get(&format!("{PROJECTS}/{NAME}")).await.json();
        let namespace = api.get(&format!("/api/v1/namespaces/{NAME}")).await.json();
        let owners = namespace["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        ensure!(project["metadata"]["uid"] == uid, "it is another one: {project}");
        if project["status"]["phase"] == "Active" {
            ensure!(owners.iter().any(|owner| owner["uid"] == uid), "it lives in another's namespace: {namespace}");
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "it does not come up: {project}, {namespace}");
        sleep(GLANCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_anew_has_nothing_of_what_is_torn_down() -> anyhow::Result<()> {
    let rounds = if all() { 12 } else { 3 };
    let mut fleet = Fleet::start(3, |_, _| {}).await?;
    let (began, mut seen) = (Instant::now(), 0);
    for round in 0..rounds {
        let (uid, revision) = anew(&fleet, round % 3, seen).await?;
        seen = revision;
        is_its_own(&fleet.replicas[round % 3].api, &uid).await?;
        let path = format!("/api/v1/namespaces/{NAME}/configmaps");
        let left = fleet.replicas[round % 3].api.get(&path).await.json();
        ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "it has what another left: {left}");
        let mark = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("of-{round}") } });
        let made = fleet.replicas[(round + 1) % 3].api.call("POST", &path, None, &mark).await;
        ensure!(matches!(made.code, Some(201 | 404)), "{made:?}");
        // Whoever tears it down dies, every other time.
        if round % 2 == 1 {
            deletes(&fleet.replicas[0].api, seen).await?;
            let (_, leader) = fleet.leader(LEASE).await?;
            dies(&mut fleet, leader).await?;
        }
    }
    report("D22 a name is made anew while it is torn down", rounds, &json!({ "took_s": began.elapsed().as_secs_f64() }))
}
