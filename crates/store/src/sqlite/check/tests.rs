//! Each check finds what it is for, and finds nothing in a database that is well.

use std::fs;
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::message::{Append, NewMessage, Retention, Sender};
use crate::object::{Draft, Key, Meta, Write};
use crate::operation::{Claim, OPERATIONS, Queue as _, Queued, StepRow, StepState};
use crate::sqlite::backup::STATE;
use crate::sqlite::backup::tests::{create, open};
use crate::{RunRow, Store as _};

fn operation(name: &str, key: Option<&str>) -> Write {
    let fields = vec![("status.phase".into(), "Pending".into())];
    let meta = Arc::new(Meta { uid: format!("uid-{name}").into(), fields, ..Meta::default() });
    let queued = Queued { concurrency_key: key.map(Arc::from), created_ms: 1, ..Queued::new("lane", "noop") };
    let head = "{\"metadata\":{\"resourceVersion\":\"";
    let draft = Draft { head: head.into(), tail: "\"}}".into(), meta, queued: Some(Arc::new(queued)) };
    Write::Create { key: Key::new(OPERATIONS, "a", name), draft, requires: None }
}

/// A directory in which there is something of everything: 4 pods (one updated, one deleted), 3 operations (one runs, with
/// a journal; one waits for its key), and a session with 6 messages, 2 of which are trimmed.
async fn something() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for name in ["one", "two", "three", "gone"] {
        let made = store.write(create(name)).await.unwrap();
        let Write::Create { key, draft, .. } = create(name) else { unreachable!() };
        match name {
            "two" => drop(store.write(Write::Update { key, draft, expected: made.revision }).await.unwrap()),
            "gone" => drop(store.write(Write::Delete { key, draft, expected: made.revision }).await.unwrap()),
            _ => {}
        }
    }
    for (name, key) in [("first", Some("key")), ("second", Some("key")), ("third", None)] {
        store.write(operation(name, key)).await.unwrap();
    }
    let claim = Claim { limit: 1, per_lane: 9, lease: std::time::Duration::from_mins(1), now_ms: 1 };
    let claimed = store.claim(claim).await.unwrap().claimed.remove(0).attempt;
    for step in ["make", "join"] {
        let entry = StepRow { step: step.into(), state: StepState::Done, attempt: 1, output: "{}".into() };
        store.journal(&claimed, entry).await.unwrap();
    }
    for number in 0..6 {
        let body = format!("{{\"text\":\"{number}\"}}").into();
        let messages = vec![NewMessage { id: format!("id-{number}").into(), kind: "user".into(), body }];
        let keep = Retention { messages: 4, ..Retention::ALL };
        store.append(Append { session: "s".into(), sender: Sender::User, messages, keep }).await.unwrap();
    }
    store.put_run_row("s", RunRow::default(), true).await.unwrap();
    store.close().await;
    dir
}

fn checked(dir: &Path) -> Report {
    check(dir, &mut |_| Vec::new(), &mut |_, _, _| {}).unwrap()
}

/// What a check finds when the database was changed so.
fn changed(dir: &Path, sql: &str) -> Vec<(&'static str, String)> {
    let changed = tempfile::tempdir().unwrap();
    fs::copy(dir.join(STATE), changed.path().join(STATE)).unwrap();
    let database = Connection::open(changed.path().join(STATE)).unwrap();
    database.execute_batch(sql).unwrap();
    drop(database);
    let faults = checked(changed.path()).faults;
    faults.into_iter().map(|fault| (fault.check, format!("{}: {}", fault.place, fault.meaning))).collect()
}

#[tokio::test]
async fn a_database_that_is_well_has_no_faults_also_while_it_is_written() {
    let dir = something().await;
    let report = checked(dir.path());
    assert!(report.is_clean(), "{:?}", report.faults);
    let contents = report.contents.unwrap();
    assert_eq!((contents.objects, contents.operations, contents.messages), (6, 3, 6));
    let store = open(dir.path());
    store.write(create("four")).await.unwrap();
    let seen = std::cell::Cell::new(0);
    let report = check(dir.path(), &mut |_| Vec::new(), &mut |_, _, _| seen.set(seen.get() + 1)).unwrap();
    assert!(report.is_clean() && seen.get() > 8, "{report:?}");
    assert_eq!(report.contents.unwrap().objects, 7);
    // Compaction leaves nothing that is not to be there.
    store.compact(store.revision()).await.unwrap();
    assert!(checked(dir.path()).is_clean(), "{:?}", checked(dir.path()).faults);
}

