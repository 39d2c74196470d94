//! The queue: rows, lanes and journals.

use serde::de::IgnoredAny;

use super::{Check, RESTORE};
use crate::object::Meta;
use crate::operation::Note;

/// States that are final, with the phase that the object says then.
const FINAL: [(i64, &str); 3] = [(4, "Succeeded"), (5, "Cancelled"), (6, "Dead")];
const DELETE_AND_WAIT: &str = "delete the operation; its owner creates it again if it is still needed";

/// Each row has its object, each object its row, and both say the same.
pub(super) fn operations(check: &mut Check<'_>) -> rusqlite::Result<()> {
    let select = "SELECT p.namespace, p.name, p.uid, p.state, p.history, p.undoing, h.meta FROM operations p
        LEFT JOIN objects o ON o.resource = 'mainstay.dev/operations' AND o.namespace = p.namespace AND o.name = p.name
        LEFT JOIN history h ON h.revision = o.revision";
    check.each("operations", select, |check, row| {
        let place = format!("operation {}/{}", row.get::<_, String>(0)?, row.get::<_, String>(1)?);
        let (uid, state): (String, i64) = (row.get(2)?, row.get(3)?);
        let notes = serde_json::from_str::<Vec<Note>>(row.get_ref(4)?.as_str()?).map(drop);
        let undoing =
            row.get_ref(5)?.as_str_or_null()?.map_or(Ok(()), |text| serde_json::from_str::<Note>(text).map(drop));
        if let Err(error) = notes.and(undoing) {
            check.fault(place.clone(), format!("its row cannot be read: {error}; every claim fails on it"), RESTORE);
        }
        if !(0..=6).contains(&state) {
            check.fault(place.clone(), format!("its row is in state {state}, which there is not"), RESTORE);
        }
        let Some(meta) = row.get_ref(6)?.as_str_or_null()? else {
            check.fault(place, "it has a row and no object: a claim of it stops the server", RESTORE);
            return Ok(());
        };
        // One that cannot be read was found with its object.
        let Ok(meta) = serde_json::from_str::<Meta>(meta) else { return Ok(()) };
        if *meta.uid != *uid {
            check.fault(place, format!("its row is of uid {uid}, its object of {}", meta.uid), RESTORE);
            return Ok(());
        }
        agree(check, place, state, &meta);
        Ok(())
    })?;
    let lone = "SELECT namespace, name FROM objects WHERE resource = 'mainstay.dev/operations'
        AND (namespace, name) NOT IN (SELECT namespace, name FROM operations)";
    check.each("operations", lone, |check, row| {
        let place = format!("operation {}/{}", row.get::<_, String>(0)?, row.get::<_, String>(1)?);
        check.fault(place, "it has an object and no row: nobody will ever carry it out", DELETE_AND_WAIT);
        Ok(())
    })
}

/// An object says that it has ended if, and as, its row does. One without a phase says nothing.
fn agree(check: &mut Check<'_>, place: String, state: i64, meta: &Meta) {
    let phase = meta.fields.iter().find(|(path, _)| &**path == "status.phase").map(|(_, phase)| &**phase);
    let Some(phase) = phase else { return };
    let wanted = FINAL.iter().find(|(known, _)| *known == state).map(|(_, phase)| *phase);
    let said = FINAL.iter().find(|(_, known)| *known == phase).map(|(_, phase)| *phase);
    if wanted != said {
        let meaning =
            format!("its object says {phase}, its row is in state {state}: its owner is told another end than it has");
        check.fault(place, meaning, RESTORE);
    }
}

/// The lanes' counts are those of their rows, and whoever waits for a key waits for somebody.
pub(super) fn lanes(check: &mut Check<'_>) -> rusqlite::Result<()> {
    let select = "WITH counted AS (SELECT lane, sum(state = 0) AS ready, sum(state = 1) AS delayed, sum(state = 2) AS blocked,
            sum(state = 3) AS running, sum(state = 6) AS dead FROM operations GROUP BY lane)
        SELECT ifnull(c.lane, l.lane), ifnull(c.ready, 0) <> ifnull(l.ready, 0) OR ifnull(c.delayed, 0) <> ifnull(l.delayed, 0)
            OR ifnull(c.blocked, 0) <> ifnull(l.blocked, 0) OR ifnull(c.running, 0) <> ifnull(l.running, 0)
            OR ifnull(c.dead, 0) <> ifnull(l.dead, 0)
        FROM counted c FULL JOIN lanes l ON l.lane = c.lane";
    check.each("lanes", select, |check, row| {
        if row.get(1)? {
            let meaning = "its counts are not those of its operations: it gets too many turns, or none";
            check.fault(format!("lane {}", row.get::<_, String>(0)?), meaning, RESTORE);
        }
        Ok(())
    })?;
    let waiting = "SELECT b.namespace, b.name, b.key FROM operations b WHERE b.state = 2 AND NOT EXISTS (SELECT 1
        FROM operations r WHERE r.lane = b.lane AND r.key = b.key AND r.state IN (0, 3) AND r.key IS NOT NULL)";
    check.each("operations", waiting, |check, row| {
        let place = format!("operation {}/{}", row.get::<_, String>(0)?, row.get::<_, String>(1)?);
        let key: Option<String> = row.get(2)?;
        let meaning = format!("it waits for concurrency key {:?}, which nobody has: for ever", key.unwrap_or_default());
        check.fault(place, meaning, DELETE_AND_WAIT);
        Ok(())
    })
}

/// Each step is of an operation, in its place.
pub(super) fn journals(check: &mut Check<'_>) -> rusqlite::Result<()> {
    let select = "SELECT s.operation, s.step, s.place, s.state, s.attempt, s.output, p.namespace, p.name, p.attempt
        FROM steps s LEFT JOIN operations p ON p.seq = s.operation ORDER BY s.operation, s.place";
    let mut before: Option<(i64, i64)> = None;
    check.each("steps", select, |check, row| {
        let (operation, step, at): (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let expected = before.filter(|(same, _)| *same == operation).map_or(0, |(_, at)| at + 1);
        before = Some((operation, at));
        let (Some(namespace), Some(name)) = (row.get::<_, Option<String>>(6)?, row.get::<_, Option<String>>(7)?) else {
            let place = format!("step {step} of the operation with number {operation}");
            check.fault(place, "there is no such operation: its journal is left over, or the operation lost", RESTORE);
            return Ok(());
        };
        let place = format!("step {step} of operation {namespace}/{name}");
        if at != expected {
            let meaning =
                format!("it is step number {at} where {expected} should be: undoing would go in a wrong order");
            check.fault(place.clone(), meaning, RESTORE);
        }
        if !(0..=3).contains(&row.get::<_, i64>(3)?) || row.get::<_, u64>(4)? > row.get::<_, u64>(8)? {
            let meaning =
                "its state is none, or was written by an attempt that there was not: it cannot be gone on with";
            check.fault(place.clone(), meaning, RESTORE);
        }
        if serde_json::from_str::<IgnoredAny>(row.get_ref(5)?.as_str()?).is_err() {
            check.fault(place, "what it was done with is no JSON: its operation fails on it", RESTORE);
        }
        Ok(())
    })
}
