//! URL paths, with every part that people type encoded.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What may stand in a path segment or a query value as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes a path segment or a query value.
pub(crate) fn encode(text: &str) -> String {
    // `.` and `..` would be taken for steps in the path.
    if matches!(text, "." | "..") {
        return text.replace('.', "%2E");
    }
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Adds `name=value` to a path.
pub(crate) fn with_query(path: &mut String, name: &str, value: &str) {
    let separator = if path.contains('?') { '&' } else { '?' };
    // Writing to a String cannot fail.
    let _ = write!(path, "{separator}{name}={}", encode(value));
}

/// The path of our own kind's object, or of one of its subresources.
pub(crate) fn session(namespace: &str, name: &str, sub: &str) -> String {
    let path = format!("/apis/mainstay.dev/v1alpha1/namespaces/{}/sessions/{}", encode(namespace), encode(name));
    if sub.is_empty() { path } else { format!("{path}/{sub}") }
}

/// The path of an agent.
pub(crate) fn agent(namespace: &str, name: &str) -> String {
    format!("/apis/mainstay.dev/v1alpha1/namespaces/{}/agents/{}", encode(namespace), encode(name))
}

/// The path of the sessions of a namespace.
pub(crate) fn sessions(namespace: &str) -> String {
    format!("/apis/mainstay.dev/v1alpha1/namespaces/{}/sessions", encode(namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(
            session("a/b", "..", "messages"),
            "/apis/mainstay.dev/v1alpha1/namespaces/a%2Fb/sessions/%2E%2E/messages"
        );
        let mut path = "/x".to_owned();
        with_query(&mut path, "labelSelector", "a=b,c");
        with_query(&mut path, "limit", "5");
        assert_eq!(path, "/x?labelSelector=a%3Db%2Cc&limit=5");
    }
}
