use super::*;

fn view(status: &serde_json::Value) -> View {
    let object = json!({
        "metadata": { "name": "p", "namespace": "n", "uid": "u" },
        "spec": { "containers": [{ "name": "agent" }] },
        "status": status,
    });
    View::new(serde_json::from_value(object).unwrap()).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn isolation_is_claimed_only_when_all_of_it_is_in_force() {
    let with = |asked, in_force: &[&str]| {
        let in_force = in_force.iter().map(|word| (*word).to_owned()).collect();
        let condition = isolated(&EffectiveIsolation { asked, in_force });
        (condition.status, condition.reason.unwrap(), condition.message.unwrap())
    };
    let answer = |status: &str, reason: &str, message: &str| (status.to_owned(), reason.to_owned(), message.to_owned());
    assert_eq!(with(Isolation::None, &[]), answer("False", "None", "a plain process on the host"));
    let all = with(Isolation::Full, &["user", "pid", "mount", "network", "ipc", "seccomp"]);
    assert_eq!(all, answer("True", "Full", "user, pid, mount, network, ipc, seccomp"));
    let some = with(Isolation::User, &["pid", "mount", "ipc", "seccomp"]);
    assert_eq!(some, answer("False", "Incomplete", "not in force: network"));
}

#[test]
fn a_condition_moves_its_time_with_its_status_only() {
    let mut status = PodStatus::default();
    let (first, second) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:01Z"));
    set(&mut status, condition("Ready", false, "Starting", ""), first);
    set(&mut status, condition("Ready", false, "Other", ""), second);
    let only = |status: &PodStatus| status.conditions.clone().unwrap().remove(0);
    assert_eq!(only(&status).last_transition_time, Some(Time(first)));
    assert_eq!(only(&status).reason.as_deref(), Some("Other"));
    set(&mut status, condition("Ready", true, "HeartbeatAccepted", ""), second);
    assert_eq!(only(&status).last_transition_time, Some(Time(second)));
}

#[test]
fn an_end_keeps_what_was_known_before() {
    let start = "2026-01-01T00:00:00Z";
    let isolated = json!({ "type": "Isolated", "status": "True" });
    let view = view(&json!({ "phase": "Running", "startTime": start, "conditions": [isolated] }));
    let mut end = End {
        reason: "OOMKilled",
        message: "out of memory".into(),
        exit_code: None,
        signal: Some(9),
        started_at: Some(at(start)),
        finished_at: at("2026-01-01T00:00:05Z"),
        isolation: None,
    };
    let status = serde_json::to_value(ended(&view, &end, at("2026-01-01T00:00:06Z"))).unwrap();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("OOMKilled")));
    assert_eq!(status["startTime"], json!(start));
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["signal"]), (&json!(137), &json!(9)));
    assert_eq!(terminated["finishedAt"], json!("2026-01-01T00:00:05Z"));
    let types: Vec<_> = status["conditions"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
    assert_eq!(types, ["Isolated", "Ready"]);
    (end.reason, end.exit_code, end.signal) = ("Completed", Some(0), None);
    end.isolation = Some(EffectiveIsolation { asked: Isolation::None, in_force: Vec::new() });
    let status = ended(&view, &end, at(start));
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Succeeded"), Some("Completed")));
    let isolated = status.conditions.unwrap().remove(0);
    assert_eq!(
        (isolated.type_.as_str(), isolated.status.as_str()),
        ("Isolated", "False"),
        "also if it never was Running"
    );
}
