//! The queue of operations: claims, journals and settlements ride in the writer's batches, renewals go beside them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;

use super::batch::Answer;
use super::jobs::{Ask, Done};
use super::rows::{self, Readers, parsed};
use super::schema::diverged;
use super::shared::Shared;
use super::{PostgresStore, Time};
use crate::error::StoreError;
use crate::object::{Key, MAX_OBJECT, Object};
use crate::operation::{
    Attempt, Claim, Claimed, Claims, DeadLetter, Note, OPERATIONS, Queue, QueueFigures, Renewal, Row as QueueRow,
    Settlement, Standing, State, StepRow, StepState,
};
use crate::{at_most, refuse};

/// Between two tries of renewing what a batch has locked.
const PAUSE: Duration = Duration::from_millis(5);
/// How often it is looked whether something can be claimed that nobody told of.
pub(super) const LOOKOUT: Duration = Duration::from_secs(2);

/// The columns of an operation's row, and its journal.
macro_rules! standing {
    () => {
        "o.state, o.attempt, o.failures, o.lost, o.started, o.run_at, o.cancelled, o.undoing::text, o.notes::text,
        (SELECT json_agg(json_build_array(s.step, s.state, s.attempt, s.output) ORDER BY s.place)::text
            FROM mainstay.steps s WHERE s.operation = o.seq)"
    };
}

/// What a batch's claim took, as it is now. Each row is looked up for itself: joined, all objects might be read for a few, by a plan
/// that was made when there were few.
pub(super) async fn claims(readers: &Readers, answer: &Answer) -> Result<Option<Claims>, StoreError> {
    let next_expiry = answer.next_expiry.map(|left| Duration::from_millis(u64::try_from(left).unwrap_or(0)));
    let mut claims = Claims { claimed: Vec::new(), next_due_ms: answer.next_due, next_expiry };
    if answer.claimed.is_empty() {
        return Ok(Some(claims));
    }
    let sql = concat!(
        "SELECT ",
        standing!(),
        ", v.revision, v.resource, v.namespace, v.name, v.meta, v.body, o.uid, o.ready
        FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS c (uid, attempt, n)
        CROSS JOIN LATERAL (SELECT * FROM mainstay.operations q WHERE q.uid = c.uid LIMIT 1) o
        CROSS JOIN LATERAL (SELECT j.revision FROM mainstay.objects j
            WHERE j.resource = $3 AND j.namespace = o.namespace AND j.name = o.name LIMIT 1) j
        CROSS JOIN LATERAL (SELECT * FROM mainstay.versions w WHERE w.revision = j.revision LIMIT 1) v
        WHERE o.attempt = c.attempt AND o.state = 3 ORDER BY c.n"
    );
    let rows = readers.query(sql, &[&answer.claimed, &answer.attempts, &OPERATIONS]).await?;
    for row in &rows {
        let standing = standing(row)?;
        let object = Arc::new(rows::object(row, 10)?);
        let attempt = Attempt { id: row.get::<_, &str>(16).into(), number: standing.row.attempt };
        let waited = standing.row.started_ms.saturating_sub(row.get::<_, i64>(17));
        let waited = Duration::from_millis(u64::try_from(waited).unwrap_or(0));
        claims.claimed.push(Claimed { attempt, object, standing, waited });
    }
    Ok(Some(claims))
}

fn standing(row: &Row) -> Result<Standing, StoreError> {
    let number = |column: usize| row.get::<_, i64>(column).cast_unsigned();
    let count = |column: usize| row.get::<_, i32>(column).unsigned_abs();
    let undoing: Option<Note> = row.get::<_, Option<&str>>(7).map(parsed).transpose()?;
    let steps: Vec<(String, i16, u64, String)> = row.get::<_, Option<&str>>(9).map_or(Ok(Vec::new()), parsed)?;
    let step = |(step, state, attempt, output): (String, i16, u64, String)| StepRow {
        step: step.into(),
        state: match state {
            0 => StepState::Intent,
            1 => StepState::Done,
            2 => StepState::Undoing,
            _ => StepState::Undone,
        },
        attempt,
        output: output.into(),
    };
    let queue_row = QueueRow {
        state: state(row.get(0))?,
        attempt: number(1),
        failures: count(2),
        lost: count(3),
        started_ms: row.get(4),
        run_at_ms: row.get(5),
        cancelled: row.get(6),
        undoing,
        history: parsed(row.get(8))?,
    };
    Ok(Standing { row: queue_row, steps: steps.into_iter().map(step).collect() })
}

fn state(code: i16) -> Result<State, StoreError> {
    const STATES: [State; 7] =
        [State::Ready, State::Delayed, State::Blocked, State::Running, State::Succeeded, State::Cancelled, State::Dead];
    let state = usize::try_from(code).ok().and_then(|code| STATES.get(code));
    state.copied().ok_or_else(|| diverged("an operation's state"))
}

/// How a state is written in the table.
const fn code(state: State) -> i16 {
    match state {
        State::Ready => 0,
        State::Delayed => 1,
        State::Blocked => 2,
        State::Running => 3,
        State::Succeeded => 4,
        State::Cancelled => 5,
        State::Dead => 6,
    }
}

