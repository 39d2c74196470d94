//! The driver against an API in memory, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::FakeApi;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use mainstay_api::session::Session;
use mainstay_controllers::driver::{Driver, Metrics, Surroundings, controller_of};
use mainstay_controllers::{Effect, FencingToken, Next, Plan, Reconciler};
use mainstay_runtime::{Class, Clock, Failure, Reason, Tasks, Timestamp};
use serde_json::json;
use tokio::sync::watch;

const PATH: &str = "/apis/mainstay.dev/v1alpha1/namespaces/demo/sessions";

/// What the reconciler under test does.
struct Script {
    attempts: watch::Sender<Vec<String>>,
    fail: AtomicBool,
    class: Class,
    panics_left: AtomicU32,
    next: Next,
}

#[derive(Clone)]
struct Scripted(Arc<Script>);

impl Reconciler for Scripted {
    type Object = Session;
    type Observed = Next;
    type Action = ();
    const NAME: &'static str = "scripted";

    async fn observe(&self, session: &Session) -> Result<Next, Failure> {
        let name = session.metadata.name.clone().unwrap_or_default();
        self.0.attempts.send_modify(|attempts| attempts.push(name));
        assert!(
            self.0.panics_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err(),
            "as the test asked"
        );
        if self.0.fail.load(Ordering::SeqCst) {
            return Err(Failure::new(self.0.class, "the world is not there"));
        }
        Ok(self.0.next)
    }

    fn plan(_: &Session, next: &Next, _: Timestamp) -> Plan<()> {
        Plan::settled(*next)
    }

    async fn apply(&self, _: &Session, (): (), _: FencingToken) -> Result<Effect, Failure> {
        Ok(Effect::NONE)
    }

    fn conditions(session: &Session) -> &[Condition] {
        session.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}

struct Bench {
    api: FakeApi,
    script: Arc<Script>,
    seen: watch::Receiver<Vec<String>>,
    tasks: Tasks,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Bench {
    fn start(class: Class, fail: bool, panics: u32, next: Next) -> Self {
        Self::on(FakeApi::new(), class, fail, panics, next)
    }

    fn on(api: FakeApi, class: Class, fail: bool, panics: u32, next: Next) -> Self {
        let (attempts, seen) = watch::channel(Vec::new());
        let script = Arc::new(Script {
            attempts,
            fail: AtomicBool::new(fail),
            class,
            panics_left: AtomicU32::new(panics),
            next,
        });
        let tasks = Tasks::new();
        let clock = Clock::virtual_from("2026-01-01T00:00:00Z".parse().unwrap());
        let surroundings = Surroundings { tasks: tasks.clone(), clock: clock.clone(), fence: FencingToken(1) };
        let driver = Driver::new(Scripted(Arc::clone(&script)), api.client())
            .related::<k8s_openapi::api::core::v1::Pod>(|meta| controller_of(meta, "Session"));
        let metrics = driver.metrics();
        driver.start(&surroundings);
        Self { api, script, seen, tasks, clock, metrics }
    }

    async fn attempts(&mut self, at_least: usize) -> usize {
        let waited = tokio::time::timeout(Duration::from_hours(1), self.seen.wait_for(|seen| seen.len() >= at_least));
        waited.await.expect("in time").expect("the driver lives").len()
    }

    fn count(&self) -> usize {
        self.seen.borrow().len()
    }

    fn condition(&self, name: &str) -> Option<(String, String, String)> {
        let object = self.api.object(&format!("{PATH}/{name}"))?;
        let condition = object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == "Reconciled")?;
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }

    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !what(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_hours(1), waiting).await.expect("in time");
    }
}

fn session() -> serde_json::Value {
    json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "metadata": {}, "spec": { "prompt": "x" },
            "status": { "phase": "Pending" } })
}

#[tokio::test(start_paused = true)]
async fn a_driver_tells_when_each_of_its_watches_has_listed() {
    let bench = Bench::start(Class::TRANSIENT, false, 0, Next::AwaitChange);
    assert_eq!(bench.metrics.first_lists.left(), 2);
    tokio::time::timeout(Duration::from_hours(1), bench.metrics.first_lists.all()).await.expect("in time");
    assert_eq!(bench.metrics.first_lists.left(), 0);
}

