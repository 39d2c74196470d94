//! From a Pod to a [`Launch`]: pure.
//!
//! Invariant: a limit that somebody wrote is enforced or the Pod is refused, naming what is missing (R50). Defaults apply
//! where they can be enforced.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use mainstay_api::{names, quantity, session};

use super::error::AgentError;
use super::sources::Sources;
use super::view::View;
use crate::launch::{Isolation, Launch, Limits, LogLimits, Workspace};
use crate::sandbox::probe::Support;

/// Limits of a sandbox whose Pod names none (R8).
const DEFAULTS: Limits = Limits { cpu_millis: Some(2_000), memory_bytes: Some(2 << 30), pids: Some(512) };
/// Where the workspace appears.
const WORKSPACE: &str = "/workspace";
/// The log of one sandbox.
const LOG: LogLimits = LogLimits { file_bytes: 8 << 20, files: 4 };

/// What sandboxes are made of here.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// How far they are set apart.
    pub(crate) isolation: Isolation,
    /// What this host and user can enforce.
    pub(crate) support: Support,
}

/// What is given to every launch of this agent.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The run directory, not made yet.
    pub(crate) run_dir: PathBuf,
    /// The relay's directory.
    pub(crate) sock_dir: PathBuf,
    /// The token's directory.
    pub(crate) token_dir: PathBuf,
    /// The workspace's directory.
    pub(crate) workspace: PathBuf,
    /// The id of the data directory.
    pub(crate) instance: String,
    /// The first uid of the sandbox's range.
    pub(crate) uid_base: u32,
    /// Our fencing token.
    pub(crate) fence: u64,
}

/// Whether what the Pod asks for can be enforced.
///
/// # Errors
/// Names all that is missing.
pub(crate) fn admit(view: &View, host: &Host) -> Result<(), AgentError> {
    let asked = asked(container(spec(view)?)?)?;
    let missing = host.support.missing(host.isolation, &asked, view.keep);
    if missing.is_empty() { Ok(()) } else { Err(AgentError::Unenforceable(missing.join(", "))) }
}

/// What the shim is to run.
pub(crate) fn launch(view: &View, sources: Sources, place: Place, host: &Host) -> Result<Launch, AgentError> {
    let spec = spec(view)?;
    let container = container(spec)?;
    let command = container.command.iter().chain(&container.args).flatten().cloned().collect();
    let grace = spec.termination_grace_period_seconds.unwrap_or(10).unsigned_abs();
    Ok(Launch {
        pod: view.pod.clone(),
        session: view.session.clone(),
        adaptor: view.adaptor,
        command,
        env: sources.env,
        working_dir: container.working_dir.clone().unwrap_or_else(|| WORKSPACE.to_owned()),
        limits: limits(asked(container)?, &host.support),
        grace_seconds: grace,
        deadline_seconds: spec.active_deadline_seconds.map(i64::unsigned_abs),
        fence: place.fence,
        workspace: Workspace {
            dir: place.workspace,
            mount: WORKSPACE.to_owned(),
            size_bytes: workspace_size(spec)?,
            keep: view.keep,
        },
        files: sources.files,
        run_dir: place.run_dir,
        sock_dir: place.sock_dir,
        token_dir: place.token_dir,
        instance: place.instance,
        isolation: host.isolation,
        uid_base: place.uid_base,
        log: LOG,
    })
}

/// The Pod's spec.
pub(crate) fn spec(view: &View) -> Result<&PodSpec, AgentError> {
    view.object.spec.as_ref().ok_or_else(|| AgentError::Refused("the Pod has no spec".into()))
}

fn container(spec: &PodSpec) -> Result<&Container, AgentError> {
    let container = spec.containers.first().ok_or_else(|| AgentError::Refused("the Pod has no container".into()))?;
    let names_program = container.command.iter().flatten().next().is_some_and(|program| !program.is_empty());
    if names_program { Ok(container) } else { Err(AgentError::Refused("the container has no command".into())) }
}

/// The limits that the Pod names.
fn asked(container: &Container) -> Result<Limits, AgentError> {
    let written = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let read = |name: &str, reader: fn(&str) -> Result<u64, quantity::BadQuantity>| {
        let text = written.and_then(|limits| limits.get(name)).map(|quantity| quantity.0.as_str());
        let bad = |error| AgentError::Refused(format!("the limit on {name} {error}"));
        text.map(|text| reader(text).map_err(bad)).transpose()
    };
    Ok(Limits {
        cpu_millis: read("cpu", quantity::millis)?,
        memory_bytes: read("memory", quantity::units)?,
        pids: read(names::PIDS, quantity::units)?,
    })
}

fn limits(asked: Limits, support: &Support) -> Limits {
    let or_default = |asked: Option<u64>, default: Option<u64>, controller: &str| {
        asked.or(default).filter(|_| support.controllers.iter().any(|held| held == controller))
    };
    Limits {
        cpu_millis: or_default(asked.cpu_millis, DEFAULTS.cpu_millis, "cpu"),
        memory_bytes: or_default(asked.memory_bytes, DEFAULTS.memory_bytes, "memory"),
        pids: or_default(asked.pids, DEFAULTS.pids, "pids"),
    }
}

fn workspace_size(spec: &PodSpec) -> Result<u64, AgentError> {
    let limit = spec.volumes.iter().flatten().find_map(|volume| volume.empty_dir.as_ref()?.size_limit.as_ref());
    let text = limit.map_or(session::DEFAULT_WORKSPACE_SIZE, |limit| limit.0.as_str());
    quantity::units(text).map_err(|error| AgentError::Refused(format!("the size of the workspace {error}")))
}

#[cfg(test)]
mod tests;
