//! The demo's own server, as a process that can be killed and started again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

/// Longest time for the server to become ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where it listens at its first start.
const ANY_PORT: &str = "127.0.0.1:0";

/// A server and the command line that talks to it; both are this very program.
pub(crate) struct Stage {
    exe: PathBuf,
    data_dir: PathBuf,
    log: PathBuf,
    server: Option<Child>,
    listen: String,
}

impl Stage {
    /// A server that does not run yet, with its data and its log there.
    pub(crate) fn new(data_dir: &Path, log: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data_dir).with_context(|| format!("make {}", data_dir.display()))?;
        let exe = std::env::current_exe().context("find this program")?;
        Ok(Self { exe, data_dir: data_dir.to_owned(), log, server: None, listen: ANY_PORT.to_owned() })
    }

    /// Starts the server, and waits until it is ready.
    pub(crate) async fn start(&mut self) -> anyhow::Result<Duration> {
        let since = Instant::now();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.exe)
            .args(["serve", "--listen", &self.listen, "--data-dir"])
            .arg(&self.data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for the demo, which then needs its server to clean up.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("start mainstay serve")?;
        let child = self.server.insert(child);
        let stdout = child.stdout.take().context("no output of mainstay serve")?;
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("ready") {
                    return Ok(());
                }
            }
            bail!("mainstay serve ended before it was ready; its log is {}", self.log.display())
        };
        timeout(PATIENCE, ready).await.context("mainstay serve did not become ready in 30 s")??;
        if self.listen == ANY_PORT {
            // After a restart clients must find the server where it was.
            self.url()?.trim_start_matches("https://").clone_into(&mut self.listen);
        }
        Ok(since.elapsed())
    }

    /// SIGKILL: no chance to tidy up. Returns the pid that was killed, if the server ran.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<Option<u32>> {
        let Some(mut child) = self.server.take() else { return Ok(None) };
        let pid = child.id();
        child.kill().await?;
        Ok(pid)
    }

    /// Whether a server was ever so far that a sandbox could have been started.
    pub(crate) fn has_state(&self) -> bool {
        self.kubeconfig().exists()
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.server.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let status = timeout(PATIENCE, child.wait()).await.context("the server did not end in 30 s")??;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    /// The server goes on when this program ends.
    pub(crate) fn leave(&mut self) {
        if let Some(child) = self.server.take() {
            std::mem::forget(child);
        }
    }

    /// A command of this program against the server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs a command with input and a variable in its environment; what it prints.
    pub(crate) async fn run(&self, arguments: &[&str], input: &str, env: &[(&str, &str)]) -> anyhow::Result<String> {
        let mut command = self.command(arguments);
        let mut child = command.envs(env.iter().copied()).stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        let output = timeout(PATIENCE, child.wait_with_output()).await.context("the command did not end in 30 s")??;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        ensure!(
            output.status.success(),
            "mainstay {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(text)
    }

    /// The kubeconfig that the server wrote.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    /// Where the server's log goes.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The server's address.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.data_dir.join("endpoint"))
            .context("read the server's endpoint")?
            .trim()
            .to_owned())
    }

    /// What of the demo's sandboxes is still there: processes, cgroups, files.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let node = self.data_dir.join("node");
        let dir = self.data_dir.display().to_string();
        let instance = std::fs::read_to_string(node.join("instance")).unwrap_or_default();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let own = entry.file_name().to_str() == Some(std::process::id().to_string().as_str());
            let command = read("cmdline").replace('\0', " ");
            let ours = command.contains(&dir) || (!instance.is_empty() && read("cgroup").contains(instance.trim()));
            found.extend((ours && !own).then(|| format!("process {}: {command}", entry.file_name().display())));
        }
        found.extend(
            mainstay_node::cgroup::of_instance(instance.trim()).into_iter().map(|(_, path)| path.display().to_string()),
        );
        for part in ["run", "pods", "workspaces"] {
            let entries = std::fs::read_dir(node.join(part));
            found.extend(entries.into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()));
        }
        found
    }
}
