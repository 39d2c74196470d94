//! The disk is full in the middle of operations: nothing is lost, nothing is done twice, and they go on when there is room.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use mainstay_testkit::drill_backend::{Fault, On};
use mainstay_testkit::server::Server;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cases::report;
use crate::exe;
use crate::kind::{provision, site};
use crate::stage::{GLANCE, Stage};

/// Tells the test in a process with mounts of its own that it is there.
const APART: &str = "MAINSTAY_DRILL_APART";
const OPERATIONS: usize = 20;
/// How long each call takes while the disk is filled.
const LATE: Duration = Duration::from_millis(500);
/// Longest wait for an operation that meets the full disk.
const PATIENCE: Duration = Duration::from_mins(1);

/// Takes all the room that is left.
fn stuff(file: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    while file.write_all(&[0; 4_096]).is_ok() {}
    Ok(())
}

fn names() -> Vec<String> {
    (0..OPERATIONS).map(|at| format!("full-{at}")).collect()
}

/// In a process with mounts of its own.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_small_file_system() -> anyhow::Result<()> {
    if std::env::var_os(APART).is_none() {
        return Ok(());
    }
    let place = Server::idle(exe())?;
    std::fs::create_dir(place.data_dir())?;
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(place.data_dir()).status()?;
    ensure!(mount.success(), "no small file system");
    let stuffing = place.data_dir().join("stuffing");
    let (stage, server) = Stage::as_is(place).await?;
    for name in names() {
        let mut spec = provision(&name);
        // A full disk may last longer than this test is patient.
        spec["maxAttempts"] = json!(100);
        stage.order(&name, &spec).await?;
    }
    // All are under way, and stay so until nothing can be stored any more: the log has room of its own, which is filled, too.
    stage.backend.drill(On::all(), Fault::LateEffect { millis: LATE.as_millis().try_into()? }, None).await?;
    stage.backend.carried_out(OPERATIONS).await?;
    let before = stage.backend.effects().await?.len();
    let configs: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    for at in 0.. {
        stuff(&stuffing)?;
        let metadata = ObjectMeta { name: Some(format!("filler-{at}")), ..ObjectMeta::default() };
        let data = Some([("a".to_owned(), "a".repeat(100_000))].into());
        let filler = ConfigMap { metadata, data, ..ConfigMap::default() };
        match configs.create(&PostParams::default(), &filler).await {
            Err(kube::Error::Api(status)) if status.code == 507 => break,
            answer => drop(answer?),
        }
    }
    let until = Instant::now() + PATIENCE;
    while !server.log_text().contains("could not be stored yet") {
        ensure!(Instant::now() < until, "no operation met the full disk:\n{}", stage.last_words());
        sleep(GLANCE).await;
    }
    let within = stage.backend.effects().await?.len();
    ensure!(within < 5 * OPERATIONS, "all effects were had");
    stage.backend.calm().await?;
    std::fs::remove_file(&stuffing)?;
    for name in names() {
        stage.ended(&name, "Succeeded", "Succeeded").await?;
    }
    let mut expected: Vec<String> = names().iter().flat_map(|name| site(name)).collect();
    expected.sort();
    ensure!(stage.there().await? == expected, "{:#?}", stage.there().await?);
    ensure!(stage.judged().await?.len() == 5 * OPERATIONS, "not each step once");
    drop(server);
    report(
        "the disk is full while operations are carried out",
        OPERATIONS,
        &json!({
            "effects_before_full": before, "effects_when_there_was_room": within, "effects_in_all": 5 * OPERATIONS,
        }),
    )?;
    println!("went on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_outlive_a_full_disk() -> anyhow::Result<()> {
    let mut apart = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        apart.args(["--user", "--map-root-user"]);
    }
    apart.arg("--mount").arg(std::env::current_exe()?);
    apart.args(["--exact", "full::on_a_small_file_system", "--nocapture"]).env(APART, "1");
    let done = tokio::task::spawn_blocking(move || apart.output()).await?.context("make a mount of its own")?;
    let said = String::from_utf8_lossy(&done.stdout);
    ensure!(said.contains("went on"), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