/// The issue's own test: a key that always fails makes at most 8 attempts in 60 s while its status is being written.
/// R1.
#[tokio::test(start_paused = true)]
async fn a_key_that_always_fails_is_tried_rarely_while_its_status_is_written() {
    let mut bench = Bench::start(Class::TRANSIENT, true, 0, Next::AwaitChange);
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(1).await;
    for second in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.api.change(&format!("{PATH}/a"), |object| object["status"]["lastMessage"] = json!(second));
    }
    let attempts = bench.count();
    assert!((4..=8).contains(&attempts), "{attempts} attempts");
    bench.attempts(10).await;
    let (status, reason, message) = bench.condition("a").expect("milestones are written");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Transient"));
    assert!(message.starts_with("the world is not there (failed "), "{message}");
    bench.script.fail.store(false, Ordering::SeqCst);
    bench.until(|bench| bench.condition("a").is_some_and(|(status, ..)| status == "True")).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_generation_cuts_a_back_off_short() {
    let mut bench = Bench::start(Class::TRANSIENT, true, 0, Next::AwaitChange);
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(4).await;
    let (before, began) = (bench.count(), tokio::time::Instant::now());
    bench.api.change(&format!("{PATH}/a"), |object| object["spec"]["prompt"] = json!("y"));
    bench.attempts(before + 1).await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_related_change_cuts_a_back_off_short() {
    let mut bench = Bench::start(Class::TRANSIENT, true, 0, Next::AwaitChange);
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(4).await;
    let (before, began) = (bench.count(), tokio::time::Instant::now());
    let owner = json!([{ "apiVersion": "v", "kind": "Session", "name": "a", "uid": "u", "controller": true }]);
    bench.api.add("/api/v1/namespaces/demo/pods/a-1", json!({ "metadata": { "ownerReferences": owner } }));
    bench.attempts(before + 1).await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

/// R20.
#[tokio::test(start_paused = true)]
async fn a_terminal_failure_is_told_at_once_and_waits_for_a_new_generation() {
    let mut bench = Bench::start(Class::Terminal(Reason::Invalid), true, 0, Next::AwaitChange);
    bench.api.add(&format!("{PATH}/a"), session());
    bench.until(|bench| bench.condition("a").is_some()).await;
    assert_eq!(bench.condition("a").unwrap().1, "Invalid");
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(bench.count(), 1);
    bench.script.fail.store(false, Ordering::SeqCst);
    bench.api.change(&format!("{PATH}/a"), |object| object["spec"]["prompt"] = json!("y"));
    bench.attempts(2).await;
    bench.until(|bench| bench.condition("a").is_some_and(|(status, ..)| status == "True")).await;
}

/// R12.
#[tokio::test(start_paused = true)]
async fn a_panic_is_one_keys_failure() {
    let mut bench = Bench::start(Class::TRANSIENT, false, 2, Next::AwaitChange);
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(3).await;
    bench.api.add(&format!("{PATH}/b"), session());
    bench.attempts(4).await;
    assert!(!bench.tasks.stopping().is_cancelled());
}

/// A bug that stays is told like any other failure, with its Event, and taken back once it is gone.
/// R12.
#[tokio::test(start_paused = true)]
async fn a_key_that_goes_on_panicking_is_told() {
    let mut bench = Bench::start(Class::TRANSIENT, false, 7, Next::AwaitChange);
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(4).await;
    assert_eq!(bench.condition("a"), None, "not every one of them");
    bench.until(|bench| bench.condition("a").is_some()).await;
    let (status, reason, message) = bench.condition("a").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Panicked"));
    assert_eq!(message, "reconcile: the code panicked (failed 5 times in a row)");
    let events =
        || bench.api.requests().iter().filter(|line| line.starts_with("POST /api/v1/namespaces/demo/events")).count();
    bench.until(|_| events() == 1).await;
    bench.until(|bench| bench.condition("a").is_some_and(|(status, ..)| status == "True")).await;
    assert_eq!((bench.count(), bench.metrics.panics.get(), events()), (8, 7, 1));
}

#[tokio::test(start_paused = true)]
async fn a_fenced_driver_stops() {
    let bench = Bench::start(Class::Fenced, true, 0, Next::AwaitChange);
    let stopping = bench.tasks.stopping();
    bench.api.add(&format!("{PATH}/a"), session());
    stopping.cancelled().await;
    assert!(bench.tasks.shutdown(Duration::from_secs(5)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_key_is_looked_at_again_when_it_asked_to_be() {
    let mut bench = Bench::start(Class::TRANSIENT, false, 0, Next::After(Duration::from_secs(7)));
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(1).await;
    let began = tokio::time::Instant::now();
    bench.attempts(2).await;
    let late = began.elapsed().abs_diff(Duration::from_secs(7));
    assert!(late < Duration::from_millis(50), "{late:?}");
}

/// Timers stand still while the machine sleeps; what was due meanwhile is done at once.
#[tokio::test(start_paused = true)]
async fn what_fell_due_while_the_machine_slept_is_done_at_once() {
    let mut bench = Bench::start(Class::TRANSIENT, false, 0, Next::After(Duration::from_hours(5)));
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(1).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(bench.count(), 1);
    let awake = tokio::time::Instant::now();
    bench.clock.suspend(Duration::from_hours(5));
    bench.attempts(2).await;
    assert!(awake.elapsed() < Duration::from_secs(1), "{:?}", awake.elapsed());
}

/// Who loses a related object is concerned, also when it is still there and somebody else's.
#[tokio::test(start_paused = true)]
async fn a_related_object_that_changes_hands_wakes_both() {
    let mut bench = Bench::start(Class::TRANSIENT, false, 0, Next::AwaitChange);
    for name in ["a", "b"] {
        bench.api.add(&format!("{PATH}/{name}"), session());
    }
    bench.attempts(2).await;
    let owner =
        |name: &str| json!({ "apiVersion": "v", "kind": "Session", "name": name, "uid": name, "controller": true });
    let pod = "/api/v1/namespaces/demo/pods/p";
    bench.api.add(pod, json!({ "metadata": { "ownerReferences": [owner("a")] } }));
    bench.attempts(3).await;
    bench.api.change(pod, |pod| pod["metadata"]["ownerReferences"] = json!([owner("b")]));
    bench.attempts(5).await;
    bench.api.change(pod, |pod| pod["metadata"]["ownerReferences"] = json!([]));
    bench.attempts(6).await;
    let seen = bench.seen.borrow()[2..].to_vec();
    let mut both = seen[1..3].to_vec();
    both.sort();
    assert_eq!((seen[0].as_str(), both, seen[3].as_str()), ("a", vec!["a".to_owned(), "b".to_owned()], "b"));
}

/// R40: more objects than any buffer or page holds, all there before the driver starts.
#[tokio::test(start_paused = true)]
async fn a_start_with_many_objects_reconciles_each() {
    let api = FakeApi::new();
    for number in 0..1_200 {
        api.add(&format!("{PATH}/s{number}"), session());
    }
    let mut bench = Bench::on(api, Class::TRANSIENT, false, 0, Next::AwaitChange);
    bench.attempts(1_200).await;
    let mut names = bench.seen.borrow().clone();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 1_200);
    assert!(bench.api.requests().iter().filter(|line| line.contains("continue=")).count() >= 2, "pages");
}

/// R41: a watch that is cut, with its place forgotten, lists anew and misses nothing of the gap.
#[tokio::test(start_paused = true)]
async fn a_gap_in_the_watch_is_healed_by_a_list() {
    let mut bench = Bench::start(Class::TRANSIENT, false, 0, Next::AwaitChange);
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(1).await;
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    bench.api.set_fault(move |_, _| is_down.load(Ordering::SeqCst).then_some(503));
    bench.api.add(&format!("{PATH}/b"), session());
    bench.api.remove(&format!("{PATH}/a"));
    bench.api.forget_history();
    tokio::time::sleep(Duration::from_mins(2)).await;
    down.store(false, Ordering::SeqCst);
    bench.until(|bench| bench.seen.borrow().iter().any(|name| name == "b")).await;
    bench.api.add(&format!("{PATH}/c"), session());
    let began = tokio::time::Instant::now();
    bench.until(|bench| bench.seen.borrow().iter().any(|name| name == "c")).await;
    assert!(began.elapsed() < Duration::from_secs(1), "the watch is live again");
}

/// R12.
#[tokio::test(start_paused = true)]
async fn a_list_that_fails_at_first_is_repeated() {
    let api = FakeApi::new();
    let left = AtomicU32::new(5);
    api.set_fault(move |_, _| {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok().then_some(500)
    });
    api.add(&format!("{PATH}/a"), session());
    let mut bench = Bench::on(api, Class::TRANSIENT, false, 0, Next::AwaitChange);
    bench.attempts(1).await;
}

/// R21: a reconcile under way at shutdown is waited for, not cut.
#[tokio::test(start_paused = true)]
async fn shutdown_joins_everything() {
    let mut bench = Bench::start(Class::TRANSIENT, true, 0, Next::AwaitChange);
    bench.api.add(&format!("{PATH}/a"), session());
    bench.attempts(2).await;
    assert!(bench.tasks.shutdown(Duration::from_secs(5)).await.is_ok());
    let after = bench.count();
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(bench.count(), after, "nothing runs on");
}
