//! Objects as small as can be, and operations among them.

use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Failure;
use mainstay_runtime::operation::Work;
use mainstay_store::operation::{Ending, Ledger, OPERATIONS, Order, Queued, State};
use mainstay_store::{Draft, Key, Meta, Object, Write};
use serde_json::Value;

use crate::backend::HANDLER;

/// An object whose bytes say one thing.
pub(crate) fn draft(uid: &str, value: &str) -> Draft {
    Draft {
        head: "{\"r\":\"".into(),
        tail: format!("\",\"value\":\"{value}\"}}").into(),
        meta: Arc::new(Meta { uid: uid.into(), ..Meta::default() }),
        queued: None,
    }
}

/// What an object says.
pub(crate) fn value(object: &Object) -> String {
    let parsed: Value = serde_json::from_slice(&object.body).unwrap_or_default();
    parsed["value"].as_str().unwrap_or_default().to_owned()
}

/// The operation of a number: ordered again, it is there already.
pub(crate) fn order(number: u64) -> Write {
    let name = format!("paint-{number}");
    let queued = Queued {
        concurrency_key: number.is_multiple_of(5).then(|| "k".into()),
        created_ms: 1,
        ..Queued::new(if number.is_multiple_of(2) { "left" } else { "right" }, HANDLER)
    };
    let draft = Draft { queued: Some(Arc::new(queued)), ..draft(&name, "open") };
    Write::Create { key: key(number), draft, requires: None }
}

pub(crate) fn key(number: u64) -> Key {
    Key::new(OPERATIONS, "a", format!("paint-{number}"))
}

/// Reads orders, and writes ends.
#[derive(Debug)]
pub(crate) struct Book;

impl Ledger for Book {
    fn order(&self, object: &Object) -> Result<Order, Failure> {
        let (namespace, name) = (Arc::clone(&object.key.namespace), Arc::clone(&object.key.name));
        let id = Arc::clone(&object.meta.uid);
        let work = Work { id, namespace, name, handler: HANDLER.into(), owner: None, payload: Value::Null };
        Ok(Order { work, max_attempts: 1_000, timeout: Duration::from_secs(20) })
    }

    fn end(&self, object: &Object, ending: &Ending) -> Result<Write, Failure> {
        let said = match ending.state {
            State::Succeeded => "succeeded".to_owned(),
            state => format!("{state:?} {}", ending.reason),
        };
        let draft = draft(&object.meta.uid, &said);
        Ok(Write::Update { key: object.key.clone(), draft, expected: object.revision })
    }
}
