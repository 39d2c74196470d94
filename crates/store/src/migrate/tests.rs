//! A state with everything in it, moved and opened: the same through the trait, and going on.

mod refused;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_testkit::postgres::{self, Database};

use super::*;
use crate::message::{Append, Message, NewMessage, Retention, RunRow, Sender};
use crate::object::{Draft, Key, Meta, Object, Revision, Write};
use crate::operation::{
    Attempt, Claim, Claimed, DeadLetter, Note, OPERATIONS, Queued, Settlement, Standing, State, StepRow, StepState,
};
use crate::postgres::Options;
use crate::watch::Scope;
use crate::{
    Fence, KeyRow, Keyring, ListQuery, PostgresStore, Queue, Ring, RingChange, SqliteStore, Store, StoreError,
};

const LEASE: Duration = Duration::from_secs(10);
/// Of the wall clock.
const NOW: i64 = 1_000_000;

pub(super) fn sqlite(dir: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(crate::Options::new(dir)).unwrap()
}

pub(super) fn address(database: &Database) -> Address {
    Address::parse(&database.url).unwrap()
}

pub(super) fn open(database: &Database) -> Arc<PostgresStore> {
    PostgresStore::open(Options::new(address(database), "one")).unwrap()
}

pub(super) fn database() -> Database {
    postgres::shared().unwrap().database().unwrap()
}

/// Blocks, as it does for whoever runs it.
pub(super) fn migrate(dir: &Path, to: &Database) -> Result<Migrated, MigrateError> {
    let migrate = || Migration::begin(dir)?.run(&address(to), &mut |_, done, all| assert!(done <= all));
    std::thread::scope(|scope| scope.spawn(migrate).join().unwrap())
}

fn draft(uid: &str, queued: Option<Queued>) -> Draft {
    let meta = Meta { uid: uid.into(), labels: vec![("app".into(), uid.into())], ..Meta::default() };
    let head = format!("{{\"uid\":\"{uid}\",\"revision\":\"").into();
    Draft { head, tail: "\"}".into(), meta: Arc::new(meta), queued: queued.map(Arc::new) }
}

pub(super) fn create(namespace: &str, name: &str) -> Write {
    Write::Create { key: Key::new("/pods", namespace, name), draft: draft(name, None), requires: None }
}

fn queued(lane: &str) -> Queued {
    Queued { created_ms: 5, ..Queued::new(lane, "noop") }
}

async fn enqueue(store: &dyn Store, name: &str, queued: Queued) {
    let key = Key::new(OPERATIONS, &*queued.lane, name);
    let write = Write::Create { key, draft: draft(name, Some(queued)), requires: None };
    store.write(write).await.unwrap();
}

async fn claim(store: &dyn Store, limit: usize, now_ms: i64) -> Vec<Claimed> {
    store.claim(Claim { limit, per_lane: 100, lease: LEASE, now_ms }).await.unwrap().claimed
}

fn note(attempt: u64, message: &str) -> Note {
    Note { attempt, started_ms: 1, ended_ms: 2, reason: "Transient".into(), message: message.into() }
}

fn end(claimed: &Claimed, state: State) -> Settlement {
    let Object { key, revision, meta, .. } = &*claimed.object;
    let draft = draft(&meta.uid, None);
    let write = Write::Update { key: key.clone(), draft, expected: *revision };
    let note = (state == State::Dead).then(|| note(claimed.attempt.number, "it cannot be"));
    Settlement::End { state, note, write: Box::new(write) }
}

