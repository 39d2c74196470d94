//! Backups of a server that is written all the while.

use std::process::Stdio;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use mainstay_runtime::Tasks;
use mainstay_testkit::crash::Seed;
use serde_json::json;
use tokio::sync::watch;

use super::*;

/// Clients that write at one time.
const WRITERS: usize = 4;
/// Backups that are killed.
const KILLS: u64 = 12;
/// About as long as one takes, in microseconds.
const LASTS_US: u64 = 40_000;
/// Writes of each that are acknowledged before anything is done.
const BEFORE: u64 = 50;

fn config_map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    ConfigMap { metadata, data: Some([("key".to_owned(), "x".repeat(400))].into()), ..ConfigMap::default() }
}

/// Writes until nobody counts any more. Every number below the count is acknowledged.
async fn write(api: Api<ConfigMap>, writer: usize, acknowledged: watch::Sender<u64>) {
    while !acknowledged.is_closed() {
        let number = *acknowledged.borrow();
        api.create(&PostParams::default(), &config_map(&format!("w{writer}-{number}"))).await.unwrap();
        acknowledged.send_replace(number + 1);
    }
}

fn counts(acknowledged: &[watch::Receiver<u64>]) -> Vec<u64> {
    acknowledged.iter().map(|count| *count.borrow()).collect()
}

async fn list(api: &Api<ConfigMap>) -> (Vec<String>, u64) {
    let list = api.list(&ListParams::default()).await.unwrap();
    let revision = list.metadata.resource_version.unwrap().parse().unwrap();
    (list.items.into_iter().filter_map(|object| object.metadata.name).collect(), revision)
}

/// Killed at any moment, a backup leaves nothing under its name.
fn killed(server: &Server, to: &Path, seed: &mut Seed) {
    for _ in 0..KILLS {
        let mut backup = Command::new(EXE);
        backup.arg("backup").arg("--to").arg(to).arg("--data-dir").arg(server.data_dir());
        let mut backup = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::park_timeout(Duration::from_micros(seed.upto(LASTS_US)));
        backup.kill().unwrap();
        let done = backup.wait().unwrap().success();
        assert!(!done || to.exists());
        // Killed when it had its name already: whole, as whatever has the name.
        if to.exists() {
            restore(to, &beside(server, "whole"), "").ok();
            std::fs::remove_dir_all(beside(server, "whole")).unwrap();
            std::fs::remove_file(to).unwrap();
        }
    }
}

fn backup(dir: &Path, to: &Path) -> Done {
    let mut command = command("backup", dir);
    command.arg("--to").arg(to);
    finish(command, "")
}

