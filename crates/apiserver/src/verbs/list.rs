//! `list`: pages of one snapshot, glued together from stored bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use mainstay_store::{ListQuery, Object, Revision, Scope, StoreError};
use serde::{Deserialize, Serialize};

use crate::body::Body;
use crate::form::Form;
use crate::respond;
use crate::selector::Selector;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::verbs::read;

/// Objects looked at in one go when a selector drops some of them.
const SCAN: usize = 1_000;

/// What `continue` holds: opaque to clients.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    /// Revision of the snapshot.
    r: u64,
    /// Namespace of the last item.
    s: String,
    /// Its name.
    n: String,
}

impl Continue {
    fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> ApiResult<Self> {
        BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// A page of objects, selected.
#[derive(Debug)]
pub(crate) struct Found {
    /// The snapshot.
    pub(crate) revision: Revision,
    /// The objects.
    pub(crate) items: Vec<Arc<Object>>,
    /// Where the next page begins.
    pub(crate) next: Option<String>,
    /// Objects after this page, when no selector makes it unknown.
    pub(crate) remaining: Option<usize>,
}

/// Answers `GET` of a collection.
///
/// # Errors
/// 400 for parameters that make no sense, 410 for a snapshot that is no longer retained.
pub(crate) async fn list(call: &Call<'_>) -> ApiResult<Response<Body>> {
    check_parameters(call)?;
    if call.query.flag("sendInitialEvents")? {
        let why = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list";
        return Err(ApiError::unprocessable(why));
    }
    let form = Form::of(call)?;
    let (scope, selector) = scope(call)?;
    let found = match scope {
        Some(scope) => select(call, scope, &selector).await?,
        None => Found { revision: call.server.store().revision(), items: Vec::new(), next: None, remaining: None },
    };
    form.list(call, &found).await
}

/// Parameters that lists and watches share are read even where they have no effect: a slip of the pen is not ignored.
///
/// # Errors
/// 400 for those that make no sense.
pub(crate) fn check_parameters(call: &Call<'_>) -> ApiResult<()> {
    for name in ["watch", "allowWatchBookmarks", "sendInitialEvents"] {
        call.query.flag(name)?;
    }
    for name in ["limit", "timeoutSeconds"] {
        call.query.number::<u64>(name)?;
    }
    Ok(())
}

/// What the path and the selectors leave; `None` when nothing can match.
///
/// # Errors
/// 400 for selectors that make no sense.
pub(crate) fn scope(call: &Call<'_>) -> ApiResult<(Option<Scope>, Selector)> {
    let kind = &call.entry.kind;
    let selector = Selector::parse(call.query.get("labelSelector"), call.query.get("fieldSelector"), kind)
        .map_err(ApiError::bad_request)?;
    let mut scope = call.entry.scope(call.path.namespace.as_deref());
    if let Some(name) = call.path.name.as_deref() {
        scope.name = Some(name.into());
    }
    let possible = selector.narrow(&mut scope);
    Ok((possible.then_some(scope), selector))
}

/// The snapshot that `resourceVersion` and `resourceVersionMatch` ask for; `None` for the newest.
///
/// # Errors
/// 400 for combinations that make no sense, 504 for a revision that does not exist yet.
pub(crate) async fn check_revision(call: &Call<'_>) -> ApiResult<Option<Revision>> {
    let asked = call.query.number::<u64>("resourceVersion").map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: {:?}: must be a number that this server returned",
            call.query.get("resourceVersion").unwrap_or_default()
        ))
    })?;
    let exact = match (call.query.get("resourceVersionMatch"), asked) {
        (None, _) | (Some("NotOlderThan"), Some(_)) => false,
        (Some("Exact"), Some(1..)) => true,
        (Some("NotOlderThan"), None) => {
            return Err(ApiError::bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        (Some("Exact"), _) => {
            return Err(ApiError::bad_request(
                "resourceVersionMatch \"Exact\" is forbidden without a resourceVersion above 0",
            ));
        }
        (Some(other), _) => {
            return Err(ApiError::bad_request(format!(
                "resourceVersionMatch: unsupported value {other:?}: supported: \"Exact\", \"NotOlderThan\""
            )));
        }
    };
    let asked = Revision(asked.unwrap_or(0));
    let current = reach(call, asked).await?;
    if asked > current {
        return Err(ApiError::from_history(&StoreError::Future { asked, current }));
    }
    Ok(exact.then_some(asked))
}

/// The newest revision here, once it is looked for this one, of which the client may have heard from another replica.
///
/// # Errors
/// 503 when the database does not say in time.
pub(crate) async fn reach(call: &Call<'_>, asked: Revision) -> ApiResult<Revision> {
    let store = call.server.store();
    store.reach(asked).await.map_err(|error| ApiError::from_store(&error, call.about("")))?;
    Ok(store.revision())
}

/// One page of what matches.
async fn select(call: &Call<'_>, scope: Scope, selector: &Selector) -> ApiResult<Found> {
    let most = call.server.limits().page;
    let asked = call.query.number::<usize>("limit")?.filter(|limit| *limit > 0);
    // Of what is not in memory there may be more than a request can hold: who does not ask for pages gets the first, too.
    let limit = if call.entry.habit.is_on_disk() { Some(asked.unwrap_or(most)) } else { asked };
    let limit = limit.map(|limit| limit.min(most));
    let mut query = ListQuery { scope, limit, at: None, after: None };
    match call.query.get("continue") {
        Some(token) => {
            if call.query.get("resourceVersion").is_some_and(|revision| revision != "0") {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            if call.query.get("resourceVersionMatch").is_some() {
                return Err(ApiError::bad_request("resourceVersionMatch is forbidden when continue is provided"));
            }
            let from = Continue::decode(token)?;
            // No page of ours ended at a revision that there is not yet, nor before the first.
            if from.r == 0 || Revision(from.r) > reach(call, Revision(from.r)).await? {
                return Err(ApiError::bad_request("continue key is not valid"));
            }
            (query.at, query.after) = (Some(Revision(from.r)), Some((from.s, from.n)));
        }
        None => query.at = check_revision(call).await?,
    }
    if selector.is_everything() {
        let page = page(call, query).await?;
        let next = next_token(page.revision, &page.items, page.more);
        let remaining = page.remaining.filter(|remaining| *remaining > 0);
        return Ok(Found { revision: page.revision, items: page.items, next, remaining });
    }
    scan(call, query, selector).await
}

fn next_token(revision: Revision, items: &[Arc<Object>], more: bool) -> Option<String> {
    let last = items.last().filter(|_| more)?;
    Some(Continue { r: revision.0, s: last.key.namespace.to_string(), n: last.key.name.to_string() }.encode())
}

/// Pages of the store until the wanted number matches.
async fn scan(call: &Call<'_>, mut query: ListQuery, selector: &Selector) -> ApiResult<Found> {
    let wanted = query.limit;
    query.limit = wanted.map(|_| SCAN);
    let mut items: Vec<Arc<Object>> = Vec::new();
    loop {
        let page = page(call, query.clone()).await?;
        query.at = Some(page.revision);
        let count = page.items.len();
        let mut at = None;
        for (index, object) in page.items.iter().enumerate() {
            if selector.matches(&object.key, &object.meta) {
                items.push(object.clone());
                at = Some(index);
            }
            if wanted == Some(items.len()) {
                break;
            }
        }
        let full = wanted == Some(items.len());
        let more = page.more || (full && at.is_some_and(|at| at + 1 < count));
        let last = page.items.last().map(|last| (last.key.namespace.to_string(), last.key.name.to_string()));
        if full || !more || last.is_none() {
            let next = if full { next_token(page.revision, &items, more) } else { None };
            return Ok(Found { revision: page.revision, items, next, remaining: None });
        }
        query.after = last;
    }
}

async fn page(call: &Call<'_>, query: ListQuery) -> ApiResult<mainstay_store::ListPage> {
    let continued = query.after.is_some();
    call.server.store().list(query).await.map_err(|error| match error {
        StoreError::Expired { .. } if continued => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        ),
        error => ApiError::from_store(&error, call.about("")),
    })
}

/// All objects that match, for those who act on them.
///
/// # Errors
/// As [`list`].
pub(crate) async fn all(call: &Call<'_>) -> ApiResult<Vec<Arc<Object>>> {
    let (Some(scope), selector) = scope(call)? else { return Ok(Vec::new()) };
    Ok(snapshot(call, scope, &selector).await?.1)
}

/// All objects of a scope that match at one revision. They are looked at page by page, so that only those are held.
///
/// # Errors
/// 413 when more match of a kind that is not in memory than a request can hold, and what the store refuses.
pub(crate) async fn snapshot(
    call: &Call<'_>,
    scope: Scope,
    selector: &Selector,
) -> ApiResult<(Revision, Vec<Arc<Object>>)> {
    let on_disk = call.entry.habit.is_on_disk();
    let most = if on_disk { call.server.limits().on_disk } else { usize::MAX };
    let mut query = ListQuery { scope, limit: on_disk.then_some(SCAN), at: None, after: None };
    let mut found = Vec::new();
    loop {
        let page = page(call, query.clone()).await?;
        let last = page.items.last().map(|last| (last.key.namespace.to_string(), last.key.name.to_string()));
        found.extend(page.items.into_iter().filter(|object| selector.matches(&object.key, &object.meta)));
        if found.len() > most {
            return Err(ApiError::too_large(format!(
                "more than {most} {} match, more than one request can hold; narrow it with a selector, or list them in \
                 pages (limit, continue) and watch from the list's resourceVersion",
                call.entry.kind.plural
            )));
        }
        if !page.more {
            return Ok((page.revision, found));
        }
        (query.at, query.after) = (Some(page.revision), last);
    }
}

/// A list as JSON: a head, the stored bytes of the items, and what is between them.
///
/// # Errors
/// 500 when a sealed object cannot be opened.
pub(crate) async fn as_json(call: &Call<'_>, found: &Found) -> ApiResult<Response<Body>> {
    let mut head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{}\"",
        call.entry.kind.kind, call.entry.api_version, found.revision
    );
    if let Some(next) = &found.next {
        head.extend([",\"continue\":\"", next, "\""]);
    }
    if let Some(remaining) = found.remaining {
        head.extend([",\"remainingItemCount\":", &remaining.to_string()]);
    }
    head.push_str("},\"items\":[");
    let mut pieces = VecDeque::with_capacity(2 * found.items.len() + 2);
    pieces.push_back(Bytes::from(head));
    for (at, item) in read::all_readable(call, &found.items).await?.into_iter().enumerate() {
        if at > 0 {
            pieces.push_back(Bytes::from_static(b","));
        }
        pieces.push_back(item);
    }
    pieces.push_back(Bytes::from_static(b"]}"));
    Ok(respond::json_body(Body::pieces(pieces)))
}
