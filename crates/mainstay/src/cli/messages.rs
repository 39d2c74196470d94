//! `mainstay messages`: what was said in a session, each message once and in order.

use std::pin::pin;
use std::time::Duration;

use clap::Args;
use owo_colors::OwoColorize as _;
use serde_json::Value;

use super::failure::{CliError, CliResult};
use super::session::{is_over, one_session, phase_of};
use crate::connect::watch::Comeback;
use crate::connect::{CallError, Lines, Server, ServerFlags, path};
use crate::output::text::time_of_day;
use crate::output::{self, Format, plain};

/// What the endpoint sends.
const NDJSON: &str = "application/x-ndjson";
/// A stream without even a sign of life, which comes every 15 s, for this long is dead.
const SILENCE: Duration = Duration::from_secs(45);
/// Messages asked for at once when not following.
const PAGE: u64 = 1_000;

/// Show the messages of a session
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay messages fix
  mainstay messages fix -f                 # until the session has ended
  mainstay messages fix --after 12 -o json # one JSON object per line")]
pub(crate) struct MessagesArgs {
    /// Session
    #[arg(add = clap_complete::ArgValueCompleter::new(super::complete::sessions))]
    session: String,
    /// Go on with what comes, until the session has ended
    #[arg(short, long)]
    follow: bool,
    /// With --follow: go on over the end of a run too
    #[arg(long, requires = "follow")]
    forever: bool,
    /// Only messages after this number
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
    /// Only these types, such as user,agent
    #[arg(long, value_name = "TYPES")]
    types: Option<String>,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs `mainstay messages`.
pub(crate) async fn run(args: &MessagesArgs, flags: &ServerFlags) -> CliResult {
    if matches!(args.output, Format::Yaml | Format::Name) {
        return Err(CliError::Usage("messages are shown as table or json".to_owned()));
    }
    let server = Server::connect(flags).await?;
    let mut reader = Reader::new(&server, &args.session, args.after, args.output == Format::Json);
    reader.types.clone_from(&args.types);
    if !args.follow {
        return reader.drain().await;
    }
    if args.forever {
        return reader.follow().await;
    }
    reader.follow_until_over().await.map(|_| ())
}

/// Shows messages until the session has ended; fails when it did not end well.
pub(crate) async fn follow_to_the_end(server: &Server, session: &str, after: u64, format: Format) -> CliResult {
    let mut reader = Reader::new(server, session, after, format == Format::Json);
    let Some(session_object) = reader.follow_until_over().await? else {
        return Err(CliError::NotFound(format!("session {session} was deleted")));
    };
    let (phase, reason) = (phase_of(&session_object), session_object["status"]["stoppedReason"].as_str());
    let why = reason.map(|reason| format!(" ({})", plain(reason))).unwrap_or_default();
    output::note(format_args!("session {session} is {phase}{why}"));
    if phase == "Completed" { Ok(()) } else { Err(CliError::Silent) }
}

/// Reads the messages of one session, and remembers the last number.
struct Reader<'a> {
    server: &'a Server,
    session: String,
    last: u64,
    json: bool,
    types: Option<String>,
    comeback: Comeback,
}

impl<'a> Reader<'a> {
    fn new(server: &'a Server, session: &str, last: u64, json: bool) -> Self {
        Self { server, session: session.to_owned(), last, json, types: None, comeback: Comeback::default() }
    }

    fn path(&self, follow: bool) -> String {
        let mut path = path::session(&self.server.namespace, &self.session, "messages");
        path::with_query(&mut path, "after", &self.last.to_string());
        if let Some(types) = &self.types {
            path::with_query(&mut path, "types", types);
        }
        if follow {
            path::with_query(&mut path, "follow", "true");
        } else {
            path::with_query(&mut path, "limit", &PAGE.to_string());
        }
        path
    }

    /// What there is now.
    async fn drain(&mut self) -> CliResult {
        loop {
            let before = self.last;
            match self.server.open(&self.path(false), NDJSON).await {
                Ok(mut lines) => loop {
                    match lines.next().await {
                        Ok(Some(line)) => self.show(&line)?,
                        Ok(None) => break,
                        Err(error) => {
                            self.comeback.pause(error).await?;
                            break;
                        }
                    }
                },
                Err(error) => {
                    self.comeback.pause(error).await?;
                    continue;
                }
            }
            if self.last == before {
                return Ok(());
            }
        }
    }

