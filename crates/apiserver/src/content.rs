//! Request bodies: read under a limit, and parsed once into a value with bounded depth.
//!
//! The parser of this module builds the value itself, so that a key given twice is seen (`fieldValidation`) without a
//! second pass over the bytes.

use std::fmt;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::UserMessageFormatter;

use crate::body::BodyError;
use crate::status::{ApiError, ApiResult};

/// JSON nested deeper than this is refused.
pub(crate) const MAX_DEPTH: usize = 64;
/// More duplicates than this are not named one by one.
const MAX_DUPLICATES: usize = 32;

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// 413 when it is larger, 400 when the connection broke off.
pub(crate) async fn read<B>(headers: &HeaderMap, mut body: B, limit: usize) -> ApiResult<Bytes>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    let too_large = || ApiError::too_large(format!("the request body is larger than the limit of {limit} bytes"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("the request body could not be read: {}", Into::<BodyError>::into(error)))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len().max(rest.len()) + data.len() > limit {
            return Err(too_large());
        }
        if first.is_empty() {
            first = data;
            continue;
        }
        // Only a body of several frames is copied.
        if rest.is_empty() {
            rest.reserve(announced.unwrap_or(0).max(first.len() + data.len()));
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// The media types of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    /// `application/json`, or no type at all.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/merge-patch+json`.
    MergePatch,
    /// `application/json-patch+json`.
    JsonPatch,
    /// `application/strategic-merge-patch+json`.
    StrategicPatch,
    /// `application/apply-patch+yaml`.
    ApplyPatch,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
    /// Anything else.
    Unknown,
}

impl Media {
    /// The type of a request's body.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Self::Json };
        let text = value.to_str().unwrap_or("?").to_ascii_lowercase();
        match text.split(';').next().unwrap_or_default().trim() {
            "" | "application/json" => Self::Json,
            "application/yaml" | "application/x-yaml" | "text/yaml" => Self::Yaml,
            "application/merge-patch+json" => Self::MergePatch,
            "application/json-patch+json" => Self::JsonPatch,
            "application/strategic-merge-patch+json" => Self::StrategicPatch,
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Self::ApplyPatch,
            "application/vnd.kubernetes.protobuf" => Self::Protobuf,
            _ => Self::Unknown,
        }
    }
}

/// A parsed body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parsed {
    /// Its value; of a key given twice the last.
    pub(crate) value: Value,
    /// Keys given twice, as `duplicate field "PATH"`.
    pub(crate) duplicates: Vec<String>,
}

/// Parses an object sent as JSON or YAML.
///
/// # Errors
/// 415 for other types, 400 for what cannot be parsed or is nested too deeply.
pub(crate) fn parse_object(headers: &HeaderMap, bytes: &[u8]) -> ApiResult<Parsed> {
    match Media::of(headers) {
        Media::Json => parse_json(bytes),
        Media::Yaml => parse_yaml(bytes),
        Media::Protobuf => Err(ApiError::unsupported_media_type(
            "protobuf bodies are not supported by this server; send application/json or application/yaml",
        )),
        _ => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml",
        )),
    }
}

/// Parses what is no object of a kind, but the parameters of an action.
///
/// # Errors
/// As [`parse_object`], and 400 for what is no map of fields: an empty list is not taken for no fields.
pub(crate) fn parse_fields(headers: &HeaderMap, bytes: &[u8], what: &str) -> ApiResult<Value> {
    let value = parse_object(headers, bytes)?.value;
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::bad_request(format!("the body is not {what}: it must be an object")))
    }
}

/// Parses JSON.
///
/// # Errors
/// 400 for what cannot be parsed or is nested too deeply.
pub(crate) fn parse_json(bytes: &[u8]) -> ApiResult<Parsed> {
    let mut duplicates = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Node { path: &Path::Root, depth: 0, duplicates: &mut duplicates }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))?;
    Ok(Parsed { value, duplicates })
}

fn parse_yaml(bytes: &[u8]) -> ApiResult<Parsed> {
    let wrong = |error: &dyn fmt::Display| ApiError::bad_request(format!("the body is not valid YAML: {error}"));
    let text = std::str::from_utf8(bytes).map_err(|error| wrong(&error))?;
    // `y` and `no` are words here, as in YAML 1.2. A snippet would show the lines around the error, and with them what
    // may be secret.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let value: Value = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| wrong(&error.render_with_formatter(&UserMessageFormatter)))?;
    if deeper_than(&value, MAX_DEPTH) {
        return Err(wrong(&format_args!("it is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(Parsed { value, duplicates: Vec::new() })
}

/// Whether a value is nested deeper than `levels`.
pub(crate) fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1)),
        Value::Object(fields) => levels == 0 || fields.values().any(|field| deeper_than(field, levels - 1)),
        _ => false,
    }
}

