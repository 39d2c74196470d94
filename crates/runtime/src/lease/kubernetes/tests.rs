//! Two processes and more on one API that keeps leases, in a time that is driven: each has its own way to it, which fails as asked.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

/// The way of a process to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Way {
    #[default]
    Open,
    /// Nothing arrives.
    Cut,
    /// What is said arrives, and nothing comes back.
    Deaf,
    /// As that, of what is written.
    DeafToWrites,
    /// It is refused.
    Forbidden,
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

/// The API: one namespace.
#[derive(Default)]
struct Cluster {
    leases: Mutex<BTreeMap<String, Value>>,
    versions: Mutex<u64>,
}

impl Cluster {
    fn answer(&self, method: &Method, name: &str, body: &[u8]) -> (u16, Value) {
        let mut leases = lock(&self.leases);
        let mut sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let name = if *method == Method::POST { sent["metadata"]["name"].as_str().unwrap() } else { name }.to_owned();
        let there = leases.get(&name).cloned();
        match (method, there) {
            (&Method::GET, Some(there)) => return (200, there),
            (&Method::POST, Some(_)) => return (409, status(409, "AlreadyExists")),
            (&Method::PUT, Some(there))
                if there["metadata"]["resourceVersion"] != sent["metadata"]["resourceVersion"] =>
            {
                return (409, status(409, "Conflict"));
            }
            (&Method::POST, None) | (&Method::PUT, Some(_)) => {}
            _ => return (404, status(404, "NotFound")),
        }
        let mut version = lock(&self.versions);
        *version += 1;
        sent["metadata"]["resourceVersion"] = json!(version.to_string());
        leases.insert(name, sent.clone());
        (200, sent)
    }

    fn spec(&self, name: &str) -> Value {
        lock(&self.leases).get(name).map_or(Value::Null, |lease| lease["spec"].clone())
    }

    /// Somebody else writes.
    fn put(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut lease = lock(&self.leases).get(name).cloned().unwrap_or_else(
            || json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}}),
        );
        change(&mut lease);
        let method = if lease["metadata"]["resourceVersion"].is_null() { Method::POST } else { Method::PUT };
        assert_eq!(self.answer(&method, name, lease.to_string().as_bytes()).0, 200);
    }
}

/// A process.
struct Process {
    leases: KubernetesLeases,
    way: Arc<Mutex<Way>>,
}

impl Process {
    fn new(cluster: &Arc<Cluster>, name: &str) -> Self {
        Self::at(cluster, name, Timestamp::UNIX_EPOCH)
    }

    /// One whose wall clock shows this.
    fn at(cluster: &Arc<Cluster>, name: &str, now: Timestamp) -> Self {
        let (cluster, way) = (Arc::clone(cluster), Arc::new(Mutex::new(Way::Open)));
        let goes = Arc::clone(&way);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (cluster, way) = (Arc::clone(&cluster), Arc::clone(&goes));
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let goes = *lock(&way);
                let (code, answer) = match goes {
                    Way::Cut => std::future::pending().await,
                    Way::Forbidden => (403, status(403, "Forbidden")),
                    Way::Open | Way::Deaf | Way::DeafToWrites => {
                        let name = head.uri.path().rsplit('/').next().unwrap_or_default();
                        cluster.answer(&head.method, name, &body)
                    }
                };
                if goes == Way::Deaf || (goes == Way::DeafToWrites && head.method != Method::GET) {
                    std::future::pending::<()>().await;
                }
                let response = Response::builder().status(StatusCode::from_u16(code).unwrap());
                Ok::<_, kube::Error>(response.body(Full::new(Bytes::from(answer.to_string()))).unwrap())
            }
        });
        let (client, clock) = (Client::new(service, "default"), Clock::virtual_from(now));
        let leases = KubernetesLeases::new(client, "default", name, Pace::default(), clock, Tasks::new());
        Self { leases, way }
    }

    fn set(&self, way: Way) {
        *lock(&self.way) = way;
    }

    async fn acquire(&self) -> Held {
        self.leases.acquire("a/b").await.unwrap()
    }

    fn standing(&self) -> Standing {
        self.leases.standings()[0]
    }
}

