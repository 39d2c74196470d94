use super::*;

fn faults(spec: &Value) -> Vec<String> {
    let object = json!({ "metadata": { "name": "fix" }, "spec": spec });
    check(&object, None).iter().map(ToString::to_string).collect()
}

#[test]
fn wrong_specs_are_refused_by_field() {
    for (spec, expected) in [
        (json!({ "command": [""] }), "spec.command[0]: Invalid value: \"\": must name a program"),
        (
            json!({ "env": [{ "name": "1X" }] }),
            "spec.env[0].name: Invalid value: \"1X\": must be letters, digits and '_', not starting with a digit",
        ),
        (json!({ "env": [{ "name": "A" }, { "name": "A" }] }), "spec.env[1].name: Duplicate value: \"A\""),
        (
            json!({ "env": [{ "name": "MAINSTAY_X" }] }),
            "spec.env[0].name: Invalid value: \"MAINSTAY_X\": names that start with MAINSTAY_ are set by the platform",
        ),
        (
            json!({ "resources": { "memory": "1Ki" } }),
            "spec.resources.memory: Invalid value: \"1Ki\": must be between 8Mi and 1Ti",
        ),
        (
            json!({ "resources": { "cpu": "much" } }),
            "spec.resources.cpu: Invalid value: \"much\": must be a quantity such as 500m, 2, 256Mi or 1Gi",
        ),
        (
            json!({ "workspace": { "size": "1" } }),
            "spec.workspace.size: Invalid value: \"1\": must be between 1Mi and 4Ti",
        ),
        (
            json!({ "agent": "Not A Name" }),
            "spec.agent: Invalid value: \"Not A Name\": must be at most 253 lower-case letters, digits, '-' and '.', starting and ending with a letter or digit",
        ),
        (
            json!({ "timeout": "soon", "command": ["x"] }),
            "spec.timeout: Invalid value: \"soon\": must be seconds, or a span such as 90s or 1h30m",
        ),
        (
            json!({ "credentials": [{ "name": "a" }, { "name": "a" }] }),
            "spec.credentials[1].name: Duplicate value: \"a\"",
        ),
    ] {
        assert_eq!(faults(&spec), [expected], "{spec}");
    }
    assert_eq!(
        faults(&json!({ "prompt": "fix it", "timeout": "1h", "env": [{ "name": "A", "value": "b" }] })),
        [""; 0]
    );
}

#[test]
fn a_run_number_does_not_go_back() {
    let old = json!({ "metadata": { "name": "fix" }, "spec": { "run": 3 } });
    let new = json!({ "metadata": { "name": "fix" }, "spec": { "run": 2 } });
    assert_eq!(check(&new, Some(&old)).len(), 1);
    assert_eq!(check(&old, Some(&new)).len(), 0);
}

/// R50: what would be accepted and do nothing.
#[test]
fn what_a_run_has_taken_is_not_changed_under_it() {
    let object = |spec: &Value, phase: &str, attempts: u64| {
        let status = json!({ "phase": phase, "attempts": attempts });
        json!({ "metadata": { "name": "fix" }, "spec": spec, "status": status })
    };
    let faults = |old: Value, new: Value, phase: &str, attempts: u64| -> Vec<String> {
        let faults = check(&object(&new, phase, attempts), Some(&object(&old, phase, attempts)));
        faults.iter().map(|fault| fault.path.clone()).collect()
    };
    let (asked, other) = (json!({ "prompt": "fix it" }), json!({ "prompt": "mend it" }));
    assert_eq!(faults(asked.clone(), other.clone(), "Pending", 0), [""; 0]);
    assert_eq!(faults(asked.clone(), other, "Completed", 1), ["spec.prompt"]);
    assert_eq!(faults(asked.clone(), json!({ "prompt": "fix it", "run": 2 }), "Completed", 1), [""; 0]);
}

