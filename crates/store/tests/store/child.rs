//! This test binary, started again as a process that may be killed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Names the directory that a child works in; without it the child's test does nothing.
pub(crate) const DIR: &str = "MAINSTAY_TEST_DIR";

/// A child that runs one test of this binary.
pub(crate) fn command(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
    command.env(DIR, dir).env("RUST_BACKTRACE", "0").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The same with mounts of its own, as root; or as who looks like root to itself, where the kernel lets ordinary users do that.
pub(crate) fn apart(test: &str, dir: &Path) -> Command {
    let inner = command(test, dir);
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--mount").arg(inner.get_program()).args(inner.get_args());
    command.env(DIR, dir).env("RUST_BACKTRACE", "0").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a child said before it ended: the lines that it acknowledged, and its standard error.
pub(crate) fn finish(mut child: Child) -> (Vec<String>, String, ExitStatus) {
    let stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let acknowledged = lines.filter_map(|line| line.split_once("ack ").map(|(_, said)| said.to_owned())).collect();
    let status = child.wait().unwrap();
    (acknowledged, errors.join().unwrap(), status)
}

/// The directory, in the child.
pub(crate) fn dir() -> Option<std::path::PathBuf> {
    std::env::var_os(DIR).map(Into::into)
}

/// Makes a library of this C source, for a child that loads it before any other.
pub(crate) fn library(source: &str, dir: &Path) -> std::path::PathBuf {
    let (file, library) = (dir.join("preload.c"), dir.join("preload.so"));
    std::fs::write(&file, source).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &file]).arg("-ldl").output();
    let done = built.as_ref().is_ok_and(|built| built.status.success());
    assert!(done, "this test needs a C compiler named cc, as linking Rust programs does: {built:?}");
    library
}