/// Operations in every state, with journals and notes. Gives an attempt that runs.
async fn operations(store: &dyn Store) -> Attempt {
    for name in ["well", "dead", "later", "running"] {
        enqueue(store, name, queued("first")).await;
    }
    let step = |name: &str, state| StepRow { step: name.into(), state, attempt: 0, output: "{\"n\":1}".into() };
    let mut running = None;
    for claimed in claim(store, 10, NOW).await {
        let attempt = claimed.attempt.clone();
        for (name, state) in
            [("volume", StepState::Intent), ("address", StepState::Intent), ("volume", StepState::Done)]
        {
            store.journal(&attempt, step(name, state)).await.unwrap();
        }
        let settlement = match &*attempt.id {
            "well" => end(&claimed, State::Succeeded),
            "dead" => end(&claimed, State::Dead),
            "later" => {
                let undoing = Some(note(1, "undone"));
                Settlement::Retry { run_at_ms: NOW + 60_000, note: note(1, "a NUL \0 in it, and \\u0000"), undoing }
            }
            _ => {
                running = Some(attempt);
                continue;
            }
        };
        store.settle(&attempt, settlement).await.unwrap();
    }
    let keyed = || Queued { concurrency_key: Some("key".into()), ..queued("second") };
    enqueue(store, "has-key", keyed()).await;
    enqueue(store, "blocked", keyed()).await;
    enqueue(store, "urgent", Queued { priority: 9, ..queued("second") }).await;
    enqueue(store, "future", Queued { run_at_ms: NOW * 9, ..queued("first") }).await;
    enqueue(store, "cancelled", Queued { cancelled: true, ..queued("third") }).await;
    running.unwrap()
}

async fn append(store: &dyn Store, session: &str, sender: Sender, ids: std::ops::Range<u32>, keep: Retention) {
    let message = |id| NewMessage {
        id: format!("id-{id}").into(),
        kind: "agent".into(),
        body: format!("{{\"text\":\"{id}\"}}").into(),
    };
    let append = Append { session: session.into(), sender, messages: ids.map(message).collect(), keep };
    store.append(append).await.unwrap();
}

async fn sessions(store: &dyn Store) {
    append(store, "long", Sender::Agent, 0..50, Retention::ALL).await;
    append(store, "long", Sender::User, 0..3, Retention { messages: 20, bytes: u64::MAX }).await;
    append(store, "short", Sender::Platform, 0..1, Retention::ALL).await;
    append(store, "dropped", Sender::Agent, 0..9, Retention::ALL).await;
    store.drop_session("dropped").await.unwrap();
    let row = RunRow { run: 3, pod_uid: "pod".into(), heartbeat_ms: 7, offered: 2, ..RunRow::default() };
    store.put_run_row("short", row.clone(), true).await.unwrap();
    store.put_run_row("silent", row, true).await.unwrap();
}

/// Everything.
async fn fill(store: &dyn Store) -> Attempt {
    for name in ["a", "b", "c"] {
        store.write(create("one", name)).await.unwrap();
    }
    let key = Key::new("/pods", "one", "b");
    let expected = store.get(&key).await.unwrap().unwrap().revision;
    let changed = store.write(Write::Update { key: key.clone(), draft: draft("b", None), expected }).await.unwrap();
    store.write(Write::Delete { key, draft: draft("b", None), expected: changed.revision }).await.unwrap();
    let cluster = Write::Create { key: Key::new("/nodes", "", "n"), draft: draft("n", None), requires: None };
    store.write(cluster).await.unwrap();
    let running = operations(store).await;
    sessions(store).await;
    let row = |version| KeyRow { name: "data".into(), version, wrapped: vec![0, 255, 7].into(), created_ms: 5 };
    let change = RingChange { generation: 0, add: vec![row(1), row(2)], remove: Vec::new() };
    store.change_ring(change).await.unwrap().unwrap();
    assert_eq!(store.raise("starts").await.unwrap(), 1);
    running
}

/// Its name, the gap before its messages, the newest's number, the messages, and the row.
type Session = (Arc<str>, Option<(u64, u64)>, u64, Vec<Message>, Option<RunRow>);

/// All that the trait tells.
#[derive(Debug, PartialEq)]
struct Told {
    revision: Revision,
    objects: Vec<Arc<Object>>,
    operations: Vec<Option<Standing>>,
    dead: Vec<DeadLetter>,
    depth: Vec<(Arc<str>, State, u64)>,
    sessions: Vec<Session>,
    ring: Ring,
}

