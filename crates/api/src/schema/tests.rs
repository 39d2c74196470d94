use proptest::prelude::*;
use schemars::JsonSchema;
use serde_json::{Map, json};

use super::*;
use crate::kind::Registry;

fn sample() -> Schema {
    Schema::compile(&json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["agent"],
                "properties": {
                    "agent": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]+$"},
                    "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                    "run": {"type": "integer", "format": "int32", "minimum": 0.0, "exclusiveMaximum": 10},
                    "share": {"type": "number", "exclusiveMinimum": true, "minimum": 0},
                    "members": {"type": "array", "minItems": 1, "maxItems": 2, "uniqueItems": true, "items": {
                        "type": "object", "required": ["name"],
                        "properties": {"name": {"type": "string"}, "role": {"type": "string", "default": "viewer"}},
                    }},
                    "labels": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "string"}},
                    "cpu": {"x-kubernetes-int-or-string": true, "format": "quantity"},
                    "port": {"x-kubernetes-int-or-string": true},
                    "at": {"type": "string", "format": "date-time"},
                    "token": {"type": "string", "format": "password", "maxLength": 3, "pattern": "^x"},
                    "data": {"type": "string", "format": "byte"},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                        "properties": {"known": {"type": "boolean"}}},
                    "kept": {"type": "string", "nullable": true},
                    "either": {"oneOf": [
                        {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}},
                        {"type": "object", "required": ["y"], "properties": {"y": {"type": "string"}}},
                    ]},
                    "any": {"anyOf": [{"type": "string"}, {"type": "boolean"}]},
                    "all": {"allOf": [{"type": "integer", "minimum": 2}, {"multipleOf": 2}]},
                },
            },
        },
    }))
    .unwrap()
}

fn spec(field: &str, value: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"agent": "abc"}});
    object["spec"][field] = value;
    object
}

