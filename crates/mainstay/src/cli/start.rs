//! `mainstay start`: a new session.

use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::failure::{CliError, CliResult};
use super::messages;
use crate::connect::{Call, CallError, Repeat, Server, ServerFlags, path};
use crate::output::text::span;
use crate::output::{self, Format};

/// A prompt longer than this is refused by the server too.
const MAX_TEXT: u64 = 1 << 20;

/// Start a session of an agent
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay start fixer --prompt 'make the tests pass'
  mainstay start fixer --prompt @task.md --name fix-7 --follow
  mainstay start --prompt -  < task.md                 # the project's default agent
  mainstay start fixer --env DEBUG=1 --env HTTPS_PROXY --credential github
  mainstay start fixer --prompt 'go on' -o json")]
pub(crate) struct StartArgs {
    /// Agent; the project's default agent when absent
    #[arg(add = clap_complete::ArgValueCompleter::new(super::complete::agents))]
    agent: Option<String>,
    /// What to do: text, - for standard input, or @FILE
    #[arg(short, long, value_name = "TEXT|-|@FILE")]
    prompt: Option<String>,
    /// Name of the session; else the agent's with a random ending
    #[arg(long)]
    name: Option<String>,
    /// Environment of the agent; without a value, that of this shell. Secrets belong into a Credential
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Grant a credential, on top of the agent's
    #[arg(long, value_name = "NAME")]
    credential: Vec<String>,
    /// Longest life of the run; 0 = no end
    #[arg(long, value_name = "SPAN", value_parser = span)]
    timeout: Option<Duration>,
    /// Longest time without activity; 0 = no end
    #[arg(long, value_name = "SPAN", value_parser = span)]
    inactivity_timeout: Option<Duration>,
    /// End the session when the agent has answered
    #[arg(long)]
    stop_on_finish: bool,
    /// Keep the workspace when the session stops
    #[arg(long)]
    keep: bool,
    /// Size of the workspace, such as 2Gi
    #[arg(long, value_name = "SIZE")]
    workspace_size: Option<String>,
    /// Program and arguments in place of the agent's
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Show the messages until the session has ended; the exit code says how it ended
    #[arg(short, long)]
    follow: bool,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs `mainstay start`.
pub(crate) async fn run(args: &StartArgs, flags: &ServerFlags) -> CliResult {
    let mut session = manifest(args, |name| std::env::var(name).ok())?;
    if let Some(prompt) = &args.prompt {
        session["spec"]["prompt"] = read_text(prompt)?.into();
    }
    let server = Server::connect(flags).await?;
    if let Some(agent) = &args.agent {
        check_agent(&server, agent).await?;
    }
    let name = session["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    session["metadata"]["namespace"] = server.namespace.clone().into();
    let created = create(&server, &name, &session).await?;
    match args.output {
        Format::Table | Format::Wide => output::line(format_args!("session.mainstay.dev/{name} created"))?,
        Format::Name => output::line(format_args!("session.mainstay.dev/{name}"))?,
        Format::Json | Format::Yaml => output::document(&created, args.output)?,
    }
    if args.follow {
        return messages::follow_to_the_end(&server, &name, 0, args.output).await;
    }
    Ok(())
}

/// A session of an agent that is not there would be stored, and fail: a person hears of it at once.
async fn check_agent(server: &Server, agent: &str) -> CliResult {
    let namespace = &server.namespace;
    match server.get(&path::agent(namespace, agent)).await {
        Err(error) if error.is_not_found() => {
            Err(CliError::NotFound(format!("no agent {agent} in namespace {namespace}")))
        }
        // Who may not read agents may still start sessions.
        _ => Ok(()),
    }
}

/// Creates the session once. A first try that was answered to nobody is found by the mark that it carries.
async fn create(server: &Server, name: &str, session: &Value) -> Result<Value, CallError> {
    let collection = path::sessions(&server.namespace);
    let mut lost = false;
    loop {
        match server.call(Call::post(&collection, session, Repeat::Never)).await {
            Err(CallError::NoAnswer { .. }) if !lost => lost = true,
            Err(error) if lost && error.code() == Some(409) => {
                let found = server.get(&path::session(&server.namespace, name, "")).await?;
                let mark = |object: &Value| object["metadata"]["annotations"][MARK].clone();
                return if mark(&found) == mark(session) { Ok(found) } else { Err(error) };
            }
            result => return result,
        }
    }
}

/// The annotation that tells our own session from another of the same name.
const MARK: &str = "mainstay.dev/start-id";

fn manifest(args: &StartArgs, lookup: impl Fn(&str) -> Option<String>) -> CliResult<Value> {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let ending = mark.get(..6).unwrap_or_default();
    let stem = args.agent.as_deref().unwrap_or("session");
    // A session's name has at most 52 characters.
    let stem: String = stem.chars().take(45).collect();
    let name = args.name.clone().unwrap_or_else(|| format!("{}-{ending}", stem.trim_end_matches(['-', '.'])));
    let mut spec = json!({});
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            spec[field] = value;
        }
    };
    let some = |list: Vec<Value>| (!list.is_empty()).then_some(Value::Array(list));
    let seconds = |span: &Duration| format!("{}s", span.as_secs()).into();
    let env: CliResult<Vec<Value>> = args.env.iter().map(|text| variable(text, &lookup)).collect();
    set("agent", args.agent.clone().map(Value::from));
    set("env", some(env?));
    set("credentials", some(args.credential.iter().map(|name| json!({ "name": name })).collect()));
    set("command", some(args.command.iter().cloned().map(Value::from).collect()));
    set("timeout", args.timeout.as_ref().map(seconds));
    set("inactivityTimeout", args.inactivity_timeout.as_ref().map(seconds));
    set("stopOnFinish", args.stop_on_finish.then_some(true.into()));
    if args.keep {
        spec["workspace"]["keep"] = true.into();
    }
    if let Some(size) = &args.workspace_size {
        spec["workspace"]["size"] = size.clone().into();
    }
    Ok(json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session",
        "metadata": {"name": name, "annotations": {MARK: mark}}, "spec": spec,
    }))
}

fn variable(text: &str, lookup: impl Fn(&str) -> Option<String>) -> CliResult<Value> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => (text, lookup(text).ok_or_else(|| CliError::Usage(format!("--env {text}: not set in this shell")))?),
    };
    Ok(json!({ "name": name, "value": value }))
}

/// Text as given, from standard input (`-`) or from a file (`@FILE`).
pub(crate) fn read_text(text: &str) -> CliResult<String> {
    let failed = |error: std::io::Error| CliError::Usage(format!("{text}: {error}"));
    let mut read = String::new();
    let size = if text == "-" {
        std::io::stdin().lock().take(MAX_TEXT + 1).read_to_string(&mut read)
    } else if let Some(file) = text.strip_prefix('@') {
        std::fs::File::open(file).and_then(|file| file.take(MAX_TEXT + 1).read_to_string(&mut read))
    } else {
        return Ok(text.to_owned());
    };
    if size.map_err(failed)? as u64 > MAX_TEXT {
        return Err(CliError::Usage(format!("{text}: longer than 1 MiB")));
    }
    Ok(read.strip_suffix('\n').unwrap_or(&read).to_owned())
}
