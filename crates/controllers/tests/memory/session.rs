//! The session reconciler against an API in memory that refuses it.

use std::time::Duration;

use crate::support::FakeApi;
use mainstay_controllers::driver::Surroundings;
use mainstay_controllers::{FencingToken, session};
use mainstay_runtime::{Clock, Tasks};
use serde_json::{Value, json};

const SESSION: &str = "/apis/mainstay.dev/v1alpha1/namespaces/demo/sessions/fix";

/// A session in Pending, with a controller, on an API that answers posts of messages with this status.
fn start(refusal: u16) -> (FakeApi, Tasks) {
    let api = FakeApi::new();
    let spec = json!({ "prompt": "fix it", "command": ["true"] });
    let status = json!({ "phase": "Pending", "run": 1, "attempts": 0 });
    let metadata = json!({ "finalizers": ["mainstay.dev/session"] });
    let session = json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "metadata": metadata, "spec": spec,
                          "status": status });
    api.add(SESSION, session);
    api.add(&format!("{SESSION}/heartbeat"), json!({ "metadata": {}, "run": 0 }));
    api.set_fault(move |_, path| path.ends_with("/messages").then_some(refusal));
    let (tasks, clock) = (Tasks::new(), Clock::virtual_from("2026-01-01T00:00:00Z".parse().unwrap()));
    let surroundings = Surroundings { tasks: tasks.clone(), clock: clock.clone(), fence: FencingToken(1) };
    session::driver(api.client(), &clock).start(&surroundings);
    (api, tasks)
}

/// The session's status once it is so.
async fn until(api: &FakeApi, is: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let status = api.object(SESSION).unwrap()["status"].take();
            if is(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_hours(1), waiting).await.expect("in time")
}

/// R20: a prompt that the API will never have fails the run, as a Pod that it will never have does.
#[tokio::test(start_paused = true)]
async fn r20_a_prompt_that_is_refused_for_good_fails_the_run() {
    for (refusal, reason) in [(413, "TooLarge"), (422, "Invalid"), (403, "Forbidden")] {
        let (api, _tasks) = start(refusal);
        let failed = until(&api, |status| status["phase"] != "Pending").await;
        assert_eq!((&failed["phase"], &failed["stoppedReason"]), (&json!("Failed"), &json!(reason)), "{failed:#}");
        let conditions = failed["conditions"].as_array().unwrap();
        let finished = conditions.iter().find(|one| one["type"] == "Finished").unwrap();
        let message = finished["message"].as_str().unwrap();
        assert!(message.starts_with("send the session's prompt: as the test asked"), "{message}");
        let pods = api.requests().iter().filter(|line| line.starts_with("POST /api/v1/namespaces/demo/pods")).count();
        assert_eq!(pods, 0, "nothing is started without its prompt");
    }
}

/// R18: one that cannot be sent now is sent again.
#[tokio::test(start_paused = true)]
async fn a_prompt_that_cannot_be_sent_now_waits() {
    for refusal in [429, 503, 507] {
        let (api, _tasks) = start(refusal);
        let told = |status: &Value| status["conditions"].as_array().is_some_and(|all| !all.is_empty());
        let waiting = until(&api, told).await;
        assert_eq!((&waiting["phase"], &waiting["conditions"][0]["reason"]), (&json!("Pending"), &json!("Transient")));
        api.set_fault(|_, path| path.ends_with("/messages").then_some(200));
        until(&api, |status| status["phase"] == "Creating").await;
    }
}