async fn within(seconds: u64, what: impl Future) -> bool {
    tokio::time::timeout(Duration::from_secs(seconds), what).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn each_taking_has_a_higher_term_and_one_that_is_handed_back_is_taken_at_the_next_look() {
    let cluster = Arc::new(Cluster::default());
    let (one, two) = (Process::new(&cluster, "one"), Process::new(&cluster, "two"));
    let held = one.acquire().await;
    let spec = cluster.spec("a.b");
    assert_eq!((held.term, &spec["leaseTransitions"], &spec["leaseDurationSeconds"]), (1, &json!(1), &json!(15)));
    assert!(spec["holderIdentity"].as_str().unwrap().starts_with("one_") && spec["acquireTime"] == spec["renewTime"]);
    assert!(!within(3_600, two.acquire()).await, "it is held, and renewed");
    assert!(!held.lost.is_cancelled());
    assert!(one.standing().held && one.standing().began >= Duration::from_hours(1) && !two.standing().held);
    let began = Instant::now();
    let (next, ()) = tokio::join!(two.acquire(), async { held.release() });
    assert!(next.term == 2 && began.elapsed() <= Duration::from_secs(3), "after {:?}", began.elapsed());
    next.release();
    // The same process, and one that has its name after a restart.
    let held = two.acquire().await;
    assert_eq!(held.term, 3);
    held.release();
    assert_eq!(Process::new(&cluster, "two").acquire().await.term, 4);
    assert_eq!((two.leases.counts().taken, two.leases.counts().replaced), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_over_when_it_was_seen_unchanged_for_as_long_as_it_says_whatever_times_are_in_it() {
    for renewed in ["1990-01-01T00:00:00.000000Z", "2090-01-01T00:00:00.000000Z"] {
        let cluster = Arc::new(Cluster::default());
        cluster.put("a.b", |lease| {
            lease["spec"] = json!({"holderIdentity": "x", "leaseDurationSeconds": 40, "leaseTransitions": 7, "renewTime": renewed});
        });
        let one = Process::new(&cluster, "one");
        let began = Instant::now();
        let held = one.acquire().await;
        let took = began.elapsed();
        assert_eq!(held.term, 8);
        assert!(took >= Duration::from_secs(40) && took <= Duration::from_secs(43), "{renewed}: after {took:?}");
    }
    // And it is not over while it changes, whatever the clocks of holder and waiter say of each other.
    for clocks in [[0, 4_000_000_000], [4_000_000_000, 0]] {
        let cluster = Arc::new(Cluster::default());
        let [one, two] = clocks.map(|at| Process::at(&cluster, "p", Timestamp::from_second(at).unwrap()));
        let held = one.acquire().await;
        assert!(!within(600, two.acquire()).await && !held.lost.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_cut_off_has_stopped_before_another_leads() {
    for way in [Way::Cut, Way::Deaf, Way::Forbidden] {
        let cluster = Arc::new(Cluster::default());
        let (one, two) = (Process::new(&cluster, "one"), Process::new(&cluster, "two"));
        let held = one.acquire().await;
        assert!(!within(60, two.acquire()).await);
        one.set(way);
        let began = Instant::now();
        let (next, lost) = tokio::join!(two.acquire(), async {
            held.lost.cancelled().await;
            began.elapsed()
        });
        let took = began.elapsed();
        assert!(lost <= Pace::default().give_up && lost < took, "{way:?}: it stopped after {lost:?}, of {took:?}");
        assert!(next.term > held.term && took <= Duration::from_secs(28), "{way:?}: another leads after {took:?}");
        assert_eq!(one.leases.counts().given_up, 1);
        // It finds its way again: its hands are off.
        one.set(Way::Open);
        held.release();
        assert!(!within(600, one.acquire()).await && !next.lost.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn one_who_finds_another_in_its_place_has_lost_it_and_leaves_it_alone() {
    let cluster = Arc::new(Cluster::default());
    let one = Process::new(&cluster, "one");
    let held = one.acquire().await;
    cluster.put("a.b", |lease| lease["spec"]["holderIdentity"] = json!("x"));
    assert!(within(3, held.lost.cancelled()).await);
    held.release();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(cluster.spec("a.b")["holderIdentity"], "x");
    assert_eq!(one.leases.counts().replaced, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_labels_is_kept_and_one_that_is_deleted_is_lost_and_goes_on_above_its_terms() {
    let cluster = Arc::new(Cluster::default());
    let (one, two) = (Process::new(&cluster, "one"), Process::new(&cluster, "two"));
    cluster.put("a.b", |lease| lease["spec"]["leaseTransitions"] = json!(30));
    let held = one.acquire().await;
    cluster.put("a.b", |lease| lease["metadata"]["labels"] = json!({"seen": "by-people"}));
    assert!(!within(60, held.lost.cancelled()).await);
    assert!(!within(1, two.acquire()).await, "it has seen the term");
    lock(&cluster.leases).clear();
    assert!(within(3, held.lost.cancelled()).await);
    assert_eq!((held.term, two.acquire().await.term), (31, 32));
}

#[tokio::test(start_paused = true)]
async fn a_taking_whose_answer_was_lost_is_taken_again_in_a_higher_term() {
    let cluster = Arc::new(Cluster::default());
    let one = Process::new(&cluster, "one");
    one.set(Way::DeafToWrites);
    let mut acquiring = Box::pin(one.acquire());
    assert!(!within(60, &mut acquiring).await);
    one.set(Way::Open);
    let held = acquiring.await;
    assert!(held.term > 1 && cluster.spec("a.b")["leaseTransitions"] == held.term, "term {}", held.term);
    assert!(one.leases.counts().failed >= 1);
    // So is a renewal; and it is handed back in the version that it has then.
    one.set(Way::DeafToWrites);
    tokio::time::sleep(Duration::from_secs(4)).await;
    one.set(Way::Open);
    held.release();
    let began = Instant::now();
    let next = Process::new(&cluster, "two").acquire().await;
    assert!(next.term > 1 && began.elapsed() <= Duration::from_secs(10), "it was not handed back");
}

#[tokio::test(start_paused = true)]
async fn who_may_not_look_is_told_so() {
    let cluster = Arc::new(Cluster::default());
    let one = Process::new(&cluster, "one");
    one.set(Way::Forbidden);
    let refused = one.leases.acquire("a/b").await.unwrap_err();
    assert_eq!(refused.class(), Class::Terminal(Reason::Forbidden));
}

#[tokio::test(start_paused = true)]
async fn of_many_who_contend_one_holds_it_at_a_time() {
    let cluster = Arc::new(Cluster::default());
    let processes: Vec<Process> = (0..5).map(|at| Process::new(&cluster, &format!("p{at}"))).collect();
    let holders = std::sync::atomic::AtomicUsize::new(0);
    let terms = Mutex::new(Vec::new());
    let contend = processes.iter().map(|process| async {
        for _ in 0..6 {
            let held = process.acquire().await;
            assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two hold it");
            lock(&terms).push(held.term);
            tokio::time::sleep(Duration::from_secs(20)).await;
            holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            held.release();
        }
    });
    futures::future::join_all(contend).await;
    assert!(lock(&terms).iter().copied().eq(1..=30), "{terms:?}");
}
