//! `mainstay logs`: what the processes of a Pod wrote, followed over restarts of the server, each line once.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use mainstay_runtime::clock::Timestamp;
use serde_json::Value;

use super::failure::{CliError, CliResult};
use super::session::is_over;
use crate::connect::watch::Comeback;
use crate::connect::{CallError, Server, ServerFlags, path};
use crate::output::progress::Spinner;
use crate::output::text::span;

/// Show the log of a session's Pod
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay logs fix              # the Pod of session fix
  mainstay logs pod/fix-1
  mainstay logs fix -f --tail 20
  mainstay logs fix --since 10m --timestamps")]
pub(crate) struct LogsArgs {
    /// Session or Pod; session/NAME or pod/NAME where both exist
    #[arg(value_name = "SESSION|POD", add = clap_complete::ArgValueCompleter::new(super::complete::sessions))]
    name: String,
    /// Go on with what comes, until it has ended
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what is newer
    #[arg(long, value_name = "SPAN", value_parser = span)]
    since: Option<Duration>,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
}

/// Runs `mainstay logs`.
pub(crate) async fn run(args: &LogsArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    let pod = find_pod(&server, args).await?;
    let mut tail = Tail { args, server: &server, pod, last: None, seen_at_last: 0 };
    let mut comeback = Comeback::default();
    loop {
        match tail.stream(&mut comeback).await {
            Ok(()) if !args.follow || tail.is_over().await? => return Ok(()),
            Ok(()) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(StreamError::Output(error)) => return Err(error),
            // The container is not there yet.
            Err(StreamError::Call(error)) if args.follow && error.code() == Some(400) => {
                tail.await_start(error).await?;
            }
            Err(StreamError::Call(error)) if args.follow => comeback.pause(error).await?,
            Err(StreamError::Call(error)) => return Err(error.into()),
        }
    }
}

fn pod_path(server: &Server, pod: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", path::encode(&server.namespace), path::encode(pod))
}

/// The Pod that a word means: a Pod of that name, or the Pod of the session of that name.
async fn find_pod(server: &Server, args: &LogsArgs) -> CliResult<String> {
    let (kind, name) = args.name.split_once('/').unwrap_or(("", &args.name));
    let (pods, sessions) = match kind {
        "" => (true, true),
        "pod" | "pods" | "po" => (true, false),
        "session" | "sessions" | "sess" => (false, true),
        other => return Err(CliError::Usage(format!("logs are of a session or a pod, not of a {other}"))),
    };
    let exists = |result: Result<_, CallError>| match result {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    };
    let session = if sessions { exists(server.get(&path::session(&server.namespace, name, "")).await)? } else { None };
    let pod = if pods { exists(server.get(&pod_path(server, name)).await)? } else { None };
    match (session, pod) {
        (Some(_), Some(_)) => {
            let what = format!("there is a session and a pod {name}: say session/{name} or pod/{name}");
            Err(CliError::Usage(what))
        }
        (None, Some(_)) => Ok(name.to_owned()),
        (Some(_), None) if args.follow => await_pod(server, name).await,
        (Some(session), None) => pod_of(&session).ok_or_else(|| no_pod(name, &session)),
        (None, None) => Err(CliError::NotFound(format!("no session or pod {name} in namespace {}", server.namespace))),
    }
}

fn pod_of(session: &Value) -> Option<String> {
    session["status"]["pod"].as_str().map(str::to_owned)
}

fn no_pod(name: &str, session: &Value) -> CliError {
    CliError::NotFound(format!("session {name} has no pod: it is {}", super::session::phase_of(session)))
}

/// The Pod of the run that the session was asked for last, once there is one.
async fn await_pod(server: &Server, name: &str) -> CliResult<String> {
    let mut list = path::sessions(&server.namespace);
    path::with_query(&mut list, "fieldSelector", &format!("metadata.name={name}"));
    let begun = |session: Option<&Value>| match session {
        None => Some(Err(CliError::NotFound(format!("session {name} is gone")))),
        Some(session) if is_to_run(session) => None,
        Some(session) => Some(pod_of(session).ok_or_else(|| no_pod(name, session))),
    };
    let _spinner = Spinner::start("waiting for the session's pod");
    server.wait_for(&list, "the session's pod", None, begun).await?
}

