//! The command line against a real server: what people and scripts see, and the exit codes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "cli/apply.rs"]
mod apply;
#[path = "cli/disk.rs"]
mod disk;
#[path = "cli/follow.rs"]
mod follow;
#[path = "cli/objects.rs"]
mod objects;
#[path = "cli/operations.rs"]
mod operations;
#[path = "cli/reach.rs"]
mod reach;
#[path = "cli/sessions.rs"]
mod sessions;

use std::io::Write as _;
use std::process::{Command, Stdio};

use mainstay_testkit::command::{Done, finish};
use mainstay_testkit::server::Server;
use serde_json::Value;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");

fn server() -> Server {
    Server::start(EXE).unwrap()
}

/// Runs a line, split at blanks.
fn run(server: &Server, line: &str) -> Done {
    finish(server.command(&line.split_whitespace().collect::<Vec<_>>()), "")
}

fn apply(server: &Server, manifest: &str) -> Done {
    finish(server.command(&["apply", "-f", "-"]), manifest)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn config(name: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\ndata: {data}\n---\n"
    )
}

/// A session in `default` that runs this shell script.
fn session(name: &str, script: &str) -> String {
    let command = Value::from(vec!["/bin/sh", "-c", script]);
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Session\nmetadata: {{name: {name}}}\nspec: {{command: {command}}}\n---\n"
    )
}
