//! `sessions/NAME/heartbeat`: the supervisor's sign of life, and its cursor into the user's messages.
//!
//! The cursor has two marks: `offered` is stored before a message is written to the agent process, `delivered` after.
//! When a run dies between the two, its successor gets the messages in between again, marked `redelivered`: the row of
//! the run before is kept for that.

use bytes::Bytes;
use http::{Response, StatusCode};
use mainstay_api::names;
use mainstay_store::{Object, RunRow};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use crate::activity::Seen;
use crate::body::Body;
use crate::content;
use crate::object;
use crate::respond;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::sub::messages::{milliseconds, row};
use crate::verbs::read as objects;

/// What follows the uid in the name of the earlier run's row.
const PREVIOUS: &str = "/previous";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Heartbeat {
    run: u64,
    #[serde(rename = "podUID")]
    pod_uid: String,
    #[serde(default)]
    offered: u64,
    #[serde(default)]
    delivered: u64,
    #[serde(default)]
    busy: bool,
    #[serde(default)]
    cursor_only: bool,
}

/// Things that are done one after the other for each name: heartbeats of a session, so that a cursor never goes back.
/// Names may share a turn; nobody takes two.
#[derive(Debug)]
pub(crate) struct Turns([Mutex<()>; 64]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Turns {
    /// Waits for the turn of this name.
    pub(crate) async fn take(&self, uid: &str) -> MutexGuard<'_, ()> {
        let at = uid.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        self.0[at % self.0.len()].lock().await
    }
}

/// Messages that a dead run may have seen: above `after`, up to `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    after: u64,
    upto: u64,
}

impl Window {
    fn of(row: &RunRow) -> Option<Self> {
        (row.offered > row.delivered).then_some(Self { after: row.delivered, upto: row.offered })
    }

    /// Whether a message lies in it.
    pub(crate) const fn holds(self, number: u64) -> bool {
        number > self.after && number <= self.upto
    }
}

/// The name under which the row of the run before the current one is kept.
pub(crate) fn previous(uid: &str) -> String {
    format!("{uid}{PREVIOUS}")
}

/// The uid of the session that something is kept under this name for.
pub(crate) fn session_of(name: &str) -> &str {
    name.strip_suffix(PREVIOUS).unwrap_or(name)
}

/// The messages that a reader of this session is to see marked.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn redelivered(call: &Call<'_>, session: &Object) -> ApiResult<Option<Window>> {
    let current = row(call, &session.meta.uid).await?;
    if current.run == 0 {
        return Ok(None);
    }
    if let Some(window) = Window::of(&current) {
        // The reader may be the next run, before its first heartbeat.
        let asked = match call.query.number::<u64>("run")? {
            Some(run) => run,
            None => object::parse(session)?["spec"]["run"].as_u64().unwrap_or(1),
        };
        if asked > current.run {
            return Ok(Some(window));
        }
    }
    Ok(Window::of(&row(call, &previous(&session.meta.uid)).await?))
}

/// Answers `GET`.
///
/// # Errors
/// 404, and what the store refuses.
pub(crate) async fn read(call: &Call<'_>) -> ApiResult<Response<Body>> {
    let session = objects::find(call).await?;
    answer(&row(call, &session.meta.uid).await?)
}

fn answer(row: &RunRow) -> ApiResult<Response<Body>> {
    let time = mainstay_runtime::Timestamp::from_millisecond(row.heartbeat_ms).map(milliseconds).unwrap_or_default();
    let body = json!({
        "run": row.run, "podUID": row.pod_uid, "time": time, "offered": row.offered, "delivered": row.delivered,
        "busy": row.busy,
    });
    Ok(respond::json(StatusCode::OK, object::to_bytes(&body)?))
}

/// Answers `PUT`.
///
/// # Errors
/// 409 when the sender is not the session's current run.
pub(crate) async fn write(call: &Call<'_>, body: Bytes) -> ApiResult<Response<Body>> {
    let session = objects::find(call).await?;
    let body = content::parse_fields(&call.parts.headers, &body, "a heartbeat")?;
    let beat = Heartbeat::deserialize(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not a heartbeat: {error}")))?;
    if beat.run == 0 || beat.delivered > beat.offered {
        return Err(ApiError::bad_request("run must be at least 1, and delivered at most offered"));
    }
    check_pod(call, &session, &beat).await?;
    let uid = &session.meta.uid;
    let _turn = call.server.turns().take(uid).await;
    let old = row(call, uid).await?;
    if beat.run < old.run || (beat.run == old.run && beat.pod_uid != old.pod_uid) {
        let why = format!("run {} is over; run {} has reported", beat.run, old.run);
        return Err(ApiError::conflict(call.about(call.name()), why));
    }
    let failed = |error| ApiError::from_store(&error, call.about(call.name()));
    let new_run = beat.run > old.run;
    if new_run && old.run > 0 {
        call.server.store().put_run_row(&previous(uid), old.clone(), true).await.map_err(failed)?;
    }
    let new = merged(&old, &beat, call.server.clock().now().as_millisecond());
    let durable = new_run || (new.offered, new.delivered) != (old.offered, old.delivered);
    call.server.store().put_run_row(uid, new.clone(), durable).await.map_err(failed)?;
    if new.activity_ms > old.activity_ms {
        call.server.activity().note(&session, Seen { last_message: 0, activity_ms: new.activity_ms });
    }
    answer(&new)
}

/// The row after a heartbeat: within a run no mark goes back, and a new run begins after what was delivered.
fn merged(old: &RunRow, beat: &Heartbeat, now: i64) -> RunRow {
    let same = beat.run == old.run;
    let delivered = beat.delivered.max(old.delivered);
    let offered = beat.offered.max(if same { old.offered } else { 0 }).max(delivered);
    RunRow {
        run: beat.run,
        pod_uid: beat.pod_uid.clone(),
        heartbeat_ms: if beat.cursor_only && same { old.heartbeat_ms } else { now },
        offered,
        delivered,
        busy: if beat.cursor_only && same { old.busy } else { beat.busy },
        activity_ms: if beat.busy && !beat.cursor_only { now } else { old.activity_ms },
    }
}

/// The sender is the Pod of that run, and that Pod is there.
async fn check_pod(call: &Call<'_>, session: &Object, beat: &Heartbeat) -> ApiResult<()> {
    let about = call.about(call.name());
    let Some(pods) = call.server.catalog().of_group("", "pods") else { return Err(ApiError::no_such_path()) };
    let name = names::pod_name(&session.key.name, beat.run);
    let found = call.server.store().get(&pods.key(call.namespace(), &name)).await;
    let pod = found.map_err(|error| ApiError::from_store(&error, about))?;
    let current = pod.is_some_and(|pod| *pod.meta.uid == *beat.pod_uid && pod.meta.owners.contains(&session.meta.uid));
    if current {
        return Ok(());
    }
    Err(ApiError::conflict(about, format_args!("Pod {name:?} with uid {:?} is not this session's", beat.pod_uid)))
}
