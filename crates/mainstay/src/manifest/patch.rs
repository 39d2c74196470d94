//! Patches of a kustomization: merge patches (RFC 7386) and JSON patches (RFC 6902).
//!
//! A merge patch replaces lists as a whole; the list-merging directives of strategic patches are refused by name.

use serde_json::Value;

use super::{Document, ManifestError};

/// Which objects a patch is for: what is absent matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Target {
    group: Option<String>,
    version: Option<String>,
    kind: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
}

impl Target {
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let mut target = Self::default();
        for (field, value) in value.as_object().ok_or("target must be a mapping")? {
            let text = value.as_str().ok_or_else(|| format!("target.{field} must be a text"))?.to_owned();
            match field.as_str() {
                "group" => target.group = Some(text),
                "version" => target.version = Some(text),
                "kind" => target.kind = Some(text),
                "name" => target.name = Some(text),
                "namespace" => target.namespace = Some(text),
                _ => return Err(format!("the field target.{field} is not supported")),
            }
        }
        Ok(target)
    }

    fn matches(&self, object: &Document) -> bool {
        let (group, version) = object.api_version().rsplit_once('/').unwrap_or(("", object.api_version()));
        let fits = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted == has);
        fits(&self.group, group)
            && fits(&self.version, version)
            && fits(&self.kind, object.kind())
            && fits(&self.name, object.name())
            && fits(&self.namespace, object.namespace().unwrap_or_default())
    }
}

/// A patch and its target.
#[derive(Debug)]
pub(super) struct Patch {
    target: Target,
    change: Change,
    place: String,
}

#[derive(Debug)]
enum Change {
    Merge(Value),
    Json(json_patch::Patch),
}

impl Patch {
    pub(super) fn read(document: Document, target: Option<Target>, place: &str) -> Result<Self, ManifestError> {
        let here = document.place("");
        let wrong = |what: &str| ManifestError::at(&here, what);
        if document.value.is_array() {
            let target = target.ok_or_else(|| ManifestError::at(place, "a JSON patch needs a target"))?;
            let patch =
                serde_json::from_value(document.value).map_err(|error| wrong(&format!("not a JSON patch: {error}")))?;
            return Ok(Self { target, change: Change::Json(patch), place: here });
        }
        if !document.value.is_object() {
            return Err(wrong("a patch is a mapping (a merge patch) or a list (a JSON patch)"));
        }
        if let Some(path) = directive(&document.value, "") {
            return Err(wrong(&format!("{path}: directives of strategic merge patches are not supported")));
        }
        let target = match target {
            Some(target) => target,
            None => own_target(&document)?,
        };
        let mut patch = document.value;
        // These say whom the patch is for, not what to change.
        if let Some(fields) = patch.as_object_mut() {
            fields.retain(|name, _| name != "apiVersion" && name != "kind");
        }
        if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| name != "name" && name != "namespace");
        }
        Ok(Self { target, change: Change::Merge(patch), place: here })
    }

    /// Applies it to every object that it is for; none is an error.
    pub(super) fn apply_to(&self, objects: &mut [Document]) -> Result<(), ManifestError> {
        let mut found = false;
        for object in objects.iter_mut().filter(|object| self.target.matches(object)) {
            found = true;
            match &self.change {
                Change::Merge(patch) => json_patch::merge(&mut object.value, patch),
                Change::Json(patch) => json_patch::patch(&mut object.value, patch).map_err(|error| {
                    let whom = format!("{} {}", object.kind(), object.name());
                    ManifestError::at(&self.place, format!("the patch does not fit {whom}: {error}"))
                })?,
            }
            object.check()?;
        }
        if found { Ok(()) } else { Err(ManifestError::at(&self.place, "the patch matches no object")) }
    }
}

fn own_target(document: &Document) -> Result<Target, ManifestError> {
    document.check()?;
    let (group, version) = document.api_version().rsplit_once('/').unwrap_or(("", document.api_version()));
    Ok(Target {
        group: Some(group.to_owned()),
        version: Some(version.to_owned()),
        kind: Some(document.kind().to_owned()),
        name: Some(document.name().to_owned()),
        namespace: document.namespace().map(str::to_owned),
    })
}

/// The path of the first key that begins with `$`, such as `$patch`.
fn directive(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let below = super::step(path, name);
            if name.starts_with('$') { Some(below) } else { directive(value, &below) }
        }),
        Value::Array(items) => items.iter().find_map(|item| directive(item, path)),
        _ => None,
    }
}
