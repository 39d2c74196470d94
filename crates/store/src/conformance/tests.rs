//! The validator can fail: it is shown every sort of broken history.

use super::key;
use super::validator::{Event, Record, Recording, Violation, validate};
use crate::object::Revision;
use crate::watch::{ChangeKind, Scope};

/// Ten changes, those with odd revisions to another resource.
fn log() -> Vec<Record> {
    let record = |revision: u64| Record {
        revision: Revision(revision),
        key: key(u8::from(revision % 2 == 1)),
        kind: ChangeKind::Created,
        body: revision.to_string().into_bytes(),
        previous: None,
    };
    (1..=10).map(record).collect()
}

fn judge(start: u64, shape: &[i64]) -> Result<(), Violation> {
    let log = log();
    let event = |shape: &i64| match u64::try_from(*shape) {
        Ok(revision) => Event::Change(log[usize::try_from(revision).unwrap() - 1].clone()),
        Err(_) => Event::Progress(Revision(shape.unsigned_abs())),
    };
    let events = shape.iter().map(event).collect();
    validate(&log, &Recording { scope: Scope::resource("/pods"), start: Revision(start), events })
}

#[test]
fn whole_histories_pass() {
    for (start, shape) in
        [(0, &[2, 4, 6][..]), (2, &[4, -5, 6, 8, -9, 10, -10]), (0, &[]), (4, &[-5]), (0, &[2, -2, 4])]
    {
        assert_eq!(judge(start, shape), Ok(()), "{shape:?}");
    }
}

#[test]
fn broken_histories_are_found() {
    let broken = [
        ("gap", 0, &[2, 6][..], Violation::Missing(Revision(4))),
        ("gap at the start", 0, &[4], Violation::Missing(Revision(2))),
        ("gap before a bookmark", 0, &[2, -4], Violation::Missing(Revision(4))),
        ("duplicate", 0, &[2, 4, 4], Violation::Repeated(Revision(4))),
        ("duplicate after resuming", 4, &[4, 6], Violation::Repeated(Revision(4))),
        ("reordering", 4, &[6, 10, 8], Violation::Reordered(Revision(10))),
        ("reordering of the first", 0, &[4, 2], Violation::Reordered(Revision(4))),
        ("late change after a bookmark", 2, &[-3, 4, -5, 4], Violation::Repeated(Revision(4))),
        ("bookmark that falls", 0, &[2, -3, -2], Violation::Ahead(Revision(3))),
        ("another resource", 0, &[1], Violation::Wrong(Revision(1))),
    ];
    for (name, start, shape, violation) in broken {
        assert_eq!(judge(start, shape), Err(violation), "{name}");
    }
}

#[test]
fn a_change_that_never_was_is_found() {
    let log = log();
    let mut forged = log[1].clone();
    forged.body = b"other".to_vec();
    let events = vec![Event::Change(forged)];
    let recording = Recording { scope: Scope::resource("/pods"), start: Revision(0), events };
    assert_eq!(validate(&log, &recording), Err(Violation::Wrong(Revision(2))));
}
