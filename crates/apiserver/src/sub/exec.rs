//! `pods/NAME/exec`: a command in a Pod's sandbox, over a WebSocket.
//!
//! All that can be refused is, before the connection is upgraded, with a Status of its own; what happens after that is told
//! as the command's end. SPDY, which kubectl before 1.30 speaks for this, is not spoken. kubectl asks by SPDY once more when it was
//! refused, so that the reasons come before the protocol.
//!
//! The right to it is `create` on `pods/exec`, also for GET, by which WebSockets are asked for. It is asked about again while the
//! command runs. There is no bound on idleness; a peer that has gone is noticed by TCP, and by what is said to it.

mod carry;
mod outcome;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use hyper::upgrade::OnUpgrade;
use mainstay_api::exec::{ExecEnd, ExecRequest};
use mainstay_api::names;
use mainstay_runtime::failure::chain_of;
use serde_json::Value;
use tokio::time::Instant;

use self::carry::Carried;
use self::socket::{Protocol, Shake};
use crate::body::Body;
use crate::gate::Permit;
use crate::holder::Holder;
use crate::nodelink::NodeLink;
use crate::object;
use crate::request::Verb;
use crate::server::{ApiServer, Call};
use crate::status::{ApiError, ApiResult};
use crate::sub::logs;
use crate::verbs::read as objects;

/// How long the connection may take to be upgraded.
const TURN: Duration = Duration::from_secs(10);
/// Nobody's command takes so long; what ends it is its right.
const LIFE: Duration = Duration::from_hours(24 * 365);

/// Answers `GET` and `POST` with an upgrade.
///
/// # Errors
/// 400 for parameters that make no sense, a Pod that is not running, and who speaks something else; 404; 409 for a Pod that is being
/// stopped; 429; 503 without a node agent.
pub(crate) async fn open(call: &Call<'_>) -> ApiResult<Response<Body>> {
    let mut request = asked(call)?;
    let stored = objects::find(call).await?;
    let pod = object::parse(&stored)?;
    let container = logs::container(call, &pod)?;
    check_running(call, &pod, &container)?;
    let link = link(call, &pod)?;
    let Shake { upgrade, protocol, response } = socket::shake(call.parts)?;
    let permit = call.server.gate().enter(call.identity)?;
    request.pod_uid = stored.meta.uid.to_string();
    let told =
        Told { user: call.identity.user().to_owned(), pod: format!("{}/{}", call.namespace(), call.name()), container };
    let served = Served { link, request, protocol, holder: Holder::of(call, Verb::Create), told, _permit: permit };
    let server = call.server.clone();
    drop(call.server.tasks().spawn("exec", served.run(server, upgrade)));
    Ok(response)
}

/// What is to be run, but for where.
fn asked(call: &Call<'_>) -> ApiResult<ExecRequest> {
    let query = call.query;
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    match command.first() {
        None => return Err(ApiError::bad_request("command: you must specify at least one command for the container")),
        Some(program) if program.is_empty() => {
            return Err(ApiError::bad_request("command: the program has no name"));
        }
        Some(_) => {}
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(ApiError::bad_request("command: no word of it may hold a NUL"));
    }
    let (stdin, stdout, tty) = (query.flag("stdin")?, query.flag("stdout")?, query.flag("tty")?);
    // With a terminal, errors are output.
    let stderr = query.flag("stderr")? && !tty;
    if !stdin && !stdout && !stderr {
        return Err(ApiError::bad_request("stdin, stdout, stderr: you must specify at least one of them"));
    }
    Ok(ExecRequest { pod_uid: String::new(), command, stdin, stdout, stderr, tty })
}

fn check_running(call: &Call<'_>, pod: &Value, container: &str) -> ApiResult<()> {
    let leaving = match (object::is_deleting(pod), pod["metadata"]["annotations"][names::STOP].as_str()) {
        (true, _) => Some("deleted"),
        (false, Some("true")) => Some("stopped"),
        (false, _) => None,
    };
    if let Some(how) = leaving {
        let why = format!("the pod is being {how}, and takes no further commands");
        return Err(ApiError::conflict(call.about(call.name()), why));
    }
    match pod["status"]["phase"].as_str().unwrap_or("Pending") {
        "Running" => Ok(()),
        phase => Err(ApiError::bad_request(format!(
            "container {container:?} in pod {:?} is not running: status.phase is {phase}",
            call.name()
        ))),
    }
}

fn link(call: &Call<'_>, pod: &Value) -> ApiResult<Arc<dyn NodeLink>> {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    call.server.links().get(node).ok_or_else(|| {
        let why = format!("the agent of node {node:?} is not connected");
        ApiError::unavailable(format!("nothing can be run in pod {:?}: {why}", call.name()))
    })
}

/// Who runs something where, for the log; what is run may hold secrets.
struct Told {
    user: String,
    pod: String,
    container: String,
}

/// A command whose request was granted.
struct Served {
    link: Arc<dyn NodeLink>,
    request: ExecRequest,
    protocol: Protocol,
    holder: Holder,
    told: Told,
    _permit: Permit,
}

impl Served {
    async fn run(self, server: ApiServer, upgrade: OnUpgrade) {
        let Self { link, request, protocol, holder, told: Told { user, pod, container }, _permit } = self;
        let upgraded = match tokio::time::timeout(TURN, upgrade).await {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(error)) => return tracing::debug!(pod, error = chain_of(&error), "an upgrade for a command"),
            Err(_) => return tracing::debug!(pod, "a connection was not upgraded for a command in time"),
        };
        tracing::info!(user, pod, container, tty = request.tty, "a command runs in a Pod");
        let over = holder.over(server.clone(), Instant::now() + LIFE);
        let ended = carry::carry(upgraded, protocol, (&*link, request), over).await;
        match ended {
            // Why one failed may name it.
            Carried::Ended(ExecEnd { code, signal, failure }) => {
                tracing::info!(user, pod, code, signal, failed = failure.is_some(), "a command in a Pod has ended");
            }
            Carried::Left => tracing::info!(user, pod, "who ran a command in a Pod has left"),
        }
    }
}
