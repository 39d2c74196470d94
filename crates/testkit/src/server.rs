//! A real `mainstay serve`, as a process of its own that can be killed and started again.
//!
//! It listens on a port of its own of the loopback interface and keeps everything in a temporary directory. When it is
//! dropped, the server and whatever it left running for that directory end, and the directory goes with their cgroups.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::crash::leftovers::remove_cgroups;

/// Longest time for the server to become ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client's stream may be silent: watchers ask anew within 5 minutes.
const IDLE: Duration = Duration::from_secs(330);
/// Between two looks at a data directory.
const GLANCE: Duration = Duration::from_micros(100);
/// Ports that the kernel gives to nobody by itself, on a host with the usual range for that.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// How many ports are tried.
const ATTEMPTS: usize = 1_000;

/// A running server.
#[derive(Debug)]
pub struct Server {
    exe: PathBuf,
    dir: TempDir,
    listen: SocketAddr,
    _reserved: UdpSocket,
    child: Option<Child>,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
}

impl Server {
    /// Starts `exe serve` and waits until it is ready. Tests of the binary's crate pass
    /// `env!("CARGO_BIN_EXE_mainstay")`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(exe: impl AsRef<Path>) -> anyhow::Result<Self> {
        Self::start_with(exe, &[])
    }

    /// The same with variables in the server's environment, such as armed fault points.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_with(exe: impl AsRef<Path>, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut server = Self::idle(exe)?;
        for (name, value) in env {
            server.set_env(name, Some(value));
        }
        server.restart()?;
        Ok(server)
    }

    /// A server that does not run yet: [`Server::restart`] starts it.
    ///
    /// # Errors
    /// When no directory can be made for it.
    pub fn idle(exe: impl AsRef<Path>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("mainstay-test-").tempdir().context("make a temporary directory")?;
        let (listen, reserved) = reserve()?;
        Ok(Self {
            exe: exe.as_ref().to_owned(),
            dir,
            listen,
            _reserved: reserved,
            child: None,
            arguments: Vec::new(),
            env: Vec::new(),
        })
    }

    /// Further arguments of `serve` at the next start.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Listens on all of the host's addresses from the next start on.
    pub fn listen_everywhere(&mut self) {
        self.listen.set_ip(Ipv4Addr::UNSPECIFIED.into());
    }

    /// Sets or removes a variable in the environment of the next start.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.env.retain(|(known, _)| known != name);
        self.env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Starts it, or starts it again after [`Server::kill9`], [`Server::stop`] or [`Server::wait`], at the same address.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let is_ready = self.spawn()?;
        let waited = is_ready.recv_timeout(PATIENCE);
        waited.with_context(|| format!("mainstay serve did not become ready:\n{}", self.log_text()))
    }

    /// Starts it, and ends it by SIGKILL as soon as its data directory looks so, or as soon as it is ready.
    ///
    /// # Errors
    /// When it does not come so far.
    pub fn kill_when(&mut self, looks_so: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
        let is_ready = self.spawn()?;
        while !looks_so(&self.data_dir()) {
            match is_ready.recv_timeout(GLANCE) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                ready => {
                    ready.with_context(|| format!("mainstay serve did not become ready:\n{}", self.log_text()))?;
                    break;
                }
            }
        }
        self.kill9()
    }

    /// Starts the process; what it gives tells when it is ready, and is closed when it ends.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<mpsc::Receiver<()>> {
        ensure!(self.child.is_none(), "the server is running already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut child = Command::new(&self.exe)
            .args(["serve", "--listen", &self.listen.to_string(), "--data-dir"])
            .arg(self.data_dir())
            .args(&self.arguments)
            // Shims inherit it, and are found by it.
            .env("MAINSTAY_DATA_DIR", self.data_dir())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("start mainstay serve")?;
        let stdout = child.stdout.take().context("no output of mainstay serve")?;
        self.child = Some(child);
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready") && ready.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(is_ready)
    }

    /// Ends the server by SIGKILL. Sandboxes go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the server is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends the server by SIGTERM and waits for it.
    ///
    /// # Errors
    /// When it does not run, or does not end well.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let pid = self.pid().context("the server is not running")?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a pid")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.wait()?;
        ensure!(status.success(), "the server ended with {status}:\n{}", self.log_text());
        Ok(())
    }

    /// Waits until the server has ended, by itself or by an armed fault.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("the server is not running")?;
        let (ended, has_ended) = mpsc::channel();
        let waiter = std::thread::spawn(move || drop(ended.send(child.wait())));
        let status = has_ended.recv_timeout(PATIENCE).context("the server did not end")??;
        drop(waiter);
        Ok(status)
    }

    /// Where it listens, over all its starts, whatever its role.
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The pid of the server, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where it keeps everything.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory for the test's own files, which goes with the server.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// Its URL.
    ///
    /// # Errors
    /// When it is not running.
    pub fn url(&self) -> anyhow::Result<String> {
        let url = std::fs::read_to_string(self.data_dir().join("endpoint")).context("read the server's endpoint")?;
        Ok(url.trim().to_owned())
    }

    /// A command of the same program, that finds this server and no other.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(arguments).stdin(Stdio::null());
        for name in ["KUBECONFIG", "MAINSTAY_DATA_DIR", "NO_COLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        command.env("MAINSTAY_KUBECONFIG", self.kubeconfig()).env("TZ", "UTC");
        command
    }

    /// A client with the admin's rights.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(mainstay_runtime::client::remote(&config, IDLE)?)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("serve.log")
    }

    /// All that the server logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Processes that name the data directory in their command line or environment: the server, its shims, and their
    /// supervisors.
    pub fn processes(&self) -> Vec<u32> {
        processes_naming(&self.data_dir().display().to_string())
    }
}

/// An address that is this server's over all its starts, as a server of people's has one.
///
/// While the server is dead, nobody else gets it: the UDP port of the same number is held against other tests, and a
/// client that tries to reach the dead server from a port that the kernel chose does not meet itself, as it could on
/// one of the kernel's own ports.
pub(crate) fn reserve() -> anyhow::Result<(SocketAddr, UdpSocket)> {
    for _ in 0..ATTEMPTS {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(PORTS)));
        if let Ok(reserved) = UdpSocket::bind(address)
            && TcpListener::bind(address).is_ok()
        {
            return Ok((address, reserved));
        }
    }
    anyhow::bail!("no port is free in {PORTS:?}")
}

/// Processes with these words in their command line or environment.
pub fn processes_naming(words: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = |entry: &std::fs::DirEntry| {
        ["cmdline", "environ"].iter().any(|file| {
            std::fs::read(entry.path().join(file)).is_ok_and(|text| String::from_utf8_lossy(&text).contains(words))
        })
    };
    entries.filter(names).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            drop(self.kill9());
        }
        // Shims outlive their server; those of this directory have nobody left.
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended by itself in this moment.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        remove_cgroups(&self.data_dir());
    }
}