/// A field, a wrong value, and what is said of it.
fn wrong_values() -> Vec<(&'static str, Value, &'static str)> {
    let long = "é".repeat(6);
    vec![
        (
            "agent",
            json!(5),
            r#"spec.agent: Invalid value: "integer": spec.agent in body must be of type string: "integer""#,
        ),
        ("agent", json!(null), "spec.agent: Required value"),
        ("agent", json!(""), r#"spec.agent: Invalid value: "": spec.agent in body should be at least 1 chars long"#),
        ("agent", json!("A"), r#"spec.agent: Invalid value: "A": spec.agent in body should match '^[a-z]+$'"#),
        ("agent", json!(long), "spec.agent: Too long: may not be more than 5 characters"),
        ("mode", json!("c"), r#"spec.mode: Unsupported value: "c": supported values: "a", "b""#),
        ("run", json!(-1), "spec.run: Invalid value: -1: spec.run in body should be greater than or equal to 0"),
        ("run", json!(10), "spec.run: Invalid value: 10: spec.run in body should be less than 10"),
        ("run", json!(1.5), r#"spec.run: Invalid value: "number": spec.run in body must be of type integer: "number""#),
        ("share", json!(0), "spec.share: Invalid value: 0: spec.share in body should be greater than 0"),
        (
            "members",
            json!([]),
            r#"spec.members: Invalid value: "array": spec.members in body should have at least 1 items"#,
        ),
        (
            "members",
            json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]),
            "spec.members: Too many: 3: must have at most 2 items",
        ),
        ("members", json!([{}]), "spec.members[0].name: Required value"),
        (
            "members",
            json!([null]),
            r#"spec.members[0]: Invalid value: "null": spec.members[0] in body must be of type object: "null""#,
        ),
        (
            "labels",
            json!({"a.b/c": 1}),
            r#"spec.labels[a.b/c]: Invalid value: "integer": spec.labels[a.b/c] in body must be of type string: "integer""#,
        ),
        ("cpu", json!("1Zi"), r#"spec.cpu: Invalid value: "1Zi": spec.cpu in body must be of type quantity: "1Zi""#),
        (
            "port",
            json!(true),
            r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
        ),
        ("at", json!("noon"), r#"spec.at: Invalid value: "noon": spec.at in body must be of type date-time: "noon""#),
        ("data", json!("a"), "spec.data: Invalid value: spec.data in body must be of type byte"),
        (
            "either",
            json!({}),
            r#"spec.either: Invalid value: "": "spec.either" must validate one and only one schema (oneOf). Found none valid"#,
        ),
        ("any", json!(1), r#"spec.any: Invalid value: "": "spec.any" must validate at least one schema (anyOf)"#),
        ("all", json!(3), "spec.all: Invalid value: 3: spec.all in body should be a multiple of 2"),
        (
            "free",
            json!({"known": 1}),
            r#"spec.free.known: Invalid value: "integer": spec.free.known in body must be of type boolean: "integer""#,
        ),
    ]
}

#[test]
fn wrong_values_are_named_in_upstream_words() {
    for (field, value, expected) in wrong_values() {
        let mut object = spec(field, value);
        let Err(Rejection::Invalid(errors)) = sample().admit(&mut object, Unknown::AsAsked, FieldValidation::Strict)
        else {
            panic!("{field}: {object} was let in");
        };
        assert_eq!(errors.first().map(ToString::to_string).as_deref(), Some(expected));
    }
}

#[test]
fn right_values_are_let_in() {
    for (field, value) in [
        ("agent", json!("ééééé".replace('é', "e"))),
        ("mode", json!("b")),
        ("mode", json!(null)),
        ("share", json!(0.1)),
        ("cpu", json!(0.5)),
        ("cpu", json!("1500m")),
        ("port", json!("http")),
        ("at", json!("2026-01-02T03:04:05.678Z")),
        ("at", json!("2026-01-02T03:04:05+02:00")),
        ("data", json!("YWI=")),
        ("free", json!({"anything": [null, {"a": null}]})),
        ("kept", json!(null)),
        ("either", json!({"y": "a"})),
        ("any", json!(true)),
        ("all", json!(4)),
    ] {
        let mut object = spec(field, value);
        let warnings = sample().admit(&mut object, Unknown::AsAsked, FieldValidation::Strict);
        assert_eq!(warnings, Ok(vec![]), "{field}: {object}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let mut object = spec("token", json!("hunter2"));
    let error = sample().admit(&mut object, Unknown::AsAsked, FieldValidation::Strict).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn unknown_fields_are_treated_as_asked() {
    let object = || {
        let mut object = spec("members", json!([{"name": "a", "bogus": 1}]));
        object["extra"] = json!({"a": 1});
        object["metadata"]["nmae"] = json!("y");
        object
    };
    let words =
        [r#"unknown field "extra""#, r#"unknown field "metadata.nmae""#, r#"unknown field "spec.members[0].bogus""#];
    let schema = sample();
    let mut pruned = object();
    assert_eq!(schema.admit(&mut pruned, Unknown::AsAsked, FieldValidation::Warn).unwrap(), words);
    assert_eq!(pruned["spec"]["members"], json!([{"name": "a", "role": "viewer"}]));
    assert_eq!(pruned["extra"], Value::Null);
    assert_eq!(schema.admit(&mut object(), Unknown::AsAsked, FieldValidation::Ignore).unwrap(), Vec::<String>::new());
    let strict = schema.admit(&mut object(), Unknown::AsAsked, FieldValidation::Strict).unwrap_err();
    assert_eq!(strict.to_string(), format!("strict decoding error: {}", words.join(", ")));
    let Err(Rejection::Invalid(refused)) = schema.admit(&mut object(), Unknown::Refuse, FieldValidation::Ignore) else {
        panic!("refused kinds never prune");
    };
    assert_eq!(refused.len(), 3);
    assert_eq!((refused[2].path.as_str(), refused[2].fault), ("spec.members[0].bogus", Fault::Unknown));
}

#[test]
fn nulls_are_absent_and_defaults_fill_them() {
    let mut object = spec("mode", json!(null));
    object["metadata"]["creationTimestamp"] = json!(null);
    object["spec"]["kept"] = json!(null);
    sample().admit(&mut object, Unknown::AsAsked, FieldValidation::Strict).unwrap();
    assert_eq!(object["spec"], json!({"agent": "abc", "mode": "a", "kept": null}));
    assert_eq!(object["metadata"], json!({"name": "x"}));
}

#[test]
fn a_branch_says_which_fields_there_are() {
    let of = |branch: Value| {
        let named = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        Schema::compile(&json!({"properties": {"spec": {"anyOf": [named, branch]}}})).unwrap()
    };
    let object = || json!({"spec": {"a": "x", "b": 1}});
    let closed = of(json!({"type": "object", "required": ["c"]}));
    assert_eq!(closed.prune(&mut object()), [r#"unknown field "spec.b""#]);
    let open = of(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    assert!(open.prune(&mut object()).is_empty());
}

/// R28.
#[test]
fn what_could_not_be_enforced_is_not_compiled() {
    for schema in [
        json!({"not": {}}),
        json!({"properties": {"a": {"$ref": "#/x"}}}),
        json!({"type": "strnig"}),
        json!({"pattern": "("}),
        json!({"pattern": "(a{1000}){1000}"}),
        json!({"maxLength": -1}),
        json!(5),
    ] {
        Schema::compile(&schema).unwrap_err();
    }
    let deep = (0..60).fold(json!({}), |schema, _| json!({"items": schema}));
    assert!(matches!(Schema::compile(&deep), Err(CompileError::TooDeep { .. })));
}

#[test]
fn errors_are_bounded() {
    let mut object = spec("labels", json!({}));
    for at in 0..500 {
        object["spec"]["labels"][format!("k{at}")] = json!(at);
        object["spec"][format!("u{at}")] = json!(at);
    }
    assert_eq!(sample().validate(&object).len(), MAX_ERRORS);
    assert_eq!(sample().prune(&mut object).len(), MAX_ERRORS);
    assert!(sample().prune(&mut object).is_empty(), "all were dropped, though not all were named");
}

/// Words.
#[derive(JsonSchema, serde::Serialize, serde::Deserialize, Default)]
enum Word {
    /// The first.
    #[default]
    Alpha,
    /// The second.
    Beta,
}

#[derive(JsonSchema, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    /// May be absent.
    word: Option<Word>,
    #[serde(default)]
    chosen: Word,
    #[serde(default)]
    list: Vec<Option<u8>>,
    map: std::collections::BTreeMap<String, String>,
    free: Option<Value>,
    nested: Option<Box<Typed>>,
    #[serde(default)]
    text: String,
}

#[test]
fn derived_schemas_are_structural() {
    let schema = of::<Typed>();
    assert_eq!(
        schema["properties"]["word"],
        json!({"type": "string", "enum": ["Alpha", "Beta"],
            "description": "May be absent.\n\nPossible enum values:\n - `\"Alpha\"` The first.\n - `\"Beta\"` The second."})
    );
    assert_eq!(schema["properties"]["chosen"]["default"], json!("Alpha"));
    assert_eq!(schema["properties"]["list"]["items"]["nullable"], json!(true));
    assert_eq!(schema["properties"]["list"].get("default"), None);
    assert_eq!(schema["properties"]["text"], json!({"type": "string"}));
    assert_eq!(schema["properties"]["free"]["x-kubernetes-preserve-unknown-fields"], json!(true));
    assert_eq!(schema["properties"]["map"]["additionalProperties"], json!({"type": "string"}));
    assert_eq!(schema["required"], json!(["map"]));
    Schema::compile(&schema).unwrap();
}

#[test]
fn every_kind_compiles_and_is_clean() {
    for kind in Registry::standard().iter() {
        let schema = (kind.schema)();
        Schema::compile(&schema).unwrap_or_else(|error| panic!("{}: {error}", kind.kind));
        let text = schema.to_string();
        for noise in ["\"$ref\"", "\"$schema\"", "\"title\":\"", "\"null\""] {
            assert!(!text.contains(noise), "{}: {noise}", kind.kind);
        }
    }
}

/// Arbitrary JSON that often has the sample's own field names.
fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9.]{0,6}".prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    let names = prop_oneof![
        prop::sample::select(vec![
            "apiVersion",
            "kind",
            "metadata",
            "name",
            "labels",
            "ownerReferences",
            "uid",
            "spec",
            "agent",
            "mode",
            "run",
            "share",
            "members",
            "cpu",
            "port",
            "at",
            "token",
            "data",
            "free",
            "known",
            "kept",
            "either",
            "x",
            "y",
            "any",
            "all",
            "role",
        ])
        .prop_map(str::to_owned),
        ".{0,3}",
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((names.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_judged_the_same_twice(value in json_values(), inner in json_values()) {
        let schema = sample();
        for mut object in [value.clone(), json!({"spec": inner, "metadata": value})] {
            let mut pruned = object.clone();
            schema.prune(&mut pruned);
            let mut again = pruned.clone();
            prop_assert!(schema.prune(&mut again).is_empty());
            prop_assert_eq!(&again, &pruned);

            schema.default(&mut pruned);
            let mut again = pruned.clone();
            schema.default(&mut again);
            prop_assert_eq!(&again, &pruned);

            if schema.admit(&mut object, Unknown::AsAsked, FieldValidation::Ignore).is_ok() {
                let admitted = object.clone();
                prop_assert_eq!(schema.admit(&mut object, Unknown::Refuse, FieldValidation::Strict), Ok(vec![]));
                prop_assert_eq!(object, admitted);
            }
        }
    }

    #[test]
    fn kinds_never_panic(value in json_values(), inner in json_values(), status in json_values()) {
        for kind in Registry::standard().iter().take(5) {
            let schema = Schema::of_kind(kind).unwrap();
            let mut object = json!({"spec": inner, "metadata": value, "status": status});
            let _ = schema.admit(&mut object, kind.unknown, FieldValidation::Warn);
        }
    }
}
