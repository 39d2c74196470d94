//! A server that only serves the API and controls, and machines that join it.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use mainstay_testkit::server::{Server, processes_naming};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use tokio::time::Instant;

use crate::EXE;

/// Waits no longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A server, whose own node takes no Pods.
pub(crate) struct Stage {
    pub(crate) server: Server,
}

/// A machine of its own: a data directory, and the agent in it.
pub(crate) struct Machine {
    name: String,
    url: String,
    dir: tempfile::TempDir,
    child: Option<Child>,
    /// Further arguments.
    pub(crate) arguments: &'static [&'static str],
    /// Where its health is told.
    pub(crate) health: String,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let mut server = Server::idle(EXE).unwrap();
        server.set_arguments(&["--node-name", "home"]);
        server.restart().unwrap();
        let stage = Self { server };
        stage.until("nodes", "home", |node| ready(node) == Some(true));
        stage.run(&["apply", "-f", "-"], PROJECT);
        stage.until("projects", "web", |project| project["status"]["phase"] == "Active");
        stage.close("home", true);
        stage
    }

    /// Whether a node takes no new Pods.
    pub(crate) fn close(&self, node: &str, closed: bool) {
        let spec =
            format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\nspec: {{unschedulable: {closed}}}\n");
        self.run(&["apply", "-f", "-"], &spec);
    }

    /// Runs a command of the command line, with this as its input.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> String {
        let output = self.try_run(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "mainstay {arguments:?}: {said}\n{}", self.server.log_text());
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn try_run(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write as _;
        let mut command = self.server.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// An object; `None` when there is none.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let output = self.try_run(&["get", kind, name, "-n", "web", "-o", "json"], "");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Waits until an object is so.
    pub(crate) fn until(&self, kind: &str, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.get(kind, name);
            if let Some(found) = found.as_ref().filter(|found| holds(found)) {
                return found.clone();
            }
            assert!(Instant::now() < end, "{kind} {name}: {found:?}\n{}", self.server.log_text());
        }
    }

    /// Waits until an object is gone.
    pub(crate) fn gone(&self, kind: &str, name: &str) {
        let end = Instant::now() + PATIENCE;
        while let Some(found) = self.get(kind, name) {
            assert!(Instant::now() < end, "{kind} {name} is still there: {found}\n{}", self.server.log_text());
        }
    }

    /// Starts a session that runs a shell script; the node of its Pod.
    pub(crate) fn session(&self, name: &str, script: &str) -> String {
        let manifest = serde_json::json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "metadata": { "name": name, "namespace": "web" },
            "spec": { "command": ["/bin/sh", "-c", script], "workspace": { "size": "16Mi" } },
        });
        self.run(&["apply", "-f", "-"], &manifest.to_string());
        let running = self.until("sessions", name, |session| session["status"]["phase"] == "Running");
        running["status"]["node"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        self.run(&[&["node", "token"], arguments].concat(), "")
    }

    /// A machine that joins with a token of its own.
    pub(crate) fn machine(&self, name: &str) -> Machine {
        self.machine_of(name, &self.server.url().unwrap())
    }

    /// The same, told of these servers.
    pub(crate) fn machine_of(&self, name: &str, urls: &str) -> Machine {
        let token = self.token(&[]);
        let mut machine = Machine::new(name, urls);
        machine.start(Some(&token));
        self.until("nodes", name, |node| ready(node) == Some(true));
        machine
    }
}

/// The term of a node's agent, who has it, and when it renewed its lease.
pub(crate) fn lease(stage: &Stage, node: &str) -> (u64, String, String) {
    let lease = stage.run(&["get", "leases", node, "-n", "kube-node-lease", "-o", "json"], "");
    let lease: Value = serde_json::from_str(&lease).unwrap();
    let text = |name: &str| lease["spec"][name].as_str().unwrap_or_default().to_owned();
    (lease["spec"]["leaseTransitions"].as_u64().unwrap(), text("holderIdentity"), text("renewTime"))
}

/// The term of a node's agent, and who has it.
pub(crate) fn holder(stage: &Stage, node: &str) -> (u64, String) {
    let (term, holder, _) = lease(stage, node);
    (term, holder)
}

/// The log of a session, when this server can get it.
pub(crate) fn log(stage: &Stage, session: &str) -> Option<String> {
    let read = stage.try_run(&["logs", session, "-n", "web"], "");
    read.status.success().then(|| String::from_utf8(read.stdout).unwrap())
}

/// Whether a node is said to be ready.
pub(crate) fn ready(node: &Value) -> Option<bool> {
    let conditions = node["status"]["conditions"].as_array()?;
    Some(conditions.iter().find(|one| one["type"] == "Ready")?["status"] == "True")
}

pub(crate) const PROJECT: &str = "apiVersion: mainstay.dev/v1alpha1\nkind: Project\nmetadata: {name: web}\nspec: {}\n";

impl Machine {
    pub(crate) fn new(name: &str, url: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("mainstay-node-").tempdir().unwrap();
        Self { name: name.to_owned(), url: url.to_owned(), dir, child: None, arguments: &[], health: String::new() }
    }

    /// Another machine with a copy of this one's directory as it is now.
    pub(crate) fn copied(&self) -> Self {
        let copy = Self::new(&self.name, &self.url);
        let copied = Command::new("cp").arg("-a").arg(self.dir()).arg(copy.dir()).status().unwrap();
        assert!(copied.success());
        copy
    }

    /// Waits until its agent has said these words so many times.
    pub(crate) fn says(&self, words: &str, times: usize) {
        let end = Instant::now() + PATIENCE;
        while self.log_text().matches(words).count() < times {
            assert!(Instant::now() < end, "{words:?} is not said:\n{}", self.log_text());
        }
    }

    /// From its next start on it is told of no server.
    pub(crate) fn is_told_nothing(&mut self) {
        self.url.clear();
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Starts the agent; the token is given by a file.
    pub(crate) fn spawn(&mut self, token: Option<&str>) -> mpsc::Receiver<String> {
        assert!(self.child.is_none());
        let mut command = Command::new(EXE);
        command.args(["serve", "--role", "node", "--listen", "127.0.0.1:0"]).args(self.arguments);
        if !self.url.is_empty() {
            command.args(["--server", &self.url]);
        }
        command.args(["--node-name", &self.name, "--data-dir"]).arg(self.dir());
        if let Some(token) = token {
            let file = self.dir.path().join("token");
            std::fs::write(&file, token).unwrap();
            command.arg("--join-token-file").arg(file);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        // Shims inherit it, and are found by it.
        command.env("MAINSTAY_DATA_DIR", self.dir()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        self.child = Some(child);
        let (lines, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        said
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) fn start(&mut self, token: Option<&str>) {
        let said = self.spawn(token);
        loop {
            let line = said.recv_timeout(PATIENCE);
            assert!(line.is_ok(), "the agent did not become ready:\n{}", self.log_text());
            let line = line.unwrap();
            if let Some((_, url)) = line.split_once("health at ") {
                url.trim().clone_into(&mut self.health);
            }
            if line.starts_with("ready") {
                return;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Ends the agent by SIGKILL; its sandboxes go on.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the agent's end; its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "the agent did not end:\n{}", self.log_text());
            std::thread::yield_now();
        }
    }

    /// Processes of this machine: the agent, its shims and their supervisors.
    pub(crate) fn processes(&self) -> usize {
        processes_naming(&self.dir().display().to_string()).len()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal(Signal::CONT);
            self.kill();
        }
        for pid in processes_naming(&self.dir().display().to_string()) {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}