async fn told(store: &dyn Store) -> Told {
    let mut objects = Vec::new();
    for resource in ["/pods", "/nodes", OPERATIONS] {
        let scope = Scope { resource: resource.into(), namespace: None, name: None };
        let page = store.list(ListQuery { scope, limit: None, at: None, after: None }).await.unwrap();
        assert_eq!(page.revision, store.revision());
        objects.extend(page.items);
    }
    let ids = objects.iter().filter(|object| &*object.key.resource == OPERATIONS);
    let operations = store.operations(ids.map(|object| object.meta.uid.clone()).collect()).await.unwrap();
    let mut names = store.sessions().await.unwrap();
    names.sort();
    let mut sessions = Vec::new();
    for name in names {
        let page = store.messages(&name, 0, 1_000).await.unwrap();
        let row = store.run_row(&name).await.unwrap();
        sessions.push((name, page.gap, page.last, page.messages, row));
    }
    let mut depth = store.queue_figures().await.unwrap().depth;
    depth.sort_by_key(|(lane, state, _)| (lane.clone(), format!("{state:?}")));
    let (revision, dead, ring) = (store.revision(), store.dead_letters(10).await.unwrap(), store.ring().await.unwrap());
    Told { revision, objects, operations, dead, depth, sessions, ring }
}

