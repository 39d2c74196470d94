use http::header::{ACCEPT, HeaderValue, IF_NONE_MATCH};
use mainstay_api::{Kind, Rules, Unknown};
use serde_json::{Value, json};

use super::*;

fn widget() -> Kind {
    Kind {
        group: "test.example",
        version: "v1",
        kind: "Widget",
        plural: "widgets",
        singular: "widget",
        short_names: &["wd"],
        categories: &["all"],
        namespaced: false,
        status: true,
        core: false,
        columns: &[],
        selectable: &[],
        schema: || json!({"type": "object"}),
        unknown: Unknown::AsAsked,
        rules: Rules::NONE,
    }
}

fn accept(text: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(text))])
}

fn get(discovery: &Discovery, path: &str, headers: &HeaderMap) -> (String, Value) {
    let document = discovery.answer(path, headers).unwrap_or_else(|error| panic!("{path}: {error}"));
    (document.media.to_str().unwrap().to_owned(), serde_json::from_slice(&document.body).unwrap())
}

const KUBECTL: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

#[test]
fn aggregated_discovery_lists_kinds_with_their_subresources() {
    let discovery = Discovery::new(&Registry::standard().with(widget()));
    let (media, value) = get(&discovery, "/apis", &accept(KUBECTL));
    assert_eq!(media, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let items = value["items"].as_array().unwrap();
    let group = |name: &str| items.iter().find(|item| item["metadata"]["name"] == name).unwrap();
    let sessions = group("mainstay.dev")["versions"][0]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|resource| resource["resource"] == "sessions")
        .unwrap();
    assert_eq!(sessions["responseKind"], json!({"group": "mainstay.dev", "version": "v1alpha1", "kind": "Session"}));
    assert_eq!((&sessions["scope"], &sessions["shortNames"]), (&json!("Namespaced"), &json!(["sess"])));
    let below: Vec<_> =
        sessions["subresources"].as_array().unwrap().iter().map(|sub| sub["subresource"].as_str().unwrap()).collect();
    assert_eq!(below, ["status", "messages", "heartbeat"]);
    let widgets = &group("test.example")["versions"][0]["resources"][0];
    assert_eq!((&widgets["resource"], &widgets["scope"]), (&json!("widgets"), &json!("Cluster")));

    let (media, value) = get(&discovery, "/api", &accept(KUBECTL));
    assert!(media.ends_with("as=APIGroupDiscoveryList"));
    assert_eq!(value["items"].as_array().unwrap().len(), 1);
    let beta = accept("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList");
    assert_eq!(get(&discovery, "/api", &beta).1["apiVersion"], "apidiscovery.k8s.io/v2beta1");
}

#[test]
fn legacy_discovery_says_the_same() {
    let discovery = Discovery::new(&Registry::standard().with(widget()));
    let none = HeaderMap::new();
    assert_eq!(
        get(&discovery, "/api", &none),
        (
            "application/json".into(),
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        )
    );
    let (_, groups) = get(&discovery, "/apis/", &none);
    let names: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert!(
        names.contains(&"mainstay.dev") && names.contains(&"rbac.authorization.k8s.io") && !names.contains(&""),
        "{names:?}"
    );
    let (_, group) = get(&discovery, "/apis/test.example", &none);
    assert_eq!(group["preferredVersion"], json!({"groupVersion": "test.example/v1", "version": "v1"}));
    assert_eq!(group["kind"], "APIGroup");
    let (_, list) = get(&discovery, "/apis/test.example/v1", &none);
    let names: Vec<_> = list["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/status"]);
    let (_, core) = get(&discovery, "/api/v1", &none);
    let named =
        |name: &str| core["resources"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    assert_eq!(named("pods/log")["verbs"], json!(["get"]));
    assert_eq!(named("pods/exec")["verbs"], json!(["create", "get"]));
    assert_eq!(named("serviceaccounts/token")["group"], "authentication.k8s.io");
    assert_eq!(named("configmaps")["shortNames"], json!(["cm"]));
    let (_, own) = get(&discovery, "/apis/mainstay.dev/v1alpha1", &none);
    assert!(own.to_string().contains("\"sessions/messages\"") && own.to_string().contains("\"credentials/reveal\""));
}

#[test]
fn typed_clients_can_read_legacy_discovery() {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIGroupList, APIResourceList, APIVersions};
    let discovery = Discovery::new(&Registry::standard());
    let none = HeaderMap::new();
    let body = |path: &str| discovery.answer(path, &none).unwrap().body.clone();
    serde_json::from_slice::<APIVersions>(&body("/api")).unwrap();
    let groups: APIGroupList = serde_json::from_slice(&body("/apis")).unwrap();
    for group in groups.groups {
        serde_json::from_slice::<APIGroup>(&body(&format!("/apis/{}", group.name))).unwrap();
        let version = group.preferred_version.unwrap().group_version;
        let list: APIResourceList = serde_json::from_slice(&body(&format!("/apis/{version}"))).unwrap();
        assert!(!list.resources.is_empty() && list.group_version == version);
    }
}

#[test]
fn documents_are_stable_and_known_by_their_hash() {
    let (one, two) = (Discovery::new(&Registry::standard()), Discovery::new(&Registry::standard()));
    for path in ["/api", "/apis", "/api/v1", "/apis/mainstay.dev/v1alpha1"] {
        let headers = accept(KUBECTL);
        let document = one.answer(path, &headers).unwrap();
        assert_eq!(Ok(document), two.answer(path, &headers));
        let known = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(&document.etag()).unwrap())]);
        assert!(document.is_known(&known) && !document.is_known(&headers));
    }
    let other = Discovery::new(&Registry::standard().with(widget()));
    let headers = HeaderMap::new();
    assert_ne!(one.answer("/apis", &headers).unwrap().hash, other.answer("/apis", &headers).unwrap().hash);
}

#[test]
fn what_is_not_there_or_not_acceptable_is_refused() {
    let discovery = Discovery::new(&Registry::standard());
    for path in ["/apis/none.example", "/apis/mainstay.dev/v9", "/api/v2", "/apix", ""] {
        assert_eq!(discovery.answer(path, &HeaderMap::new()), Err(NoDocument::NotFound), "{path}");
    }
    assert_eq!(
        discovery.answer("/apis", &accept("application/vnd.kubernetes.protobuf")),
        Err(NoDocument::NotAcceptable)
    );
    let (media, _) = get(&discovery, "/apis", &accept("application/vnd.kubernetes.protobuf,application/json"));
    assert_eq!(media, "application/json");
}
