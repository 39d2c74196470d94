//! Debian's Redis, started by the test itself. One starts within milliseconds: each test has its own.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use crate::daemon::{Daemon, give, run};
use crate::server::reserve;

/// The server, by the name that it has in Debian's `redis-tools`, which starts no service; it goes by its first argument.
const PROGRAM: &str = "/usr/bin/redis-check-rdb";

/// What Redis keeps over its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Every write that it answered: an append-only file, synced with each.
    Everything,
    /// Nothing, as a cache.
    Nothing,
}

/// A Redis. It ends, and its directory goes, when this is dropped or this process has ended.
#[derive(Debug)]
pub struct Redis {
    daemon: Daemon,
    password: String,
    listen: SocketAddr,
    _reserved: UdpSocket,
}

impl Redis {
    /// Starts one that is empty, on the loopback interface, with a password, and waits until it takes commands.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start(keeps: Keeps) -> anyhow::Result<Self> {
        let append = if keeps == Keeps::Everything { "yes" } else { "no" };
        Self::start_with(&format!("{:032x}", rand::random::<u128>()), &format!("appendonly {append}\n"))
    }

    fn start_with(password: &str, settings: &str) -> anyhow::Result<Self> {
        let (listen, reserved) = reserve()?;
        let mut redis =
            Self { daemon: Daemon::new("redis")?, password: password.to_owned(), listen, _reserved: reserved };
        let (dir, port) = (redis.daemon.dir().to_owned(), listen.port());
        let conf = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nsave \"\"\nappendfsync always\nrequirepass {password}\n\
             masterauth {password}\nrepl-diskless-sync-delay 0\n{settings}",
            dir.display()
        );
        let path = dir.join("redis.conf");
        std::fs::write(&path, conf)?;
        // A replica that becomes a primary writes it down.
        give(&path)?;
        redis.restart()?;
        Ok(redis)
    }

    /// A replica that has what this one has, and follows it without its waiting.
    ///
    /// # Errors
    /// When it does not start, or does not follow.
    pub fn replica(&self) -> anyhow::Result<Self> {
        let settings = format!("appendonly no\nreplicaof 127.0.0.1 {}\n", self.listen.port());
        let mut replica = Self::start_with(&self.password, &settings)?;
        let mut info = replica.client();
        info.args(["INFO", "replication"]);
        replica.daemon.wait_until("following", || {
            Ok(String::from_utf8_lossy(&info.output()?.stdout).contains("master_link_status:up"))
        })?;
        Ok(replica)
    }

    /// Makes a primary of this replica.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn promote(&self) -> anyhow::Result<()> {
        self.ask(&["REPLICAOF", "NO", "ONE"]).map(drop)
    }

    /// What redis-cli gets for a command, a line for each element.
    ///
    /// # Errors
    /// When it is refused, or there is no connection.
    pub fn ask(&self, command: &[&str]) -> anyhow::Result<String> {
        let mut client = self.client();
        client.args(command);
        Ok(run(client, "")?.trim_end().to_owned())
    }

    /// Forgets everything, as after a slip of an operator's hand.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.ask(&["FLUSHALL"]).map(drop)
    }

    fn client(&self) -> Command {
        let mut client = Command::new("redis-cli");
        // It fails when the command does.
        client.args(["-e", "-p", &self.listen.port().to_string()]).env("REDISCLI_AUTH", &self.password);
        client
    }

    /// Where it listens, over all its starts.
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// How clients reach it: `redis://default:PASSWORD@127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.url_at(self.listen)
    }

    /// The same where a proxy stands before it.
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("redis://default:{}@{address}", self.password)
    }

    /// Starts it again after [`Redis::kill9`] or [`Redis::stop`], at the same address, and waits until it takes commands.
    ///
    /// # Errors
    /// When it runs, or does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(std::path::Path::new(PROGRAM).is_file(), "no Redis ({PROGRAM}): scripts/prepare installs it");
        let mut redis = self.daemon.command(PROGRAM);
        redis.arg0("redis-server").arg(self.daemon.dir().join("redis.conf"));
        self.daemon.spawn(redis)?;
        let mut ping = self.client();
        ping.arg("PING");
        self.daemon.wait_until("ready", || Ok(ping.output().context("run redis-cli")?.stdout == b"PONG\n"))
    }

    /// Ends all its processes by SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.daemon.kill9()
    }

    /// Stops it in an orderly way, and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or does not end well.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.daemon.end(Signal::TERM)?;
        ensure!(status.success(), "redis ended with {status}:\n{}", self.log_text());
        Ok(())
    }

    /// Stops its processes by SIGSTOP: connections stay, and nobody answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.daemon.pause()
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.daemon.resume()
    }

    /// All that it logged.
    pub fn log_text(&self) -> String {
        self.daemon.log_text()
    }
}
