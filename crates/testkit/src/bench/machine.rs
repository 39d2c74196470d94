//! The machine, and how busy it is with the work of others.

use std::path::Path;
use std::time::Duration;

use rustix::system::uname;
use tokio::time::{Instant, sleep};

/// The machine in one line: processor, cores, memory, kernel, file system below `dir`.
pub fn machine(dir: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let (kernel, cpu) = (uname(), field(&read("/proc/cpuinfo"), "model name"));
    let mounts = read("/proc/self/mounts");
    let dir = dir.canonicalize().unwrap_or_default();
    let mount = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?)).filter(|(at, _)| dir.starts_with(at))
    });
    let disk = mount.max_by_key(|(at, _)| at.len()).map_or("?", |(_, kind)| kind);
    format!("{cpu}, {cores} cores, {} GiB, Linux {}, data on {disk}", memory >> 20, kernel.release().to_string_lossy())
}

/// Share of the processors' time that was used, since the last look.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    used: u64,
    all: u64,
}

impl Busy {
    /// Begins to look.
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks = text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = ticks.map(|tick| tick.parse().unwrap_or(0)).collect();
        let all = ticks.iter().sum();
        // The fourth and fifth are idle and waiting for the disk.
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self { used: all - idle, all }
    }

    /// Percent of the time since `earlier` in which processors were at work.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn percent_since(self, earlier: Self) -> f64 {
        let all = (self.all - earlier.all).max(1);
        (self.used - earlier.used) as f64 * 100.0 / all as f64
    }
}

/// Waits for a moment in which others use less than a tenth of the processors, at most `patience`; returns how many
/// percent they used in the half second before.
pub async fn wait_quiet(patience: Duration) -> f64 {
    let until = Instant::now() + patience;
    loop {
        let before = Busy::now();
        sleep(Duration::from_millis(500)).await;
        let busy = Busy::now().percent_since(before);
        if busy < 10.0 || Instant::now() >= until {
            return busy;
        }
    }
}
