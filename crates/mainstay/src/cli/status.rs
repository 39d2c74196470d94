//! `mainstay status` and `mainstay version`.

mod show;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use mainstay_api::phase::Phase;
use mainstay_apiserver::overview::{Check, Overview};
use serde_json::{Value, json};

use super::failure::{CliError, CliResult};
use super::session::phase_of;
use crate::connect::{CallError, Server, ServerFlags};
use crate::output::{self, Format};

/// Between two looks of `--watch`.
const LOOK: Duration = Duration::from_secs(2);

/// Show how the server is: its checks, store and sessions; queues and dead letters; breakers, leases and duties
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay status
  mainstay status --watch
  mainstay status -o json | jq .deadLetters

What is beyond checks and sessions needs the right to get /status (ClusterRole system:monitoring). The exit code is 1 when the server is not ready.")]
pub(crate) struct StatusArgs {
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Look again every two seconds; JSON is then one line a look
    #[arg(short, long)]
    watch: bool,
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

/// How the server is, as far as the caller may know.
#[derive(Debug)]
struct Report {
    url: String,
    version: String,
    ready: bool,
    checks: Vec<Check>,
    /// Sessions by phase, in the order of the phases.
    sessions: Vec<(String, u64)>,
    /// What those may see who watch over the server.
    overview: Option<Overview>,
}

/// Runs `mainstay status`.
pub(crate) async fn run(args: &StatusArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::find(flags).await?;
    loop {
        let report = Report::of(&server).await?;
        if !args.watch {
            report.show(args.output)?;
            let why = || CliError::Failed(format!("the server at {} is not ready", report.url));
            return if report.ready { Ok(()) } else { Err(why()) };
        }
        if args.output == Format::Json {
            output::line(report.document())?;
        } else {
            if std::io::stdout().is_terminal() {
                // Home, and all that was there is gone.
                output::line("\x1b[H\x1b[2J")?;
            }
            report.show(args.output)?;
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Report {
    async fn of(server: &Server) -> CliResult<Self> {
        let version = server.version().await?;
        let overview = overview(server).await?;
        let (ready, checks) = match &overview {
            Some(overview) => (overview.ready, overview.checks.clone()),
            None => checks(server).await?,
        };
        let version = version["mainstay"].as_str().unwrap_or_default().to_owned();
        Ok(Self { url: server.url.clone(), version, ready, checks, sessions: sessions(server).await, overview })
    }

    fn show(&self, format: Format) -> CliResult {
        if matches!(format, Format::Json | Format::Yaml) {
            return Ok(output::document(&self.document(), format)?);
        }
        show::report(self)
    }

    /// The server's own document, with what the caller saw beside it.
    fn document(&self) -> Value {
        let mut told = self.overview.as_ref().and_then(|overview| serde_json::to_value(overview).ok());
        let told = told.get_or_insert_with(|| json!({"version": self.version, "ready": self.ready}));
        told["server"] = self.url.clone().into();
        told["checks"] = json!(self.checks);
        told["sessions"] = self.sessions.iter().map(|(phase, count)| (phase.clone(), Value::from(*count))).collect();
        told.take()
    }
}

/// The server's overview; `None`, and a word of it, when the caller may not have it or the server is older than that.
async fn overview(server: &Server) -> CliResult<Option<Overview>> {
    match server.get("/status").await {
        Ok(document) => {
            let read = serde_json::from_value(document);
            let what = "GET /status".to_owned();
            Ok(Some(read.map_err(|error| CallError::NotUnderstood { what, why: error.to_string() })?))
        }
        Err(CallError::Refused(refusal)) if matches!(refusal.code, 403 | 404) => {
            output::note(format_args!("queues and breakers are not shown: {}", output::plain(&refusal.message)));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The readiness checks: `[+]name ok` or `[-]name failed: why`, one a line.
async fn checks(server: &Server) -> CliResult<(bool, Vec<Check>)> {
    let (ready, text) = match server.text("/readyz?verbose").await {
        Ok(text) => (true, text),
        Err(CallError::Refused(refusal)) if refusal.code >= 500 => (false, refusal.message),
        Err(error) => return Err(error.into()),
    };
    let check = |line: &str| {
        let line = line.split_once('[').map(|(_, rest)| rest)?;
        let (mark, rest) = line.split_once(']')?;
        let (name, state) = rest.split_once(' ').unwrap_or((rest, ""));
        let failure = (mark == "-").then(|| state.strip_prefix("failed: ").unwrap_or(state).to_owned());
        matches!(mark, "+" | "-").then(|| Check { name: name.to_owned(), failure })
    };
    Ok((ready, text.lines().filter_map(check).collect()))
}

/// What could not be had is told, and is no failure of the whole: not everyone may see everything.
async fn sessions(server: &Server) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    match server.all("/apis/mainstay.dev/v1alpha1/sessions").await {
        Ok(sessions) => {
            for session in &sessions {
                *counts.entry(phase_of(session).to_owned()).or_default() += 1;
            }
        }
        Err(error) => output::note(format_args!("sessions: {error}")),
    }
    let known = Phase::ALL.iter().map(|phase| phase.as_str().to_owned());
    known.filter_map(|phase| counts.get(&phase).copied().map(|count| (phase, count))).collect()
}
