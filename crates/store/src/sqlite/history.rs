//! Reads of the past: snapshots that are not the newest, and changes that have left the ring.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::readers::Readers;
use super::{database, schema};
use crate::error::StoreError;
use crate::object::{Key, Object, Revision};
use crate::watch::{Change, ChangeKind, Replay, ReplayPage, Scope, WatchEnd};
use crate::{ListPage, ListQuery};

/// Revisions that one page of a replay looks at, and the bytes after which it is cut.
const WINDOW: u64 = 2_048;
const PAGE_BYTES: usize = 2 << 20;

/// What a scope means in SQL.
const IN_SCOPE: &str = "h.resource = :resource AND (:namespace IS NULL OR h.namespace = :namespace)
    AND (:name IS NULL OR h.name = :name)";

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    readers: Arc<Readers>,
}

impl History {
    pub(super) fn new(readers: Arc<Readers>) -> Self {
        Self { readers }
    }

    pub(super) fn list(&self, query: ListQuery, at: Revision) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        Arc::clone(&self.readers).run(move |connection| snapshot(connection, &query, at)).boxed()
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
    if asked < floor { Err(StoreError::Expired { asked, floor }) } else { Ok(()) }
}

fn snapshot(connection: &Connection, query: &ListQuery, at: Revision) -> Result<ListPage, StoreError> {
    above_floor(connection, at)?;
    let limit = query.limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let live = format!(
        "FROM history h WHERE {IN_SCOPE} AND (h.namespace, h.name) > (:after_namespace, :after_name) AND h.kind <> 2
         AND h.revision = (SELECT max(x.revision) FROM history x WHERE x.resource = h.resource
            AND x.namespace = h.namespace AND x.name = h.name AND x.revision <= :at)"
    );
    let columns = "h.revision, h.resource, h.namespace, h.name, h.meta, h.body";
    let page = |after: (&str, &str), limit: i64| {
        let select = format!("SELECT {columns} {live} ORDER BY h.namespace, h.name LIMIT :limit");
        let mut statement = connection.prepare_cached(&select)?;
        let rows = statement.query_map(
            named_params! {
                ":resource": query.scope.resource, ":namespace": query.scope.namespace, ":name": query.scope.name,
                ":after_namespace": after.0, ":after_name": after.1, ":at": at.0, ":limit": limit,
            },
            |row| schema::object(row).map(Arc::new),
        )?;
        rows.collect::<rusqlite::Result<Vec<Arc<Object>>>>()
    };
    let count = |after: (&str, &str)| {
        connection.prepare_cached(&format!("SELECT count(*) {live}"))?.query_row(
            named_params! {
                ":resource": query.scope.resource, ":namespace": query.scope.namespace, ":name": query.scope.name,
                ":after_namespace": after.0, ":after_name": after.1, ":at": at.0,
            },
            |row| row.get(0),
        )
    };
    let after = query.after.as_ref().map_or(("", ""), |(namespace, name)| (namespace.as_str(), name.as_str()));
    let items = page(after, limit).map_err(database)?;
    let last = items.last().map_or(after, |object| (&*object.key.namespace, &*object.key.name));
    let cut = query.limit.is_some_and(|limit| items.len() == limit);
    let remaining: u64 = if cut { count(last).map_err(database)? } else { 0 };
    Ok(ListPage { revision: at, remaining: usize::try_from(remaining).unwrap_or(usize::MAX), items })
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
