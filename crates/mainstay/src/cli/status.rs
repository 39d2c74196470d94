//! `mainstay status` and `mainstay version`.

use std::collections::BTreeMap;

use clap::Args;
use mainstay_api::phase::Phase;
use serde_json::{Value, json};

use super::failure::{CliError, CliResult};
use super::session::phase_of;
use crate::connect::{Server, ServerFlags};
use crate::output::table::Table;
use crate::output::{self, Format};

/// Show how the server is: its checks, its sessions by phase, its store
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay status
  mainstay status -o json

The exit code is 1 when the server is not ready.")]
pub(crate) struct StatusArgs {
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Show the versions of this program and of the server
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay version
  mainstay version --client")]
pub(crate) struct VersionArgs {
    /// Of this program only
    #[arg(long)]
    client: bool,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs `mainstay version`.
pub(crate) async fn version(args: &VersionArgs, flags: &ServerFlags) -> CliResult {
    let mut versions = json!({"client": env!("CARGO_PKG_VERSION")});
    let mut failure = None;
    if !args.client {
        match asked(flags).await {
            Ok((url, version)) => {
                versions["server"] = version["mainstay"].clone();
                versions["kubernetes"] = version["gitVersion"].clone();
                versions["url"] = url.into();
            }
            // What is known of the client is told in any case.
            Err(error) => failure = Some(error),
        }
    }
    if matches!(args.output, Format::Json | Format::Yaml) {
        output::document(&versions, args.output)?;
    } else {
        for (name, value) in versions.as_object().into_iter().flatten() {
            output::line(format_args!("{name:<10} {}", value.as_str().unwrap_or_default()))?;
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn asked(flags: &ServerFlags) -> CliResult<(String, Value)> {
    let server = Server::find(flags).await?;
    Ok((server.url.clone(), server.version().await?))
}

/// Runs `mainstay status`.
pub(crate) async fn run(args: &StatusArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::find(flags).await?;
    let version = server.version().await?;
    let (ready, checks) = checks(&server).await?;
    let sessions = by_phase(&server).await;
    let store = store_figures(&server).await;
    if matches!(args.output, Format::Json | Format::Yaml) {
        let told = json!({
            "server": server.url, "version": version["mainstay"], "ready": ready,
            "checks": checks.iter().map(|(name, state)| json!({"name": name, "state": state})).collect::<Vec<_>>(),
            "sessions": sessions.as_ref().ok(), "store": store.as_ref().ok(),
        });
        output::document(&told, args.output)?;
    } else {
        output::line(format_args!("Server    {}", server.url))?;
        output::line(format_args!("Version   {}", version["mainstay"].as_str().unwrap_or_default()))?;
        output::line(format_args!("Ready     {}", if ready { "yes" } else { "no" }))?;
        section("CHECK", "STATE", checks)?;
        section("SESSIONS", "COUNT", told("sessions", sessions))?;
        section("STORE", "VALUE", told("metrics", store))?;
    }
    if ready { Ok(()) } else { Err(CliError::Failed(format!("the server at {} is not ready", server.url))) }
}

/// What could not be had is told, and is no failure of the whole: not everyone may see everything.
fn told(what: &str, result: CliResult<BTreeMap<String, String>>) -> Vec<(String, String)> {
    result.map_or_else(
        |error| {
            output::note(format_args!("{what}: {error}"));
            Vec::new()
        },
        |figures| figures.into_iter().collect(),
    )
}

fn section(left: &str, right: &str, rows: Vec<(String, String)>) -> CliResult {
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = Table::new([left, right]);
    for (name, value) in rows {
        table.push(vec![name, value]);
    }
    output::line("")?;
    Ok(output::line(table.render(true).trim_end())?)
}

/// The readiness checks: `[+]name ok` or `[-]name failed: why`, one a line.
async fn checks(server: &Server) -> CliResult<(bool, Vec<(String, String)>)> {
    let (ready, text) = match server.text("/readyz?verbose").await {
        Ok(text) => (true, text),
        Err(crate::connect::CallError::Refused(refusal)) if refusal.code >= 500 => (false, refusal.message),
        Err(error) => return Err(error.into()),
    };
    let check = |line: &str| {
        let line = line.split_once('[').map(|(_, rest)| rest)?;
        let (mark, rest) = line.split_once(']')?;
        let (name, state) = rest.split_once(' ').unwrap_or((rest, ""));
        matches!(mark, "+" | "-").then(|| (output::plain(name), output::plain(state)))
    };
    Ok((ready, text.lines().filter_map(check).collect()))
}

async fn by_phase(server: &Server) -> CliResult<BTreeMap<String, String>> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for session in server.all("/apis/mainstay.dev/v1alpha1/sessions").await? {
        *counts.entry(phase_of(&session).to_owned()).or_default() += 1;
    }
    let known = Phase::ALL.iter().map(|phase| phase.as_str().to_owned());
    Ok(known.filter_map(|phase| counts.get(&phase).map(|count| (phase, count.to_string()))).collect())
}

/// The store's own figures among the metrics.
async fn store_figures(server: &Server) -> CliResult<BTreeMap<String, String>> {
    let metrics = server.text("/metrics").await?;
    let figure = |line: &str| {
        let (name, value) = line.strip_prefix("mainstay_store_")?.split_once(' ')?;
        // Distributions are for dashboards.
        let single = !name.contains('{') && !name.ends_with("_sum") && !name.ends_with("_count");
        single.then(|| (name.replace('_', " "), output::plain(value.trim())))
    };
    Ok(metrics.lines().filter_map(figure).collect())
}
