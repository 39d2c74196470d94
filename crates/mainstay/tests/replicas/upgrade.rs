//! Drill D31: three servers are replaced by the next version one after the other, and back again, with a step of the schema
//! between the two, while clients write, watch, order operations, and talk to sessions.
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use mainstay_runtime::Tasks;
use mainstay_testkit::command::finish;
use mainstay_testkit::crash::client::{Answer, Client};
use mainstay_testkit::drill_backend::{DrillBackend, doubled};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::fleet::{Fleet, PATIENCE};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const OPERATIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/operations";
const SESSIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/team/sessions";
/// Writes that are to be acknowledged before the next server is replaced.
const BETWEEN: usize = 30;

const TEAM: &str = r#"
apiVersion: mainstay.dev/v1alpha1
kind: Project
metadata: {name: team}
spec: {}
---
apiVersion: mainstay.dev/v1alpha1
kind: Agent
metadata: {name: echo, namespace: team}
spec: {command: [/bin/sh, -c, 'while read -r line; do echo "got $line"; done']}
"#;

/// What goes on all the while, and what came of it.
struct Load {
    tasks: Tasks,
    /// Names that were acknowledged.
    acknowledged: Arc<AtomicUsize>,
    writers: Vec<tokio::task::JoinHandle<Vec<String>>>,
    operators: Vec<tokio::task::JoinHandle<Vec<String>>>,
    watchers: Vec<tokio::task::JoinHandle<Vec<(u64, String)>>>,
    /// The revision up to which watchers watch, once it is known.
    upto: watch::Sender<u64>,
}

impl Load {
    fn start(clients: &[kube::Client], since: u64) -> Self {
        let (tasks, acknowledged, upto) = (Tasks::new(), Arc::default(), watch::Sender::new(u64::MAX));
        let mut load =
            Self { acknowledged, writers: Vec::new(), operators: Vec::new(), watchers: Vec::new(), upto, tasks };
        for (at, client) in clients.iter().enumerate() {
            let object = |name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
            load.writers.push(load.orders(client, format!("w{at}"), CONFIG_MAPS, object));
            load.operators.push(load.orders(client, format!("site{at}"), OPERATIONS, operation));
            let clients = clients.iter().cycle().skip(at).take(clients.len()).cloned().collect();
            load.watchers.push(load.tasks.spawn("watcher", watched(clients, since, load.upto.subscribe())));
        }
        load
    }

    /// Creates one after the other, through one server, until it is told to stop; gives what was acknowledged.
    fn orders(
        &self,
        client: &kube::Client,
        prefix: String,
        path: &'static str,
        object: impl Fn(&str) -> Value + Send + 'static,
    ) -> tokio::task::JoinHandle<Vec<String>> {
        let (client, stopping) = (Client::new(client.clone()), self.tasks.stopping());
        let counted = (path == CONFIG_MAPS).then(|| Arc::clone(&self.acknowledged));
        self.tasks.spawn("writer", async move {
            let mut done = Vec::new();
            while !stopping.is_cancelled() {
                let name = format!("{prefix}-{}", done.len());
                client.create(path, &object(&name)).await.unwrap();
                done.push(name);
                if let Some(counted) = &counted {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
            done
        })
    }

    /// So many writes more are acknowledged.
    async fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        let on = || async { self.acknowledged.load(Ordering::Relaxed) >= before + BETWEEN };
        crate::fleet::until(on).await.expect("writes go on");
    }
}

fn operation(name: &str) -> Value {
    let payload = json!({
        "name": name, "domain": format!("{name}.example.org"), "cidr": "10.0.0.0/24", "volumeBytes": 1024, "image": "web",
        "cpuMillis": 500, "memoryBytes": 4096, "port": 443,
    });
    json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Operation", "metadata": { "name": name },
        "spec": { "handler": "provision", "payload": payload },
    })
}

