//! A kind that is added to the registry is there everywhere: discovery, OpenAPI, Tables, validation and selectors.

use http::HeaderMap;
use mainstay_api::schema::{FieldValidation, Rejection, Schema};
use mainstay_api::{Column, Kind, Registry, Rules, Unknown};
use mainstay_apiserver::discovery::{Discovery, Document};
use mainstay_apiserver::openapi::OpenApi;
use mainstay_apiserver::selector::{Selector, meta_of};
use mainstay_apiserver::table::{IncludeObject, ListMeta, Table, Version};
use mainstay_store::Key;
use serde_json::{Value, json};

fn kind() -> Kind {
    Kind {
        group: "boats.example",
        version: "v1",
        kind: "Boat",
        plural: "boats",
        singular: "boat",
        short_names: &["bt"],
        categories: &["fleet"],
        namespaced: true,
        status: true,
        core: false,
        columns: &[Column { name: "Sails", kind: "integer", path: "spec.sails", priority: 0, description: "How many" }],
        selectable: &["spec.sails"],
        schema: || {
            json!({
                "type": "object",
                "required": ["spec"],
                "properties": {
                    "spec": {
                        "type": "object",
                        "properties": { "sails": { "type": "integer", "minimum": 0, "default": 1 } },
                    },
                    "status": { "type": "object", "properties": { "afloat": { "type": "boolean" } } },
                },
            })
        },
        unknown: Unknown::AsAsked,
        rules: Rules::NONE,
    }
}

fn value(document: &Document) -> serde_json::Result<Value> {
    serde_json::from_slice(&document.body)
}

#[test]
fn a_new_kind_is_discovered_and_described() {
    let registry = Registry::standard().with(kind());
    let headers = HeaderMap::new();
    let discovery = Discovery::new(&registry);
    let list = value(discovery.answer("/apis/boats.example/v1", &headers).unwrap()).unwrap();
    let names: Vec<_> = list["resources"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["boats", "boats/status"]);

    let openapi = OpenApi::new(&registry);
    let index = value(openapi.answer("/openapi/v3", &headers).unwrap()).unwrap();
    assert!(index["paths"]["apis/boats.example/v1"].is_object());
    let document = value(openapi.answer("/openapi/v3/apis/boats.example/v1", &headers).unwrap()).unwrap();
    let sails =
        &document["components"]["schemas"]["example.boats.v1.Boat"]["properties"]["spec"]["properties"]["sails"];
    assert_eq!(sails["default"], 1);
    assert!(
        document["paths"]["/apis/boats.example/v1/namespaces/{namespace}/boats/{name}/status"]["patch"].is_object()
    );
}

#[test]
fn a_new_kind_is_validated_selected_and_printed() {
    let registry = Registry::standard().with(kind());
    let kind = registry.by_word("bt").unwrap();
    let schema = Schema::of_kind(kind).unwrap();
    let mut object = json!({
        "apiVersion": "boats.example/v1", "kind": "Boat", "spec": {},
        "metadata": {"name": "a", "namespace": "sea", "labels": {"hull": "steel"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
    });
    assert_eq!(schema.admit(&mut object, kind.unknown, FieldValidation::Strict), Ok(vec![]));
    assert_eq!(object["spec"]["sails"], 1);
    let mut wrong = json!({"metadata": {}, "spec": {"sails": -1}});
    let Err(Rejection::Invalid(errors)) = schema.admit(&mut wrong, kind.unknown, FieldValidation::Strict) else {
        panic!("a negative number of sails was let in");
    };
    assert_eq!(errors.len(), 1);

    let (key, meta) = (Key::new("boats.example/boats", "sea", "a"), meta_of(kind, &object));
    for (fields, expected) in [("spec.sails=1", true), ("spec.sails=2", false)] {
        assert_eq!(Selector::parse(Some("hull=steel"), Some(fields), kind).unwrap().matches(&key, &meta), expected);
    }
    assert_eq!(Selector::parse(None, Some("spec.hull=x"), kind).unwrap_err(), "field label not supported: spec.hull");

    let bytes = object.to_string().into_bytes();
    let now = "2026-01-03T00:00:00Z".parse().unwrap();
    let table = Table::new(kind, Version::V1, IncludeObject::None, now);
    let table: Value = serde_json::from_slice(&table.list([bytes.as_slice()], ListMeta::default()).unwrap()).unwrap();
    assert_eq!(table["columnDefinitions"][1]["name"], "Sails");
    assert_eq!(table["rows"][0]["cells"], json!(["a", 1, "2d"]));
}
