//! ResourceQuota: what the objects of a namespace may use together, enforced when one more is created.
//!
//! Creates that a quota concerns take turns within their namespace, so that two of them cannot both take what is left.

pub(crate) mod status;
mod usage;

use serde_json::Value;
use tokio::sync::MutexGuard;

use crate::object;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use usage::{Use, hard, limited, limits, quotas, shown, used};

/// The turn of a create; the next one waits until it is dropped.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

/// Checks a new object against the quotas of its namespace. The turn, if there is one, is kept until it is stored.
///
/// # Errors
/// 403 with cause `QuotaExceeded` when there is not enough left.
pub(crate) async fn admit<'a>(call: &Call<'a>, new: &Value) -> ApiResult<Option<Turn<'a>>> {
    let names = limited(&call.entry.kind);
    let failed = |error| ApiError::from_store(&error, call.about(""));
    if names.is_empty() || quotas(call.server, Some(call.namespace())).await.map_err(failed)?.is_empty() {
        return Ok(None);
    }
    let turn = call.server.turns().take(call.namespace()).await;
    for quota in quotas(call.server, Some(call.namespace())).await.map_err(failed)? {
        let hard = hard(&object::parse(&quota)?, names);
        if !hard.is_empty() {
            let used = used(call.server, call.entry, call.namespace(), &hard).await?;
            judge(call, new, &quota.key.name, &hard, &used)?;
        }
    }
    Ok(Some(turn))
}

fn judge(call: &Call<'_>, new: &Value, quota: &str, hard: &Use, used: &Use) -> ApiResult<()> {
    let name = object::text(new, "name");
    let own = limits(new);
    for (what, limit) in hard {
        let asked = match own.iter().find(|(resource, _)| resource == what) {
            Some((_, Some(amount))) => *amount,
            Some((_, None)) => {
                let why = format!("failed quota: {quota}: must specify {what} for every container");
                return Err(ApiError::forbidden(call.about(name), why));
            }
            None => 1_000,
        };
        let before = used.get(what).copied().unwrap_or(0);
        if before.saturating_add(asked) > *limit {
            let (asked, before, limit) = (shown(what, asked), shown(what, before), shown(what, *limit));
            let why = format!(
                "exceeded quota: {quota}, requested: {what}={asked}, used: {what}={before}, limited: {what}={limit}"
            );
            return Err(ApiError::forbidden(call.about(name), &why).with_cause("QuotaExceeded", what, why));
        }
    }
    Ok(())
}
