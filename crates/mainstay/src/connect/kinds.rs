//! The kinds that the server serves, by its discovery: a kind added to the server is known here at once.

use serde_json::Value;

use super::{Server, path};
use crate::cli::failure::{CliError, CliResult};

/// One kind of the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KindInfo {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl KindInfo {
    /// `GROUP/VERSION`, or `VERSION` in the core group.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `KIND.GROUP/NAME` in lower case, as `-o name` and results show it.
    pub(crate) fn reference(&self, name: &str) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        format!("{}{group}/{name}", self.singular)
    }

    /// The path of all objects, or of those of one namespace.
    pub(crate) fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        let scope = namespace.filter(|_| self.namespaced);
        let scope = scope.map(|name| format!("namespaces/{}/", path::encode(name))).unwrap_or_default();
        format!("{root}/{}/{scope}{}", self.version, self.plural)
    }

    /// The path of one object.
    pub(crate) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(Some(namespace)), path::encode(name))
    }

    fn answers_to(&self, word: &str) -> bool {
        self.plural == word || self.singular == word || self.short_names.iter().any(|short| short == word)
    }

    fn of(group: &str, version: &str, resource: &Value) -> Option<Self> {
        let text = |name: &str| resource[name].as_str().unwrap_or_default().to_owned();
        let list = |name: &str| {
            let items = resource[name].as_array().map(Vec::as_slice).unwrap_or_default();
            items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let (kind, plural) = (text("kind"), text("name"));
        let singular =
            Some(text("singularName")).filter(|name| !name.is_empty()).unwrap_or_else(|| kind.to_lowercase());
        // `pods/log` and the like are not kinds.
        (!plural.contains('/')).then(|| Self {
            group: resource["group"].as_str().unwrap_or(group).to_owned(),
            version: resource["version"].as_str().unwrap_or(version).to_owned(),
            kind,
            plural,
            singular,
            short_names: list("shortNames"),
            categories: list("categories"),
            namespaced: resource["namespaced"].as_bool().unwrap_or(false),
            verbs: list("verbs"),
        })
    }
}

/// All kinds of a server, the core group first.
#[derive(Debug, Clone)]
pub(crate) struct Kinds(Vec<KindInfo>);

impl Kinds {
    /// Asks the server.
    pub(crate) async fn discover(server: &Server) -> CliResult<Self> {
        let mut kinds = Vec::new();
        kinds.extend(read(&server.get("/api/v1").await?, "", "v1"));
        let groups = server.get("/apis").await?;
        for group in groups["groups"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let (name, version) = (&group["name"], &group["preferredVersion"]["version"]);
            let (Some(name), Some(version)) = (name.as_str(), version.as_str()) else { continue };
            kinds.extend(read(&server.get(&format!("/apis/{name}/{version}")).await?, name, version));
        }
        Ok(Self(kinds))
    }

    /// These kinds.
    #[cfg(test)]
    pub(crate) fn of(kinds: Vec<KindInfo>) -> Self {
        Self(kinds)
    }

    /// The kinds that a word means: a plural, singular, kind or short name in any case, optionally with `.GROUP` or
    /// `.VERSION.GROUP`, or a category.
    pub(crate) fn by_word(&self, word: &str) -> CliResult<Vec<&KindInfo>> {
        let lower = word.to_lowercase();
        let (name, group) = lower.split_once('.').map_or((lower.as_str(), None), |(name, group)| (name, Some(group)));
        let in_group = |kind: &KindInfo| {
            group.is_none_or(|group| kind.group == group || format!("{}.{}", kind.version, kind.group) == group)
        };
        if let Some(kind) = self.0.iter().find(|kind| in_group(kind) && kind.answers_to(name)) {
            return Ok(vec![kind]);
        }
        let of_category = self.0.iter().filter(|kind| kind.categories.contains(&lower));
        let found: Vec<_> = of_category.filter(|kind| kind.verbs.iter().any(|verb| verb == "list")).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let mut known: Vec<_> = self.0.iter().map(|kind| kind.plural.as_str()).collect();
        known.sort_unstable();
        Err(CliError::Usage(format!("the server has no kind \"{word}\"; it has {}", known.join(", "))))
    }

    /// The kind of a manifest.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&KindInfo> {
        self.0.iter().find(|info| info.kind == kind && info.api_version() == api_version)
    }
}

fn read(list: &Value, group: &str, version: &str) -> Vec<KindInfo> {
    let resources = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    resources.iter().filter_map(|resource| KindInfo::of(group, version, resource)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A few kinds, as a server would list them.
    pub(crate) fn sample() -> Kinds {
        let core = json!({"resources": [
            {"name": "pods", "singularName": "pod", "kind": "Pod", "namespaced": true, "shortNames": ["po"], "verbs": ["list"]},
            {"name": "pods/log", "singularName": "", "kind": "Pod", "namespaced": true, "verbs": ["get"]},
            {"name": "namespaces", "singularName": "namespace", "kind": "Namespace", "namespaced": false, "verbs": ["list"]},
            {"name": "secrets", "singularName": "secret", "kind": "Secret", "namespaced": true, "verbs": ["list"]},
            {"name": "configmaps", "singularName": "configmap", "kind": "ConfigMap", "namespaced": true, "verbs": ["list"]},
        ]});
        let ours = json!({"resources": [
            {"name": "sessions", "singularName": "session", "kind": "Session", "namespaced": true,
             "shortNames": ["sess"], "categories": ["mainstay"], "verbs": ["list"]},
            {"name": "projects", "singularName": "project", "kind": "Project", "namespaced": false,
             "shortNames": ["proj"], "categories": ["mainstay"], "verbs": ["list"]},
            {"name": "credentials", "singularName": "credential", "kind": "Credential", "namespaced": true,
             "shortNames": ["cred", "creds"], "categories": ["mainstay"], "verbs": ["list"]},
        ]});
        Kinds::of([read(&core, "", "v1"), read(&ours, "mainstay.dev", "v1alpha1")].concat())
    }

    #[test]
    fn a_word_finds_its_kind() {
        let kinds = sample();
        let plural =
            |word: &str| kinds.by_word(word).unwrap().iter().map(|kind| kind.plural.clone()).collect::<Vec<_>>();
        for word in ["sess", "Session", "sessions", "session.mainstay.dev", "sessions.v1alpha1.mainstay.dev", "SESS"] {
            assert_eq!(plural(word), ["sessions"], "{word}");
        }
        assert_eq!(plural("mainstay"), ["sessions", "projects", "credentials"]);
        assert_eq!(plural("po"), ["pods"]);
        let error = kinds.by_word("sessions.apps").unwrap_err().to_string();
        assert!(error.starts_with("the server has no kind \"sessions.apps\"; it has configmaps, "), "{error}");
    }

    #[test]
    fn paths_follow_the_scope() {
        let kinds = sample();
        let kind = |word| kinds.by_word(word).unwrap()[0];
        assert_eq!(kind("sess").object("a", "b"), "/apis/mainstay.dev/v1alpha1/namespaces/a/sessions/b");
        assert_eq!(kind("proj").object("a", "b"), "/apis/mainstay.dev/v1alpha1/projects/b");
        assert_eq!(kind("po").collection(None), "/api/v1/pods");
        assert_eq!(kind("sess").reference("x"), "session.mainstay.dev/x");
    }
}
