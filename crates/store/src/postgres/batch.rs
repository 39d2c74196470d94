//! Jobs as the parameters of one statement, and its answer.
//!
//! Consecutive jobs of one sort make a segment, which the database does at once, so no two in it may concern each other.

use std::collections::HashSet;

use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

use super::jobs::{Ask, Job};
use crate::given::Given;
use crate::object::{Key, Requires, Write};
use crate::operation::{Queued, on_disk};

/// What the items of a segment are; the numbers are those of `apply_1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Write = 1,
    /// New operations that have no concurrency key and are due at once.
    Enqueue = 2,
    /// Other writes of operations that the queue has to know of.
    Follow = 3,
    End = 4,
    PutOff = 5,
    Journal = 6,
    Claim = 7,
}

/// The parameters, column by column.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) id: Uuid,
    pub(super) now_ms: Option<i64>,
    pub(super) wall_ms: Option<i64>,
    pub(super) segments: Vec<i32>,
    pub(super) kind: Vec<Option<i16>>,
    pub(super) resource: Vec<Option<String>>,
    pub(super) namespace: Vec<Option<String>>,
    pub(super) name: Vec<Option<String>>,
    pub(super) expected: Vec<Option<i64>>,
    pub(super) need_resource: Vec<Option<String>>,
    pub(super) need_namespace: Vec<Option<String>>,
    pub(super) need_name: Vec<Option<String>>,
    pub(super) need: Vec<Option<i64>>,
    pub(super) fence: Vec<Option<String>>,
    pub(super) fence_term: Vec<Option<i64>>,
    pub(super) meta: Vec<Option<String>>,
    pub(super) head: Vec<Option<Vec<u8>>>,
    pub(super) tail: Vec<Option<Vec<u8>>>,
    pub(super) ask: Vec<Option<Value>>,
}

/// What the database says of a batch.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The newest revision before it.
    pub(super) base: u64,
    pub(super) codes: Vec<i16>,
    /// Of those that were written.
    pub(super) revisions: Vec<Option<i64>>,
    /// The object's revision before, written or not.
    pub(super) previous: Vec<Option<i64>>,
    pub(super) claimed: Vec<String>,
    pub(super) attempts: Vec<i64>,
    pub(super) lost: u64,
    pub(super) woken: bool,
    pub(super) next_due: Option<i64>,
    pub(super) next_expiry: Option<i64>,
}

/// What a segment has touched so far.
#[derive(Default)]
struct Touched {
    sort: Option<Sort>,
    keys: HashSet<Key>,
    ids: HashSet<String>,
}

impl Batch {
    pub(super) fn of(jobs: &[Job]) -> Self {
        let mut batch = Self { id: Uuid::new_v4(), ..Self::default() };
        let mut touched = Touched::default();
        for job in jobs {
            batch.now_ms = job.now_ms.max(batch.now_ms);
            batch.wall_ms = job.wall_ms.or(batch.wall_ms);
            batch.add(&job.ask, &mut touched);
        }
        batch
    }

    fn add(&mut self, ask: &Ask, touched: &mut Touched) {
        let sort = sort(ask);
        let at = i32::try_from(self.ask.len()).unwrap_or(i32::MAX) + 1;
        if touched.is_apart(sort, ask) {
            *touched = Touched { sort: Some(sort), ..Touched::default() };
            self.segments.extend([sort as i32, at, at]);
        } else if let Some(end) = self.segments.last_mut() {
            *end = at;
        }
        touched.note(ask);
        let (write, meta, told) = match ask {
            Ask::Write { write, meta, given } => (Some(write), Some(meta), with(given, told(write))),
            Ask::End { write, meta, how, .. } => (Some(write), Some(meta), Some(how.clone())),
            Ask::Claim(value) | Ask::Journal { entry: value, .. } | Ask::PutOff { how: value, .. } => {
                (None, None, Some(value.clone()))
            }
        };
        self.push(write, meta, told);
        let fence = match ask {
            Ask::Write { given, .. } => given.fence.as_ref(),
            _ => None,
        };
        self.fence.push(fence.map(|fence| fence.lease.to_string()));
        self.fence_term.push(fence.map(|fence| fence.term.cast_signed()));
    }

