//! The demo: as root and as an ordinary user, two at once, interrupted at any point, and without what it needs.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mainstay_testkit::server::processes_naming;
use rustix::process::{Pid, Signal, kill_process};

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
/// Nobody's uid.
const ORDINARY: u32 = 61_234;

fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("demo-test-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(tmp(dir.path())).unwrap();
    dir
}

/// A path too long for a socket's address.
fn tmp(scratch: &Path) -> PathBuf {
    scratch.join("tmp".repeat(40))
}

fn demo(mut command: Command, scratch: &Path) -> Child {
    command.env("TMPDIR", tmp(scratch)).env_remove("CLICOLOR_FORCE");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The exit code and all that was said after `read`.
fn end(mut child: Child, mut read: String) -> (Option<i32>, String) {
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut read).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), read + &String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn nothing_is_left(scratch: &Path, said: &str) {
    let tmp = tmp(scratch);
    let left: Vec<_> = std::fs::read_dir(&tmp).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}\n{said}");
    assert!(processes_naming(&tmp.display().to_string()).is_empty(), "{said}");
}

#[test]
fn two_at_once_succeed_and_leave_nothing() {
    let places = [scratch(), scratch()];
    let running = places.each_ref().map(|place| {
        let mut command = Command::new(EXE);
        command.arg("demo");
        demo(command, place.path())
    });
    for (child, place) in running.into_iter().zip(&places) {
        let (code, said) = end(child, String::new());
        assert_eq!(code, Some(0), "{said}");
        for part in
            ["SIGKILL to the control plane", "each once", "tests:   OK", "its sandbox: user, pid", "Completed  "]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains('\u{1b}'), "no colour in a pipe");
        nothing_is_left(place.path(), &said);
    }
}

#[test]
fn an_ordinary_user_sees_it_too() {
    let place = scratch();
    let exe = place.path().join("mainstay");
    std::fs::copy(EXE, &exe).unwrap();
    chown(tmp(place.path()), Some(ORDINARY), Some(ORDINARY)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &ORDINARY.to_string(), "--regid", &ORDINARY.to_string(), "--clear-groups"]);
    command.arg(exe).arg("demo").env("HOME", "/nonexistent").current_dir("/");
    let (code, said) = end(demo(command, place.path()), String::new());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("its sandbox: user, pid"), "{said}");
    nothing_is_left(place.path(), &said);
}

/// Without user namespaces there is no isolation for an ordinary user; plain processes would be none.
/// R50.
#[test]
fn an_ordinary_user_without_user_namespaces_is_told_so_and_nothing_runs() {
    let place = scratch();
    let exe = place.path().join("mainstay");
    std::fs::copy(EXE, &exe).unwrap();
    chown(tmp(place.path()), Some(ORDINARY), Some(ORDINARY)).unwrap();
    // A user namespace of the test's own, in which nobody may make another; its shell waits until it has its ids.
    let inside = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && \
         exec setpriv --reuid {ORDINARY} --regid {ORDINARY} --clear-groups {} demo",
        exe.display()
    );
    let mut command = Command::new("unshare");
    let waits = "until read -r ids < /proc/self/uid_map; do :; done; exec /bin/sh -c \"$0\"";
    command.args(["-U", "/bin/sh", "-c", waits, &inside]).env("HOME", "/nonexistent").current_dir("/");
    let child = demo(command, place.path());
    let own = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    while own(child.id()) == own(std::process::id()) {
        std::thread::yield_now();
    }
    for map in ["gid_map", "uid_map"] {
        std::fs::write(format!("/proc/{}/{map}", child.id()), "0 0 65536").unwrap();
    }
    let (code, said) = end(child, String::new());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("every Pod will be refused: missing are user namespaces for ordinary users"), "{said}");
    assert!(said.contains("the session ended as Failed") && said.contains("CreationFailed"), "{said}");
    assert!(said.contains("this host cannot enforce what the Pod asks for: user namespaces"), "{said}");
    nothing_is_left(place.path(), &said);
}

#[test]
fn interrupted_anywhere_it_takes_along_what_it_started() {
    let moments = [
        "A git repository",
        "A control plane",
        "session.mainstay.dev/fix-change created",
        "#3 ",
        "SIGKILL to",
        "Cleaning up",
    ];
    for moment in moments {
        let place = scratch();
        let mut command = Command::new(EXE);
        command.arg("demo");
        let mut child = demo(command, place.path());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains(moment) {
            assert!(stdout.read_line(&mut said).unwrap() > 0, "it ended before {moment:?}: {said}");
        }
        let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        stdout.read_to_string(&mut said).unwrap();
        let (code, said) = end(child, said);
        assert_eq!(code, Some(130), "at {moment:?}: {said}");
        assert!(said.ends_with("error: interrupted\n"), "{said}");
        nothing_is_left(place.path(), &said);
    }
}

#[test]
fn without_git_it_says_so() {
    let place = scratch();
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", "mount --bind /dev/null /usr/bin/git && exec \"$0\" demo", EXE]);
    let (code, said) = end(demo(command, place.path()), String::new());
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said, "error: the demo needs git in /usr/bin: as root, apt-get install -y git\n");
    nothing_is_left(place.path(), &said);
}
