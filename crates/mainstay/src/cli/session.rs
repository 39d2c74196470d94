//! `mainstay resume`, `stop` and `send`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::failure::{CliError, CliResult};
use super::messages;
use super::start::read_text;
use crate::connect::{Call, CallError, Repeat, Server, ServerFlags, path};
use crate::output::progress::Spinner;
use crate::output::text::span;
use crate::output::{self, Format};

/// How often a change starts over because somebody else wrote.
const MAX_CONFLICTS: u32 = 5;

/// Start the next run of a session that has ended
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay resume fix
  mainstay send fix 'now the documentation' && mainstay resume fix --follow")]
pub(crate) struct ResumeArgs {
    /// Session
    #[arg(add = clap_complete::ArgValueCompleter::new(super::complete::sessions))]
    session: String,
    /// Show the messages until the session has ended; the exit code says how it ended
    #[arg(short, long)]
    follow: bool,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Stop sessions
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay stop fix
  mainstay stop fix other --wait --timeout 60s")]
pub(crate) struct StopArgs {
    /// Sessions
    #[arg(required = true, add = clap_complete::ArgValueCompleter::new(super::complete::sessions))]
    sessions: Vec<String>,
    /// Wait until they have stopped
    #[arg(short, long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = span, requires = "wait")]
    timeout: Duration,
}

/// Send a message to the agent of a session
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay send fix 'use the other branch'
  git diff | mainstay send fix -
  mainstay send fix @question.md --follow
  mainstay send fix 'once' --id order-17     # sent again, it is still one message")]
pub(crate) struct SendArgs {
    /// Session
    #[arg(add = clap_complete::ArgValueCompleter::new(super::complete::sessions))]
    session: String,
    /// The message: text, - for standard input, or @FILE
    #[arg(value_name = "TEXT|-|@FILE")]
    text: String,
    /// Identity of the message: what has the same one is the same message
    #[arg(long)]
    id: Option<String>,
    /// Then show what is answered, until the session has ended
    #[arg(short, long)]
    follow: bool,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs `mainstay resume`.
pub(crate) async fn resume(args: &ResumeArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    let (session, seen) = next_run(&server, &args.session).await?;
    let reference = format!("session.mainstay.dev/{}", args.session);
    match args.output {
        Format::Table | Format::Wide => {
            output::line(format_args!("{reference} resumed (run {})", session["spec"]["run"]))?;
        }
        Format::Name => output::line(reference)?,
        Format::Json | Format::Yaml => output::document(&session, args.output)?,
    }
    if args.follow {
        return messages::follow_to_the_end(&server, &args.session, seen, args.output).await;
    }
    Ok(())
}

/// Asks for one more run, exactly one: the run's number is fixed before the first try. Returns the session, and the
/// last message of the runs before.
async fn next_run(server: &Server, name: &str) -> CliResult<(Value, u64)> {
    let object = path::session(&server.namespace, name, "");
    let mut now = server.get(&object).await?;
    let run_of = |session: &Value| session["spec"]["run"].as_u64().unwrap_or(1);
    let (wanted, seen) = (run_of(&now) + 1, now["status"]["lastMessage"].as_u64().unwrap_or(0));
    for _ in 0..MAX_CONFLICTS {
        if run_of(&now) >= wanted {
            // Our own write, which was answered to nobody; or somebody else asked for the same run.
            return Ok((now, seen));
        }
        if !is_over(&now) {
            let phase = phase_of(&now);
            return Err(CliError::Refused(format!(
                "session {name} is {phase}: only one that has ended can be resumed"
            )));
        }
        let patch = json!({
            "metadata": {"resourceVersion": now["metadata"]["resourceVersion"]},
            "spec": {"run": wanted, "desiredState": "Running"},
        });
        match server.call(Call::merge_patch(&object, &patch, Repeat::Never)).await {
            Ok(after) => return Ok((after, seen)),
            Err(CallError::NoAnswer { .. }) => {}
            Err(error) if error.code() == Some(409) => {}
            Err(error) => return Err(error.into()),
        }
        now = server.get(&object).await?;
    }
    Err(CliError::Refused(format!("session {name} changes all the time: try again")))
}

/// Runs `mainstay stop`.
pub(crate) async fn stop(args: &StopArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    let mut failures = Vec::new();
    let mut stopped = Vec::new();
    for name in &args.sessions {
        let patch = json!({"spec": {"desiredState": "Stopped"}});
        let object = path::session(&server.namespace, name, "");
        match server.call(Call::merge_patch(&object, &patch, Repeat::Harmless)).await {
            Ok(after) => {
                let word = if is_over(&after) { phase_of(&after).to_lowercase() } else { "stopping".to_owned() };
                output::line(format_args!("session.mainstay.dev/{name} {word}"))?;
                stopped.push(name);
            }
            Err(error) => failures.push(CliError::from(error)),
        }
    }
    if args.wait {
        let deadline = Instant::now() + args.timeout;
        let _spinner = Spinner::start("waiting until all has stopped");
        for name in stopped {
            let list = one_session(&server.namespace, name);
            let done = |found: Option<&Value>| found.is_none_or(is_over).then_some(());
            server.wait_for(&list, &format!("session {name} to stop"), Some(deadline), done).await?;
        }
    }
    let last = failures.pop();
    for failure in &failures {
        output::error(failure);
    }
    last.map_or(Ok(()), Err)
}

/// Runs `mainstay send`.
pub(crate) async fn send(args: &SendArgs, flags: &ServerFlags) -> CliResult {
    let text = read_text(&args.text)?;
    if text.is_empty() {
        return Err(CliError::Usage("the message is empty".to_owned()));
    }
    let server = Server::connect(flags).await?;
    let id = args.id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let body = json!({"messages": [{"id": id, "type": "user", "text": text}]});
    let to = path::session(&server.namespace, &args.session, "messages");
    // The server knows a message by its id: sending it again is harmless.
    let answer = server.call(Call::post(&to, &body, Repeat::Harmless)).await?;
    let number = answer["messages"][0]["number"].as_u64().unwrap_or(0);
    match args.output {
        Format::Table | Format::Wide => {
            let again = answer["messages"][0]["duplicate"] == true;
            output::line(format_args!("#{number} {}", if again { "was sent before" } else { "sent" }))?;
        }
        Format::Name => output::line(number)?,
        Format::Json | Format::Yaml => output::document(&answer, args.output)?,
    }
    if args.follow {
        return messages::follow_to_the_end(&server, &args.session, number, args.output).await;
    }
    Ok(())
}

/// The list that holds this session only.
pub(crate) fn one_session(namespace: &str, name: &str) -> String {
    let mut list = path::sessions(namespace);
    path::with_query(&mut list, "fieldSelector", &format!("metadata.name={name}"));
    list
}

/// The phase, as a word.
pub(crate) fn phase_of(session: &Value) -> &str {
    session["status"]["phase"].as_str().unwrap_or("Pending")
}

/// Whether the run that is asked for has ended: a status that still speaks of an earlier run says nothing of it.
pub(crate) fn is_over(session: &Value) -> bool {
    let ended =
        mainstay_api::phase::Phase::parse(phase_of(session)).is_some_and(mainstay_api::phase::Phase::is_terminal);
    let asked = session["spec"]["run"].as_u64().unwrap_or(1);
    ended && session["status"]["run"].as_u64().is_none_or(|run| run >= asked)
}