    fn push(&mut self, write: Option<&Write>, meta: Option<&String>, told: Option<Value>) {
        let key = write.map(Write::key);
        let required = write.and_then(Write::requires);
        let kind = |write: &Write| match write {
            Write::Create { .. } => 0,
            Write::Update { .. } => 1,
            Write::Delete { .. } => 2,
        };
        let expected = |write: &Write| match write {
            Write::Create { .. } => None,
            Write::Update { expected, .. } | Write::Delete { expected, .. } => Some(expected.0.cast_signed()),
        };
        let draft = write.map(Write::draft);
        self.kind.push(write.map(kind));
        self.resource.push(key.map(|key| key.resource.to_string()));
        self.namespace.push(key.map(|key| key.namespace.to_string()));
        self.name.push(key.map(|key| key.name.to_string()));
        self.expected.push(write.and_then(expected));
        self.need_resource.push(required.map(|one| one.key.resource.to_string()));
        self.need_namespace.push(required.map(|one| one.key.namespace.to_string()));
        self.need_name.push(required.map(|one| one.key.name.to_string()));
        self.need.push(required.map(|one| one.revision.0.cast_signed()));
        self.meta.push(meta.cloned());
        self.head.push(draft.map(|draft| draft.head.to_vec()));
        self.tail.push(draft.map(|draft| draft.tail.to_vec()));
        self.ask.push(told);
    }
}

impl Touched {
    /// Whether the next one may not be in the same segment.
    fn is_apart(&self, sort: Sort, ask: &Ask) -> bool {
        self.sort != Some(sort)
            || match ask {
                Ask::Write { write, given, .. } => self.has_touched(write) || self.has_touched_what(given, write),
                Ask::End { write, .. } => self.has_touched(write),
                Ask::Journal { attempt, .. } => self.ids.contains(&*attempt.id),
                Ask::PutOff { .. } => false,
                Ask::Claim(_) => true,
            }
    }

    fn has_touched(&self, write: &Write) -> bool {
        self.keys.contains(write.key()) || write.requires().is_some_and(|Requires { key, .. }| self.keys.contains(key))
    }

    fn has_touched_what(&self, given: &Given, write: &Write) -> bool {
        let near = |other: &Key| other.resource == write.key().resource && other.namespace == write.key().namespace;
        given.requires.as_ref().is_some_and(|required| self.keys.contains(&required.key))
            || (given.none_since.is_some() && self.keys.iter().any(near))
    }

    fn note(&mut self, ask: &Ask) {
        match ask {
            Ask::Write { write, .. } | Ask::End { write, .. } => drop(self.keys.insert(write.key().clone())),
            Ask::Journal { attempt, .. } => drop(self.ids.insert(attempt.id.to_string())),
            Ask::PutOff { .. } | Ask::Claim(_) => {}
        }
    }
}

fn sort(ask: &Ask) -> Sort {
    match ask {
        Ask::Write { write, .. } if !on_disk(&write.key().resource) => Sort::Write,
        Ask::Write { write, .. } => match (write, write.draft().queued.as_deref()) {
            (Write::Create { .. }, Some(queued)) if is_plain(queued) => Sort::Enqueue,
            (Write::Update { .. } | Write::Create { .. }, None) => Sort::Write,
            _ => Sort::Follow,
        },
        Ask::End { .. } => Sort::End,
        Ask::PutOff { .. } => Sort::PutOff,
        Ask::Journal { .. } => Sort::Journal,
        Ask::Claim(_) => Sort::Claim,
    }
}

fn is_plain(queued: &Queued) -> bool {
    queued.cancelled || (queued.concurrency_key.is_none() && queued.run_at_ms <= 0)
}

/// What the queue is told by a write of an operation's object.
fn told(write: &Write) -> Option<Value> {
    if !on_disk(&write.key().resource) {
        return None;
    }
    let uid = &write.draft().meta.uid;
    Some(match write.draft().queued.as_deref() {
        None => json!({ "uid": uid }),
        Some(queued) => json!({
            "uid": uid, "lane": queued.lane, "handler": queued.handler, "priority": queued.priority,
            "runAt": queued.run_at_ms, "key": queued.concurrency_key, "cancelled": queued.cancelled,
            "replays": queued.replays, "created": queued.created_ms,
        }),
    })
}

/// What is told of a write, with what must hold for it besides (`meets` reads it).
fn with(given: &Given, told: Option<Value>) -> Option<Value> {
    let Given { fence: _, requires, none_since } = given;
    if requires.is_none() && none_since.is_none() {
        return told;
    }
    let mut told = told.unwrap_or_else(|| json!({}));
    let required = requires.as_ref().map(|Requires { key, revision }| {
        json!({ "resource": key.resource, "namespace": key.namespace, "name": key.name, "revision": revision })
    });
    told["given"] = json!({ "requires": required, "noneSince": none_since });
    Some(told)
}

impl Answer {
    /// From the columns of a row of `batches`; `None` when the batch never was.
    pub(super) fn of(row: &Row) -> Option<Self> {
        let base: i64 = row.get::<_, Option<i64>>("base")?;
        Some(Self {
            base: base.cast_unsigned(),
            codes: row.get("codes"),
            revisions: row.get("revisions"),
            previous: row.get("previous"),
            claimed: row.get("claimed"),
            attempts: row.get("attempts"),
            lost: u64::try_from(row.get::<_, i32>("lost")).unwrap_or(0),
            woken: row.get("woken"),
            next_due: row.get("next_due"),
            next_expiry: row.get("next_expiry"),
        })
    }
}
