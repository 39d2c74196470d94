//! Parameters of operations.

use serde_json::{Value, json};

fn query(name: &str, kind: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "query", "description": description,
        "schema": { "type": kind, "uniqueItems": true },
    })
}

/// A part of the path.
pub(super) fn path(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": description,
        "schema": { "type": "string", "uniqueItems": true },
    })
}

/// Of create, update and patch. kubectl looks for `fieldValidation` here before it leaves validation to the server.
pub(super) fn write() -> Value {
    json!([
        dry_run(),
        query("fieldManager", "string", "A name for who makes the change; accepted, not kept."),
        query("fieldValidation", "string", "What to do about unknown and duplicate fields: Ignore, Warn or Strict."),
    ])
}

fn dry_run() -> Value {
    query("dryRun", "string", "`All`: do everything but keep the change.")
}

/// Of list and watch.
pub(super) fn list() -> Value {
    json!([
        query("allowWatchBookmarks", "boolean", "Send bookmarks in a watch."),
        query("continue", "string", "Where the page begins: what the previous page said."),
        query("fieldSelector", "string", "Only objects with these fields."),
        query("labelSelector", "string", "Only objects with these labels."),
        query("limit", "integer", "At most this many objects in a page."),
        query("resourceVersion", "string", "The snapshot to read, or to watch from."),
        query("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
        query("sendInitialEvents", "boolean", "Begin a watch with what is there, and mark the end of that."),
        query("timeoutSeconds", "integer", "How long the watch may last."),
        query("watch", "boolean", "Follow changes instead of listing."),
    ])
}

/// Of the deletion of a collection.
pub(super) fn delete_collection() -> Value {
    let mut all = delete();
    if let Value::Array(all) = &mut all {
        all.push(query("fieldSelector", "string", "Only objects with these fields."));
        all.push(query("labelSelector", "string", "Only objects with these labels."));
    }
    all
}

/// Of delete.
pub(super) fn delete() -> Value {
    json!([
        dry_run(),
        query("gracePeriodSeconds", "integer", "How long it may take to end."),
        query("propagationPolicy", "string", "What becomes of dependents: Background, Foreground or Orphan."),
    ])
}

/// Of a Pod's log.
pub(super) fn log() -> Value {
    json!([
        query("container", "string", "Which container."),
        query("follow", "boolean", "Go on with what is written."),
        query("limitBytes", "integer", "At most this many bytes."),
        query("sinceSeconds", "integer", "Only what is not older than this."),
        query("tailLines", "integer", "Only this many lines from the end."),
        query("timestamps", "boolean", "Begin each line with its time."),
    ])
}

/// Of a command in a Pod.
pub(super) fn exec() -> Value {
    json!([
        query("command", "string", "Program and arguments, each in its turn."),
        query("container", "string", "Which container."),
        query("stdin", "boolean", "It gets input."),
        query("stdout", "boolean", "Its output is wanted."),
        query("stderr", "boolean", "Its errors are wanted."),
        query("tty", "boolean", "It gets a terminal."),
    ])
}

/// Of the reading of a session's messages.
pub(super) fn messages() -> Value {
    json!([
        query("after", "integer", "Only messages with a higher number."),
        query("follow", "boolean", "Go on with messages that come."),
        query("limit", "integer", "At most this many."),
        query("timeoutSeconds", "integer", "How long to follow."),
        query("types", "string", "Only these types, comma-separated."),
    ])
}
