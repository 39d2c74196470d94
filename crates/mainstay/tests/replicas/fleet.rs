//! Servers that share a database and a key file, and what the database says of their leases.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use mainstay_testkit::command::{Done, finish};
use mainstay_testkit::postgres::{self, Cluster, Database};
use mainstay_testkit::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
/// Waits no longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(5);

pub(crate) struct Fleet {
    pub(crate) servers: Vec<Server>,
    arguments: Vec<Vec<String>>,
    cluster: &'static Cluster,
    database: Database,
    /// The terms that were seen of each lease, in order.
    seen: RefCell<BTreeMap<String, Vec<u64>>>,
    _keys: tempfile::TempDir,
}

impl Fleet {
    /// So many servers, all ready.
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    /// The same with further arguments.
    pub(crate) fn start_with(count: usize, more: &[&str]) -> Self {
        let cluster = postgres::shared().unwrap();
        let database = cluster.database().unwrap();
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("key");
        fs::write(&key, rand::random::<[u8; 32]>()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mut arguments = Vec::new();
        let server = |at: usize| {
            let mut server = Server::idle(EXE).unwrap();
            let name = format!("n{at}");
            let own = ["--key-file", key.to_str().unwrap(), "--node-name", &name].map(str::to_owned);
            arguments.push(own.into_iter().chain(more.iter().map(|&more| more.to_owned())).collect::<Vec<_>>());
            server.set_arguments(&arguments[at].iter().map(String::as_str).collect::<Vec<_>>());
            server.set_env("MAINSTAY_DATABASE", Some(&database.url));
            server.restart().unwrap();
            server
        };
        let servers = (0..count).map(server).collect();
        Self { servers, arguments, cluster, database, seen: RefCell::default(), _keys: keys }
    }

    /// A client of one server with the credentials that another has written down.
    pub(crate) fn client_of(&self, credentials: usize, server: &Server) -> Client {
        let mut kubeconfig = Kubeconfig::read_from(self.servers[credentials].kubeconfig()).unwrap();
        for cluster in &mut kubeconfig.clusters {
            cluster.cluster.as_mut().unwrap().server = Some(server.url().unwrap());
        }
        let config = tokio::task::block_in_place(|| {
            let options = KubeConfigOptions::default();
            tokio::runtime::Handle::current().block_on(kube::Config::from_custom_kubeconfig(kubeconfig, &options))
        });
        mainstay_runtime::client::remote(&config.unwrap(), PATIENCE).unwrap()
    }

    /// Stops a server as its service would, and starts it with further arguments: another version.
    pub(crate) fn replace(&mut self, at: usize, more: &[&str]) {
        let own = self.arguments[at].iter().map(String::as_str);
        self.servers[at].stop().unwrap();
        self.servers[at].set_arguments(&own.chain(more.iter().copied()).collect::<Vec<_>>());
        self.servers[at].restart().unwrap();
    }

    /// A verb that uses the database itself.
    pub(crate) fn over_database(&self, arguments: &[&str]) -> Done {
        let mut command = self.servers[0].command(arguments);
        command.env("MAINSTAY_DATABASE", &self.database.url);
        finish(command, "")
    }

    pub(crate) fn sql(&self, query: &str) -> String {
        self.cluster.sql(&self.database.name, query).unwrap()
    }

    /// The newest term of a lease, and notes those of all.
    pub(crate) fn term(&self, lease: &str) -> u64 {
        let rows = self.sql("SELECT name, term FROM mainstay.leases");
        let mut seen = self.seen.borrow_mut();
        for row in rows.lines() {
            let (name, term) = row.split_once('|').unwrap();
            let (terms, term) = (seen.entry(name.to_owned()).or_default(), term.parse().unwrap());
            if terms.last() != Some(&term) {
                terms.push(term);
            }
        }
        seen.get(lease).and_then(|terms| terms.last().copied()).unwrap_or(0)
    }

    /// Waits for a later term.
    pub(crate) fn next_term(&self, lease: &str, before: u64) -> u64 {
        let begun = Instant::now();
        loop {
            let term = self.term(lease);
            if term != before {
                return term;
            }
            assert!(begun.elapsed() < PATIENCE, "{lease} stays in term {before}");
            wait();
        }
    }

    /// Of every lease each term that was seen is above the one before.
    pub(crate) fn terms_only_grew(&self) {
        self.term("");
        for (lease, terms) in self.seen.borrow().iter() {
            assert!(terms.is_sorted_by(|a, b| a < b), "{lease} had the terms {terms:?}");
        }
    }

    /// Which server leads: waits until one does.
    pub(crate) fn leader(&self, lease: &str) -> usize {
        let begun = Instant::now();
        loop {
            let holder = self.sql(&format!("SELECT holder FROM mainstay.leases WHERE name = '{lease}'"));
            let is_of = |server: &Server| {
                fs::read_to_string(server.data_dir().join("replica")).is_ok_and(|name| name.trim() == holder)
            };
            if let Some(at) = self.servers.iter().position(is_of) {
                return at;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody leads {lease}");
            wait();
        }
    }

    /// The leases that a server holds.
    pub(crate) fn held_by(&self, at: usize) -> Vec<String> {
        let name = fs::read_to_string(self.servers[at].data_dir().join("replica")).unwrap();
        let rows = self.sql(&format!("SELECT name FROM mainstay.leases WHERE holder = '{}'", name.trim()));
        rows.lines().map(str::to_owned).collect()
    }

    pub(crate) fn freeze(&self, at: usize) {
        signal(&self.servers[at], Signal::STOP);
    }

    pub(crate) fn thaw(&self, at: usize) {
        signal(&self.servers[at], Signal::CONT);
    }
}

impl Drop for Fleet {
    /// What is frozen could not be stopped.
    fn drop(&mut self) {
        for server in &self.servers {
            signal(server, Signal::CONT);
        }
    }
}

/// To a server that runs.
fn signal(server: &Server, signal: Signal) {
    if let Some(pid) = server.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        kill_process(pid, signal).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "between two looks at another process")]
fn wait() {
    std::thread::sleep(GLANCE);
}

/// Waits until something is so; `None` when it does not come.
pub(crate) async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) -> Option<()> {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.ok()
}

pub(crate) fn apply(server: &Server, manifest: &str) {
    finish(server.command(&["apply", "-f", "-"]), manifest).ok();
}

pub(crate) fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\n")
}

pub(crate) fn project(name: &str) -> String {
    format!("apiVersion: mainstay.dev/v1alpha1\nkind: Project\nmetadata: {{name: {name}}}\nspec: {{}}\n")
}

pub(crate) async fn has_config_map(client: &Client, name: &str) -> bool {
    Api::<ConfigMap>::namespaced(client.clone(), "default").get_opt(name).await.is_ok_and(|found| found.is_some())
}

pub(crate) async fn has_namespace(client: &Client, name: &str) -> bool {
    Api::<Namespace>::all(client.clone()).get_opt(name).await.is_ok_and(|found| found.is_some())
}
