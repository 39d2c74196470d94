//! A project on a server of the test's own, and what can be seen of it. Nothing waits without a deadline.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use mainstay_api::session::Session;
use mainstay_runtime::Tasks;
use mainstay_testkit::crash::client::{Answer, Client, Objects};
use mainstay_testkit::server::{Server, processes_naming};
use serde_json::{Value, json};
use tokio::time::{Instant, interval, timeout};

/// Longest time for one step.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what cannot be watched.
const LOOK: Duration = Duration::from_millis(10);
/// The project that each test begins with.
pub(crate) const TEAM: &str = "team";

/// The path of the projects, or of one of them.
pub(crate) fn project_path(name: &str) -> String {
    format!("/apis/mainstay.dev/v1alpha1/projects/{name}").trim_end_matches('/').to_owned()
}

/// The path of something of our own kinds in the project `team`.
pub(crate) fn path(plural: &str, name: &str) -> String {
    format!("/apis/mainstay.dev/v1alpha1/namespaces/{TEAM}/{plural}/{name}").trim_end_matches('/').to_owned()
}

/// The path of something of a core kind in the project `team`.
pub(crate) fn core_path(plural: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{TEAM}/{plural}/{name}").trim_end_matches('/').to_owned()
}

/// See the module.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) kube: kube::Client,
    sessions: Objects<Session>,
    pods: Objects<Pod>,
    tasks: Tasks,
}

