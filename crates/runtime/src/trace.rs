//! Traces: what caused what, over processes and over time. Spans are `tracing`'s; those named in [`SPANS`] are exported
//! by whoever runs with an exporter, and cost next to nothing elsewhere.
//!
//! | span | its parent |
//! |---|---|
//! | `request` | the caller's `traceparent`, else the span in which a call within the process was made, else none |
//! | `reconcile` | the newest request that wrote the object it is for (not only its status), if that was within [`RECENT`] |
//! | `operation` (an attempt) | the request that created the operation: its annotation [`ANNOTATION`] |
//! | `step`, `undo` | the attempt |
//! | `call` | what it is made for; it carries `traceparent` to the server |
//!
//! Spans say what kinds of things are done, not with what: no names of users, no payloads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use serde::Deserialize;
use tokio::time::Instant;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The spans that are exported, by name.
pub const SPANS: [&str; 6] = ["request", "reconcile", "operation", "step", "undo", "call"];
/// The annotation of an operation that says by which request it was created; set by the server.
pub const ANNOTATION: &str = "mainstay.dev/traceparent";
/// The header that carries a trace, as W3C Trace Context says.
pub const HEADER: &str = "traceparent";
/// For so long a write is known as the cause of what follows from it.
pub const RECENT: Duration = Duration::from_secs(30);
/// The most writes that are known; the oldest is forgotten first.
const MOST: usize = 4_096;

/// The newest writes whose requests are sampled: the object's uid, when, and the request.
static WRITES: Mutex<VecDeque<(String, Instant, String)>> = Mutex::new(VecDeque::new());

/// Whether this process exports traces.
static EXPORTED: AtomicBool = AtomicBool::new(false);

/// From now on this process exports traces. Until then nothing here costs more than looking at this.
pub fn begin() {
    EXPORTED.store(true, Ordering::Relaxed);
}

fn is_idle(span: &Span) -> bool {
    !EXPORTED.load(Ordering::Relaxed) || span.is_disabled()
}

/// `traceparent` of a span; `None` where nothing is exported.
pub fn traceparent(span: &Span) -> Option<String> {
    if is_idle(span) {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    let (trace, id, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8() & 1);
    context.is_valid().then(|| format!("00-{trace}-{id}-{flags:02x}"))
}

/// Makes a span that has not been entered a child of the one that this names. What is no `traceparent` changes nothing.
pub fn adopt(span: &Span, parent: impl FnOnce() -> Option<String>) {
    if is_idle(span) {
        return;
    }
    let Some(context) = parent().as_deref().and_then(parse) else { return };
    // Without a layer that exports there is nothing to set it on.
    let _ = span.set_parent(Context::new().with_remote_span_context(context));
}

/// `traceparent` of a request.
pub fn of_headers(headers: &HeaderMap) -> Option<String> {
    headers.get(HEADER)?.to_str().ok().map(str::to_owned)
}

/// `traceparent` of an operation's creation, by its object.
pub fn of_object(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        annotations: std::collections::BTreeMap<String, String>,
    }
    serde_json::from_slice::<Object>(body).ok()?.metadata.annotations.remove(ANNOTATION)
}

/// The request that is being answered is about to write the object with this uid, and not only its status. (Said before:
/// who watches may hear of the write sooner than who made it.)
pub fn writes(uid: &str) {
    let Some(request) = traceparent(&Span::current()).filter(|request| request.ends_with("-01")) else { return };
    let mut writes = WRITES.lock().unwrap_or_else(PoisonError::into_inner);
    if writes.len() >= MOST {
        writes.pop_front();
    }
    writes.push_back((uid.to_owned(), Instant::now(), request));
}

/// The newest request that wrote the object with this uid, while that is recent.
pub fn writer_of(uid: &str) -> Option<String> {
    let writes = WRITES.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, at, request) = writes.iter().rev().find(|(written, ..)| written == uid)?;
    (at.elapsed() < RECENT).then(|| request.clone())
}

/// Version 00, and what later versions must begin with.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.trim().splitn(5, '-');
    let (version, trace, id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex =
        |text: &str, length| text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let well = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(id, 16) && hex(flags, 2);
    if !well || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1);
    let (trace, id) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(id).ok()?);
    let context = SpanContext::new(trace, id, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_no_traceparent_is_none() {
        let read = parse(GOOD).unwrap();
        assert!(read.is_sampled() && read.is_remote());
        assert!(parse(&GOOD.replace("00-4", "01-4")).is_some(), "a later version");
        assert!(parse(&format!("{}-more", GOOD.replace("00-4", "cc-4"))).is_some(), "a later version may say more");
        let zeros = "0".repeat(32);
        for wrong in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-x"),
            &GOOD.replace("00-4", "ff-4"),
            &GOOD.to_uppercase(),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zeros),
            &GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            &GOOD.replace("-01", "-0g"),
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_operation_says_by_which_request_it_was_created() {
        let with = format!("{{\"metadata\":{{\"annotations\":{{\"{ANNOTATION}\":\"{GOOD}\"}}}}}}");
        assert_eq!(of_object(with.as_bytes()).as_deref(), Some(GOOD));
        assert_eq!(of_object(b"{\"metadata\":{}}"), None);
    }

    #[test]
    fn without_an_exporter_nothing_is_known() {
        writes("7");
        assert_eq!((writer_of("7"), traceparent(&Span::current())), (None, None));
    }
}
