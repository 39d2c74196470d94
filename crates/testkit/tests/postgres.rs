//! PostgreSQL as tests have it: who gets in, what survives which end of it, and that nothing of it is left over.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mainstay_testkit::command::{Done, finish};
use mainstay_testkit::postgres::{Cluster, Replication, Settings, Stop, shared};
use mainstay_testkit::server::processes_naming;

/// What psql gets under a URL.
fn ask(cluster: &Cluster, url: &str, statements: &str) -> Done {
    let mut psql = cluster.client("psql");
    psql.args(["--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "--file=-", url]);
    finish(psql, statements)
}

/// A client that waits for an answer.
fn begin(cluster: &Cluster, url: &str, statement: &str) -> Child {
    let mut psql = cluster.client("psql");
    psql.args(["--no-psqlrc", "-qAt", "--command", statement, url]);
    psql.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn processes_in(dir: &Path) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))).count()
}

#[test]
fn each_database_is_its_owners_who_has_the_password() {
    let cluster = shared().unwrap();
    let (one, other) = (cluster.database().unwrap(), cluster.database().unwrap());
    ask(cluster, &one.url, "CREATE TABLE t (n int); INSERT INTO t VALUES (7);").ok();
    assert_eq!(ask(cluster, &one.url, "SELECT n FROM t").ok(), "7\n");
    assert!(ask(cluster, &other.url, "SELECT n FROM t").failed(3).contains("does not exist"));
    assert!(ask(cluster, &one.url, "CREATE ROLE another").failed(3).contains("permission denied"));

    let guessed = one.url.replace("@127", "x@127");
    assert!(ask(cluster, &guessed, "SELECT 1").failed(2).contains("password authentication failed"));
    assert_eq!(cluster.sql(&one.name, "SELECT n, 'b' FROM t").unwrap(), "7|b");
    assert!(cluster.sql(&one.name, "SELECT wrong").is_err());
}

#[test]
fn names_are_not_sorted_by_bytes() {
    let cluster = shared().unwrap();
    let database = cluster.database().unwrap();
    let sorted = cluster.sql(&database.name, "SELECT 'a' < 'B', 'a' < 'B' COLLATE \"C\"").unwrap();
    assert_eq!(sorted, "t|f");
}

#[test]
fn commits_survive_each_end_of_the_server() {
    let mut cluster = Cluster::start(Settings::default()).unwrap();
    let database = cluster.database().unwrap();
    assert_eq!(cluster.sql(&database.name, "SHOW fsync").unwrap(), "on");
    ask(&cluster, &database.url, "CREATE TABLE t (n int)").ok();
    let ends: [fn(&mut Cluster) -> anyhow::Result<()>; 4] = [
        Cluster::kill9,
        |cluster| cluster.stop(Stop::Smart),
        |cluster| cluster.stop(Stop::Fast),
        |cluster| cluster.stop(Stop::Immediate),
    ];
    for (n, end) in ends.into_iter().enumerate() {
        ask(&cluster, &database.url, &format!("INSERT INTO t VALUES ({n})")).ok();
        end(&mut cluster).unwrap();
        assert!(!cluster.is_running());
        assert_eq!(processes_in(&cluster.data()), 0);
        assert!(ask(&cluster, &database.url, "SELECT 1").failed(2).contains("Connection refused"));
        cluster.restart().unwrap();
    }
    assert_eq!(ask(&cluster, &database.url, "SELECT count(*), max(n) FROM t").ok(), "4|3\n");
}

#[test]
fn a_killed_server_takes_its_sessions_along() {
    let mut cluster = Cluster::start(Settings { fsync: false, ..Settings::default() }).unwrap();
    let database = cluster.database().unwrap();
    let mut sleeper = begin(&cluster, &database.url, "SELECT pg_sleep(600)");
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while cluster.sql(&database.name, sleeps).unwrap() != "1" {}
    cluster.kill9().unwrap();
    assert!(!sleeper.wait().unwrap().success());
}

#[test]
fn a_paused_server_keeps_who_asks_waiting_until_it_goes_on() {
    let mut cluster = Cluster::start(Settings { fsync: false, ..Settings::default() }).unwrap();
    let database = cluster.database().unwrap();
    cluster.pause().unwrap();
    let mut psql = cluster.client("psql");
    psql.args(["--no-psqlrc", "--command", "SELECT 1", &database.url]).env("PGCONNECT_TIMEOUT", "2");
    assert!(finish(psql, "").failed(2).contains("timeout expired"));
    let waiting = begin(&cluster, &database.url, "SELECT 'at last'");
    cluster.resume().unwrap();
    assert_eq!(Done::from(waiting.wait_with_output().unwrap()).ok(), "at last\n");
}

