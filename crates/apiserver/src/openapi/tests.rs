use http::header::{ACCEPT, HeaderValue};
use mainstay_api::{Column, Kind, Rules, Unknown};

use super::*;

fn widget() -> Kind {
    Kind {
        group: "test.example",
        version: "v1",
        kind: "Widget",
        plural: "widgets",
        singular: "widget",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: true,
        core: false,
        columns: &[Column { name: "Size", kind: "integer", path: "spec.size", priority: 0, description: "" }],
        selectable: &[],
        schema: || json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}),
        unknown: Unknown::AsAsked,
        rules: Rules::NONE,
    }
}

fn get(openapi: &OpenApi, path: &str) -> Value {
    let document = openapi.answer(path, &HeaderMap::new()).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&document.body).unwrap()
}

/// Every reference in a document.
fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn the_index_leads_to_every_group_and_version() {
    let openapi = OpenApi::new(&Registry::standard().with(widget()));
    let index = get(&openapi, "/openapi/v3");
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/mainstay.dev/v1alpha1"), "{index}");
    for (name, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        let (path, hash) = url.split_once("?hash=").unwrap();
        assert_eq!(path, format!("/openapi/v3/{name}"));
        assert_eq!(openapi.answer(path, &HeaderMap::new()).unwrap().hash, hash);
        let document = get(&openapi, path);
        assert_eq!(document["openapi"], "3.0.0");
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{path}: {reference}");
        }
    }
}

#[test]
fn writes_say_that_the_server_validates_fields() {
    let openapi = OpenApi::new(&Registry::standard());
    let document = get(&openapi, "/openapi/v3/apis/mainstay.dev/v1alpha1");
    let item = &document["paths"]["/apis/mainstay.dev/v1alpha1/namespaces/{namespace}/sessions/{name}"];
    for (path, method) in [
        ("/apis/mainstay.dev/v1alpha1/namespaces/{namespace}/sessions", "post"),
        ("/apis/mainstay.dev/v1alpha1/namespaces/{namespace}/sessions/{name}", "put"),
        ("/apis/mainstay.dev/v1alpha1/namespaces/{namespace}/sessions/{name}", "patch"),
        ("/apis/mainstay.dev/v1alpha1/namespaces/{namespace}/sessions/{name}/status", "patch"),
        ("/apis/mainstay.dev/v1alpha1/projects", "post"),
    ] {
        let operation = &document["paths"][path][method];
        let names: Vec<_> = operation["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation"], "{method} {path}");
        assert_eq!(operation["x-kubernetes-action"], method);
    }
    assert_eq!(
        item["patch"]["x-kubernetes-group-version-kind"],
        json!({"group": "mainstay.dev", "version": "v1alpha1", "kind": "Session"})
    );
    assert_eq!(item["patch"]["operationId"], "patchMainstayDevV1alpha1NamespacedSession");
    let content = item["patch"]["requestBody"]["content"].as_object().unwrap();
    assert_eq!(content.keys().collect::<Vec<_>>(), ["application/json-patch+json", "application/merge-patch+json"]);
    assert!(document["paths"]["/apis/mainstay.dev/v1alpha1/sessions"]["get"].is_object(), "a list over all namespaces");
    assert_eq!(document["paths"]["/apis/mainstay.dev/v1alpha1/sessions"].as_object().unwrap().len(), 1);
}

#[test]
fn definitions_carry_kinds_and_refer_to_object_meta() {
    let openapi = OpenApi::new(&Registry::standard().with(widget()));
    let document = get(&openapi, "/openapi/v3/apis/test.example/v1");
    let widget = &document["components"]["schemas"]["example.test.v1.Widget"];
    assert_eq!(
        widget["x-kubernetes-group-version-kind"],
        json!([{"group": "test.example", "version": "v1", "kind": "Widget"}])
    );
    assert_eq!(widget["properties"]["spec"]["properties"]["size"]["type"], "integer");
    assert_eq!(
        widget["properties"]["metadata"]["allOf"][0]["$ref"],
        format!("#/components/schemas/{}", names::OBJECT_META)
    );
    assert_eq!(document["components"]["schemas"]["example.test.v1.WidgetList"]["required"], json!(["items"]));
    let core = get(&openapi, "/openapi/v3/api/v1");
    let hard =
        &core["components"]["schemas"]["io.k8s.api.core.v1.ResourceQuota"]["properties"]["spec"]["properties"]["hard"];
    assert_eq!(hard["additionalProperties"]["allOf"][0]["$ref"], format!("#/components/schemas/{}", names::QUANTITY));
    assert!(core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/log"]["get"].is_object());
    assert!(get(&openapi, "/openapi/v3/apis/authorization.k8s.io/v1")["paths"]["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"]["post"].is_object());
}

#[test]
fn other_paths_and_forms_are_refused() {
    let openapi = OpenApi::new(&Registry::standard());
    let none = HeaderMap::new();
    for path in ["/openapi/v2", "/openapi", "/openapi/v3/apis/none.example/v1", "/openapi/v3x"] {
        assert_eq!(openapi.answer(path, &none), Err(NoDocument::NotFound), "{path}");
    }
    let protobuf = HeaderMap::from_iter([(
        ACCEPT,
        HeaderValue::from_static("application/com.github.proto-openapi.spec.v3@v1.0+protobuf"),
    )]);
    assert_eq!(openapi.answer("/openapi/v3", &protobuf), Err(NoDocument::NotAcceptable));
    let again = OpenApi::new(&Registry::standard());
    assert_eq!(openapi.answer("/openapi/v3", &none), again.answer("/openapi/v3", &none), "deterministic");
}

#[test]
fn only_operations_are_said_to_be_created_as_a_list() {
    let document = get(&OpenApi::new(&Registry::standard()), "/openapi/v3/apis/mainstay.dev/v1alpha1");
    for (plural, expected) in [("operations", true), ("sessions", false)] {
        let path = format!("/apis/mainstay.dev/v1alpha1/namespaces/{{namespace}}/{plural}");
        let description = document["paths"][&path]["post"]["description"].as_str().unwrap();
        assert_eq!(description.contains("OperationList of at most 512 items"), expected, "{description}");
    }
}
