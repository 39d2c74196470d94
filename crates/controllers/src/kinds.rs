//! Where the objects of a registered kind are found.

use mainstay_api::Kind;

/// The path of a kind's collection in one namespace, or, without one, of all its objects.
pub(crate) fn collection(kind: &Kind, namespace: Option<&str>) -> String {
    let base = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    match namespace.filter(|_| kind.namespaced) {
        Some(namespace) => format!("{base}/{}/namespaces/{namespace}/{}", kind.version, kind.plural),
        None => format!("{base}/{}/{}", kind.version, kind.plural),
    }
}
