use mainstay_api::{Rules, Unknown};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn kind() -> Kind {
    Kind {
        group: "mainstay.dev",
        version: "v1alpha1",
        kind: "Session",
        plural: "sessions",
        singular: "session",
        short_names: &["sess"],
        categories: &[],
        namespaced: true,
        status: true,
        core: false,
        columns: &[],
        selectable: &["status.phase", "spec.run"],
        schema: || json!({"type": "object"}),
        unknown: Unknown::AsAsked,
        rules: Rules::NONE,
    }
}

fn sample() -> (Key, Meta) {
    let object = json!({
        "metadata": {"name": "fix", "namespace": "demo", "uid": "u1", "labels": {"tier": "web", "app": "shop", "n": "7", "e": ""},
            "ownerReferences": [{"uid": "o1"}, {"uid": "o2"}, {}]},
        "spec": {"run": 3},
        "status": {"phase": "Running"},
    });
    (Key::new("mainstay.dev/sessions", "demo", "fix"), meta_of(&kind(), &object))
}

#[test]
fn meta_holds_what_selectors_and_the_garbage_collector_need() {
    let (_, meta) = sample();
    assert_eq!(&*meta.uid, "u1");
    let labels: Vec<_> = meta.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(labels, [("app", "shop"), ("e", ""), ("n", "7"), ("tier", "web")]);
    let fields: Vec<_> = meta.fields.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(fields, [("spec.run", "3"), ("status.phase", "Running")]);
    assert_eq!(meta.owners.iter().map(|uid| &**uid).collect::<Vec<_>>(), ["o1", "o2"]);
    assert_eq!(meta_of(&kind(), &json!(null)), Meta::default());
}

#[test]
fn label_selectors_match_as_upstream() {
    let (_, meta) = sample();
    for (text, expected) in [
        ("", true),
        ("  ", true),
        ("app", true),
        ("!app", false),
        ("gone", false),
        ("!gone", true),
        ("app=shop", true),
        (" app == shop , tier != db ", true),
        ("app=", false),
        ("e=", true),
        ("e=,app", true),
        ("gone!=x", true),
        ("gone=", false),
        ("app in (a, shop)", true),
        ("app in (a,b)", false),
        ("app notin (a,b)", true),
        ("gone notin (a)", true),
        ("e in ()", true),
        ("e in (x,)", true),
        ("n>6,n<8", true),
        ("n>7", false),
        ("app>1", false),
        ("in=x", false),
        ("!in", true),
        ("app=shop,tier=db", false),
        ("x.example/y!=z", true),
    ] {
        let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(selector.matches(&meta), expected, "{text:?}");
    }
}

#[test]
fn wrong_label_selectors_are_refused_with_upstream_texts() {
    for (text, expected) in [
        ("=x", "found '=', expected: !, identifier, or 'end of string'"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("!a=b", "found '=', expected: ',' or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a=(b)", "unable to parse requirement: found '(', expected: identifier"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',', or ')'"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',', or ')'"),
        ("a in ((", "unable to parse requirement: found '(', expected: ',', ')' or identifier"),
        (
            "a>b",
            "unable to parse requirement: values[0][a]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
        ("/a", "unable to parse requirement: <nil>: Invalid value: \"/a\": prefix part must be non-empty"),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap_err(), expected, "{text:?}");
    }
    let value = LabelSelector::parse("a in (b,-c)").unwrap_err();
    assert!(
        value.starts_with("unable to parse requirement: values[1][a]: Invalid value: \"-c\": a valid label must be"),
        "{value}"
    );
    for wrong in ["a/b/c", "A.b/c", "x/", "é", "_a", &"k".repeat(64), &format!("a={}", "v".repeat(64))] {
        assert!(LabelSelector::parse(wrong).is_err(), "{wrong:?}");
    }
    assert!(LabelSelector::parse(&"a,".repeat(10_000)).unwrap_err().contains("at most"));
    assert!(LabelSelector::parse(&vec!["a"; 300].join(",")).unwrap_err().contains("more than 256"));
    assert!(
        LabelSelector::parse(&format!("a in ({})", vec!["b"; 300].join(","))).unwrap_err().contains("more than 256")
    );
}

#[test]
fn field_selectors_match_and_refuse_as_upstream() {
    let (key, meta) = sample();
    for (text, expected) in [
        ("", true),
        ("metadata.name=fix", true),
        ("metadata.name==fix,metadata.namespace=demo", true),
        ("metadata.name!=fix", false),
        ("status.phase=Running", true),
        ("status.phase!=Running", false),
        (",spec.run=3,", true),
        ("spec.run=", false),
        ("metadata.name=a\\,b", false),
    ] {
        let selector = FieldSelector::parse(text, &kind()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(selector.matches(&key, &meta), expected, "{text:?}");
    }
    for (text, expected) in [
        ("spec.agent=x", "field label not supported: spec.agent"),
        ("=x", "field label not supported: "),
        ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        ("metadata.name!x", "invalid selector: 'metadata.name!x'; can't understand 'metadata.name!x'"),
        ("metadata.name=a=b", "invalid field selector: unescaped character in value: ="),
        ("metadata.name=a\\b", "invalid field selector: invalid escape sequence: \\b"),
        ("metadata.name=a\\", "invalid field selector: invalid escape sequence: \\"),
    ] {
        assert_eq!(FieldSelector::parse(text, &kind()).unwrap_err(), expected, "{text:?}");
    }
    let cluster = Kind { namespaced: false, ..kind() };
    assert!(FieldSelector::parse("metadata.namespace=a", &cluster).is_err());
    // An object that lacks a selectable field has it empty: `kubectl describe` asks for events so.
    assert!(FieldSelector::parse("status.phase=", &kind()).unwrap().matches(&key, &Meta::default()));
}

#[test]
fn an_exact_name_narrows_the_scope_of_a_watch() {
    let scope = || Scope { resource: "mainstay.dev/sessions".into(), namespace: None, name: None };
    let narrowed = |text: &str, mut scope: Scope| {
        let possible = Selector::parse(None, Some(text), &kind()).unwrap().narrow(&mut scope);
        possible.then_some((scope.namespace.as_deref().map(str::to_owned), scope.name.as_deref().map(str::to_owned)))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(narrowed("metadata.name=a,metadata.namespace=b", scope()), Some((some("b"), some("a"))));
    assert_eq!(narrowed("metadata.name=a", scope()), Some((None, None)), "a name alone spans namespaces");
    assert_eq!(narrowed("metadata.name!=a", scope()), Some((None, None)));
    let inside = Scope { namespace: Some("b".into()), ..scope() };
    assert_eq!(narrowed("metadata.name=a", inside.clone()), Some((some("b"), some("a"))));
    assert_eq!(narrowed("metadata.namespace=c", inside), None);
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".{0,80}") {
        let (key, meta) = sample();
        if let Ok(selector) = LabelSelector::parse(&text) { selector.matches(&meta); }
        if let Ok(selector) = FieldSelector::parse(&text, &kind()) { selector.matches(&key, &meta); }
    }

    #[test]
    fn grammar_like_text_never_panics(text in "[ab!=<>(), in/.-]{0,40}") {
        if let Ok(selector) = LabelSelector::parse(&text) { selector.matches(&sample().1); }
    }
}
