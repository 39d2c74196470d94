//! SIGKILL at any commit: everything acknowledged is there, in one order, once.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;

use mainstay_runtime::{Clock, fault};
use mainstay_store::operation::{Claimed, OPERATIONS, Queue as _, Settlement, State};
use mainstay_store::{
    ChangeKind, Draft, ListQuery, Options, Revision, RunRow, Scope, SqliteStore, Store, StoreError, Write,
};

use super::child;
use super::operations;
use super::support::{append, body, draft, key, message, open};

const TASKS: usize = 4;

/// Works until it is killed; says what was acknowledged.
#[tokio::test]
async fn victim() {
    let Some(dir) = child::dir() else { return };
    fault::arm_from_env().unwrap();
    let store = SqliteStore::open(Options { checkpoint_pages: 40, ..Options::new(dir) }).unwrap();
    println!("ack raise {}", store.raise("boot").await.unwrap());
    let tasks = (0..TASKS).map(|task| write_for_ever(&store, task));
    futures::future::join_all(tasks).await;
}

async fn write_for_ever(store: &SqliteStore, task: usize) {
    let session = format!("session-{task}");
    for turn in 0.. {
        let key = key(&format!("task-{task}"), &(turn % 5).to_string());
        let current = store.get(&key).await.unwrap().map(|object| object.revision);
        let value = format!("{task}-{turn}");
        let (write, kind) = match current {
            None => (Write::Create { key, draft: draft(&value), requires: None }, "ADDED"),
            Some(expected) if turn % 3 == 0 => (Write::Delete { key, draft: draft(&value), expected }, "DELETED"),
            Some(expected) => (Write::Update { key, draft: draft(&value), expected }, "MODIFIED"),
        };
        let written = store.write(write).await.unwrap();
        println!("ack object {} {kind} {value} {}", written.revision, written.key);
        let last = store.messages(&session, u64::MAX - 1, 1).await.unwrap().last;
        let id = (last + 1).to_string();
        let appended = store.append(append(&session, vec![message(&id, &id)])).await.unwrap();
        println!("ack message {session} {}", appended[0].number);
        if turn % 7 == 0 {
            let run = store.run_row(&session).await.unwrap().unwrap_or_default().run + 1;
            store.put_run_row(&session, RunRow { run, ..RunRow::default() }, true).await.unwrap();
            println!("ack row {session} {run}");
        }
        if task == 0 && turn % 11 == 0 {
            let floor = Revision(store.revision().0.saturating_sub(30));
            store.compact(floor).await.unwrap();
            println!("ack floor {floor}");
        }
    }
}

/// What was acknowledged over all rounds.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) objects: BTreeMap<u64, String>,
    messages: BTreeMap<String, u64>,
    rows: BTreeMap<String, u64>,
    floor: u64,
    boots: u64,
}

impl Ledger {
    pub(crate) fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["object", revision, kind, value, key] => {
                let clash = self.objects.insert(revision.parse().unwrap(), format!("{kind} {value} {key}"));
                assert_eq!(clash, None, "revision {revision} was acknowledged twice");
            }
            ["message", session, number] => {
                let number = number.parse().unwrap();
                let before = self.messages.insert(session.to_owned(), number).unwrap_or(0);
                assert!(number > before, "message {number} was acknowledged after {before}");
            }
            ["row", session, run] => drop(self.rows.insert(session.to_owned(), run.parse().unwrap())),
            ["floor", floor] => self.floor = self.floor.max(floor.parse().unwrap()),
            ["raise", value] => {
                let value = value.parse().unwrap();
                assert!(value > self.boots, "the counter gave {value} after {}", self.boots);
                self.boots = value;
            }
            _ => panic!("unknown line {line:?}"),
        }
    }

    pub(crate) async fn check(&self, dir: &Path) {
        let store = open(dir);
        let history = whole_history(&store).await;
        let newest = store.revision().0;
        let revisions: Vec<u64> = history.keys().copied().collect();
        assert_eq!(revisions, (store.floor().0 + 1..=newest).collect::<Vec<_>>(), "contiguous from the floor");
        assert!(store.floor().0 >= self.floor && newest >= self.objects.keys().last().copied().unwrap_or(0));
        for (revision, want) in self.objects.range(store.floor().0 + 1..) {
            assert_eq!(&history[revision].0, want, "revision {revision}");
        }
        let mut current = BTreeMap::new();
        for (revision, (_, change_kind, key, object)) in &history {
            current.insert(key.clone(), (*change_kind != ChangeKind::Deleted).then(|| (*revision, object.clone())));
        }
        for (key, want) in current {
            let got = store.get(&key).await.unwrap().map(|object| (object.revision.0, object.body.to_vec()));
            assert_eq!(got, want, "{key}");
        }
        self.check_sessions(&store).await;
        store.close().await;
    }

    async fn check_sessions(&self, store: &SqliteStore) {
        for (session, last) in &self.messages {
            let page = store.messages(session, 0, usize::MAX).await.unwrap();
            assert!(page.last >= *last && page.messages.len() as u64 == page.last, "{session}: {}", page.last);
            for (at, message) in page.messages.iter().enumerate() {
                assert_eq!(message.body, format!("{{\"number\":{0},\"text\":\"{0}\"}}", at + 1));
            }
            assert_eq!(*store.message_counter(session).await.unwrap().borrow(), page.last);
        }
        for (session, run) in &self.rows {
            let row = store.run_row(session).await.unwrap().unwrap();
            assert!(row.run == *run || row.run == run + 1, "{session}: {} after {run}", row.run);
        }
    }
}