fn restore(from: &Path, dir: &Path, flags: &str) -> Done {
    let mut command = command(&format!("restore {flags}"), dir);
    command.arg(from);
    finish(command, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_has_what_was_acknowledged_and_serves_it_in_a_new_epoch() {
    let mut seed = Seed::fresh("kills of backups");
    let mut server = Server::start(EXE).unwrap();
    let client = server.client().await.unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"token": "hidden and found again"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();

    let (senders, mut acknowledged): (Vec<_>, Vec<_>) = (0..WRITERS).map(|_| watch::channel(0)).unzip();
    let tasks = Tasks::new();
    let writers: Vec<_> = senders
        .into_iter()
        .enumerate()
        .map(|(writer, count)| tasks.spawn("writer", write(api.clone(), writer, count)))
        .collect();
    for count in &mut acknowledged {
        count.wait_for(|count| *count >= BEFORE).await.unwrap();
    }
    let file = beside(&server, "b.tar");
    tokio::task::block_in_place(|| killed(&server, &file, &mut seed));
    let before = counts(&acknowledged);
    let said = tokio::task::block_in_place(|| backup(&server.data_dir(), &file)).ok();
    assert!(said.contains("It holds secrets"), "{said}");
    assert!(!beside(&server, ".mainstay-backup.part").exists());
    // While it is written, it is well.
    let fine = tokio::task::block_in_place(|| fsck(&server.data_dir()));
    assert_eq!(json(&fine.ok())["clean"], true);
    let after = counts(&acknowledged);
    assert!(after.iter().sum::<u64>() > before.iter().sum::<u64>(), "it was written meanwhile");
    drop(acknowledged);
    for writer in writers {
        writer.await.unwrap();
    }
    // 1,000 revisions that the backup knows nothing of.
    for number in 0..1_000 {
        api.create(&PostParams::default(), &config_map(&format!("lost-{number}"))).await.unwrap();
    }
    let (_, newest) = list(&api).await;

    // Elsewhere: refused where something is, put where nothing is.
    let refused = restore(&file, &server.data_dir(), "").failed(4);
    assert!(refused.contains("holds its lock"), "{refused}");
    server.stop().unwrap();
    let refused = restore(&file, &server.data_dir(), "").failed(4);
    assert!(refused.contains("state.db, admin.kubeconfig") && refused.contains("--replace"), "{refused}");
    elsewhere(&file, &beside(&server, "elsewhere"), &before);
    restored(server, &file, &before, newest).await;
}

/// In another directory it is the same state.
fn elsewhere(file: &Path, dir: &Path, before: &[u64]) {
    let said = restore(file, dir, "").ok();
    assert!(said.contains("of epoch 1"), "{said}");
    let report = json(&fsck(dir).ok());
    assert!(report["contents"]["objects"].as_u64().unwrap() > before.iter().sum(), "{report}");
    assert_eq!((&report["clean"], &report["contents"]["revision"]), (&json!(true), &json!(1_u64 << 32)));
}

/// In its place, it is served: by the kubeconfig that was there when it was taken, in a new epoch.
async fn restored(mut server: Server, file: &Path, before: &[u64], newest: u64) {
    let (kubeconfig, kept) = (server.kubeconfig(), beside(&server, "kubeconfig"));
    std::fs::copy(&kubeconfig, kept).unwrap();
    restore(file, &server.data_dir(), "--replace").ok();
    assert!(server.data_dir().join("before-epoch-1/state.db").exists());
    assert!(json(&fsck(&server.data_dir()).ok())["clean"] == true);
    server.restart().unwrap();
    let same = |file: &Path| std::fs::read_to_string(file).unwrap();
    assert_eq!(same(&kubeconfig), same(&beside(&server, "kubeconfig")));
    let client = server.client().await.unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let (names, revision) = list(&api).await;
    let names: std::collections::HashSet<String> = names.into_iter().collect();
    for (writer, count) in before.iter().enumerate() {
        let missing = (0..*count).find(|number| !names.contains(&format!("w{writer}-{number}")));
        assert_eq!(missing, None, "acknowledged by writer {writer} before the backup began");
    }
    assert!(!names.iter().any(|name| name.starts_with("lost-")), "it is as it was");
    assert!(newest < 1 << 32 && revision >= 1 << 32, "{newest} {revision}");
    // Who watched before is told to begin anew, and does.
    for from in [1, newest] {
        let gone = match api.watch(&WatchParams::default(), &from.to_string()).await {
            Ok(changes) => Box::pin(changes).try_next().await,
            Err(error) => Err(error),
        };
        let gone = match gone {
            Ok(Some(WatchEvent::Error(status))) | Err(kube::Error::Api(status)) => status.code,
            other => panic!("{other:?}"),
        };
        assert_eq!(gone, 410, "from {from}");
    }
    let mut changes = Box::pin(api.watch(&WatchParams::default(), &revision.to_string()).await.unwrap());
    let written = api.create(&PostParams::default(), &config_map("lost-0")).await.unwrap();
    let given: u64 = written.metadata.resource_version.unwrap().parse().unwrap();
    assert!(given > revision, "{given} was not given before");
    assert!(matches!(changes.try_next().await.unwrap(), Some(WatchEvent::Added(object))
        if object.metadata.name.as_deref() == Some("lost-0")));
    let secrets: Api<Secret> = Api::namespaced(client, "default");
    let found = secrets.get("s").await.unwrap().data.unwrap();
    assert_eq!(found["token"].0, b"hidden and found again");
    assert!(run(&server, "get configmap w0-0 -o name").ok().contains("configmap/w0-0"));
    server.stop().unwrap();
    // Once more, and once more above.
    let said = restore(file, &server.data_dir(), "--replace").ok();
    assert!(said.contains("of epoch 2"), "{said}");
}