/// R50: a run's sandbox was given its longest life at its start, by the session or by its project, and holds that.
#[test]
fn a_live_runs_timeout_is_shortened_and_not_raised() {
    let timed = |timeout: &str| json!({ "timeout": timeout });
    let inherited = json!({});
    for (held, old, new, phase, refused) in [
        ("1h", timed("1h"), timed("2h"), "Running", true),
        ("1h", timed("1h"), timed("0"), "Creating", true),
        ("1h", timed("1h"), inherited.clone(), "Stopping", true),
        ("1h", timed("1h"), timed("1m"), "Running", false),
        ("1h", timed("1m"), timed("1h"), "Running", false),
        ("1h", timed("1m"), timed("61m"), "Running", true),
        ("1h", inherited.clone(), timed("2h"), "Running", true),
        ("1h", inherited.clone(), timed("0"), "Running", true),
        ("1h", inherited.clone(), timed("1m"), "Running", false),
        ("1h", inherited.clone(), inherited.clone(), "Running", false),
        ("0", inherited.clone(), timed("1h"), "Running", false),
        ("0", timed("1h"), timed("2h"), "Running", false),
        ("1h", timed("1h"), timed("2h"), "Stopped", false),
        ("1h", timed("1h"), timed("2h"), "Pending", false),
    ] {
        let object = |spec: &Value| {
            let status = json!({ "phase": phase, "attempts": 1, "timeout": held });
            json!({ "metadata": { "name": "fix" }, "spec": spec, "status": status })
        };
        let told: Vec<String> = check(&object(&new), Some(&object(&old))).iter().map(ToString::to_string).collect();
        let detail = "spec.timeout: Forbidden: the sandbox of the present run holds 1h; raise it when that has ended";
        let expected: &[&str] = if refused { &[detail] } else { &[] };
        assert_eq!(told, expected, "{held}: {old} -> {new}, {phase}");
    }
}

/// Three prompts are joined into one message, which may have 1 MiB as JSON.
#[test]
fn a_prompt_is_bounded_by_what_it_takes_in_a_message() {
    let most = common::MOST_PROMPT;
    for (unit, bytes) in [("a", 1), ("\u{1f980}", 4), ("\"", 2), ("\u{1}", 6)] {
        let fits = unit.repeat(most / bytes);
        assert_eq!(faults(&json!({ "prompt": fits })), [""; 0], "{unit:?}");
        let written = (fits.len() / unit.len() + 1) * bytes;
        let told = faults(&json!({ "prompt": fits + unit }));
        let detail = format!("may not be more than {most} bytes as JSON writes it, and is {written}");
        assert_eq!(told, [format!("spec.prompt: Too long: {detail}")], "{unit:?}");
    }
}

#[test]
fn a_forbidden_move_is_refused() {
    let at = |phase: &str| json!({ "status": { "phase": phase } });
    assert_eq!(
        check_status(&at("Running"), &at("Completed"))[0].to_string(),
        "status.phase: Invalid value: \"Running\": a session that is Completed may not become Running"
    );
    assert!(check_status(&at("Completed"), &at("Running")).is_empty());
}

#[test]
fn a_status_is_not_forgotten() {
    let ran = json!({ "status": { "phase": "Running", "run": 2, "attempts": 1 } });
    let told = |new: Value| check_status(&new, &ran).iter().map(ToString::to_string).collect::<Vec<_>>();
    let all = [
        "status.phase: Invalid value: \"Pending\": a session that is Running may not become Pending",
        "status.run: Invalid value: 0: it may not fall from 2",
        "status.attempts: Invalid value: 0: it may not fall from 1",
    ];
    assert_eq!(told(json!({})), all);
    assert_eq!(told(json!({ "status": null })), all);
    assert_eq!(
        told(json!({ "status": { "phase": "Running", "run": 1, "attempts": 1 } })),
        ["status.run: Invalid value: 1: it may not fall from 2"]
    );
    assert!(told(ran.clone()).is_empty());
    let fresh = json!({ "status": { "phase": "Running" } });
    assert_eq!(check_status(&fresh, &json!({})).len(), 1, "the first status begins at the beginning");
}