type Seen = (String, ChangeKind, mainstay_store::Key, Vec<u8>);

async fn whole_history(store: &SqliteStore) -> BTreeMap<u64, Seen> {
    let scope = Scope::resource("mainstay.dev/sessions");
    let mut watch = store.watch(scope, store.floor()).await.unwrap();
    let mut history = BTreeMap::new();
    while watch.progress() < store.revision() {
        for change in watch.next().await.unwrap() {
            let (object, revision) = (&change.object, change.revision().0);
            let value = object.meta.uid.to_string();
            assert_eq!(object.body, body(&value, revision));
            let said = format!("{} {value} {}", change.kind.as_str(), object.key);
            let seen = (said, change.kind, object.key.clone(), object.body.to_vec());
            assert!(history.insert(revision, seen).is_none(), "revision {revision} twice");
        }
    }
    history
}

#[tokio::test]
async fn everything_acknowledged_survives_a_kill_at_any_commit() {
    let given = std::env::var("MAINSTAY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| Clock::system().now().as_microsecond().unsigned_abs());
    eprintln!("seed {seed} (MAINSTAY_SEED={seed} repeats it)");
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    let named = ["store.before-commit", "store.after-commit", "store.after-publish"];
    for round in 0..12 {
        let draw = (seed ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let plan = match named.get(usize::try_from(round).unwrap()) {
            Some(point) => format!("kill:{point}@{}", 1 + draw % 40),
            None => format!("kill@{}", 1 + draw % 300),
        };
        let child = child::command("crash::victim", dir.path()).env(fault::ENV, &plan).spawn().unwrap();
        let (lines, errors, status) = child::finish(child);
        assert_eq!(status.signal(), Some(9), "seed {seed}, round {round}, {plan}: {status}\n{errors}");
        for line in &lines {
            ledger.note(line);
        }
        ledger.check(dir.path()).await;
    }
    assert!(ledger.objects.len() > 100, "only {} writes", ledger.objects.len());
}

/// What an operation's object says once it has ended.
fn ended(one: &Claimed) -> Draft {
    Draft { meta: Arc::clone(&one.object.meta), ..draft("ended") }
}

/// In the child: creates operations, and carries out whatever can be claimed, until it is killed.
#[tokio::test]
async fn carrier() {
    let Some(dir) = child::dir() else { return };
    fault::arm_from_env().unwrap();
    let store = open(&dir);
    for turn in store.revision().0.. {
        operations::enqueue(&store, &format!("o{turn}"), operations::queued()).await;
        let claims = operations::claim(&store, 2, 0).await;
        let ends = claims.claimed.iter().map(|one| {
            let write = Write::Update { key: one.object.key.clone(), draft: ended(one), expected: one.object.revision };
            let end = Settlement::End { state: State::Succeeded, note: None, write: Box::new(write) };
            store.settle(&one.attempt, end)
        });
        for (one, ended) in claims.claimed.iter().zip(futures::future::join_all(ends).await) {
            ended.unwrap();
            println!("ack {}", one.object.key.name);
        }
    }
}

/// The end of an operation is in its row and in its object, or in neither.
#[tokio::test]
async fn an_operation_ends_whole_whenever_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut ended = std::collections::BTreeSet::new();
    for (round, point) in ["store.before-commit", "store.after-commit"].into_iter().cycle().take(8).enumerate() {
        let plan = format!("kill:{point}@{}", 5 + 2 * round);
        let child = child::command("crash::carrier", dir.path()).env(fault::ENV, &plan).spawn().unwrap();
        let (lines, errors, status) = child::finish(child);
        assert_eq!(status.signal(), Some(9), "{plan}: {status}\n{errors}");
        ended.extend(lines);
        let store = open(dir.path());
        let scope = Scope::resource(OPERATIONS);
        let query = ListQuery { scope, limit: None, at: None, after: None };
        for object in store.list(query).await.unwrap().items {
            let name = &object.key.name;
            let [Some(standing)] = &store.operations(vec![name.clone()]).await.unwrap()[..] else {
                panic!("{plan}: {name} has no row")
            };
            let said = *object.body == *body("ended", object.revision.0).as_bytes();
            assert_eq!(standing.row.state == State::Succeeded, said, "{plan}: {name} is {standing:?}");
            assert!(said || !ended.contains(&**name), "{plan}: the end of {name} was acknowledged");
        }
        store.close().await;
    }
    assert!(ended.len() > 8, "{ended:?}");
}

/// In the child: one commit is made to fail.
#[tokio::test]
async fn survivor() {
    let Some(dir) = child::dir() else { return };
    fault::arm_from_env().unwrap();
    let store = open(&dir);
    for turn in 1..=10_u64 {
        let key = key("a", &turn.to_string());
        let outcome = store.write(Write::Create { key: key.clone(), draft: draft("x"), requires: None }).await;
        if turn == 5 {
            assert!(matches!(outcome, Err(StoreError::Database(_))), "{outcome:?}");
            assert_eq!(store.get(&key).await.unwrap(), None);
        } else {
            assert_eq!(outcome.unwrap().revision.0, if turn < 5 { turn } else { turn - 1 });
        }
    }
    println!("ack done");
}

#[test]
fn a_commit_that_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let plan = "fail:store.before-commit@5";
    let child = child::command("crash::survivor", dir.path()).env(fault::ENV, plan).spawn().unwrap();
    let (lines, errors, status) = child::finish(child);
    assert!(status.success() && lines == ["done"], "{errors}");
}
