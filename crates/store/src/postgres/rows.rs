//! Rows as objects, and reads of what memory does not hold.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};

use bytes::Bytes;
use mainstay_runtime::Tasks;
use mainstay_runtime::guard::Guard;
use serde::de::DeserializeOwned;
use tokio_postgres::Row;

use super::Address;
use super::link::{Failure, Link, Parameters};
use super::schema::diverged;
use super::shared::Shared;
use crate::error::StoreError;
use crate::hub::Objects;
use crate::object::{Key, Object, Revision};
use crate::operation::OPERATIONS;
use crate::watch::{Change, ChangeKind, ReplayPage, Scope};
use crate::{ListPage, ListQuery};

/// Revisions that one page of a replay looks at.
const WINDOW: u64 = 1_024;
/// A deletion, as the history's `kind`.
const DELETED: i16 = 2;

/// The connections on which is read what memory does not hold. Each carries several reads, one after the other.
#[derive(Debug)]
pub(super) struct Readers {
    links: Vec<Link>,
    next: AtomicUsize,
}

impl Readers {
    pub(super) fn new(address: &Address, name: &str, count: usize, tasks: &Tasks) -> Self {
        let link = |at: usize| Link::new(address, format!("{name} {at}"), tasks, None);
        Self { links: (0..count.max(1)).map(link).collect(), next: AtomicUsize::new(0) }
    }

    /// Gives the connections up, which do not answer: what waits for them is asked again on others.
    pub(super) async fn hang_up(&self) {
        for link in &self.links {
            link.hang_up().await;
        }
    }

    /// A statement's rows. A read whose answer was lost is harmless to repeat.
    pub(super) async fn query(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Vec<Row>, StoreError> {
        let link = &self.links[self.next.fetch_add(1, Atomic::Relaxed) % self.links.len()];
        match link.query(sql, parameters).await {
            Err(Failure::Unknown(_)) => Ok(link.query(sql, parameters).await?),
            outcome => Ok(outcome?),
        }
    }
}

/// A revision from a column.
pub(super) fn revision(row: &Row, column: usize) -> Revision {
    Revision(row.get::<_, i64>(column).cast_unsigned())
}

/// JSON from a column of text.
pub(super) fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Database(Arc::new(error)))
}

/// An object from the columns revision, resource, namespace, name, meta, body, the first of them at `at`.
pub(super) fn object(row: &Row, at: usize) -> Result<Object, StoreError> {
    let text = |column: usize| Arc::<str>::from(row.get::<_, &str>(at + column));
    let key = Key { resource: text(1), namespace: text(2), name: text(3) };
    let body = Bytes::copy_from_slice(row.get::<_, &[u8]>(at + 5));
    Ok(Object { key, revision: revision(row, at), meta: Arc::new(parsed(row.get(at + 4))?), body })
}

pub(super) fn kind(code: i16) -> ChangeKind {
    match code {
        0 => ChangeKind::Created,
        1 => ChangeKind::Updated,
        _ => ChangeKind::Deleted,
    }
}

/// The floor is read in the statement that reads the rows, in its first column: what is asked for was not given up since.
fn above_floor(rows: &[Row], asked: Revision) -> Result<(), StoreError> {
    let floor = rows.first().map_or(Revision(0), |row| revision(row, 0));
    if asked < floor && Guard::Floor.holds() { Err(StoreError::Expired { asked, floor }) } else { Ok(()) }
}

/// An object as it was at a revision.
pub(super) async fn as_of(readers: &Readers, key: &Key, at: Revision) -> Result<Option<Arc<Object>>, StoreError> {
    let sql = "SELECT l.floor, v.* FROM mainstay.log l LEFT JOIN LATERAL (
            SELECT revision, resource, namespace, name, meta, body, kind FROM mainstay.versions
            WHERE resource = $1 AND namespace = $2 AND name = $3 AND revision <= $4 ORDER BY revision DESC LIMIT 1
        ) v ON true";
    let rows = readers.query(sql, &[&&*key.resource, &&*key.namespace, &&*key.name, &at.0.cast_signed()]).await?;
    above_floor(&rows, at)?;
    let found = rows.first().filter(|row| row.get::<_, Option<i16>>(7).is_some_and(|kind| kind != DELETED));
    found.map(|row| object(row, 1).map(Arc::new)).transpose()
}

/// Versions by their revisions.
pub(super) async fn versions(readers: &Readers, wanted: &[i64]) -> Result<Vec<Arc<Object>>, StoreError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT revision, resource, namespace, name, meta, body FROM mainstay.versions WHERE revision = ANY ($1)";
    let rows = readers.query(sql, &[&wanted]).await?;
    rows.iter().map(|row| object(row, 0).map(Arc::new)).collect()
}

