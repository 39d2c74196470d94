//! A server's state is backed up while it is written, put back elsewhere and in place, and checked: with real processes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "backup/faults.rs"]
mod faults;
#[path = "backup/load.rs"]
mod load;

use std::path::Path;
use std::process::Command;

use mainstay_testkit::command::{Done, finish};
use mainstay_testkit::server::Server;
use serde_json::Value;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");

/// A command line, split at blanks, of the server's directory.
fn command(line: &str, dir: &Path) -> Command {
    let mut command = Command::new(EXE);
    command.args(line.split_whitespace()).arg("--data-dir").arg(dir);
    command
}

fn fsck(dir: &Path) -> Done {
    finish(command("fsck --json", dir), "")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs a line of the client.
fn run(server: &Server, line: &str) -> Done {
    finish(server.command(&line.split_whitespace().collect::<Vec<_>>()), "")
}

/// A file, and a directory that is not the server's, of the test's own.
fn beside(server: &Server, name: &str) -> std::path::PathBuf {
    server.scratch().join(name)
}