impl World {
    /// A fresh server with the project `team`.
    pub(crate) async fn new(project: Value) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make namespaces, mounts and cgroups: run them as root"
        );
        let server = Server::start(crate::EXE).unwrap();
        let (kube, tasks) = (server.client().await.unwrap(), Tasks::new());
        let client = Client::new(kube.clone());
        let (sessions, pods) = (client.objects(TEAM, &tasks), client.objects(TEAM, &tasks));
        let world = Self { server, client, kube, sessions, pods, tasks };
        world.project(TEAM, project).await;
        world
    }

    /// One more project, ready for use. Its sessions have small workspaces.
    pub(crate) async fn project(&self, name: &str, mut spec: Value) {
        spec["sessionDefaults"]["workspaceSize"] = json!("16Mi");
        self.create(&project_path(""), json!({ "metadata": { "name": name }, "spec": spec })).await;
        let ready =
            async || self.get(&project_path(name)).await.is_some_and(|found| found["status"]["phase"] == "Active");
        self.until(format!("project {name} Active"), ready).await;
    }

    /// Waits until this holds.
    pub(crate) async fn until(&self, what: impl Debug, holds: impl AsyncFn() -> bool) {
        let mut looks = interval(LOOK);
        let seen = timeout(PATIENCE, async {
            while !holds().await {
                looks.tick().await;
            }
        });
        assert!(seen.await.is_ok(), "{what:?} did not come in {PATIENCE:?}:\n{}", self.last_words());
    }

    /// What the server said at last.
    fn last_words(&self) -> String {
        let text = self.server.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        let answer = self.client.call("POST", path, &object).await.unwrap();
        answer.json().unwrap_or_else(|error| panic!("POST {path}: {error}: {object}"))
    }

    /// An object, if it is there.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        match self.client.get(path).await.unwrap() {
            Answer::Refused(404, _) => None,
            other => Some(other.json().unwrap()),
        }
    }

    pub(crate) async fn patch(&self, path: &str, change: &Value) -> Value {
        let answer = self.client.call("PATCH", path, change).await.unwrap();
        answer.json().unwrap_or_else(|error| panic!("PATCH {path}: {error}: {change}"))
    }

    /// The code and message with which a call is refused.
    pub(crate) async fn refused(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        match self.client.call(method, path, body).await.unwrap() {
            Answer::Refused(code, message) => (code, message),
            done @ Answer::Done(_) => panic!("{method} {path} {body} was not refused: {done:?}"),
        }
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.client.delete(path).await.unwrap();
    }

    /// Deletes something and waits until it is gone.
    pub(crate) async fn remove(&self, path: &str) {
        self.delete(path).await;
        self.until(format!("{path} gone"), async || self.get(path).await.is_none()).await;
    }

    /// Creates a session that runs a shell script.
    pub(crate) async fn script(&self, name: &str, script: &str, mut spec: Value) {
        spec["command"] = json!(["/bin/sh", "-c", script]);
        spec["env"] = json!([{ "name": "MARK", "value": self.mark(name) }]);
        self.session(name, spec).await;
    }

    /// Creates a session.
    pub(crate) async fn session(&self, name: &str, spec: Value) {
        self.create(&path("sessions", ""), json!({ "metadata": { "name": name }, "spec": spec })).await;
    }

    /// Changes a session's spec.
    pub(crate) async fn change(&self, name: &str, spec: Value) {
        self.patch(&path("sessions", name), &json!({ "spec": spec })).await;
    }

    /// The status of a session as soon as it is as it should be, by the watch.
    pub(crate) async fn seen(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let status_of = |session: &Session| serde_json::to_value(&session.status).unwrap();
        let mut sessions = self.sessions.clone();
        let found = sessions.wait_for(|all| all.get(name).is_some_and(|session| holds(&status_of(session))));
        if let Ok(found) = timeout(PATIENCE, found).await {
            return status_of(&found.unwrap()[name]);
        }
        let now = self.sessions.borrow().get(name).map(status_of).unwrap_or_default();
        panic!("session {name} was to be {what} in {PATIENCE:?}: {now:#}\n{}", self.last_words());
    }

    /// The status of a session as soon as a run is in this phase.
    pub(crate) async fn phase(&self, name: &str, run: u64, phase: &str) -> Value {
        let over = |word: &Value| ["Completed", "Failed", "Stopped"].contains(&word.as_str().unwrap_or_default());
        let holds = |status: &Value| status["run"] == run && (status["phase"] == phase || over(&status["phase"]));
        let status = self.seen(name, phase, holds).await;
        assert_eq!(status["phase"], phase, "session {name}, run {run}: {status:#}");
        status
    }

    /// The status of a session whose first run is in this phase.
    pub(crate) async fn first(&self, name: &str, phase: &str) -> Value {
        self.phase(name, 1, phase).await
    }

    /// The Pod of a run as soon as it is as it should be, by the watch.
    pub(crate) async fn pod(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        let mut pods = self.pods.clone();
        let found = timeout(PATIENCE, pods.wait_for(|all| all.get(name).is_some_and(&holds))).await;
        if let Ok(found) = found {
            return found.unwrap()[name].clone();
        }
        panic!("Pod {name} was to be {what}: {:?}\n{}", self.pods.borrow().get(name), self.last_words());
    }

    /// All messages of a session, and gaps.
    pub(crate) async fn messages(&self, name: &str, query: &str) -> Vec<Value> {
        let body =
            self.client.get(&format!("{}?{query}", path("sessions", &format!("{name}/messages")))).await.unwrap();
        body.done().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The texts of a type of message in a run.
    pub(crate) async fn texts(&self, name: &str, kind: &str, run: u64) -> Vec<String> {
        let of = |message: &Value| message["type"] == kind && (kind == "user" || message["run"] == run);
        let all = self.messages(name, "").await;
        all.iter()
            .filter(|message| of(message))
            .map(|message| message["text"].as_str().unwrap_or("").to_owned())
            .collect()
    }

    /// Follows a session's messages until one is as it should be, and returns that.
    pub(crate) async fn heard(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let follow = format!("{}?follow=true", path("sessions", &format!("{name}/messages")));
        let request = http::Request::get(follow).body(Vec::new()).unwrap();
        let mut lines = self.kube.request_stream(request).await.unwrap().lines();
        let mut heard = Vec::new();
        let found = timeout(PATIENCE, async {
            while let Some(line) = lines.next().await {
                let line = line.unwrap();
                if line.is_empty() {
                    continue;
                }
                let message: Value = serde_json::from_str(&line).unwrap();
                if holds(&message) {
                    return Some(message);
                }
                heard.push(line);
            }
            None
        });
        match found.await.ok().flatten() {
            Some(message) => message,
            None => panic!("session {name} was to say {what}; it said:\n{}\n{}", heard.join("\n"), self.last_words()),
        }
    }

    /// Waits until the agent has said this.
    pub(crate) async fn said(&self, name: &str, run: u64, text: &str) {
        self.heard(name, text, |one| one["type"] != "user" && one["run"] == run && one["text"] == text).await;
    }

    /// Sends a user message; its number.
    pub(crate) async fn send(&self, name: &str, id: &str, text: &str) -> u64 {
        let body = json!({ "messages": [{ "id": id, "type": "user", "text": text }] });
        let answer = self.create(&path("sessions", &format!("{name}/messages")), body).await;
        answer["messages"][0]["number"].as_u64().unwrap()
    }

    /// The log of a run's Pod.
    pub(crate) async fn log(&self, name: &str, run: u64) -> String {
        self.client.get(&core_path("pods", &format!("{name}-{run}/log"))).await.unwrap().done().unwrap()
    }

    /// What every process of a session's agent has in its environment.
    fn mark(&self, name: &str) -> String {
        format!("{}/mark-{name}.", self.server.scratch().display())
    }

    /// The processes of a session's agent on this host.
    pub(crate) fn agents(&self, name: &str) -> Vec<u32> {
        processes_naming(&self.mark(name))
    }

    /// Waits until no process of a session's agent is there.
    pub(crate) async fn quiet(&self, name: &str) {
        self.until(format!("the end of the agent of {name}"), async || self.agents(name).is_empty()).await;
    }

    /// The directory of a Pod's run on this host.
    pub(crate) async fn run_dir(&self, pod: &str) -> PathBuf {
        let pod = self.get(&core_path("pods", pod)).await.unwrap();
        self.server.data_dir().join("node/run").join(pod["metadata"]["uid"].as_str().unwrap())
    }

    /// Ends the server by SIGKILL.
    pub(crate) fn kill(&mut self) {
        tokio::task::block_in_place(|| self.server.kill9()).unwrap();
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        tokio::task::block_in_place(|| self.server.restart()).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Something came this long after its beginning, within a second of when it was due.
#[track_caller]
pub(crate) fn on_time(what: &str, since: Instant, due: f64) {
    let spent = since.elapsed();
    let late = spent.as_secs_f64() - due;
    assert!(late.abs() < 1.0, "{what} was due after {due} s and came after {spent:?}");
}
