//! Every rule of time, on Tokio's paused clock: it moves when nothing else can.

mod failover;
mod passes;

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_secs(10);
/// Three seconds after a due time.
const START: &str = "2026-01-01T00:00:03Z";

/// A duty of ten seconds without jitter.
const PLAIN: Duty = Duty {
    name: "plain",
    schedule: Schedule::Every(PERIOD),
    jitter: 0.0,
    timeout: Duration::from_mins(1),
    place: Place::EachProcess,
    retry: Retry::NextTick,
    missed: Missed::Counted,
    why: "to be tested",
};

/// What passes note down, and the wait for it.
#[derive(Clone)]
struct Log {
    began: Instant,
    lines: watch::Sender<Vec<String>>,
}

impl Log {
    fn new() -> Self {
        Self { began: Instant::now(), lines: watch::Sender::default() }
    }

    /// Notes something, with the seconds since the start.
    fn note(&self, what: impl std::fmt::Display) {
        let line = format!("{:.1} {what}", self.began.elapsed().as_secs_f64());
        self.lines.send_modify(|lines| lines.push(line));
    }

    /// The first `count` lines, once they are there.
    async fn first(&self, count: usize) -> Vec<String> {
        let mut lines = self.lines.subscribe();
        let seen = lines.wait_for(|lines| lines.len() >= count).await.unwrap();
        seen[..count].to_vec()
    }

    fn all(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }
}

/// The due time of a tick, as seconds after START's minute.
fn due(tick: &Tick) -> i64 {
    tick.due.as_second() - START.parse::<Timestamp>().unwrap().as_second() + 3
}

struct World {
    tasks: Tasks,
    clock: Clock,
    log: Log,
    duties: Duties,
}

impl World {
    fn new() -> Self {
        let (tasks, clock) = (Tasks::new(), Clock::virtual_from(START.parse().unwrap()));
        let duties = Duties::alone(tasks.clone(), clock.clone());
        Self { log: Log::new(), tasks, clock, duties }
    }

    fn seen(&self) -> Seen {
        self.duties.seen()[0].1.clone()
    }

    /// Starts a duty of which each pass notes its due time and takes so long as `takes` says of its number, from 0.
    fn start(&self, duty: &'static Duty, takes: impl Fn(usize) -> Duration + Send + Sync + 'static) {
        let (log, count) = (self.log.clone(), AtomicUsize::new(0));
        self.duties.start(duty, move |tick| {
            let (log, takes) = (log.clone(), takes(count.fetch_add(1, Ordering::Relaxed)));
            async move {
                log.note(format_args!("due {}", due(&tick)));
                tokio::time::sleep(takes).await;
                Ok(())
            }
        });
    }
}
