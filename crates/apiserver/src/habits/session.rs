//! `Session`: takes its project's default agent when it names none, and shows its newest activity when it is read.

use std::sync::Arc;

use bytes::Bytes;
use mainstay_api::FieldError;
use mainstay_runtime::Timestamp;
use mainstay_store::Object;
use serde_json::Value;

use crate::object;
use crate::server::{ApiServer, Call};
use crate::status::{About, ApiError, ApiResult};

/// Settles what the session runs.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn complete(call: &Call<'_>, new: &mut Value, errors: &mut Vec<FieldError>) -> ApiResult<()> {
    let spec = &new["spec"];
    let has_agent = spec["agent"].as_str().is_some_and(|agent| !agent.is_empty());
    let has_command = spec["command"].as_array().is_some_and(|command| !command.is_empty());
    if has_agent || has_command {
        return Ok(());
    }
    if let Some(agent) = default_agent(call.server, call.namespace()).await? {
        new["spec"]["agent"] = Value::String(agent);
    } else {
        let detail = format!(
            "name an agent or a command, or set spec.defaultAgent of project {:?}: without one there is nothing to run",
            call.namespace()
        );
        errors.push(FieldError::required("spec.agent", detail));
    }
    Ok(())
}

async fn default_agent(server: &ApiServer, project: &str) -> ApiResult<Option<String>> {
    let Some(projects) = server.catalog().of_group(mainstay_api::GROUP, "projects") else { return Ok(None) };
    let about = About { kind: &projects.kind, name: project };
    let found = server.store().get(&projects.key("", project)).await;
    let Some(found) = found.map_err(|error| ApiError::from_store(&error, about))? else { return Ok(None) };
    let project = object::parse(&found)?;
    Ok(project["spec"]["defaultAgent"].as_str().filter(|agent| !agent.is_empty()).map(str::to_owned))
}

/// The stored bytes, or, when there was activity since they were written, a copy that shows it.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn with_activity(server: &ApiServer, stored: &Arc<Object>) -> ApiResult<Bytes> {
    let Some(newer) = server.activity().newer(server, stored).await? else {
        return Ok(stored.body.clone());
    };
    let mut value = object::parse(stored)?;
    if merge(&mut value, newer.last_message, newer.activity_ms) {
        return object::to_bytes(&value);
    }
    server.activity().settled(&stored.meta.uid, newer);
    Ok(stored.body.clone())
}

/// Puts newer activity into a status; `false` when it knows no less.
pub(crate) fn merge(session: &mut Value, last_message: u64, activity_ms: i64) -> bool {
    if !session["status"].is_object() {
        session["status"] = serde_json::json!({});
    }
    let status = &mut session["status"];
    let mut changed = false;
    if last_message > status["lastMessage"].as_u64().unwrap_or(0) {
        status["lastMessage"] = last_message.into();
        changed = true;
    }
    let known = status["lastActivityTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let Ok(activity) = Timestamp::from_second(activity_ms.div_euclid(1_000)) else { return changed };
    if activity_ms > 0 && known.is_none_or(|known| activity > known) {
        status["lastActivityTime"] = object::time(activity).into();
        changed = true;
    }
    changed
}

/// Forgets what belongs to a session that is gone.
pub(crate) fn deleted(server: &ApiServer, uid: Arc<str>) {
    server.activity().forget(&uid);
    let store = server.store().clone();
    drop(server.tasks().spawn("drop-session", async move {
        for session in [uid.to_string(), crate::sub::heartbeat::previous(&uid)] {
            if let Err(error) = store.drop_session(&session).await {
                tracing::warn!(%uid, %error, "the messages of a deleted session could not be removed");
            }
        }
    }));
}
