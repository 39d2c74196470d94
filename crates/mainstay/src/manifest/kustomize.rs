//! The part of kustomize that is understood: `resources`, `bases` and `patches`. Any other field is refused by name.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::patch::{Patch, Target};
use super::read::{parse_text, read_documents, read_objects};
use super::{Document, ManifestError};

/// Names of a kustomization file.
const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// Kustomizations within kustomizations, at most.
const MAX_DEPTH: usize = 16;

/// Whether this is a kustomization file.
pub(super) fn is_kustomization(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| NAMES.contains(&name))
}

/// The objects of a kustomization.
pub(super) fn build(folder: &Path) -> Result<Vec<Document>, ManifestError> {
    build_nested(folder, &mut Vec::new())
}

fn build_nested(folder: &Path, within: &mut Vec<PathBuf>) -> Result<Vec<Document>, ManifestError> {
    let place = folder.display().to_string();
    let real = folder.canonicalize().map_err(|error| ManifestError::at(&place, error.to_string()))?;
    if within.contains(&real) || within.len() >= MAX_DEPTH {
        return Err(ManifestError::at(place, "this kustomization refers back to itself"));
    }
    let file = find_file(folder)?;
    within.push(real);
    let kustomization = read_one(&file)?;
    check_fields(&kustomization)?;
    let mut objects: Vec<Document> = Vec::new();
    for (field, path) in paths(&kustomization)? {
        let at = kustomization.place(&field);
        let found = folder.join(&path);
        let more = if found.is_dir() {
            build_nested(&found, within)?
        } else if found.is_file() {
            read_objects(&found)?
        } else {
            return Err(ManifestError::at(at, format!("{field}: there is no file or folder {}", found.display())));
        };
        for object in more {
            if let Some(twin) = objects.iter().find(|other| identity(other) == identity(&object)) {
                let what = format!("{} {} is there already, at {}", object.kind(), object.name(), twin.place(""));
                return Err(ManifestError::at(object.place(""), what));
            }
            objects.push(object);
        }
    }
    let patches = kustomization.value["patches"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, entry) in patches.iter().enumerate() {
        for patch in read_patch(&kustomization, folder, at, entry)? {
            patch.apply_to(&mut objects)?;
        }
    }
    within.pop();
    Ok(objects)
}

fn find_file(folder: &Path) -> Result<PathBuf, ManifestError> {
    let there: Vec<_> = NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
    match there.as_slice() {
        [file] => Ok(file.clone()),
        [] => Err(ManifestError::at(folder.display().to_string(), "there is no kustomization.yaml in it")),
        _ => Err(ManifestError::at(folder.display().to_string(), "there is more than one kustomization file in it")),
    }
}

fn read_one(file: &Path) -> Result<Document, ManifestError> {
    let mut documents = read_documents(file)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) if document.value.is_object() => Ok(document),
        _ => Err(ManifestError::at(file.display().to_string(), "a kustomization is one mapping")),
    }
}

fn check_fields(kustomization: &Document) -> Result<(), ManifestError> {
    for (name, value) in kustomization.value.as_object().into_iter().flatten() {
        let fits = match name.as_str() {
            "apiVersion" => value.as_str().is_some_and(|version| version.starts_with("kustomize.config.k8s.io/")),
            "kind" => value == "Kustomization",
            "resources" | "bases" | "patches" => value.is_array() || value.is_null(),
            _ => {
                let what =
                    format!("the field {name} is not supported: Mainstay reads resources, bases and patches only");
                return Err(ManifestError::at(kustomization.place(name), what));
            }
        };
        if !fits {
            return Err(ManifestError::at(
                kustomization.place(name),
                format!("{name} is not what a kustomization has there"),
            ));
        }
    }
    Ok(())
}

/// What `resources` and `bases` name, each with the path of its field.
fn paths(kustomization: &Document) -> Result<Vec<(String, String)>, ManifestError> {
    let mut paths = Vec::new();
    for list in ["resources", "bases"] {
        for (at, item) in kustomization.value[list].as_array().into_iter().flatten().enumerate() {
            let field = format!("{list}[{at}]");
            match item.as_str() {
                Some(path) if path.contains("://") || path.starts_with("git@") => {
                    let what = format!("{field}: only files and folders are read, not {path}");
                    return Err(ManifestError::at(kustomization.place(&field), what));
                }
                Some(path) => paths.push((field, path.to_owned())),
                None => return Err(ManifestError::at(kustomization.place(&field), format!("{field} must be a path"))),
            }
        }
    }
    Ok(paths)
}

fn identity(object: &Document) -> (&str, &str, Option<&str>, &str) {
    let group = object.api_version().rsplit_once('/').map_or("", |(group, _)| group);
    (group, object.kind(), object.namespace(), object.name())
}

fn read_patch(whole: &Document, folder: &Path, at: usize, entry: &Value) -> Result<Vec<Patch>, ManifestError> {
    let field = format!("patches[{at}]");
    let place = whole.place(&field);
    let wrong = |what: String| ManifestError::at(&place, format!("{field}: {what}"));
    for name in entry.as_object().ok_or_else(|| wrong("must be a mapping".to_owned()))?.keys() {
        if !matches!(name.as_str(), "path" | "patch" | "target") {
            return Err(wrong(format!("the field {name} is not supported")));
        }
    }
    let documents = match (entry["path"].as_str(), entry["patch"].as_str()) {
        (Some(path), None) => read_documents(&folder.join(path)).map_err(|error| wrong(error.to_string()))?,
        (None, Some(text)) => parse_text(&place, text)?,
        _ => return Err(wrong("needs either `path` or `patch`, a text".to_owned())),
    };
    if documents.is_empty() {
        return Err(wrong("the patch is empty".to_owned()));
    }
    let target = match &entry["target"] {
        Value::Null => None,
        target => Some(Target::read(target).map_err(wrong)?),
    };
    documents.into_iter().map(|document| Patch::read(document, target.clone(), &place)).collect()
}
