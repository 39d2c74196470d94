//! Nodes: how one joins, what its agent may do, and that the agent of an older term may do nothing.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::Full;
use mainstay_api::Registry;
use mainstay_api::node::{JoinToken, fence, hex};
use mainstay_apiserver::tls::Peer;
use mainstay_apiserver::{Caller, node, rbac};
use mainstay_runtime::Clock;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::harness::{Answer, Harness, collect};

const CERTIFICATES: &str = "/apis/mainstay.dev/v1alpha1/nodecertificates";
const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

async fn with_roles() -> Harness {
    let api = Harness::new().await;
    rbac::bootstrap(&api.store, &Registry::standard(), &Clock::system()).await.unwrap();
    api
}

fn request() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

fn token(id: &str) -> JoinToken {
    JoinToken { id: id.to_owned(), secret: format!("secret-of-{id}"), authority: "0".repeat(64) }
}

/// Keeps a token as the command line does.
async fn keep(api: &Harness, token: &JoinToken, node: &str, seconds: &str) {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.secret.as_bytes());
    let hash = hex(hash.as_ref());
    let secret = json!({
        "metadata": {"name": JoinToken::secret_name(&token.id)}, "type": "mainstay.dev/node-token",
        "stringData": {"hash": hash, "node": node, "seconds": seconds},
    });
    api.post("/api/v1/namespaces/mainstay-system/secrets", &secret).await.expect(201);
}

async fn send(
    api: &Harness,
    caller: Caller,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = request.header("content-type", media).body(Full::new(body)).unwrap();
    collect(api.server.handle(request, caller).await).await
}

async fn join(api: &Harness, token: &JoinToken, name: &str) -> Answer {
    join_from(api, token, name, ("", "")).await
}

/// The same, from a machine and the place of its directory.
async fn join_from(api: &Harness, token: &JoinToken, name: &str, (machine, place): (&str, &str)) -> Answer {
    let body = json!({"spec": {"nodeName": name, "request": request(), "machine": machine, "place": place}});
    let bearer = format!("Bearer {}", token.bearer());
    send(api, Caller::Unknown, "POST", CERTIFICATES, &[("authorization", &bearer)], &body).await
}

#[tokio::test]
async fn a_join_token_is_good_for_one_certificate_and_nothing_else() {
    let api = with_roles().await;
    let (one, wrong) = (token("one"), JoinToken { secret: "guessed".to_owned(), ..token("one") });
    join(&api, &one, "box").await.refused(401, "not known");
    keep(&api, &one, "", "3600").await;
    join(&api, &wrong, "box").await.refused(401, "not known");
    let bearer = format!("Bearer {}", one.bearer());
    for (method, path) in [("GET", "/api/v1/nodes"), ("GET", PODS), ("GET", "/metrics"), ("POST", "/api/v1/nodes")] {
        let body = json!({"metadata": {"name": "x"}});
        send(&api, Caller::Unknown, method, path, &[("authorization", &bearer)], &body).await.refused(403, "annot");
    }
    join(&api, &one, "Box").await.refused(400, "spec.nodeName");
    let nonsense = json!({"spec": {"nodeName": "box", "request": "-----BEGIN"}});
    let answer = send(&api, Caller::Unknown, "POST", CERTIFICATES, &[("authorization", &bearer)], &nonsense).await;
    answer.refused(400, "spec.request");
    let joined = join(&api, &one, "box").await.expect(201);
    assert!(joined["status"]["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE"), "{joined}");
    assert_eq!(joined["status"]["authority"], api.keys.authority_pem());
    join(&api, &one, "box").await.refused(401, "was used");
    let node = api.get("/api/v1/nodes/box").await.expect(200);
    assert_eq!(node["metadata"]["finalizers"], json!(["mainstay.dev/pods"]));
    api.get(&format!("{LEASE}/box")).await.expect(200);
}

