//! `mainstay cancel` and `replay`: what people do with operations. `kubectl patch` does the same.

use clap::Args;
use serde_json::{Value, json};

use super::failure::{CliError, CliResult};
use super::get::{Asked, understand};
use crate::connect::kinds::Kinds;
use crate::connect::{Call, CallError, Repeat, Server, ServerFlags};
use crate::output;

/// How often a change starts over because somebody else wrote.
const MAX_CONFLICTS: u32 = 5;

/// End operations: what they have done is undone
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay cancel operation teardown-web
  mainstay cancel op/teardown-web op/teardown-shop -n mainstay-system
  kubectl patch operation teardown-web --type=merge -p '{\"spec\":{\"cancelled\":true}}'")]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    which: Which,
}

/// Put operations that have died back into the queue: they go on where they stopped
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay replay operation teardown-web
  mainstay get operations -A --field-selector status.phase=Dead
  kubectl patch operation teardown-web --type=merge -p '{\"spec\":{\"replays\":1}}'   # one more than it says")]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Args)]
struct Which {
    /// operation NAME..., or operation/NAME...
    #[arg(required = true, value_name = "KIND NAME", add = clap_complete::ArgValueCompleter::new(super::complete::kinds_and_names))]
    what: Vec<String>,
}

/// Runs `mainstay cancel`.
pub(crate) async fn cancel(args: &CancelArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    let mut failures = Vec::new();
    for (reference, path) in args.which.read(&server).await? {
        let patch = json!({"spec": {"cancelled": true}});
        match server.call(Call::merge_patch(&path, &patch, Repeat::Harmless)).await {
            Ok(_) => output::line(format_args!("{reference} cancelling"))?,
            Err(error) => failures.push(CliError::from(error)),
        }
    }
    finish(failures)
}

/// Runs `mainstay replay`.
pub(crate) async fn replay(args: &ReplayArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    let mut failures = Vec::new();
    for (reference, path) in args.which.read(&server).await? {
        match once_more(&server, &reference, &path).await {
            Ok(()) => output::line(format_args!("{reference} replayed"))?,
            Err(error) => failures.push(error),
        }
    }
    finish(failures)
}

/// Asks for one more replay, exactly one: its number is fixed before the first try.
async fn once_more(server: &Server, reference: &str, path: &str) -> CliResult {
    let replays = |operation: &Value| operation["spec"]["replays"].as_u64().unwrap_or(0);
    let mut now = server.get(path).await?;
    let wanted = replays(&now) + 1;
    for _ in 0..MAX_CONFLICTS {
        if replays(&now) >= wanted {
            // Our own write, which was answered to nobody; or somebody else replayed it.
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": now["metadata"]["resourceVersion"]}, "spec": {"replays": wanted},
        });
        match server.call(Call::merge_patch(path, &patch, Repeat::Never)).await {
            Ok(_) => return Ok(()),
            Err(CallError::NoAnswer { .. }) => {}
            Err(error) if error.code() == Some(409) => {}
            Err(error) => return Err(error.into()),
        }
        now = server.get(path).await?;
    }
    Err(CliError::Refused(format!("{reference} changes all the time: try again")))
}

fn finish(mut failures: Vec<CliError>) -> CliResult {
    let last = failures.pop();
    for failure in &failures {
        output::error(failure);
    }
    last.map_or(Ok(()), Err)
}

impl Which {
    /// References and paths of the operations that are named.
    async fn read(&self, server: &Server) -> CliResult<Vec<(String, String)>> {
        let kinds = Kinds::discover(server).await?;
        let mut all = Vec::new();
        for Asked { kind, name } in understand(&self.what, &kinds)? {
            if kind.kind != "Operation" {
                return Err(CliError::Usage(format!("only operations, and no {}", kind.plural)));
            }
            let name = name.ok_or_else(|| CliError::Usage("which operation? Give its name".to_owned()))?;
            all.push((kind.reference(&name), kind.object(&server.namespace, &name)));
        }
        Ok(all)
    }
}
