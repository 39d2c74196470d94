//! What the server serves, for clients: aggregated and legacy discovery, derived from the registry.
//!
//! The documents are made once and are the same for every caller and every start with the same registry: groups and
//! resources come in the order of their registration, and the ETag is a hash of the bytes.

mod aggregated;
mod document;
mod legacy;
mod resources;

use std::collections::HashMap;

use http::HeaderMap;
use mainstay_api::Registry;

use crate::table::accept::{self, Clause};
pub use document::Document;
pub use resources::{Group, Resource, Subresource, groups};

/// The forms of `/api` and `/apis`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Legacy,
    V2,
    V2Beta1,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoDocument {
    /// 404: no document has this path.
    #[error("the server could not find the requested resource")]
    NotFound,
    /// 406: it has no form that the caller accepts.
    #[error("only the following media types are accepted: application/json")]
    NotAcceptable,
}

/// All discovery documents of a registry.
#[derive(Debug)]
pub struct Discovery {
    documents: HashMap<String, Document>,
    aggregated: HashMap<(&'static str, bool), Document>,
}

impl Discovery {
    /// Makes the documents.
    pub fn new(registry: &Registry) -> Self {
        let groups = groups(registry);
        let (core, named): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.name.is_empty());
        let mut documents = HashMap::from([
            ("/api".to_owned(), Document::json(&legacy::versions(&core))),
            ("/apis".to_owned(), Document::json(&legacy::group_list(&named))),
        ]);
        for group in core.iter().chain(&named) {
            if !group.name.is_empty() {
                documents.insert(format!("/apis/{}", group.name), Document::json(&legacy::group(group, true)));
            }
            for (version, resources) in &group.versions {
                let path = group.path(version);
                let list = legacy::resource_list(&group.group_version(version), resources);
                documents.insert(format!("/{path}"), Document::json(&list));
            }
        }
        let mut aggregated = HashMap::new();
        for (path, groups) in [("/api", &core), ("/apis", &named)] {
            for beta in [false, true] {
                aggregated.insert((path, beta), aggregated::document(groups, beta));
            }
        }
        Self { documents, aggregated }
    }

    /// The document at a path, in the form that the caller likes best.
    ///
    /// # Errors
    /// [`NoDocument`].
    pub fn answer(&self, path: &str, headers: &HeaderMap) -> Result<&Document, NoDocument> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let plain = self.documents.get(path).ok_or(NoDocument::NotFound)?;
        let form = accept::first(headers, Form::Legacy, form).ok_or(NoDocument::NotAcceptable)?;
        let key = match path {
            "/api" => "/api",
            "/apis" => "/apis",
            _ => return Ok(plain),
        };
        let aggregated = match form {
            Form::Legacy => None,
            Form::V2 => self.aggregated.get(&(key, false)),
            Form::V2Beta1 => self.aggregated.get(&(key, true)),
        };
        Ok(aggregated.unwrap_or(plain))
    }
}

fn form(clause: &Clause<'_>) -> Option<Form> {
    if !clause.takes_json() {
        return None;
    }
    match (clause.transform, clause.group, clause.version) {
        (None, _, _) => Some(Form::Legacy),
        (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => Some(Form::V2),
        (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => Some(Form::V2Beta1),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
