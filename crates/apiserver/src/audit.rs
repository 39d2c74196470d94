//! Whether what is stored can be served: asked of objects and keys from outside, by who checks a data directory.
//!
//! Knows what the store does not: how an object's bytes and its selectable parts belong together, and which of its values
//! are sealed.

use std::collections::HashMap;
use std::path::Path;

use mainstay_api::{Kind, Registry};
use mainstay_runtime::failure::chain_of;
use mainstay_store::{Object, Ring};
use serde_json::Value;

use crate::crypt::{Place, Sealer};
use crate::habits::KUBECTL_APPLIED;
use crate::keys::{self, KeysError};
use crate::selector::meta_of;

const RESTORE: &str = "restore a backup";
const WRITE_AGAIN: &str = "write the object once more, with this value";

/// What is wrong, and what to do.
pub type Finding = (String, &'static str);

/// Judges what a data directory holds.
#[derive(Debug)]
pub struct Audit<'r> {
    kinds: HashMap<String, &'r Kind>,
    sealer: Option<Sealer>,
}

impl<'r> Audit<'r> {
    /// Looks at the keys of a data directory, which `key_file` wraps, or the file `key` there; gives what is wrong with
    /// them. Changes nothing there.
    pub fn of(registry: &'r Registry, data_dir: &Path, key_file: Option<&Path>, ring: &Ring) -> (Self, Vec<Finding>) {
        let (sealing, faults) = keys::inspect(data_dir, key_file, ring);
        let mut findings: Vec<Finding> = faults.iter().map(key_finding).collect();
        let sealer = match Sealer::with_keys(sealing.iter().map(|key| &key[..])) {
            Ok(sealer) => (!sealing.is_empty()).then_some(sealer),
            Err(error) => {
                findings.push((format!("the data keys cannot be used: {error}"), RESTORE));
                None
            }
        };
        let kinds = registry.iter().map(|kind| (kind.resource(), &**kind)).collect();
        (Self { kinds, sealer }, findings)
    }

    /// What is wrong inside a stored object.
    pub fn look(&self, object: &Object) -> Vec<Finding> {
        let body: Value = match serde_json::from_slice(&object.body) {
            Ok(body) => body,
            Err(error) => return vec![(format!("its content is no JSON: {error}; it cannot be served"), RESTORE)],
        };
        let mut findings = Vec::new();
        for (field, wanted) in [
            ("resourceVersion", object.revision.to_string()),
            ("uid", object.meta.uid.to_string()),
            ("name", object.key.name.to_string()),
            ("namespace", object.key.namespace.to_string()),
        ] {
            let found = body["metadata"][field].as_str().unwrap_or_default();
            if found != wanted {
                findings.push((format!("its metadata.{field} is {found:?}, and the store has {wanted:?}"), RESTORE));
            }
        }
        let Some(kind) = self.kinds.get(&*object.key.resource) else {
            findings
                .push(("this program has no such kind: it is not served".to_owned(), "use the program that wrote it"));
            return findings;
        };
        if meta_of(kind, &body) != *object.meta {
            let what =
                "what selectors and owners know of it is not what it says: it is missed, or found where it is not";
            findings.push((what.to_owned(), "write the object once more"));
        }
        findings.extend(self.sealed(kind, object, &body));
        findings
    }

    /// Every sealed value must open.
    fn sealed(&self, kind: &Kind, object: &Object, body: &Value) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (field, value) in sealed_values(kind, body) {
            let place = Place {
                group: kind.group,
                resource: kind.plural,
                namespace: &object.key.namespace,
                name: &object.key.name,
                uid: &object.meta.uid,
                field: &field,
            };
            let opened = self.sealer.as_ref().map(|sealer| sealer.open(&place, value).map(drop));
            match opened {
                Some(Ok(())) => {}
                Some(Err(error)) => findings.push((format!("its {field} does not open: {error}"), WRITE_AGAIN)),
                None => findings.push((format!("its {field} does not open: there is no data key"), RESTORE)),
            }
        }
        findings
    }
}

/// What is sealed at rest, by the field that it is sealed for.
pub(crate) fn sealed_values<'b>(kind: &Kind, body: &'b Value) -> Vec<(String, &'b str)> {
    let mut values = Vec::new();
    match (kind.group, kind.plural) {
        ("", "secrets") => {
            let data = body["data"].as_object().into_iter().flatten();
            values.extend(data.filter_map(|(key, value)| Some((format!("data.{key}"), value.as_str()?))));
            let applied = body.pointer(KUBECTL_APPLIED).and_then(Value::as_str);
            values.extend(applied.map(|applied| ("metadata.annotations".to_owned(), applied)));
        }
        ("mainstay.dev", "credentials") => {
            values.extend(body["spec"]["token"].as_str().map(|token| ("spec.token".to_owned(), token)));
        }
        _ => {}
    }
    values
}

fn key_finding(fault: &KeysError) -> Finding {
    let remedy = match fault {
        KeysError::Missing { .. } => "restore it from a backup: a start makes another one, which is not the same",
        KeysError::Unsafe { .. } => "find out who had it; then chmod 600 and chown it, or make a new one",
        KeysError::NoKeyFile { .. } | KeysError::Mismatch { .. } => "name the right one: --key-file FILE",
        _ => RESTORE,
    };
    (chain_of(fault), remedy)
}
