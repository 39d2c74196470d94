//! `pods/NAME/log` through a node agent of the test's own.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use mainstay_api::exec::ExecRequest;
use mainstay_apiserver::nodelink::{ExecFrames, LinkError, LogOptions, LogStream, NodeLink};
use serde_json::json;
use std::sync::Arc;

use crate::harness::Harness;

#[derive(Debug)]
struct Link;

impl NodeLink for Link {
    fn logs(&self, pod_uid: &str, options: LogOptions) -> BoxFuture<'_, Result<LogStream, LinkError>> {
        let said = format!("{} {options:?}\n", pod_uid.len());
        async move {
            match options.tail_lines {
                Some(404) => Err(LinkError::NoSuchLog),
                Some(400) => Err(LinkError::NotStarted),
                _ => Ok(stream::iter([Ok(said.into()), Ok("end\n".into())]).boxed()),
            }
        }
        .boxed()
    }

    fn exec(&self, _: ExecRequest, _: ExecFrames) -> BoxFuture<'_, Result<ExecFrames, LinkError>> {
        async { Err(LinkError::NotRunning) }.boxed()
    }
}

#[tokio::test]
async fn logs_come_from_the_node_agent() {
    let api = Harness::new().await;
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "agent", "command": ["true"]}], "restartPolicy": "Never", "nodeName": "local"},
    });
    api.post(path, &pod).await.expect(201);
    let log = format!("{path}/p/log");
    api.get(&log).await.refused(503, "the agent of node \"local\" is not connected");
    api.server.set_node_link("local", Arc::new(Link));
    let answer = api.get(&format!("{log}?follow=true&tailLines=5&timestamps=true&container=agent&limitBytes=9")).await;
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert!(text.starts_with("36 LogOptions { follow: true, tail_lines: Some(5), since: None"), "{text}");
    assert!(text.ends_with("end\n"));
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    for (query, status, words) in [
        ("tailLines=404", 404, "has no log"),
        ("tailLines=400", 400, "is waiting to start"),
        ("container=other", 400, "container other is not valid for pod p"),
        ("previous=true", 400, "runs once"),
        ("sinceTime=yesterday", 400, "sinceTime"),
        ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 400, "at most one"),
        ("limitBytes=x", 400, "limitBytes"),
    ] {
        api.get(&format!("{log}?{query}")).await.refused(status, words);
    }
    api.get(&format!("{path}/none/log")).await.refused(404, "pods \"none\" not found");
    // A server that stops ends who follows; a log that has an end is whole, or is seen not to be.
    api.tasks.stop();
    let whole = api.get(&log).await;
    assert!(whole.bytes.ends_with(b"end\n"), "{:?}", String::from_utf8_lossy(&whole.bytes));
}
