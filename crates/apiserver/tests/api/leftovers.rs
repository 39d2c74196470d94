//! What a crash leaves behind beside the objects: messages of sessions that are gone, activity that was not written.

use std::sync::Arc;

use mainstay_store::{Append, NewMessage, Retention, RunRow, Sender};
use serde_json::json;

use crate::harness::{Harness, PATIENCE, sessions};

fn append(session: &str, id: &str) -> Append {
    let body = format!("{{\"id\":\"{id}\",\"time\":\"2026-01-02T03:04:05.000Z\",\"type\":\"user\"}}");
    let message = NewMessage { id: id.into(), kind: "user".into(), body: body.into() };
    Append { session: session.into(), sender: Sender::User, messages: vec![message], keep: Retention::ALL }
}

#[tokio::test]
async fn a_start_removes_what_belongs_to_no_session_and_nothing_else() {
    let api = Harness::new().await;
    let alive = api.session("s").await["metadata"]["uid"].as_str().unwrap().to_owned();
    for session in ["gone", &alive] {
        api.store.append(append(session, "a")).await.unwrap();
        api.store.put_run_row(&format!("{session}/previous"), RunRow::default(), true).await.unwrap();
    }
    let after = api.restarted();
    let swept = async {
        loop {
            let mut kept = after.store.sessions().await.unwrap();
            kept.sort();
            if kept == [alive.as_str().into(), Arc::<str>::from(format!("{alive}/previous"))] {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, swept).await.expect("swept in time");
    assert_eq!(after.store.messages(&alive, 0, 10).await.unwrap().messages.len(), 1);
    assert_eq!(after.store.messages("gone", 0, 10).await.unwrap().last, 0);
}

/// The status that is stored lags behind by up to ten seconds; a read never does, whoever saw the activity first.
#[tokio::test]
async fn a_read_shows_the_activity_that_an_earlier_server_did_not_write() {
    let api = Harness::new().await;
    let session = api.session("s").await;
    let uid = session["metadata"]["uid"].as_str().unwrap();
    for id in ["a", "b", "c"] {
        api.store.append(append(uid, id)).await.unwrap();
    }
    let after = api.restarted();
    // The first that this server sees of the session is its heartbeat, which knows of no message.
    let pod = json!({
        "metadata": {"name": "s-1", "ownerReferences": [{
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "name": "s", "controller": true, "uid": uid,
        }]},
        "spec": {"containers": [{"name": "agent", "command": ["true"]}]},
    });
    let pod = after.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let beat = json!({"run": 1, "podUID": pod["metadata"]["uid"], "busy": true});
    after.put(&sessions("/s/heartbeat"), &beat).await.expect(200);
    let listed = after.get(&sessions("")).await.expect(200);
    assert_eq!(listed["items"][0]["status"]["lastMessage"], 3);
    assert_eq!(after.get(&sessions("/s")).await.expect(200)["status"]["lastMessage"], 3);

    // Without a heartbeat the time is that of the last message.
    let quiet = api.session("quiet").await;
    api.store.append(append(quiet["metadata"]["uid"].as_str().unwrap(), "a")).await.unwrap();
    let shown = after.get(&sessions("/quiet")).await.expect(200);
    assert_eq!(shown["status"]["lastActivityTime"], "2026-01-02T03:04:05Z");
}
