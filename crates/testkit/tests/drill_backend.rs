//! drill-backend as its callers meet it: a process, and what it does when it is told to be sick.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use mainstay_runtime::client::{Http, HttpError, Trust};
use mainstay_runtime::{Class, Classify as _};
use mainstay_testkit::drill_backend::{Die, DrillBackend, Fault, Guards, Lie, On, doubled};

const PATIENCE: Duration = Duration::from_secs(30);
/// For calls that are to have no answer.
const SHORT: Duration = Duration::from_millis(200);

struct Caller {
    http: Http,
    url: String,
}

impl Caller {
    async fn ask(&self, step: &str, token: u64, verb: &str, within: Duration) -> Result<StatusCode, HttpError> {
        let request = Request::post(format!("{}/v1/compute/{verb}/i", self.url))
            .header("mainstay-operation", "o")
            .header("mainstay-step", step)
            .header("mainstay-fence", token)
            .body(Bytes::from_static(b"{}"))
            .unwrap();
        self.http.call(request, within).await.map(|answer| answer.status())
    }
}

fn start() -> (DrillBackend, Caller) {
    let backend = DrillBackend::start_from(Path::new(env!("CARGO_BIN_EXE_drill-backend"))).unwrap();
    let caller = caller(&backend);
    (backend, caller)
}

/// One without connections.
fn caller(backend: &DrillBackend) -> Caller {
    let http = Http::new(Trust::Only(Arc::new(rustls::RootCertStore::empty())), 4096).unwrap();
    Caller { http, url: backend.url() }
}

/// What a caller is told, and whether it is done all the same.
#[tokio::test]
async fn each_sickness_is_what_it_says() {
    let (backend, caller) = start();
    let cases = [
        (Fault::Stall, None, false),
        (Fault::StallBody, None, true),
        (Fault::Status { code: 503, retry_after_seconds: None }, Some(503), false),
        (Fault::Status { code: 429, retry_after_seconds: Some(7) }, Some(429), false),
        (Fault::LateAnswer { millis: 60_000 }, None, true),
        (Fault::Cut, None, true),
        (Fault::Lie { with: Lie::Nonsense, done: false }, Some(200), false),
        (Fault::Lie { with: Lie::Other, done: true }, Some(200), true),
        (Fault::Lie { with: Lie::Endless, done: true }, None, true),
    ];
    for (at, (fault, status, done)) in cases.into_iter().enumerate() {
        let before = backend.effects().await.unwrap().len();
        backend.drill(On::verb("compute", "run-task"), fault.clone(), Some(1)).await.unwrap();
        let told = caller.ask(&at.to_string(), 1, "run-task", SHORT).await;
        assert_eq!(told.as_ref().ok().map(StatusCode::as_u16), status, "{fault:?}");
        assert!(told.is_ok() || told.unwrap_err().class() == Class::Indeterminate, "{fault:?}");
        assert_eq!(backend.effects().await.unwrap().len() - before, usize::from(done), "{fault:?}");
        assert_eq!(caller.ask(&at.to_string(), 1, "run-task", PATIENCE).await.unwrap(), 200, "it is well again");
    }
    assert_eq!(doubled(&backend.effects().await.unwrap()), []);
}

#[tokio::test]
async fn a_straggler_is_done_though_its_caller_has_gone() {
    let (backend, caller) = start();
    backend.drill(On::all(), Fault::LateEffect { millis: 300 }, Some(1)).await.unwrap();
    assert_eq!(caller.ask("launch", 1, "launch", SHORT).await.unwrap_err().class(), Class::Indeterminate);
    assert_eq!(backend.effects().await.unwrap(), []);
    assert_eq!(backend.carried_out(1).await.unwrap()[0].step, "launch");
}

#[tokio::test]
async fn it_dies_before_or_after_the_effect_and_knows_what_it_did() {
    let (mut backend, caller) = start();
    for (step, when, done) in [("before", Die::Before, 0), ("after", Die::After, 1)] {
        backend.drill(On::verb("compute", "run-task"), Fault::Die(when), Some(1)).await.unwrap();
        let told = caller.ask(step, 1, "run-task", PATIENCE).await.unwrap_err();
        assert_eq!(told.class(), Class::Indeterminate);
        backend.died().await.unwrap();
        let dead = caller.ask(step, 1, "run-task", PATIENCE).await.unwrap_err();
        assert_eq!(dead.class(), Class::TRANSIENT, "{step}: {dead:?}");
        backend.restart().await.unwrap();
        assert_eq!(backend.effects().await.unwrap().len(), done);
    }
    assert_eq!(caller.ask("after", 1, "run-task", PATIENCE).await.unwrap(), 200);
    assert_eq!(backend.effects().await.unwrap().len(), 1, "it remembers the first result");
    backend.kill9().unwrap();
    backend.restart().await.unwrap();
    assert_eq!(backend.effects().await.unwrap().len(), 1);
}

#[tokio::test]
async fn guards_hold_over_a_restart_and_can_be_switched_off() {
    let (mut backend, caller) = start();
    assert_eq!(caller.ask("launch", 2, "launch", PATIENCE).await.unwrap(), 200);
    backend.kill9().unwrap();
    backend.restart().await.unwrap();
    let caller = self::caller(&backend);
    assert_eq!(caller.ask("stop", 1, "stop", PATIENCE).await.unwrap(), 409);
    assert_eq!(backend.refusals().await.unwrap().len(), 1);
    assert_eq!(caller.ask("launch", 3, "launch", PATIENCE).await.unwrap(), 200);
    assert_eq!(backend.inventory().await.unwrap().len(), 1);
    backend.guard(Guards { fence: false, duplicate: false, undone: false }).await.unwrap();
    backend.restart().await.unwrap();
    let caller = self::caller(&backend);
    assert_eq!(caller.ask("launch", 1, "launch", PATIENCE).await.unwrap(), 200);
    assert_eq!(doubled(&backend.effects().await.unwrap()), [("o", "launch")]);
    assert_eq!(
        (backend.inventory().await.unwrap().len(), backend.arrivals("compute", "launch").await.unwrap()),
        (2, 1)
    );
}
