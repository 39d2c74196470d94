//! What is wrong with a Pod: every field that is accepted is enforced, every other is refused by name.

use serde::Deserialize;
use serde_json::Value;

use super::{Container, PodSpec, Volume, VolumeMount};
use crate::common::{self, quoted};
use crate::field::FieldError;
use crate::names::{self, CREDENTIAL_PREFIX};
use crate::quantity;

pub(super) fn check(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    if let Some(old) = old {
        return check_change(&new["spec"], &old["spec"]);
    }
    let spec = match PodSpec::deserialize(&new["spec"]) {
        Ok(spec) => spec,
        Err(error) => return vec![FieldError::invalid("spec", "object", error.to_string())],
    };
    let mut errors = Vec::new();
    if spec.restart_policy != "Never" {
        errors.push(FieldError::not_supported("spec.restartPolicy", &spec.restart_policy, &["Never"]));
    }
    errors.extend(check_node(&spec.node_name));
    for (at, volume) in spec.volumes.iter().enumerate() {
        errors.extend(check_volume(&format!("spec.volumes[{at}]"), volume));
        if spec.volumes[..at].iter().any(|earlier| earlier.name == volume.name) {
            errors.push(FieldError::duplicate(format!("spec.volumes[{at}].name"), &volume.name));
        }
    }
    for (at, container) in spec.containers.iter().enumerate() {
        errors.extend(check_container(&format!("spec.containers[{at}]"), container, &spec.volumes));
    }
    errors
}

/// A Pod that has no node may get one, once. All else stays.
fn check_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let node = |spec: &Value| spec["nodeName"].as_str().unwrap_or_default().to_owned();
    let rest = |spec: &Value| {
        let mut spec = spec.clone();
        spec.as_object_mut().map(|fields| fields.remove("nodeName"));
        spec
    };
    if rest(new) != rest(old) {
        return vec![FieldError::forbidden("spec", "a Pod's spec cannot be changed")];
    }
    match (node(old), node(new)) {
        (before, after) if before == after => Vec::new(),
        (before, after) if before.is_empty() => check_node(&after).into_iter().collect(),
        _ => vec![FieldError::forbidden("spec.nodeName", "a Pod stays with the node that it was given to")],
    }
}

fn check_node(name: &str) -> Option<FieldError> {
    let fault = crate::node::name_fault(name).filter(|_| !name.is_empty())?;
    Some(FieldError::invalid("spec.nodeName", quoted(name), fault))
}

fn check_volume(path: &str, volume: &Volume) -> Vec<FieldError> {
    let sources = [volume.empty_dir.is_some(), volume.secret.is_some(), volume.config_map.is_some()];
    if sources.iter().filter(|given| **given).count() != 1 {
        return vec![FieldError::required(path, "exactly one of emptyDir, secret and configMap must be set")];
    }
    if let Some(secret) = &volume.secret {
        return check_secret_name(format!("{path}.secret.secretName"), &secret.secret_name).into_iter().collect();
    }
    if let Some(map) = &volume.config_map {
        let fault = common::name_fault(&map.name);
        let wrong = |fault| FieldError::invalid(format!("{path}.configMap.name"), quoted(&map.name), fault);
        return fault.map(wrong).into_iter().collect();
    }
    let size = volume.empty_dir.as_ref().and_then(|dir| dir.size_limit.as_deref());
    crate::session::check_workspace_size(&format!("{path}.emptyDir.sizeLimit"), size).into_iter().collect()
}

/// The node agent makes a URL of it.
fn check_secret_name(path: String, name: &str) -> Option<FieldError> {
    let fault = common::name_fault(name.strip_prefix(CREDENTIAL_PREFIX).unwrap_or(name))?;
    Some(FieldError::invalid(path, quoted(name), format!("{fault}; or {CREDENTIAL_PREFIX}NAME for a Credential")))
}

fn check_container(path: &str, container: &Container, volumes: &[Volume]) -> Vec<FieldError> {
    let mut errors = crate::session::check_command(&format!("{path}.command"), &container.command);
    if let Some(image) = container.image.as_deref().filter(|image| *image != "host") {
        errors.push(FieldError::not_supported(format!("{path}.image"), image, &["host"]));
    }
    if let Some(dir) = container.working_dir.as_deref().filter(|dir| !dir.starts_with('/') || dir.contains('\0')) {
        errors.push(FieldError::invalid(format!("{path}.workingDir"), quoted(dir), "must be an absolute path"));
    }
    for (at, var) in container.env.iter().enumerate() {
        if var.name.is_empty() || var.name.contains(['=', '\0']) {
            errors.push(FieldError::invalid(
                format!("{path}.env[{at}].name"),
                quoted(&var.name),
                "must not be empty, nor contain '=' or NUL",
            ));
        }
        // Not shown: it may be a secret.
        if var.value.as_deref().is_some_and(|value| value.contains('\0')) {
            errors.push(common::no_nul(format!("{path}.env[{at}].value")));
        }
        if let Some(source) = &var.value_from {
            let path = format!("{path}.env[{at}].valueFrom.secretKeyRef.name");
            errors.extend(check_secret_name(path, &source.secret_key_ref.name));
        }
        if var.value.is_some() && var.value_from.is_some() {
            errors.push(FieldError::forbidden(
                format!("{path}.env[{at}].valueFrom"),
                "may not be set together with value",
            ));
        }
    }
    for (name, text) in &container.resources.limits {
        errors.extend(check_limit(&format!("{path}.resources.limits[{name}]"), name, text));
    }
    for (at, mount) in container.volume_mounts.iter().enumerate() {
        errors.extend(check_mount(&format!("{path}.volumeMounts[{at}]"), mount, volumes));
        if container.volume_mounts[..at].iter().any(|earlier| earlier.mount_path == mount.mount_path) {
            errors.push(FieldError::duplicate(format!("{path}.volumeMounts[{at}].mountPath"), &mount.mount_path));
        }
    }
    errors
}

