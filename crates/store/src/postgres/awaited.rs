//! Waits for leaders' sessions to end.
//!
//! The session in which a replica holds its leases has a lock under its own number. Whoever wants one of them asks for that lock,
//! and is answered when the session has ended: then it looks at once, and not at its next look. That is all that it is for. Who
//! leads is what the rows say.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::{Failure, Link};
use super::shared::Shared;
use crate::lock;

/// More sessions are not waited for: of those it is seen by looking that they are gone.
const MOST: usize = 8;
/// Between an attempt that failed and the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one answer is waited for; the server gives up before.
const ANSWER: Duration = Duration::from_secs(3_610);
/// The session waits for long, and sees that its client is gone though it has nothing to tell it.
const PATIENT: &str = "SET statement_timeout = '1h'";
/// Not every system's server can.
const WATCHFUL: &str = "SET client_connection_check_interval = '2s'";

/// See the module.
pub(super) struct Awaited {
    shared: Arc<Shared>,
    /// By their numbers; each is waited for until its guard goes.
    sessions: Mutex<HashMap<i32, DropGuard>>,
}

impl Awaited {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, sessions: Mutex::default() }
    }

    /// These are waited for from now on, and no others.
    pub(super) fn these(&self, sessions: &HashSet<i32>) {
        let mut awaited = lock(&self.sessions);
        awaited.retain(|session, _| sessions.contains(session));
        for session in sessions {
            if awaited.len() < MOST && !awaited.contains_key(session) {
                let over = CancellationToken::new();
                drop(
                    self.shared
                        .tasks
                        .spawn("store awaits a leader", wait(Arc::clone(&self.shared), *session, over.clone())),
                );
                awaited.insert(*session, over.drop_guard());
            }
        }
    }
}

/// Until it has ended, or nobody wants to know.
async fn wait(shared: Arc<Shared>, session: i32, over: CancellationToken) {
    let name = format!("mainstay {} awaits {session}", shared.options.replica);
    let link = Link::new(&shared.options.address, name, &shared.connections, None);
    let stopping = shared.tasks.stopping();
    let waiting = async {
        while ends(&link, session).await.is_err() {
            link.hang_up().await;
            sleep(PAUSE).await;
        }
        shared.leadership.nudge();
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = stopping.cancelled() => {}
        () = waiting => {}
    }
}

/// Cancel safe: nothing is held, and the connection goes with its link.
async fn ends(link: &Link, session: i32) -> Result<(), Failure> {
    let connection = link.session().await?;
    link.run(PATIENT).await?;
    link.run(WATCHFUL).await.ok();
    // It is given back with the end of the statement.
    let locks = "CALL mainstay.await_1($1)";
    let silent = |_| Failure::Away(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)));
    timeout(ANSWER, connection.query(locks, &[&session])).await.map_err(silent)?.map(drop)
}