/// One page of a list at a snapshot.
pub(super) async fn snapshot(readers: &Readers, query: &ListQuery, at: Revision) -> Result<ListPage, StoreError> {
    // Both parts in the order of their indexes: a page reads its rows, and not those of all pages.
    let sql = "SELECT l.floor, v.* FROM mainstay.log l LEFT JOIN LATERAL (
            SELECT revision, resource, namespace, name, meta, body FROM (
                SELECT * FROM (
                    SELECT DISTINCT ON (namespace, name) revision, resource, namespace, name, meta, body, kind
                    FROM mainstay.history WHERE resource = $1 AND revision <= $2 AND ($3::text IS NULL OR namespace = $3)
                        AND ($4::text IS NULL OR name = $4) AND (namespace, name) > ($5, $6)
                    ORDER BY namespace, name, revision DESC) h
                UNION ALL (
                    SELECT revision, resource, namespace, name, meta, body, kind
                    FROM mainstay.kept k WHERE resource = $1 AND revision <= $2 AND ($3::text IS NULL OR namespace = $3)
                        AND ($4::text IS NULL OR name = $4) AND (namespace, name) > ($5, $6)
                        AND NOT EXISTS (SELECT FROM mainstay.history h WHERE h.resource = k.resource
                            AND h.namespace = k.namespace AND h.name = k.name AND h.revision <= $2)
                    ORDER BY namespace, name)) d
            WHERE kind <> 2 ORDER BY namespace, name LIMIT $7
        ) v ON true";
    let after = query.after.as_ref().map_or(("", ""), |(namespace, name)| (namespace.as_str(), name.as_str()));
    let passed = query.scope.namespace.as_deref().is_some_and(|only| after.0.cmp(only) == Ordering::Greater);
    if passed {
        return Ok(ListPage { revision: at, items: Vec::new(), more: false, remaining: Some(0) });
    }
    // One more tells whether there is more.
    let limit = query.limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1));
    let (namespace, name) = (query.scope.namespace.as_deref(), query.scope.name.as_deref());
    let resource = &*query.scope.resource;
    let parameters: Parameters<'_> = &[&resource, &at.0.cast_signed(), &namespace, &name, &after.0, &after.1, &limit];
    let rows = readers.query(sql, parameters).await?;
    above_floor(&rows, at)?;
    let there = rows.iter().filter(|row| row.get::<_, Option<i64>>(1).is_some());
    let mut items = there.map(|row| object(row, 1).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let more = query.limit.is_some_and(|limit| items.len() > limit);
    items.truncate(query.limit.unwrap_or(usize::MAX));
    Ok(ListPage { revision: at, items, more, remaining: (!more).then_some(0) })
}

/// How often a read at the newest revision is made anew that compaction has overtaken.
const TRIES: usize = 4;

/// Reads at the newest revision that is visible. Compaction may overtake it; it takes a newer one then.
pub(super) async fn newest(shared: &Arc<Shared>, query: &ListQuery) -> Result<ListPage, StoreError> {
    for _ in 0..TRIES {
        let at = shared.hub.objects().revision();
        match snapshot(&shared.readers, query, at).await {
            Err(StoreError::Expired { floor, .. }) => Arc::clone(shared).reach(floor).await?,
            outcome => return outcome,
        }
    }
    Err(StoreError::Busy)
}

pub(super) async fn current(shared: &Arc<Shared>, key: &Key) -> Result<Option<Arc<Object>>, StoreError> {
    for _ in 0..TRIES {
        let at = shared.hub.objects().revision();
        match as_of(&shared.readers, key, at).await {
            Err(StoreError::Expired { floor, .. }) => Arc::clone(shared).reach(floor).await?,
            outcome => return outcome,
        }
    }
    Err(StoreError::Busy)
}

/// What one page of a replay may weigh.
const PAGE_BYTES: i64 = 2 << 20;

/// Changes of a scope that are in the history.
pub(super) async fn replay(
    readers: &Readers,
    scope: &Scope,
    after: Revision,
    upto: Revision,
) -> Result<ReplayPage, StoreError> {
    let sql = "SELECT l.floor, h.*, p.* FROM mainstay.log l LEFT JOIN LATERAL (
            SELECT * FROM (
                SELECT revision, resource, namespace, name, meta, body, kind, octet_length(body) AS size,
                    sum(octet_length(body)) OVER (ORDER BY revision) AS total FROM mainstay.history
                WHERE revision > $1 AND revision <= $2 AND resource = $3 AND ($4::text IS NULL OR namespace = $4)
                    AND ($5::text IS NULL OR name = $5)) w
            WHERE total - size < $6
        ) h ON true LEFT JOIN LATERAL (
            SELECT revision, resource, namespace, name, meta, body FROM mainstay.versions v
            WHERE v.resource = h.resource AND v.namespace = h.namespace AND v.name = h.name AND v.revision < h.revision
                AND h.kind > 0 ORDER BY v.revision DESC LIMIT 1
        ) p ON true ORDER BY h.revision";
    let upto = Revision(upto.0.min(after.0 + WINDOW));
    let (namespace, name, resource) = (scope.namespace.as_deref(), scope.name.as_deref(), &*scope.resource);
    let parameters: Parameters<'_> =
        &[&after.0.cast_signed(), &upto.0.cast_signed(), &resource, &namespace, &name, &PAGE_BYTES];
    let rows = readers.query(sql, parameters).await?;
    above_floor(&rows, after)?;
    let there = rows.iter().filter(|row| row.get::<_, Option<i64>>(1).is_some());
    let changes = there.map(|row| change(row, 1, 10).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let cut = rows.last().is_some_and(|row| row.get::<_, Option<i64>>(9).is_some_and(|total| total >= PAGE_BYTES));
    let last = changes.last().map_or(upto, |change| change.revision());
    Ok(ReplayPage { upto: if cut { last } else { upto }, changes })
}

