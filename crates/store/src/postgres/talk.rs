//! Sessions' messages, run rows and counters: outside of the order of revisions, on a connection of their own.
//!
//! All of it is harmless to repeat: messages carry ids, rows are what was put last, and a counter may be raised once more. So
//! what was sent and not answered is sent again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;

use super::link::{Failure, Link, Parameters};
use super::rows::{Readers, parsed};
use super::schema;
use super::shared::{MESSAGES, Shared};
use crate::error::StoreError;
use crate::lock;
use crate::message::{Append, Appended, Message, Page, RunRow, Sender};

/// Bytes after which a page of messages is cut.
const PAGE_BYTES: i64 = 4 << 20;
/// The most that one statement appends.
const APPENDS: usize = 128;
const BYTES: usize = 4 << 20;
/// How long a run row may wait for company.
const LINGER: Duration = Duration::from_secs(1);
/// How long the database is waited for, and between two tries.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// One thing to be written.
#[derive(Debug)]
pub(super) enum Say {
    Append(Append, Reply<Vec<Appended>>),
    Drop(Arc<str>, Reply<()>),
    /// Everything that was put before is durable.
    Settled(Reply<()>),
    Raise(String, Reply<u64>),
}

/// What waits to be written.
#[derive(Debug)]
pub(super) struct Talk {
    state: Mutex<State>,
    filled: Notify,
    items: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Say, usize)>,
    bytes: usize,
    closed: bool,
}

impl Talk {
    pub(super) fn new(items: usize, bytes: usize) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), items, bytes }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    pub(super) fn push(&self, say: Say, size: usize) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::Closed);
        }
        if state.waiting.len() >= self.items || (state.bytes + size > self.bytes && !state.waiting.is_empty()) {
            return Err(StoreError::Busy);
        }
        state.bytes += size;
        state.waiting.push_back((say, size));
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Lets the writer look at what is to be written besides.
    pub(super) fn nudge(&self) {
        self.filled.notify_one();
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.filled.notify_one();
    }

    /// The next of one sort; nothing when nothing waits.
    fn take(&self) -> Vec<Say> {
        let mut state = lock(&self.state);
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some((say, size)) = state.waiting.pop_front() {
            let append = matches!(say, Say::Append(..));
            if !append && !taken.is_empty() {
                state.waiting.push_front((say, size));
                break;
            }
            state.bytes -= size;
            bytes += size;
            taken.push(say);
            if !append || taken.len() >= APPENDS || bytes >= BYTES {
                break;
            }
        }
        taken
    }

    fn is_closed(&self) -> bool {
        let state = lock(&self.state);
        state.closed && state.waiting.is_empty()
    }
}