#[test]
fn a_standby_that_commits_wait_for_has_them_when_it_takes_over() {
    let mut primary = Cluster::start(Settings::default()).unwrap();
    let database = primary.database().unwrap();
    ask(&primary, &database.url, "CREATE TABLE t (n int)").ok();
    let mut standby = primary.standby(Replication::Sync).unwrap();
    ask(&primary, &database.url, "INSERT INTO t SELECT generate_series(1, 1000)").ok();
    let followed = standby.known(&database.name);
    assert!(ask(&standby, &followed.url, "INSERT INTO t VALUES (0)").failed(3).contains("read-only transaction"));

    standby.pause().unwrap();
    let held = begin(&primary, &database.url, "INSERT INTO t VALUES (1001) RETURNING n");
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while primary.sql(&database.name, waits).unwrap() != "1" {}
    standby.resume().unwrap();
    assert_eq!(Done::from(held.wait_with_output().unwrap()).ok(), "1001\n");

    let system = "SELECT system_identifier FROM pg_control_system()";
    let identity = primary.sql(&database.name, system).unwrap();
    primary.kill9().unwrap();
    standby.promote().unwrap();
    ask(&standby, &followed.url, "INSERT INTO t VALUES (0)").ok();
    assert_eq!(ask(&standby, &followed.url, "SELECT count(*) FROM t").ok(), "1002\n");
    assert_eq!(ask(&standby, &followed.url, system).ok().trim(), identity);
    let timeline = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
    assert_eq!(standby.sql(&database.name, timeline).unwrap(), "00000002");
    assert!(standby.promote().is_err());
}

#[test]
fn a_standby_that_nobody_waits_for_may_lack_commits() {
    let mut primary = Cluster::start(Settings { fsync: false, ..Settings::default() }).unwrap();
    let database = primary.database().unwrap();
    let mut standby = primary.standby(Replication::Async).unwrap();
    standby.stop(Stop::Fast).unwrap();
    ask(&primary, &database.url, "CREATE TABLE t (n int)").ok();
    primary.kill9().unwrap();
    standby.restart().unwrap();
    standby.promote().unwrap();
    let url = standby.known(&database.name).url;
    assert!(ask(&standby, &url, "SELECT n FROM t").failed(3).contains("does not exist"));
}

#[test]
fn with_tls_nobody_gets_in_without() {
    let cluster = Cluster::start(Settings { fsync: false, tls: true }).unwrap();
    let database = cluster.database().unwrap();
    let plain = format!("{}?sslmode=disable", database.url);
    assert!(ask(&cluster, &plain, "SELECT 1").failed(2).contains("no encryption"));
    let authority = cluster.authority().unwrap();
    let verified = format!("{}?sslmode=verify-full&sslrootcert={}", database.url, authority.display());
    let used = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(ask(&cluster, &verified, used).ok(), "t\n");
    let mistrusted = format!("{}?sslmode=verify-full&sslrootcert=/nowhere", database.url);
    assert!(ask(&cluster, &mistrusted, used).failed(2).contains("root certificate file"));
}

/// Says to this program, started once more, that it is the one to be killed.
const VICTIM: &str = "MAINSTAY_TEST_VICTIM";

#[test]
fn nothing_is_left_of_a_cluster_whose_test_is_killed_or_done() {
    if std::env::var_os(VICTIM).is_some() {
        let mut cluster = Cluster::start(Settings { fsync: false, ..Settings::default() }).unwrap();
        // Those that are stopped do not notice by themselves that they are alone.
        cluster.pause().unwrap();
        println!("\ndirectory {}", cluster.data().display());
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    for killed in [true, false] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_is_left_of_a_cluster_whose_test_is_killed_or_done", "--nocapture"])
            .env(VICTIM, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut named = lines.filter_map(|line| Some(PathBuf::from(line.strip_prefix("directory ")?)));
        let data = named.next().unwrap();
        assert_ne!(processes_in(&data), 0);
        let dir = data.parent().unwrap();
        let guards = processes_naming(&dir.display().to_string());
        assert!(!guards.is_empty());
        if killed {
            victim.kill().unwrap();
        } else {
            drop(victim.stdin.take());
            assert_eq!(named.next(), None);
        }
        victim.wait().unwrap();
        for guard in guards {
            while Path::new(&format!("/proc/{guard}")).exists() {}
        }
        assert_eq!(processes_in(dir), 0);
        assert!(!dir.exists());
    }
}