/// Where in the document we are; built on the stack, spelled out only for a message.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Path::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Node<'a> {
    path: &'a Path<'a>,
    depth: usize,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        check_depth(self.depth)?;
        let mut found = Vec::new();
        loop {
            let path = Path::Item(self.path, found.len());
            let node = Node { path: &path, depth: self.depth + 1, duplicates: self.duplicates };
            match items.next_element_seed(node)? {
                Some(item) => found.push(item),
                None => return Ok(Value::Array(found)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        check_depth(self.depth)?;
        let mut found = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = Path::Field(self.path, &name);
            let node = Node { path: &path, depth: self.depth + 1, duplicates: self.duplicates };
            let value = fields.next_value_seed(node)?;
            if found.contains_key(&name) && self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(format!("duplicate field \"{}\"", Path::Field(self.path, &name)));
            }
            found.insert(name, value);
        }
        Ok(Value::Object(found))
    }
}

fn check_depth<E: Error>(depth: usize) -> Result<(), E> {
    if depth >= MAX_DEPTH {
        return Err(E::custom(format_args!("it is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_parsed_as_serde_json_does() {
        let text = r#"{"a":[1,-2,3.5,"x\n",null,true],"b":{"c":{}}}"#;
        let parsed = parse_json(text.as_bytes()).unwrap();
        assert_eq!(parsed.value, serde_json::from_str::<Value>(text).unwrap());
        assert!(parsed.duplicates.is_empty());
    }

    #[test]
    fn duplicates_are_named_with_their_path() {
        let parsed = parse_json(br#"{"spec":{"list":[{"x":1,"x":2}],"p":1,"p":2}}"#).unwrap();
        assert_eq!(parsed.duplicates, [r#"duplicate field "spec.list[0].x""#, r#"duplicate field "spec.p""#]);
        assert_eq!(parsed.value["spec"]["p"], 2);
    }

    #[test]
    fn depth_is_bounded_exactly() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse_json(nested(MAX_DEPTH).as_bytes()).is_ok());
        for depth in [MAX_DEPTH + 1, 100_000] {
            assert_eq!(parse_json(nested(depth).as_bytes()).unwrap_err().code(), 400, "{depth}");
        }
        let yaml = nested(MAX_DEPTH + 1);
        assert_eq!(parse_yaml(yaml.as_bytes()).unwrap_err().code(), 400);
    }

    #[test]
    fn what_is_no_json_is_a_bad_request() {
        for text in ["", "{", "{}x", "{\"a\":}", "nul", "\u{feff}{}", "[1,]"] {
            assert_eq!(parse_json(text.as_bytes()).unwrap_err().code(), 400, "{text:?}");
        }
        assert_eq!(parse_json(b"{\"a\":\"\xff\"}").unwrap_err().code(), 400);
    }

    #[test]
    fn what_is_wrong_is_not_quoted() {
        for text in [
            "token: hush\nother: [hush",
            "token: hush\n\tx: *hush2",
            "{token: hush, a: 1, a: 2}",
            "token: hush\n---\nb: 1\n",
        ] {
            let error = parse_yaml(text.as_bytes()).unwrap_err();
            assert!(!error.message().contains("hush:") && !error.message().contains(": hush"), "{error}");
            assert!(!error.message().contains('\n') && error.message().contains("line"), "{error}");
        }
    }

    #[test]
    fn parameters_are_a_map() {
        let headers = HeaderMap::new();
        assert!(parse_fields(&headers, b"{}", "a thing").is_ok());
        for text in ["[]", "null", "5", "\"x\""] {
            assert_eq!(parse_fields(&headers, text.as_bytes(), "a thing").unwrap_err().code(), 400, "{text}");
        }
    }

    #[test]
    fn yaml_becomes_the_same_value() {
        let parsed = parse_yaml(b"kind: ConfigMap\ndata:\n  a: \"1\"\n").unwrap();
        assert_eq!(parsed.value, serde_json::json!({"kind": "ConfigMap", "data": {"a": "1"}}));
    }
}
