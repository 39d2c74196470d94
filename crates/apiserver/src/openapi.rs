//! OpenAPI v3: an index, and a document per group and version, derived from the registry.
//!
//! kubectl reads these for `explain`, and to see whether the server validates fields itself (it does: the write
//! operations have `fieldValidation`). Documents are built at the first request, once, and served from memory. There
//! is no OpenAPI v2: kubectl does without since 1.27.

mod definitions;
mod names;
mod parameters;
mod paths;

use std::collections::HashMap;
use std::sync::OnceLock;

use http::HeaderMap;
use mainstay_api::Registry;
use serde_json::{Map, Value, json};

use crate::discovery::{Document, Group, NoDocument, groups};
use crate::table::accept::{self, Clause};

/// Path of the index.
const INDEX: &str = "/openapi/v3";

/// The OpenAPI documents of a registry.
#[derive(Debug)]
pub struct OpenApi {
    groups: Vec<Group>,
    documents: OnceLock<HashMap<String, Document>>,
}

impl OpenApi {
    /// Documents of a registry; building them waits for the first request.
    pub fn new(registry: &Registry) -> Self {
        Self { groups: groups(registry), documents: OnceLock::new() }
    }

    /// The document at a path: `/openapi/v3`, or `/openapi/v3/` and the path of a group and version.
    ///
    /// # Errors
    /// [`NoDocument`], also for OpenAPI v2.
    pub fn answer(&self, path: &str, headers: &HeaderMap) -> Result<&Document, NoDocument> {
        let path = path.strip_suffix('/').unwrap_or(path);
        if path != INDEX && !path.starts_with("/openapi/v3/") {
            return Err(NoDocument::NotFound);
        }
        let documents = self.documents.get_or_init(|| build(&self.groups));
        let document = documents.get(path).ok_or(NoDocument::NotFound)?;
        accept::first(headers, (), json_clause).ok_or(NoDocument::NotAcceptable)?;
        Ok(document)
    }
}

fn json_clause(clause: &Clause<'_>) -> Option<()> {
    (clause.takes_json() && clause.transform.is_none()).then_some(())
}

fn build(groups: &[Group]) -> HashMap<String, Document> {
    let mut documents = HashMap::new();
    let mut index = Map::new();
    for group in groups {
        for (version, resources) in &group.versions {
            let path = group.path(version);
            let document = Document::json(&json!({
                "openapi": "3.0.0",
                "info": { "title": "Mainstay", "version": env!("CARGO_PKG_VERSION") },
                "paths": paths::of(&format!("/{path}"), resources),
                "components": { "schemas": definitions::of(resources) },
            }));
            let url = format!("{INDEX}/{path}?hash={}", document.hash);
            index.insert(path.clone(), json!({ "serverRelativeURL": url }));
            documents.insert(format!("{INDEX}/{path}"), document);
        }
    }
    documents.insert(INDEX.to_owned(), Document::json(&json!({ "paths": Value::from(index) })));
    documents
}

#[cfg(test)]
mod tests;
