use http::HeaderMap;
use http::header::{ACCEPT, HeaderValue};
use mainstay_api::{Column, Rules, Unknown};
use proptest::prelude::*;

use super::*;

const fn column(name: &'static str, kind: &'static str, path: &'static str) -> Column {
    Column { name, kind, path, priority: 1, description: "what" }
}

const KIND: Kind = Kind {
    group: "mainstay.dev",
    version: "v1alpha1",
    kind: "Session",
    plural: "sessions",
    singular: "session",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: true,
    core: false,
    columns: &[
        column("Phase", "string", "status.phase"),
        column("Members", "integer", "spec.members#"),
        column("Ready", "string", "status.conditions[Ready].status"),
        column("Second", "string", "spec.members[1].name"),
        column("Ended", "date", "status.end"),
        column("Run", "integer", "spec.run"),
        column("On", "boolean", "spec.on"),
    ],
    selectable: &[],
    schema: || Value::Null,
    unknown: Unknown::AsAsked,
    rules: Rules::NONE,
};

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn bytes() -> Vec<u8> {
    json!({
        "kind": "Session", "metadata": {"name": "a", "resourceVersion": "7", "creationTimestamp": "2026-01-01T23:59:55Z"},
        "spec": {"members": [{"name": "x"}, {"name": "y"}], "run": 3, "on": true},
        "status": {"phase": "Running", "end": "2026-01-01T12:00:00Z",
            "conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
    })
    .to_string()
    .into_bytes()
}

fn parsed(bytes: serde_json::Result<Vec<u8>>) -> Value {
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

#[test]
fn a_list_has_columns_rows_and_metadata() {
    let table = Table::new(&KIND, Version::V1, IncludeObject::Metadata, now());
    let object = bytes();
    let meta = ListMeta { resource_version: "9", next: Some("tok"), remaining: Some(4) };
    let value = parsed(table.list([object.as_slice(), b"{\"metadata\":{\"name\":\"b\"}}\n"], meta));
    assert_eq!((&value["kind"], &value["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(value["metadata"], json!({"resourceVersion": "9", "continue": "tok", "remainingItemCount": 4}));
    let names: Vec<_> = value["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!(names, ["Name", "Phase", "Members", "Ready", "Second", "Ended", "Run", "On", "Age"]);
    assert_eq!(value["columnDefinitions"][0]["format"], "name");
    assert_eq!(value["rows"][0]["cells"], json!(["a", "Running", 2, "True", "y", "12h", 3, true, "5s"]));
    assert_eq!(value["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(value["rows"][0]["object"]["metadata"]["resourceVersion"], "7");
    assert_eq!(value["rows"][1]["cells"], json!(["b", null, 0, null, null, null, null, null, "<unknown>"]));
}

#[test]
fn a_row_carries_as_much_of_the_object_as_asked() {
    let object = bytes();
    let with = |include| parsed(Table::new(&KIND, Version::V1Beta1, include, now()).single(&object));
    assert_eq!(with(IncludeObject::None)["rows"][0].get("object"), None);
    assert_eq!(with(IncludeObject::Object)["rows"][0]["object"], serde_json::from_slice::<Value>(&object).unwrap());
    assert_eq!(with(IncludeObject::Metadata)["rows"][0]["object"]["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(with(IncludeObject::None)["metadata"], json!({"resourceVersion": "7"}));
    assert_eq!(IncludeObject::parse("all").unwrap_err(), "unrecognized includeObject value: \"all\"");
}

#[test]
fn later_events_do_not_repeat_the_columns() {
    let table = Table::new(&KIND, Version::V1, IncludeObject::Object, now());
    assert!(parsed(table.event(&bytes(), true))["columnDefinitions"].is_array());
    let later = parsed(table.event(&bytes(), false));
    assert_eq!((&later["columnDefinitions"], later["rows"].as_array().unwrap().len()), (&Value::Null, 1));
    table.single(b"{").unwrap_err();
}

#[test]
fn metadata_is_spliced() {
    let value = parsed(
        Metadata::new(Version::V1)
            .list([bytes().as_slice()], ListMeta { resource_version: "9", ..ListMeta::default() }),
    );
    assert_eq!(value["kind"], "PartialObjectMetadataList");
    assert_eq!(value["metadata"], json!({"resourceVersion": "9"}));
    assert_eq!(value["items"][0]["metadata"]["name"], "a");
    assert_eq!(value["items"][0].get("spec"), None);
    assert_eq!(parsed(Metadata::new(Version::V1).single(&bytes())), value["items"][0]);
}

#[test]
fn ages_are_those_of_kubectl() {
    const H: i64 = 3_600;
    const D: i64 = 24 * H;
    for (seconds, expected) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (123, "2m3s"),
        (600, "10m"),
        (3 * H - 1, "179m"),
        (3 * H, "3h"),
        (5 * H + 60, "5h1m"),
        (8 * H, "8h"),
        (47 * H, "47h"),
        (48 * H, "2d"),
        (3 * D + 5 * H, "3d5h"),
        (8 * D, "8d"),
        (729 * D, "729d"),
        (730 * D, "2y"),
        (3 * 365 * D + D, "3y1d"),
        (9 * 365 * D + D, "9y"),
    ] {
        let then = now() - jiff::SignedDuration::from_secs(seconds);
        assert_eq!(human_age(then, now()), expected, "{seconds}");
    }
}

#[test]
fn the_form_follows_the_accept_header() {
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    for (accept, expected) in [
        ("", Some(Form::Object)),
        ("application/json", Some(Form::Object)),
        ("*/*", Some(Form::Object)),
        (TABLE, Some(Form::Table(Version::V1))),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Some(Form::Table(Version::V1Beta1))),
        ("application/json; as=Table; g=meta.k8s.io; v=v1", Some(Form::Table(Version::V1))),
        ("application/json;as=Table;v=v9;g=meta.k8s.io", None),
        ("application/json;as=Chair;v=v1;g=meta.k8s.io,application/json", Some(Form::Object)),
        (PARTIAL, Some(Form::Metadata(Version::V1))),
        ("application/vnd.kubernetes.protobuf, application/json", Some(Form::Object)),
        ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json;q=0.5", Some(Form::Object)),
        ("application/vnd.kubernetes.protobuf", None),
        ("text/html", None),
        ("text/html,*/*;q=0.8", Some(Form::Object)),
        ("application/json;q=0", None),
        ("application/json;q=0.2,application/json;as=Table;g=meta.k8s.io;v=v1;q=0.3", Some(Form::Table(Version::V1))),
    ] {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        assert_eq!(negotiate(&headers).ok(), expected, "{accept}");
    }
    let mut headers = HeaderMap::new();
    headers.append(ACCEPT, HeaderValue::from_static("text/html"));
    headers.append(ACCEPT, HeaderValue::from_static(PARTIAL));
    assert_eq!(negotiate(&headers).ok(), Some(Form::Metadata(Version::V1)));
}

proptest! {
    #[test]
    fn no_header_and_no_object_panics(accept in "[a-z*/;=,. q0-9]{0,60}", object in ".{0,40}") {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&accept) {
            headers.insert(ACCEPT, value);
        }
        let _ = negotiate(&headers);
        let _ = Table::new(&KIND, Version::V1, IncludeObject::Metadata, now()).single(object.as_bytes());
        let wrapped = format!("{{\"metadata\":{{}},\"spec\":{},\"status\":[1]}}", Value::from(object));
        prop_assert!(Table::new(&KIND, Version::V1, IncludeObject::Metadata, now()).single(wrapped.as_bytes()).is_ok());
    }
}