/// A change from an object's columns and its kind, and what was before from another object's.
fn change(row: &Row, at: usize, before: usize) -> Result<Change, StoreError> {
    let object = object(row, at)?;
    let kind = kind(row.get(at + 6));
    let had = row.get::<_, Option<i64>>(before).is_some();
    let previous = if had { Some(Arc::new(self::object(row, before)?)) } else { None };
    if previous.is_none() && kind != ChangeKind::Created {
        return Err(diverged("a change of what was not there"));
    }
    Ok(Change::replayed(kind, (object.key, object.revision, object.meta), &object.body, previous))
}

/// One change of the log, whose object's predecessor is told only for those that memory does not hold.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) kind: ChangeKind,
    pub(super) object: Object,
    pub(super) previous: Option<Arc<Object>>,
}

/// Where the database stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) newest: Revision,
    pub(super) floor: Revision,
    /// Of the ring of keys.
    pub(super) generation: u64,
}

/// Where the log stands, and its next changes, of all resources: up to about [`PAGE_BYTES`].
pub(super) async fn log(readers: &Readers, after: Revision) -> Result<(Ends, Vec<Logged>), StoreError> {
    let sql = "SELECT l.revision, l.floor, c.value, h.*, p.* FROM mainstay.log l
        LEFT JOIN mainstay.counters c ON c.name = 'store/keyring'
        LEFT JOIN LATERAL (
            SELECT * FROM (
                SELECT revision, resource, namespace, name, meta, body, kind,
                    sum(octet_length(body)) OVER (ORDER BY revision) - octet_length(body) AS before
                FROM mainstay.history WHERE revision > $1 AND revision <= $1 + 1024) w WHERE before < $2
        ) h ON true LEFT JOIN LATERAL (
            SELECT revision, resource, namespace, name, meta, body FROM mainstay.versions v
            WHERE h.resource = $3 AND h.kind > 0 AND v.resource = $3 AND v.namespace = h.namespace AND v.name = h.name
                AND v.revision < h.revision ORDER BY v.revision DESC LIMIT 1
        ) p ON true ORDER BY h.revision";
    let rows = readers.query(sql, &[&after.0.cast_signed(), &PAGE_BYTES, &OPERATIONS]).await?;
    let first = rows.first().ok_or_else(|| diverged("there is no log"))?;
    let generation = first.get::<_, Option<i64>>(2).unwrap_or(0).cast_unsigned();
    let ends = Ends { newest: revision(first, 0), floor: revision(first, 1), generation };
    let logged = |row: &Row| {
        let had = row.get::<_, Option<i64>>(11).is_some();
        let previous = if had { Some(Arc::new(object(row, 11)?)) } else { None };
        Ok(Logged { kind: kind(row.get(9)), object: object(row, 3)?, previous })
    };
    let there = rows.iter().filter(|row| row.get::<_, Option<i64>>(3).is_some());
    Ok((ends, there.map(logged).collect::<Result<_, StoreError>>()?))
}

/// The current objects that are kept in memory, at the newest revision, and the floor. All of it is one statement, which sees
/// one state.
pub(super) async fn load(link: &Link) -> Result<(Objects, Revision), StoreError> {
    let sql = "SELECT v.revision, v.resource, v.namespace, v.name, v.meta, v.body, l.revision, l.floor
        FROM mainstay.log l LEFT JOIN mainstay.objects o ON o.resource <> $1
        LEFT JOIN mainstay.versions v ON v.revision = o.revision";
    let rows = link.query(sql, &[&OPERATIONS]).await?;
    let first = rows.first().ok_or_else(|| diverged("there is no log"))?;
    let (newest, floor) = (revision(first, 6), revision(first, 7));
    let mut objects = Objects::at(newest);
    for row in rows.iter().filter(|row| row.get::<_, Option<i64>>(0).is_some()) {
        let mut object = object(row, 0)?;
        object.key = objects.intern(&object.key);
        objects.load(Arc::new(object));
    }
    Ok((objects, floor))
}
