//! Where Debian has PostgreSQL's programs.

use std::path::PathBuf;

use anyhow::Context as _;

/// A directory for each major version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The directory of the newest version that has a server.
pub(super) fn find() -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let servers = versions.filter(|version| version.path().join("bin/postgres").is_file());
    let numbered = servers.filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version)));
    let newest = numbered.max_by_key(|(number, _)| *number);
    let (_, version) = newest.with_context(|| format!("no PostgreSQL in {VERSIONS}: scripts/prepare installs it"))?;
    Ok(version.path().join("bin"))
}
