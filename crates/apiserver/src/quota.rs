//! ResourceQuota: what the objects of a namespace may use together, enforced when one more is created.
//!
//! A create that a quota concerns is stored only if nothing of its kind was created in its namespace since what is used was
//! counted: of two that would take what is left, on whichever replicas, one is counted again. Those of one replica take turns,
//! so that they need not.

pub(crate) mod status;
mod usage;

use mainstay_store::Revision;
use serde_json::Value;
use tokio::sync::MutexGuard;

use crate::object;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use usage::{Use, hard, limited, limits, quotas, shown, used};

/// There is room for a new object, and it is its turn; the next one waits until this is dropped.
pub(crate) struct Room<'a> {
    _turn: MutexGuard<'a, ()>,
    /// What is used was counted no earlier.
    since: Revision,
}

/// Checks a new object against the quotas of its namespace, if there are any. The room is to be kept until it is stored.
///
/// # Errors
/// 403 with cause `QuotaExceeded` when there is not enough left.
pub(crate) async fn admit<'a>(call: &Call<'a>, new: &Value) -> ApiResult<Option<Room<'a>>> {
    let failed = |error| ApiError::from_store(&error, call.about(""));
    let none = limited(&call.entry.kind).is_empty();
    if none || quotas(call.server, Some(call.namespace())).await.map_err(failed)?.is_empty() {
        return Ok(None);
    }
    let mut room = Room { _turn: call.server.turns().take(call.namespace()).await, since: Revision(0) };
    room.count(call, new).await?;
    Ok(Some(room))
}

impl Room<'_> {
    /// The revision above which nothing of the kind may have been created in the namespace.
    pub(crate) const fn since(&self) -> Revision {
        self.since
    }

    /// Counts again what is used.
    ///
    /// # Errors
    /// As [`admit`].
    pub(crate) async fn count(&mut self, call: &Call<'_>, new: &Value) -> ApiResult<()> {
        self.since = call.server.store().revision();
        let found = quotas(call.server, Some(call.namespace())).await;
        for quota in found.map_err(|error| ApiError::from_store(&error, call.about("")))? {
            let hard = hard(&object::parse(&quota)?, limited(&call.entry.kind));
            if !hard.is_empty() {
                let used = used(call.server, call.entry, call.namespace(), &hard).await?;
                judge(call, new, &quota.key.name, &hard, &used)?;
            }
        }
        Ok(())
    }
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
