//! Directories of older versions are brought up to date with all that is in them.

use std::path::Path;

use super::*;
use crate::Store;
use crate::message::{Append, NewMessage, Retention, Sender};
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
