//! Messages and heartbeats of sessions.

use mainstay_api::Registry;
use mainstay_apiserver::auth::SessionBinding;
use mainstay_apiserver::{Identity, Limits, rbac};
use mainstay_runtime::Clock;
use serde_json::{Value, json};

use crate::harness::{Answer, Harness, sessions};

/// What the session's own token is.
fn own(session: &Value) -> Identity {
    Identity::service_account("default", "default").bound_to(SessionBinding {
        namespace: "default".to_owned(),
        name: session["metadata"]["name"].as_str().unwrap().to_owned(),
        uid: session["metadata"]["uid"].as_str().unwrap().to_owned(),
    })
}

async fn say(api: &Harness, session: &Value, kind: &str, ids: &[&str]) -> Answer {
    let messages: Vec<Value> =
        ids.iter().map(|id| json!({"id": id, "type": kind, "text": format!("text of {id}")})).collect();
    let body = json!({ "messages": messages }).to_string();
    let identity = if kind == "user" { Identity::admin() } else { own(session) };
    let path = sessions(&format!("/{}/messages", session["metadata"]["name"].as_str().unwrap()));
    api.call_as(identity, "POST", &path, "application/json", body).await
}

async fn texts(api: &Harness, query: &str) -> Vec<Value> {
    let mut lines = api.lines(&sessions(&format!("/s/messages{query}"))).await;
    let mut found = Vec::new();
    while let Some(line) = lines.next().await {
        found.push(line);
    }
    found
}

#[tokio::test]
async fn what_cannot_be_tried_is_refused_on_trial() {
    let api = Harness::new().await;
    let session = api.session("s").await;
    let message = json!({"messages": [{"id": "a", "type": "user", "text": "hello"}]});
    for value in ["All", "Some"] {
        let trial = |path: &str| sessions(&format!("/s/{path}?dryRun={value}"));
        api.post(&trial("messages"), &message).await.refused(400, "dryRun: the subresource messages");
        let beat = json!({"run": 1, "podUID": session["metadata"]["uid"]});
        api.put(&trial("heartbeat"), &beat).await.refused(400, "dryRun: the subresource heartbeat");
        let token = format!("/api/v1/namespaces/default/serviceaccounts/default/token?dryRun={value}");
        api.post(&token, &json!({})).await.refused(400, "dryRun: the subresource token");
    }
    assert!(texts(&api, "").await.is_empty());
}

