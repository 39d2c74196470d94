//! Redis as tests have it: who gets in, and what survives which end of it.

use std::process::{Command, Stdio};

use mainstay_testkit::command::{Done, finish};
use mainstay_testkit::redis::{Keeps, Redis};

/// What redis-cli gets under a URL.
fn ask(url: &str, command: &[&str]) -> Done {
    let mut client = Command::new("redis-cli");
    client.args(["-e", "--no-auth-warning", "-u", url]).args(command);
    finish(client, "")
}

#[test]
fn who_has_the_password_gets_in() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    assert_eq!(ask(&redis.url(), &["SET", "k", "v"]).ok(), "OK\n");
    assert_eq!(redis.ask(&["GET", "k"]).unwrap(), "v");
    let open = format!("redis://{}", redis.address());
    assert!(ask(&open, &["GET", "k"]).failed(1).contains("NOAUTH"));
    assert!(redis.ask(&["NOSUCHCOMMAND"]).is_err());
    redis.flush().unwrap();
    assert_eq!(redis.ask(&["EXISTS", "k"]).unwrap(), "0");
}

#[test]
fn what_is_to_be_kept_is_kept_over_each_end_and_nothing_else() {
    for (keeps, found) in [(Keeps::Everything, "v"), (Keeps::Nothing, "")] {
        let mut redis = Redis::start(keeps).unwrap();
        for end in [Redis::kill9, Redis::stop] {
            redis.ask(&["SET", "k", "v"]).unwrap();
            end(&mut redis).unwrap();
            assert!(ask(&redis.url(), &["GET", "k"]).failed(1).contains("Connection refused"));
            redis.restart().unwrap();
            assert_eq!(redis.ask(&["GET", "k"]).unwrap(), found, "{keeps:?}");
        }
    }
}

#[test]
fn a_paused_server_keeps_who_asks_waiting_until_it_goes_on() {
    let mut redis = Redis::start(Keeps::Nothing).unwrap();
    redis.pause().unwrap();
    let client = |seconds, words| {
        let mut client = Command::new("timeout");
        client.args([seconds, "redis-cli", "--no-auth-warning", "-u", &redis.url(), "ECHO", words]);
        client
    };
    // 124: its time was over.
    finish(client("0.5", "never"), "").failed(124);
    let waiting = client("30", "at last").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    redis.resume().unwrap();
    assert_eq!(Done::from(waiting.wait_with_output().unwrap()).ok(), "at last\n");
}

#[test]
fn a_replica_takes_over_with_what_it_was_given() {
    let mut primary = Redis::start(Keeps::Nothing).unwrap();
    primary.ask(&["SET", "k", "v"]).unwrap();
    let replica = primary.replica().unwrap();
    assert!(ask(&replica.url(), &["SET", "k", "w"]).failed(1).contains("READONLY"));
    primary.kill9().unwrap();
    replica.promote().unwrap();
    assert_eq!(replica.ask(&["GET", "k"]).unwrap(), "v");
    replica.ask(&["SET", "k", "w"]).unwrap();
}
