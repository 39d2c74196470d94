//! A full disk: the server starts all the same, serves reads, says what is wrong, and goes on by itself.

use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::*;

/// Tells the test in a process with mounts of its own that it is there.
const APART: &str = "MAINSTAY_TEST_APART";
/// Longest time for one step.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes all the room that is left.
fn stuff(file: &Path) {
    let mut file = std::fs::File::create(file).unwrap();
    while file.write_all(&[0; 4_096]).is_ok() {}
}

/// The server runs; `true` when it is ready, `false` when its status says that it is not, and why.
#[expect(clippy::disallowed_methods, reason = "a deadline of a test without a runtime")]
fn becomes_ready(server: &Server, is_ready: &Receiver<()>) -> bool {
    let until = Instant::now() + PATIENCE;
    loop {
        let said = run(server, "status");
        if is_ready.try_recv().is_ok() {
            return true;
        }
        if said.out.contains("the disk is full") {
            assert!(!said.out.contains("Ready     yes"), "{said:?}");
            return false;
        }
        assert!(Instant::now() < until, "{said:?}\n{}", server.log_text());
    }
}

/// Started on a full disk, it serves what is there, refuses what would need room, and is not ready. The first starts may
/// find the last corners of the files.
fn reads_only(server: &mut Server, stuffing: &Path, end: fn(&mut Server)) -> Receiver<()> {
    let full = (0..50).find_map(|_| {
        stuff(stuffing);
        let is_ready = server.spawn().unwrap();
        if becomes_ready(server, &is_ready) {
            end(server);
            return None;
        }
        Some(is_ready)
    });
    let is_ready = full.unwrap();
    assert_eq!(json(&run(server, "get configmap before -o json").ok())["data"]["a"], "b");
    let refused = apply(server, &config("after", "{}")).failed(1);
    assert!(refused.contains("the disk is full"), "{refused}");
    assert_eq!(is_ready.try_recv(), Err(TryRecvError::Empty), "ready to do what?");
    is_ready
}

/// In a process with mounts of its own.
#[test]
fn on_a_small_file_system() {
    if std::env::var_os(APART).is_none() {
        return;
    }
    let mut server = Server::idle(EXE).unwrap();
    let stuffing = server.data_dir().join("stuffing");
    std::fs::create_dir(server.data_dir()).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(server.data_dir()).output();
    assert!(mount.as_ref().is_ok_and(|mount| mount.status.success()), "{mount:?}");
    server.restart().unwrap();
    apply(&server, &config("before", "{a: b}")).ok();

    // Killed, it leaves its log, and where it is.
    server.kill9().unwrap();
    drop(reads_only(&mut server, &stuffing, |server| server.kill9().unwrap()));
    // Ended well, also while it waits for room, it leaves less.
    server.stop().unwrap();
    let is_ready = reads_only(&mut server, &stuffing, |server| server.stop().unwrap());

    std::fs::remove_file(&stuffing).unwrap();
    is_ready.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}:\n{}", server.log_text()));
    apply(&server, &config("after", "{}")).ok();
    assert!(run(&server, "status").ok().contains("Ready     yes"));
    // The controllers are there, too.
    let project = "apiVersion: mainstay.dev/v1alpha1\nkind: Project\nmetadata: {name: team}\nspec: {}\n";
    apply(&server, project).ok();
    assert!(active(&server), "{}", server.log_text());
    println!("recovered");
}

/// Whether the project comes to be.
#[expect(clippy::disallowed_methods, reason = "a deadline of a test without a runtime")]
fn active(server: &Server) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if json(&run(server, "get project team -o json").ok())["status"]["phase"] == "Active" {
            return true;
        }
    }
    false
}

#[test]
fn a_server_starts_on_a_full_disk_and_goes_on_when_there_is_room() {
    let mut apart = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        apart.args(["--user", "--map-root-user"]);
    }
    apart.arg("--mount").arg(std::env::current_exe().unwrap());
    apart.args(["--exact", "disk::on_a_small_file_system", "--nocapture"]).env(APART, "1");
    let done = finish(apart, "");
    assert!(
        done.out.contains("recovered"),
        "this test needs root, or user namespaces for ordinary users, to mount a small file system\n{done:?}"
    );
}
