//! From a path to the code that answers it.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};

use crate::auth::{self, Identity};
use crate::body::{Body, BodyError};
use crate::catalog::Habit;
use crate::metrics::Observation;
use crate::rbac::Attributes;
use crate::request::{self, Query, ResourcePath, Target, Verb};
use crate::server::{ApiServer, Call, Caller};
use crate::status::{About, ApiError, ApiResult};
use crate::verbs::modify::Part;
use crate::{content, health, keyring, leadership, node, sub, verbs};

/// Answers a request.
///
/// # Errors
/// Everything that is answered with a `Status`.
pub(crate) async fn route<B>(
    server: &ApiServer,
    parts: &Parts,
    body: B,
    caller: Caller,
    seen: &mut Observation,
) -> ApiResult<Response<Body>>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: Into<BodyError>,
{
    let target = request::target(parts.uri.path())?;
    let query = Query::parse(parts.uri.query())?;
    if let Target::Other(path) = &target
        && auth::is_open(path)
    {
        return health::answer(server, parts, path, &query).await;
    }
    let is_health = matches!(&target, Target::Other(path) if *path == "/metrics");
    if server.limits().health_only && !is_health && !matches!(caller, Caller::Trusted(_)) {
        return Err(ApiError::no_such_path());
    }
    let identity = match caller {
        Caller::Trusted(ref identity) => identity.clone(),
        Caller::Unknown => node::authenticate(server, parts, None).await?,
        Caller::Certified(ref peer) => node::authenticate(server, parts, Some(peer)).await?,
    };
    match target {
        Target::Other(path) => other(server, parts, path, &identity).await,
        Target::Resource(path) => {
            let kind = server.catalog().find(&path.group, &path.version, &path.plural);
            let verb = verb_of(&parts.method, &path, &query).ok_or_else(ApiError::method_not_allowed)?;
            seen.set(verb, kind);
            let Some(entry) = kind else {
                return sub::virtual_resource(server, parts, &path, verb, &identity, body).await;
            };
            // A node's is that of its own lease, which is looked at with its other rights.
            let fence = if identity.is_node() { None } else { leadership::fence(&parts.headers)? };
            let call =
                Call { server, parts, identity: &identity, path: &path, entry, query: &query, caller: &caller, fence };
            check_place(&call)?;
            permit(&call, verb).await?;
            if identity.is_node() {
                node::check(&call, verb).await?;
            }
            resource(&call, verb, body).await
        }
    }
}

/// A command is run by GET, too, since WebSockets are asked for by that; it is no less than made all the same.
fn verb_of(method: &Method, path: &ResourcePath<'_>, query: &Query<'_>) -> Option<Verb> {
    let runs = (&*path.group, &*path.plural, path.subresource.as_deref()) == ("", "pods", Some("exec"));
    if runs && *method == Method::GET { Some(Verb::Create) } else { Verb::of(method, path, query) }
}

/// Paths that are no resources: documents, metrics, status and keys.
async fn other(server: &ApiServer, parts: &Parts, path: &str, identity: &Identity) -> ApiResult<Response<Body>> {
    let verb = match parts.method {
        Method::GET | Method::HEAD => "get",
        Method::POST if keyring::is_path(path) => "post",
        _ => return Err(ApiError::method_not_allowed()),
    };
    let attributes = Attributes { verb, path, ..Attributes::default() };
    if !server.access().allows(identity, &attributes).await? {
        let text = format!("forbidden: User {:?} cannot {verb} path {path:?}", identity.user());
        return Err(ApiError::new(403, "Forbidden", text));
    }
    match path {
        "/metrics" => Ok(health::metrics(server).await),
        "/status" => health::status(server).await,
        _ if keyring::is_path(path) => keyring::answer(server, parts, path, identity).await,
        _ => server.documents().answer(parts, path),
    }
}

/// A namespaced kind is read across namespaces only as a whole, and a cluster-scoped one has no namespace.
fn check_place(call: &Call<'_>) -> ApiResult<()> {
    let ok = match (call.entry.kind.namespaced, call.path.namespace.is_some()) {
        (true, true) | (false, false) => true,
        (true, false) => call.path.name.is_none(),
        (false, true) => false,
    };
    if ok { Ok(()) } else { Err(ApiError::no_such_path()) }
}

async fn permit(call: &Call<'_>, verb: Verb) -> ApiResult<()> {
    let node = node::selected(call);
    let attributes = Attributes { node: &node, ..attributes_of(call.path, verb) };
    if call.server.access().allows(call.identity, &attributes).await? { Ok(()) } else { Err(refusal(call, verb)) }
}

/// What RBAC is asked about a path.
pub(crate) fn attributes_of<'a>(path: &'a ResourcePath<'_>, verb: Verb) -> Attributes<'a> {
    let name = path.name.as_deref().unwrap_or("");
    // A namespace is governed by the rights in it, as upstream has it.
    let is_namespace = path.group.is_empty() && path.plural == "namespaces";
    Attributes {
        verb: verb.as_str(),
        group: &path.group,
        resource: &path.plural,
        subresource: path.subresource.as_deref().unwrap_or(""),
        name,
        namespace: if is_namespace { name } else { path.namespace.as_deref().unwrap_or("") },
        node: "",
        path: "",
    }
}

fn refusal(call: &Call<'_>, verb: Verb) -> ApiError {
    let resource = match &call.path.subresource {
        Some(sub) => format!("{}/{sub}", call.path.plural),
        None => call.path.plural.to_string(),
    };
    let place = match call.path.namespace.as_deref() {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let text = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        call.identity.user(),
        verb.as_str(),
        call.path.group,
    );
    ApiError::forbidden(About { kind: &call.entry.kind, name: call.name() }, text)
}

async fn resource<B>(call: &Call<'_>, verb: Verb, body: B) -> ApiResult<Response<Body>>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: Into<BodyError>,
{
    let subresource = call.path.subresource.as_deref();
    let part = match subresource {
        None => Part::Main,
        Some("status") if call.entry.kind.status => Part::Status,
        Some("finalize") if call.entry.habit == Habit::Namespace => Part::Finalize,
        Some(_) => return Box::pin(sub::subresource(call, verb, body)).await,
    };
    let body = content::read(&call.parts.headers, body, call.server.limits().body);
    // Boxed, so that a read does not carry the size of a write.
    match (part, verb) {
        (Part::Main | Part::Status, Verb::Get) => verbs::read::get(call).await,
        (Part::Status, Verb::Update | Verb::Patch) if call.entry.habit == Habit::Operation => {
            let why =
                "its status is written by the queue that carries it out; set spec.cancelled, or raise spec.replays";
            Err(ApiError::forbidden(call.about(call.name()), why))
        }
        (_, Verb::Update) => Box::pin(verbs::patch::update(call, part, body.await?)).await,
        (_, Verb::Patch) => Box::pin(verbs::patch::patch(call, part, body.await?)).await,
        (Part::Main, Verb::List) => Box::pin(verbs::list::list(call)).await,
        (Part::Main, Verb::Watch) => Box::pin(verbs::watch::watch(call)).await,
        (Part::Main, Verb::Create) if call.path.name.is_none() => {
            Box::pin(verbs::create::create(call, body.await?)).await
        }
        (Part::Main, Verb::Delete) => Box::pin(verbs::delete::delete(call, body.await?)).await,
        (Part::Main, Verb::DeleteCollection) => Box::pin(verbs::delete::delete_collection(call, body.await?)).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}
