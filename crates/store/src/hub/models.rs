//! Publishing, joining and taking, in thousands of orders of their steps.

use std::sync::Arc;

use shuttle::{check_random, thread};

use super::*;
use crate::object::{Draft, Meta};
use crate::watch::ChangeKind;

const ORDERS: usize = 5_000;
const LAST: u64 = 3;

fn change(revision: u64) -> Arc<Change> {
    let meta = Arc::new(Meta { uid: "u".into(), ..Meta::default() });
    let draft = Draft { head: r#"{"r":""#.into(), tail: r#""}"#.into(), meta, queued: None };
    let key = Key::new("r", "n", format!("o{revision}"));
    Arc::new(Change::stamp(ChangeKind::Created, key, &draft, Revision(revision), None))
}

fn hub() -> Arc<Hub> {
    let bounds = Bounds { ring_changes: 8, ring_bytes: 1 << 20, watcher_bytes: 1 << 20 };
    Arc::new(Hub::new(bounds, Objects::at(Revision(0)), Revision(0)))
}

fn all() -> Scope {
    Scope { resource: "r".into(), namespace: None, name: None }
}

/// What is handed out next, after what was.
fn take(watch: &Registration, seen: &mut Vec<u64>) {
    match watch.take() {
        Taken::Changes(changes) => seen.extend(changes.iter().map(|change| change.revision().0)),
        Taken::Ended(end) => panic!("ended: {end:?}"),
        Taken::Nothing => thread::yield_now(),
    }
}

/// Whenever a watcher joins, it gets each change once, in order; and what one was told, every read and every other watch
/// has.
fn watches(hub: &Arc<Hub>) {
    let (one, other) = (hub.join(&all(), Revision(0)).unwrap(), hub.join(&all(), Revision(0)).unwrap());
    let (mut seen, mut others) = (Vec::new(), Vec::new());
    while seen.last() != Some(&LAST) {
        take(&one, &mut seen);
        let Some(&newest) = seen.last() else { continue };
        assert!(hub.objects().revision().0 >= newest, "told of {newest}, and it cannot be read");
        take(&other, &mut others);
        assert!(others.last() >= Some(&newest), "told of {newest}, and another watch has {others:?}");
    }
    assert_eq!((&*seen, &*others), (&[1, 2, 3][..], &[1, 2, 3][..]));
}

#[test]
fn watchers_miss_nothing_get_nothing_twice_and_agree() {
    check_random(
        || {
            let hub = hub();
            let watchers: Vec<_> = (0..2)
                .map(|_| {
                    let hub = Arc::clone(&hub);
                    thread::spawn(move || watches(&hub))
                })
                .collect();
            hub.publish(&[change(1), change(2)]);
            hub.publish(&[change(LAST)]);
            for watcher in watchers {
                watcher.join().unwrap();
            }
            assert_eq!(hub.counts(), (0, 0));
        },
        ORDERS,
    );
}
