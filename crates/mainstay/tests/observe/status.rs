//! `mainstay status` of a server with something to tell.

use mainstay_testkit::server::Server;
use serde_json::Value;

use crate::{EXE, apply, operation, run};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn status_tells_of_dead_letters_queues_leases_and_duties() {
    let server = Server::start(EXE).unwrap();
    let later = "apiVersion: mainstay.dev/v1alpha1\nkind: Operation\nmetadata: {name: later}\n\
                 spec: {handler: noop, runAt: '2999-01-01T00:00:00Z'}\n---\n";
    apply(&server, &(operation("nobodys", "nobody") + later));
    // Each look is a command of its own: some milliseconds.
    let look = || json(&run(&server, "status -o json"));
    let told = (0..3_000).map(|_| look()).find(|told| told["queue"]["all"]["dead"] == 1).expect("it dies");
    assert_eq!((&told["ready"], &told["queue"]["all"]["delayed"]), (&true.into(), &1.into()));
    let letter = &told["deadLetters"][0];
    assert_eq!((&letter["name"], &letter["reason"]), (&"nobodys".into(), &"UnknownHandler".into()));
    assert!(letter["at"].is_string() && letter["owner"].is_null(), "{letter}");
    let text = run(&server, "status");
    for wanted in [
        "Ready     yes",
        "default/nobodys",
        "UnknownHandler",
        "mainstay replay operation nobodys -n default",
        "DUTY",
        "LEASE",
        "default   0       1         0         0         1",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("BREAKER") && !text.contains('\u{1b}'), "{text}");
    // What it says to do helps.
    run(&server, "replay operation nobodys -n default");
    assert!((0..3_000).any(|_| json(&run(&server, "get op nobodys -o json"))["status"]["attempts"] == 2));
}
