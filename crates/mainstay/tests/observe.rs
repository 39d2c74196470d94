//! What a running server tells of itself: metrics and their documentation, alerts that fire, the status page, traces.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "observe/alerts.rs"]
mod alerts;
#[path = "observe/breakers.rs"]
mod breakers;
#[path = "observe/metrics.rs"]
mod metrics;
#[path = "observe/scrape.rs"]
mod scrape;
#[path = "observe/status.rs"]
mod status;
#[path = "observe/traces.rs"]
mod traces;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use mainstay_testkit::server::Server;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");

/// A file of the project.
fn project_file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> String {
    let path = project_file(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a line of the command line, split at blanks, and gives what it said.
fn run(server: &Server, line: &str) -> String {
    let output = server.command(&line.split_whitespace().collect::<Vec<_>>()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Applies a manifest.
fn apply(server: &Server, manifest: &str) {
    let file = server.scratch().join("manifest.yaml");
    std::fs::write(&file, manifest).unwrap();
    let mut command: Command = server.command(&["apply", "-f"]);
    let output = command.arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn operation(name: &str, handler: &str) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Operation\nmetadata: {{name: {name}}}\nspec: {{handler: {handler}}}\n---\n"
    )
}
