//! A bug in one request is that request's alone.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use http_body_util::BodyExt;
use mainstay_api::exec::ExecRequest;
use mainstay_apiserver::nodelink::{ExecFrames, LinkError, LogOptions, LogStream, NodeLink};
use serde_json::json;

use crate::harness::Harness;
use crate::tls::{exchange, listen};

/// A node agent with two bugs: one when it is asked, one while it answers.
#[derive(Debug)]
struct Broken;

impl NodeLink for Broken {
    fn logs(&self, _: &str, options: LogOptions) -> BoxFuture<'_, Result<LogStream, LinkError>> {
        assert!(options.follow, "the first bug");
        async { Ok(stream::iter([1, 0]).map(|n| Ok(format!("{}\n", 1 / n).into())).boxed()) }.boxed()
    }

    fn exec(&self, _: ExecRequest, _: ExecFrames) -> BoxFuture<'_, Result<ExecFrames, LinkError>> {
        async { Err(LinkError::NotRunning) }.boxed()
    }
}

async fn with_a_bug() -> (Harness, String) {
    let api = Harness::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let container = json!({"name": "agent", "command": ["true"]});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [container], "nodeName": "local"}});
    api.post(pods, &pod).await.expect(201);
    api.server.set_node_link("local", Arc::new(Broken));
    (api, format!("{pods}/p/log"))
}

#[tokio::test]
async fn a_request_that_panics_is_a_500_in_process_and_counted() {
    let (api, log) = with_a_bug().await;
    api.get(&log).await.refused(500, "the request panicked; the server goes on");
    let metrics = api.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    assert!(text.contains("mainstay_request_panics_total 1\n"), "{text}");
    assert!(text.contains("resource=\"pods\",code=\"500\"} 1\n"), "{text}");
}

#[tokio::test]
async fn a_request_that_panics_is_a_500_over_the_socket_and_the_connection_goes_on() {
    let (api, log) = with_a_bug().await;
    let address = listen(&api).await;
    let token = api.admin_token();
    let twice = format!(
        "GET {log} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n\
         GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    let answers = exchange(&api, address, &twice).await;
    assert!(answers.starts_with("HTTP/1.1 500") && answers.contains("\"reason\":\"InternalError\""), "{answers}");
    assert!(answers.contains("HTTP/1.1 200 OK"), "{answers}");
}

#[tokio::test]
async fn a_stream_that_panics_breaks_off_after_what_it_had() {
    let (api, log) = with_a_bug().await;
    let request = http::Request::builder().uri(format!("{log}?follow=true")).body(http_body_util::Full::default());
    let mut body = api.send(mainstay_apiserver::Identity::admin(), request.unwrap()).await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "1\n");
    let broken = body.frame().await.unwrap().unwrap_err();
    assert_eq!(broken.to_string(), "the stream panicked; the server goes on");
    assert!(body.frame().await.is_none());
    api.get("/livez").await;
}
