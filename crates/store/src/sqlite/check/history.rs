//! Objects and their history.

use rusqlite::Row;

use super::{Check, RESTORE};
use crate::object::{Key, Meta, Revision};
use crate::sqlite::schema;

/// A change kind as the table has it.
const DELETED: i64 = 2;

/// Each current object is the newest change of its key.
pub(super) fn objects(check: &mut Check<'_>) -> rusqlite::Result<()> {
    let select = "SELECT o.resource, o.namespace, o.name, o.revision, h.kind,
            h.resource = o.resource AND h.namespace = o.namespace AND h.name = o.name,
            EXISTS (SELECT 1 FROM history n WHERE n.resource = o.resource AND n.namespace = o.namespace
                AND n.name = o.name AND n.revision > o.revision)
        FROM objects o LEFT JOIN history h ON h.revision = o.revision";
    check.each("objects", select, |check, row| {
        let key = Key::new(row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?);
        let revision = Revision(row.get(3)?);
        let wrong = match (row.get::<_, Option<i64>>(4)?, row.get::<_, Option<bool>>(5)?, row.get::<_, bool>(6)?) {
            (None, ..) => "which is not in the history: its content is lost",
            (_, Some(false) | None, _) => {
                "which is a change of another object: it would be shown with that one's content"
            }
            (Some(DELETED), ..) => "which is a deletion: it is shown though it was deleted",
            (.., true) => "though newer ones of it are in the history: it is shown as it once was",
            _ => return Ok(()),
        };
        check.fault(key.to_string(), format!("points to revision {revision}, {wrong}"), RESTORE);
        Ok(())
    })
}

/// What is in the history, and that nothing is missing there.
pub(super) fn changes(check: &mut Check<'_>) -> rusqlite::Result<()> {
    let (newest, floor) = check.log()?;
    if floor > newest || floor.epoch() != newest.epoch() {
        let meaning = format!("the floor, {floor}, is not below the newest revision, {newest}, in one epoch");
        check.fault("log", meaning, RESTORE);
    }
    let select = "SELECT h.revision, h.resource, h.namespace, h.name, h.meta, h.body, h.kind,
            (SELECT o.revision FROM objects o
                WHERE o.resource = h.resource AND o.namespace = h.namespace AND o.name = h.name),
            (SELECT min(n.revision) FROM history n WHERE n.resource = h.resource AND n.namespace = h.namespace
                AND n.name = h.name AND n.revision > h.revision)
        FROM history h ORDER BY h.revision";
    let mut last = floor;
    check.each("history", select, |check, row| {
        let revision = Revision(row.get(0)?);
        if revision > floor {
            gap(check, last, revision);
            last = revision;
        }
        if revision > newest {
            let meaning = format!("is newer than the newest revision, {newest}: that will be given once more");
            check.fault(format!("revision {revision}"), meaning, RESTORE);
        }
        change(check, row, revision, floor)
    })?;
    gap(check, last, Revision(newest.0 + 1));
    Ok(())
}

/// Between two revisions that are there.
fn gap(check: &mut Check<'_>, last: Revision, next: Revision) {
    if next.0 > last.0 + 1 {
        let place = format!("revisions {} to {}", last.0 + 1, next.0 - 1);
        let meaning = "are missing from the history: a watch from before them would not be told of these changes";
        check.fault(place, meaning, RESTORE);
    }
}

fn change(check: &mut Check<'_>, row: &Row<'_>, revision: Revision, floor: Revision) -> rusqlite::Result<()> {
    let key = Key::new(row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?);
    let place = || format!("{key} at revision {revision}");
    let kind: i64 = row.get(6)?;
    let (current, next): (Option<u64>, Option<u64>) = (row.get(7)?, row.get(8)?);
    if !(0..=DELETED).contains(&kind) {
        check.fault(place(), format!("is a change of kind {kind}, which there is not"), RESTORE);
    }
    if kind != DELETED && next.is_none() && current.is_none() {
        check.fault(place(), "is the newest change, and yet there is no such object: it is lost", RESTORE);
    }
    if revision <= floor && (kind == DELETED || next.is_some_and(|next| next <= floor.0)) {
        let meaning = "should be gone with what is compacted: it takes room, and nobody will remove it";
        check.fault(place(), meaning, "nothing is lost; back up and restore when the room matters");
    }
    let meta = serde_json::from_str::<Meta>(row.get_ref(4)?.as_str()?);
    match (meta, schema::object(row)) {
        (Err(error), _) => {
            check.fault(
                place(),
                format!("what selectors know of it cannot be read: {error}; no start is possible"),
                RESTORE,
            );
        }
        (Ok(_), object) => {
            for (meaning, remedy) in (check.judge)(&object?) {
                check.fault(place(), meaning, remedy);
            }
        }
    }
    Ok(())
}