fn check_limit(path: &str, name: &str, text: &str) -> Vec<FieldError> {
    let resources = match name {
        "cpu" => common::Resources { cpu: Some(text.to_owned()), ..Default::default() },
        "memory" => common::Resources { memory: Some(text.to_owned()), ..Default::default() },
        names::PIDS if quantity::units(text).is_ok_and(|pids| pids >= 2) => return Vec::new(),
        names::PIDS => return vec![FieldError::invalid(path, quoted(text), "must be a count of at least 2")],
        _ => return vec![FieldError::not_supported(path, name, &["cpu", "memory", names::PIDS])],
    };
    common::check_resources("", &resources)
        .into_iter()
        .map(|error| FieldError { path: path.to_owned(), ..error })
        .collect()
}

fn check_mount(path: &str, mount: &VolumeMount, volumes: &[Volume]) -> Vec<FieldError> {
    let Some(volume) = volumes.iter().find(|volume| volume.name == mount.name) else {
        return vec![FieldError::invalid(format!("{path}.name"), quoted(&mount.name), "names no volume of this Pod")];
    };
    let wanted = if volume.empty_dir.is_some() {
        (mount.mount_path == "/workspace", "a workspace is mounted at /workspace")
    } else {
        let below = mount.mount_path.strip_prefix("/mainstay/").unwrap_or_default();
        let clean = !below.split('/').any(|part| matches!(part, "" | "." | "..")) && !below.contains('\0');
        (clean, "files are mounted below /mainstay/")
    };
    let reserved = ["/mainstay/run", "/mainstay/token"].iter().any(|taken| mount.mount_path.starts_with(taken));
    if wanted.0 && !reserved {
        return Vec::new();
    }
    let detail = if reserved { "this path is the platform's" } else { wanted.1 };
    vec![FieldError::invalid(format!("{path}.mountPath"), quoted(&mount.mount_path), detail)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: Value) -> Value {
        let mut container = container;
        container["name"] = json!("agent");
        container.as_object_mut().unwrap().entry("command").or_insert(json!(["true"]));
        json!({ "spec": { "containers": [container], "volumes": [{ "name": "w", "emptyDir": {} }] } })
    }

    /// R28.
    #[test]
    fn what_is_not_enforced_is_refused_by_name() {
        for (container, expected) in [
            (
                json!({ "image": "nginx" }),
                "spec.containers[0].image: Unsupported value: \"nginx\": supported values: \"host\"",
            ),
            (
                json!({ "workingDir": "x" }),
                "spec.containers[0].workingDir: Invalid value: \"x\": must be an absolute path",
            ),
            (
                json!({ "resources": { "limits": { "gpu": "1" } } }),
                "spec.containers[0].resources.limits[gpu]: Unsupported value: \"gpu\": supported values: \"cpu\", \"memory\", \"mainstay.dev/pids\"",
            ),
            (
                json!({ "volumeMounts": [{ "name": "w", "mountPath": "/etc" }] }),
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/etc\": a workspace is mounted at /workspace",
            ),
            (
                json!({ "volumeMounts": [{ "name": "x", "mountPath": "/workspace" }] }),
                "spec.containers[0].volumeMounts[0].name: Invalid value: \"x\": names no volume of this Pod",
            ),
        ] {
            let errors: Vec<String> = check(&pod(container.clone()), None).iter().map(ToString::to_string).collect();
            assert_eq!(errors, [expected], "{container}");
        }
        assert!(check(&pod(json!({})), None).is_empty());
    }

    #[test]
    fn a_spec_cannot_be_changed() {
        let (old, mut new) = (pod(json!({})), pod(json!({})));
        assert!(check(&new, Some(&old)).is_empty());
        new["spec"]["containers"][0]["command"] = json!(["false"]);
        assert_eq!(check(&new, Some(&old))[0].path, "spec");
    }

    #[test]
    fn a_pod_gets_a_node_once() {
        let at = |node: &str| {
            let mut pod = pod(json!({}));
            pod["spec"]["nodeName"] = json!(node);
            pod
        };
        let none = pod(json!({}));
        for (new, old, ok) in [
            (at("a"), &none, true),
            (at("a"), &at(""), true),
            (at("a"), &at("a"), true),
            (at("A"), &none, false),
            (at("b"), &at("a"), false),
            (at(""), &at("a"), false),
            (none.clone(), &at("a"), false),
        ] {
            assert_eq!(check(&new, Some(old)).is_empty(), ok, "{new} after {old}");
        }
    }
}
