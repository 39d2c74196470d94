//! `/livez`, `/readyz`, `/version` and `/metrics`.

use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::object;
use crate::request::Query;
use crate::respond;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// Which Kubernetes' conventions these are, as clients compare it.
/// kubectl warns about a server that is more than one minor version away: 1.35 to 1.37 do not.
const KUBERNETES: &str = "v1.36.0";

/// Answers what is open to everyone.
///
/// # Errors
/// 404 and 405.
pub(crate) fn answer(server: &ApiServer, parts: &Parts, path: &str, query: &Query<'_>) -> ApiResult<Response<Body>> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let verbose = query.flag("verbose")?;
    match path {
        "/livez" | "/healthz" => Ok(checks("livez", &[("ping", Ok(()))], verbose)),
        "/readyz" => Ok(checks("readyz", &readiness(server), verbose)),
        "/version" => version(server),
        _ => Err(ApiError::no_such_path()),
    }
}

fn readiness(server: &ApiServer) -> [(&'static str, Result<(), String>); 3] {
    let stopping = server.tasks().stopping().is_cancelled();
    [
        ("ping", Ok(())),
        ("store", server.store().ready().map_err(|error| error.to_string())),
        ("shutdown", if stopping { Err("the server is stopping".to_owned()) } else { Ok(()) }),
    ]
}

fn checks(name: &str, checks: &[(&'static str, Result<(), String>)], verbose: bool) -> Response<Body> {
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

/// Answers `/metrics`.
pub(crate) fn metrics(server: &ApiServer) -> Response<Body> {
    let text = server.metrics().render(server.gate().open());
    let media = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    respond::with_type(StatusCode::OK, media, Body::full(text))
}
