//! The queue of operations, rule by rule. (That they hold together, in any order, is in the conformance suite.)

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Clock;
use mainstay_store::operation::{
    Claim, Claimed, Claims, DeadLetter, Note, OPERATIONS, Queue, Queued, Renewal, Settlement, Standing, State, StepRow,
    StepState,
};
use mainstay_store::{Draft, Key, Object, Options, Revision, SqliteStore, Store, StoreError, Write};

use super::support::{delete, draft, open, update};

pub(crate) fn key(name: &str) -> Key {
    Key::new(OPERATIONS, "lane", name)
}

/// What the queue is told of an operation in lane `lane`, due at once.
pub(crate) fn queued() -> Queued {
    Queued { created_ms: 5, ..Queued::new("lane", "noop") }
}

/// An operation's content; its uid is its name.
pub(crate) fn told(name: &str, queued: Queued) -> Draft {
    Draft { queued: Some(Arc::new(queued)), ..draft(name) }
}

pub(crate) async fn enqueue(store: &SqliteStore, name: &str, queued: Queued) -> Arc<Object> {
    let write = Write::Create { key: key(name), draft: told(name, queued), requires: None };
    store.write(write).await.unwrap()
}

/// Says something else of an operation than was said before.
async fn say(store: &SqliteStore, name: &str, queued: Queued) {
    let expected = store.get(&key(name)).await.unwrap().unwrap().revision;
    store.write(Write::Update { key: key(name), draft: told(name, queued), expected }).await.unwrap();
}

pub(crate) const LEASE: Duration = Duration::from_secs(10);

pub(crate) async fn claim(store: &SqliteStore, limit: usize, now_ms: i64) -> Claims {
    store.claim(Claim { limit, per_lane: 100, lease: LEASE, now_ms }).await.unwrap()
}

async fn claim_one(store: &SqliteStore, now_ms: i64) -> Claimed {
    let mut claims = claim(store, 1, now_ms).await;
    assert_eq!(claims.claimed.len(), 1);
    claims.claimed.remove(0)
}

fn names(claims: &Claims) -> Vec<&str> {
    claims.claimed.iter().map(|claimed| &*claimed.object.key.name).collect()
}

pub(crate) fn end(claimed: &Claimed, state: State) -> Settlement {
    let name = &claimed.object.key.name;
    let write =
        Write::Update { key: claimed.object.key.clone(), draft: draft(name), expected: claimed.object.revision };
    Settlement::End { state, note: None, write: Box::new(write) }
}

fn note(attempt: u64, reason: &str) -> Note {
    Note { attempt, started_ms: 1, ended_ms: 2, reason: reason.into(), message: String::new() }
}

fn retry(attempt: u64, run_at_ms: i64) -> Settlement {
    Settlement::Retry { run_at_ms, note: note(attempt, "Transient"), undoing: None }
}

async fn standing(store: &SqliteStore, name: &str) -> Standing {
    store.operations(vec![name.into()]).await.unwrap().remove(0).unwrap()
}

async fn state(store: &SqliteStore, name: &str) -> State {
    standing(store, name).await.row.state
}

fn step(name: &str, state: StepState) -> StepRow {
    StepRow { step: name.into(), state, attempt: 0, output: "null".into() }
}

fn is_fenced<T: std::fmt::Debug>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Fenced(_)))
}

fn reopen(store: Arc<SqliteStore>, dir: &Path) -> Arc<SqliteStore> {
    drop(store);
    open(dir)
}

