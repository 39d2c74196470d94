//! What a power loss leaves: a file system of the test's own, whose device is looked at while the file system is in use.

use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_node::launch::{ExitReason, Isolation, Order, Verb};
use mainstay_node::shim::{client, record};

use crate::bench::{Bench, ended, eventually, log_text, start, stop};

/// A mounted file system that writes to its device only when it is asked to.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

fn sh(script: &str, image: &Path, mounted: &Path) {
    let script = format!("PATH=$PATH:/usr/sbin:/sbin; set -e; {script}");
    let done = Command::new("/bin/sh").args(["-c", &script, "sh"]).args([image, mounted]).status().unwrap();
    assert!(done.success(), "{script}");
}

impl Disk {
    fn new(image: PathBuf, mounted: PathBuf) -> Self {
        sh("truncate -s 16M \"$1\"; mkfs.ext4 -q \"$1\"", &image, &mounted);
        Self::mount(image, mounted)
    }

    fn mount(image: PathBuf, mounted: PathBuf) -> Self {
        sh("mkdir \"$2\"; mount -o loop,commit=600 \"$1\" \"$2\"", &image, &mounted);
        Self { image, mounted }
    }

    /// What this disk would be if the power went now.
    fn after_power_loss(&self) -> Self {
        let (image, mounted) = (self.image.with_extension("after"), self.mounted.with_extension("after"));
        std::fs::copy(&self.image, &image).unwrap();
        Self::mount(image, mounted)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A failed test's, which its bench does not know of.
        let order = Order { fence: u64::MAX, verb: Verb::Stop { grace_seconds: 0 } };
        client::send(&self.mounted.join("run/pod"), &order).ok();
        sh("umount -l \"$2\"", &self.image, &self.mounted);
    }
}

/// R14.
#[tokio::test]
async fn a_claim_is_on_the_disk_before_anything_is_executed() {
    let bench = Bench::new(Isolation::None);
    let disk = Disk::new(bench.path().join("disk"), bench.path().join("mounted"));
    let runs = disk.mounted.join("run");
    std::fs::create_dir(&runs).unwrap();
    std::fs::File::open(&disk.mounted).unwrap().sync_all().unwrap();
    let mut launch = bench.bare("power", "echo up; exec sleep 1000");
    launch.run_dir = runs.join("pod");
    let run_dir = start(&launch);
    eventually("the agent process", || log_text(&run_dir).contains("up").then_some(())).await;
    let after = disk.after_power_loss();
    let claimed = after.mounted.join("run/pod");
    assert!(claimed.is_dir(), "it would be executed again");
    assert!(!record::is_live(&claimed).unwrap());
    assert!(stop(&run_dir, 9, 0).accepted);
    // Its end is on the disk, too, as soon as it can be read.
    assert_eq!(ended(&run_dir).await.reason, ExitReason::Stopped);
    drop(after);
    std::fs::remove_dir(disk.mounted.with_extension("after")).unwrap();
    let after = disk.after_power_loss();
    let recorded = record::read_exit(&after.mounted.join("run/pod")).unwrap();
    assert_eq!(recorded.map(|record| record.reason), Some(ExitReason::Stopped));
}
