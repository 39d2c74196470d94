//! The demo's git repository: a small program whose test fails.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What the demo and its agent use; a sandbox sees them in `/usr` only.
const PROGRAMS: [&str; 2] = ["git", "python3"];

/// Checks that the programs of the demo are there.
pub(crate) fn has_programs() -> anyhow::Result<()> {
    let is_missing = |name: &&str| {
        let found = std::fs::metadata(format!("/usr/bin/{name}"));
        !found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let missing: Vec<_> = PROGRAMS.into_iter().filter(is_missing).collect();
    ensure!(
        missing.is_empty(),
        "the demo needs {} in /usr/bin: as root, apt-get install -y {}",
        missing.join(" and "),
        missing.join(" ")
    );
    Ok(())
}

/// A work tree on the host.
pub(crate) struct Repo {
    dir: PathBuf,
}

impl Repo {
    /// Makes the repository with its first commit.
    pub(crate) async fn create(dir: &Path) -> anyhow::Result<Self> {
        let repo = Self { dir: dir.to_owned() };
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("fares.py"), include_str!("../../demo/repo/fares.py"))?;
        std::fs::write(dir.join("test_fares.py"), include_str!("../../demo/repo/test_fares.py"))?;
        repo.git(&["init", "-q", "-b", "main"], None).await?;
        repo.git(&["add", "."], None).await?;
        repo.git(&["commit", "-q", "-m", "fares: fares and change of a small ferry line"], None).await?;
        Ok(repo)
    }

    /// The whole repository as one file, to be cloned from.
    pub(crate) async fn bundle(&self) -> anyhow::Result<Vec<u8>> {
        self.git(&["bundle", "create", "-q", ".git/demo.bundle", "HEAD", "main"], None).await?;
        Ok(std::fs::read(self.dir.join(".git/demo.bundle"))?)
    }

    /// Applies a mailed patch as a commit.
    pub(crate) async fn apply(&self, patch: &str) -> anyhow::Result<()> {
        self.git(&["am", "-q"], Some(patch)).await.map(drop)
    }

    /// What git prints.
    pub(crate) async fn show(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.git(arguments, None).await
    }

    /// Runs the program's tests; whether they pass, and the last line they print.
    pub(crate) async fn test(&self) -> anyhow::Result<(bool, String)> {
        let output = Command::new("/usr/bin/python3")
            .args(["-B", "-m", "unittest", "-q"])
            .current_dir(&self.dir)
            .kill_on_drop(true)
            .output()
            .await
            .context("run python3 -m unittest")?;
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((output.status.success(), text.lines().last().unwrap_or_default().to_owned()))
    }

    async fn git(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let mut child = Command::new("/usr/bin/git")
            .args(["-c", "user.name=demo", "-c", "user.email=demo@mainstay.invalid", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start /usr/bin/git")?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(text.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