#[tokio::test]
async fn an_operation_is_claimed_journalled_and_ends_with_its_object() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let changes = store.queue_changes();
    let created = enqueue(&store, "a", queued()).await;
    assert!(changes.has_changed().unwrap());
    let claimed = claim_one(&store, 100).await;
    assert_eq!((claimed.attempt.number, &*claimed.attempt.id), (1, "a"));
    assert_eq!((&claimed.object, claimed.standing.row.state), (&created, State::Running));
    assert_eq!(claimed.standing.row.started_ms, 100);
    // Held: nobody else gets it.
    assert!(claim(&store, 9, 100).await.claimed.is_empty());
    for state in [StepState::Intent, StepState::Done] {
        store.journal(&claimed.attempt, step("first", state)).await.unwrap();
    }
    store.journal(&claimed.attempt, step("another", StepState::Intent)).await.unwrap();
    // None of this was a revision.
    assert_eq!(store.revision(), Revision(1));
    let object = store.settle(&claimed.attempt, end(&claimed, State::Succeeded)).await.unwrap().unwrap();
    assert_eq!((object.revision, store.get(&key("a")).await.unwrap()), (Revision(2), Some(Arc::clone(&object))));
    let store = reopen(store, dir.path());
    let after = standing(&store, "a").await;
    assert_eq!((after.row.state, after.row.attempt), (State::Succeeded, 1));
    let steps: Vec<_> = after.steps.iter().map(|step| (&*step.step, step.state, step.attempt)).collect();
    assert_eq!(steps, [("first", StepState::Done, 1), ("another", StepState::Intent, 1)]);
    assert!(claim(&store, 9, 100).await.claimed.is_empty());
    // Row and journal go with the object.
    store.write(delete(&key("a"), "a", 2)).await.unwrap();
    assert_eq!(store.operations(vec!["a".into(), "b".into()]).await.unwrap(), [None, None]);
}

#[tokio::test]
async fn what_a_former_attempt_says_is_fenced_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "a", queued()).await;
    let first = claim_one(&store, 0).await;
    store.settle(&first.attempt, retry(1, 50)).await.unwrap();
    // Between two attempts nobody has a say, and said twice is said once.
    assert!(is_fenced(&store.settle(&first.attempt, retry(1, 60)).await));
    assert!(is_fenced(&store.journal(&first.attempt, step("s", StepState::Done)).await));
    assert!(claim(&store, 1, 49).await.claimed.is_empty());
    let second = claim_one(&store, 50).await;
    assert_eq!((second.attempt.number, second.standing.row.failures), (2, 1));
    let before = standing(&store, "a").await;
    assert!(is_fenced(&store.settle(&first.attempt, end(&first, State::Succeeded)).await));
    assert!(is_fenced(&store.settle(&first.attempt, Settlement::Later { run_at_ms: 0 }).await));
    assert!(is_fenced(&store.journal(&first.attempt, step("s", StepState::Done)).await));
    assert_eq!(
        store.renew(vec![first.attempt.clone(), second.attempt.clone()], LEASE).await.unwrap(),
        [Renewal::Lost, Renewal::Held]
    );
    assert_eq!(standing(&store, "a").await, before);
    assert_eq!(store.queue_figures().await.unwrap().fenced, 6);
    store.settle(&second.attempt, end(&second, State::Succeeded)).await.unwrap();
    assert_eq!(state(&store, "a").await, State::Succeeded);
}

#[tokio::test]
async fn an_outcome_that_is_not_of_the_newest_object_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "a", queued()).await;
    let claimed = claim_one(&store, 0).await;
    // A status write leaves the row alone.
    store.write(update(&key("a"), "a", 1)).await.unwrap();
    let refused = store.settle(&claimed.attempt, end(&claimed, State::Succeeded)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(now)) if now.revision == Revision(2)));
    assert_eq!((state(&store, "a").await, store.revision()), (State::Running, Revision(2)));
    // Nor can it be the outcome of another object.
    let other = enqueue(&store, "b", queued()).await;
    let foreign = Claimed { object: other, ..claimed.clone() };
    assert!(matches!(store.settle(&claimed.attempt, end(&foreign, State::Dead)).await, Err(StoreError::Missing)));
    let object = store.get(&key("a")).await.unwrap().unwrap();
    let claimed = Claimed { object, ..claimed };
    store.settle(&claimed.attempt, end(&claimed, State::Succeeded)).await.unwrap();
    assert_eq!(state(&store, "a").await, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_is_lost_and_another_attempt_begins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "a", queued()).await;
    let claims = claim(&store, 1, 0).await;
    assert_eq!((claims.next_expiry, claims.next_due_ms), (Some(LEASE), None));
    let first = claims.claimed[0].clone();
    tokio::time::advance(LEASE / 2).await;
    assert_eq!(store.renew(vec![first.attempt.clone()], LEASE).await.unwrap(), [Renewal::Held]);
    tokio::time::advance(LEASE.saturating_sub(Duration::from_nanos(1))).await;
    store.journal(&first.attempt, step("s", StepState::Intent)).await.unwrap();
    assert!(claim(&store, 1, 5).await.claimed.is_empty());
    tokio::time::advance(Duration::from_nanos(1)).await;
    // Expired, though nobody has noticed: no further effect is begun.
    assert!(is_fenced(&store.journal(&first.attempt, step("s", StepState::Done)).await));
    assert_eq!(store.renew(vec![first.attempt.clone()], LEASE).await.unwrap(), [Renewal::Lost]);
    let second = claim_one(&store, 7).await;
    assert_eq!((second.attempt.number, second.standing.row.lost, second.standing.steps.len()), (2, 1, 1));
    let [lost] = &second.standing.row.history[..] else { panic!("{:?}", second.standing) };
    assert_eq!((lost.attempt, &*lost.reason, lost.started_ms, lost.ended_ms), (1, "Lost", 0, 7));
    assert!(is_fenced(&store.settle(&first.attempt, retry(1, 0)).await));
    // A step that gets done shows that the operation does not kill its workers.
    store.journal(&second.attempt, step("s", StepState::Intent)).await.unwrap();
    assert_eq!(standing(&store, "a").await.row.lost, 1);
    store.journal(&second.attempt, step("s", StepState::Done)).await.unwrap();
    assert_eq!(standing(&store, "a").await.row.lost, 0);
}

