//! Debian's PgBouncer in front of a cluster: each transaction of a client's may get another session.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::{Cluster, setup};
use crate::daemon::{Daemon, give};
use crate::server::reserve;

/// Where `scripts/prepare` puts it: its package would start a service.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/bin/pgbouncer");

/// A transaction pooler. It ends, and its directory goes, when this is dropped or this process has ended.
#[derive(Debug)]
pub struct Pooler {
    daemon: Daemon,
    listen: SocketAddr,
    _reserved: UdpSocket,
}

impl Pooler {
    /// Starts one with so many sessions for all clients of a database together.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start(cluster: &Cluster, sessions: u32) -> anyhow::Result<Self> {
        ensure!(Path::new(PROGRAM).is_file(), "no PgBouncer ({PROGRAM}): scripts/prepare installs it");
        let (daemon, (listen, reserved)) = (Daemon::new("pgbouncer")?, reserve()?);
        let dir = daemon.dir().to_owned();
        // Its user may not reach this project.
        let program = dir.join("pgbouncer");
        std::fs::copy(PROGRAM, &program).context("copy PgBouncer")?;
        let users = dir.join("users");
        std::fs::write(&users, format!("\"{}\" \"{}\"\n", setup::USER, cluster.password))?;
        let conf = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {sessions}\nmax_client_conn = 1000\nserver_idle_timeout = 2\n",
            cluster.address().port(),
            listen.port(),
            users.display()
        );
        let path = dir.join("pgbouncer.ini");
        std::fs::write(&path, conf)?;
        [&users, &path, &program].into_iter().try_for_each(|file| give(file))?;
        let mut pooler = Self { daemon, listen, _reserved: reserved };
        let mut command = pooler.daemon.command(program);
        command.arg(path);
        pooler.daemon.spawn(command)?;
        let log = dir.join("log");
        pooler.daemon.wait_until("ready", || Ok(std::fs::read_to_string(&log)?.contains("process up")))?;
        Ok(pooler)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Ends it in an orderly way, which its clients see as connections that close.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.daemon.end(Signal::TERM).map(drop)
    }

    /// All that it logged.
    pub fn log_text(&self) -> String {
        self.daemon.log_text()
    }
}
