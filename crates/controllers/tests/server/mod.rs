//! A real API server on a temporary directory, every controller on it, and a node agent that only pretends.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use mainstay_api::{Registry, names};
use mainstay_apiserver::auth::Authenticator;
use mainstay_apiserver::crypt::Sealer;
use mainstay_apiserver::keys::Keys;
use mainstay_apiserver::operation::Objects;
use mainstay_apiserver::rbac::{self, Authorizer};
use mainstay_apiserver::token::{StoreSubjects, Tokens};
use mainstay_apiserver::{Access, ApiServer, Config, Identity, Limits, inprocess};
use mainstay_controllers::Office;
use mainstay_controllers::project::teardown::Teardown;
use mainstay_operations::{Policy, Workers};
use mainstay_runtime::duty::Duties;
use mainstay_runtime::operation::{Handler, Handlers};
use mainstay_runtime::{Clock, Tasks};
use mainstay_store::{Options, SqliteStore, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Waits no longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) admin: Client,
    pub(crate) api: ApiServer,
    pub(crate) tasks: Tasks,
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

impl Server {
    /// A server with its controllers, each under its own identity and rights.
    pub(crate) async fn start() -> Self {
        Self::start_at(Clock::system()).await
    }

    /// The same with controllers that go by this clock.
    pub(crate) async fn start_at(clock: Clock) -> Self {
        let server = Self::bare().await;
        server.start_controllers(clock);
        server.start_workers();
        server.start_node().await;
        server
    }

