//! Directories of older versions are brought up to date with all that is in them.

use std::path::Path;

use super::*;
use crate::Store;
use crate::message::{Append, NewMessage, Retention, Sender};
use crate::object::{Draft, Write};
use crate::operation::{Claim, Queue as _, Queued};
use crate::sqlite::SqliteStore;

/// A database as the first version wrote it.
fn first_version(dir: &Path) {
    let database = Connection::open(dir.join("state.db")).unwrap();
    database.pragma_update(None, "auto_vacuum", "INCREMENTAL").unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.execute_batch(MIGRATIONS[0]).unwrap();
    database.pragma_update(None, "user_version", 1).unwrap();
    let rows = r#"
        UPDATE log SET revision = 1;
        INSERT INTO history VALUES (1, '/pods', 'a', 'p', 0, '{"uid":"u"}', CAST('{"revision":"1"}' AS BLOB));
        INSERT INTO objects VALUES ('/pods', 'a', 'p', 1);
        -- Of the first session, message 1 is trimmed, and 2 is not yet from the disk.
        INSERT INTO sessions (key, session, first, last, purged, row) VALUES (1, 's', 3, 6, 2, '{"run":7,"pod_uid":"p",
            "heartbeat_ms":1,"offered":2,"delivered":2,"busy":false,"activity_ms":0}');
        INSERT INTO messages VALUES ((1 << 32) + 1, 1, 'prompt-1', 'user', NULL);
        INSERT INTO messages VALUES ((1 << 32) + 2, 1, 'r1-stdout-0', 'agent', CAST('{"text":"0123456789"}' AS BLOB));
        INSERT INTO messages VALUES ((1 << 32) + 3, 1, 'r1-stdout-9', 'agent', CAST('{"text":"12345"}' AS BLOB));
        INSERT INTO messages VALUES ((1 << 32) + 4, 1, 'mine', 'user', CAST('{"text":"6"}' AS BLOB));
        INSERT INTO messages VALUES ((1 << 32) + 5, 1, 'r1-stdout-14', 'event', CAST('{"text":"7"}' AS BLOB));
        INSERT INTO messages VALUES ((1 << 32) + 6, 1, 'r1-system-exited', 'system', CAST('{"text":"8"}' AS BLOB));
        INSERT INTO sessions (key, session, dropped, last) VALUES (2, 'gone', 1, 1);
        INSERT INTO messages VALUES ((2 << 32) + 1, 2, 'a', 'user', CAST('{"text":"x"}' AS BLOB));
        INSERT INTO sessions (key, session) VALUES (3, 'empty');
        INSERT INTO counters VALUES ('fence', 9);
    "#;
    database.execute_batch(rows).unwrap();
}

fn append(sender: Sender, ids: &[&str], keep: Retention) -> Append {
    let message = |id: &&str| NewMessage { id: (*id).into(), kind: "user".into(), body: "{\"text\":\"\"}".into() };
    Append { session: "s".into(), sender, messages: ids.iter().map(message).collect(), keep }
}

#[tokio::test]
async fn a_directory_of_the_second_version_has_a_queue_and_keeps_operations_that_are_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    first_version(dir.path());
    let database = Connection::open(dir.path().join("state.db")).unwrap();
    database.execute_batch(MIGRATIONS[1]).unwrap();
    database.pragma_update(None, "user_version", 2).unwrap();
    let row =
        "INSERT INTO history VALUES (2, 'mainstay.dev/operations', 'a', 'o', 0, '{\"uid\":\"o\"}', CAST('{}' AS BLOB));
        INSERT INTO objects VALUES ('mainstay.dev/operations', 'a', 'o', 2); UPDATE log SET revision = 2;";
    database.execute_batch(row).unwrap();
    drop(database);
    let store = SqliteStore::open(Options::new(dir.path())).unwrap();
    assert_eq!(store.stats().objects, 1);
    let old = store.get(&Key::new(OPERATIONS, "a", "o")).await.unwrap().unwrap();
    assert_eq!((old.revision, &*old.body), (Revision(2), b"{}".as_slice()));
    let claim = || Claim { limit: 9, per_lane: 9, lease: Duration::from_secs(9), now_ms: 0 };
    assert!(store.claim(claim()).await.unwrap().claimed.is_empty());
    // One that is told of is in the queue from then on.
    let queued = Queued::new("a", "h");
    let (head, tail) = ("{\"revision\":\"".into(), "\"}".into());
    let draft = Draft { head, tail, meta: Arc::clone(&old.meta), queued: Some(Arc::new(queued)) };
    store.write(Write::Update { key: old.key.clone(), draft, expected: old.revision }).await.unwrap();
    let claims = store.claim(claim()).await.unwrap();
    assert_eq!((claims.claimed.len(), claims.claimed[0].object.revision), (1, Revision(3)));
}