#[tokio::test]
async fn what_ran_when_the_process_ended_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "a", Queued { concurrency_key: Some("k".into()), ..queued() }).await;
    let first = claim_one(&store, 0).await;
    let store = reopen(store, dir.path());
    assert_eq!(store.renew(vec![first.attempt.clone()], LEASE).await.unwrap(), [Renewal::Lost]);
    assert!(is_fenced(&store.journal(&first.attempt, step("s", StepState::Intent)).await));
    let second = claim_one(&store, 9).await;
    assert_eq!((second.attempt.number, second.standing.row.lost), (2, 1));
    assert!(is_fenced(&store.settle(&first.attempt, retry(1, 0)).await));
    assert_eq!(store.queue_figures().await.unwrap().lost, 1);
}

#[tokio::test]
async fn of_one_key_one_runs_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let keyed = |priority| Queued { concurrency_key: Some("k".into()), priority, ..queued() };
    for (name, priority) in [("first", 0), ("low", -1), ("high", 1), ("late", 1)] {
        enqueue(&store, name, keyed(priority)).await;
    }
    // Another lane's key is another key.
    enqueue(&store, "other", Queued { lane: "else".into(), ..keyed(0) }).await;
    let claims = claim(&store, 9, 0).await;
    assert_eq!(names(&claims), ["first", "other"]);
    // Waiting for a later attempt lets others pass, the highest priority first, then the oldest.
    store.settle(&claims.claimed[0].attempt, retry(1, 50)).await.unwrap();
    let high = claim_one(&store, 10).await;
    assert_eq!(&*high.object.key.name, "high");
    // Due, but the key is taken.
    assert!(claim(&store, 9, 60).await.claimed.is_empty());
    assert_eq!(state(&store, "first").await, State::Blocked);
    store.settle(&high.attempt, end(&high, State::Dead)).await.unwrap();
    let late = claim_one(&store, 60).await;
    assert_eq!(&*late.object.key.name, "late");
    // The deletion of what has the key lets the next one go, too.
    store.write(delete(&key("late"), "late", late.object.revision.0)).await.unwrap();
    assert_eq!(names(&claim(&store, 9, 60).await), ["first"]);
    assert!(is_fenced(&store.settle(&late.attempt, retry(1, 0)).await));
}

