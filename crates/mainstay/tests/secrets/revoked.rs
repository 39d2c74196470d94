//! A member who is removed is out: with the next request, and with every stream that is open.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use serde_json::{Value, json};

use super::team::{PROJECTS, Team, path};
use super::wire::rest;

/// Longest time for a stream of one who has no right to it any more.
const WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_member_who_is_removed_is_out() {
    let team = Team::new();
    let viewer = team.token("viewer");
    team.until_status(&viewer, &path("sessions"), 200);
    // Each of them would go on for minutes.
    let streams = [
        format!("{}?watch=1", path("sessions")),
        format!("{}?watch=1", path("configmaps")),
        format!("{}?follow=true", path("sessions/s/messages")),
        format!("{}?follow=true", path("pods/s-1/log")),
    ];
    let mut open = Vec::new();
    for stream in &streams {
        let mut connection = team.wire.connect("http/1.1");
        let head =
            format!("GET {stream} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {viewer}\r\n\r\n");
        connection.write_all(head.as_bytes()).unwrap();
        let mut code = [0; 12];
        std::io::Read::read_exact(&mut connection, &mut code).unwrap();
        assert_eq!(&code, b"HTTP/1.1 200", "{stream}");
        open.push(connection);
    }
    let project = format!("{PROJECTS}/team");
    let mut members = team.wire.get(&project)["spec"]["members"].take();
    members.as_array_mut().unwrap().retain(|member| member["role"] != "viewer");
    let removed = Instant::now();
    team.wire.json("PATCH", &project, &json!({"spec": {"members": members}})).expect(200);
    team.until_status(&viewer, &path("sessions"), 403);
    assert!(removed.elapsed() < Duration::from_secs(1), "asking was possible for {:?}", removed.elapsed());
    std::thread::scope(|scope| {
        for (stream, mut connection) in streams.iter().zip(open) {
            scope.spawn(move || {
                rest(&mut connection);
                assert!(removed.elapsed() < WITHIN, "{stream} went on for {:?}", removed.elapsed());
            });
        }
    });
    for plural in ["sessions/s/messages", "credentials", "pods/s-1/log"] {
        team.call(&viewer, "GET", &path(plural), &Value::Null).refused(403, "", plural);
    }
    // The others stay.
    let editor = team.token("editor");
    assert_eq!(team.call(&editor, "GET", &path("sessions"), &Value::Null).status, 200);
}

/// R51: owners may write the metadata of bindings; whoever meddled with one is out with it all the same.
#[test]
fn an_owner_who_meddled_with_a_binding_is_out_as_well() {
    let team = Team::new();
    let owner = team.token("owner");
    team.until_status(&owner, &path("rolebindings"), 200);
    let bindings = team.call(&owner, "GET", &path("rolebindings"), &Value::Null).expect(200);
    let own = bindings["items"].as_array().unwrap().iter().find(|one| one["subjects"][0]["name"] == "owner").unwrap();
    let binding = path(&format!("rolebindings/{}", own["metadata"]["name"].as_str().unwrap()));
    let meddled = json!({"metadata": {"labels": null, "ownerReferences": null, "finalizers": ["example.org/hold"]}});
    team.call(&owner, "PATCH", &binding, &meddled).expect(200);
    let mended = |found: &Value| {
        let metadata = &found["metadata"];
        metadata["labels"]["mainstay.dev/project"] == "team" && metadata["ownerReferences"][0]["name"] == "team"
    };
    team.wire.until(&binding, mended);
    let project = format!("{PROJECTS}/team");
    let mut members = team.wire.get(&project)["spec"]["members"].take();
    members.as_array_mut().unwrap().retain(|member| member["role"] != "owner");
    // Once more, at the same time: the one or the other comes first.
    team.call(&owner, "PATCH", &binding, &meddled).expect(200);
    team.wire.json("PATCH", &project, &json!({"spec": {"members": members}})).expect(200);
    team.until_status(&owner, &path("rolebindings"), 403);
    team.wire.until(&binding, |found| found["reason"] == "NotFound");
    let left = team.wire.get(&path("rolebindings"));
    let subjects: Vec<&Value> =
        left["items"].as_array().unwrap().iter().map(|one| &one["subjects"][0]["name"]).collect();
    assert!(subjects.len() == 2 && !subjects.contains(&&json!("owner")), "{left}");
}
