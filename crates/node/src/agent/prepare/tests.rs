use serde_json::{Value, json};

use super::*;
use crate::launch::Adaptor;

fn host(isolation: Isolation, controllers: &[&str]) -> Host {
    let root = isolation == Isolation::Full;
    let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
    let support = Support { root, user_namespaces: true, controllers, landlock: 1, loop_devices: true, mkfs: true };
    Host { isolation, support }
}

fn strong() -> Host {
    host(Isolation::Full, &["cpu", "memory", "pids"])
}

fn weak() -> Host {
    host(Isolation::User, &[])
}

fn view(container: Value, annotations: &Value) -> View {
    let mut container = container;
    container["name"] = json!("agent");
    let object = json!({
        "metadata": {
            "name": "fix-2", "namespace": "web", "uid": "u-1",
            "labels": { "mainstay.dev/session": "fix" }, "annotations": annotations,
        },
        "spec": {
            "containers": [container], "terminationGracePeriodSeconds": 3, "activeDeadlineSeconds": 60,
            "volumes": [{ "name": "w", "emptyDir": { "sizeLimit": "64Mi" } }],
        },
    });
    View::new(serde_json::from_value(object).unwrap()).unwrap()
}

fn place() -> Place {
    Place {
        run_dir: "/n/run/u-1".into(),
        sock_dir: "/n/pods/u-1/sock".into(),
        token_dir: "/n/pods/u-1/token".into(),
        workspace: "/n/workspaces/u-1".into(),
        instance: "i".into(),
        uid_base: 7,
        fence: 9,
    }
}

/// R8.
#[test]
fn a_launch_says_all_that_the_pod_says() {
    let notes = json!({
        "mainstay.dev/session-uid": "s-1", "mainstay.dev/run": "2", "mainstay.dev/adaptor": "stream-json",
        "mainstay.dev/keep-workspace": "true", "mainstay.dev/stop-on-finish": "true",
    });
    let limits = json!({ "limits": { "memory": "64Mi", "cpu": "500m" } });
    let view = view(json!({ "command": ["sh", "-c"], "args": ["true"], "resources": limits }), &notes);
    let launch = launch(&view, Sources::default(), place(), &strong()).unwrap();
    assert_eq!(launch.command, ["sh", "-c", "true"]);
    assert_eq!((launch.adaptor, launch.grace_seconds, launch.deadline_seconds), (Adaptor::StreamJson, 3, Some(60)));
    let session = launch.session.unwrap();
    assert_eq!((session.uid.as_str(), session.run, session.stop_on_finish), ("s-1", 2, true));
    let expected = Limits { cpu_millis: Some(500), memory_bytes: Some(64 << 20), pids: DEFAULTS.pids };
    assert_eq!(launch.limits, expected);
    assert_eq!((launch.workspace.size_bytes, launch.workspace.keep), (64 << 20, true));
    assert_eq!(view.workspace_key(), "s-1");
}

/// R50.
#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    let command = json!(["true"]);
    let all = json!({ "limits": { "cpu": "1", "memory": "64Mi", "mainstay.dev/pids": "9" } });
    for (container, notes, expected) in [
        (json!({ "command": command }), json!({}), None),
        (
            json!({ "command": command, "resources": all }),
            json!({}),
            Some(["the memory limit", "the pids limit", "the cpu limit"].as_slice()),
        ),
        (
            json!({ "command": command }),
            json!({ "mainstay.dev/keep-workspace": "true" }),
            Some(["a kept workspace"].as_slice()),
        ),
    ] {
        let view = view(container, &notes);
        assert!(admit(&view, &strong()).is_ok());
        let refused = admit(&view, &weak()).err().map(|error| error.to_string());
        match (refused, expected) {
            (None, None) => {}
            (Some(refused), Some(expected)) => {
                assert!(refused.starts_with("this host cannot enforce what the Pod asks for: "), "{refused}");
                assert!(expected.iter().all(|missing| refused.contains(missing)), "{refused}");
            }
            (refused, _) => panic!("{refused:?}"),
        }
    }
    let defaults =
        launch(&view(json!({ "command": ["true"] }), &json!({})), Sources::default(), place(), &weak()).unwrap();
    assert_eq!(defaults.limits, Limits::default(), "nobody asked for these");
}

#[test]
fn a_pod_that_makes_no_sense_is_refused() {
    for container in [json!({}), json!({ "command": [""] })] {
        assert!(matches!(admit(&view(container, &json!({})), &strong()), Err(AgentError::Refused(_))));
    }
    let limits = json!({ "limits": { "cpu": "much" } });
    let error = admit(&view(json!({ "command": ["true"], "resources": limits }), &json!({})), &strong()).unwrap_err();
    assert_eq!(error.to_string(), "the limit on cpu must be a quantity such as 500m, 2, 256Mi or 1Gi");
}
