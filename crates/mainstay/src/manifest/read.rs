//! Where manifests come from: files, folders and standard input.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Document, ManifestError, kustomize, step, yaml};

/// A file larger than this is refused.
const MAX_FILE: u64 = 64 << 20;

/// Where manifests come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    /// Files, folders, or `-`.
    pub(crate) files: Vec<PathBuf>,
    /// A folder with a kustomization.
    pub(crate) kustomization: Option<PathBuf>,
    /// Folders within folders too.
    pub(crate) recursive: bool,
}

/// Reads all manifests, lists taken apart, in the order given.
pub(crate) fn read_all(source: &Source) -> Result<Vec<Document>, ManifestError> {
    let mut documents = Vec::new();
    for file in &source.files {
        for path in files_of(file, source.recursive)? {
            documents.extend(read_objects(&path)?);
        }
    }
    if let Some(folder) = &source.kustomization {
        documents.extend(kustomize::build(folder)?);
    }
    if documents.is_empty() {
        let given: Vec<_> =
            source.files.iter().chain(&source.kustomization).map(|path| path.display().to_string()).collect();
        return Err(ManifestError::at(given.join(", "), "no manifest in it"));
    }
    Ok(documents)
}

/// The objects of one file, each checked to have a kind and a name.
pub(super) fn read_objects(path: &Path) -> Result<Vec<Document>, ManifestError> {
    let mut objects = Vec::new();
    for document in read_documents(path)? {
        flatten(document, &mut objects)?;
    }
    Ok(objects)
}

/// The documents of one file as they are; `-` is standard input.
pub(super) fn read_documents(path: &Path) -> Result<Vec<Document>, ManifestError> {
    let stdin = path == Path::new("-");
    let name = if stdin { "<stdin>".to_owned() } else { path.display().to_string() };
    let failed = |error: std::io::Error| ManifestError::at(&name, error.to_string());
    let mut text = String::new();
    let size = if stdin {
        std::io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
    };
    if size.map_err(failed)? as u64 > MAX_FILE {
        return Err(ManifestError::at(&name, "larger than 64 MiB"));
    }
    parse_text(&name, &text)
}

/// JSON is read as JSON: what YAML makes of tabs and long lines does not matter then.
pub(super) fn parse_text(name: &str, text: &str) -> Result<Vec<Document>, ManifestError> {
    if text.trim_start().starts_with('{') {
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        if let Ok(values) = values {
            // The parser for YAML gives the lines, where it can read the text.
            if let Ok(documents) = yaml::parse(name, text)
                && documents.len() == values.len()
            {
                return Ok(documents);
            }
            let document = |value| Document { file: name.to_owned(), value, ..Document::default() };
            return Ok(values.into_iter().map(document).collect());
        }
    }
    yaml::parse(name, text)
}

/// A `List` is its items.
fn flatten(document: Document, objects: &mut Vec<Document>) -> Result<(), ManifestError> {
    let is_list = document.kind().ends_with("List") && document.value["items"].is_array();
    if !is_list {
        document.check()?;
        objects.push(document);
        return Ok(());
    }
    for (at, item) in document.value["items"].as_array().into_iter().flatten().enumerate() {
        let prefix = step("", &format!("items[{at}]"));
        let below = |path: &String| Some(path.strip_prefix(&prefix)?.trim_start_matches('.').to_owned());
        let lines = document.lines.iter().filter_map(|(path, line)| Some((below(path)?, *line)));
        flatten(Document { file: document.file.clone(), value: item.clone(), lines: lines.collect() }, objects)?;
    }
    Ok(())
}

fn files_of(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, ManifestError> {
    let place = path.display().to_string();
    if place.starts_with("http://") || place.starts_with("https://") {
        return Err(ManifestError::at(place, "manifests are not fetched from URLs: download it and look at it first"));
    }
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error: std::io::Error| ManifestError::at(&place, error.to_string());
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        let extension = entry.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if entry.is_dir() && recursive {
            files.extend(files_of(&entry, recursive)?);
        } else if kustomize::is_kustomization(&entry) {
            return Err(ManifestError::at(place, "this folder is a kustomization: use -k"));
        } else if matches!(extension, "yaml" | "yml" | "json") && entry.is_file() {
            files.push(entry);
        }
    }
    Ok(files)
}
