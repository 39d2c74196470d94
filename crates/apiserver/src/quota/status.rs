//! The status of quotas: what they allow and what is used, a second after it changed at the latest. Only a report:
//! what is enforced is counted anew at each create.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_runtime::duty::{Tick, table};
use mainstay_runtime::{Doing, Failure};
use mainstay_store::{Fence, Object, StoreError, Write};
use serde_json::{Map, Value};

use super::usage::{LIMITED, hard, limited, quotas, shown, used};
use crate::object;
use crate::server::ApiServer;
use crate::status::{About, ApiError, ApiResult};

/// Starts the duty that writes it.
pub(crate) fn keep_written(server: &ApiServer) {
    let (owned, reported) = (server.clone(), Arc::new(AtomicU64::new(0)));
    server.duties().start(&table::QUOTA_STATUS, move |tick| look(owned.clone(), reported.clone(), tick));
}

/// Reports when anything was written since the revision of the last report.
async fn look(server: ApiServer, reported: Arc<AtomicU64>, tick: Tick) -> Result<(), Failure> {
    const DOING: &str = "report what is used of quotas";
    let now = server.store().revision().0;
    if reported.load(Ordering::Relaxed) == now {
        return Ok(());
    }
    for quota in quotas(&server, None).await.doing(DOING)? {
        tick.check()?;
        write(&server, &tick, &quota).await.doing(DOING)?;
    }
    reported.store(now, Ordering::Relaxed);
    Ok(())
}

async fn write(server: &ApiServer, tick: &Tick, quota: &Arc<Object>) -> ApiResult<()> {
    let mut value = object::parse(quota)?;
    let status = status(server, &quota.key.namespace, &value).await?;
    let Some(entry) = server.catalog().of_group("", "resourcequotas") else { return Ok(()) };
    if value["status"] == status {
        return Ok(());
    }
    value["status"] = status;
    let draft = object::draft(entry, &value)?;
    let update = Write::Update { key: quota.key.clone(), draft, expected: quota.revision };
    let fence = Fence { lease: table::QUOTA_STATUS.name.into(), term: tick.term };
    match server.store().write_under(fence, update).await {
        // Whoever wrote first made a new revision: the next look follows.
        Ok(_) | Err(StoreError::Conflict(_) | StoreError::Missing) => Ok(()),
        Err(error) => Err(ApiError::from_store(&error, About { kind: &entry.kind, name: &quota.key.name })),
    }
}

async fn status(server: &ApiServer, namespace: &str, quota: &Value) -> ApiResult<Value> {
    let mut all = Map::new();
    for (group, plural) in LIMITED {
        let Some(entry) = server.catalog().of_group(group, plural) else { continue };
        let hard = hard(quota, limited(&entry.kind));
        if !hard.is_empty() {
            let used = used(server, entry, namespace, &hard).await?;
            all.extend(used.into_iter().map(|(name, amount)| {
                let amount = shown(&name, amount);
                (name, amount.into())
            }));
        }
    }
    let hard = quota["spec"].get("hard").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    Ok(serde_json::json!({ "hard": hard, "used": all }))
}