    /// All that comes, without end.
    async fn follow(&mut self) -> CliResult {
        let mut lines = None;
        loop {
            let line = self.next_line(&mut lines).await?;
            self.show(&line)?;
        }
    }

    /// All that comes until the session's run has ended, and then what is left. Returns the session, if it is there.
    async fn follow_until_over(&mut self) -> CliResult<Option<Value>> {
        let server = self.server;
        let list = one_session(&server.namespace, &self.session);
        // A session that is not there is an error now, and an end later.
        server.get(&path::session(&server.namespace, &self.session, "")).await?;
        let over = |found: Option<&Value>| match found {
            None => Some(None),
            Some(session) => is_over(session).then(|| Some(session.clone())),
        };
        let mut ended = pin!(server.wait_for(&list, "the session", None, over));
        let mut lines = None;
        let session = loop {
            let line = tokio::select! {
                biased;
                line = self.next_line(&mut lines) => Some(line?),
                session = &mut ended => break session?,
            };
            if let Some(line) = line {
                self.show(&line)?;
            }
        };
        if session.is_some() {
            self.drain().await?;
        }
        Ok(session)
    }

    /// The next line, over broken connections.
    ///
    /// Cancel safe: an open stream stays in `lines`.
    async fn next_line(&mut self, lines: &mut Option<Lines>) -> Result<Vec<u8>, CallError> {
        loop {
            let result = match lines {
                Some(open) => match tokio::time::timeout(SILENCE, open.next()).await {
                    Ok(result) => result,
                    Err(_) => Err(CallError::silent(&self.server.url, SILENCE)),
                },
                None => match self.server.open(&self.path(true), NDJSON).await {
                    Ok(open) => {
                        self.comeback.reached();
                        *lines = Some(open);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(Some(line)) => return Ok(line),
                // The server's own end of a stream; the next one goes on after the last number.
                Ok(None) => {
                    *lines = None;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    *lines = None;
                    self.comeback.pause(error).await?;
                }
            }
        }
    }

    /// Shows one line, unless it is a sign of life or was shown before.
    fn show(&mut self, line: &[u8]) -> CliResult {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let wrong = |error: serde_json::Error| CliError::Failed(format!("a message could not be understood: {error}"));
        let message: Value = serde_json::from_slice(line).map_err(wrong)?;
        let number = message["number"].as_u64().or_else(|| message["gap"]["to"].as_u64()).unwrap_or(0);
        if number <= self.last {
            return Ok(());
        }
        self.last = number;
        if self.json {
            output::line(String::from_utf8_lossy(line))?;
        } else {
            output::line(for_people(&message))?;
        }
        Ok(())
    }
}

/// `#12 14:03:22.123 agent  text`; the lines after the first are set below it.
fn for_people(message: &Value) -> String {
    if let Some(gap) = message.get("gap") {
        return format!("-- messages {} to {} are no longer kept --", gap["from"], gap["to"]);
    }
    let text = |name: &str| message[name].as_str().unwrap_or_default();
    let kind = plain(text("type"));
    let head = format!("#{} {} ", message["number"], time_of_day(text("time")));
    let said = match text("text") {
        "" if !message["data"].is_null() => message["data"].to_string(),
        said => said.trim_end_matches('\n').to_owned(),
    };
    let indent = " ".repeat(head.chars().count() + kind.len().max(6) + 1);
    let lines: Vec<_> = said.split('\n').map(plain).collect();
    let again = if message["redelivered"] == true { " (redelivered)".dimmed().to_string() } else { String::new() };
    let room = " ".repeat(6_usize.saturating_sub(kind.len()) + 1);
    let below = |line: &String| if line.is_empty() { String::new() } else { format!("{indent}{line}") };
    let first = lines.first().map(String::as_str).unwrap_or_default();
    let rest: Vec<_> = lines.iter().skip(1).map(|line| format!("\n{}", below(line))).collect();
    format!("{}{}{room}{first}{}{again}", head.dimmed(), coloured(&kind), rest.concat())
}

fn coloured(kind: &str) -> String {
    match kind {
        "user" => kind.green().to_string(),
        "agent" => kind.cyan().to_string(),
        "system" => kind.yellow().to_string(),
        _ => kind.dimmed().to_string(),
    }
}

#[cfg(test)]
mod tests;
