//! `mainstay describe`: an object for people, with its Events.

use std::fmt::Write as _;

use clap::Args;
use mainstay_runtime::Clock;
use mainstay_runtime::clock::Timestamp;
use serde_json::Value;

use super::failure::{CliError, CliResult};
use super::get::{SelectFlags, understand};
use crate::connect::kinds::Kinds;
use crate::connect::{Server, ServerFlags, path};
use crate::output::table::{Table, cell};
use crate::output::{self, plain, text};

/// Events shown with an object, at most.
const MAX_EVENTS: usize = 50;

/// Show objects for people, with their events
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay describe session fix
  mainstay describe project/demo
  mainstay describe pods -l mainstay.dev/session=fix")]
pub(crate) struct DescribeArgs {
    /// KIND [NAME...], or KIND/NAME...
    #[arg(required = true, value_name = "KIND [NAME]", add = clap_complete::ArgValueCompleter::new(super::complete::kinds_and_names))]
    what: Vec<String>,
    #[command(flatten)]
    select: SelectFlags,
}

/// Runs `mainstay describe`.
pub(crate) async fn run(args: &DescribeArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    let kinds = Kinds::discover(&server).await?;
    let mut first = true;
    let mut missing = Vec::new();
    for asked in understand(&args.what, &kinds)? {
        let objects = match &asked.name {
            None => server.all(&args.select.list_path(&server, &asked)).await?,
            Some(name) => match server.get(&asked.kind.object(&server.namespace, name)).await {
                Ok(object) => vec![object],
                Err(error) if error.is_not_found() => {
                    missing.push(error.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            },
        };
        for object in objects {
            if !std::mem::take(&mut first) {
                output::line("")?;
            }
            let events = events_of(&server, &object).await?;
            output::line(describe(&object, &asked.kind.kind, &events).trim_end())?;
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(CliError::NotFound(missing.join("\n"))) }
}

async fn events_of(server: &Server, object: &Value) -> CliResult<Vec<Value>> {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    // Events of cluster-scoped objects are in `default`.
    let namespace = Some(text("namespace")).filter(|name| !name.is_empty()).unwrap_or("default");
    let mut list = format!("/api/v1/namespaces/{}/events", path::encode(namespace));
    path::with_query(&mut list, "fieldSelector", &format!("involvedObject.uid={}", text("uid")));
    match server.all(&list).await {
        Ok(mut events) => {
            // The selector narrows the answer; the check makes it certain.
            events.retain(|event| event["involvedObject"]["uid"] == object["metadata"]["uid"]);
            Ok(events)
        }
        // Events may be another's to see, or selectable by other fields only.
        Err(CliError::Refused(_) | CliError::NotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn describe(object: &Value, kind: &str, events: &[Value]) -> String {
    let mut text = String::new();
    let metadata = &object["metadata"];
    line(&mut text, 0, "Name", &cell(&metadata["name"]));
    if metadata["namespace"].is_string() {
        line(&mut text, 0, "Namespace", &cell(&metadata["namespace"]));
    }
    line(&mut text, 0, "Kind", kind);
    map(&mut text, "Labels", &metadata["labels"]);
    map(&mut text, "Annotations", &metadata["annotations"]);
    line(&mut text, 0, "Created", &when(&metadata["creationTimestamp"]));
    if metadata["deletionTimestamp"].is_string() {
        line(&mut text, 0, "Being deleted", &when(&metadata["deletionTimestamp"]));
    }
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        line(&mut text, 0, "Owned by", &format!("{}/{}", cell(&owner["kind"]), cell(&owner["name"])));
    }
    let shown = |name: &str| !matches!(name, "apiVersion" | "kind" | "metadata");
    for (name, value) in object.as_object().into_iter().flatten().filter(|(name, _)| shown(name)) {
        // What is in a Secret is not for the screen.
        let secret = kind == "Secret" && matches!(name.as_str(), "data" | "stringData");
        if secret { sizes(&mut text, name, value) } else { tree(&mut text, 0, name, value) }
    }
    add_events(&mut text, events);
    text
}

fn line(text: &mut String, depth: usize, label: &str, value: &str) {
    let indent = "  ".repeat(depth);
    let width = 22_usize.saturating_sub(indent.len());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{indent}{:<width$} {value}", format!("{label}:"));
}

fn map(text: &mut String, label: &str, value: &Value) {
    // What tools remember of a manifest tells people nothing, and kubectl's has the values of a Secret in it.
    let hidden = |name: &String| {
        ["mainstay.dev/last-applied", "kubectl.kubernetes.io/last-applied-configuration"].contains(&name.as_str())
    };
    let pairs = value.as_object().into_iter().flatten().filter(|(name, _)| !hidden(name));
    let mut label = label;
    for (name, value) in pairs {
        line(text, 0, label, &format!("{}={}", plain(name), cell(value)));
        label = " ";
    }
    if label != " " {
        line(text, 0, label, "<none>");
    }
}

fn sizes(text: &mut String, name: &str, value: &Value) {
    let _ = writeln!(text, "{}:", words(name));
    for (key, value) in value.as_object().into_iter().flatten() {
        let bytes = value.as_str().map_or(0, |coded| coded.trim_end_matches('=').len() * 3 / 4);
        line(text, 1, &plain(key), &format!("{bytes} bytes"));
    }
}

/// `lastActivityTime` as `Last Activity Time`.
fn words(name: &str) -> String {
    let mut text = String::new();
    let mut before = ' ';
    for c in plain(name).chars() {
        if c.is_uppercase() && before.is_lowercase() {
            text.push(' ');
        }
        if text.is_empty() {
            text.extend(c.to_uppercase());
        } else {
            text.push(c);
        }
        before = c;
    }
    text
}

fn tree(text: &mut String, depth: usize, name: &str, value: &Value) {
    let label = if depth > 0 && name.contains(['.', '/', '-', '_']) { plain(name) } else { words(name) };
    match value {
        Value::Object(fields) if fields.is_empty() => {}
        Value::Object(fields) => {
            let _ = writeln!(text, "{}{label}:", "  ".repeat(depth));
            fields.iter().for_each(|(name, value)| tree(text, depth + 1, name, value));
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) if name == "conditions" => conditions(text, depth, &label, items),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            let _ = writeln!(text, "{}{label}:", "  ".repeat(depth));
            for item in items {
                entry(text, depth + 1, item);
            }
        }
        Value::Array(items) => line(text, depth, &label, &items.iter().map(cell).collect::<Vec<_>>().join(", ")),
        Value::String(long) if long.trim_end().contains('\n') => {
            let indent = "  ".repeat(depth + 1);
            let _ = writeln!(text, "{}{label}:", "  ".repeat(depth));
            for part in long.trim_end().lines() {
                let _ = writeln!(text, "{indent}{}", plain(part));
            }
        }
        Value::String(time) if is_time(name) && time.parse::<Timestamp>().is_ok() => {
            line(text, depth, &label, &when(value));
        }
        other => line(text, depth, &label, &cell(other)),
    }
}

/// Whether a field of this name holds a time: `startTime`, `finishedAt`.
fn is_time(name: &str) -> bool {
    name.ends_with("Time") || name.ends_with("At")
}

/// One item of a list: its first field after a dash, the others below.
fn entry(text: &mut String, depth: usize, item: &Value) {
    let mut inner = String::new();
    match item {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| tree(&mut inner, depth + 1, name, value)),
        other => line(&mut inner, depth + 1, "-", &cell(other)),
    }
    let indent = "  ".repeat(depth);
    // The dash takes the place of the first field's indent.
    let rest = inner.get(indent.len() + 2..).unwrap_or_default();
    let _ = write!(text, "{indent}- {rest}");
}

fn conditions(text: &mut String, depth: usize, label: &str, items: &[Value]) {
    let mut table = Table::new(["type", "status", "reason", "message"]);
    for item in items {
        table.push(["type", "status", "reason", "message"].map(|name| cell(&item[name])).into());
    }
    indented(text, depth, label, &table);
}

fn add_events(text: &mut String, events: &[Value]) {
    if events.is_empty() {
        return line(text, 0, "Events", "<none>");
    }
    let time = |event: &Value| {
        ["lastTimestamp", "eventTime", "firstTimestamp"]
            .iter()
            .find_map(|name| event[*name].as_str()?.parse::<Timestamp>().ok())
    };
    let mut sorted: Vec<_> = events.iter().collect();
    sorted.sort_by_key(|event| time(event));
    let mut table = Table::new(["type", "reason", "age", "count", "message"]);
    let now = Clock::system().now();
    for event in sorted.iter().skip(sorted.len().saturating_sub(MAX_EVENTS)) {
        let age = time(event).map_or_else(|| "<unknown>".to_owned(), |then| text::age(then, now));
        let count = event["count"].as_u64().unwrap_or(1).to_string();
        table.push(vec![cell(&event["type"]), cell(&event["reason"]), age, count, cell(&event["message"])]);
    }
    indented(text, 0, "Events", &table);
}

fn indented(text: &mut String, depth: usize, label: &str, table: &Table) {
    let indent = "  ".repeat(depth);
    let _ = writeln!(text, "{indent}{label}:");
    for row in table.render(true).lines() {
        let _ = writeln!(text, "{indent}  {row}");
    }
}

fn when(time: &Value) -> String {
    let Some(then) = time.as_str().and_then(|time| time.parse::<Timestamp>().ok()) else { return cell(time) };
    format!("{then} ({} ago)", text::age(then, Clock::system().now()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_told_in_words() {
        let object = json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "namespace": "n", "labels": {"a": "b"}, "uid": "u",
                "annotations": {
                    "mainstay.dev/last-applied": "{}",
                    "kubectl.kubernetes.io/last-applied-configuration": "{}",
                }},
            "spec": {"displayName": "d", "env": [{"name": "A", "value": "1"}], "prompt": "a\nb", "none": [], "list": [1, 2]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "m"}]},
        });
        let text = anstream::adapter::strip_str(&describe(&object, "X", &[])).to_string();
        for part in [
            "Name:                  x\n",
            "Labels:                a=b\n",
            "Annotations:           <none>\n",
            "  Display Name:        d\n",
            "    - Name:            A\n      Value:           1\n",
            "  Prompt:\n    a\n    b\n",
            "  List:                1, 2\n",
            "    TYPE    STATUS   REASON   MESSAGE\n    Ready   True     R        m\n",
            "Events:                <none>\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("None"), "{text}");
    }

    #[test]
    fn what_is_in_a_secret_is_not_shown() {
        let secret = json!({"metadata": {"name": "s"}, "data": {"key": "aGVsbG8="}});
        let text = describe(&secret, "Secret", &[]);
        assert!(text.contains("key:") && text.contains("5 bytes") && !text.contains("aGVsbG8"), "{text}");
    }
}
