//! The object writes of one transaction.
//!
//! Invariants: revisions are given to successes only, in the order of the jobs, without gaps. A failed write changes
//! nothing. Each statement must change exactly one row; if not, memory and disk disagree, and the process must stop.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::jobs::{Broken, Failed};
use super::schema;
use crate::error::StoreError;
use crate::hub::Hub;
use crate::object::{Key, Object, Requires, Revision, Write};
use crate::operation;
use crate::watch::{Change, ChangeKind};

/// The writes of a transaction so far.
#[derive(Debug)]
pub(super) struct Writes<'w> {
    connection: &'w Connection,
    hub: &'w Hub,
    base: Revision,
    /// The transaction's own outcomes, of objects in memory: they hide what is published.
    ahead: HashMap<Key, Option<Arc<Object>>>,
    changes: Vec<Arc<Change>>,
}

impl<'w> Writes<'w> {
    pub(super) fn new(connection: &'w Connection, hub: &'w Hub) -> Self {
        Self { connection, hub, base: hub.published(), ahead: HashMap::new(), changes: Vec::new() }
    }

    /// Checks a write, and makes it when it holds; `meta` is its draft's, serialised.
    pub(super) fn write(&mut self, write: &Write, meta: &str) -> Result<Arc<Change>, Failed> {
        let (kind, current) = self.judge(write)?;
        let key =
            current.as_ref().map_or_else(|| self.hub.objects().intern(write.key()), |current| current.key.clone());
        let revision = Revision(self.base.0 + self.changes.len() as u64 + 1);
        let change = Arc::new(Change::stamp(kind, key.clone(), write.draft(), revision, current));
        record(self.connection, &change, meta)?;
        point(self.connection, &change)?;
        if !operation::on_disk(&key.resource) {
            self.ahead.insert(key, (kind != ChangeKind::Deleted).then(|| Arc::clone(&change.object)));
        }
        self.changes.push(Arc::clone(&change));
        Ok(change)
    }

    /// What the write will do to which object.
    fn judge(&self, write: &Write) -> Result<(ChangeKind, Option<Arc<Object>>), Failed> {
        if let Some(required) = write.requires() {
            self.stands(required)?;
        }
        let current = self.current(write.key())?;
        let kind = match (write, &current) {
            (Write::Create { .. }, None) => ChangeKind::Created,
            (Write::Create { .. }, Some(current)) => {
                return Err(Failed::Refused(StoreError::Exists(Arc::clone(current))));
            }
            (Write::Update { .. } | Write::Delete { .. }, None) => return Err(Failed::Refused(StoreError::Missing)),
            (Write::Update { expected, .. } | Write::Delete { expected, .. }, Some(current))
                if current.revision != *expected =>
            {
                return Err(Failed::Refused(StoreError::Conflict(Arc::clone(current))));
            }
            (Write::Update { .. }, Some(_)) => ChangeKind::Updated,
            (Write::Delete { .. }, Some(_)) => ChangeKind::Deleted,
        };
        Ok((kind, current))
    }

    /// Whether an object is as a write requires it.
    pub(super) fn stands(&self, required: &Requires) -> Result<(), Failed> {
        let found = self.current(&required.key)?;
        if found.is_some_and(|found| found.revision == required.revision) {
            return Ok(());
        }
        Err(Failed::Refused(StoreError::Unmet(required.key.clone())))
    }

    /// Whether of the key's resource nothing was created in its namespace above a revision.
    pub(super) fn none_since(&self, key: &Key, since: Revision) -> rusqlite::Result<bool> {
        let none = "SELECT (SELECT floor FROM log) <= ?1 AND NOT EXISTS (SELECT 1 FROM history
                    WHERE revision > ?1 AND resource = ?2 AND namespace = ?3 AND kind = 0)";
        let mut none = self.connection.prepare_cached(none)?;
        none.query_row(params![since.0, key.resource, key.namespace], |row| row.get(0))
    }

    /// The object as it will be once what was written so far is committed.
    pub(super) fn current(&self, key: &Key) -> rusqlite::Result<Option<Arc<Object>>> {
        if operation::on_disk(&key.resource) {
            return read(self.connection, key);
        }
        Ok(self.ahead.get(key).map_or_else(|| self.hub.get(key), Clone::clone))
    }

    /// Raises the revision; gives the changes, in order.
    pub(super) fn finish(self) -> Result<Vec<Arc<Change>>, Broken> {
        if let Some(last) = self.changes.last() {
            let raise = "UPDATE log SET revision = ?2 WHERE revision = ?1";
            let raised = self.connection.prepare_cached(raise)?.execute(params![self.base.0, last.revision().0])?;
            one(raised, "the newest revision")?;
        }
        Ok(self.changes)
    }
}

/// A statement must change one row.
pub(super) fn one(changed: usize, what: &'static str) -> Result<(), Broken> {
    if changed == 1 { Ok(()) } else { Err(Broken::Diverged(what)) }
}

/// The object as the transaction has it on disk.
fn read(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Arc<Object>>> {
    let select = "SELECT h.revision, h.resource, h.namespace, h.name, h.meta, h.body
                  FROM objects o JOIN history h ON h.revision = o.revision
                  WHERE o.resource = ?1 AND o.namespace = ?2 AND o.name = ?3";
    let mut select = connection.prepare_cached(select)?;
    select.query_row((&key.resource, &key.namespace, &key.name), |row| schema::object(row).map(Arc::new)).optional()
}

/// Adds the change to the history.
fn record(connection: &Connection, change: &Change, meta: &str) -> Result<(), Broken> {
    let insert = "INSERT INTO history (revision, resource, namespace, name, kind, meta, body)
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let (object, key) = (&change.object, &change.object.key);
    let kind: u8 = match change.kind {
        ChangeKind::Created => 0,
        ChangeKind::Updated => 1,
        ChangeKind::Deleted => 2,
    };
    let values = params![object.revision.0, key.resource, key.namespace, key.name, kind, meta, &*object.body];
    one(connection.prepare_cached(insert)?.execute(values)?, "the history")
}

/// Points the current object to the change.
fn point(connection: &Connection, change: &Change) -> Result<(), Broken> {
    let (key, revision) = (&change.object.key, change.revision().0);
    let before = change.previous.as_ref().map_or(0, |object| object.revision.0);
    let changed = match change.kind {
        ChangeKind::Created => connection
            .prepare_cached("INSERT INTO objects (resource, namespace, name, revision) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![key.resource, key.namespace, key.name, revision])?,
        ChangeKind::Updated => {
            let update = "UPDATE objects SET revision = ?4
                          WHERE resource = ?1 AND namespace = ?2 AND name = ?3 AND revision = ?5";
            let values = params![key.resource, key.namespace, key.name, revision, before];
            connection.prepare_cached(update)?.execute(values)?
        }
        ChangeKind::Deleted => {
            let delete = "DELETE FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3 AND revision = ?4";
            let values = params![key.resource, key.namespace, key.name, before];
            connection.prepare_cached(delete)?.execute(values)?
        }
    };
    one(changed, "the current objects")
}