#[tokio::test]
async fn a_cancellation_waits_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let keyed = || Queued { concurrency_key: Some("k".into()), ..queued() };
    let cancelled = |queued| Queued { cancelled: true, ..queued };
    enqueue(&store, "runs", keyed()).await;
    let mut changes = store.queue_changes();
    let running = claim_one(&store, 0).await;
    enqueue(&store, "blocked", keyed()).await;
    enqueue(&store, "delayed", Queued { run_at_ms: 1_000, ..keyed() }).await;
    changes.mark_unchanged();
    say(&store, "runs", cancelled(keyed())).await;
    // What runs is told; it keeps its key.
    assert!(changes.has_changed().unwrap());
    assert_eq!(store.renew(vec![running.attempt.clone()], LEASE).await.unwrap(), [Renewal::Cancelled]);
    assert!(claim(&store, 9, 0).await.claimed.is_empty());
    // What has not begun can end at once, beside it.
    say(&store, "blocked", cancelled(keyed())).await;
    say(&store, "delayed", cancelled(keyed())).await;
    let claims = claim(&store, 9, 0).await;
    assert_eq!(names(&claims), ["blocked", "delayed"]);
    assert!(claims.claimed.iter().all(|claimed| claimed.standing.row.cancelled));
    // Told, but not undone: what it decided on its way is not waited for. Its undoing may wait.
    store.settle(&running.attempt, Settlement::Later { run_at_ms: 500 }).await.unwrap();
    let claims = claim(&store, 9, 0).await;
    assert_eq!(names(&claims), ["runs"]);
    store.settle(&claims.claimed[0].attempt, Settlement::Later { run_at_ms: 500 }).await.unwrap();
    assert!(claim(&store, 9, 499).await.claimed.is_empty());
    assert_eq!(names(&claim(&store, 9, 500).await), ["runs"]);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_keeps_no_further_attempt_waiting() {
    const HOUR: i64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "at", Queued { run_at_ms: 10 * HOUR, ..queued() }).await;
    enqueue(&store, "again", queued()).await;
    let running = claim_one(&store, 5 * HOUR).await;
    store.settle(&running.attempt, retry(1, 5 * HOUR + 2_000)).await.unwrap();
    // A little out of order is nothing.
    assert!(claim(&store, 9, 5 * HOUR - 500).await.claimed.is_empty());
    // Two hours back.
    assert!(claim(&store, 9, 3 * HOUR).await.claimed.is_empty());
    assert!(claim(&store, 9, 3 * HOUR + 1_999).await.claimed.is_empty());
    let running = claim_one(&store, 3 * HOUR + 2_000).await;
    store.settle(&running.attempt, retry(1, 3 * HOUR + 4_000)).await.unwrap();
    drop(store);
    // Nobody saw by how much; what a user wrote stays as it is.
    let store = open(dir.path());
    assert!(claim(&store, 9, 0).await.claimed.is_empty());
    assert!(claim(&store, 9, HOUR - 1).await.claimed.is_empty());
    let running = claim_one(&store, HOUR).await;
    assert_eq!(&*running.object.key.name, "again");
    assert!(claim(&store, 9, 10 * HOUR - 1).await.claimed.is_empty());
    assert_eq!(names(&claim(&store, 9, 10 * HOUR).await), ["at"]);
}

#[tokio::test]
async fn a_cancellation_that_the_holder_has_not_heard_of_is_due_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for name in ["a", "b"] {
        enqueue(&store, name, queued()).await;
    }
    let [a, b] = &claim(&store, 2, 0).await.claimed[..] else { panic!() };
    // Both in one batch; and the other one when it waits already.
    let cancelled = Queued { cancelled: true, ..queued() };
    let cancel = Write::Update { key: key("a"), draft: told("a", cancelled.clone()), expected: a.object.revision };
    let (_, settled) = futures::join!(store.write(cancel), store.settle(&a.attempt, retry(1, 9_000)));
    settled.unwrap();
    store.settle(&b.attempt, retry(1, 9_000)).await.unwrap();
    say(&store, "b", cancelled).await;
    let mut claims = claim(&store, 9, 1).await;
    claims.claimed.sort_by_key(|claimed| claimed.object.key.clone());
    assert_eq!(names(&claims), ["a", "b"]);
}

#[tokio::test]
async fn who_does_not_know_of_a_cancellation_cannot_let_it_die() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for name in ["died", "done", "undone"] {
        enqueue(&store, name, queued()).await;
    }
    let claims = claim(&store, 9, 0).await.claimed;
    let undoing = Some(note(1, "Terminal"));
    store
        .settle(&claims[2].attempt, Settlement::Retry { run_at_ms: 0, note: note(1, "Terminal"), undoing })
        .await
        .unwrap();
    let undone = claim_one(&store, 0).await;
    for name in ["died", "done", "undone"] {
        say(&store, name, Queued { cancelled: true, ..queued() }).await;
    }
    let now = async |one: &Claimed| {
        let object = store.get(&one.object.key).await.unwrap().unwrap();
        Claimed { object, ..one.clone() }
    };
    // It comes to another attempt at once, whether its holder has seen the newest object or not.
    let revision = store.revision();
    let Settlement::End { state, write, .. } = end(&claims[0], State::Dead) else { panic!() };
    let dies = Settlement::End { state, note: Some(note(1, "Transient")), write };
    assert_eq!(store.settle(&claims[0].attempt, dies).await.unwrap(), None);
    assert_eq!(store.revision(), revision);
    let again = claim_one(&store, 0).await;
    assert_eq!((&*again.object.key.name, again.attempt.number, again.standing.row.failures), ("died", 2, 1));
    assert!(again.standing.row.cancelled);
    // Who knows of it says how it ended, and so does who succeeded, or has taken it back for another reason.
    for (claimed, state) in [(&again, State::Dead), (&claims[1], State::Succeeded), (&undone, State::Dead)] {
        assert!(store.settle(&claimed.attempt, end(&now(claimed).await, state)).await.unwrap().is_some());
        assert_eq!(self::state(&store, &claimed.object.key.name).await, state);
    }
}