/// Nothing that is done often looks at every row.
#[test]
fn the_queue_is_searched_by_index() {
    let dir = tempfile::tempdir().unwrap();
    let _held = crate::sqlite::directory::hold(dir.path()).unwrap();
    let database = open(&dir.path().join("state.db"), &Options::new(dir.path())).unwrap();
    let plan = |sql: &str| {
        let mut explain = database.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let lines = explain.raw_query().mapped(|row| row.get::<_, String>(3)).collect::<Result<Vec<_>, _>>();
        lines.unwrap().join("; ")
    };
    for (index, rest) in [
        ("operation_by_uid", "WHERE uid = ?1"),
        ("operation_ready", "WHERE lane = ?1 AND state = 0 ORDER BY priority DESC, seq LIMIT ?2"),
        ("operation_due", "WHERE state = 1 AND run_at <= ?1 ORDER BY run_at, seq LIMIT ?2"),
        ("operation_due", "WHERE state = 1 ORDER BY run_at, seq LIMIT 1"),
        ("operation_blocked", "WHERE lane = ?1 AND key = ?2 AND state = 2 ORDER BY priority DESC, seq LIMIT 1"),
        ("operation_of_key", "WHERE lane = ?1 AND key = ?2 AND state IN (0, 3) AND key IS NOT NULL AND seq <> ?3"),
        ("operation_live", "WHERE state = 0 AND state IN (0, 3) ORDER BY seq LIMIT 1"),
        ("operation_live", "WHERE state = 0 AND state IN (0, 3) ORDER BY seq LIMIT 1000"),
        ("operation_dead", "WHERE state = 6 ORDER BY seq DESC LIMIT 20"),
        ("operation_live", "WHERE state = 3 AND state IN (0, 3)"),
    ] {
        let found = plan(&format!("SELECT * FROM operations {rest}"));
        let searched =
            found.starts_with("SEARCH") && found.contains(&format!("INDEX {index} (")) && !found.contains("TEMP");
        assert!(
            searched || (index == "operation_due" && found == "SCAN operations USING INDEX operation_due"),
            "{rest}: {found}"
        );
    }
    let lanes = plan(
        "SELECT running, turn, ready, lane FROM lanes WHERE ready > 0 AND running < ?1 ORDER BY running, turn LIMIT ?2",
    );
    assert!(lanes.contains("SEARCH lanes USING INDEX lane_turn (running<?)"), "{lanes}");
}

#[tokio::test]
async fn a_directory_of_the_first_version_goes_on_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    first_version(dir.path());
    let store = SqliteStore::open(Options::new(dir.path())).unwrap();
    assert_eq!((store.revision(), store.raise("fence").await.unwrap()), (Revision(1), 10));
    assert_eq!(store.get(&Key::new("/pods", "a", "p")).await.unwrap().unwrap().body, "{\"revision\":\"1\"}");
    assert_eq!(store.run_row("s").await.unwrap().unwrap().run, 7);
    let page = store.messages("s", 0, 10).await.unwrap();
    assert_eq!((page.gap, page.last, page.messages.len()), (Some((1, 2)), 6, 4));

    // Who sent what is known, also of what is trimmed: no repetition is a new message, and nobody's id is another's.
    let numbers = async |sender, ids: &[&str]| -> Vec<(u64, bool)> {
        let given = store.append(append(sender, ids, Retention::ALL)).await.unwrap();
        given.iter().map(|one| (one.number, one.duplicate)).collect()
    };
    assert_eq!(numbers(Sender::Platform, &["prompt-1"]).await, [(1, true)]);
    assert_eq!(numbers(Sender::User, &["mine"]).await, [(4, true)]);
    let own = ["r1-stdout-0", "r1-stdout-9", "r1-stdout-14", "r1-system-exited"];
    assert_eq!(numbers(Sender::Agent, &own).await, [(2, true), (3, true), (5, true), (6, true)]);
    assert_eq!(numbers(Sender::User, &["prompt-1", "r1-stdout-0"]).await, [(7, false), (8, false)]);

    // 16 + 3 * 12 + 2 * 11 bytes are there; these eleven more are one too many.
    let keep = Retention { messages: 100, bytes: 84 };
    store.append(append(Sender::User, &["last"], keep)).await.unwrap();
    assert_eq!(store.messages("s", 0, 10).await.unwrap().gap, Some((1, 3)));
}
