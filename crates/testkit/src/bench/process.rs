//! What one process uses, from /proc.

use anyhow::Context as _;

/// Memory and processor time of a process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Resident memory, in megabytes.
    pub resident: f64,
    /// The part of it that only this process has.
    pub anonymous: f64,
    /// Processor time of all its threads, in seconds.
    pub cpu: f64,
}

/// Looks at process `pid`.
///
/// # Errors
/// When there is none.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read a process's status")?;
    let kilobytes = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    let megabytes = |name: &str| kilobytes(name).map_or(f64::NAN, |kilobytes| kilobytes * 1_024.0 / 1e6);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(") ").context("a stat line")?.1;
    let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    let second = f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?);
    let cpu = ticks.iter().sum::<f64>() / second;
    Ok(Usage { resident: megabytes("VmRSS:"), anonymous: megabytes("RssAnon:"), cpu })
}