#[tokio::test]
async fn what_was_not_begun_stays_as_suspect_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "a", queued()).await;
    store.claim(Claim { limit: 1, per_lane: 1, lease: Duration::ZERO, now_ms: 0 }).await.unwrap();
    let second = claim_one(&store, 0).await;
    store.settle(&second.attempt, Settlement::Unbegun { run_at_ms: 70 }).await.unwrap();
    assert!(claim(&store, 1, 69).await.claimed.is_empty());
    let third = claim_one(&store, 70).await;
    let row = &third.standing.row;
    assert_eq!((row.attempt, row.lost, row.failures, row.history.len()), (3, 1, 0, 1));
    store.settle(&third.attempt, Settlement::Later { run_at_ms: 70 }).await.unwrap();
    assert_eq!(claim_one(&store, 70).await.standing.row.lost, 0);
}

#[tokio::test]
async fn what_cannot_say_how_it_ended_ends_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "a", queued()).await;
    let claimed = claim_one(&store, 0).await;
    assert_eq!(store.settle(&claimed.attempt, Settlement::Bury { note: note(1, "Invalid") }).await.unwrap(), None);
    let row = standing(&store, "a").await.row;
    assert_eq!((row.state, row.failures, &*row.history[0].reason), (State::Dead, 1, "Invalid"));
    assert_eq!(store.revision(), claimed.object.revision);
    assert_eq!(store.dead_letters(9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_dead_letter_is_put_back_by_a_replay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "a", queued()).await;
    let first = claim_one(&store, 0).await;
    store.journal(&first.attempt, step("s", StepState::Done)).await.unwrap();
    let undoing = Some(note(1, "Terminal"));
    store.settle(&first.attempt, Settlement::Retry { run_at_ms: 0, note: note(1, "Terminal"), undoing }).await.unwrap();
    let second = claim_one(&store, 0).await;
    assert_eq!(second.standing.row.undoing.as_ref().map(|note| note.attempt), Some(1));
    store.settle(&second.attempt, end(&second, State::Dead)).await.unwrap();
    say(&store, "a", queued()).await;
    assert!(claim(&store, 9, 0).await.claimed.is_empty());
    assert_eq!(store.queue_figures().await.unwrap().depth, [("lane".into(), State::Dead, 1)]);
    say(&store, "a", Queued { replays: 1, ..queued() }).await;
    let third = claim_one(&store, 0).await;
    let row = &third.standing.row;
    assert_eq!((third.attempt.number, row.failures, &row.undoing, row.history.len()), (3, 0, &None, 1));
    assert_eq!(third.standing.steps.len(), 1);
    // The same number again is no further replay.
    store
        .settle(
            &third.attempt,
            end(&Claimed { object: store.get(&key("a")).await.unwrap().unwrap(), ..third.clone() }, State::Dead),
        )
        .await
        .unwrap();
    say(&store, "a", Queued { replays: 1, ..queued() }).await;
    assert_eq!(state(&store, "a").await, State::Dead);
}

