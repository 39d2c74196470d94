//! A store, workers, a handler whose steps do as they are told, and a world that notes every effect.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_operations::{Metrics, Policy, Surroundings, Workers};
use mainstay_runtime::operation::{At, Handler, Handlers, Progress, Step, Work};
use mainstay_runtime::resilience::retry;
use mainstay_runtime::{Class, Clock, Failure, Reason, Tasks};
use mainstay_store::operation::{Ending, Ledger, Order, Queue, Queued, StepState};
use mainstay_store::sqlite::{Options, SqliteStore};
use mainstay_store::{Draft, Key, Meta, Object, Requires, Scope, Store, Write};
use serde_json::{Value, json};

/// What a step does, one word for each time that it is called; the last counts on.
/// `ok`, `later`, `fail`, `lost` (has its effect, then fails without an answer), `never`, `panic`, `hang`, `block` (holds
/// its thread, and with it all that runs there, until [`World::blocks`] says otherwise; then has its effect).
pub(crate) type Script = Vec<&'static str>;

/// The world that the steps act on.
#[derive(Debug, Default)]
pub(crate) struct World {
    state: Mutex<State>,
    gate: Mutex<Option<mpsc::Receiver<()>>>,
    pub(crate) changed: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Every call that had an effect, in order: `act NAME` or `undo NAME`.
    effects: Vec<String>,
    /// What is there, by operation and step: how often it was put there.
    there: BTreeMap<(String, String), u32>,
    calls: BTreeMap<String, usize>,
    /// Steps that hang now.
    hanging: u32,
    /// How many attempts were under way at once, at most, by concurrency key.
    pub(crate) at_once: BTreeMap<String, (u32, u32)>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn effects(&self) -> Vec<String> {
        self.lock().effects.clone()
    }

    /// The next `block` lasts until this is dropped.
    pub(crate) fn blocks(&self) -> mpsc::Sender<()> {
        let (sender, receiver) = mpsc::channel();
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
        sender
    }

    fn block(&self) {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.lock().hanging += 1;
        self.changed.notify_waiters();
        if let Some(gate) = gate {
            gate.recv().ok();
        }
        self.lock().hanging -= 1;
    }

    pub(crate) fn hanging(&self) -> u32 {
        self.lock().hanging
    }

    /// The most that were under way at once with this key.
    pub(crate) fn most_at_once(&self, key: &str) -> u32 {
        self.lock().at_once.get(key).map_or(0, |(_, most)| *most)
    }

    fn had(&self, at: &At, what: &str) {
        let mut state = self.lock();
        let place = (at.key.operation.to_string(), at.key.step.to_string());
        let times = state.there.entry(place).or_default();
        *times += 1;
        // The receiver answers a repetition with the first result, without another effect.
        if *times == 1 {
            state.effects.push(what.to_owned());
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn saw(&self, at: &At) -> bool {
        self.lock().there.contains_key(&(at.key.operation.to_string(), at.key.step.to_string()))
    }

    fn word(&self, call: &str, script: &[&'static str]) -> &'static str {
        let mut state = self.lock();
        let count = state.calls.entry(call.to_owned()).or_default();
        let word = script.get(*count).or(script.last()).copied().unwrap_or("ok");
        *count += 1;
        word
    }
}

/// The handler `scripted`: its payload says which steps there are, and the test what they do.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) world: Arc<World>,
    pub(crate) scripts: BTreeMap<&'static str, Script>,
}

struct Told {
    name: String,
    script: Script,
    undo: Script,
    key: String,
    world: Arc<World>,
}

impl Handler for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn steps(&self, work: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        let payload: Vec<String> = work.payload()?;
        let script = |name: &str| self.scripts.get(name).cloned().unwrap_or_default();
        Ok(payload
            .into_iter()
            .map(|name| {
                let (script, undo) = (script(&name), script(&format!("undo {name}")));
                let key = work.namespace.to_string();
                Box::new(Told { name, script, undo, key, world: self.world.clone() }) as Box<dyn Step>
            })
            .collect())
    }
}

impl Told {
    async fn play(&self, at: &At, what: String, script: &[&'static str]) -> Result<Progress, Failure> {
        match self.world.word(&format!("{} {what}", at.key.operation), script) {
            "fail" => Err(Failure::new(Class::TRANSIENT, "the backend is away")),
            "never" => Err(Failure::new(Class::Terminal(Reason::SystemRefused), "the backend refuses")),
            "panic" => panic!("as asked"),
            "lost" => {
                self.world.had(at, &what);
                Err(Failure::new(Class::Indeterminate, "no answer"))
            }
            "later" => Ok(Progress::NotYet(Duration::from_millis(1))),
            "hang" => {
                self.world.lock().hanging += 1;
                self.world.changed.notify_waiters();
                at.cancelled.cancelled().await;
                self.world.lock().hanging -= 1;
                Err(Failure::new(Class::Indeterminate, "interrupted"))
            }
            word => {
                if word == "block" {
                    self.world.block();
                }
                self.world.had(at, &what);
                Ok(Progress::Done(json!({ "by": what })))
            }
        }
    }
}

impl Step for Told {
    fn name(&self) -> &str {
        &self.name
    }

    fn observe<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        async { Ok(self.world.saw(at).then(|| Progress::Done(json!({ "by": "observed" })))) }.boxed()
    }

    fn act<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        async move {
            let count = |by: i64| {
                let mut state = self.world.lock();
                let (now, most) = state.at_once.entry(self.key.clone()).or_default();
                *now = now.saturating_add_signed(i32::try_from(by).unwrap_or(0));
                *most = (*now).max(*most);
            };
            count(1);
            tokio::task::yield_now().await;
            let outcome = std::panic::AssertUnwindSafe(self.play(at, format!("act {}", self.name), &self.script))
                .catch_unwind()
                .await;
            count(-1);
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }
        .boxed()
    }

    fn undo<'a>(&'a self, at: &'a At, _: &'a Value) -> BoxFuture<'a, Result<Progress, Failure>> {
        self.play(at, format!("undo {}", self.name), &self.undo).boxed()
    }
}

