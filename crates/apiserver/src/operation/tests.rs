use std::sync::Arc;

use mainstay_api::names::OPERATION_FINALIZER;
use mainstay_store::operation::{Ending, Note, Row, Standing, State, StepRow, StepState};
use mainstay_store::{Key, Meta, Object, Revision, Write};
use serde_json::{Value, json};

use super::outcome::outcome;
use super::shown::status_of;
use super::{order, queued};

fn row(state: State) -> Row {
    Row {
        state,
        attempt: 0,
        failures: 0,
        lost: 0,
        started_ms: 0,
        run_at_ms: 0,
        cancelled: false,
        undoing: None,
        history: Vec::new(),
    }
}

fn note(attempt: u64) -> Note {
    let (reason, message) = ("Transient".to_owned(), "the backend is away".to_owned());
    Note { attempt, started_ms: 1_000, ended_ms: 2_500, reason, message }
}

fn shown(row: Row) -> Value {
    status_of(&Standing { row, steps: Vec::new() })
}

fn operation() -> Value {
    json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Operation",
        "metadata": {
            "name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": [OPERATION_FINALIZER],
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "1" },
                { "apiVersion": "mainstay.dev/v1alpha1", "kind": "Project", "name": "p", "uid": "2", "controller": true },
            ],
        },
        "spec": {
            "handler": "h", "payload": { "x": null }, "priority": -3, "runAt": "2026-01-01T00:00:01.5Z", "project": "p",
            "concurrencyKey": "k", "maxAttempts": 7, "timeoutSeconds": 30, "cancelled": true, "replays": 2,
        },
        "status": { "phase": "Pending", "attempts": 0, "failures": 0 },
    })
}

fn stored(value: &Value) -> Object {
    Object {
        key: Key::new("mainstay.dev/operations", "n", "a"),
        revision: Revision(7),
        meta: Arc::new(Meta::default()),
        body: value.to_string().into(),
    }
}

fn finished(write: &Write) -> Value {
    serde_json::from_slice(&write.draft().finish(Revision(8))).unwrap()
}

#[test]
fn the_row_is_told_what_the_object_says() {
    let told = queued(&operation());
    assert_eq!((&*told.lane, &*told.handler, told.priority), ("p", "h", -3));
    assert_eq!((told.run_at_ms - told.created_ms, told.concurrency_key.as_deref()), (1_500, Some("k")));
    assert!(told.cancelled && told.replays == 2);
    let mut plain = operation();
    for field in ["project", "runAt", "concurrencyKey", "priority", "cancelled", "replays"] {
        plain["spec"].as_object_mut().unwrap().remove(field);
    }
    let told = queued(&plain);
    assert_eq!((&*told.lane, told.run_at_ms, told.concurrency_key), ("n", 0, None));
}

#[test]
fn an_order_is_for_the_controller() {
    let order = order(&stored(&operation())).unwrap();
    assert_eq!((order.max_attempts, order.timeout.as_secs()), (7, 30));
    let work = order.work;
    assert_eq!((&*work.id, &*work.namespace, &*work.name, &*work.handler), ("u", "n", "a", "h"));
    assert_eq!(work.owner.map(|owner| owner.kind.to_string()).as_deref(), Some("Project"));
    assert_eq!(work.payload, json!({ "x": null }));
    assert!(super::order(&stored(&json!({ "metadata": {} }))).is_err());
}

#[test]
fn readers_see_what_the_row_is_at() {
    assert_eq!(shown(row(State::Ready)), json!({ "phase": "Pending", "attempts": 0, "failures": 0 }));
    let running = shown(Row { attempt: 3, started_ms: 1_000, ..row(State::Running) });
    assert_eq!((&running["phase"], &running["attempts"]), (&json!("Running"), &json!(3)));
    assert_eq!(running["startedAt"], "1970-01-01T00:00:01.000000Z");
    let phase_and_reason = |row: Row| {
        let status = shown(row);
        format!("{} {}", status["phase"].as_str().unwrap(), status["reason"].as_str().unwrap_or("-"))
    };
    let failed = || Row { attempt: 2, history: vec![note(1), note(2)], run_at_ms: 9_000, ..row(State::Delayed) };
    for (row, expected) in [
        (row(State::Delayed), "Waiting NotDue"),
        (Row { attempt: 1, ..row(State::Delayed) }, "Waiting NotYet"),
        (failed(), "Waiting Retrying"),
        (Row { attempt: 3, ..failed() }, "Waiting NotYet"),
        (Row { state: State::Ready, ..failed() }, "Pending Retrying"),
        (Row { state: State::Running, ..failed() }, "Running -"),
        (row(State::Blocked), "Waiting Blocked"),
        (Row { cancelled: true, attempt: 1, ..row(State::Running) }, "Running Cancelling"),
        (Row { undoing: Some(note(1)), attempt: 2, ..row(State::Running) }, "Running Undoing"),
    ] {
        assert_eq!(phase_and_reason(row.clone()), expected, "{row:?}");
    }
    let status = shown(failed());
    assert_eq!(status["nextAttemptAt"], "1970-01-01T00:00:09.000000Z");
    assert_eq!(status["history"][1]["finishedAt"], "1970-01-01T00:00:02.500000Z");
    assert_eq!(status["message"], "attempt 2 failed: Transient: the backend is away");
}

