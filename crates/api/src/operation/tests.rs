use serde_json::{Value, json};

use super::*;
use crate::names;

fn faults(new: &Value, old: Option<&Value>) -> Vec<String> {
    rules::check(new, old).iter().map(ToString::to_string).collect()
}

fn with_spec(spec: &Value) -> Value {
    let mut object = json!({ "metadata": { "name": "a" }, "spec": spec });
    rules::on_create(&mut object);
    object
}

fn with_phase(phase: &str) -> Value {
    let mut object = with_spec(&json!({ "handler": "h", "cancelled": false, "replays": 1 }));
    object["status"]["phase"] = phase.into();
    object
}

fn changed(old: &Value, path: &str, value: Value) -> Vec<String> {
    let mut new = old.clone();
    *new.pointer_mut(path).unwrap() = value;
    faults(&new, Some(old))
}

#[test]
fn a_new_one_is_pending_and_held() {
    let object = with_spec(&json!({ "handler": "teardown", "payload": { "any": [null, { "x": 1 }] } }));
    assert_eq!(faults(&object, None), [""; 0]);
    assert_eq!(object["status"]["phase"], "Pending");
    assert_eq!(object["metadata"]["finalizers"], json!([names::OPERATION_FINALIZER]));
    let typed: Operation = serde_json::from_value(json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Operation", "metadata": object["metadata"],
        "spec": object["spec"], "status": object["status"],
    }))
    .unwrap();
    assert_eq!((typed.spec.max_attempts, typed.spec.timeout_seconds), (5, 600));
}

#[test]
fn wrong_new_ones_are_refused_by_field() {
    for (spec, path) in [
        (json!({ "handler": "No" }), "spec.handler: Invalid value"),
        (json!({ "handler": "" }), "spec.handler: Invalid value"),
        (json!({ "handler": "h", "project": "A B" }), "spec.project: Invalid value"),
        (json!({ "handler": "h", "cancelled": true }), "spec.cancelled: Invalid value"),
        (json!({ "handler": "h", "replays": 1 }), "spec.replays: Invalid value"),
    ] {
        let found = faults(&with_spec(&spec), None);
        assert!(found.len() == 1 && found[0].starts_with(path), "{found:?}");
    }
}

#[test]
fn payloads_are_bounded_exactly() {
    // {"x":"..."} takes 8 bytes besides the text.
    let sized = |bytes: usize| with_spec(&json!({ "handler": "h", "payload": { "x": "y".repeat(bytes - 8) } }));
    assert!(faults(&sized(MOST_PAYLOAD), None).is_empty());
    assert!(faults(&sized(MOST_PAYLOAD + 1), None)[0].contains("65537"));
    let nested = |levels: usize| {
        let inner = (1..levels).fold(Value::Null, |inner, _| json!([inner]));
        with_spec(&json!({ "handler": "h", "payload": { "x": inner } }))
    };
    assert!(faults(&nested(MOST_DEPTH), None).is_empty());
    assert!(faults(&nested(MOST_DEPTH + 1), None)[0].contains("32 levels"));
}

#[test]
fn the_order_itself_never_changes() {
    let old = with_spec(&json!({
        "handler": "h", "payload": { "a": 1 }, "priority": 1, "concurrencyKey": "k", "maxAttempts": 5,
        "timeoutSeconds": 600, "project": "p", "runAt": "2026-01-01T00:00:00Z", "cancelled": false, "replays": 0,
    }));
    for (field, value) in [
        ("handler", json!("i")),
        ("payload", json!({ "a": 2 })),
        ("priority", json!(2)),
        ("concurrencyKey", json!("l")),
        ("maxAttempts", json!(6)),
        ("timeoutSeconds", json!(601)),
        ("project", json!("q")),
        ("runAt", json!("2026-01-01T00:00:01Z")),
    ] {
        let found = changed(&old, &format!("/spec/{field}"), value);
        assert_eq!(found.len(), 1, "{field}: {found:?}");
        assert!(found[0].starts_with(&format!("spec.{field}: Forbidden: stays as it was created")), "{found:?}");
    }
    // The same time, written in another way.
    assert_eq!(changed(&old, "/spec/runAt", json!("2026-01-01T00:00:00.000Z")), [""; 0]);
}

#[test]
fn only_what_has_not_ended_is_cancelled_and_only_what_died_is_replayed() {
    for phase in OperationPhase::ALL {
        let old = with_phase(phase.as_str());
        let cancel = changed(&old, "/spec/cancelled", json!(true));
        assert_eq!(cancel.is_empty(), !phase.is_final(), "{phase}: {cancel:?}");
        let replay = changed(&old, "/spec/replays", json!(2));
        assert_eq!(replay.is_empty(), phase == OperationPhase::Dead, "{phase}: {replay:?}");
        assert!(replay.iter().all(|fault| fault.contains("it has not died")), "{phase}: {replay:?}");
        assert!(changed(&old, "/spec/replays", json!(0))[0].contains("may only grow"), "{phase}");
    }
    let mut cancelled = with_phase("Running");
    cancelled["spec"]["cancelled"] = true.into();
    assert!(changed(&cancelled, "/spec/cancelled", json!(false))[0].contains("cannot be taken back"));
    let mut going = with_phase("Dead");
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(changed(&going, "/spec/replays", json!(2)), [""; 0], "it is held, as something is left of it");
    assert_eq!(changed(&going, "/metadata/finalizers", json!([])), [""; 0]);
    going["metadata"]["finalizers"] = json!(["a/b"]);
    assert!(changed(&going, "/spec/replays", json!(2))[0].contains("being deleted"));
}

#[test]
fn owner_and_finalizer_stay() {
    let mut old = with_phase("Pending");
    old["metadata"]["ownerReferences"] = json!([{ "uid": "u" }]);
    assert!(changed(&old, "/metadata/ownerReferences", json!([]))[0].contains("whom an operation serves"));
    assert!(changed(&old, "/metadata/finalizers", json!([]))[0].contains("is the server's"));
    assert_eq!(changed(&old, "/metadata/finalizers", json!([names::OPERATION_FINALIZER, "a/b"])), [""; 0]);
}

#[test]
fn an_owner_knows_an_end_by_its_time_too() {
    let mut operation = Operation::new("a", OperationSpec::default());
    operation.metadata.uid = Some("u".to_owned());
    let at = |second: i64| Some(jiff::Timestamp::from_second(second).unwrap().into());
    let ended = |phase, finished_at| OperationStatus { phase, finished_at, ..OperationStatus::default() };
    operation.status = Some(ended(OperationPhase::Dead, at(1)));
    let known = OperationRef::of(&operation);
    let json = serde_json::to_value(&known).unwrap();
    let known: OperationRef = serde_json::from_value(json).unwrap();
    assert!(known.tells("u", &ended(OperationPhase::Dead, at(1))));
    assert!(!known.tells("v", &ended(OperationPhase::Dead, at(1))));
    assert!(!known.tells("u", &ended(OperationPhase::Dead, at(2))), "it died again");
    assert!(!known.tells("u", &ended(OperationPhase::Succeeded, at(1))));
    assert!(
        !OperationRef { phase: OperationPhase::Pending, ..known }.tells("u", &ended(OperationPhase::Pending, at(1)))
    );
}