/// Orders and ends as plain JSON.
#[derive(Debug)]
pub(crate) struct Plain;

impl Ledger for Plain {
    fn order(&self, object: &Object) -> Result<Order, Failure> {
        let value: Value = serde_json::from_slice(&object.body)
            .map_err(|error| Failure::caused_by(Class::Terminal(Reason::Corrupt), "read the order", error))?;
        let text = |field: &str| value["spec"][field].as_str().unwrap_or_default().into();
        let number = |field: &str| value["spec"][field].as_u64().unwrap_or_default();
        let work = Work {
            id: object.meta.uid.clone(),
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            handler: text("handler"),
            owner: None,
            payload: value["spec"]["payload"].clone(),
        };
        let max_attempts = u32::try_from(number("maxAttempts")).unwrap_or(1);
        Ok(Order { work, max_attempts, timeout: Duration::from_millis(number("timeoutMs")) })
    }

    fn end(&self, object: &Object, ending: &Ending) -> Result<Write, Failure> {
        let value: Value = serde_json::from_slice(&object.body).unwrap_or_default();
        let steps: Vec<Value> = ending.standing.steps.iter().map(|row| json!([row.step, word(row.state)])).collect();
        let status = json!({
            "phase": format!("{:?}", ending.state), "reason": ending.reason, "message": ending.message, "output": ending.output,
            "steps": steps, "failures": ending.standing.row.failures, "attempt": ending.standing.row.attempt,
            "history": ending.standing.row.history.len(),
        });
        let draft = draft(&object.meta.uid, &value["spec"], &status, None);
        Ok(Write::Update { key: object.key.clone(), draft, expected: object.revision })
    }
}

pub(crate) fn word(state: StepState) -> String {
    format!("{state:?}")
}

fn draft(uid: &str, spec: &Value, status: &Value, queued: Option<Arc<Queued>>) -> Draft {
    Draft {
        head: r#"{"metadata":{"resourceVersion":""#.into(),
        tail: format!(r#""}},"spec":{spec},"status":{status}}}"#).into(),
        meta: Arc::new(Meta { uid: uid.into(), ..Meta::default() }),
        queued,
    }
}

/// An operation to be.
#[derive(Debug, Clone)]
pub(crate) struct New {
    pub(crate) name: String,
    pub(crate) lane: String,
    pub(crate) handler: &'static str,
    pub(crate) payload: Value,
    pub(crate) priority: i32,
    pub(crate) run_at_ms: i64,
    pub(crate) key: Option<&'static str>,
    pub(crate) max_attempts: u32,
    pub(crate) timeout: Duration,
}

pub(crate) fn new(name: &str, steps: &[&str]) -> New {
    New {
        name: name.to_owned(),
        lane: "a".to_owned(),
        handler: "scripted",
        payload: json!(steps),
        priority: 0,
        run_at_ms: 0,
        key: None,
        max_attempts: 3,
        timeout: Duration::from_secs(30),
    }
}

impl New {
    fn spec(&self) -> Value {
        json!({
            "handler": self.handler, "payload": self.payload, "maxAttempts": self.max_attempts,
            "timeoutMs": u64::try_from(self.timeout.as_millis()).unwrap_or(0),
        })
    }

    fn queued(&self, cancelled: bool, replays: u32) -> Arc<Queued> {
        Arc::new(Queued {
            lane: self.lane.as_str().into(),
            handler: self.handler.into(),
            priority: self.priority,
            run_at_ms: self.run_at_ms,
            concurrency_key: self.key.map(Into::into),
            cancelled,
            replays,
            created_ms: 1,
        })
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(mainstay_store::operation::OPERATIONS, self.lane.as_str(), self.name.as_str())
    }
}

/// A store in a directory of its own.
pub(crate) struct Bench {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) world: Arc<World>,
    _dir: tempfile::TempDir,
}

