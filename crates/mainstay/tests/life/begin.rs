//! A server that is started while its database is away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::thread;
use std::time::Duration;

use mainstay_testkit::postgres::Stop;
use tokio::time::Instant;

use crate::{PATIENCE, Stage, ask, probe, token, until};

const NAMESPACES: &str = "/api/v1/namespaces";
/// Who waits for nothing that is under way ends at once; a second of that is for threads that are blocked.
const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn a_server_that_waits_for_postgresql_answers_probes_and_sends_nobody_to_a_closed_door() {
    let mut stage = Stage::new(&["--role", "api"]);
    let token = token(&stage.server);
    stage.server.stop().unwrap();
    stage.cluster.stop(Stop::Fast).unwrap();

    let ready = stage.server.spawn().unwrap();
    let server = &stage.server;
    until(|| probe(server, "/livez").code == 200, server);
    until(|| probe(server, "/readyz").body.contains("cannot be reached"), server);
    let readyz = probe(server, "/readyz");
    assert!(readyz.code == 503 && readyz.body.contains("[-]store failed: waiting for the database: "), "{readyz:?}");
    assert!(!readyz.body.contains(&stage.password), "{readyz:?}");
    // One that is read, and two that send more than anybody here wants to read.
    let large = stage.keys.path().join("large");
    std::fs::write(&large, vec![b' '; 2 << 20]).unwrap();
    let body = format!("@{}", large.display());
    let refused: [&[&str]; 3] = [&[], &["--data-binary", &body, "-H", "Expect:"], &["--data-binary", &body]];
    for more in refused {
        let refused = ask(server, &token, NAMESPACES, more);
        let status = refused.json();
        assert!(refused.code == 503 && refused.head.contains("retry-after: 1\r\n"), "{more:?}: {refused:?}");
        assert_eq!((&status["kind"], &status["reason"]), (&"Status".into(), &"ServiceUnavailable".into()), "{more:?}");
        assert!(!refused.body.contains(&stage.password), "{refused:?}");
    }
    assert_eq!(ready.try_recv(), Err(TryRecvError::Empty), "{}", server.log_text());

    let (serves, cluster) = (AtomicBool::new(false), &mut stage.cluster);
    let codes = thread::scope(|scope| {
        let asked = [NAMESPACES, "/readyz"].map(|path| {
            let (token, serves) = (&token, &serves);
            scope.spawn(move || {
                let mut codes = Vec::new();
                // The last one is asked when it is known to serve.
                loop {
                    let last = serves.load(Ordering::Relaxed);
                    codes.push(ask(server, token, path, &[]).code);
                    if last {
                        return codes;
                    }
                }
            })
        });
        until(|| probe(server, "/livez").code == 200, server);
        cluster.restart().unwrap();
        let is_ready = ready.recv_timeout(PATIENCE);
        serves.store(true, Ordering::Relaxed);
        is_ready.unwrap_or_else(|_| panic!("{}", server.log_text()));
        asked.map(|asked| asked.join().unwrap())
    });
    for codes in codes {
        assert!(codes.iter().all(|code| matches!(code, 200 | 503)), "{codes:?}");
        assert_eq!((codes.first(), codes.last()), (Some(&503), Some(&200)), "{codes:?}");
    }
    // Whoever verifies it finds it to be itself.
    let shown = server.command(&["get", "namespaces"]).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    stage.server.stop().unwrap();
}

#[test]
fn a_server_that_waits_for_postgresql_ends_at_once_and_well() {
    let mut stage = Stage::new(&["--role", "api"]);
    stage.server.stop().unwrap();
    // Nobody is to be sent elsewhere: there is nothing to drain.
    stage.server.set_arguments(&["--role", "api", "--drain-delay", "600"]);
    for frozen in [false, true] {
        if frozen {
            stage.cluster.restart().unwrap();
            stage.cluster.pause().unwrap();
        } else {
            stage.cluster.stop(Stop::Fast).unwrap();
        }
        let ready = stage.server.spawn().unwrap();
        until(|| probe(&stage.server, "/livez").code == 200, &stage.server);
        assert_eq!(probe(&stage.server, "/readyz").code, 503);
        let told = Instant::now();
        stage.server.stop().unwrap();
        let took = told.elapsed();
        println!("it ended after {} ms", took.as_millis());
        assert!(took < AT_ONCE, "frozen: {frozen}, it took {took:?}:\n{}", stage.server.log_text());
        assert_eq!(ready.recv(), Err(std::sync::mpsc::RecvError), "it was never ready");
    }
    stage.cluster.resume().unwrap();
}
