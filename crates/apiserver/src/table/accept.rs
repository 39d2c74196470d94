//! Which form an `Accept` header asks for.
//!
//! Clients list several forms, the best first; what this server does not speak (protobuf) is passed over. A missing
//! header means JSON.

use http::HeaderMap;
use http::header::ACCEPT;

/// No more clauses are looked at.
const MAX_CLAUSES: usize = 32;

/// A version of `meta.k8s.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1`
    V1,
    /// `v1beta1`
    V1Beta1,
}

impl Version {
    /// `meta.k8s.io/VERSION`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// The form of an answer; all are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// A Table.
    Table(Version),
    /// `PartialObjectMetadata`, or its list.
    Metadata(Version),
}

/// One clause: a media type with parameters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clause<'a> {
    pub(crate) media: &'a str,
    pub(crate) transform: Option<&'a str>,
    pub(crate) group: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
    /// In thousandths.
    quality: u16,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut clause = Self { media: parts.next().unwrap_or_default(), quality: 1000, ..Self::default() };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim_matches('"');
            match name {
                "as" => clause.transform = Some(value),
                "g" => clause.group = Some(value),
                "v" => clause.version = Some(value),
                "q" => clause.quality = quality(value),
                _ => {}
            }
        }
        clause
    }

    /// Whether it asks for JSON, or would take it.
    pub(crate) fn takes_json(&self) -> bool {
        matches!(self.media, "application/json" | "application/*" | "*/*")
    }
}

fn form(clause: &Clause<'_>) -> Option<Form> {
    if !clause.takes_json() {
        return None;
    }
    let Some(transform) = clause.transform else { return Some(Form::Object) };
    let version = match (clause.group, clause.version) {
        (Some("meta.k8s.io"), Some("v1")) => Version::V1,
        (Some("meta.k8s.io"), Some("v1beta1")) => Version::V1Beta1,
        _ => return None,
    };
    match transform {
        "Table" => Some(Form::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Metadata(version)),
        _ => None,
    }
}

/// `0.8` in thousandths; what cannot be read counts as 1.
fn quality(text: &str) -> u16 {
    let digits = text.strip_prefix("0.").map(|fraction| format!("{fraction:0<3}"));
    match digits.as_deref().map(|digits| digits.get(..3).and_then(|digits| digits.parse().ok())) {
        Some(Some(thousandths)) => thousandths,
        _ if matches!(text, "0" | "0.") => 0,
        _ => 1000,
    }
}

/// What the first acceptable clause asks for, in order of preference; `None` when there are clauses but none is
/// acceptable. Without a header, `missing`.
pub(crate) fn first<T>(headers: &HeaderMap, missing: T, read: impl Fn(&Clause<'_>) -> Option<T>) -> Option<T> {
    let texts = headers.get_all(ACCEPT).iter().map(|value| value.to_str().unwrap_or("?"));
    let mut clauses: Vec<Clause<'_>> = texts
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .take(MAX_CLAUSES)
        .map(Clause::parse)
        .collect();
    if clauses.is_empty() {
        return Some(missing);
    }
    clauses.sort_by_key(|clause| std::cmp::Reverse(clause.quality));
    clauses.iter().filter(|clause| clause.quality > 0).find_map(read)
}

/// Which form of objects a request asks for.
///
/// # Errors
/// The message of a 406 NotAcceptable.
pub fn negotiate(headers: &HeaderMap) -> Result<Form, &'static str> {
    first(headers, Form::Object, form).ok_or(
        "only the following media types are accepted: application/json, application/json;as=Table;g=meta.k8s.io;v=v1, \
         application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, \
         application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    )
}
