//! `/livez`, `/readyz`, `/version`, `/metrics` and `/status`.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use mainstay_store::operation::QueueFigures;
use serde_json::json;

use crate::body::Body;
use crate::object;
use crate::overview;
use crate::request::Query;
use crate::respond;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// Which Kubernetes' conventions these are, as clients compare it.
/// kubectl warns about a server that is more than one minor version away: 1.35 to 1.37 do not.
const KUBERNETES: &str = "v1.36.0";

/// The longest that a scrape waits for the figures of the queue.
pub(crate) const FIGURES: Duration = Duration::from_secs(2);

/// What a check found: nothing wrong, or what is.
pub(crate) type Found = Result<(), String>;
type Check = Box<dyn Fn() -> Found + Send + Sync>;

/// A part of the process beside the API, without which the server is not ready; `/readyz` names it.
#[derive(Clone)]
pub struct Part(Arc<OnceLock<Check>>);

impl Part {
    /// It runs; from now on `check` says whether it is ready, or why not. The first one stays.
    pub fn runs(&self, check: impl Fn() -> Found + Send + Sync + 'static) {
        if self.0.set(Box::new(check)).is_err() {
            tracing::warn!("a part of the server runs already");
        }
    }

    fn found(&self) -> Found {
        self.0.get().map_or_else(|| Err("it has not started".to_owned()), |check| check())
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

/// The parts that a server waits for.
#[derive(Debug, Default)]
pub(crate) struct Expected(Mutex<Vec<(&'static str, Part)>>);

impl Expected {
    pub(crate) fn expect(&self, name: &'static str) -> Part {
        let part = Part(Arc::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, part.clone()));
        part
    }

    fn all(&self) -> Vec<(&'static str, Part)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers what is open to everyone.
///
/// # Errors
/// 404 and 405.
pub(crate) async fn answer(
    server: &ApiServer,
    parts: &Parts,
    path: &str,
    query: &Query<'_>,
) -> ApiResult<Response<Body>> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let verbose = query.flag("verbose")?;
    match path {
        "/livez" | "/healthz" => Ok(checks("livez", &[("ping", Ok(()))], verbose)),
        "/readyz" => Ok(checks("readyz", &readiness(server).await, verbose)),
        "/version" => version(server),
        _ => Err(ApiError::no_such_path()),
    }
}

pub(crate) async fn readiness(server: &ApiServer) -> Vec<(&'static str, Found)> {
    let stopping = server.tasks().stopping().is_cancelled();
    let mut found = vec![
        ("ping", Ok(())),
        ("store", server.store().ready().map_err(|error| error.to_string())),
        ("rights", server.access().authorizer.ready().await.map_err(|error| error.to_string())),
    ];
    // What is asked may read the store: not under the lock.
    found.extend(server.expected().all().into_iter().map(|(name, part)| (name, part.found())));
    found.push(("shutdown", if stopping { Err("the server is stopping".to_owned()) } else { Ok(()) }));
    found
}

fn checks(name: &str, checks: &[(&'static str, Found)], verbose: bool) -> Response<Body> {
    let failed = checks.iter().any(|(_, result)| result.is_err());
    if !failed && !verbose {
        return respond::text(StatusCode::OK, "ok");
    }
    let mut text = String::new();
    for (check, result) in checks {
        match result {
            Ok(()) => text.extend(["[+]", check, " ok\n"]),
            Err(why) => text.extend(["[-]", check, " failed: ", why, "\n"]),
        }
    }
    text.extend([name, " check ", if failed { "failed\n" } else { "passed\n" }]);
    respond::text(if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, text)
}

fn version(server: &ApiServer) -> ApiResult<Response<Body>> {
    let body = json!({
        "major": "1",
        "minor": "36",
        "gitVersion": format!("{KUBERNETES}+mainstay.{}", server.version()),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "mainstay": server.version(),
    });
    Ok(respond::json(StatusCode::OK, object::to_bytes(&body)?))
}

/// Answers `/metrics`. Figures of the queue, and of nodes, are left out when they cannot be had soon: a scrape does not wait
/// for them.
pub(crate) async fn metrics(server: &ApiServer) -> Response<Body> {
    let mut asked = queue_figures(server).await.as_ref().map(crate::metrics::of_queue).unwrap_or_default();
    match tokio::time::timeout(FIGURES, crate::metrics::of_nodes(server)).await {
        Ok(Ok(nodes)) => asked.extend(nodes),
        Ok(Err(error)) => tracing::warn!(%error, "the figures of nodes cannot be had"),
        Err(error) => tracing::warn!(%error, "the figures of nodes cannot be had"),
    }
    let text = server.metrics().render(server.gate().open(), asked);
    let media = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    respond::with_type(StatusCode::OK, media, Body::full(text))
}

/// The figures of the queue, if they can be had soon.
pub(crate) async fn queue_figures(server: &ApiServer) -> Option<QueueFigures> {
    let unread = |error: &dyn fmt::Display| tracing::warn!(%error, "the figures of the queue cannot be had");
    match tokio::time::timeout(FIGURES, server.store().queue_figures()).await {
        Ok(read) => read.inspect_err(|error| unread(error)).ok(),
        Err(late) => {
            unread(&late);
            None
        }
    }
}

/// Answers `/status`.
///
/// # Errors
/// 500 when it cannot be serialised.
pub(crate) async fn status(server: &ApiServer) -> ApiResult<Response<Body>> {
    let overview = overview::overview(server).await;
    Ok(respond::json(StatusCode::OK, serde_json::to_vec(&overview).map_err(ApiError::internal)?))
}
