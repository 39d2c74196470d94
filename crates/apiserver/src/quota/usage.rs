//! What a namespace uses of what a quota can limit; amounts are in thousandths.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_api::{Kind, quantity};
use mainstay_store::{ListQuery, Object, StoreError};
use serde_json::Value;

use crate::catalog::{Entry, Habit};
use crate::object;
use crate::server::ApiServer;
use crate::status::{About, ApiError, ApiResult};

/// Amounts by the quota's names.
pub(super) type Use = BTreeMap<String, u64>;

/// The kinds that a quota may limit.
pub(super) const LIMITED: [(&str, &str); 4] =
    [("", "pods"), ("", "configmaps"), ("", "secrets"), (mainstay_api::GROUP, "sessions")];

/// The names under which a quota may limit this kind.
pub(super) fn limited(kind: &Kind) -> &'static [&'static str] {
    match (kind.group, kind.plural) {
        ("", "pods") => &["count/pods", "pods", "limits.cpu", "limits.memory"],
        ("", "configmaps") => &["count/configmaps"],
        ("", "secrets") => &["count/secrets"],
        (mainstay_api::GROUP, "sessions") => &["count/sessions.mainstay.dev"],
        _ => &[],
    }
}

async fn list(server: &ApiServer, entry: &Entry, namespace: Option<&str>) -> Result<Vec<Arc<Object>>, StoreError> {
    let query = ListQuery { scope: entry.scope(namespace), limit: None, at: None, after: None };
    Ok(server.store().list(query).await?.items)
}

/// The quotas of a namespace, or all.
pub(super) async fn quotas(server: &ApiServer, namespace: Option<&str>) -> Result<Vec<Arc<Object>>, StoreError> {
    match server.catalog().of_group("", "resourcequotas") {
        Some(kind) => list(server, kind, namespace).await,
        None => Ok(Vec::new()),
    }
}

/// What a quota allows of these names.
pub(super) fn hard(quota: &Value, names: &[&str]) -> Use {
    let limits = &quota["spec"]["hard"];
    let named = names.iter().filter_map(|name| Some(((*name).to_owned(), amount(limits.get(name)?)?)));
    named.collect()
}

fn amount(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => quantity::millis(text).ok(),
        number => quantity::millis(&number.to_string()).ok(),
    }
}

/// What the objects of this kind in a namespace use now, of each name in `hard`.
///
/// # Errors
/// What the store refuses.
pub(super) async fn used(server: &ApiServer, entry: &Entry, namespace: &str, hard: &Use) -> ApiResult<Use> {
    let about = About { kind: &entry.kind, name: "" };
    let found = list(server, entry, Some(namespace)).await.map_err(|error| ApiError::from_store(&error, about))?;
    let mut used: Use = hard.keys().map(|name| (name.clone(), 0)).collect();
    let total = u64::try_from(found.len()).unwrap_or(u64::MAX).saturating_mul(1_000);
    for (_, amount) in used.iter_mut().filter(|(name, _)| name.starts_with("count/")) {
        *amount = total;
    }
    if entry.habit != Habit::Pod {
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
    if let Some(sum) = used.get_mut(name) {
        *sum = sum.saturating_add(amount);
    }
}

/// A Pod that has ended uses nothing but its name.
fn is_over(pod: &Object) -> bool {
    pod.meta.fields.iter().any(|(path, value)| **path == *"status.phase" && matches!(&**value, "Succeeded" | "Failed"))
}

/// The sums of a Pod's limits; `None` where a container has none.
pub(super) fn limits(pod: &Value) -> [(&'static str, Option<u64>); 2] {
    let sum = |name: &str| {
        let containers = pod["spec"]["containers"].as_array();
        containers.into_iter().flatten().map(|one| amount(one["resources"]["limits"].get(name)?)).sum()
    };
    [("limits.cpu", sum("cpu")), ("limits.memory", sum("memory"))]
}

/// An amount as people write it.
pub(super) fn shown(name: &str, millis: u64) -> String {
    if !millis.is_multiple_of(1_000) {
        return format!("{millis}m");
    }
    let whole = millis / 1_000;
    let units = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit =
        units.into_iter().find(|(bits, _)| name == "limits.memory" && whole > 0 && whole.trailing_zeros() >= *bits);
    unit.map_or_else(|| whole.to_string(), |(bits, unit)| format!("{}{unit}", whole >> bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_as_they_are_written() {
        for (name, text) in [
            ("pods", "0"),
            ("pods", "2048"),
            ("limits.cpu", "1500m"),
            ("limits.cpu", "2"),
            ("limits.memory", "0"),
            ("limits.memory", "1Gi"),
            ("limits.memory", "1536Mi"),
            ("limits.memory", "1000"),
        ] {
            assert_eq!(shown(name, quantity::millis(text).unwrap()), text, "{name}");
        }
    }
}
