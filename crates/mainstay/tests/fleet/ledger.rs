//! What clients wrote, and what they were told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use mainstay_runtime::Tasks;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::calls::{Answer, Api};

/// Between two writes of one client.
const PACE: Duration = Duration::from_millis(5);
/// Before what was not done is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// An answer, to a client of this replica, asked for at this time.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) replica: usize,
    pub(crate) asked: Instant,
    pub(crate) answer: Answer,
}

#[derive(Debug, Default)]
struct Book {
    /// Names of what was acknowledged, with the revision where that was said.
    acknowledged: Vec<(String, Option<u64>)>,
    said: Vec<Said>,
}

/// Clients that write until they are told to stop.
pub(crate) struct Ledger {
    book: Arc<Mutex<Book>>,
    stop: CancellationToken,
    writers: Vec<JoinHandle<()>>,
    pace: Duration,
    tasks: Tasks,
}

/// What all clients were told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) acknowledged: Vec<(String, Option<u64>)>,
    pub(crate) said: Vec<Said>,
}

impl Ledger {
    pub(crate) fn open() -> Self {
        Self::paced(PACE)
    }

    /// With so much time between two writes of one client.
    pub(crate) fn paced(pace: Duration) -> Self {
        let (stop, tasks) = (CancellationToken::new(), Tasks::new());
        Self { book: Arc::default(), stop, writers: Vec::new(), pace, tasks }
    }

    /// One more client, of this replica. It repeats what was not done under the same name. One that writes as a leader stops
    /// when it is told that it is none.
    pub(crate) fn writes(&mut self, replica: usize, api: &Api, fence: Option<String>) {
        let (book, stop, api) = (Arc::clone(&self.book), self.stop.clone(), api.clone());
        let (own, pace) = (self.writers.len(), self.pace);
        self.writers.push(self.tasks.spawn("client", async move {
            let (mut number, mut repeated) = (0, false);
            while !stop.is_cancelled() {
                let name = format!("w{replica}-{own}-{number}");
                let asked = Instant::now();
                let answer = api.create(&name, fence.as_deref()).await;
                // What was repeated was done the first time.
                let done = answer.code == Some(201) || (repeated && answer.reason() == "AlreadyExists");
                let deposed = answer.reason() == "Fenced";
                let acknowledged = done.then(|| (name, answer.revision()));
                note_down(&book, acknowledged, Said { replica, asked, answer });
                if deposed {
                    return;
                }
                (number, repeated) = if done { (number + 1, false) } else { (number, true) };
                sleep(if done { pace } else { PAUSE }).await;
            }
        }));
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn count(&self) -> usize {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).acknowledged.len()
    }

    /// Tells the clients to stop, and waits for the last answers.
    pub(crate) async fn close(self) -> anyhow::Result<Told> {
        self.stop.cancel();
        for writer in self.writers {
            writer.await.context("a client failed")?;
        }
        let book = std::mem::take(&mut *self.book.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Told { acknowledged: book.acknowledged, said: book.said })
    }
}

fn note_down(book: &Mutex<Book>, acknowledged: Option<(String, Option<u64>)>, said: Said) {
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    book.acknowledged.extend(acknowledged);
    book.said.push(said);
}