/// What is done to the database, the check that finds it, and a part of what it says.
const FAULTS: [(&str, &str, &str); 30] = [
    (
        "DELETE FROM history WHERE revision = 1",
        "objects",
        "/pods/a/one: points to revision 1, which is not in the history",
    ),
    ("UPDATE objects SET revision = 1 WHERE name = 'three'", "objects", "which is a change of another object"),
    ("INSERT INTO objects VALUES ('/pods', 'a', 'gone', 6)", "objects", "which is a deletion"),
    ("UPDATE objects SET revision = 2 WHERE name = 'two'", "objects", "though newer ones of it are in the history"),
    ("DELETE FROM history WHERE revision = 2", "history", "revisions 2 to 2: are missing"),
    ("DELETE FROM history WHERE revision = 9", "history", "revisions 9 to 9: are missing"),
    ("UPDATE log SET revision = 8", "history", "revision 9: is newer than the newest revision, 8"),
    ("UPDATE log SET revision = 8 + (1 << 32)", "history", "in one epoch"),
    ("UPDATE log SET floor = 3", "history", "/pods/a/two at revision 2: should be gone with what is compacted"),
    ("DELETE FROM objects WHERE name = 'one'", "history", "/pods/a/one at revision 1: is the newest change, and yet"),
    ("UPDATE history SET kind = 7 WHERE revision = 1", "history", "a change of kind 7"),
    ("UPDATE history SET meta = '{' WHERE revision = 1", "history", "what selectors know of it cannot be read"),
    ("UPDATE sessions SET row = 'x'", "sessions", "session s: how far its run is cannot be read"),
    ("UPDATE sessions SET first = last + 2", "sessions", "session s: its counters contradict each other"),
    ("DELETE FROM messages WHERE id = 'id-4'", "sessions", "1 of its messages 3 to 6 are missing, the first is 5"),
    (
        "UPDATE messages SET body = NULL WHERE id = 'id-3'",
        "sessions",
        "1 of its messages 3 to 6 are missing, the first is 4",
    ),
    ("UPDATE sessions SET bytes = bytes + 1", "sessions", "its messages have 48 bytes and not 49"),
    ("UPDATE sessions SET last = 5, bytes = 36", "sessions", "it has a message 6, and says that 5 is its last"),
    ("UPDATE messages SET place = place + (7 << 32) WHERE id = 'id-0'", "messages", "there is no such session"),
    (
        "UPDATE messages SET session = 9 WHERE id = 'id-5'",
        "messages",
        "message 6 of session s: it is in another session's place",
    ),
    (
        "UPDATE messages SET body = CAST('{\"te' AS BLOB) WHERE id = 'id-5'",
        "messages",
        "message 6 of session s: it is no JSON object",
    ),
    ("DELETE FROM operations WHERE name = 'third'", "operations", "operation a/third: it has an object and no row"),
    (
        "UPDATE operations SET name = 'x' WHERE name = 'third'",
        "operations",
        "operation a/x: it has a row and no object",
    ),
    ("UPDATE operations SET uid = 'x' WHERE name = 'third'", "operations", "operation a/third: its row is of uid x"),
    (
        "UPDATE operations SET state = 4 WHERE name = 'third'",
        "operations",
        "its object says Pending, its row is in state 4",
    ),
    ("UPDATE operations SET history = '[1]' WHERE name = 'third'", "operations", "its row cannot be read"),
    ("UPDATE lanes SET ready = ready + 1", "lanes", "lane lane: its counts are not those of its operations"),
    (
        "UPDATE operations SET key = 'other' WHERE name = 'first'",
        "lanes",
        "operation a/second: it waits for concurrency key \"key\"",
    ),
    (
        "UPDATE steps SET place = 2 WHERE step = 'join'",
        "journals",
        "step join of operation a/first: it is step number 2 where 1",
    ),
    ("UPDATE steps SET attempt = 2, output = 'x'", "journals", "an attempt that there was not"),
];

#[tokio::test]
async fn every_fault_is_found_by_its_check_and_named() {
    let dir = something().await;
    for (sql, check, said) in FAULTS {
        let faults = changed(dir.path(), sql);
        assert!(
            faults.iter().any(|(found, text)| *found == check && text.contains(said)),
            "{sql}: {check}: {said}\nfound {faults:#?}"
        );
    }
    let orphan = "DELETE FROM operations WHERE name = 'first'";
    assert!(changed(dir.path(), orphan).iter().any(|(found, text)| *found == "journals" && text.contains("left over")));
}

#[tokio::test]
async fn a_damaged_file_is_a_fault_and_one_that_cannot_be_looked_at_is_none() {
    let dir = something().await;
    let whole = fs::read(dir.path().join(STATE)).unwrap();
    let with = |bytes: &[u8]| {
        fs::write(dir.path().join(STATE), bytes).unwrap();
        checked(dir.path())
    };
    // A page in the middle, then half of the file, then none of it.
    let mut damaged = whole.clone();
    let middle = whole.len() / 8192 * 4096;
    damaged[middle..middle + 4096].fill(0x5a);
    for bytes in [damaged.as_slice(), &whole[..whole.len() / 2], b"this is no database, but something else altogether"]
    {
        let report = with(bytes);
        assert!(report.faults.iter().any(|fault| fault.place == "state.db"), "{report:?}");
    }
    let none = tempfile::tempdir().unwrap();
    let looked = check(none.path(), &mut |_| Vec::new(), &mut |_, _, _| {});
    assert!(matches!(looked, Err(StateError::Missing(_))));
    // A newer program's tables are not judged, an older one's as far as they go.
    fs::write(dir.path().join(STATE), &whole).unwrap();
    let version = |version: u32| {
        let database = Connection::open(dir.path().join(STATE)).unwrap();
        database.pragma_update(None, "user_version", version).unwrap();
    };
    version(99);
    let looked = check(dir.path(), &mut |_| Vec::new(), &mut |_, _, _| {});
    assert!(matches!(looked, Err(StateError::Store(StoreError::NewerSchema { .. }))));
    version(2);
    let report = checked(dir.path());
    assert_eq!((report.is_clean(), report.skipped), (true, vec!["operations", "lanes", "journals"]));
}

#[tokio::test]
async fn of_a_million_faults_a_thousand_are_kept_and_what_a_judge_says_is_among_them() {
    let dir = something().await;
    let many = |_: &Object| vec![("it is odd".to_owned(), "look"); 200];
    let report = check(dir.path(), &mut { many }, &mut |_, _, _| {}).unwrap();
    assert_eq!((report.faults.len(), report.more), (MOST_FAULTS, 800), "200 of each of 9 changes");
    assert_eq!((report.faults[0].check, &*report.faults[0].place), ("history", "/pods/a/one at revision 1"));
}
