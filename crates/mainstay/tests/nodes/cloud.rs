//! Processes of each role over one PostgreSQL.

use std::os::unix::fs::PermissionsExt as _;

use mainstay_testkit::postgres::{self, Database};
use mainstay_testkit::server::Server;
use rustix::process::{Pid, Signal, kill_process};

use crate::EXE;
use crate::stage::{PROJECT, Stage};

/// Servers of the API, and workers.
pub(crate) struct Cloud {
    pub(crate) api: Vec<Stage>,
    pub(crate) workers: Vec<Server>,
    database: Database,
    _keys: tempfile::TempDir,
}

impl Cloud {
    pub(crate) fn start(api: usize, workers: usize) -> Self {
        let database = postgres::shared().unwrap().database().unwrap();
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("key");
        std::fs::write(&key, rand::random::<[u8; 32]>()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let start = |role: &str| {
            let mut server = Server::idle(EXE).unwrap();
            server.set_arguments(&["--role", role, "--key-file", key.to_str().unwrap()]);
            server.set_env("MAINSTAY_DATABASE", Some(&database.url));
            server.restart().unwrap();
            server
        };
        let api: Vec<Stage> = (0..api).map(|_| Stage { server: start("api") }).collect();
        let workers = (0..workers).map(|_| start("worker")).collect();
        api[0].run(&["apply", "-f", "-"], PROJECT);
        for stage in &api {
            stage.until("projects", "web", |project| project["status"]["phase"] == "Active");
        }
        Self { api, workers, database, _keys: keys }
    }

    /// In which term the node controller is led, and until when it surely was, in the database's milliseconds.
    pub(crate) fn watched(&self) -> (u64, u64) {
        let query = "SELECT term, renewed FROM mainstay.leases WHERE name = 'node'";
        let row = postgres::shared().unwrap().sql(&self.database.name, query).unwrap();
        let (term, renewed) = row.trim().split_once('|').unwrap();
        (term.parse().unwrap(), renewed.parse().unwrap())
    }

    /// Where all servers of the API are, as a node is told.
    pub(crate) fn urls(&self) -> String {
        self.api.iter().map(|stage| stage.server.url().unwrap()).collect::<Vec<_>>().join(",")
    }
}

pub(crate) fn signal(server: &Server, signal: Signal) {
    let pid = server.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).unwrap();
    kill_process(pid, signal).unwrap();
}
