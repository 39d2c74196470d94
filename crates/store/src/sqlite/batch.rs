//! One group of object writes: checked against memory and each other, then written.
//!
//! Invariants: revisions are given to successes only, in the order of the jobs, without gaps. A failed write changes
//! nothing. Each statement must change exactly one row; if not, memory and disk disagree, and the process must stop.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::error::StoreError;
use crate::hub::Hub;
use crate::object::{Key, Object, Revision, Write};
use crate::watch::{Change, ChangeKind};

/// Why a transaction did not commit.
#[derive(Debug)]
pub(super) enum Broken {
    Sql(rusqlite::Error),
    /// A test wanted it so.
    Injected(mainstay_runtime::fault::Injected),
    /// Memory and disk disagree.
    Diverged(&'static str),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// The writes of a batch that will succeed.
#[derive(Debug)]
pub(super) struct Plan<'h> {
    hub: &'h Hub,
    base: Revision,
    /// The batch's own outcomes: they hide what is published.
    ahead: HashMap<Key, Option<Arc<Object>>>,
    changes: Vec<Arc<Change>>,
    metas: Vec<String>,
}

impl<'h> Plan<'h> {
    pub(super) fn new(hub: &'h Hub) -> Self {
        Self { hub, base: hub.published(), ahead: HashMap::new(), changes: Vec::new(), metas: Vec::new() }
    }

    pub(super) fn into_changes(self) -> Vec<Arc<Change>> {
        self.changes
    }

    /// Checks a write, and plans it when it holds.
    pub(super) fn write(&mut self, write: &Write, meta: String) -> Result<Arc<Object>, StoreError> {
        if let Some(required) = write.requires()
            && self.current(&required.key).is_none_or(|found| found.revision != required.revision)
        {
            return Err(StoreError::Unmet(required.key.clone()));
        }
        let current = self.current(write.key());
        let kind = match (write, &current) {
            (Write::Create { .. }, None) => ChangeKind::Created,
            (Write::Create { .. }, Some(current)) => return Err(StoreError::Exists(Arc::clone(current))),
            (Write::Update { .. } | Write::Delete { .. }, None) => return Err(StoreError::Missing),
            (Write::Update { expected, .. } | Write::Delete { expected, .. }, Some(current))
                if current.revision != *expected =>
            {
                return Err(StoreError::Conflict(Arc::clone(current)));
            }
            (Write::Update { .. }, Some(_)) => ChangeKind::Updated,
            (Write::Delete { .. }, Some(_)) => ChangeKind::Deleted,
        };
        let key =
            current.as_ref().map_or_else(|| self.hub.objects().intern(write.key()), |current| current.key.clone());
        let revision = Revision(self.base.0 + self.changes.len() as u64 + 1);
        let change = Arc::new(Change::stamp(kind, key.clone(), write.draft(), revision, current));
        let object = Arc::clone(&change.object);
        self.ahead.insert(key, (kind != ChangeKind::Deleted).then(|| Arc::clone(&object)));
        self.changes.push(change);
        self.metas.push(meta);
        Ok(object)
    }

    /// The object as it will be once what is planned so far is committed.
    fn current(&self, key: &Key) -> Option<Arc<Object>> {
        self.ahead.get(key).map_or_else(|| self.hub.get(key), Clone::clone)
    }

    /// Raises the revision, then writes each change.
    pub(super) fn apply(&self, connection: &Connection) -> Result<(), Broken> {
        let Some(last) = self.changes.last() else { return Ok(()) };
        let mut raise = connection.prepare_cached("UPDATE log SET revision = ?2 WHERE revision = ?1")?;
        one(raise.execute(params![self.base.0, last.revision().0])?, "the newest revision")?;
        for (change, meta) in self.changes.iter().zip(&self.metas) {
            record(connection, change, meta)?;
            point(connection, change)?;
        }
        Ok(())
    }
}

fn one(changed: usize, what: &'static str) -> Result<(), Broken> {
    if changed == 1 { Ok(()) } else { Err(Broken::Diverged(what)) }
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
