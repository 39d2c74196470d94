//! How a server begins and ends: real processes, and a PostgreSQL that is stopped and frozen.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "life/begin.rs"]
mod begin;
#[path = "life/end.rs"]
mod end;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use kube::config::Kubeconfig;
use mainstay_testkit::postgres::{Cluster, Settings};
use mainstay_testkit::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::time::Instant;

const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
/// Waits no longer than this for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server over a PostgreSQL of its own.
struct Stage {
    cluster: Cluster,
    server: Server,
    /// The database's.
    password: String,
    keys: tempfile::TempDir,
}

impl Stage {
    /// Both, ready.
    fn new(arguments: &[&str]) -> Self {
        let cluster = Cluster::start(Settings { fsync: false, tls: false }).unwrap();
        let url = cluster.database().unwrap().url;
        let (_, rest) = url.split_once("://").unwrap();
        let (_, password) = rest.split_once('@').unwrap().0.split_once(':').unwrap();
        let (password, keys) = (password.to_owned(), tempfile::tempdir().unwrap());
        let key = keys.path().join("key");
        fs::write(&key, rand::random::<[u8; 32]>()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mut server = Server::idle(EXE).unwrap();
        server.set_env("MAINSTAY_DATABASE", Some(&url));
        server.set_env("MAINSTAY_KEY_FILE", Some(key.to_str().unwrap()));
        server.set_arguments(arguments);
        server.restart().unwrap();
        Self { cluster, server, password, keys }
    }
}

/// What was answered; the code is 0 when nothing was.
#[derive(Debug)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A call of a server, by whoever does not verify it.
fn call(server: &Server, token: &str, path: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sk", "-m", "60", "-H", &format!("Authorization: Bearer {token}")]);
    command.arg(format!("https://{}{path}", server.address())).stdin(Stdio::null());
    command
}

/// What is answered to a call, with these arguments of curl's.
fn ask(server: &Server, token: &str, path: &str, more: &[&str]) -> Answer {
    let output =
        call(server, token, path).args(["-D", "/dev/stderr", "-w", "\n%{http_code}"]).args(more).output().unwrap();
    let (head, text) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    let (body, code) = text.rsplit_once('\n').unwrap();
    Answer { code: code.parse().unwrap(), head: head.to_lowercase(), body: body.to_owned() }
}

/// The same, without a token.
fn probe(server: &Server, path: &str) -> Answer {
    ask(server, "", path, &[])
}

/// The admin's.
fn token(server: &Server) -> String {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let user = kubeconfig.auth_infos[0].auth_info.clone().unwrap();
    user.token.unwrap().expose_secret().to_owned()
}

/// How many requests the server is about to answer, this one among them.
fn in_flight(server: &Server, token: &str) -> u32 {
    let metrics = ask(server, token, "/metrics", &[]);
    let found = metrics.body.lines().find_map(|line| line.strip_prefix("mainstay_requests_in_flight "));
    found.unwrap_or_else(|| panic!("{metrics:?}")).parse().unwrap()
}

fn terminate(server: &Server) -> Instant {
    let pid = Pid::from_raw(server.pid().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    Instant::now()
}

#[track_caller]
fn until(mut holds: impl FnMut() -> bool, server: &Server) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it does not come:\n{}", server.log_text());
    }
}
