//! Each sickness has the class that says what to do, and says the truth about what may have been done.

use std::time::Duration;

use mainstay_cloud::port::{Backend as _, Compute as _};
use mainstay_cloud::{Code, drill};
use mainstay_runtime::failure::{Class, Classify as _, Reason};
use mainstay_runtime::resilience::Denied;
use mainstay_testkit::drill_backend::{Die, Fault, Lie, On};

use super::*;

#[tokio::test]
async fn an_answer_that_says_no_has_its_class_and_nothing_was_done() {
    let world = World::new();
    let compute = world.bare::<drill::Compute>();
    compute.launch(&key("launch", 2), "i", &instance()).await.unwrap();
    let wait = Some(Duration::from_secs(7));
    let cases = [
        (503, None, Class::TRANSIENT),
        (503, Some(7), Class::Transient { retry_after: wait }),
        (429, Some(7), Class::Transient { retry_after: wait }),
        (400, None, Class::Terminal(Reason::Invalid)),
        (403, None, Class::Terminal(Reason::Forbidden)),
    ];
    for (code, retry_after_seconds, class) in cases {
        let fault = Fault::Status { code, retry_after_seconds };
        world.backend.drill(On::verb("compute", "stop"), fault, Some(1)).await.unwrap();
        let error = compute.stop(&key("stop", 2), "i").await.unwrap_err();
        assert_eq!(error.class(), class, "{error:?}");
        assert_eq!(compute.find("o", "stop").await.unwrap(), None);
    }
    for (error, code, class) in [
        (compute.stop(&key("stop", 1), "i").await, Code::OldToken, Class::Fenced),
        (
            compute.launch(&key("again", 2), "i", &instance()).await,
            Code::AlreadyExists,
            Class::Terminal(Reason::AlreadyExists),
        ),
        (compute.stop(&key("stop", 2), "other").await, Code::NotFound, Class::Terminal(Reason::NotFound)),
    ] {
        let error = error.unwrap_err();
        assert!(matches!(error, CloudError::Refused { code: said, .. } if said == code), "{error:?}");
        assert_eq!(error.class(), class);
    }
    compute.delete(&key("undo/late", 2), "late").await.unwrap();
    let straggler = compute.launch(&key("late", 2), "late", &instance()).await.unwrap_err();
    assert_eq!(straggler.class(), Class::Fenced);
}

#[tokio::test]
async fn no_answer_or_a_wrong_one_leaves_an_effect_in_doubt_and_looking_tells() {
    let mut world = World::new();
    let cases = [
        (Fault::Cut, true),
        (Fault::Lie { with: Lie::Nonsense, done: true }, true),
        (Fault::Lie { with: Lie::Nonsense, done: false }, false),
        (Fault::Lie { with: Lie::Other, done: false }, false),
        (Fault::Lie { with: Lie::Endless, done: true }, true),
        (Fault::Die(Die::Before), false),
        (Fault::Die(Die::After), true),
    ];
    for (at, (fault, done)) in cases.into_iter().enumerate() {
        let compute = world.bare::<drill::Compute>();
        let step = at.to_string();
        world.backend.drill(On::verb("compute", "launch"), fault.clone(), Some(1)).await.unwrap();
        let error = compute.launch(&key(&step, 1), &step, &instance()).await.unwrap_err();
        assert_eq!(error.class(), Class::Indeterminate, "{fault:?}: {error:?}");
        let other = matches!(fault, Fault::Lie { with: Lie::Other, .. });
        assert_eq!(matches!(error, CloudError::Other), other, "{fault:?}: {error:?}");
        if matches!(fault, Fault::Die(_)) {
            world.backend.died().await.unwrap();
            let dead = compute.launch(&key(&step, 1), &step, &instance()).await.unwrap_err();
            assert_eq!(dead.class(), Class::TRANSIENT, "nobody listens, so nothing was sent: {dead:?}");
            world.backend.restart().await.unwrap();
        }
        assert_eq!(compute.find("o", &step).await.unwrap().is_some(), done, "{fault:?}");
    }
}

/// An effect, and a look: a look in doubt does no harm, but has an end as well.
#[tokio::test]
async fn a_stall_ends_at_the_deadline_of_its_class() {
    let world = World::new();
    let compute = world.bare::<drill::Compute>();
    let cases = [(Fault::Stall, false), (Fault::StallBody, true), (Fault::LateAnswer { millis: 3_600_000 }, true)];
    for (at, (fault, done)) in cases.into_iter().enumerate() {
        let (count, step) = (at as u64 + 1, at.to_string());
        world.backend.drill(On::verb("compute", "run-task"), fault.clone(), Some(1)).await.unwrap();
        world.backend.drill(On::verb("compute", "resources"), fault.clone(), Some(1)).await.unwrap();
        for (verb, deadline) in [("run-task", Duration::from_mins(10)), ("resources", Duration::from_secs(10))] {
            let (compute, step) = (compute.clone(), step.clone());
            let call = mainstay_runtime::Tasks::new().spawn("call", async move {
                let task = mainstay_cloud::port::Task { image: "web".into(), command: Vec::new() };
                match verb {
                    "run-task" => compute.run_task(&key(&step, 1), &step, &task).await.map(drop),
                    _ => compute.list().await.map(drop),
                }
            });
            world.backend.arrived("compute", verb, count).await.unwrap();
            let error = skip(call).await.unwrap().unwrap_err();
            assert!(matches!(error, CloudError::Denied(Denied::TooLate(after)) if after == deadline), "{error:?}");
            assert_eq!(error.class(), Class::Indeterminate);
        }
        assert_eq!(compute.find("o", &step).await.unwrap().is_some(), done, "{fault:?}");
    }
}

#[tokio::test]
async fn a_look_that_cannot_be_read_is_tried_again() {
    let world = World::new();
    world
        .backend
        .drill(On::verb("compute", "resources"), Fault::Lie { with: Lie::Nonsense, done: false }, Some(2))
        .await
        .unwrap();
    let error = world.bare::<drill::Compute>().list().await.unwrap_err();
    assert_eq!(error.class(), Class::TRANSIENT, "nothing was to be done: {error:?}");
    assert_eq!(world.gated::<drill::Compute>().list().await.unwrap(), []);
    assert_eq!(world.backend.arrivals("compute", "resources").await.unwrap(), 3);
}
