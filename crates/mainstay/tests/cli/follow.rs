use std::io::{BufRead as _, BufReader};
use std::process::Child;

use super::*;

fn spawn(server: &Server, line: &str) -> Child {
    let mut command = server.command(&line.split_whitespace().collect::<Vec<_>>());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn rest(child: Child) -> Done {
    child.wait_with_output().unwrap().into()
}

#[test]
fn followers_see_everything_once_over_the_servers_death() {
    let mut server = server();
    let script = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; sleep 0.1; done";
    apply(&server, &session("s", script)).ok();
    let mut messages = spawn(&server, "messages s -f -o json");
    let mut first = BufReader::new(messages.stdout.take().unwrap());
    let mut line = String::new();
    first.read_line(&mut line).unwrap();
    assert_eq!(json(&line)["number"], 1);
    let mut logs = spawn(&server, "logs s -f");
    let mut log = BufReader::new(logs.stdout.take().unwrap());
    // It follows: a server that was never there is another matter.
    log.read_line(&mut String::new()).unwrap();
    server.kill9().unwrap();
    server.restart().unwrap();
    let others: Vec<String> = first.lines().map_while(Result::ok).collect();
    let numbers: Vec<u64> =
        std::iter::once(&line).chain(&others).map(|line| json(line)["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let texts: Vec<Value> = std::iter::once(&line).chain(&others).map(|line| json(line)["text"].clone()).collect();
    let expected: Vec<String> = (1..=40).map(|n| format!("line {n}")).collect();
    let said: Vec<&str> = texts.iter().filter_map(Value::as_str).filter(|text| text.starts_with("line ")).collect();
    assert_eq!(said, expected);
    assert_eq!(rest(messages).code, Some(0));
    let logged: Vec<String> = log.lines().map_while(Result::ok).filter(|line| line.starts_with("line ")).collect();
    assert_eq!(logged, expected[1..]);
    assert_eq!(rest(logs).code, Some(0));
    run(&server, "delete session s --timeout 60s").ok();
}

#[test]
fn a_table_goes_on_below_its_headings() {
    let server = server();
    apply(&server, &session("s", "sleep 0.2; echo hi")).ok();
    let mut watch = spawn(&server, "get session s -w");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    let head = lines.next().unwrap();
    let columns: Vec<&str> = head.split_whitespace().collect();
    let last = lines.find(|line| line.contains("Completed")).unwrap();
    assert_eq!(columns, ["NAME", "PHASE", "AGENT", "MESSAGES", "AGE"]);
    assert_eq!(last.split_whitespace().count(), columns.len(), "{head}\n{last}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    run(&server, "delete session s --timeout 60s").ok();
}

#[test]
fn a_watch_shows_each_change_once_over_the_servers_death() {
    let mut server = server();
    apply(&server, &config("a", "{x: '1'}")).ok();
    let mut watch = spawn(&server, "watch configmaps -o json");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut next = || {
        let event = json(&lines.next().unwrap());
        (event["type"].as_str().unwrap().to_owned(), event["object"]["metadata"]["name"].as_str().unwrap().to_owned())
    };
    let pair = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    assert_eq!(next(), pair("ADDED", "a"));
    apply(&server, &config("b", "{}")).ok();
    assert_eq!(next(), pair("ADDED", "b"));
    server.kill9().unwrap();
    server.restart().unwrap();
    apply(&server, &config("a", "{x: '2'}")).ok();
    assert_eq!(next(), pair("MODIFIED", "a"));
    run(&server, "delete cm b").ok();
    assert_eq!(next(), pair("DELETED", "b"));
    watch.kill().unwrap();
    watch.wait().unwrap();
}
