use super::*;

#[test]
fn a_session_is_started_talked_to_resumed_and_deleted() {
    let server = server();
    let agent = "apiVersion: mainstay.dev/v1alpha1\nkind: Agent\nmetadata: {name: echo}\n\
        spec: {command: [/bin/sh, -c, 'while read line; do echo \"got $line in $PLACE\"; test \"$line\" = end && exit 0; done']}\n";
    apply(&server, agent).ok();
    let mut start = server.command(&["start", "echo", "--name", "s", "--prompt", "-", "--env", "PLACE", "-o", "json"]);
    start.env("PLACE", "here");
    let started = json(&finish(start, "first\n").ok());
    assert_eq!((&started["spec"]["agent"], &started["spec"]["prompt"]), (&"echo".into(), &"first".into()));
    assert_eq!(started["spec"]["env"][0]["value"], "here");
    assert!(run(&server, "start echo --name s").failed(4).contains("already exists"));
    assert_eq!(run(&server, "start ecko --name t").failed(3), "error: no agent ecko in namespace default\n");

    let sent = run(&server, "send s end --id one -o json").ok();
    let number = json(&sent)["messages"][0]["number"].clone();
    assert_eq!(run(&server, "send s end --id one").ok(), format!("#{number} was sent before\n"));
    let followed = run(&server, "messages s -f -o json").ok();
    let texts: Vec<Value> = followed.lines().map(|line| json(line)["text"].clone()).collect();
    for text in ["first", "end", "got first in here", "got end in here"] {
        assert_eq!(texts.iter().filter(|one| **one == text).count(), 1, "{text}: {followed}");
    }
    let people = run(&server, "messages s").ok();
    assert!(people.contains(" user   first\n") && people.contains(" agent  got first in here\n"), "{people}");
    assert!(run(&server, "messages s --after 1").ok().lines().count() < people.lines().count());
    assert!(run(&server, "logs s").ok().contains("got end in here"));

    assert!(run(&server, "resume s").ok().contains("session.mainstay.dev/s resumed (run 2)"));
    assert!(run(&server, "resume s").failed(4).contains("only one that has ended can be resumed"));
    run(&server, "stop s --wait --timeout 60s").ok();
    assert_eq!(json(&run(&server, "get session s -o json").ok())["status"]["phase"], "Stopped");
    assert_eq!(run(&server, "stop s").ok(), "session.mainstay.dev/s stopped\n");
    assert_eq!(run(&server, "delete session s --timeout 60s").ok(), "session.mainstay.dev/s deleted\n");
    run(&server, "messages s").failed(3);
}

#[test]
fn following_a_session_ends_as_the_session_does() {
    let server = server();
    let start =
        |script: &str| finish(server.command(&["start", "--name", "x", "--follow", "--", "/bin/sh", "-c", script]), "");
    let done = start("echo well; exit 0");
    assert!(done.err.contains("session x is Completed"), "{done:?}");
    assert!(done.ok().contains("agent  well"));
    run(&server, "delete session x").ok();
    let done = start("echo badly; exit 3");
    assert!(done.failed(1).contains("session x is Failed"));
    assert_eq!(run(&server, "start").failed(4).lines().count(), 1, "no agent, no command, no default");
    run(&server, "logs none").failed(3);
    run(&server, "stop none").failed(3);
    run(&server, "send x").failed(2);
}

#[test]
fn the_log_of_a_stopped_session_is_there_until_its_next_run() {
    let server = server();
    let script = "exec perl -e '$| = 1; $SIG{TERM} = sub { print qq(bye\\n); exit 0 }; print qq(up ), `cat /etc/hostname`; sleep 1 while 1'";
    apply(&server, &session("s", script)).ok();
    await_line(&server, "logs s -f", "up s-1");
    run(&server, "stop s --wait --timeout 60s").ok();
    assert_eq!(run(&server, "logs s").ok(), "up s-1\nbye\n");
    assert_eq!(run(&server, "logs s -f --tail 1").ok(), "bye\n", "a log that is whole is not waited for");
    run(&server, "resume s").ok();
    // Asked for at once, it is the new run's log and not the old one's.
    await_line(&server, "logs s -f", "up s-2");
    run(&server, "logs pod/s-1").failed(3);
    run(&server, "delete session s --timeout 60s").ok();
    assert_eq!(run(&server, "get pods -o name").ok(), "");
}

/// Follows until a line comes.
fn await_line(server: &Server, follower: &str, wanted: &str) {
    use std::io::{BufRead as _, BufReader};
    let mut child = server.command(&follower.split(' ').collect::<Vec<_>>());
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == wanted), "{follower} ended without {wanted:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn bytes_that_are_no_text_come_through_the_whole_of_it() {
    let server = server();
    apply(&server, &session("s", "printf 'a\\377b\\000c\\n\\033[31mred\\n'; head -c 300000 /dev/zero")).ok();
    let said = run(&server, "messages s -f --types agent -o json").ok();
    let texts: Vec<Value> = said.lines().map(|line| json(line)["text"].clone()).collect();
    assert_eq!(texts[..2], ["a\u{fffd}b\0c", "\u{1b}[31mred"]);
    assert_eq!(texts[2..].iter().map(|text| text.as_str().unwrap().len()).sum::<usize>(), 300_000, "none is refused");
    let people = run(&server, "messages s --types agent").ok();
    assert!(!people.contains(['\0', '\u{1b}']), "what an agent says does not drive the terminal: {people:?}");
    let logged = server.command(&["logs", "s"]).output().unwrap().stdout;
    assert!(logged.starts_with(b"a\xffb\0c\n\x1b[31mred\n\0\0"));
}

#[test]
fn shim_and_supervisor_of_the_real_program_stay_within_4_mb() {
    let server = server();
    apply(&server, &session("s", "while read -r line; do echo got $line; done")).ok();
    run(&server, "send s hello").ok();
    await_line(&server, "logs s -f", "got hello");
    let run_dir = std::fs::read_dir(server.data_dir().join("node/run")).unwrap().next().unwrap().unwrap().path();
    let state = json(&std::fs::read_to_string(run_dir.join("state.json")).unwrap());
    let dirty = ["shimPid", "initPid"].map(|name| {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", state[name])).unwrap();
        let line = text.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    });
    assert!(dirty.iter().sum::<u64>() <= 4096, "{dirty:?} kB");
    run(&server, "delete session s --timeout 60s").ok();
}
