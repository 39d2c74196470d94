//! Replicas over a PostgreSQL of their own, whose commits reach the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;
use mainstay_testkit::postgres::{Cluster, Database, Settings};
use mainstay_testkit::redis::{Keeps, Redis};
use mainstay_testkit::server::Server;
use rustix::process::{Pid, Signal, kill_process};

use crate::Plan;
use crate::link::Access;

/// See the module.
pub(crate) struct Fleet {
    pub(crate) servers: Vec<Server>,
    pub(crate) cluster: Cluster,
    pub(crate) database: Database,
    _redis: Option<Redis>,
    _keys: tempfile::TempDir,
}

impl Fleet {
    /// So many, all ready; with a Redis for turns, if it is wanted.
    pub(crate) fn start(plan: &Plan, count: usize, with_redis: bool) -> anyhow::Result<Self> {
        let cluster = Cluster::start(Settings { fsync: true, tls: false })?;
        let database = cluster.database()?;
        let redis = with_redis.then(|| Redis::start(Keeps::Nothing)).transpose()?;
        let keys = tempfile::tempdir()?;
        let key = keys.path().join("key");
        fs::write(&key, rand::random::<[u8; 32]>())?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let mut servers = Vec::new();
        for at in 0..count {
            let mut server = Server::idle(&plan.exe)?;
            let name = format!("n{at}");
            server.set_arguments(&["--key-file", key.to_str().context("a path")?, "--node-name", &name]);
            server.set_env("MAINSTAY_DATABASE", Some(&database.url));
            server.set_env("MAINSTAY_QUEUE", redis.as_ref().map(Redis::url).as_deref());
            server.restart()?;
            servers.push(server);
        }
        Ok(Self { servers, cluster, database, _redis: redis, _keys: keys })
    }

    /// How each is reached.
    pub(crate) fn access(&self) -> anyhow::Result<Vec<Access>> {
        self.servers.iter().map(|server| Access::of(&server.kubeconfig())).collect()
    }

    /// The rows of a query, columns parted by `|`.
    pub(crate) fn sql(&self, query: &str) -> anyhow::Result<String> {
        self.cluster.sql(&self.database.name, query)
    }

    /// What the database calls a server.
    pub(crate) fn name(&self, at: usize) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.servers[at].data_dir().join("replica"))?.trim().to_owned())
    }

    /// Sends a signal to a server that runs.
    pub(crate) fn signal(&self, at: usize, signal: Signal) -> anyhow::Result<()> {
        let pid = self.servers[at].pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("a server")?;
        Ok(kill_process(pid, signal)?)
    }
}
