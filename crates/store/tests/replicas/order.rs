//! Two replicas at work side by side: one order of what they write, one leader, and watches that go on at the other.

use std::time::Duration;

use mainstay_runtime::Tasks;
use mainstay_store::{Fence, PostgresStore, Revision, Scope, Store};
use mainstay_testkit::postgres::{Database, shared};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::support::{create, history, key, open, soon};

/// A little longer than who is not heard of keeps a lease.
const SILENCE: Duration = Duration::from_secs(13);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(50);

fn sql(database: &Database, statements: &str) -> String {
    shared().unwrap().sql(&database.name, statements).unwrap()
}

/// The batch with what is called `late` takes a second longer.
fn make_late(database: &Database) {
    sql(
        database,
        "SET ROLE mainstay; SET search_path = mainstay;
         CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
         CREATE TRIGGER late AFTER INSERT ON history FOR EACH ROW WHEN (NEW.name = 'late') EXECUTE FUNCTION late()",
    );
}

/// That batch is under way.
async fn until_late(database: &Database) {
    let under_way =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while sql(database, under_way) == "0" {
        sleep(GLANCE).await;
    }
}

/// A batch whose commit comes long after it was given its revision holds up those of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_late_is_before_what_came_after_it() {
    let database = shared().unwrap().database().unwrap();
    let (one, two) = (open(&database.url, "one"), open(&database.url, "two"));
    make_late(&database);
    // Both have entered by then, which waits for the log, too.
    one.write(create("one")).await.unwrap();
    two.write(create("two")).await.unwrap();
    let late = one.write(create("late"));
    soon(until_late(&database)).await;
    let early = two.write(create("early")).await.unwrap();
    let late = late.await.unwrap();
    assert_eq!((late.revision, early.revision), (Revision(3), Revision(4)));
    let told = [(1, "one"), (2, "two"), (3, "late"), (4, "early")].map(|(revision, name)| (revision, name.to_owned()));
    for store in [one, two] {
        store.reach(Revision(4)).await.unwrap();
        assert_eq!(history(&store, Revision(4)).await, told);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_another_replica_with_what_came_meanwhile() {
    let database = shared().unwrap().database().unwrap();
    let (one, two) = (open(&database.url, "one"), open(&database.url, "two"));
    let mut watch = one.watch(Scope::resource("/pods"), Revision(0)).await.unwrap();
    one.write(create("before")).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().len(), 1);
    let left_at = watch.progress();
    drop(watch);
    let last = one.write(create("meanwhile")).await.unwrap().revision;
    two.reach(last).await.unwrap();
    let mut watch = two.watch(Scope::resource("/pods"), left_at).await.unwrap();
    two.write(create("after")).await.unwrap();
    let mut seen = Vec::new();
    while !seen.contains(&"after".into()) {
        seen.extend(soon(watch.next()).await.unwrap().iter().map(|change| change.object.key.name.clone()));
    }
    assert_eq!(seen, ["meanwhile".into(), "after".into()], "neither missed nor doubled");
    one.close().await;
    two.close().await;
}

/// The first leads, and the second wants to.
async fn contended(one: &PostgresStore, two: &PostgresStore) -> (mainstay_runtime::lease::Held, Tasks) {
    let (held, tasks, leases) = (soon(one.leases().acquire("lead")).await.unwrap(), Tasks::new(), two.leases());
    drop(tasks.spawn("waits", async move { drop(leases.acquire("lead").await) }));
    (held, tasks)
}

/// Who wants a lease need not look to hear that its leader's session has ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_leaders_session_is_waited_for_in_the_database() {
    let database = shared().unwrap().database().unwrap();
    let (one, two) = (open(&database.url, "one"), open(&database.url, "two"));
    let held = soon(one.leases().acquire("lead")).await.unwrap();
    let leaders = sql(&database, "SELECT backend FROM mainstay.leases WHERE name = 'lead'");
    let waits = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 19796 AND NOT granted AND objid = {leaders}
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    assert_eq!(sql(&database, &waits), "0", "nobody wants it");
    let (leases, ended) = (two.leases(), std::cell::Cell::new(Instant::now()));
    let (next, ()) = tokio::join!(soon(leases.acquire("lead")), async {
        soon(async {
            while sql(&database, &waits) == "0" {
                sleep(GLANCE).await;
            }
        })
        .await;
        // It waits for long, and with no snapshot that is old: no row could be forgotten meanwhile.
        let waiter = |what: &str| {
            let of = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'mainstay two awaits %'";
            sql(&database, &format!("SELECT count(*) {of} AND {what} < clock_timestamp() - interval '3 s'"))
        };
        soon(async {
            while waiter("query_start") == "0" {
                sleep(GLANCE).await;
            }
        })
        .await;
        assert_eq!(waiter("xact_start"), "0", "its snapshot is as old as its wait");
        assert_eq!(sql(&database, &format!("SELECT pg_terminate_backend({leaders})")), "t");
        ended.set(Instant::now());
    });
    println!("the next one leads after {} ms", ended.get().elapsed().as_millis());
    let next = next.unwrap();
    assert!(next.term > held.term, "{} after {}", next.term, held.term);
    assert_eq!(sql(&database, &waits), "0", "nobody waits for what has ended");
    assert_eq!(sql(&database, "SELECT holder FROM mainstay.leases WHERE name = 'lead'"), "two");
    next.release();
    one.close().await;
    two.close().await;
}

