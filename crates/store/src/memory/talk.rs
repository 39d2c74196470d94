//! Messages and run rows, outside the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::message::{Append, Appended, Message, Page, RunRow, Sender};

/// What is kept of all sessions.
#[derive(Debug, Default)]
pub(super) struct Talk {
    sessions: BTreeMap<Arc<str>, Session>,
    counters: BTreeMap<Arc<str>, watch::Sender<u64>>,
    pub(super) rows: BTreeMap<Arc<str>, RunRow>,
}

#[derive(Debug, Default)]
struct Session {
    ids: BTreeMap<(Sender, Arc<str>), u64>,
    /// The first message there is first; its number is `trimmed + 1`.
    kept: std::collections::VecDeque<(Arc<str>, Bytes)>,
    trimmed: u64,
}

impl Session {
    fn last(&self) -> u64 {
        self.trimmed + self.kept.len() as u64
    }
}

impl Talk {
    pub(super) fn append(&mut self, append: &Append) -> Vec<Appended> {
        let session = self.sessions.entry(Arc::clone(&append.session)).or_default();
        let before = session.last();
        let mut given = Vec::new();
        for message in &append.messages {
            let id = (append.sender, Arc::clone(&message.id));
            let known = session.ids.get(&id).copied();
            let number = known.unwrap_or_else(|| {
                session.kept.push_back((Arc::clone(&message.kind), message.body.clone()));
                session.last()
            });
            session.ids.insert(id, number);
            given.push(Appended { number, duplicate: known.is_some() });
        }
        let mut bytes: u64 = session.kept.iter().map(|(_, body)| body.len() as u64).sum();
        if session.last() > before && append.keep.is_over(session.kept.len() as u64, bytes) {
            let goal = append.keep.after_stride();
            while goal.is_over(session.kept.len() as u64, bytes) && session.kept.len() > 1 {
                bytes -= session.kept.pop_front().map_or(0, |(_, body)| body.len() as u64);
                session.trimmed += 1;
            }
        }
        let last = session.last();
        self.counter(&append.session).send_replace(last);
        given
    }

    pub(super) fn page(&self, session: &str, after: u64, limit: usize) -> Page {
        let Some(session) = self.sessions.get(session) else { return Page::default() };
        let next = after.saturating_add(1);
        let gap = (next <= session.trimmed).then_some((next, session.trimmed));
        let skipped = usize::try_from(after.max(session.trimmed) - session.trimmed).unwrap_or(usize::MAX);
        let numbered = (session.trimmed + 1..).zip(&session.kept).skip(skipped).take(limit);
        let message = |(number, (kind, body)): (u64, &(Arc<str>, Bytes))| {
            let mut whole = format!("{{\"number\":{number},").into_bytes();
            whole.extend_from_slice(body.get(1..).unwrap_or_default());
            Message { number, kind: Arc::clone(kind), body: whole.into() }
        };
        Page { gap, messages: numbered.map(message).collect(), last: session.last() }
    }

    fn counter(&mut self, session: &Arc<str>) -> &watch::Sender<u64> {
        let last = self.sessions.get(session).map_or(0, Session::last);
        self.counters.entry(Arc::clone(session)).or_insert_with(|| watch::Sender::new(last))
    }

    pub(super) fn follow(&mut self, session: &Arc<str>) -> watch::Receiver<u64> {
        self.counter(session).subscribe()
    }

    pub(super) fn forget(&mut self, session: &Arc<str>) {
        self.sessions.remove(session);
        self.rows.remove(session);
        self.counter(session).send_replace(0);
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self.sessions.keys().chain(self.rows.keys()).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
