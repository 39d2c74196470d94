//! `$VAR` and `${VAR}` in the token of a Credential, and nowhere else.
//!
//! Invariant: no error carries a value, only names of variables.

use serde_json::Value;

use super::{Document, ManifestError};

/// Replaces the variables in a Credential's token. `$$` is a dollar. A variable that is not set, or empty, is an error.
pub(crate) fn expand(document: &mut Document, lookup: impl Fn(&str) -> Option<String>) -> Result<(), ManifestError> {
    let ours = document.kind() == "Credential" && document.api_version().starts_with("mainstay.dev/");
    let place = document.place("spec.token");
    let Some(Value::String(token)) = document.value.pointer_mut("/spec/token").filter(|_| ours) else { return Ok(()) };
    *token = expand_text(token, lookup).map_err(|what| ManifestError::at(place, format!("spec.token: {what}")))?;
    Ok(())
}

fn expand_text(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(next) = after.strip_prefix('$') {
            result.push('$');
            rest = next;
            continue;
        }
        let (name, next) = if let Some(braced) = after.strip_prefix('{') {
            let (name, next) = braced.split_once('}').ok_or("`${` without `}`")?;
            if !is_name(name) {
                return Err("what stands in `${...}` is not a variable's name".to_owned());
            }
            (name, next)
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            after.split_at(end)
        };
        if is_name(name) {
            let value = lookup(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
            if value.is_empty() {
                return Err(format!("the environment variable {name} is empty"));
            }
            result.push_str(&value);
            rest = next;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    Ok(result)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<String, String> {
        expand_text(text, |name| match name {
            "TOKEN" => Some("s3cret".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_replaced() {
        for (text, result) in [
            ("$TOKEN", "s3cret"),
            ("a${TOKEN}b", "as3cretb"),
            ("$TOKEN.x", "s3cret.x"),
            ("$$TOKEN", "$TOKEN"),
            ("pa$", "pa$"),
            ("$1", "$1"),
            ("plain", "plain"),
            ("$TOKEN$TOKEN", "s3crets3cret"),
        ] {
            assert_eq!(with(text).as_deref(), Ok(result), "{text}");
        }
    }

    #[test]
    fn an_unset_or_empty_variable_is_an_error_that_names_it() {
        assert_eq!(with("$NOPE").unwrap_err(), "the environment variable NOPE is not set");
        assert_eq!(with("x${EMPTY}").unwrap_err(), "the environment variable EMPTY is empty");
        assert!(with("${TOKEN").is_err());
        assert!(with("${a b}").is_err());
    }

    #[test]
    fn only_a_credentials_token_is_expanded() {
        let text = "apiVersion: mainstay.dev/v1alpha1\nkind: Agent\nmetadata: {name: $X}\nspec:\n  token: $NOPE\n";
        let mut document = super::super::yaml::parse("a.yaml", text).unwrap().remove(0);
        let before = document.clone();
        assert_eq!(expand(&mut document, |_| None), Ok(()));
        assert_eq!(document, before);
        document.value["kind"] = "Credential".into();
        let error = expand(&mut document, |_| None).unwrap_err().to_string();
        assert_eq!(error, "a.yaml:5: spec.token: the environment variable NOPE is not set");
    }
}