/// A batch that was begun under the term before is committed before the next one leads, and seen by it.
#[tokio::test(flavor = "multi_thread")]
async fn who_leads_has_seen_what_was_written_under_earlier_terms() {
    let database = shared().unwrap().database().unwrap();
    let (one, two) = (open(&database.url, "one"), open(&database.url, "two"));
    make_late(&database);
    let held = soon(one.leases().acquire("lead")).await.unwrap();
    let fence = Fence { lease: "lead".into(), term: held.term };
    // Who looked before it was renewed takes nothing.
    let stale = "SELECT count(t.term) FROM mainstay.leases l, mainstay.take_lease_1('lead', 'x', NULL, l.term, l.renewed - 1) t";
    assert_eq!(sql(&database, stale), "0");
    one.write_under(fence.clone(), create("before")).await.unwrap();
    let leases = two.leases();
    let late = one.write_under(fence, create("late"));
    soon(until_late(&database)).await;
    let term = held.term;
    held.release();
    let next = soon(leases.acquire("lead")).await.unwrap();
    let seen = two.get(&key("late")).await.unwrap();
    assert!(next.term > term && seen.is_some(), "it leads, and has not seen what was written before");
    late.await.unwrap();
    next.release();
    one.close().await;
    two.close().await;
}

/// What brings memory forward waits for a session that does not answer only so long.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_session_stands_still_takes_another() {
    let database = shared().unwrap().database().unwrap();
    let (one, two) = (open(&database.url, "one"), open(&database.url, "two"));
    let mut watch = two.watch(Scope::resource("/pods"), Revision(0)).await.unwrap();
    one.write(create("before")).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().len(), 1);
    let session = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND application_name LIKE 'mainstay two follows %'";
    let session = Pid::from_raw(sql(&database, session).parse().unwrap()).unwrap();
    kill_process(session, Signal::STOP).unwrap();
    one.write(create("after")).await.unwrap();
    let told = soon(watch.next()).await;
    kill_process(session, Signal::CONT).unwrap();
    assert_eq!(told.unwrap().len(), 1);
    soon(async {
        while two.ready().is_err() {
            sleep(GLANCE).await;
        }
    })
    .await;
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_stays_while_all_its_connections_stand_still_but_the_one_for_leases() {
    let database = shared().unwrap().database().unwrap();
    let (one, two) = (open(&database.url, "one"), open(&database.url, "two"));
    let (held, _tasks) = contended(&one, &two).await;
    one.write(create("a")).await.unwrap();
    let pool = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND application_name LIKE 'mainstay one %' AND application_name NOT LIKE '% leads'";
    let pids: Vec<Pid> = sql(&database, pool).lines().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
    let tell = |signal| pids.iter().for_each(|pid| kill_process(*pid, signal).unwrap());
    tell(Signal::STOP);
    let begun = Instant::now();
    while begun.elapsed() < SILENCE && !held.lost.is_cancelled() {
        sleep(GLANCE).await;
    }
    tell(Signal::CONT);
    assert!(
        pids.len() > 1 && !held.lost.is_cancelled(),
        "it has lost its lease with the rest, after {:?}",
        begun.elapsed()
    );
    held.release();
    one.close().await;
    two.close().await;
}

/// What was renewed is written down by a clock that is an hour behind everybody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_databases_clock_that_is_behind_ends_no_lease() {
    let database = shared().unwrap().database().unwrap();
    let (one, two) = (open(&database.url, "one"), open(&database.url, "two"));
    sql(
        &database,
        "SET ROLE mainstay; SET search_path = mainstay;
         CREATE FUNCTION behind() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.renewed := NEW.renewed - 3600000; RETURN NEW;
         END $$;
         CREATE TRIGGER behind BEFORE INSERT OR UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION behind()",
    );
    let (held, _tasks) = contended(&one, &two).await;
    let renewed = || sql(&database, "SELECT renewed FROM mainstay.leases WHERE name = 'lead'");
    let (mut last, mut renewals) = (renewed(), 0);
    while renewals < 3 && !held.lost.is_cancelled() {
        sleep(GLANCE).await;
        let now = renewed();
        renewals += usize::from(now != last);
        last = now;
    }
    assert!(!held.lost.is_cancelled(), "it is taken from who renews it");
    assert_eq!(sql(&database, "SELECT holder FROM mainstay.leases"), "one");
    held.release();
    one.close().await;
    two.close().await;
}