/// Every creation after a revision, as a client sees it that goes to the next server when its stream ends.
async fn watched(clients: Vec<kube::Client>, since: u64, upto: watch::Receiver<u64>) -> Vec<(u64, String)> {
    let (mut at, mut seen) = (since, Vec::new());
    let parameters = WatchParams::default().timeout(10);
    for client in clients.iter().cycle() {
        let api = Api::<ConfigMap>::namespaced(client.clone(), "default");
        let Ok(stream) = api.watch(&parameters, &at.to_string()).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut stream = std::pin::pin!(stream);
        while at < *upto.borrow()
            && let Some(Ok(event)) = stream.next().await
        {
            match event {
                WatchEvent::Added(found) => {
                    at = found.metadata.resource_version.unwrap().parse().unwrap();
                    seen.push((at, found.metadata.name.unwrap()));
                }
                WatchEvent::Bookmark(mark) => at = mark.metadata.resource_version.parse().unwrap(),
                WatchEvent::Error(status) if status.code < 500 => panic!("a watch from {at} is refused: {status:?}"),
                WatchEvent::Error(_) => break,
                other => panic!("{other:?}"),
            }
        }
        if at >= *upto.borrow() {
            break;
        }
    }
    seen
}

/// Sessions that are talked to before, between and after.
struct Talk(Vec<(String, Value)>);

impl Talk {
    async fn begin(fleet: &Fleet, client: &Client) -> Self {
        finish(fleet.servers[0].command(&["apply", "-f", "-"]), TEAM).ok();
        let mut begun = Vec::new();
        for at in 0..3 {
            let name = format!("s{at}");
            let session = json!({
                "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "metadata": { "name": name },
                "spec": { "agent": "echo", "workspace": { "size": "16Mi" } },
            });
            client.create(SESSIONS, &session).await.unwrap();
            begun.push((name.clone(), status(client, &name, |status| status["phase"] == "Running").await));
        }
        Self(begun)
    }

    /// Each answers through this server, and is the same run in the same Pod.
    async fn answers(&self, fleet: &Fleet, at: usize, client: &Client) {
        for (name, begun) in &self.0 {
            let said = format!("hello {at} {}", begun["lastMessage"]);
            let words = format!("got {said}");
            finish(fleet.servers[at].command(&["send", name, "-n", "team", &said]), "").ok();
            let heard = timeout(PATIENCE, async {
                loop {
                    let messages = finish(fleet.servers[at].command(&["messages", name, "-n", "team"]), "").ok();
                    if messages.contains(&words) {
                        return messages;
                    }
                    tokio::task::yield_now().await;
                }
            });
            let messages = heard.await.unwrap_or_else(|_| panic!("{name} does not answer at {at}"));
            assert_eq!(messages.matches(&words).count(), 1, "{messages}");
            let now = status(client, name, |status| status["phase"] == "Running").await;
            let is = |status: &Value| [status["run"].clone(), status["pod"].clone(), status["attempts"].clone()];
            assert_eq!(is(&now), is(begun), "{name} is another run");
        }
    }
}

/// A session's status, once it is so.
async fn status(client: &Client, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = client.get(&format!("{SESSIONS}/{name}")).await.unwrap().json().unwrap()["status"].clone();
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < until, "{name}: {status}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upgrade_and_its_way_back_lose_nothing_and_kill_nothing() {
    let backend = DrillBackend::start().unwrap();
    let mut fleet = Fleet::start_with(3, &["--drill-backend", &backend.url()]);
    let clients: Vec<kube::Client> = (0..3).map(|at| fleet.client_of(0, &fleet.servers[at])).collect();
    let client = Client::new(clients[2].clone());
    let talk = Talk::begin(&fleet, &client).await;
    let since = revision(&client).await;
    let load = Load::start(&clients, since);
    load.goes_on().await;

    let step = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replicas/next");
    let next: &[&str] = &["--drill-step", step.to_str().unwrap()];
    let own: u32 = fleet.sql("SELECT version FROM mainstay.schema").parse().unwrap();
    let begun = Instant::now();
    for (way, more) in [("forth", next), ("back", &[])] {
        for at in 0..3 {
            let replaced = Instant::now();
            tokio::task::block_in_place(|| fleet.replace(at, more));
            println!("{way}: server {at} was replaced in {} ms", replaced.elapsed().as_millis());
            assert_eq!(fleet.sql("SELECT version, oldest FROM mainstay.schema"), format!("{}|1", own + 1));
            load.goes_on().await;
            if way == "forth" && at < 2 {
                let refused = fleet.over_database(&["schema", "--contract", next[0], next[1]]).failed(4);
                assert!(refused.contains("of an older version"), "{refused}");
            }
        }
        talk.answers(&fleet, usize::from(way == "back"), &client).await;
    }
    assert_ne!(
        fleet.sql("SELECT count(*) FROM mainstay.drill_batches"),
        "0",
        "what they write passes through the step"
    );
    let figures = finished(load, &client, &backend).await;
    println!("forth and back took {} s: {figures}", begun.elapsed().as_secs());
    fleet.terms_only_grew();

    // For good: then the way back is closed, and that is said.
    (0..3).for_each(|at| tokio::task::block_in_place(|| fleet.replace(at, next)));
    let shown = fleet.over_database(&["schema", "--contract", next[0], next[1]]).ok();
    assert!(shown.contains(&format!("schema   {0}; programs that know {0} or later", own + 1)), "{shown}");
    client.create(CONFIG_MAPS, &json!({ "metadata": { "name": "last" } })).await.unwrap();
    fleet.servers[0].stop().unwrap();
    fleet.servers[0].set_arguments(&[]);
    let refused = tokio::task::block_in_place(|| fleet.servers[0].restart()).unwrap_err();
    let words = fleet.servers[0].log_text();
    assert!(words.contains("start a newer one, or restore a backup"), "{refused:#}\n{words}");
}