    async fn bare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, tasks) = (Clock::system(), Tasks::new());
        let store: Arc<dyn Store> = SqliteStore::open(Options::new(dir.path())).unwrap();
        let registry = Arc::new(Registry::standard());
        rbac::bootstrap(&store, &registry, &clock).await.unwrap();
        let keys = Arc::new(Keys::ephemeral(clock.now()).unwrap());
        let subjects = Arc::new(StoreSubjects::new(store.clone()));
        let tokens = Arc::new(Tokens::new(&keys, subjects, clock.clone()));
        let access = Access {
            authenticator: Arc::new(Authenticator::new(keys.clone(), tokens.clone())),
            tokens,
            authorizer: Authorizer::new(store.clone()),
        };
        let sealer = Arc::new(Sealer::new(&keys));
        let (limits, version) = (Limits::default(), "0.1.0");
        let duties = Duties::new(tasks.clone(), clock.clone(), store.leases());
        let metrics = mainstay_apiserver::metrics::registry();
        let config = Config {
            store: store.clone(),
            registry,
            access,
            sealer,
            clock,
            tasks: tasks.clone(),
            duties,
            limits,
            version,
            metrics,
        };
        let api = ApiServer::new(config).unwrap();
        let admin = inprocess::client(api.clone(), Identity::admin(), tasks.clone());
        Self { admin, api, tasks, store, _dir: dir }
    }

    fn start_workers(&self) {
        let client =
            inprocess::client(self.api.clone(), Identity::controller("project-controller"), self.tasks.clone());
        let teardown: Arc<dyn Handler> = Arc::new(Teardown::new(client));
        Workers::start(mainstay_operations::Surroundings {
            queue: self.store.clone(),
            turns: None,
            ledger: Arc::new(Objects),
            handlers: Handlers::new([teardown]),
            clock: Clock::system(),
            tasks: self.tasks.clone(),
            policy: Policy::default(),
            metrics: mainstay_operations::Metrics::default(),
        });
    }

    fn start_controllers(&self, clock: Clock) {
        let (api, tasks) = (self.api.clone(), self.tasks.clone());
        let clients = move |name: &str, fence: &str| {
            let identity = Identity::service_account("mainstay-system", name);
            inprocess::leader_client(api.clone(), identity, tasks.clone(), fence)
        };
        let leases = self.store.leases();
        let office = Office { tasks: self.tasks.clone(), clock, leases, clients: Arc::new(clients), serves: true };
        mainstay_controllers::start(&office, &Arc::new(Registry::standard()));
    }

    /// Pods run as soon as they are made; a Pod whose command is `true` completes at once.
    async fn start_node(&self) {
        mainstay_apiserver::node::register(&self.api, "local").await.unwrap();
        let client = inprocess::client(self.api.clone(), Identity::node("local"), self.tasks.clone());
        drop(self.tasks.essential("lease", |stop| renew(client.clone(), stop)));
        drop(self.tasks.essential("node", |stop| async move {
            let mine = watcher::Config::default().fields("spec.nodeName=local");
            let mut events = watcher::watcher(Api::<Pod>::all(client.clone()), mine).boxed();
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = events.next() => event,
                };
                if let Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) = event {
                    realise(&client, &pod).await;
                }
            }
        }));
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Value {
        let request = http::Request::post(path).header("content-type", "application/json");
        self.admin.request(request.body(object.to_string().into_bytes()).unwrap()).await.unwrap()
    }

    pub(crate) async fn merge(&self, path: &str, change: &Value) -> Value {
        let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
        self.admin.request(request.body(change.to_string().into_bytes()).unwrap()).await.unwrap()
    }

    /// The code and message with which a write is refused.
    pub(crate) async fn refused(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", media);
        match self.admin.request::<Value>(request.body(body.to_string().into_bytes()).unwrap()).await {
            Err(kube::Error::Api(status)) => (status.code, status.message),
            other => panic!("{method} {path} was not refused: {other:?}"),
        }
    }

    pub(crate) async fn delete(&self, path: &str) {
        let request = http::Request::delete(path).body(Vec::new()).unwrap();
        self.admin.request::<Value>(request).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        match self.admin.request::<Value>(request).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Waits until the object is as wanted (`None`: until it is gone), and shows it.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(Option<&Value>) -> bool) -> Value {
        let waiting = async {
            loop {
                let found = self.get(path).await;
                if wanted(found.as_ref()) {
                    return found.unwrap_or_default();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(late) => panic!("{path}: {late}: {:?}", self.get(path).await),
        }
    }

    pub(crate) async fn until_phase(&self, path: &str, phase: &str) -> Value {
        self.until(path, |found| found.is_some_and(|object| object["status"]["phase"] == phase)).await
    }
}

/// Keeps the node's lease.
async fn renew(client: Client, stop: CancellationToken) {
    let leases = Api::<Lease>::namespaced(client, names::NODE_LEASES);
    loop {
        let now = Clock::system().now();
        let change = json!({ "spec": { "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(now) } });
        leases.patch("local", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
        if stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(3))).await.is_none() {
            return;
        }
    }
}

/// What a node agent would do about this Pod.
async fn realise(client: &Client, pod: &Pod) {
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let ends_at_once =
        pod.spec.as_ref().is_some_and(|spec| spec.containers[0].command == Some(vec!["true".to_owned()]));
    let ordered_to_stop = pod.annotations().get(names::STOP).is_some_and(|order| order == "true");
    let now = "2026-01-01T00:00:00Z";
    let ended = ["Succeeded", "Failed"].contains(&phase.as_str());
    let deleting = pod.metadata.deletion_timestamp.is_some();
    if deleting && ended {
        let left: Vec<&String> = pod.finalizers().iter().filter(|held| *held != names::NODE_FINALIZER).collect();
        let change = json!({ "metadata": { "resourceVersion": pod.resource_version(), "finalizers": left } });
        api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(change)).await.ok();
    } else if deleting {
        end(&api, pod, "Failed", 143, "Stopped").await;
    } else if phase == "Pending" {
        let ready = json!([{ "type": "Ready", "status": "True", "lastTransitionTime": now }]);
        let change = json!({ "status": { "phase": "Running", "conditions": ready } });
        api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(change)).await.ok();
    } else if phase == "Running" && (ends_at_once || ordered_to_stop) {
        let (phase, code, reason) =
            if ends_at_once { ("Succeeded", 0, "Completed") } else { ("Failed", 143, "Stopped") };
        end(&api, pod, phase, code, reason).await;
    }
}

async fn end(api: &Api<Pod>, pod: &Pod, phase: &str, code: i32, reason: &str) {
    let container = json!([{ "name": "agent", "image": "host", "imageID": "", "ready": false, "restartCount": 0,
                             "state": { "terminated": { "exitCode": code, "reason": reason } } }]);
    let change = json!({ "status": { "phase": phase, "reason": reason, "containerStatuses": container } });
    api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(change)).await.ok();
}
