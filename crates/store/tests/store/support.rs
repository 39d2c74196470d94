//! Drafts, keys and stores for tests.

use std::path::Path;
use std::sync::Arc;

use mainstay_store::{
    Append, Draft, Key, Meta, NewMessage, Object, Options, Retention, Revision, Sender, SqliteStore, Store, StoreError,
    Write,
};

pub(crate) fn open(dir: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(Options::new(dir)).unwrap()
}

pub(crate) fn key(namespace: &str, name: &str) -> Key {
    Key::new("mainstay.dev/sessions", namespace, name)
}

pub(crate) fn draft(value: &str) -> Draft {
    Draft {
        head: format!("{{\"value\":\"{value}\",\"metadata\":{{\"resourceVersion\":\"").into(),
        tail: "\"}}".into(),
        meta: Arc::new(Meta { uid: value.into(), ..Meta::default() }),
        queued: None,
    }
}

pub(crate) fn body(value: &str, revision: u64) -> String {
    format!("{{\"value\":\"{value}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}}}}")
}

pub(crate) fn create(key: &Key, value: &str) -> Write {
    Write::Create { key: key.clone(), draft: draft(value), requires: None }
}

pub(crate) fn update(key: &Key, value: &str, expected: u64) -> Write {
    Write::Update { key: key.clone(), draft: draft(value), expected: Revision(expected) }
}

pub(crate) fn delete(key: &Key, value: &str, expected: u64) -> Write {
    Write::Delete { key: key.clone(), draft: draft(value), expected: Revision(expected) }
}

pub(crate) fn message(id: &str, text: &str) -> NewMessage {
    NewMessage { id: id.into(), kind: "user".into(), body: format!("{{\"text\":\"{text}\"}}").into() }
}

/// A user's messages, all of which are kept.
pub(crate) fn append(session: &str, messages: Vec<NewMessage>) -> Append {
    Append { session: session.into(), sender: Sender::User, messages, keep: Retention::ALL }
}

pub(crate) async fn put(store: &SqliteStore, write: Write) -> Result<Arc<Object>, StoreError> {
    store.write(write).await
}