#[tokio::test]
async fn of_many_who_show_a_token_at_once_one_joins() {
    let api = with_roles().await;
    let shared = token("shared");
    keep(&api, &shared, "", "3600").await;
    let names: Vec<String> = (0..8).map(|at| format!("box-{at}")).collect();
    let answers = join_all(names.iter().map(|name| join(&api, &shared, name))).await;
    let mut codes: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [201, 401, 401, 401, 401, 401, 401, 401]);
    assert_eq!(api.get("/api/v1/nodes").await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_is_for_its_node_and_its_time() {
    let api = with_roles().await;
    for (id, node, seconds) in [("late", "", "0"), ("named", "box", "60"), ("open", "", "60"), ("again", "box", "60")] {
        keep(&api, &token(id), node, seconds).await;
    }
    join(&api, &token("late"), "box").await.refused(401, "too old");
    join(&api, &token("named"), "other").await.refused(403, "for the node \"box\"");
    let first = join(&api, &token("named"), "box").await.expect(201);
    join(&api, &token("open"), "box").await.refused(409, "there is a node");
    let again = join(&api, &token("again"), "box").await.expect(201);
    assert_ne!(first["status"]["certificate"], again["status"]["certificate"]);
    // What was refused was not used up.
    join(&api, &token("open"), "box-2").await.expect(201);
}

fn bound(node: &str) -> Value {
    json!({
        "metadata": {"name": format!("on-{node}"), "annotations": {"mainstay.dev/session-uid": "u-1"}},
        "spec": {"containers": [{"name": "agent", "command": ["true"]}], "nodeName": node, "volumes": [
            {"name": "s", "secret": {"secretName": format!("of-{node}")}},
        ]},
    })
}

/// A node, as the certificate of its agent shows it.
async fn peer(api: &Harness, name: &str) -> Arc<Peer> {
    let uid = node::register(&api.server, name).await.unwrap();
    Arc::new(Peer { node: name.to_owned(), uid, join: 0, until: i64::MAX })
}

#[tokio::test]
async fn a_node_reads_and_writes_what_is_its_own_and_nothing_else() {
    let api = with_roles().await;
    let (mine, theirs) = (peer(&api, "mine").await, peer(&api, "theirs").await);
    for name in ["mine", "theirs"] {
        api.post(PODS, &bound(name)).await.expect(201);
        let secret = json!({"metadata": {"name": format!("of-{name}")}, "stringData": {"a": "b"}});
        api.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    }
    let status = json!({"status": {"phase": "Running"}});
    let allowed = [
        ("GET", "/api/v1/nodes/mine", Value::Null),
        ("PATCH", "/api/v1/nodes/mine/status", json!({"status": {"nodeInfo": {"kubeletVersion": "1"}}})),
        ("GET", &format!("{LEASE}/mine"), Value::Null),
        ("PATCH", &format!("{LEASE}/mine"), json!({"spec": {"holderIdentity": "me"}})),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dmine", Value::Null),
        ("GET", &format!("{PODS}/on-mine"), Value::Null),
        ("PATCH", &format!("{PODS}/on-mine/status"), status.clone()),
        ("GET", "/api/v1/namespaces/default/secrets/of-mine", Value::Null),
    ];
    for (method, path, body) in &allowed {
        let answer = send(&api, Caller::Certified(mine.clone()), method, path, &[], body).await;
        assert_eq!(answer.status.as_u16(), 200, "{method} {path}: {}", String::from_utf8_lossy(&answer.bytes));
    }
    let refused = [
        ("GET", "/api/v1/nodes/theirs", Value::Null),
        ("GET", "/api/v1/nodes", Value::Null),
        ("PATCH", "/api/v1/nodes/mine", json!({"spec": {"unschedulable": true}})),
        ("PATCH", "/api/v1/nodes/theirs/status", json!({"status": {"nodeInfo": {"kubeletVersion": "1"}}})),
        ("GET", "/api/v1/nodes/theirs/link", Value::Null),
        ("DELETE", "/api/v1/nodes/mine", Value::Null),
        ("GET", &format!("{LEASE}/theirs"), Value::Null),
        ("PATCH", &format!("{LEASE}/theirs"), json!({"spec": {"holderIdentity": "me"}})),
        ("GET", LEASE, Value::Null),
        ("POST", LEASE, json!({"metadata": {"name": "x"}})),
        ("GET", "/api/v1/pods", Value::Null),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dtheirs", Value::Null),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dtheirs", Value::Null),
        ("GET", "/api/v1/pods?watch=true", Value::Null),
        ("GET", &format!("{PODS}/on-theirs"), Value::Null),
        ("GET", &format!("{PODS}/on-mine/log"), Value::Null),
        ("PATCH", &format!("{PODS}/on-theirs/status"), status),
        ("PATCH", &format!("{PODS}/on-mine"), json!({"metadata": {"labels": {"a": "b"}}})),
        ("POST", PODS, bound("mine")),
        ("DELETE", &format!("{PODS}/on-mine"), Value::Null),
        ("GET", "/api/v1/namespaces/default/secrets/of-theirs", Value::Null),
        ("GET", "/api/v1/namespaces/default/secrets", Value::Null),
        ("POST", "/api/v1/namespaces/default/events", json!({"metadata": {"name": "x"}})),
        ("GET", "/apis/mainstay.dev/v1alpha1/namespaces/default/sessions", Value::Null),
        ("GET", "/metrics", Value::Null),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", json!({"spec": {}})),
    ];
    for (method, path, body) in &refused {
        let answer = send(&api, Caller::Certified(mine.clone()), method, path, &[], body).await;
        assert_eq!(answer.status.as_u16(), 403, "{method} {path}: {}", String::from_utf8_lossy(&answer.bytes));
    }
    // Whoever shows a token is judged by that.
    let bearer = format!("Bearer {}", api.admin_token());
    let headers = [("authorization", bearer.as_str())];
    send(&api, Caller::Certified(mine), "GET", "/api/v1/nodes", &headers, &Value::Null).await.expect(200);
    drop(theirs);
}