/// Workers and what stops them.
pub(crate) struct Crew {
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(Options::new(dir.path())).unwrap();
        Self { store, world: Arc::default(), _dir: dir }
    }

    /// Quick ones, so that no test waits long for what is to come.
    pub(crate) fn policy() -> Policy {
        let again =
            retry::Settings { attempts: u32::MAX, base: Duration::from_millis(2), cap: Duration::from_millis(20) };
        Policy { slots: 8, slots_per_lane: 6, lease: Duration::from_millis(400), again, ..Policy::default() }
    }

    pub(crate) fn start(&self, scripts: &[(&'static str, &[&'static str])], policy: Policy) -> Crew {
        let scripts = scripts.iter().map(|(name, script)| (*name, script.to_vec())).collect();
        let scripted: Arc<dyn Handler> = Arc::new(Scripted { world: self.world.clone(), scripts });
        let tasks = Tasks::new();
        let metrics = Metrics::default();
        Workers::start(Surroundings {
            queue: self.store.clone() as Arc<dyn Queue>,
            turns: None,
            ledger: Arc::new(Plain),
            handlers: Handlers::new([scripted]),
            clock: Clock::system(),
            tasks: tasks.clone(),
            policy,
            metrics: metrics.clone(),
        });
        Crew { tasks, metrics }
    }

    pub(crate) async fn create(&self, new: &New) -> Arc<Object> {
        let draft = draft(&new.name, &new.spec(), &json!({ "phase": "Pending" }), Some(new.queued(false, 0)));
        let requires: Option<Requires> = None;
        self.store.write(Write::Create { key: new.key(), draft, requires }).await.unwrap()
    }

    /// Writes its object anew, cancelled or replayed.
    pub(crate) async fn order(&self, new: &New, cancelled: bool, replays: u32) {
        loop {
            let object = self.store.get(&new.key()).await.unwrap().unwrap();
            let status = status(&object);
            let draft = draft(&new.name, &new.spec(), &status, Some(new.queued(cancelled, replays)));
            match self.store.write(Write::Update { key: new.key(), draft, expected: object.revision }).await {
                Ok(_) => return,
                Err(mainstay_store::StoreError::Conflict(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The status that it ends with, after this revision.
    pub(crate) async fn end_after(&self, new: &New, after: mainstay_store::Revision) -> Value {
        let scope =
            Scope { name: Some(new.key().name), namespace: Some(new.key().namespace), resource: new.key().resource };
        let wait = async {
            let mut watch = self.store.watch(scope, after).await.unwrap();
            loop {
                for change in watch.next().await.unwrap() {
                    let status = status(&change.object);
                    if ["Succeeded", "Cancelled", "Dead"].contains(&status["phase"].as_str().unwrap_or_default())
                        && change.object.revision > after
                    {
                        return status;
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_mins(1), wait).await.expect("it ends")
    }

    pub(crate) async fn end(&self, new: &New) -> Value {
        self.end_after(new, mainstay_store::Revision(0)).await
    }

    /// Waits until so many steps hang.
    pub(crate) async fn hangs(&self, count: u32) {
        let wait = async {
            loop {
                let changed = self.world.changed.notified();
                if self.world.hanging() >= count {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), wait).await.expect("they hang");
    }
}

impl Crew {
    /// Waits until none of them does anything.
    pub(crate) async fn is_idle(&self) {
        while self.metrics.running() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Stops them as a process does that was told to.
    pub(crate) async fn stop(self) {
        self.tasks.shutdown(Duration::from_secs(30)).await.unwrap();
    }
}

pub(crate) fn status(object: &Object) -> Value {
    let value: Value = serde_json::from_slice(&object.body).unwrap();
    value["status"].clone()
}
