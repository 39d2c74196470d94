//! Servers that share a database and a key file, and a network between each of them and the database.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use mainstay_runtime::guard;
use mainstay_testkit::crash::{Seed, start};
use mainstay_testkit::postgres::{self, Cluster, Database};
use mainstay_testkit::proxy::Proxy;
use mainstay_testkit::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::calls::Api;
use crate::cases::all;
use crate::exe;

/// Waits no longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks.
pub(crate) const GLANCE: Duration = Duration::from_millis(10);
/// Replicas that hold too many leases hand one back every 3 s: after so long without, none does.
const REST: Duration = Duration::from_millis(3_500);
const RECORDER: &str = include_str!("recorder.sql");

/// Whether this run takes a drill up that takes long: every one does with all cases, of others one in so many.
pub(crate) fn takes_up(drill: &str, one_in: u64) -> bool {
    all() || Seed::fresh(&format!("{drill}: 1 takes it up")).upto(one_in) == 1
}

/// One server, and the only way from it to the database.
pub(crate) struct Replica {
    pub(crate) server: Server,
    pub(crate) link: Proxy,
    pub(crate) api: Api,
    /// What the database calls it.
    pub(crate) name: String,
}

/// See the module.
pub(crate) struct Fleet {
    pub(crate) replicas: Vec<Replica>,
    cluster: &'static Cluster,
    database: Database,
    _keys: tempfile::TempDir,
}

impl Fleet {
    /// So many servers, all ready; `adapt` changes each before it is started.
    pub(crate) async fn start(count: usize, adapt: impl Fn(usize, &mut Server)) -> anyhow::Result<Self> {
        let cluster = spawn_blocking(postgres::shared).await??;
        let database = spawn_blocking(|| cluster.database()).await??;
        let keys = tempfile::tempdir()?;
        let key = keys.path().join("key");
        fs::write(&key, rand::random::<[u8; 32]>())?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let mut fleet = Self { replicas: Vec::new(), cluster, database, _keys: keys };
        for at in 0..count {
            let link = Proxy::start(cluster.address()).await?;
            let mut server = Server::idle(exe())?;
            server.set_env("MAINSTAY_DATABASE", Some(&cluster.url_at(link.address(), &fleet.database.name)));
            server.set_env("MAINSTAY_KEY_FILE", Some(key.to_str().context("a path")?));
            server.set_env("MAINSTAY_NODE_NAME", Some(&format!("n{at}")));
            adapt(at, &mut server);
            let (server, ready) = start(server).await?;
            ready.with_context(|| format!("start replica {at}:\n{}", server.log_text()))?;
            let api = Api::new(server.client().await?);
            let name = fs::read_to_string(server.data_dir().join("replica"))?.trim().to_owned();
            fleet.replicas.push(Replica { server, link, api, name });
            if at == 0 {
                fleet.record().await?;
            }
        }
        Ok(fleet)
    }

    /// From here on the database records what is judged later.
    async fn record(&self) -> anyhow::Result<()> {
        // What stands in SQL can be taken away there, in any build.
        let away = std::env::var(guard::ENV).unwrap_or_default();
        let fence = if away.split(',').any(|name| name == "fence") { "NULL::text[]" } else { "p_fence" };
        self.sql(RECORDER.replace("FENCE", fence)).await.map(drop)
    }

    /// The database, without a network before it.
    pub(crate) const fn database(&self) -> &Database {
        &self.database
    }

    /// What the superuser gets from these statements: a line for each row.
    pub(crate) async fn sql(&self, statements: impl Into<String>) -> anyhow::Result<Vec<String>> {
        let (cluster, name, statements) = (self.cluster, self.database.name.clone(), statements.into());
        let text = spawn_blocking(move || cluster.sql(&name, &statements)).await??;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The term of a lease, and which replica leads in it: waits until one does.
    pub(crate) async fn leader(&self, lease: &str) -> anyhow::Result<(u64, usize)> {
        let begun = Instant::now();
        loop {
            let rows = self.sql(format!("SELECT term, holder FROM mainstay.leases WHERE name = '{lease}'")).await?;
            if let Some((term, holder)) = rows.first().and_then(|row| row.split_once('|'))
                && let Some(at) = self.replicas.iter().position(|replica| replica.name == holder)
            {
                return Ok((term.parse()?, at));
            }
            ensure!(begun.elapsed() < PATIENCE, "nobody leads {lease}");
            sleep(GLANCE).await;
        }
    }

    /// Which leases there are, in which terms, and who holds them.
    pub(crate) async fn leases(&self) -> anyhow::Result<Vec<String>> {
        self.sql("SELECT name, term, holder FROM mainstay.leases ORDER BY name").await
    }

    /// Waits until leases are spread over the replicas and stay where they are, and gives them.
    pub(crate) async fn rests(&self) -> anyhow::Result<Vec<String>> {
        let begun = Instant::now();
        let (mut leases, mut since) = (self.leases().await?, begun);
        while since.elapsed() < REST {
            ensure!(begun.elapsed() < PATIENCE, "leases do not come to rest");
            sleep(GLANCE * 10).await;
            let now = self.leases().await?;
            if now != leases {
                (leases, since) = (now, Instant::now());
            }
        }
        Ok(leases)
    }

    /// When a lease was taken in the first term after this one, and that term; waits until it was.
    pub(crate) async fn next_term(&self, lease: &str, before: u64) -> anyhow::Result<(Timestamp, u64)> {
        let query = format!(
            "SELECT term, extract(epoch FROM at) FROM mainstay.drill_terms
             WHERE lease = '{lease}' AND term > {before} ORDER BY n LIMIT 1"
        );
        let begun = Instant::now();
        loop {
            if let Some((term, at)) = self.sql(query.clone()).await?.first().and_then(|row| row.split_once('|')) {
                let millis = at.parse::<f64>()? * 1_000.0;
                #[expect(clippy::cast_possible_truncation, reason = "a time of this century")]
                return Ok((Timestamp::from_millisecond(millis as i64)?, term.parse()?));
            }
            ensure!(begun.elapsed() < PATIENCE, "{lease} stays in term {before}");
            sleep(GLANCE).await;
        }
    }

    /// Waits until every replica takes writes.
    pub(crate) async fn all_well(&self) -> anyhow::Result<()> {
        for (at, replica) in self.replicas.iter().enumerate() {
            let begun = Instant::now();
            while replica.api.get("/readyz").await.code != Some(200) {
                ensure!(begun.elapsed() < PATIENCE, "replica {at} does not become ready:\n{}", self.last_words(at));
                sleep(GLANCE).await;
            }
        }
        Ok(())
    }

    /// Sends a signal to a server that runs.
    pub(crate) fn signal(&self, at: usize, signal: Signal) -> anyhow::Result<()> {
        let pid = self.replicas[at].server.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("a pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// The end of a server's log.
    pub(crate) fn last_words(&self, at: usize) -> String {
        let text = self.replicas[at].server.log_text();
        let lines: Vec<&str> = text.lines().collect();
        format!("replica {at}'s last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

impl Drop for Fleet {
    /// What is frozen could not be stopped.
    fn drop(&mut self) {
        for at in 0..self.replicas.len() {
            self.signal(at, Signal::CONT).ok();
        }
    }
}

/// The figures of a server: name with labels, and value.
pub(crate) fn figures(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}
