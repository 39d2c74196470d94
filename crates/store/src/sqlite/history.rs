//! Reads of what memory does not hold: operations, snapshots that are not the newest, and changes that have left the ring.

use std::cmp::Ordering;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::guard::Guard;
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::readers::Readers;
use super::{database, schema};
use crate::error::StoreError;
use crate::hub::Hub;
use crate::object::{Key, Object, Revision};
use crate::watch::{Change, ChangeKind, Replay, ReplayPage, Scope, WatchEnd};
use crate::{ListPage, ListQuery};

/// Revisions that one page of a replay looks at, and the bytes after which it is cut.
const WINDOW: u64 = 2_048;
const PAGE_BYTES: usize = 2 << 20;

/// A deletion, as the history's `kind`.
const DELETED: u8 = 2;

/// What a scope means in SQL.
const IN_SCOPE: &str = "h.resource = :resource AND (:namespace IS NULL OR h.namespace = :namespace)
    AND (:name IS NULL OR h.name = :name)";

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct History {
    hub: Arc<Hub>,
    readers: Arc<Readers>,
}

impl History {
    pub(super) fn new(hub: Arc<Hub>, readers: Arc<Readers>) -> Self {
        Self { hub, readers }
    }

    /// One page of a list at the snapshot that is asked for, or at the newest.
    pub(super) fn list(&self, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        match query.at {
            Some(at) => Arc::clone(&self.readers).run(move |connection| snapshot(connection, &query, at)).boxed(),
            None => self.newest(move |connection, at| snapshot(connection, &query, at)),
        }
    }

    /// An object as it is now.
    pub(super) fn get(&self, key: Key) -> BoxFuture<'static, Result<Option<Arc<Object>>, StoreError>> {
        self.newest(move |connection, at| as_of(connection, &key, at))
    }

    /// Reads at the newest revision that is visible: what is committed but not published is not seen yet. Compaction may
    /// overtake a reader that had to wait; it takes a newer one then.
    fn newest<T: Send + 'static>(
        &self,
        read: impl Fn(&Connection, Revision) -> Result<T, StoreError> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (history, read) = (self.clone(), Arc::new(read));
        async move {
            loop {
                let (at, read) = (history.hub.objects().revision(), Arc::clone(&read));
                match Arc::clone(&history.readers).run(move |connection| read(connection, at)).await {
                    Err(StoreError::Expired { .. }) => {}
                    outcome => return outcome,
                }
            }
        }
        .boxed()
    }
}

impl Replay for History {
    fn page(&self, scope: Scope, after: Revision, upto: Revision) -> BoxFuture<'static, Result<ReplayPage, WatchEnd>> {
        let readers = Arc::clone(&self.readers);
        async move {
            let page = readers.run(move |connection| replay(connection, &scope, after, upto)).await;
            page.map_err(|error| match error {
                StoreError::Expired { .. } => WatchEnd::Expired,
                StoreError::Closed => WatchEnd::Closed,
                error => {
                    tracing::error!(%error, "a watch ends: history cannot be read");
                    WatchEnd::Closed
                }
            })
        }
        .boxed()
    }
}

/// The floor is read in the transaction that reads the rows, so a compaction cannot come between.
fn above_floor(connection: &Connection, asked: Revision) -> Result<(), StoreError> {
    let floor = connection.query_row("SELECT floor FROM log", [], |row| row.get(0)).map_err(database)?;
    let floor = Revision(floor);
    if asked < floor && Guard::Floor.holds() { Err(StoreError::Expired { asked, floor }) } else { Ok(()) }
}

fn as_of(connection: &Connection, key: &Key, at: Revision) -> Result<Option<Arc<Object>>, StoreError> {
    above_floor(connection, at)?;
    let newest = "SELECT revision, resource, namespace, name, meta, body, kind FROM history
        WHERE resource = ?1 AND namespace = ?2 AND name = ?3 AND revision <= ?4 ORDER BY revision DESC LIMIT 1";
    let mut newest = connection.prepare_cached(newest).map_err(database)?;
    let object = |row: &Row<'_>| Ok((row.get::<_, u8>(6)? != DELETED).then_some(Arc::new(schema::object(row)?)));
    let found = newest.query_row((&key.resource, &key.namespace, &key.name, at.0), object).optional();
    Ok(found.map_err(database)?.flatten())
}

