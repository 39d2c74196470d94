use super::super::doubled;
use super::*;

fn order(step: &str, token: u64, verb: &'static str, name: &str) -> Order {
    let verb = verb::find("compute", verb).unwrap();
    Order { operation: "o".into(), step: step.into(), token, verb, name: name.into(), spec: Value::Null }
}

struct Judge {
    dir: tempfile::TempDir,
    ledger: Ledger,
}

impl Judge {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { ledger: Ledger::open(dir.path()).unwrap(), dir }
    }

    fn ask(&mut self, step: &str, token: u64, verb: &'static str) -> Result<Effect, Refusal> {
        self.ledger.carry_out(&order(step, token, verb, "i")).unwrap()
    }

    /// As after a crash.
    fn reopen(&mut self) {
        let guards = self.ledger.guards;
        self.ledger = Ledger::open(self.dir.path()).unwrap();
        self.ledger.guards = guards;
    }
}

#[test]
fn a_repetition_gets_the_first_result_also_after_a_restart() {
    let mut judge = Judge::new();
    let first = judge.ask("launch", 1, "launch").unwrap();
    assert_eq!(judge.ask("launch", 1, "launch").unwrap(), first);
    judge.reopen();
    assert_eq!(judge.ask("launch", 2, "launch").unwrap(), first);
    assert_eq!((judge.ledger.effects.len(), judge.ledger.resources().count()), (1, 1));
}

#[test]
fn an_older_token_is_refused_whatever_it_asks_for() {
    let mut judge = Judge::new();
    judge.ask("launch", 2, "launch").unwrap();
    assert_eq!(judge.ask("launch", 1, "launch").unwrap_err(), Refusal::OldToken { newest: 2 });
    assert_eq!(judge.ask("stop", 1, "stop").unwrap_err(), Refusal::OldToken { newest: 2 });
    judge.ask("launch", 3, "launch").unwrap();
    judge.reopen();
    assert_eq!(judge.ask("stop", 2, "stop").unwrap_err(), Refusal::OldToken { newest: 3 }, "a repetition counts, too");
}

#[test]
fn what_was_undone_is_not_done_by_a_straggler_but_anew_by_a_newer_attempt() {
    let mut judge = Judge::new();
    assert!(!judge.ask("undo/launch", 1, "delete").unwrap().changed, "it had not arrived");
    judge.reopen();
    assert_eq!(judge.ask("launch", 1, "launch").unwrap_err(), Refusal::Undone { token: 1 });
    assert_eq!(judge.ask("launch", 2, "launch").unwrap().round, 2);
    let undone = judge.ask("undo/launch", 2, "delete").unwrap();
    assert_eq!((undone.round, undone.changed), (2, true));
    assert_eq!(judge.ask("undo/launch", 2, "delete").unwrap(), undone);
    assert_eq!((judge.ledger.effects.len(), judge.ledger.resources().count()), (3, 0));
    assert_eq!(doubled(&judge.ledger.effects), []);
}

#[test]
fn names_are_unique_and_what_is_not_there_cannot_change() {
    let mut judge = Judge::new();
    assert_eq!(judge.ask("stop", 1, "stop").unwrap_err(), Refusal::NotFound);
    judge.ask("launch", 1, "launch").unwrap();
    assert_eq!(judge.ask("again", 1, "launch").unwrap_err(), Refusal::AlreadyExists);
    assert_eq!(judge.ask("stop", 1, "stop").unwrap().resource.unwrap().state, "stop");
    judge.ask("task", 1, "run-task").unwrap();
    assert_eq!(judge.ledger.resources().count(), 1);
}

#[test]
fn what_takes_a_step_back_takes_nothing_of_others() {
    let mut judge = Judge::new();
    judge.ask("launch", 1, "launch").unwrap();
    assert!(!judge.ask("undo/another", 1, "delete").unwrap().changed);
    judge.reopen();
    assert_eq!(judge.ledger.resources().count(), 1);
    assert!(judge.ask("undo/launch", 1, "delete").unwrap().changed);
    assert_eq!(judge.ledger.resources().count(), 0);
}

/// Each guard, when it is off, lets through what it is there for.
#[test]
fn without_a_guard_its_harm_is_seen() {
    let mut judge = Judge::new();
    judge.ledger.guards = Guards { fence: false, duplicate: false, undone: false };
    judge.ask("launch", 2, "launch").unwrap();
    judge.ask("launch", 1, "launch").unwrap();
    assert_eq!(doubled(&judge.ledger.effects), [("o", "launch")]);
    assert_eq!(judge.ledger.resources().count(), 2, "and there is one too many");
    judge.ask("undo/launch", 2, "delete").unwrap();
    assert_eq!(judge.ledger.resources().count(), 0);
    judge.ask("launch", 2, "launch").unwrap();
    assert_eq!(judge.ledger.resources().count(), 1, "a straggler left an orphan");
}

#[test]
fn a_line_that_was_cut_off_was_never_answered() {
    let mut judge = Judge::new();
    judge.ask("launch", 1, "launch").unwrap();
    judge.ledger.log.write_all(br#"{"effect":{"seq":2,"#).unwrap();
    judge.reopen();
    judge.ask("stop", 1, "stop").unwrap();
    judge.reopen();
    assert_eq!(judge.ledger.effects.len(), 2);
}
