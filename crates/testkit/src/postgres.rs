//! Debian's PostgreSQL, started by the test itself: a cluster for a whole test process, or one that may be drilled.
//!
//! Names are sorted by the rules of English there, as on servers of people's, and not by bytes: a statement that
//! relies on the order of bytes has to say so. Statistics, caches and checkpoints are as installed; memory is not.

mod database;
mod pooler;
mod programs;
mod setup;
mod standby;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

pub use self::database::Database;
pub use self::pooler::Pooler;
pub use self::standby::Replication;
use crate::daemon::{Daemon, run};
use crate::server::reserve;

/// The superuser, who gets in by the socket alone.
const ADMIN: &str = "postgres";
/// The database that is always there.
const FIRST_DATABASE: &str = "postgres";

/// How a cluster is to be.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether commits reach the disk. Without, power loss is no part of the test, and it is faster.
    pub fsync: bool,
    /// Whether connections over TCP are encrypted; others are refused then.
    pub tls: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { fsync: true, tls: false }
    }
}

/// How PostgreSQL is told to stop.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// It waits until all clients have gone.
    Smart,
    /// It ends the clients' sessions.
    Fast,
    /// It ends at once, and recovers at the next start.
    Immediate,
}

/// A cluster of PostgreSQL. It ends, and its directory goes, when this is dropped or this process has ended.
#[derive(Debug)]
pub struct Cluster {
    daemon: Daemon,
    programs: PathBuf,
    settings: Settings,
    password: String,
    listen: SocketAddr,
    _reserved: UdpSocket,
    databases: AtomicU32,
}

/// The cluster of this test process, started by whoever asks first: without fsync, without TLS, and never drilled.
///
/// # Errors
/// When it does not start, for anybody.
pub fn shared() -> anyhow::Result<&'static Cluster> {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = SHARED.get() {
        return Ok(cluster);
    }
    let cluster = Cluster::start(Settings { fsync: false, tls: false })?;
    Ok(SHARED.get_or_init(|| cluster))
}

impl Cluster {
    /// Makes a cluster, starts it, and waits until it takes connections: on the loopback interface with a password, and
    /// on a socket in its directory without.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start.
    pub fn start(settings: Settings) -> anyhow::Result<Self> {
        let password = format!("{:032x}", rand::random::<u128>());
        let mut cluster = Self::idle(settings, password)?;
        cluster.set_up()?;
        cluster.restart()?;
        cluster.add_user()?;
        Ok(cluster)
    }

    /// One with an empty directory.
    fn idle(settings: Settings, password: String) -> anyhow::Result<Self> {
        let (programs, daemon) = (programs::find()?, Daemon::new("postgres")?);
        let (listen, reserved) = reserve()?;
        let databases = AtomicU32::default();
        Ok(Self { daemon, programs, settings, password, listen, _reserved: reserved, databases })
    }

    /// A new database, empty, of this cluster.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn database(&self) -> anyhow::Result<Database> {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(FIRST_DATABASE, &format!("CREATE DATABASE {name} OWNER {}", setup::USER))?;
        Ok(self.known(&name))
    }

    /// A database that is there: of a standby, one that its primary has.
    pub fn known(&self, name: &str) -> Database {
        Database { name: name.to_owned(), url: self.url_at(self.listen, name) }
    }

    /// How its owner reaches a database where a proxy stands before the cluster.
    pub fn url_at(&self, address: SocketAddr, name: &str) -> String {
        format!("postgres://{}:{}@{address}/{name}", setup::USER, self.password)
    }

    /// What the superuser gets from these statements: a line for each row, `|` between columns. They need no password.
    ///
    /// # Errors
    /// When one fails, or there is no connection.
    pub fn sql(&self, database: &str, statements: &str) -> anyhow::Result<String> {
        let mut psql = self.client("psql");
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-"]);
        psql.arg(database);
        Ok(run(psql, statements)?.trim_end().to_owned())
    }

    /// One of PostgreSQL's own clients, as the superuser, on the socket.
    pub fn client(&self, program: &str) -> Command {
        let mut client = self.daemon.command(self.programs.join(program));
        client.env("PGHOST", self.daemon.dir()).env("PGPORT", self.listen.port().to_string()).env("PGUSER", ADMIN);
        // It is none of the processes of the server, wherever it is counted by its directory.
        client.env("PGCONNECT_TIMEOUT", "30").current_dir("/");
        client
    }

    /// Where it listens, over all its starts.
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The certificate of the authority that signed the server's, in PEM: with [`Settings::tls`]. It is for 127.0.0.1.
    pub fn authority(&self) -> Option<PathBuf> {
        self.settings.tls.then(|| self.data().join(setup::AUTHORITY))
    }

    /// All that it logged.
    pub fn log_text(&self) -> String {
        self.daemon.log_text()
    }

    /// Starts it again after [`Cluster::kill9`] or [`Cluster::stop`], at the same address, and waits until it takes
    /// connections.
    ///
    /// # Errors
    /// When it runs, or does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let mut postgres = self.daemon.command(self.programs.join("postgres"));
        postgres.arg("-D").arg(self.data());
        postgres.args(["-p", &self.listen.port().to_string(), "-k"]).arg(self.daemon.dir());
        let pid = self.daemon.spawn(postgres)?.to_string();
        let status = self.data().join("postmaster.pid");
        self.daemon.wait_until("ready", || {
            // Its former self may have left one.
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let mut lines = text.lines();
            Ok(lines.next() == Some(&pid) && lines.last().is_some_and(|line| line.trim_end() == "ready"))
        })
    }

    /// Ends all its processes by SIGKILL, as when its host dies, but for what the kernel still writes.
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
    pub fn stop(&mut self, stop: Stop) -> anyhow::Result<()> {
        let (signal, well) = match stop {
            Stop::Smart => (Signal::TERM, true),
            Stop::Fast => (Signal::INT, true),
            Stop::Immediate => (Signal::QUIT, false),
        };
        let status = self.daemon.end(signal)?;
        ensure!(!well || status.success(), "postgres ended with {status}:\n{}", self.log_text());
        Ok(())
    }

    /// Stops all its processes by SIGSTOP: connections stay, and nobody answers.
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

    /// Whether it was started, and not ended by one of these methods.
    pub fn is_running(&self) -> bool {
        self.daemon.is_running()
    }

    /// Where it keeps everything.
    pub fn data(&self) -> PathBuf {
        self.dir().join("data")
    }

    fn dir(&self) -> &Path {
        self.daemon.dir()
    }

    /// Waits until a query gives this.
    fn wait_for(&mut self, what: &str, query: &str, wanted: &str) -> anyhow::Result<()> {
        let mut psql = self.client("psql");
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--command", query, FIRST_DATABASE]);
        self.daemon.wait_until(what, || {
            let answer = psql.output().context("run psql")?;
            Ok(answer.status.success() && String::from_utf8_lossy(&answer.stdout).trim() == wanted)
        })
    }
}