fn snapshot(connection: &Connection, query: &ListQuery, at: Revision) -> Result<ListPage, StoreError> {
    above_floor(connection, at)?;
    // Each form is a range of the index, in the order of the keys.
    let after = match query.scope.namespace {
        Some(_) => "h.namespace = :namespace AND h.name > :after_name AND :after_namespace IS NOT NULL",
        None => "(h.namespace, h.name) > (:after_namespace, :after_name) AND :namespace IS NULL",
    };
    let select = format!(
        "SELECT h.revision, h.resource, h.namespace, h.name, h.meta, h.body FROM history h
         WHERE h.resource = :resource AND {after} AND (:name IS NULL OR h.name = :name) AND h.kind <> 2
         AND h.revision = (SELECT max(x.revision) FROM history x WHERE x.resource = h.resource
            AND x.namespace = h.namespace AND x.name = h.name AND x.revision <= :at)
         ORDER BY h.namespace, h.name LIMIT :limit"
    );
    // One more tells whether there is more.
    let limit = query.limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1));
    let after = query.after.as_ref().map_or(("", ""), |(namespace, name)| (namespace.as_str(), name.as_str()));
    let after = match query.scope.namespace.as_deref().map(|only| after.0.cmp(only)) {
        Some(Ordering::Less) => ("", ""),
        Some(Ordering::Greater) => {
            return Ok(ListPage { revision: at, items: Vec::new(), more: false, remaining: Some(0) });
        }
        Some(Ordering::Equal) | None => after,
    };
    let mut select = connection.prepare_cached(&select).map_err(database)?;
    let parameters = named_params! {
        ":resource": query.scope.resource, ":namespace": query.scope.namespace, ":name": query.scope.name,
        ":after_namespace": after.0, ":after_name": after.1, ":at": at.0, ":limit": limit,
    };
    let rows = select.query_map(parameters, |row| schema::object(row).map(Arc::new)).map_err(database)?;
    let mut items = rows.collect::<rusqlite::Result<Vec<Arc<Object>>>>().map_err(database)?;
    let more = query.limit.is_some_and(|limit| items.len() > limit);
    items.truncate(query.limit.unwrap_or(usize::MAX));
    Ok(ListPage { revision: at, items, more, remaining: (!more).then_some(0) })
}

fn replay(connection: &Connection, scope: &Scope, after: Revision, upto: Revision) -> Result<ReplayPage, StoreError> {
    above_floor(connection, after)?;
    let upto = Revision(upto.0.min(after.0 + WINDOW));
    let select = format!(
        "SELECT h.revision, h.resource, h.namespace, h.name, h.meta, h.body, h.kind FROM history h NOT INDEXED
         WHERE h.revision > :after AND h.revision <= :upto AND {IN_SCOPE} ORDER BY h.revision"
    );
    let mut statement = connection.prepare_cached(&select).map_err(database)?;
    let parameters = named_params! {
        ":after": after.0, ":upto": upto.0,
        ":resource": scope.resource, ":namespace": scope.namespace, ":name": scope.name,
    };
    let mut rows = statement.query(parameters).map_err(database)?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(database)? {
        let change = change(connection, row).map_err(database)?;
        bytes += change.weight();
        let revision = change.revision();
        changes.push(Arc::new(change));
        if bytes >= PAGE_BYTES {
            return Ok(ReplayPage { changes, upto: revision });
        }
    }
    Ok(ReplayPage { changes, upto })
}

fn change(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<Change> {
    let kind = match row.get::<_, u8>(6)? {
        0 => ChangeKind::Created,
        1 => ChangeKind::Updated,
        _ => ChangeKind::Deleted,
    };
    let object = schema::object(row)?;
    let previous = match kind {
        ChangeKind::Created => None,
        ChangeKind::Updated | ChangeKind::Deleted => before(connection, &object.key, object.revision)?,
    };
    Ok(Change::replayed(kind, (object.key, object.revision, object.meta), &object.body, previous))
}

fn before(connection: &Connection, key: &Key, revision: Revision) -> rusqlite::Result<Option<Arc<Object>>> {
    let select = "SELECT revision, resource, namespace, name, meta, body FROM history
        WHERE resource = ?1 AND namespace = ?2 AND name = ?3 AND revision < ?4 ORDER BY revision DESC LIMIT 1";
    let parameters = (&key.resource, &key.namespace, &key.name, revision.0);
    let mut statement = connection.prepare_cached(select)?;
    statement.query_row(parameters, |row| schema::object(row).map(Arc::new)).optional()
}