/// What PostgreSQL cannot hold is replaced, and nothing else.
fn without_nul(mut told: Told) -> Told {
    for note in told.operations.iter_mut().flatten().flat_map(|standing| &mut standing.row.history) {
        note.message = note.message.replace('\0', "\u{fffd}");
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_as_it_was() {
    let (dir, to) = (tempfile::tempdir().unwrap(), database());
    let store = sqlite(dir.path());
    fill(&*store).await;
    let before = without_nul(told(&*store).await);
    let states: Vec<State> = before.operations.iter().flatten().map(|standing| standing.row.state).collect();
    for state in [State::Ready, State::Delayed, State::Blocked, State::Running, State::Succeeded, State::Dead] {
        assert!(states.contains(&state), "{state:?}: {states:?}");
    }
    assert!(before.sessions.iter().any(|(_, gap, ..)| gap.is_some()), "{:?}", before.sessions);
    store.close().await;
    drop(store);

    let migrated = migrate(dir.path(), &to).unwrap();
    assert!(!migrated.repeated);
    assert_eq!((migrated.contents.revision, migrated.contents.objects), (before.revision, before.objects.len() as u64));
    let store = open(&to);
    assert_eq!(told(&*store).await, before);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_numbers_ids_counters_and_keys_go_on_where_they_were() {
    let (dir, to) = (tempfile::tempdir().unwrap(), database());
    let store = sqlite(dir.path());
    fill(&*store).await;
    let term = store.leases().acquire("lead").await.unwrap().term;
    let (revision, last) = (store.revision(), store.messages("long", 0, 1).await.unwrap().last);
    store.close().await;
    drop(store);
    migrate(dir.path(), &to).unwrap();
    let store = open(&to);

    // What was before the current objects did not go along; nothing else is lost to a watch.
    assert_eq!(store.floor(), revision);
    let scope = Scope { resource: "/pods".into(), namespace: None, name: None };
    let stale = store.watch(scope.clone(), Revision(revision.0 - 1)).await.unwrap_err();
    assert!(matches!(stale, StoreError::Expired { .. }), "{stale}");
    let mut watch = store.watch(scope, revision).await.unwrap();
    let written = store.write(create("one", "b")).await.unwrap();
    assert_eq!(written.revision, Revision(revision.0 + 1));
    assert_eq!(watch.next().await.unwrap()[0].revision(), written.revision);
    // A revision that a client holds is still that of its object.
    let key = Key::new("/pods", "one", "a");
    let updated = store.write(Write::Update { key, draft: draft("a", None), expected: Revision(1) }).await.unwrap();
    assert_eq!(updated.revision, Revision(revision.0 + 2));

    // Ids are known, those of messages that were trimmed, too.
    let again = |id: &str| Append {
        session: "long".into(),
        sender: Sender::Agent,
        messages: vec![NewMessage { id: id.into(), kind: "agent".into(), body: "{\"text\":\"again\"}".into() }],
        keep: Retention::ALL,
    };
    for (id, number, duplicate) in [("id-0", 1, true), ("id-49", 50, true), ("new", last + 1, false)] {
        let appended = store.append(again(id)).await.unwrap();
        assert_eq!((appended[0].number, appended[0].duplicate), (number, duplicate), "{id}");
    }
    append(&*store, "another", Sender::Agent, 0..1, Retention::ALL).await;
    let sessions = store.sessions().await.unwrap();
    assert!(sessions.iter().any(|name| &**name == "another") && !sessions.iter().any(|name| &**name == "dropped"));

    assert_eq!(store.raise("starts").await.unwrap(), 2);
    let stale = RingChange { generation: 0, add: Vec::new(), remove: Vec::new() };
    assert_eq!(store.change_ring(stale).await.unwrap(), None);
    // The term that led is the newest until the next one begins.
    let fence = |term| Fence { lease: "lead".into(), term };
    store.write_under(fence(term), create("one", "led")).await.unwrap();
    let next = store.leases().acquire("lead").await.unwrap().term;
    assert!(next > term, "{next} after {term}");
    let deposed = store.write_under(fence(term), create("one", "late")).await;
    assert!(matches!(deposed, Err(StoreError::Deposed(_))), "{deposed:?}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_go_on() {
    let (dir, to) = (tempfile::tempdir().unwrap(), database());
    let store = sqlite(dir.path());
    let running = fill(&*store).await;
    store.close().await;
    drop(store);
    migrate(dir.path(), &to).unwrap();
    let store = open(&to);
    // What ran has lost its worker: the first claim puts it back, under the next number.
    let claimed = claim(&*store, 10, NOW + 120_000).await;
    let found = |name: &str| claimed.iter().find(|claimed| &*claimed.attempt.id == name);
    let again = found("running").unwrap();
    assert_eq!((again.attempt.number, again.standing.row.lost), (running.number + 1, 1));
    let fenced = store.settle(&running, end(again, State::Succeeded)).await;
    assert!(matches!(fenced, Err(StoreError::Fenced(_))), "{fenced:?}");
    assert!(found("urgent").is_some() && found("has-key").is_some() && found("cancelled").is_some());
    assert!(found("blocked").is_none() && found("dead").is_none() && found("well").is_none(), "{claimed:?}");
    // Its turn comes when its key is free.
    let holder = found("has-key").unwrap();
    store.settle(&holder.attempt, end(holder, State::Succeeded)).await.unwrap();
    assert!(claim(&*store, 10, NOW + 120_000).await.iter().any(|claimed| &*claimed.attempt.id == "blocked"));
    store.settle(&again.attempt, end(again, State::Succeeded)).await.unwrap();
    // A dead letter is put back, and a new one comes behind all that there were.
    let key = Key::new(OPERATIONS, "first", "dead");
    let expected = store.get(&key).await.unwrap().unwrap().revision;
    let replay = draft("dead", Some(Queued { replays: 1, ..queued("first") }));
    store.write(Write::Update { key, draft: replay, expected }).await.unwrap();
    enqueue(&*store, "newest", queued("first")).await;
    let last: Vec<Claimed> = claim(&*store, 10, NOW + 120_000).await;
    let last: Vec<&str> = last.iter().map(|claimed| &*claimed.attempt.id).collect();
    assert_eq!(last, ["dead", "newest"]);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_keep_their_turns() {
    let (dir, to) = (tempfile::tempdir().unwrap(), database());
    let store = sqlite(dir.path());
    for number in 0..5 {
        enqueue(&*store, &format!("busy-{number}"), queued("busy")).await;
        let claimed = claim(&*store, 1, NOW).await;
        store.settle(&claimed[0].attempt, end(&claimed[0], State::Succeeded)).await.unwrap();
    }
    for (name, lane) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        enqueue(&*store, name, queued(lane)).await;
    }
    store.close().await;
    drop(store);
    migrate(dir.path(), &to).unwrap();
    let store = open(&to);
    for name in ["a1", "b1", "a2"] {
        let claimed = claim(&*store, 1, NOW).await;
        assert_eq!(&*claimed[0].attempt.id, name, "the other lane waits longer than the one that was served");
        store.settle(&claimed[0].attempt, end(&claimed[0], State::Succeeded)).await.unwrap();
    }
    store.close().await;
}
