//! A project with a member of each role, who are service accounts and so can be given tokens.

use std::time::Duration;

use tokio::time::Instant;

use mainstay_testkit::server::Server;
use serde_json::{Value, json};

use super::wire::{Answer, Wire};

/// The path of the projects.
pub(crate) const PROJECTS: &str = "/apis/mainstay.dev/v1alpha1/projects";
/// Longest time for what a controller does.
const PATIENCE: Duration = Duration::from_secs(25);

/// The path of a collection of the project `team`.
pub(crate) fn path(plural: &str) -> String {
    let group = match plural.split('/').next().unwrap() {
        "agents" | "credentials" | "sessions" => "/apis/mainstay.dev/v1alpha1",
        "roles" | "rolebindings" => "/apis/rbac.authorization.k8s.io/v1",
        "leases" => "/apis/coordination.k8s.io/v1",
        _ => "/api/v1",
    };
    format!("{group}/namespaces/team/{plural}")
}

/// See the module.
pub(crate) struct Team {
    pub(crate) server: Server,
    pub(crate) wire: Wire,
}

impl Team {
    /// The members are called as their roles; `stranger` is an account in the project's namespace, but no member.
    pub(crate) fn new() -> Self {
        let server = Server::start(super::EXE).unwrap();
        let wire = Wire::of(&server);
        let roles = ["viewer", "editor", "owner"];
        let members = roles.map(|role| json!({"kind": "ServiceAccount", "name": role, "role": role}));
        let project = json!({"metadata": {"name": "team"}, "spec": {"members": members}});
        wire.json("POST", PROJECTS, &project).expect(201);
        wire.until(&format!("{PROJECTS}/team"), |project| project["status"]["phase"] == "Active");
        for name in roles.into_iter().chain(["stranger"]) {
            wire.json("POST", &path("serviceaccounts"), &json!({"metadata": {"name": name}})).expect(201);
        }
        for (plural, body) in [
            ("secrets", json!({"metadata": {"name": "s"}, "stringData": {"k": "hush"}})),
            ("configmaps", json!({"metadata": {"name": "c"}})),
            ("agents", json!({"metadata": {"name": "a"}, "spec": {"command": ["/bin/cat"]}})),
            ("credentials", json!({"metadata": {"name": "c"}, "spec": {"provider": "x", "token": "hush"}})),
            ("sessions", json!({"metadata": {"name": "s"}, "spec": {"agent": "a"}})),
        ] {
            wire.json("POST", &path(plural), &body).expect(201);
        }
        wire.until(&path("sessions/s"), |session| session["status"]["phase"] == "Running");
        Self { server, wire }
    }

    /// A token of a service account of the project.
    pub(crate) fn token(&self, name: &str) -> String {
        self.token_of("team", name)
    }

    /// A token of any service account.
    pub(crate) fn token_of(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let answer = self.wire.json("POST", &path, &json!({})).expect(201);
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// A request with a token; a patch is a merge patch.
    pub(crate) fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            "GET" | "DELETE" => "",
            _ => "application/json",
        };
        let body = if media.is_empty() { String::new() } else { body.to_string() };
        self.wire.call_as(token, method, path, media, body)
    }

    /// Asks until the answer is this: a controller has something to do first.
    #[track_caller]
    pub(crate) fn until_status(&self, token: &str, path: &str, status: u16) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.wire.call_as(token, "GET", path, "", "");
            if found.status == status {
                return;
            }
            assert!(Instant::now() < deadline, "{path} stays {}: {}", found.status, found.text());
            std::thread::yield_now();
        }
    }
}
