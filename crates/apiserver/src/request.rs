//! What a request asks for: the URL grammar of Kubernetes, parsed once.
//!
//! `/api/v1/...` and `/apis/GROUP/VERSION/...`, optionally `namespaces/NS`, then `PLURAL[/NAME[/SUBRESOURCE]]`.
//! Nothing here knows which kinds exist.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::status::{ApiError, ApiResult};

/// A query longer than this is refused before it is looked at.
const MAX_QUERY: usize = 16 << 10;
/// More parameters than this are refused.
const MAX_PARAMETERS: usize = 64;
/// A path longer than this names nothing we serve.
const MAX_PATH: usize = 2 << 10;

/// What the path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// An object, a collection or a subresource.
    Resource(ResourcePath<'a>),
    /// Anything else: discovery, health, documents.
    Other(&'a str),
}

/// A path below `/api/V` or `/apis/G/V`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourcePath<'a> {
    /// API group; empty for the core group.
    pub(crate) group: Cow<'a, str>,
    /// API version.
    pub(crate) version: Cow<'a, str>,
    /// Namespace, when the path has one.
    pub(crate) namespace: Option<Cow<'a, str>>,
    /// Plural.
    pub(crate) plural: Cow<'a, str>,
    /// Name of one object.
    pub(crate) name: Option<Cow<'a, str>>,
    /// Subresource.
    pub(crate) subresource: Option<Cow<'a, str>>,
}

impl ResourcePath<'_> {
    /// The same, on its own.
    pub(crate) fn to_owned_path(&self) -> ResourcePath<'static> {
        let own = |text: &Cow<'_, str>| Cow::Owned(text.to_string());
        ResourcePath {
            group: own(&self.group),
            version: own(&self.version),
            namespace: self.namespace.as_ref().map(own),
            plural: own(&self.plural),
            name: self.name.as_ref().map(own),
            subresource: self.subresource.as_ref().map(own),
        }
    }
}

/// What is to be done, in RBAC's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    /// Read one.
    Get,
    /// Read many.
    List,
    /// Follow changes.
    Watch,
    /// Make one.
    Create,
    /// Replace one.
    Update,
    /// Change parts of one.
    Patch,
    /// Remove one.
    Delete,
    /// Remove many.
    DeleteCollection,
}

impl Verb {
    /// The word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// The verb of a method on a path; `None` when the method is not one that the API knows.
    pub(crate) fn of(method: &Method, path: &ResourcePath<'_>, query: &Query<'_>) -> Option<Self> {
        Some(match (method.as_str(), path.name.is_some()) {
            ("GET" | "HEAD", _) if path.subresource.is_none() && query.flag("watch").unwrap_or(false) => Self::Watch,
            ("GET" | "HEAD", true) => Self::Get,
            ("GET" | "HEAD", false) => Self::List,
            ("POST", _) => Self::Create,
            ("PUT", true) => Self::Update,
            ("PATCH", true) => Self::Patch,
            ("DELETE", true) => Self::Delete,
            ("DELETE", false) => Self::DeleteCollection,
            _ => return None,
        })
    }
}

/// Reads the path.
///
/// # Errors
/// 404 when it is longer than any path that we serve, 400 when it is not UTF-8.
pub(crate) fn target(path: &str) -> ApiResult<Target<'_>> {
    if path.len() > MAX_PATH {
        return Err(ApiError::new(414, "BadRequest", "the path is too long"));
    }
    let rest = match path.strip_prefix("/api/") {
        Some(rest) => Some(("", rest)),
        None => path.strip_prefix("/apis/").and_then(|rest| rest.split_once('/')),
    };
    let Some((group, rest)) = rest else { return Ok(Target::Other(path)) };
    let mut parts = rest.trim_end_matches('/').split('/');
    let version = parts.next().unwrap_or_default();
    let Some(first) = parts.next() else { return Ok(Target::Other(path)) };
    let second = parts.next();
    let third = parts.next();
    // `namespaces/NAME` is the object itself; `namespaces/NAME/X` is X inside it, save for its own subresources.
    let namespaced = first == "namespaces" && third.is_some_and(|third| !matches!(third, "status" | "finalize"));
    let (namespace, plural, name, subresource) = if namespaced {
        (second, third.unwrap_or_default(), parts.next(), parts.next())
    } else {
        (None, first, second, third)
    };
    let empty = [Some(plural), name, namespace, subresource].into_iter().flatten().any(str::is_empty);
    if parts.next().is_some() || empty {
        return Err(ApiError::no_such_path());
    }
    Ok(Target::Resource(ResourcePath {
        group: decode(group)?,
        version: decode(version)?,
        namespace: namespace.map(decode).transpose()?,
        plural: decode(plural)?,
        name: name.map(decode).transpose()?,
        subresource: subresource.map(decode).transpose()?,
    }))
}

fn decode(text: &str) -> ApiResult<Cow<'_, str>> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let two_digits = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !text.split('%').skip(1).all(two_digits) {
        return Err(ApiError::bad_request("the URL has a '%' that two hexadecimal digits do not follow"));
    }
    percent_decode_str(text).decode_utf8().map_err(|_| ApiError::bad_request("the URL is not valid UTF-8"))
}

/// The query's parameters, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Parses a query; empty parameters (kube-rs begins with `&`) are skipped.
    ///
    /// # Errors
    /// 414 when it is too long, 400 when it has too many parameters or is not UTF-8.
    pub(crate) fn parse(text: Option<&'a str>) -> ApiResult<Self> {
        let text = text.unwrap_or_default();
        if text.len() > MAX_QUERY {
            return Err(ApiError::new(414, "BadRequest", format!("the query is longer than {MAX_QUERY} bytes")));
        }
        let mut found = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if found.len() == MAX_PARAMETERS {
                return Err(ApiError::bad_request(format!("the query has more than {MAX_PARAMETERS} parameters")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            found.push((form_decode(name)?, form_decode(value)?));
        }
        Ok(Self(found))
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// A boolean parameter: present and empty is true, as upstream has it.
    ///
    /// # Errors
    /// 400 for anything but true, false, 1 and 0.
    pub(crate) fn flag(&self, name: &str) -> ApiResult<bool> {
        match self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value) {
            None | Some("0" | "false" | "False" | "FALSE" | "f" | "F") => Ok(false),
            Some("" | "1" | "true" | "True" | "TRUE" | "t" | "T") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!("{name}: {other:?} is not true or false"))),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// 400 when it is none.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> ApiResult<Option<T>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| ApiError::bad_request(format!("{name}: {text:?} is not a valid number")))
            })
            .transpose()
    }
}

fn form_decode(text: &str) -> ApiResult<Cow<'_, str>> {
    if text.contains('+') {
        decode(&text.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()))
    } else {
        decode(text)
    }
}

#[cfg(test)]
mod tests;
