//! The machine's own floors, each on its own.

use std::time::Duration;

use mainstay_testkit::bench::{bubblewrap, fdatasync, spawn};
use rusqlite::Connection;
use tokio::time::Instant;

use crate::Plan;
use crate::table::{Aim, Row};

/// All of them.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let (mut syncs, mut starts, mut boxes, mut others) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut inserts: [Vec<f64>; 3] = Default::default();
    for _ in 0..plan.runs(5) {
        others.push(plan.settle().await);
        let dir = tempfile::tempdir()?;
        syncs.push(fdatasync(dir.path(), 500)?.median());
        starts.push(spawn(100)?.median());
        boxes.extend(bubblewrap(50)?.map(|sample| sample.median()));
        for (at, rows) in [1, 16, 64].into_iter().enumerate() {
            inserts[at].push(sqlite(rows)?);
        }
    }
    let row = |what: &str, unit: &str, runs: &[f64]| {
        Row { what, aim: Aim::None, unit, runs, floors: &[], bound: "", others: &others, bench: "floors" }.print();
    };
    row("floor: fdatasync of a 4 KB append, p50", "ms", &syncs);
    row("floor: fork and exec of `true`, p50", "ms", &starts);
    if !boxes.is_empty() {
        row("peer: `true` in bubblewrap, start to end, p50", "ms", &boxes);
    }
    for (at, rows) in [1, 16, 64].into_iter().enumerate() {
        row(&format!("floor: SQLite WAL FULL, rows of 1 KB, {rows} per commit"), "per s", &inserts[at]);
    }
    Ok(())
}

/// Rows of 1 KB per second into a plain table, so many per durable commit.
pub(crate) fn sqlite(per_commit: u32) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let mut connection = Connection::open(dir.path().join("floor.db"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")?;
    let (body, began, mut rows) = (vec![7_u8; 1_024], Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(1) {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO rows (body) VALUES (?1)")?;
            for _ in 0..per_commit {
                insert.execute([&body])?;
            }
        }
        transaction.commit()?;
        rows += per_commit;
    }
    Ok(f64::from(rows) / began.elapsed().as_secs_f64())
}
