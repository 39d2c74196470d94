//! What operations make of a sick backend, and of one that is busy.

use std::time::Duration;

use mainstay_cloud::{Backends, handlers};
use mainstay_runtime::Tasks;
use mainstay_runtime::failure::{Class, Classify as _, Failure};
use mainstay_runtime::operation::{At, Progress, Step, Work};
use mainstay_testkit::drill_backend::{Fault, On};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;

const DOWN: Fault = Fault::Status { code: 503, retry_after_seconds: None };
/// An attempt's time when its operation says nothing else.
const TIMEOUT: Duration = Duration::from_mins(10);

type Steps = Arc<Vec<Box<dyn Step>>>;

/// The steps of `run-task`: start, wait.
fn run_task(world: &World) -> Steps {
    let backends = Backends::drill(&http(), &world.backend.url(), &world.gates).unwrap();
    let [_, _, run_task] = handlers::all(backends);
    let work = Work {
        id: "o".into(),
        namespace: "default".into(),
        name: "task".into(),
        handler: run_task.name().into(),
        owner: None,
        payload: json!({ "image": "web", "command": [] }),
    };
    Arc::new(run_task.steps(&work).unwrap())
}

/// What a step is given by an attempt that began a little before.
fn at(step: &str, attempt: u64) -> At {
    let started = json!({ "id": 1, "step": "start" });
    At {
        key: key(step, attempt),
        outputs: Arc::new([("start".to_owned(), started)].into()),
        deadline: Instant::now() + TIMEOUT - Duration::from_millis(50),
        cancelled: CancellationToken::new(),
    }
}

async fn start(steps: Steps, step: String, attempt: u64) -> Result<Progress, Failure> {
    steps[0].act(&at(&step, attempt)).await
}

/// For how long it is left.
fn not_yet(progress: &Progress) -> Duration {
    match progress {
        Progress::NotYet(after) => *after,
        Progress::Done(done) => unreachable!("done: {done}"),
    }
}

#[tokio::test]
async fn a_step_that_stalls_for_its_whole_attempt_counts_and_so_does_a_probe() {
    let world = World::new();
    let steps = run_task(&world);
    world.backend.drill(On::verb("compute", "run-task"), Fault::Stall, None).await.unwrap();
    let stalls = async |attempt: u64| {
        let call = Tasks::new().spawn("step", start(steps.clone(), "start".to_owned(), attempt));
        world.backend.arrived("compute", "run-task", attempt).await.unwrap();
        let (outcome, took) = skip(async {
            let began = Instant::now();
            (call.await.unwrap(), began.elapsed())
        })
        .await;
        assert_eq!(outcome.unwrap_err().class(), Class::Indeterminate);
        assert!(took < TIMEOUT, "{took:?}: it ends with its attempt");
    };
    for attempt in 1..=3 {
        assert!(attempt == 1 || world.gate("compute", "long").0 == "closed");
        stalls(attempt).await;
    }
    assert_eq!(world.gate("compute", "long"), ("open", 0, 0));
    skip(tokio::time::sleep(Duration::from_secs(30))).await;
    stalls(4).await;
    assert_eq!(world.gate("compute", "long"), ("open", 0, 0), "tried again after 30 s, and left alone again");
    let counts = world.gates.view().into_iter().find(|view| view.key.class == "long").unwrap().counts;
    assert_eq!((counts.late, counts.opened), (4, 2));
}

#[tokio::test]
async fn what_an_open_breaker_refuses_waits_and_is_no_failure() {
    let world = World::new();
    let steps = run_task(&world);
    let (start, wait) = (&steps[0], &steps[1]);
    for (verb, class) in [("run-task", "long"), ("stop-task", "effect"), ("effect", "read")] {
        world.backend.drill(On::verb("compute", verb), DOWN, None).await.unwrap();
        let call = async || match verb {
            "run-task" => start.act(&at("start", 1)).await,
            "stop-task" => start.undo(&at("undo/start", 1), &Value::Null).await,
            _ => start.observe(&at("start", 1)).await.map(|seen| seen.unwrap()),
        };
        let mut failures = 0;
        let refused = loop {
            match call().await {
                Ok(progress) => break progress,
                Err(failure) => assert!(matches!(failure.class(), Class::Transient { .. }), "{failure:?}"),
            }
            failures += 1;
        };
        assert!((1..=5).contains(&failures), "{verb}: {failures}");
        assert_eq!(world.gate("compute", class).0, "open", "{verb}");
        let after = not_yet(&refused);
        assert!(after > Duration::from_secs(25) && after <= Duration::from_secs(45), "{verb}: {after:?}");
        let arrivals = world.backend.arrivals("compute", verb).await.unwrap();
        not_yet(&call().await.unwrap());
        assert_eq!(world.backend.arrivals("compute", verb).await.unwrap(), arrivals, "{verb}: nothing was sent");
    }
    not_yet(&wait.act(&at("wait", 1)).await.unwrap());
}

#[tokio::test]
async fn what_finds_no_place_waits_and_is_no_failure() {
    let world = World::new();
    let steps = run_task(&world);
    world.backend.drill(On::verb("compute", "run-task"), Fault::Stall, None).await.unwrap();
    let tasks = Tasks::new();
    let calls: Vec<_> =
        (0..40).map(|call| tasks.spawn("step", start(steps.clone(), format!("start-{call}"), 1))).collect();
    world.backend.arrived("compute", "run-task", 20).await.unwrap();
    assert_eq!(world.gate("compute", "long"), ("closed", 20, 20));
    let overloaded = not_yet(&start(steps, "one-more".to_owned(), 1).await.unwrap());
    assert!((Duration::from_secs(1)..Duration::from_millis(1_500)).contains(&overloaded), "{overloaded:?}");
    let (mut waited, mut stalled) = (0, 0);
    skip(async {
        for call in calls {
            match call.await.unwrap() {
                Ok(progress) => waited += usize::from(!not_yet(&progress).is_zero()),
                Err(failure) => stalled += usize::from(failure.class() == Class::Indeterminate),
            }
        }
    })
    .await;
    assert_eq!((waited, stalled), (20, 20));
    assert_eq!(world.backend.arrivals("compute", "run-task").await.unwrap(), 20);
}
