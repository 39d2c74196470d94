//! What makes no sense, over the real socket: no crash, no hang, no half write, and an answer that says what is wrong.
//!
//! Each test has a server of its own; at its end the server is ready, holds what it held, has panicked nowhere and has
//! not grown.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "bad_input/bodies.rs"]
mod bodies;
#[path = "bad_input/frames.rs"]
mod frames;
#[path = "bad_input/manifests.rs"]
mod manifests;
#[path = "bad_input/patches.rs"]
mod patches;
#[path = "bad_input/sockets.rs"]
mod sockets;
#[path = "bad_input/streams.rs"]
mod streams;
#[path = "bad_input/tokens.rs"]
mod tokens;
#[path = "bad_input/urls.rs"]
mod urls;
#[path = "bad_input/wire.rs"]
mod wire;

use mainstay_testkit::server::Server;
use serde_json::{Value, json};
use wire::{Answer, Wire};

/// Collections in which nothing may change behind our back.
const COLLECTIONS: [&str; 16] = [
    "/apis/mainstay.dev/v1alpha1/projects",
    "/apis/mainstay.dev/v1alpha1/agents",
    "/apis/mainstay.dev/v1alpha1/credentials",
    "/apis/mainstay.dev/v1alpha1/sessions",
    "/api/v1/namespaces",
    "/api/v1/pods",
    "/api/v1/secrets",
    "/api/v1/configmaps",
    "/api/v1/serviceaccounts",
    "/api/v1/events",
    "/api/v1/resourcequotas",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/coordination.k8s.io/v1/leases",
];

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const SESSIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/sessions";
const CREDENTIALS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/credentials";

/// A server, and what it held before it was bothered.
struct Bothered {
    server: Server,
    wire: Wire,
    before: Vec<Value>,
}

impl Bothered {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With these objects (path of the collection, body) in it.
    fn with(objects: &[(&str, Value)]) -> Self {
        Self::of(Server::start(env!("CARGO_BIN_EXE_mainstay")).unwrap(), objects)
    }

    fn of(server: Server, objects: &[(&str, Value)]) -> Self {
        let wire = Wire::of(&server);
        for (path, object) in objects {
            wire.json("POST", path, object).expect(201);
        }
        let before = state(&wire);
        Self { server, wire, before }
    }

    /// With a session whose agent runs and does nothing; it is all that may change by itself.
    fn with_session() -> Self {
        Self::with_session_on(Server::start(env!("CARGO_BIN_EXE_mainstay")).unwrap())
    }

    fn with_session_on(server: Server) -> Self {
        let mut bothered = Self::of(server, &[(SESSIONS, session("s"))]);
        bothered.wire.until(&format!("{SESSIONS}/s"), |session| session["status"]["phase"] == "Running");
        bothered.before = state(&bothered.wire);
        bothered
    }

    /// The server is as well as before.
    #[track_caller]
    fn stays_well(self) {
        let ready = self.wire.call_as("", "GET", "/readyz", "", "");
        assert_eq!(ready.status, 200, "{}", ready.text());
        for ((before, after), path) in self.before.iter().zip(state(&self.wire)).zip(COLLECTIONS) {
            assert_eq!(*before, after, "{path}");
        }
        self.has_not_suffered();
    }

    /// As [`Self::stays_well`] of a server that was given something to keep.
    #[track_caller]
    fn has_not_suffered(self) {
        assert_eq!(self.wire.call_as("", "GET", "/readyz", "", "").status, 200);
        let log = self.server.log_text();
        assert!(!log.contains("panicked"), "{log}");
        let peak = self.peak();
        assert!(peak < 400 << 10, "the server has taken {peak} KiB at its peak");
    }

    /// The most memory that the server has had, in KiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.pid().unwrap())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// The objects of all collections; of those that the server itself writes now and then, only what people wrote.
fn state(wire: &Wire) -> Vec<Value> {
    let of = |path: &&str| {
        let mut items = wire.get(path)["items"].take();
        for item in items.as_array_mut().unwrap() {
            if let Some(object) = item.as_object_mut() {
                object.remove("status");
            }
            item["metadata"]["resourceVersion"].take();
            // Nodes renew their leases.
            if let Some(spec) = item["spec"].as_object_mut() {
                spec.remove("renewTime");
            }
            // Ordered when half of a token's life is over, or once for a Pod that is as old as the server.
            if let Some(annotations) = item["metadata"]["annotations"].as_object_mut() {
                annotations.remove("mainstay.dev/token-renewal");
            }
        }
        // Events come when they come.
        if path.ends_with("/events") { Value::Null } else { items }
    };
    COLLECTIONS.iter().map(of).collect()
}

fn session(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"command": ["/bin/cat"]}})
}

fn configmap(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}