/// Writes what waits, until the store is closed and nothing does.
pub(super) async fn run(shared: Arc<Shared>, talk: Arc<Talk>) {
    let link = Link::new(
        &shared.options.address,
        format!("mainstay {} messages", shared.options.replica),
        &shared.connections,
        None,
    );
    let writer = Writer { shared: &shared, link: &link };
    loop {
        let said = talk.take();
        if !said.is_empty() {
            writer.write(said).await;
            continue;
        }
        let last = talk.is_closed();
        // Rows that linger go when nothing else is to be written.
        if writer.rows().await.is_err() && !last {
            sleep(PAUSE).await;
        }
        if last {
            return;
        }
        let dirty = !lock(&shared.dirty).is_empty();
        tokio::select! {
            () = talk.filled.notified() => {}
            () = sleep(LINGER), if dirty => {}
        }
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    link: &'a Link,
}

impl Writer<'_> {
    async fn write(&self, said: Vec<Say>) {
        let mut appends = Vec::new();
        for say in said {
            match say {
                Say::Append(append, reply) => appends.push((append, reply)),
                Say::Drop(session, reply) => {
                    lock(&self.shared.dirty).remove(&session);
                    let sql = "SELECT mainstay.drop_session_1($1)";
                    let done = self.repeated(sql, &[&&*session]).await.map(drop);
                    lock(&self.shared.counters).remove(&session);
                    self.shared.outbound.raise(MESSAGES);
                    reply.send(done).ok();
                }
                Say::Settled(reply) => drop(reply.send(self.rows().await)),
                Say::Raise(counter, reply) => {
                    let raised = self.repeated("SELECT mainstay.raise_1($1)", &[&counter]).await;
                    let value = raised.map(|rows| rows.first().map_or(0, |row| row.get::<_, i64>(0)).cast_unsigned());
                    reply.send(value).ok();
                }
            }
        }
        if !appends.is_empty() {
            self.append(appends).await;
        }
    }

    async fn append(&self, appends: Vec<(Append, Reply<Vec<Appended>>)>) {
        let outcome = self.appended(&appends.iter().map(|(append, _)| append).collect::<Vec<_>>()).await;
        match outcome {
            Ok(given) => appends.into_iter().zip(given).for_each(|((_, reply), given)| drop(reply.send(Ok(given)))),
            Err(StoreError::Database(_)) if appends.len() > 1 => {
                // One of them cannot be stored; the others can.
                for (append, reply) in appends {
                    let given = self.appended(&[&append]).await.map(|mut given| given.pop().unwrap_or_default());
                    reply.send(given).ok();
                }
            }
            Err(error) => appends.into_iter().for_each(|(_, reply)| drop(reply.send(Err(error.clone())))),
        }
    }

    async fn appended(&self, appends: &[&Append]) -> Result<Vec<Vec<Appended>>, StoreError> {
        let sessions: Vec<&str> = appends.iter().map(|append| &*append.session).collect();
        let senders: Vec<i16> = appends.iter().map(|append| code(append.sender)).collect();
        let counts: Vec<i32> = appends.iter().map(|append| i32::try_from(append.messages.len()).unwrap_or(0)).collect();
        let bound = |bound: u64| i64::try_from(bound).unwrap_or(i64::MAX);
        let messages: Vec<i64> = appends.iter().map(|append| bound(append.keep.messages)).collect();
        let bytes: Vec<i64> = appends.iter().map(|append| bound(append.keep.bytes)).collect();
        let all = || appends.iter().flat_map(|append| &append.messages);
        let ids: Vec<&str> = all().map(|message| &*message.id).collect();
        let kinds: Vec<&str> = all().map(|message| &*message.kind).collect();
        let bodies: Vec<&[u8]> = all().map(|message| &*message.body).collect();
        let sql = "SELECT numbers, duplicates, lasts FROM mainstay.append_1($1, $2, $3, $4, $5, $6, $7, $8)";
        let parameters: Parameters<'_> = &[&sessions, &senders, &counts, &messages, &bytes, &ids, &kinds, &bodies];
        let rows = self.repeated(sql, parameters).await?;
        let Some(row) = rows.first() else { return Ok(Vec::new()) };
        let numbers: Vec<i64> = row.get::<_, Option<_>>(0).unwrap_or_default();
        let duplicates: Vec<bool> = row.get::<_, Option<_>>(1).unwrap_or_default();
        let lasts: Vec<i64> = row.get::<_, Option<_>>(2).unwrap_or_default();
        let mut given = numbers.into_iter().zip(duplicates);
        let given = appends.iter().map(|append| {
            let one = |(number, duplicate): (i64, bool)| Appended { number: number.cast_unsigned(), duplicate };
            given.by_ref().take(append.messages.len()).map(one).collect()
        });
        let given = given.collect();
        for (append, last) in appends.iter().zip(lasts) {
            raise(self.shared, &append.session, last.cast_unsigned());
        }
        self.shared.outbound.raise(MESSAGES);
        Ok(given)
    }

    /// Writes the run rows that are newer here; one that is put meanwhile stays for the next time.
    async fn rows(&self) -> Result<(), StoreError> {
        let rows: Vec<(Arc<str>, RunRow)> =
            lock(&self.shared.dirty).iter().map(|(session, row)| (Arc::clone(session), row.clone())).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let sessions: Vec<&str> = rows.iter().map(|(session, _)| &**session).collect();
        let texts: Result<Vec<String>, _> = rows.iter().map(|(_, row)| serde_json::to_string(row)).collect();
        let texts = texts.map_err(|error| StoreError::Database(Arc::new(error)))?;
        self.repeated("SELECT mainstay.put_rows_1($1, $2)", &[&sessions, &texts]).await?;
        let mut dirty = lock(&self.shared.dirty);
        for (session, row) in rows {
            if dirty.get(&session) == Some(&row) {
                dirty.remove(&session);
            }
        }
        Ok(())
    }

    /// A statement that may be sent again.
    async fn repeated(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Vec<Row>, StoreError> {
        let begun = Instant::now();
        loop {
            match self.link.query(sql, parameters).await {
                Err(Failure::Away(_) | Failure::Unknown(_))
                    if begun.elapsed() < PATIENCE && !self.shared.health.is_closed() =>
                {
                    sleep(PAUSE).await;
                }
                Err(failure) if schema::has_moved(&failure) && begun.elapsed() < PATIENCE => {
                    self.shared.enter(self.link).await?;
                }
                outcome => return Ok(outcome?),
            }
        }
    }
}

/// Tells who waits for a session's messages. A number never falls.
fn raise(shared: &Shared, session: &str, last: u64) {
    let mut counters = lock(&shared.counters);
    let Some(sender) = counters.get(session) else { return };
    if sender.receiver_count() == 0 {
        counters.remove(session);
    } else {
        sender.send_if_modified(|known| last > *known && std::mem::replace(known, last) != last);
    }
}

/// A receiver of the session's last number.
pub(super) async fn counter(shared: &Shared, session: &str) -> Result<watch::Receiver<u64>, StoreError> {
    let receiver = {
        let mut counters = lock(&shared.counters);
        if counters.len() >= 1_024 {
            counters.retain(|_, sender| sender.receiver_count() > 0);
        }
        counters.entry(session.into()).or_insert_with(|| watch::channel(0).0).subscribe()
    };
    // Whatever is appended from now on is told; this is what was before.
    let sql = "SELECT last FROM mainstay.sessions WHERE session = $1 AND NOT dropped";
    let rows = shared.readers.query(sql, &[&session]).await?;
    raise(shared, session, rows.first().map_or(0, |row| row.get::<_, i64>(0)).cast_unsigned());
    let mut receiver = receiver;
    receiver.mark_unchanged();
    Ok(receiver)
}

/// Looks what other replicas have appended to sessions that somebody here waits for. One that is gone has no more.
pub(super) async fn look(shared: &Shared) -> Result<(), StoreError> {
    let waited: Vec<Arc<str>> = {
        let counters = lock(&shared.counters);
        let used = counters.iter().filter(|(_, sender)| sender.receiver_count() > 0);
        used.map(|(session, _)| Arc::clone(session)).collect()
    };
    if waited.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = waited.iter().map(|session| &**session).collect();
    let sql = "SELECT session, last FROM mainstay.sessions WHERE session = ANY ($1) AND NOT dropped";
    let rows = shared.readers.query(sql, &[&names]).await?;
    for row in &rows {
        raise(shared, row.get(0), row.get::<_, i64>(1).cast_unsigned());
    }
    let mut counters = lock(&shared.counters);
    for session in waited {
        let there = rows.iter().any(|row| row.get::<_, &str>(0) == &*session);
        // One that never had a message may still come.
        if !there && counters.get(&session).is_some_and(|sender| *sender.borrow() > 0) {
            counters.remove(&session);
        }
    }
    Ok(())
}

/// How a sender is written in the table.
const fn code(sender: Sender) -> i16 {
    match sender {
        Sender::Agent => 0,
        Sender::User => 1,
        Sender::Platform => 2,
    }
}

/// A page of messages, read in one statement.
pub(super) async fn page(readers: &Readers, session: &str, after: u64, limit: usize) -> Result<Page, StoreError> {
    let sql = "SELECT s.first, s.last, m.number, m.kind, m.body FROM mainstay.sessions s LEFT JOIN LATERAL (
            SELECT * FROM (
                SELECT number, kind, body, sum(octet_length(body)) OVER (ORDER BY number) - octet_length(body) AS before
                FROM (SELECT number, kind, body FROM mainstay.messages WHERE session = s.key AND number >= s.first
                    AND number > $2 AND number <= s.last ORDER BY number LIMIT $3) f) w WHERE before < $4
        ) m ON true WHERE s.session = $1 AND NOT s.dropped ORDER BY m.number";
    let (limit, next) = (i64::try_from(limit).unwrap_or(i64::MAX), after.saturating_add(1));
    let from = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = readers.query(sql, &[&session, &from, &limit, &PAGE_BYTES]).await?;
    let Some(row) = rows.first() else { return Ok(Page::default()) };
    let (first, last) = (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned());
    let gap = (next < first).then(|| (next, first - 1));
    let messages = rows.iter().filter(|row| row.get::<_, Option<i64>>(2).is_some()).map(message).collect();
    Ok(Page { gap, messages, last })
}