#[tokio::test]
async fn a_node_sees_the_sessions_that_ran_on_it() {
    let api = with_roles().await;
    let mine = peer(&api, "mine").await;
    let sessions = "/apis/mainstay.dev/v1alpha1/namespaces/default/sessions";
    for (name, node) in [("here", json!("mine")), ("there", json!("theirs")), ("nowhere", Value::Null)] {
        let session = json!({"metadata": {"name": name}, "spec": {"command": ["true"]}});
        api.post(sessions, &session).await.expect(201);
        api.merge(&format!("{sessions}/{name}/status"), &json!({"status": {"node": node}})).await.expect(200);
    }
    for (name, code) in [("here", 200), ("there", 403), ("nowhere", 403), ("gone", 404)] {
        let path = format!("{sessions}/{name}");
        send(&api, Caller::Certified(mine.clone()), "GET", &path, &[], &Value::Null).await.expect(code);
    }
}

#[tokio::test]
async fn an_agent_of_an_older_term_writes_nothing() {
    let api = with_roles().await;
    let agent = peer(&api, "box").await;
    api.post(PODS, &bound("box")).await.expect(201);
    let (lease, status) = (format!("{LEASE}/box"), format!("{PODS}/on-box/status"));
    let write = async |fence: Option<String>, path: &str, body: &Value| {
        let headers: Vec<(&str, &str)> = fence.iter().map(|fence| ("mainstay-fence", fence.as_str())).collect();
        send(&api, Caller::Certified(agent.clone()), "PATCH", path, &headers, body).await
    };
    write(None, &lease, &json!({"spec": {"leaseTransitions": 4}})).await.expect(200);
    write(Some(fence("box", 4)), &status, &json!({"status": {"phase": "Running"}})).await.expect(200);
    write(None, &lease, &json!({"spec": {"leaseTransitions": 5}})).await.expect(200);
    write(None, &lease, &json!({"spec": {"leaseTransitions": 4}})).await.refused(422, "must not fall");
    let change = json!({"status": {"phase": "Failed"}});
    for fence in [None, Some(fence("box", 4)), Some(fence("other", 9)), Some("nonsense".to_owned())] {
        let answer = write(fence.clone(), &status, &change).await.expect(409);
        assert_eq!(answer["reason"], "Fenced", "{fence:?}: {answer}");
    }
    let renewal = json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    assert_eq!(write(Some(fence("box", 4)), &lease, &renewal).await.expect(409)["reason"], "Fenced");
    write(Some(fence("box", 5)), &lease, &renewal).await.expect(200);
    let link = [("mainstay-fence", "nodes/box/4")];
    let path = "/api/v1/nodes/box/link";
    send(&api, Caller::Certified(agent.clone()), "GET", path, &link, &Value::Null).await.refused(409, "taken over");
    let pod = api.get(&format!("{PODS}/on-box")).await.expect(200);
    assert_eq!(pod["status"]["phase"], "Running", "nothing of it was written");
    write(Some(fence("box", 5)), &status, &change).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_agent_has_under_way_when_its_term_ends_is_written_before_or_not_at_all() {
    let api = with_roles().await;
    let agent = peer(&api, "box").await;
    api.post(PODS, &bound("box")).await.expect(201);
    let (lease, status) = (format!("{LEASE}/box"), format!("{PODS}/on-box/status"));
    let revision = |answer: &Value| answer["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    let (mut written, mut refused) = (0, 0);
    for term in 1..=30_u64 {
        let take = async {
            let taken = json!({"spec": {"leaseTransitions": term + 1}});
            let answer = send(&api, Caller::Certified(agent.clone()), "PATCH", &lease, &[], &taken).await;
            revision(&answer.expect(200))
        };
        let (fence, older) = (fence("box", term), agent.clone());
        let write = async |number: u64| {
            let headers = [("mainstay-fence", fence.as_str())];
            let change = json!({"status": {"message": format!("{term}/{number}")}});
            send(&api, Caller::Certified(older.clone()), "PATCH", &status, &headers, &change).await
        };
        send(
            &api,
            Caller::Certified(agent.clone()),
            "PATCH",
            &lease,
            &[],
            &json!({"spec": {"leaseTransitions": term}}),
        )
        .await
        .expect(200);
        let early = join_all((0..8).map(&write));
        let late = join_all((8..16).map(&write));
        let (early, taken, late) = futures::join!(early, take, late);
        for answer in early.into_iter().chain(late) {
            if answer.status == 200 {
                let at = revision(&answer.expect(200));
                assert!(at < taken, "term {} was taken at {taken}, and {term} writes at {at}", term + 1);
                written += 1;
            } else {
                assert_eq!(answer.expect(409)["reason"], "Fenced");
                refused += 1;
            }
        }
    }
    assert!(written > 0 && refused > 0, "{written} were written, {refused} refused");
}

#[tokio::test]
async fn a_node_is_told_which_authorities_there_are_without_a_certificate() {
    let api = with_roles().await;
    let agent = peer(&api, "box").await;
    let ask = json!({"spec": {}});
    let told = send(&api, Caller::Certified(agent), "POST", CERTIFICATES, &[], &ask).await.expect(201);
    assert_eq!(told["status"]["authority"], api.keys.authority_pem());
    assert!(
        told["status"]["certificate"].is_null() && told["status"]["issuer"].as_str().unwrap().len() == 64,
        "{told}"
    );
    let one = token("one");
    keep(&api, &one, "", "3600").await;
    let bearer = format!("Bearer {}", one.bearer());
    let answer = send(&api, Caller::Unknown, "POST", CERTIFICATES, &[("authorization", &bearer)], &ask).await;
    answer.refused(400, "spec.request");
}

#[tokio::test]
async fn a_node_that_was_removed_or_whose_certificate_is_over_is_unknown() {
    let api = with_roles().await;
    let agent = peer(&api, "box").await;
    let get = async |peer: &Peer| {
        let caller = Caller::Certified(Arc::new(peer.clone()));
        send(&api, caller, "GET", "/api/v1/nodes/box", &[], &Value::Null).await
    };
    get(&agent).await.expect(200);
    get(&Peer { until: 1_000, ..(*agent).clone() }).await.refused(401, "has expired");
    get(&Peer { uid: "another".to_owned(), ..(*agent).clone() }).await.refused(401, "not there any more");
    api.delete("/api/v1/nodes/box").await.expect(200);
    get(&agent).await.refused(401, "not there any more");
    api.merge("/api/v1/nodes/box", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    get(&agent).await.refused(401, "not there any more");
    let anew = peer(&api, "box").await;
    get(&anew).await.expect(200);
    get(&agent).await.refused(401, "not there any more");
}

#[tokio::test]
async fn certificates_are_good_until_the_next_join_of_their_node() {
    let api = with_roles().await;
    for id in ["one", "two"] {
        keep(&api, &token(id), "box", "60").await;
    }
    assert_eq!(join(&api, &token("one"), "box").await.expect(201)["status"]["join"], 1);
    let uid = api.get("/api/v1/nodes/box").await.expect(200)["metadata"]["uid"].as_str().unwrap().to_owned();
    let of =
        |join| Caller::Certified(Arc::new(Peer { node: "box".to_owned(), uid: uid.clone(), join, until: i64::MAX }));
    let get = async |join| send(&api, of(join), "GET", "/api/v1/nodes/box", &[], &Value::Null).await;
    get(1).await.expect(200);
    assert_eq!(join(&api, &token("two"), "box").await.expect(201)["status"]["join"], 2);
    get(2).await.expect(200);
    for join in [0, 1] {
        let refused = get(join).await.expect(401);
        assert_eq!(refused["reason"], "Fenced", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("another has joined under its name"), "{refused}");
    }
    // A renewal is of the same join, and none of an older one is had.
    let renewal = json!({"spec": {"request": request()}});
    let renewed = send(&api, of(2), "POST", CERTIFICATES, &[], &renewal).await.expect(201);
    assert_eq!(renewed["status"]["join"], 2);
    send(&api, of(1), "POST", CERTIFICATES, &[], &renewal).await.expect(401);
    let back = json!({"metadata": {"annotations": {"mainstay.dev/join": null}}});
    api.merge("/api/v1/nodes/box", &back).await.refused(422, "must not fall");
}

#[tokio::test]
async fn another_machine_gets_no_name_of_which_pods_may_be_running() {
    let api = with_roles().await;
    for id in ["first", "open", "it", "moved", "lost", "ended", "home", "homes"] {
        keep(&api, &token(id), if id.starts_with("home") { "home" } else { "box" }, "60").await;
    }
    join_from(&api, &token("first"), "box", ("m", "here")).await.expect(201);
    let (lease, node) = (format!("{LEASE}/box"), "/api/v1/nodes/box");
    let taken = json!({
        "metadata": {"annotations": {"mainstay.dev/machine": "m", "mainstay.dev/place": "here", "mainstay.dev/join": "1"}},
        "spec": {"holderIdentity": "box-1"},
    });
    let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    api.post(PODS, &bound("box")).await.expect(201);
    // Nobody has been this node yet.
    join_from(&api, &token("open"), "box", ("other", "there")).await.expect(201);
    api.merge(&lease, &taken).await.expect(200);
    api.merge(&format!("{node}/status"), &ready("True")).await.expect(200);
    let refuses = async |id: &str, from: (&str, &str)| {
        join_from(&api, &token(id), "box", from).await.refused(409, "may be running default/on-box,");
    };
    refuses("ended", ("other", "there")).await;
    refuses("ended", ("", "")).await;
    refuses("ended", ("m", "there")).await;
    join_from(&api, &token("it"), "box", ("m", "here")).await.expect(201);
    api.merge(&format!("{node}/status"), &ready("False")).await.expect(200);
    join_from(&api, &token("moved"), "box", ("m", "there")).await.expect(201);
    // What was given up may still be running, as long as it is held.
    let pod = format!("{PODS}/on-box");
    let status = |reason: &str| json!({"status": {"phase": "Failed", "reason": reason}});
    api.merge(&pod, &json!({"metadata": {"finalizers": ["mainstay.dev/node"]}})).await.expect(200);
    api.merge(&format!("{pod}/status"), &status("NodeLost")).await.expect(200);
    refuses("lost", ("other", "there")).await;
    api.merge(&pod, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    join_from(&api, &token("lost"), "box", ("other", "there")).await.expect(201);
    // The node of a server, whose agent shows no certificate.
    node::register(&api.server, "home").await.unwrap();
    let own = json!({"metadata": {"annotations": {"mainstay.dev/machine": "s"}}, "spec": {"holderIdentity": "home-1"}});
    api.merge(&format!("{LEASE}/home"), &own).await.expect(200);
    join_from(&api, &token("home"), "home", ("other", "there")).await.refused(409, "own node of a server");
    join_from(&api, &token("homes"), "home", ("s", "here")).await.expect(201);
}
