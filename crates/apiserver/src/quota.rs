//! ResourceQuota: what the objects of a namespace may use together, enforced when one more is created.
//!
//! Creates that a quota concerns take turns within their namespace, so that two of them cannot both take what is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_api::quantity;
use mainstay_store::{ListQuery, Object, StoreError};
use serde_json::Value;
use tokio::sync::MutexGuard;

use crate::catalog::{Entry, Habit};
use crate::object;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};

/// What an object would take, in thousandths, by the quota's names.
type Use = BTreeMap<String, u64>;

/// The turn of a create; the next one waits until it is dropped.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

/// Checks a new object against the quotas of its namespace. The turn, if there is one, is kept until it is stored.
///
/// # Errors
/// 403 with cause `QuotaExceeded` when there is not enough left.
pub(crate) async fn admit<'a>(call: &Call<'a>, new: &Value) -> ApiResult<Option<Turn<'a>>> {
    let Some(names) = limited(call.entry) else { return Ok(None) };
    if quotas(call).await?.is_empty() {
        return Ok(None);
    }
    let turn = call.server.turns().take(call.namespace()).await;
    let quotas = quotas(call).await?;
    for quota in &quotas {
        let hard = hard(quota, &names)?;
        if !hard.is_empty() {
            let used = used(call, &hard).await?;
            judge(call, new, &quota.key.name, &hard, &used)?;
        }
    }
    Ok(Some(turn))
}

/// The names under which a quota may limit this kind.
fn limited(entry: &Entry) -> Option<Vec<String>> {
    let kind = &entry.kind;
    match (kind.group, kind.plural) {
        ("", "configmaps" | "secrets") | (mainstay_api::GROUP, "sessions") => {
            Some(vec![format!("count/{}", kind.qualified())])
        }
        ("", "pods") => Some(["count/pods", "pods", "limits.cpu", "limits.memory"].map(str::to_owned).to_vec()),
        _ => None,
    }
}

async fn list(call: &Call<'_>, entry: &Entry) -> Result<Vec<Arc<Object>>, StoreError> {
    let scope = entry.scope(Some(call.namespace()));
    Ok(call.server.store().list(ListQuery { scope, limit: None, at: None, after: None }).await?.items)
}

async fn quotas(call: &Call<'_>) -> ApiResult<Vec<Arc<Object>>> {
    let Some(kind) = call.server.catalog().of_group("", "resourcequotas") else { return Ok(Vec::new()) };
    list(call, kind).await.map_err(|error| ApiError::from_store(&error, call.about("")))
}

/// What the quota allows of these names.
fn hard(quota: &Object, names: &[String]) -> ApiResult<Use> {
    let value = object::parse(quota)?;
    let limits = value["spec"]["hard"].as_object();
    let named = names.iter().filter_map(|name| Some((name.clone(), amount(limits?.get(name)?)?)));
    Ok(named.collect())
}

fn amount(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => quantity::millis(text).ok(),
        number => quantity::millis(&number.to_string()).ok(),
    }
}

/// What the namespace uses now.
async fn used(call: &Call<'_>, hard: &Use) -> ApiResult<Use> {
    let found = list(call, call.entry).await.map_err(|error| ApiError::from_store(&error, call.about("")))?;
    let mut used = Use::new();
    let total = u64::try_from(found.len()).unwrap_or(u64::MAX).saturating_mul(1_000);
    for name in hard.keys().filter(|name| name.starts_with("count/")) {
        used.insert(name.clone(), total);
    }
    if call.entry.habit != Habit::Pod {
        return Ok(used);
    }
    for pod in found.iter().filter(|pod| !is_over(pod)) {
        add(&mut used, "pods", 1_000);
        if hard.contains_key("limits.cpu") || hard.contains_key("limits.memory") {
            for (name, amount) in limits(&object::parse(pod)?) {
                add(&mut used, name, amount.unwrap_or(0));
            }
        }
    }
    Ok(used)
}

fn add(used: &mut Use, name: &str, amount: u64) {
    let sum = used.entry(name.to_owned()).or_default();
    *sum = sum.saturating_add(amount);
}

/// A Pod that has ended uses nothing but its name.
fn is_over(pod: &Object) -> bool {
    pod.meta.fields.iter().any(|(path, value)| **path == *"status.phase" && matches!(&**value, "Succeeded" | "Failed"))
}

/// The sums of a Pod's limits; `None` where a container has none.
fn limits(pod: &Value) -> [(&'static str, Option<u64>); 2] {
    let sum = |name: &str| {
        let containers = pod["spec"]["containers"].as_array();
        containers.into_iter().flatten().map(|one| amount(one["resources"]["limits"].get(name)?)).sum()
    };
    [("limits.cpu", sum("cpu")), ("limits.memory", sum("memory"))]
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
            let (asked, before, limit) = (shown(asked), shown(before), shown(*limit));
            let why = format!(
                "exceeded quota: {quota}, requested: {what}={asked}, used: {what}={before}, limited: {what}={limit}"
            );
            return Err(ApiError::forbidden(call.about(name), &why).with_cause("QuotaExceeded", what, why));
        }
    }
    Ok(())
}

fn shown(millis: u64) -> String {
    if millis.is_multiple_of(1_000) { (millis / 1_000).to_string() } else { format!("{millis}m") }
}