fn message(row: &Row) -> Message {
    let number = row.get::<_, i64>(2).cast_unsigned();
    let mut body = format!("{{\"number\":{number},").into_bytes();
    body.extend_from_slice(row.get::<_, &[u8]>(4).get(1..).unwrap_or_default());
    Message { number, kind: row.get::<_, &str>(3).into(), body: body.into() }
}

/// The run row that was put last.
pub(super) async fn run_row(shared: &Shared, session: &str) -> Result<Option<RunRow>, StoreError> {
    if let Some(row) = shared.dirty_row(session) {
        return Ok(Some(row));
    }
    let sql = "SELECT row FROM mainstay.sessions WHERE session = $1 AND NOT dropped";
    let rows = shared.readers.query(sql, &[&session]).await?;
    let text: Option<&str> = rows.first().and_then(|row| row.get(0));
    text.map(parsed).transpose()
}

/// The sessions of which something is kept.
pub(super) async fn sessions(shared: &Shared) -> Result<Vec<Arc<str>>, StoreError> {
    let rows = shared.readers.query("SELECT session FROM mainstay.sessions WHERE NOT dropped", &[]).await?;
    let mut names: Vec<Arc<str>> = rows.iter().map(|row| row.get::<_, &str>(0).into()).collect();
    let dirty: Vec<Arc<str>> = lock(&shared.dirty).keys().cloned().collect();
    names.extend(dirty);
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