/// The database's text has no NUL, and a backend may say one.
fn without_nul(note: &Note) -> Note {
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    Note { reason: clean(&note.reason), message: clean(&note.message), ..note.clone() }
}

impl PostgresStore {
    /// When an attempt is due that a caller reckoned by its own clock: for the database so much later than now.
    fn due(&self, run_at_ms: i64) -> (&'static str, i64) {
        match self.shared.options.time {
            Time::Driven(_) => ("runAt", run_at_ms),
            Time::Database => ("inMs", (run_at_ms - self.shared.options.clock.now().as_millisecond()).max(0)),
        }
    }

    fn ask(&self, attempt: &Attempt, settlement: Settlement) -> Result<Ask, StoreError> {
        let mut how = json!({ "uid": attempt.id, "attempt": attempt.number });
        let note = |how: &mut Value, note: &Option<Note>| {
            if let Some(note) = note {
                how["note"] = json!(without_nul(note));
            }
        };
        let due = |how: &mut Value, sort: &str, run_at_ms| {
            let (member, at) = self.due(run_at_ms);
            how["how"] = sort.into();
            how[member] = at.into();
        };
        match settlement {
            Settlement::Retry { run_at_ms, note: failed, undoing } => {
                due(&mut how, "retry", run_at_ms);
                note(&mut how, &Some(failed));
                if let Some(undoing) = undoing {
                    how["undoing"] = json!(without_nul(&undoing));
                }
            }
            Settlement::Later { run_at_ms } => due(&mut how, "later", run_at_ms),
            Settlement::Unbegun { run_at_ms } => due(&mut how, "unbegun", run_at_ms),
            Settlement::Bury { note: failed } => {
                how["how"] = "bury".into();
                note(&mut how, &Some(failed));
            }
            Settlement::End { state, note: failed, write } => {
                how["state"] = code(if state.is_final() { state } else { State::Dead }).into();
                note(&mut how, &failed);
                let meta = serde_json::to_string(&write.draft().meta);
                let meta = meta.map_err(|error| StoreError::Database(Arc::new(error)))?;
                return Ok(Ask::End { attempt: attempt.clone(), how, write: *write, meta });
            }
        }
        Ok(Ask::PutOff { attempt: attempt.clone(), how })
    }
}

impl Queue for PostgresStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claims, StoreError>> {
        let lease_ms = u64::try_from(claim.lease.as_millis()).unwrap_or(u64::MAX / 4);
        let ask = json!({ "limit": claim.limit, "perLane": claim.per_lane, "leaseMs": lease_ms });
        let done = self.submit(Ask::Claim(ask), 0, Some(claim.now_ms));
        async move {
            match done.await? {
                Done::Claims(claims) => Ok(claims),
                _ => Ok(Claims::default()),
            }
        }
        .boxed()
    }

    fn renew(&self, attempts: Vec<Attempt>, lease: Duration) -> BoxFuture<'_, Result<Vec<Renewal>, StoreError>> {
        if let Err(error) = self.shared.health.open() {
            return refuse(error);
        }
        let (shared, now_ms) = (Arc::clone(&self.shared), self.lease_ms());
        self.on_store(async move { renew(&shared, &attempts, lease, now_ms).await })
    }

    fn journal(&self, attempt: &Attempt, entry: StepRow) -> BoxFuture<'_, Result<(), StoreError>> {
        let size = entry.output.len();
        if let Err(error) = at_most(size, MAX_OBJECT) {
            return refuse(error);
        }
        let state = match entry.state {
            StepState::Intent => 0,
            StepState::Done => 1,
            StepState::Undoing => 2,
            StepState::Undone => 3,
        };
        let said = json!({ "uid": attempt.id, "attempt": attempt.number, "step": entry.step, "state": state,
            "output": entry.output });
        let done = self.submit(Ask::Journal { attempt: attempt.clone(), entry: said }, size, None);
        async move { done.await.map(drop) }.boxed()
    }

    fn settle(
        &self,
        attempt: &Attempt,
        settlement: Settlement,
    ) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>> {
        let size = settlement.size();
        let ask = at_most(size, MAX_OBJECT).and_then(|()| self.ask(attempt, settlement));
        let done = match ask {
            Ok(ask) => self.submit(ask, size, None),
            Err(error) => return refuse(error),
        };
        async move {
            match done.await? {
                Done::Object(object) => Ok(Some(object)),
                _ => Ok(None),
            }
        }
        .boxed()
    }

    fn operations(&self, ids: Vec<Arc<str>>) -> BoxFuture<'_, Result<Vec<Option<Standing>>, StoreError>> {
        let shared = Arc::clone(&self.shared);
        self.on_store(async move {
            let sql = concat!(
                "SELECT ",
                standing!(),
                " FROM unnest($1::text[]) WITH ORDINALITY AS c (uid, n)
                LEFT JOIN mainstay.operations o ON o.uid = c.uid ORDER BY c.n"
            );
            let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
            let rows = shared.readers.query(sql, &[&ids]).await?;
            let there = |row: &Row| row.get::<_, Option<i16>>(0).map(|_| standing(row)).transpose();
            rows.iter().map(there).collect()
        })
    }

    fn dead_letters(&self, limit: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, StoreError>> {
        let shared = Arc::clone(&self.shared);
        self.on_store(async move {
            let sql = "SELECT namespace, name, lane, handler FROM mainstay.operations WHERE state = 6 ORDER BY seq DESC LIMIT $1";
            let rows = shared.readers.query(sql, &[&i64::try_from(limit).unwrap_or(i64::MAX)]).await?;
            let text = |row: &Row, column: usize| Arc::<str>::from(row.get::<_, &str>(column));
            let letter = |row: &Row| DeadLetter {
                key: Key::new(OPERATIONS, text(row, 0), text(row, 1)),
                lane: text(row, 2),
                handler: text(row, 3),
            };
            Ok(rows.iter().map(letter).collect())
        })
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.shared.queue.subscribe()
    }

    fn made_ready(&self) -> watch::Receiver<u64> {
        self.shared.made_ready.subscribe()
    }

    fn queue_figures(&self) -> BoxFuture<'_, Result<QueueFigures, StoreError>> {
        let shared = Arc::clone(&self.shared);
        self.on_store(async move { figures(&shared).await })
    }
}

