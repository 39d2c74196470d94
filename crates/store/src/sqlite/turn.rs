//! One transaction: jobs are done in their order, and each sees what those before it did.
//!
//! What is in memory changes only once all of it is committed; until then it is gathered here.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::Connection;

use super::jobs::{Broken, Failed, Reply};
use super::objects::Writes;
use super::operations::{Effects, Leases, Operations};
use super::sessions::{Batch, Sessions};
use crate::error::StoreError;
use crate::given::Given;
use crate::hub::Hub;
use crate::keyring::Ring;
use crate::message::{Append, Appended};
use crate::object::{Object, Revision, Write};
use crate::operation;
use crate::watch::Change;

/// See the module.
#[derive(Debug)]
pub(super) struct Turn<'w> {
    connection: &'w Connection,
    pub(super) objects: Writes<'w>,
    pub(super) operations: Operations<'w>,
    /// As it is after the last change of it.
    pub(super) ring: Option<Ring>,
    sessions: &'w Sessions,
    touched: Batch,
    freed: Vec<i64>,
    compactions: Vec<Compaction>,
    rows: usize,
}

/// A compaction that was asked for, and who is to be told when it is complete.
pub(super) type Compaction = (Revision, Reply<()>);

/// What is to be made visible once the transaction is committed.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) changes: Vec<Arc<Change>>,
    pub(super) operations: Effects,
    pub(super) ring: Option<Ring>,
    pub(super) touched: Batch,
    pub(super) freed: Vec<i64>,
    pub(super) compactions: Vec<Compaction>,
    /// Rows added, about.
    pub(super) rows: usize,
}

impl<'w> Turn<'w> {
    pub(super) fn new(connection: &'w Connection, hub: &'w Hub, sessions: &'w Sessions, leases: &'w Leases) -> Self {
        Self {
            connection,
            objects: Writes::new(connection, hub),
            operations: Operations::new(connection, leases),
            ring: None,
            sessions,
            touched: Batch::new(),
            freed: Vec::new(),
            compactions: Vec::new(),
            rows: 0,
        }
    }

    pub(super) const fn connection(&self) -> &'w Connection {
        self.connection
    }

    /// Whether what is given for a write holds.
    pub(super) fn meets(&self, given: &Given, write: &Write) -> Result<(), Failed> {
        if let Some(fence) = &given.fence {
            self.holds(fence)?;
        }
        if let Some(required) = &given.requires {
            self.objects.stands(required)?;
        }
        match given.none_since {
            Some(since) if !self.objects.none_since(write.key(), since)? => {
                let unmet = given.requires.as_ref().map_or_else(|| write.key(), |required| &required.key);
                Err(Failed::Refused(StoreError::Unmet(unmet.clone())))
            }
            _ => Ok(()),
        }
    }

    /// Makes an object write that holds; an operation's row follows it.
    pub(super) fn write(&mut self, write: &Write, meta: &str) -> Result<Arc<Object>, Failed> {
        let change = self.objects.write(write, meta)?;
        self.rows += 1;
        if operation::on_disk(&change.object.key.resource) {
            self.operations.follow(&change, write.draft().queued.as_deref())?;
        }
        Ok(Arc::clone(&change.object))
    }

    pub(super) fn append(&mut self, append: &Append) -> Result<Vec<Appended>, Failed> {
        self.rows += append.messages.len();
        let (numbers, freed) = self.sessions.append(self.connection, &mut self.touched, append)?;
        self.freed.extend(freed);
        Ok(numbers)
    }

    pub(super) fn drop_session(&mut self, session: &Arc<str>) -> Result<(), Failed> {
        self.freed.extend(self.sessions.drop_session(self.connection, &mut self.touched, session)?);
        Ok(())
    }

    pub(super) fn write_rows(&mut self, dirty: &HashSet<Arc<str>>) -> Result<(), Broken> {
        Ok(self.sessions.write_rows(self.connection, &mut self.touched, dirty)?)
    }

    /// A counter that is new begins above the start of the epoch: an earlier one may have known it.
    pub(super) fn raise(&self, counter: &str) -> Result<u64, Failed> {
        let raise = "INSERT INTO counters VALUES (?1, (SELECT revision >> 32 << 32 FROM log) + 1)
                     ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value";
        Ok(self.connection.prepare_cached(raise)?.query_row([counter], |row| row.get(0))?)
    }

    /// Begins when the transaction is committed.
    pub(super) fn compact(&mut self, compaction: Compaction) {
        self.compactions.push(compaction);
    }

    /// Writes what is written once for all jobs.
    pub(super) fn finish(self) -> Result<Gathered, Broken> {
        Ok(Gathered {
            changes: self.objects.finish()?,
            operations: self.operations.finish()?,
            ring: self.ring,
            touched: self.touched,
            freed: self.freed,
            compactions: self.compactions,
            rows: self.rows,
        })
    }
}
