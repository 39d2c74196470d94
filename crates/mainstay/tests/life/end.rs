//! A server that is told to stop while something does not end.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::Duration;

use mainstay_testkit::server::Server;

use crate::{EXE, Stage, call, in_flight, terminate, token, until};

const GRACE: &str = "6";
/// The grace period, and what `docs/operations.md` says that it takes to be cut off after that; and a bit, for the test itself.
const LATEST: Duration = Duration::from_secs(6 + 2 + 1);
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const OBJECT: &str = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}"#;

/// A client that sends the head of a request, some of its body, and then nothing; its connection stays.
fn holds_a_request(server: &Server, token: &str) -> Child {
    let mut post = call(server, token, CONFIG_MAPS);
    post.args(["--http1.1", "-X", "POST", "-T", "-", "-H", "Content-Type: application/json", "-H", "Expect:"]);
    let mut post = post.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    post.stdin.as_mut().unwrap().write_all(&OBJECT.as_bytes()[..20]).unwrap();
    post
}

#[test]
fn clients_that_hold_requests_open_do_not_hold_up_the_end() {
    let mut server = Server::idle(EXE).unwrap();
    server.set_arguments(&["--grace-period", GRACE]);
    server.restart().unwrap();
    let token = token(&server);
    let mut watch =
        call(&server, &token, "/api/v1/namespaces?watch=true").arg("-N").stdout(Stdio::piped()).spawn().unwrap();
    watch.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let before = in_flight(&server, &token);
    let mut post = holds_a_request(&server, &token);
    until(|| in_flight(&server, &token) > before, &server);
    let told = terminate(&server);
    let status = server.wait().unwrap();
    let took = told.elapsed();
    println!("with clients that hold requests it ended after {} ms", took.as_millis());
    assert_eq!(status.code(), Some(0), "{}", server.log_text());
    assert!(took <= LATEST, "it took {took:?}:\n{}", server.log_text());
    post.kill().unwrap();
    post.wait().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_server_whose_postgresql_stands_still_ends_in_time_and_says_that_not_all_has() {
    let mut stage = Stage::new(&["--grace-period", GRACE]);
    let token = token(&stage.server);
    let before = in_flight(&stage.server, &token);
    stage.cluster.pause().unwrap();
    let mut write = call(&stage.server, &token, CONFIG_MAPS);
    write.args([
        "-X",
        "POST",
        "-d",
        OBJECT,
        "-H",
        "Content-Type: application/json",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ]);
    let write = write.stdout(Stdio::piped()).spawn().unwrap();
    until(|| in_flight(&stage.server, &token) > before, &stage.server);
    let told = terminate(&stage.server);
    let status = stage.server.wait().unwrap();
    let took = told.elapsed();
    println!("with a PostgreSQL that stands still it ended after {} ms", took.as_millis());
    let log = stage.server.log_text();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(took <= LATEST, "it took {took:?}:\n{log}");
    let wrote = write.wait_with_output().unwrap();
    assert_ne!(wrote.stdout, b"201", "nobody could have stored it");
    // Nothing of that is in the way of the next start.
    stage.cluster.resume().unwrap();
    stage.server.restart().unwrap();
    stage.server.stop().unwrap();
}
