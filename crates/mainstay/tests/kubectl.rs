//! kubectl 1.37 against a real server: what it prints and how it ends, on our kinds and on Pods.
//!
//! `scripts/prepare` installs kubectl into `target/tools`. Each test has a server, a HOME and a cache of its own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "kubectl/apply.rs"]
mod apply;
#[path = "kubectl/change.rs"]
mod change;
#[path = "kubectl/exec.rs"]
mod exec;
#[path = "kubectl/get.rs"]
mod get;
#[path = "kubectl/operations.rs"]
mod operations;
#[path = "kubectl/pods.rs"]
mod pods;
#[path = "kubectl/questions.rs"]
mod questions;
#[path = "kubectl/refused.rs"]
mod refused;
#[path = "kubectl/remove.rs"]
mod remove;
#[path = "kubectl/run.rs"]
mod run;

use run::Kubectl;
use serde_json::Value;

/// Two projects; `web` has a member.
const PROJECTS: &str = "\
apiVersion: mainstay.dev/v1alpha1
kind: Project
metadata: {name: web, labels: {team: a}}
spec: {displayName: Web}
---
apiVersion: mainstay.dev/v1alpha1
kind: Project
metadata: {name: shop, labels: {team: b}}
spec: {displayName: Shop, members: [{kind: User, name: ann, role: viewer}]}
";

/// An agent that answers each line that it is sent.
const ECHO: &str = "echo hello; while read line; do echo got $line; done";

/// A session that runs this shell script.
fn session(namespace: &str, name: &str, script: &str) -> String {
    let command = Value::from(vec!["/bin/sh", "-c", script]);
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Session\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec: {{command: {command}, prompt: first}}\n---\n"
    )
}

fn config(name: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\ndata: {{a: \"{data}\"}}\n---\n"
    )
}

/// A text with one blank wherever it has several: how far kubectl indents is its own affair.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