/// What a batch has locked in this moment is tried again: nothing here waits for a lock.
async fn renew(
    shared: &Shared,
    attempts: &[Attempt],
    lease: Duration,
    now_ms: Option<i64>,
) -> Result<Vec<Renewal>, StoreError> {
    let ids: Vec<&str> = attempts.iter().map(|attempt| &*attempt.id).collect();
    let numbers: Vec<i64> = attempts.iter().map(|attempt| attempt.number.cast_signed()).collect();
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 4);
    let begun = Instant::now();
    let codes: Vec<i16> = loop {
        let sql = "SELECT mainstay.renew_1($1, $2, $3, $4)";
        let rows = shared.work.query(sql, &[&ids, &numbers, &lease_ms, &now_ms]).await?;
        let codes: Vec<i16> = rows.first().map_or_else(Vec::new, |row| row.get(0));
        if !codes.contains(&3) {
            break codes;
        }
        if begun.elapsed() > lease / 4 {
            return Err(StoreError::Busy);
        }
        sleep(PAUSE).await;
    };
    let renewal = |code: &i16| match code {
        0 => Renewal::Held,
        1 => Renewal::Cancelled,
        _ => Renewal::Lost,
    };
    let renewals: Vec<Renewal> = codes.iter().map(renewal).collect();
    let lost = renewals.iter().filter(|renewal| **renewal == Renewal::Lost).count();
    shared.counts.fenced.fetch_add(lost as u64, Ordering::Relaxed);
    Ok(renewals)
}

async fn figures(shared: &Shared) -> Result<QueueFigures, StoreError> {
    let sql = "SELECT lane, ready, delayed, blocked, running, dead FROM mainstay.lanes ORDER BY lane";
    let mut figures = QueueFigures {
        fenced: shared.counts.fenced.load(Ordering::Relaxed),
        lost: shared.counts.lost.load(Ordering::Relaxed),
        ..QueueFigures::default()
    };
    for row in shared.readers.query(sql, &[]).await? {
        let lane: Arc<str> = row.get::<_, &str>(0).into();
        let states = [State::Ready, State::Delayed, State::Blocked, State::Running, State::Dead];
        for (at, state) in states.into_iter().enumerate() {
            let count = row.get::<_, i64>(at + 1).cast_unsigned();
            figures.depth.extend((count > 0).then(|| (Arc::clone(&lane), state, count)));
        }
    }
    // Of the lanes that wait longest for their turn, those that are next.
    let longest = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint - min(o.ready) FROM
        (SELECT lane FROM mainstay.lanes WHERE ready > 0 ORDER BY turn LIMIT 64) l CROSS JOIN LATERAL (
            SELECT c.ready FROM mainstay.operations c WHERE c.lane = l.lane AND c.state = 0
            ORDER BY c.priority DESC, c.seq LIMIT 32) o WHERE o.ready > 0";
    let waited: Option<i64> = shared.readers.query(longest, &[]).await?.first().and_then(|row| row.get(0));
    figures.longest_wait = waited.map(|waited| Duration::from_millis(u64::try_from(waited).unwrap_or(0)));
    Ok(figures)
}

/// Looks whether something can be claimed that nobody told of: what is due later, and leases that expire, are known only to
/// the replica that is concerned.
pub(super) async fn look_out(shared: Arc<Shared>) {
    let stopping = shared.tasks.stopping();
    while stopping.run_until_cancelled(sleep(LOOKOUT)).await.is_some() {
        let found = shared.work.query("SELECT mainstay.lookout_1()", &[]).await;
        if found.is_ok_and(|rows| rows.first().is_some_and(|row| row.get(0))) {
            shared.wake_queue();
        }
    }
}
