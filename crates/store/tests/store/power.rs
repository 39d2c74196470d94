//! Loss of power at any commit: of each file, what was synced last is left, and everything acknowledged is in that.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use mainstay_runtime::{Clock, fault};

use super::child;
use super::crash::Ledger;
use super::support::open;

/// The files that make up the state.
const FILES: [&str; 2] = ["state.db", "state.db-wal"];

/// Keeps what a file holds whenever it was synced.
const KEEPS_WHAT_IS_SYNCED: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void keep(int fd) {
    const char *dir = getenv("MAINSTAY_TEST_SYNCED");
    char link[64], path[4096], kept[4096], part[4096], block[65536];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!dir || length <= 0) return;
    path[length] = 0;
    const char *name = strrchr(path, '/') + 1;
    if (strcmp(name, "state.db") != 0 && strcmp(name, "state.db-wal") != 0) return;
    snprintf(part, sizeof part, "%s/part", dir);
    snprintf(kept, sizeof kept, "%s/%s", dir, name);
    int copy = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    off_t at = 0;
    while ((length = pread(fd, block, sizeof block, at)) > 0) {
        if (write(copy, block, length) != length) abort();
        at += length;
    }
    close(copy);
    if (rename(part, kept) != 0) abort();
}
int fsync(int fd) {
    int outcome = ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
    if (outcome == 0) keep(fd);
    return outcome;
}
int fdatasync(int fd) {
    int outcome = ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
    if (outcome == 0) keep(fd);
    return outcome;
}
"#;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in FILES.iter().filter(|file| from.join(file).exists()) {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// R46.
#[tokio::test]
async fn everything_acknowledged_survives_a_loss_of_power_at_any_commit() {
    let given = std::env::var("MAINSTAY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| Clock::system().now().as_microsecond().unsigned_abs());
    eprintln!("seed {seed} (MAINSTAY_SEED={seed} repeats it)");
    let dir = tempfile::tempdir().unwrap();
    let library = child::library(KEEPS_WHAT_IS_SYNCED, dir.path());
    let mut before = dir.path().join("0");
    drop(open(&before));
    let mut ledger = Ledger::default();
    for round in 1..=6_u64 {
        // What is there at a start has been synced.
        let after = dir.path().join(round.to_string());
        copy(&before, &after);
        let draw = (seed ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let plan = format!("kill@{}", 20 + draw % 300);
        let mut child = child::command("crash::victim", &before);
        child.env(fault::ENV, &plan).env("LD_PRELOAD", &library).env("MAINSTAY_TEST_SYNCED", &after);
        let (lines, errors, status) = child::finish(child.spawn().unwrap());
        assert_eq!(status.signal(), Some(9), "seed {seed}, round {round}, {plan}: {status}\n{errors}");
        for line in &lines {
            ledger.note(line);
        }
        ledger.check(&after).await;
        before = after;
    }
    assert!(ledger.objects.len() > 50, "only {} writes", ledger.objects.len());
}