async fn revision(client: &Client) -> u64 {
    let list = client.get(CONFIG_MAPS).await.unwrap().json().unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// Nothing that was acknowledged is lost, every watch is complete and in order, and each operation was carried out once. Tells
/// how much that was.
async fn finished(load: Load, client: &Client, backend: &DrillBackend) -> String {
    let Load { tasks, writers, operators, watchers, upto, .. } = load;
    tasks.stop();
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    // What one server acknowledged another shows a little later.
    let until = Instant::now() + PATIENCE;
    let list = loop {
        let list = client.get(CONFIG_MAPS).await.unwrap().json().unwrap();
        let there: BTreeMap<&str, u64> = list["items"].as_array().unwrap().iter().map(named).collect();
        let lost: Vec<&String> = written.iter().filter(|name| !there.contains_key(name.as_str())).collect();
        if lost.is_empty() {
            break list;
        }
        assert!(Instant::now() < until, "acknowledged, and lost: {lost:?}");
        tokio::task::yield_now().await;
    };
    let there: BTreeMap<&str, u64> = list["items"].as_array().unwrap().iter().map(named).collect();
    upto.send_replace(there.values().copied().max().unwrap());
    for watcher in watchers {
        let seen = timeout(PATIENCE, watcher).await.expect("a watcher sees the end").unwrap();
        assert!(seen.is_sorted_by(|a, b| a.0 < b.0), "out of order");
        let seen: BTreeMap<&str, u64> = seen.iter().map(|(revision, name)| (name.as_str(), *revision)).collect();
        let missed: Vec<_> = there.iter().filter(|(name, at)| seen.get(*name) != Some(at)).collect();
        assert!(missed.is_empty() && seen.len() == there.len(), "missed: {missed:?}");
    }
    let mut ordered = Vec::new();
    for operator in operators {
        ordered.extend(operator.await.unwrap());
    }
    for name in &ordered {
        let until = Instant::now() + PATIENCE * 3;
        loop {
            let read = client.get(&format!("{OPERATIONS}/{name}")).await.unwrap();
            let status = match read {
                Answer::Done(body) => serde_json::from_str::<Value>(&body).unwrap()["status"].clone(),
                Answer::Refused(..) => Value::Null,
            };
            if status["phase"] == "Succeeded" {
                break;
            }
            let is_over = ["Cancelled", "Dead"].iter().any(|phase| status["phase"] == *phase);
            assert!(!is_over && Instant::now() < until, "{name}: {status}");
            tokio::task::yield_now().await;
        }
    }
    let effects = backend.effects().await.unwrap();
    assert!(doubled(&effects).is_empty(), "had twice: {:?}", doubled(&effects));
    format!("{} writes, {} operations with {} effects", written.len(), ordered.len(), effects.len())
}

fn named(object: &Value) -> (&str, u64) {
    let meta = &object["metadata"];
    (meta["name"].as_str().unwrap(), meta["resourceVersion"].as_str().unwrap().parse().unwrap())
}