#[test]
fn an_outcome_keeps_the_ledger() {
    let steps = vec![StepRow { step: "make".into(), state: StepState::Done, attempt: 1, output: "5".into() }];
    let standing =
        Standing { row: Row { attempt: 2, failures: 1, history: vec![note(1)], ..row(State::Running) }, steps };
    let ending = Ending {
        state: State::Succeeded,
        reason: "Succeeded".into(),
        message: String::new(),
        output: json!({ "id": 5 }),
        standing,
        at_ms: 3_000,
    };
    let write = outcome(&stored(&operation()), &ending).unwrap();
    assert!(matches!(write, Write::Update { expected: Revision(7), .. }) && write.draft().queued.is_none());
    assert!(write.draft().meta.fields.contains(&("status.phase".into(), "Succeeded".into())));
    let object = finished(&write);
    assert_eq!(object["metadata"]["finalizers"], json!([OPERATION_FINALIZER]));
    let status = &object["status"];
    assert_eq!((&status["phase"], &status["output"]), (&json!("Succeeded"), &json!({ "id": 5 })));
    assert_eq!((&status["attempts"], &status["finishedAt"]), (&json!(2), &json!("1970-01-01T00:00:03.000000Z")));
    assert_eq!(status["steps"], json!([{ "name": "make", "state": "Done", "attempt": 1 }]));
    assert!(status["history"][0]["attempt"] == 1 && status["message"].is_null());
    let large = json!("x".repeat(70_000));
    let status = &finished(&outcome(&stored(&operation()), &Ending { output: large, ..ending }).unwrap())["status"];
    assert!(status["output"].is_null() && status["message"].as_str().unwrap().contains("70002 bytes"));
}

#[test]
fn of_a_step_that_was_done_anew_the_newest_time_is_shown_in_the_steps_place() {
    let step = |name: &str, state| StepRow { step: name.into(), state, attempt: 1, output: "null".into() };
    let names: Vec<String> = (0..64).map(|at| format!("step-{at}")).collect();
    let mut steps: Vec<StepRow> = names.iter().map(|name| step(name, StepState::Undone)).collect();
    for round in 2..5 {
        steps.extend(names.iter().map(|name| step(&format!("{name}~{round}"), StepState::Undone)));
    }
    steps.push(step("step-0~5", StepState::Done));
    let shown = status_of(&Standing { row: row(State::Running), steps })["steps"].clone();
    let shown = shown.as_array().unwrap();
    let first = json!({ "name": "step-0~5", "state": "Done", "attempt": 1 });
    assert_eq!((shown.len(), &shown[0], &shown[1]["name"]), (64, &first, &json!("step-1~4")));
}

#[test]
fn what_was_only_waited_for_goes_with_its_end() {
    let standing = Standing { row: row(State::Running), steps: Vec::new() };
    let (reason, message, output) = ("Cancelled".into(), String::new(), Value::Null);
    let ending = Ending { state: State::Cancelled, reason, message, output, standing, at_ms: 1 };
    let mut going = operation();
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let write = outcome(&stored(&going), &ending).unwrap();
    assert!(matches!(write, Write::Delete { expected: Revision(7), .. }));
    assert_eq!(finished(&write)["status"]["phase"], "Cancelled", "its last state says how it ended");
    going["metadata"]["finalizers"] = json!(["example.org/hold", OPERATION_FINALIZER]);
    let write = outcome(&stored(&going), &ending).unwrap();
    assert!(matches!(write, Write::Update { .. }), "somebody else holds it");
    assert_eq!(finished(&write)["metadata"]["finalizers"], json!(["example.org/hold"]));
    let with = |state| {
        let steps = vec![StepRow { step: "make".into(), state, attempt: 1, output: "null".into() }];
        let standing = Standing { row: row(State::Running), steps };
        let ending = Ending { state: State::Dead, reason: "UndoFailed".into(), standing, ..ending.clone() };
        outcome(&stored(&going), &ending).unwrap()
    };
    let undone = with(StepState::Undone);
    assert_eq!(finished(&undone)["metadata"]["finalizers"], json!(["example.org/hold"]));
    for state in [StepState::Intent, StepState::Done, StepState::Undoing] {
        let kept = with(state);
        let finalizers = &finished(&kept)["metadata"]["finalizers"];
        assert_eq!(finalizers, &going["metadata"]["finalizers"], "what {state:?} may have left is not forgotten");
    }
}