#[tokio::test]
async fn lanes_get_their_turns_however_many_wait_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let names_of_flood: Vec<String> = (0..10_000).map(|turn| format!("flood-{turn:02}")).collect();
    for some in names_of_flood.chunks(1_000) {
        let flood = |name| enqueue(&store, name, Queued { lane: "flood".into(), ..queued() });
        futures::future::join_all(some.iter().map(|name| flood(name))).await;
    }
    for (name, priority) in [("b-0", 0), ("b-1", 5), ("b-2", 0)] {
        enqueue(&store, name, Queued { lane: "b".into(), priority, ..queued() }).await;
    }
    // The flood waits longer; then whoever has fewest running; in a lane the highest priority, then the oldest.
    let claims = claim(&store, 6, 0).await;
    assert_eq!(names(&claims), ["flood-00", "b-1", "flood-01", "b-0", "flood-02", "b-2"]);
    // A lane that comes later waits for nothing but its share.
    enqueue(&store, "c", Queued { lane: "c".into(), ..queued() }).await;
    assert_eq!(names(&claim(&store, 2, 0).await), ["c", "flood-03"]);
    // No lane gets more than its bound.
    let bounded = store.claim(Claim { limit: 9, per_lane: 5, lease: LEASE, now_ms: 0 }).await.unwrap();
    assert_eq!(names(&bounded), ["flood-04"]);
}

#[tokio::test]
async fn a_claim_that_finds_nothing_commits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enqueue(&store, "later", Queued { run_at_ms: 50, ..queued() }).await;
    let commits = store.stats().commits;
    let claims = claim(&store, 9, 49).await;
    assert_eq!((claims.claimed.len(), claims.next_due_ms, store.stats().commits), (0, Some(50), commits));
    assert_eq!(claim(&store, 9, 50).await.claimed.len(), 1);
    assert_eq!(store.stats().commits, commits + 1);
}

#[tokio::test]
async fn create_and_claim_in_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let create = Write::Create { key: key("a"), draft: told("a", queued()), requires: None };
    let (created, claims) = futures::join!(store.write(create), claim(&store, 1, 0));
    assert_eq!(claims.claimed.first().map(|claimed| &claimed.object), created.as_ref().ok());
}

#[tokio::test]
async fn how_long_each_could_be_claimed_is_told_whatever_made_it_wait_before() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::virtual_from("2030-01-01T00:00:00Z".parse().unwrap());
    let store = SqliteStore::open(Options { clock: clock.clone(), ..Options::new(dir.path()) }).unwrap();
    let pass = |minutes| clock.set_forward(Duration::from_mins(minutes).try_into().unwrap());
    let minutes = |wait: Duration| wait.as_secs() / 60;
    let waited = |claims: &Claims| claims.claimed.iter().map(|one| minutes(one.waited)).collect::<Vec<_>>();
    assert_eq!(store.queue_figures().await.unwrap().longest_wait, None);
    let keyed = || Queued { concurrency_key: Some("k".into()), ..queued() };
    enqueue(&store, "at-once", keyed()).await;
    enqueue(&store, "blocked", keyed()).await;
    enqueue(&store, "later", Queued { run_at_ms: 1_000, ..queued() }).await;
    pass(40);
    assert_eq!(store.queue_figures().await.unwrap().longest_wait.map(minutes), Some(40));
    let first = claim_one(&store, 0).await;
    assert_eq!(minutes(first.waited), 40);
    // Neither waits for a worker while it waits for its time, or for a key.
    pass(100);
    assert_eq!(store.queue_figures().await.unwrap().longest_wait, None);
    store.settle(&first.attempt, end(&first, State::Dead)).await.unwrap();
    pass(3);
    let claims = claim(&store, 9, 1_000).await;
    assert_eq!((names(&claims), waited(&claims)), (vec!["blocked", "later"], vec![3, 0]));
    say(&store, "at-once", Queued { replays: 1, ..queued() }).await;
    pass(5);
    assert_eq!(waited(&claim(&store, 9, 0).await), [5]);
}

#[tokio::test]
async fn dead_letters_are_told_the_newest_first_until_they_are_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for name in ["a", "b", "c", "well"] {
        enqueue(&store, name, queued()).await;
    }
    assert!(store.dead_letters(9).await.unwrap().is_empty());
    for claimed in claim(&store, 9, 0).await.claimed {
        let state = if &*claimed.object.key.name == "well" { State::Succeeded } else { State::Dead };
        store.settle(&claimed.attempt, end(&claimed, state)).await.unwrap();
    }
    let letters = store.dead_letters(2).await.unwrap();
    let letter = |name: &str| DeadLetter { key: key(name), lane: "lane".into(), handler: "noop".into() };
    assert_eq!(letters, [letter("c"), letter("b")]);
    say(&store, "c", Queued { replays: 1, ..queued() }).await;
    assert_eq!(store.dead_letters(9).await.unwrap(), [letter("b"), letter("a")]);
}
