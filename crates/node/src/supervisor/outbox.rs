//! Messages that the API has not acknowledged yet: bounded, in order, each sent until it is accepted.
//!
//! A full outbox makes [`Outbox::push`] wait, so that the agent process's own writes block: nothing is dropped.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;

/// Bytes of encoded messages that are kept.
const LIMIT: usize = 4 * 1024 * 1024;
/// Messages in one request.
const BATCH_COUNT: usize = 256;
/// Bytes in one request; a single larger message goes alone.
const BATCH_BYTES: usize = 1024 * 1024;

/// A message to the session.
#[derive(Debug, Serialize)]
pub(crate) struct Message {
    /// Decides what is a repetition.
    pub(crate) id: String,
    /// `agent`, `event` or `system`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The run's number.
    pub(crate) run: u64,
    /// What a person reads.
    pub(crate) text: String,
    /// What else belongs to it.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(crate) data: Value,
}

/// A request's body, and how many messages it holds.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The body.
    pub(crate) body: Bytes,
    /// How many messages are in it.
    pub(crate) count: usize,
}

/// The queue between the output's readers and the sender.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<Box<[u8]>>,
    bytes: usize,
    closed: bool,
}

impl Outbox {
    /// Adds a message; waits while the outbox is full.
    pub(crate) async fn push(&self, message: &Message) {
        // Encoding strings and JSON values cannot fail.
        let Ok(encoded) = serde_json::to_vec(message) else { return };
        let mut encoded = Some(encoded.into_boxed_slice());
        loop {
            let room = self.emptied.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut inner = self.lock();
                let length = encoded.as_ref().map_or(0, |encoded| encoded.len());
                if inner.messages.is_empty() || inner.bytes + length <= LIMIT {
                    inner.bytes += length;
                    inner.messages.extend(encoded.take());
                    self.filled.notify_one();
                    return;
                }
            }
            room.await;
        }
    }

    /// No more messages will come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// The oldest messages, at most `limit`, which stay until [`Outbox::accepted`]; `None` when closed and empty.
    pub(crate) async fn batch(&self, limit: usize) -> Option<Batch> {
        loop {
            {
                let inner = self.lock();
                if !inner.messages.is_empty() {
                    return Some(batch_of(&inner.messages, limit));
                }
                if inner.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// The oldest `count` messages are stored.
    pub(crate) fn accepted(&self, count: usize) {
        let mut inner = self.lock();
        for _ in 0..count {
            let length = inner.messages.pop_front().map_or(0, |message| message.len());
            inner.bytes -= length;
        }
        self.emptied.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn batch_of(messages: &VecDeque<Box<[u8]>>, limit: usize) -> Batch {
    let mut body = b"{\"messages\":[".to_vec();
    let mut count = 0;
    for message in messages.iter().take(limit.min(BATCH_COUNT)) {
        if count > 0 {
            if body.len() + message.len() > BATCH_BYTES {
                break;
            }
            body.push(b',');
        }
        body.extend_from_slice(message);
        count += 1;
    }
    body.extend_from_slice(b"]}");
    Batch { body: body.into(), count }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: usize, size: usize) -> Message {
        Message { id: format!("m{id}"), kind: "agent", run: 1, text: "x".repeat(size), data: Value::Null }
    }

    #[tokio::test]
    async fn messages_stay_until_accepted_and_go_in_order() {
        let outbox = Outbox::default();
        for id in 0..300 {
            outbox.push(&message(id, 10)).await;
        }
        outbox.close();
        for _ in 0..2 {
            let batch = outbox.batch(usize::MAX).await.unwrap();
            assert_eq!(batch.count, BATCH_COUNT);
            let body: Value = serde_json::from_slice(&batch.body).unwrap();
            assert_eq!(body["messages"][0]["id"], "m0");
        }
        outbox.accepted(BATCH_COUNT);
        let rest = outbox.batch(usize::MAX).await.unwrap();
        assert_eq!(rest.count, 300 - BATCH_COUNT);
        outbox.accepted(rest.count);
        assert!(outbox.batch(usize::MAX).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_outbox_makes_the_agent_wait() {
        let outbox = std::sync::Arc::new(Outbox::default());
        for id in 0..4 {
            outbox.push(&message(id, LIMIT / 4 - 100)).await;
        }
        let late = message(4, 1000);
        let wait = std::time::Duration::from_mins(1);
        assert!(tokio::time::timeout(wait, outbox.push(&late)).await.is_err(), "it is full");
        assert_eq!(outbox.batch(usize::MAX).await.unwrap().count, 1, "a large message goes alone");
        outbox.accepted(1);
        tokio::time::timeout(wait, outbox.push(&late)).await.unwrap();
    }
}
