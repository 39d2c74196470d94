//! One rule of a role: what it matches, and whether other rules cover it.

use serde::{Deserialize, Serialize};

use super::Attributes;

/// A PolicyRule. Rules only ever allow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs; `*` for all.
    pub verbs: Vec<String>,
    /// API groups; `*` for all, empty string for the core group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources: `x`, `x/sub`, `*/sub`, or `*` for all with all subresources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths that are no resources; a trailing `*` matches any rest.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

const ALL: &str = "*";

impl Rule {
    /// Whether the rule allows it; scope (namespace) is the binding's matter.
    pub fn allows(&self, what: &Attributes<'_>) -> bool {
        if !has(&self.verbs, what.verb) {
            return false;
        }
        if what.resource.is_empty() {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, what.path));
        }
        has(&self.api_groups, what.group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, what.resource, what.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == what.name))
    }

    /// Whether `held` together allow everything that this rule allows.
    pub fn is_covered_by(&self, held: &[&Rule]) -> bool {
        let each = |verb: &String| {
            self.non_resource_urls.iter().all(|path| held.iter().any(|rule| rule.covers_path(verb, path)))
                && self
                    .api_groups
                    .iter()
                    .all(|group| self.resources.iter().all(|resource| self.names_covered(held, verb, group, resource)))
        };
        self.verbs.iter().all(each)
    }

    fn names_covered(&self, held: &[&Rule], verb: &str, group: &str, resource: &str) -> bool {
        let covers = |rule: &&Rule, name: Option<&String>| {
            has(&rule.verbs, verb)
                && has(&rule.api_groups, group)
                && rule.resources.iter().any(|pattern| pattern_covers(pattern, resource))
                && (rule.resource_names.is_empty() || name.is_some_and(|name| rule.resource_names.contains(name)))
        };
        if self.resource_names.is_empty() {
            return held.iter().any(|rule| covers(rule, None));
        }
        self.resource_names.iter().all(|name| held.iter().any(|rule| covers(rule, Some(name))))
    }

    fn covers_path(&self, verb: &str, path: &str) -> bool {
        has(&self.verbs, verb) && self.non_resource_urls.iter().any(|pattern| path_matches(pattern, path))
    }
}

/// A list holds a word, or `*`. A wanted `*` is held only by `*`.
fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|item| item == ALL || item == word)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == ALL {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((parent, child)) => {
            !subresource.is_empty() && child == subresource && (parent == ALL || parent == resource)
        }
    }
}

fn pattern_covers(held: &str, wanted: &str) -> bool {
    let same_child = || match (held.strip_prefix("*/"), wanted.split_once('/')) {
        (Some(child), Some((_, wanted_child))) => child == wanted_child,
        _ => false,
    };
    held == ALL || held == wanted || same_child()
}
