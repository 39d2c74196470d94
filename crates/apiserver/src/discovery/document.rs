//! A document that is made once and served many times.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderValue, IF_NONE_MATCH};
use serde_json::Value;

/// Bytes, their media type and their hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `Content-Type`.
    pub media: HeaderValue,
    /// The bytes; cloning shares them.
    pub body: Bytes,
    /// SHA-256 of the bytes, in hexadecimal.
    pub hash: String,
}

impl Document {
    /// A JSON document.
    pub fn json(value: &Value) -> Self {
        Self::new(HeaderValue::from_static("application/json"), value)
    }

    /// A JSON document under another media type.
    pub fn new(media: HeaderValue, value: &Value) -> Self {
        let body = value.to_string().into_bytes();
        let hash = digest(&SHA256, &body).as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02X}");
            text
        });
        Self { media, body: body.into(), hash }
    }

    /// The value of the `ETag` header.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.hash)
    }

    /// Whether the caller has it already (`If-None-Match`): the answer is then 304 without a body.
    pub fn is_known(&self, headers: &HeaderMap) -> bool {
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        known.flat_map(|text| text.split(',')).any(|tag| {
            let tag = tag.trim();
            let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
            tag == self.hash || tag == "*"
        })
    }
}