/// A run is asked for that has no Pod yet.
fn is_to_run(session: &Value) -> bool {
    let begun = session["status"]["run"].as_u64() >= session["spec"]["run"].as_u64() && pod_of(session).is_some();
    session["spec"]["desiredState"] != "Stopped" && !begun && !is_over(session)
}

enum StreamError {
    Call(CallError),
    Output(CliError),
}

/// A log, and how far it was shown.
struct Tail<'a> {
    args: &'a LogsArgs,
    server: &'a Server,
    pod: String,
    /// Time of the last line shown.
    last: Option<Timestamp>,
    /// How many lines of exactly that time were shown.
    seen_at_last: usize,
}

impl Tail<'_> {
    /// Asks for the log from the last line on. Lines are taken with their times, which tell what was shown.
    fn path(&self) -> String {
        let mut path = format!("{}/log?timestamps=true", pod_path(self.server, &self.pod));
        if self.args.follow {
            path::with_query(&mut path, "follow", "true");
        }
        if let Some(last) = self.last {
            path::with_query(&mut path, "sinceTime", &last.to_string());
            return path;
        }
        if let Some(lines) = self.args.tail {
            path::with_query(&mut path, "tailLines", &lines.to_string());
        }
        if let Some(since) = self.args.since {
            path::with_query(&mut path, "sinceSeconds", &since.as_secs().max(1).to_string());
        }
        path
    }

    async fn stream(&mut self, comeback: &mut Comeback) -> Result<(), StreamError> {
        let mut lines = self.server.open(&self.path(), "text/plain, */*").await.map_err(StreamError::Call)?;
        comeback.reached();
        let resumed = self.last;
        let mut repeats = self.seen_at_last;
        while let Some(line) = lines.next().await.map_err(StreamError::Call)? {
            let (time, text) = split_time(&line);
            if let (Some(time), Some(resumed)) = (time, resumed) {
                // Seen before the connection broke.
                let again = time < resumed || (time == resumed && repeats > 0);
                if again {
                    repeats -= usize::from(time == resumed);
                    continue;
                }
            }
            if time.is_some() {
                self.seen_at_last = if time == self.last { self.seen_at_last + 1 } else { 1 };
                self.last = time;
            }
            let shown = if self.args.timestamps { line.as_slice() } else { text };
            let mut out = std::io::stdout().lock();
            let written = out.write_all(shown).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
            written.map_err(|error| StreamError::Output(error.into()))?;
        }
        Ok(())
    }

    /// Waits until the Pod is no longer pending; when it is not, what the server said stands.
    async fn await_start(&self, error: CallError) -> CliResult {
        let mut list = format!("/api/v1/namespaces/{}/pods", path::encode(&self.server.namespace));
        path::with_query(&mut list, "fieldSelector", &format!("metadata.name={}", self.pod));
        let pending = |pod: &Value| pod["status"]["phase"].as_str().is_none_or(|phase| phase == "Pending");
        let now = self.server.get(&pod_path(self.server, &self.pod)).await?;
        if !pending(&now) {
            return Err(error.into());
        }
        let started = |found: Option<&Value>| (!found.is_some_and(pending)).then_some(());
        self.server.wait_for(&list, "the pod", None, started).await
    }

    /// Whether nothing more can come.
    async fn is_over(&self) -> CliResult<bool> {
        match self.server.get(&pod_path(self.server, &self.pod)).await {
            Ok(pod) => Ok(matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))),
            Err(error) if error.is_not_found() => Ok(true),
            // A server that restarts will tell in a moment.
            Err(error) if error.may_pass() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Splits `TIME TEXT`.
fn split_time(line: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let (head, rest) = line.split_at(end);
    match std::str::from_utf8(head).ok().and_then(|text| text.parse().ok()) {
        Some(time) => (Some(time), rest.strip_prefix(b" ").unwrap_or(rest)),
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_taken_off_a_line() {
        let (time, text) = split_time(b"2026-01-01T00:00:00.123456789Z hello there");
        assert_eq!((time.is_some(), text), (true, b"hello there".as_slice()));
        assert_eq!(split_time(b"hello there"), (None, b"hello there".as_slice()));
        assert_eq!(split_time(b"2026-01-01T00:00:00Z").1, b"");
    }
}
