use super::*;

fn resource(path: &str) -> ResourcePath<'_> {
    match target(path).unwrap() {
        Target::Resource(found) => found,
        Target::Other(other) => panic!("{other} is no resource"),
    }
}

#[test]
fn paths_are_read() {
    // (path, group, version, namespace, plural, name, subresource)
    let table = [
        ("/api/v1/namespaces", "", "v1", "", "namespaces", "", ""),
        ("/api/v1/namespaces/a", "", "v1", "", "namespaces", "a", ""),
        ("/api/v1/namespaces/a/status", "", "v1", "", "namespaces", "a", "status"),
        ("/api/v1/namespaces/a/pods", "", "v1", "a", "pods", "", ""),
        ("/api/v1/namespaces/a/pods/", "", "v1", "a", "pods", "", ""),
        ("/api/v1/namespaces/a/pods/p/log", "", "v1", "a", "pods", "p", "log"),
        ("/api/v1/pods", "", "v1", "", "pods", "", ""),
        ("/apis/mainstay.dev/v1alpha1/projects/x%2dy", "mainstay.dev", "v1alpha1", "", "projects", "x-y", ""),
        ("/apis/a.b/v1/namespaces/n/things/t/status", "a.b", "v1", "n", "things", "t", "status"),
    ];
    for (path, group, version, namespace, plural, name, subresource) in table {
        let found = resource(path);
        let text = |part: &Option<Cow<'_, str>>| part.as_deref().unwrap_or("").to_owned();
        assert_eq!(
            (&*found.group, &*found.version, &*text(&found.namespace), &*found.plural),
            (group, version, namespace, plural),
            "{path}"
        );
        assert_eq!((&*text(&found.name), &*text(&found.subresource)), (name, subresource), "{path}");
    }
}

#[test]
fn what_is_no_resource_is_other_or_not_found() {
    for path in ["/", "/api", "/api/v1", "/apis", "/apis/g", "/apis/g/v1", "/healthz", "/openapi/v3"] {
        assert!(matches!(target(path), Ok(Target::Other(_))), "{path}");
    }
    for path in ["/api/v1/pods/a/b/c", "/api/v1//pods", "/api/v1/namespaces/a/pods/p/log/x", "/api/v1/namespaces//pods"]
    {
        assert_eq!(target(path).unwrap_err().code(), 404, "{path}");
    }
    assert_eq!(target("/api/v1/pods/%ff").unwrap_err().code(), 400);
}

#[test]
fn queries_tolerate_what_clients_send() {
    let query = Query::parse(Some("&limit=5&watch=1&labelSelector=a%3Db+c&empty=&labelSelector=second")).unwrap();
    assert_eq!(query.number::<u64>("limit").unwrap(), Some(5));
    assert!(query.flag("watch").unwrap());
    assert_eq!(query.get("labelSelector"), Some("a=b c"));
    assert_eq!(query.all("labelSelector").count(), 2);
    assert_eq!(query.get("empty"), None);
    assert_eq!(query.number::<u64>("watch").unwrap(), Some(1));
    assert_eq!(Query::parse(Some("watch=perhaps")).unwrap().flag("watch").unwrap_err().code(), 400);
    assert_eq!(Query::parse(Some("limit=-1")).unwrap().number::<u64>("limit").unwrap_err().code(), 400);
    assert_eq!(Query::parse(Some(&"a=b&".repeat(100))).unwrap_err().code(), 400);
    assert_eq!(Query::parse(Some(&"a".repeat(20_000))).unwrap_err().code(), 414);
}

#[test]
fn verbs_follow_method_path_and_watch() {
    let table = [
        ("GET", "/api/v1/pods", "", Some(Verb::List)),
        ("GET", "/api/v1/pods", "watch=true", Some(Verb::Watch)),
        ("GET", "/api/v1/namespaces/n/pods/p", "", Some(Verb::Get)),
        ("GET", "/api/v1/namespaces/n/pods/p/log", "watch=1", Some(Verb::Get)),
        ("POST", "/api/v1/namespaces/n/pods", "", Some(Verb::Create)),
        ("PUT", "/api/v1/namespaces/n/pods/p", "", Some(Verb::Update)),
        ("PUT", "/api/v1/namespaces/n/pods", "", None),
        ("PATCH", "/api/v1/namespaces/n/pods/p", "", Some(Verb::Patch)),
        ("DELETE", "/api/v1/namespaces/n/pods/p", "", Some(Verb::Delete)),
        ("DELETE", "/api/v1/namespaces/n/pods", "", Some(Verb::DeleteCollection)),
        ("TRACE", "/api/v1/pods", "", None),
    ];
    for (method, path, query, verb) in table {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let query = Query::parse(Some(query)).unwrap();
        assert_eq!(Verb::of(&method, &resource(path), &query), verb, "{method} {path}");
    }
}