#[tokio::test]
async fn messages_are_numbered_once_per_id() {
    let api = Harness::new().await;
    let session = api.session("s").await;
    let first = say(&api, &session, "user", &["a", "b"]).await.expect(200);
    assert_eq!(first["messages"][1], json!({"id": "b", "number": 2, "duplicate": false}));
    let again = say(&api, &session, "user", &["b", "c"]).await.expect(200);
    assert_eq!(again["messages"][0], json!({"id": "b", "number": 2, "duplicate": true}));
    assert_eq!(again["last"], 3);
    say(&api, &session, "agent", &["d"]).await.expect(200);
    let all = texts(&api, "").await;
    assert_eq!(all.iter().map(|line| line["number"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(all[0]["text"], "text of a");
    assert_eq!(texts(&api, "?after=2&limit=1").await[0]["id"], "c");
    assert_eq!(texts(&api, "?types=agent").await.len(), 1);
    let shown = api.get(&sessions("/s")).await.expect(200);
    assert_eq!(shown["status"]["lastMessage"], 4);
    assert!(shown["status"]["lastActivityTime"].is_string());
}

#[tokio::test]
async fn senders_speak_for_themselves_only() {
    let api = Harness::new().await;
    let session = api.session("s").await;
    let body = json!({"messages": [{"id": "x", "type": "agent"}]});
    api.post(&sessions("/s/messages"), &body).await.refused(403, "only the session itself");
    let user = json!({"messages": [{"id": "x", "type": "user"}]}).to_string();
    let path = sessions("/s/messages");
    api.call_as(own(&session), "POST", &path, "", user).await.refused(403, "does not speak for its users");
    for (body, words) in [
        (json!({"messages": []}), "1 to 256"),
        (json!({"messages": [{"id": "", "type": "user"}]}), "messages[0].id"),
        (json!({"messages": [{"id": "x".repeat(129), "type": "user"}]}), "messages[0].id"),
        (json!({"messages": [{"id": "x", "type": "shout"}]}), "Unsupported value"),
        (json!({"messages": [{"id": "x", "type": "user", "more": 1}]}), "unknown field"),
        (json!([]), "not a list of messages"),
    ] {
        api.post(&sessions("/s/messages"), &body).await.refused(400, words);
    }
    api.post(&sessions("/none/messages"), &body).await.refused(404, "sessions.mainstay.dev \"none\" not found");
}

/// What an id is worth depends on who gave it: a user's that looks like the supervisor's, or like the prompt's, is neither.
/// R46.
#[tokio::test]
async fn nobodys_id_is_taken_for_anothers() {
    let api = Harness::new().await;
    rbac::bootstrap(&api.store, &Registry::standard(), &Clock::system()).await.unwrap();
    let session = api.session("s").await;
    let by = async |identity: Identity, kind: &str, id: &str| {
        let body = json!({"messages": [{"id": id, "type": kind, "text": kind}]}).to_string();
        let answer = api.call_as(identity, "POST", &sessions("/s/messages"), "application/json", body).await;
        let one = answer.expect(200)["messages"][0].clone();
        (one["number"].as_u64().unwrap(), one["duplicate"] == true)
    };
    let platform = || Identity::controller("session-controller");
    assert_eq!(by(Identity::admin(), "user", "r1-stdout-0").await, (1, false));
    assert_eq!(by(own(&session), "agent", "r1-stdout-0").await, (2, false));
    assert_eq!(by(platform(), "user", "prompt-1").await, (3, false));
    assert_eq!(by(Identity::admin(), "user", "prompt-1").await, (4, false));
    for (identity, kind, id, number) in [
        (Identity::admin(), "user", "r1-stdout-0", 1),
        (own(&session), "agent", "r1-stdout-0", 2),
        (platform(), "user", "prompt-1", 3),
        (Identity::admin(), "user", "prompt-1", 4),
    ] {
        assert_eq!(by(identity, kind, id).await, (number, true), "{kind} {id}");
    }
    assert_eq!(texts(&api, "").await.len(), 4);
}

#[tokio::test]
async fn bytes_are_bounded_and_leave_an_explicit_gap() {
    let limits = Limits { messages_bytes: 10_000, ..Limits::default() };
    let api = Harness::with(limits).await;
    let session = api.session("s").await;
    let path = sessions("/s/messages");
    let text = "x".repeat(900);
    for id in 1..=40 {
        let body = json!({"messages": [{"id": id.to_string(), "type": "agent", "text": text}]}).to_string();
        api.call_as(own(&session), "POST", &path, "application/json", body).await.expect(200);
        let all = texts(&api, "").await;
        let kept: usize = all.iter().filter_map(|one| one["text"].as_str()).map(str::len).sum();
        assert!(kept < 10_000 && (kept > 7_000 || kept == id * 900), "{kept} bytes are kept of {id} messages");
        let numbers: Vec<u64> = all.iter().filter_map(|one| one["number"].as_u64()).collect();
        let first = all[0]["gap"]["to"].as_u64().unwrap_or(0) + 1;
        assert_eq!(numbers, (first..=id as u64).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn who_sends_too_fast_is_told_when_to_come_back_and_holds_up_nobody_else() {
    let limits = Limits { messages_rate: 20_000, messages_burst: 40_000, ..Limits::default() };
    let api = Harness::with(limits).await;
    let session = api.session("s").await;
    let big =
        |id: &str, kind: &str| json!({"messages": [{"id": id, "type": kind, "text": "x".repeat(50_000)}]}).to_string();
    let path = sessions("/s/messages");
    let send = async |id: &str, kind: &str| {
        let identity = if kind == "user" { Identity::admin() } else { own(&session) };
        api.call_as(identity, "POST", &path, "application/json", big(id, kind)).await
    };
    send("a", "agent").await.expect(200);
    let refused = send("b", "agent").await;
    assert_eq!(refused.headers["retry-after"], "1");
    refused.refused(429, "takes messages only so fast");
    send("a", "user").await.expect(200);
    // Nothing is lost: it is taken when its time has come.
    let taken = async {
        while send("b", "agent").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, taken).await.expect("taken in time");
    assert_eq!(texts(&api, "").await.len(), 3);
}

/// R47.
#[tokio::test]
async fn followers_see_each_message_once_and_in_order() {
    let api = Harness::new().await;
    let session = api.session("s").await;
    say(&api, &session, "user", &["a"]).await.expect(200);
    let mut follow = api.lines(&sessions("/s/messages?follow=true")).await;
    assert_eq!(follow.next().await.unwrap()["number"], 1);
    for at in 2..30_u64 {
        say(&api, &session, "agent", &[&format!("m{at}")]).await.expect(200);
        assert_eq!(follow.next().await.unwrap()["number"], at);
    }
}

#[tokio::test]
async fn a_heartbeat_belongs_to_the_current_pod_and_its_cursor_never_goes_back() {
    let api = Harness::new().await;
    let session = api.session("s").await;
    assert_eq!(api.get(&sessions("/s/heartbeat")).await.expect(200)["run"], 0);
    let pod = |run: u64| {
        json!({
            "metadata": {"name": format!("s-{run}"), "ownerReferences": [{
                "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "name": "s", "controller": true,
                "uid": session["metadata"]["uid"],
            }]},
            "spec": {"containers": [{"name": "agent", "command": ["true"]}], "restartPolicy": "Never", "nodeName": "local"},
        })
    };
    let beat = |run: u64, uid: &Value, offered: u64, delivered: u64| json!({"run": run, "podUID": uid, "offered": offered, "delivered": delivered});
    let one = api.post("/api/v1/namespaces/default/pods", &pod(1)).await.expect(201)["metadata"]["uid"].clone();
    api.put(&sessions("/s/heartbeat"), &beat(1, &json!("other"), 0, 0)).await.refused(409, "is not this session's");
    api.put(&sessions("/s/heartbeat"), &beat(1, &one, 3, 2)).await.expect(200);
    let kept = api.put(&sessions("/s/heartbeat"), &beat(1, &one, 1, 1)).await.expect(200);
    assert_eq!((&kept["offered"], &kept["delivered"]), (&json!(3), &json!(2)));

    say(&api, &session, "user", &["a", "b", "c", "d"]).await.expect(200);
    let two = api.post("/api/v1/namespaces/default/pods", &pod(2)).await.expect(201)["metadata"]["uid"].clone();
    let marked = |lines: Vec<Value>| {
        lines.iter().filter(|line| line["redelivered"] == true).map(|line| line["number"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(marked(texts(&api, "?run=2").await), [json!(3)]);
    assert!(marked(texts(&api, "").await).is_empty(), "run 1 is still the one asked for");
    let next = api.put(&sessions("/s/heartbeat"), &beat(2, &two, 0, 0)).await.expect(200);
    assert_eq!((&next["run"], &next["offered"], &next["delivered"]), (&json!(2), &json!(2), &json!(2)));
    assert_eq!(marked(texts(&api, "").await), [json!(3)]);
    api.put(&sessions("/s/heartbeat"), &beat(1, &one, 3, 3)).await.refused(409, "run 1 is over");
}
