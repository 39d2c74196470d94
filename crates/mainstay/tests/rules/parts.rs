//! What a session is put together from: prompts, agent, model, credentials, files; and what happens when one is missing.

use super::*;
use serde_json::{Value, json};
use world::{TEAM, World, core_path, path};

/// Prints what it was given: the first message up to the end of input, and the model.
const SHOWS: &str = "cat; echo \"model $MAINSTAY_MODEL\"";

async fn agent(world: &World, name: &str, spec: Value) {
    world.create(&path("agents", ""), json!({ "metadata": { "name": name }, "spec": spec })).await;
}

/// The prompts of project, agent and session are user message 1, joined by blank lines; a session without an agent takes
/// its project's default; the model reaches the agent.
#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_joined_and_the_default_agent_is_taken() {
    let world = World::new(json!({ "prompt": "be kind\n", "defaultAgent": "shows" })).await;
    let spec = json!({ "prompt": " be quick", "command": ["/bin/sh"], "args": ["-c", SHOWS], "model": "m-1" });
    agent(&world, "shows", spec).await;
    world.session("s", json!({ "prompt": "mend it", "stopOnFinish": true })).await;
    world.first("s", "Completed").await;
    let first = &world.messages("s", "limit=1").await[0];
    let joined = "be kind\n\nbe quick\n\nmend it";
    assert_eq!((&first["number"], &first["type"], &first["text"]), (&json!(1), &json!("user"), &json!(joined)));
    let said = world.texts("s", "agent", 1).await;
    assert_eq!(said.join("\n"), format!("{joined}\nmodel m-1"), "{said:?}");
    assert_eq!(world.get(&path("sessions", "s")).await.unwrap()["spec"]["agent"], "shows");
    // Its own command, and no prompt of its own: the project's is all there is.
    world.session("own", json!({ "command": ["/bin/sh", "-c", SHOWS], "stopOnFinish": true })).await;
    world.first("own", "Completed").await;
    assert_eq!(world.texts("own", "agent", 1).await, ["be kind", "model "]);
}

/// R50: a session with nothing to run is refused by field, and a name that the platform uses cannot be taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_neither_agent_nor_command_is_refused() {
    let world = World::new(json!({})).await;
    let body = |spec: Value| json!({ "metadata": { "name": "s" }, "spec": spec });
    let sessions = path("sessions", "");
    let (code, why) = world.refused("POST", &sessions, &body(json!({ "prompt": "go" }))).await;
    assert_eq!(code, 422, "{why}");
    assert!(why.contains("spec.agent: Required value: name an agent or a command") && why.contains(TEAM), "{why}");
    let taken = json!({ "command": ["true"], "env": [{ "name": "MAINSTAY_MODEL", "value": "x" }] });
    let (code, why) = world.refused("POST", &sessions, &body(taken)).await;
    assert!(code == 422 && why.contains("spec.env[0].name"), "{code} {why}");
    assert!(world.get(&path("sessions", "s")).await.is_none());
}

/// R17, R18, R20, R32: what a session names and is not there fails it by name before anything runs; once it is there,
/// a new run goes well and gets the prompt.
#[tokio::test(flavor = "multi_thread")]
async fn r18_what_is_missing_fails_the_session_by_name() {
    let world = World::new(json!({})).await;
    agent(&world, "needy", json!({ "command": ["/bin/sh", "-c", "true"], "credentials": [{ "name": "vault" }] })).await;
    let command = json!(["/bin/sh", "-c", "cat; cat /mainstay/files/notes /mainstay/credentials/git/token"]);
    let spec = json!({ "command": command, "prompt": "hello", "stopOnFinish": true,
                       "credentials": [{ "name": "git" }], "workspace": { "files": "inputs" } });
    world.session("agentless", json!({ "agent": "nobody" })).await;
    world.session("standing", json!({ "agent": "needy" })).await;
    world.session("s", spec).await;
    let failed = async |name: &str, run: u64, reason: &str, missing: &str| {
        let status = world.phase(name, run, "Failed").await;
        assert_eq!((&status["stoppedReason"], &status["attempts"]), (&json!(reason), &json!(0)), "{status:#}");
        let conditions = status["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|one| one["type"] == "Ready").unwrap();
        let message = ready["message"].as_str().unwrap();
        assert!(ready["reason"] == reason && message.contains(missing), "{status:#}");
        assert!(world.get(&core_path("pods", &format!("{name}-{run}"))).await.is_none(), "{name} has a Pod");
    };
    failed("agentless", 1, "AgentNotFound", "Agent \"nobody\"").await;
    failed("standing", 1, "CredentialNotFound", "Credential \"vault\"").await;
    failed("s", 1, "CredentialNotFound", "Credential \"git\"").await;
    let credential = json!({ "metadata": { "name": "git" }, "spec": { "provider": "github", "token": "t-1\n" } });
    world.create(&path("credentials", ""), credential).await;
    world.change("s", json!({ "run": 2 })).await;
    failed("s", 2, "ConfigMapNotFound", "ConfigMap \"inputs\"").await;
    let files = json!({ "metadata": { "name": "inputs" }, "data": { "notes": "noted\n" } });
    world.create(&core_path("configmaps", ""), files).await;
    world.change("s", json!({ "run": 3 })).await;
    let done = world.phase("s", 3, "Completed").await;
    assert_eq!(done["attempts"], 1, "{done:#}");
    assert_eq!(world.texts("s", "agent", 3).await, ["hello", "noted", "t-1"]);
}
