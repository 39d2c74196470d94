//! Watching: changes of a set of objects from one revision on, gap-free over broken connections and restarts.
//!
//! Invariant: what the caller sees is a list, then every later change once; after a gap that the server cannot fill
//! (Expired) the caller sees [`Seen::Restarted`], and lists again.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{CallError, Lines, Server, path};
use crate::cli::failure::{CliError, CliResult};

/// How long one watch stays open; then the next goes on where it ended.
const WATCH_SECONDS: u32 = 290;
/// A follower gives up when the server was away for this long.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Paces attempts to come back to a server that went away, and gives up after [`PATIENCE`].
#[derive(Debug, Default)]
pub(crate) struct Comeback {
    away_since: Option<Instant>,
    attempt: u32,
}

impl Comeback {
    /// The server answered.
    pub(crate) fn reached(&mut self) {
        if self.away_since.take().is_some() && self.attempt > 1 {
            crate::output::note("connected again");
        }
        self.attempt = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The failure itself, when it does not pass by itself or the server was away too long.
    pub(crate) async fn pause(&mut self, error: CallError) -> Result<(), CallError> {
        let since = *self.away_since.get_or_insert_with(Instant::now);
        if !error.may_pass() || since.elapsed() >= PATIENCE {
            return Err(error);
        }
        if self.attempt == 1 {
            crate::output::note("connection lost; trying again");
        }
        tokio::time::sleep(Duration::from_millis(50 << self.attempt.min(5))).await;
        self.attempt += 1;
        Ok(())
    }
}

/// What a watch brings.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A change: `ADDED`, `MODIFIED` or `DELETED`, and the object (or a Table with its row).
    Change(String, Value),
    /// Changes were missed: list again.
    Restarted,
}

/// An open watch.
pub(crate) struct Watch<'a> {
    server: &'a Server,
    path: String,
    accept: &'a str,
    revision: String,
    lines: Option<Lines>,
    comeback: Comeback,
}

impl Server {
    /// Watches what `list_path` lists, from this revision on.
    pub(crate) fn watch<'a>(&'a self, list_path: &str, accept: &'a str, revision: &str) -> Watch<'a> {
        let (path, revision) = (list_path.to_owned(), revision.to_owned());
        Watch { server: self, path, accept, revision, lines: None, comeback: Comeback::default() }
    }

    /// Waits until the object is as `done` wants it, or is gone (`None`); what `done` returns is the result.
    pub(crate) async fn wait_for<T>(
        &self,
        list_path: &str,
        what: &str,
        deadline: Option<Instant>,
        mut done: impl FnMut(Option<&Value>) -> Option<T>,
    ) -> CliResult<T> {
        let wait = self.wait_without_end(list_path, &mut done);
        let Some(deadline) = deadline else { return wait.await };
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(result) => result,
            Err(_) => Err(CliError::TimedOut(format!("timed out waiting for {what}"))),
        }
    }

    async fn wait_without_end<T>(
        &self,
        list_path: &str,
        done: &mut impl FnMut(Option<&Value>) -> Option<T>,
    ) -> CliResult<T> {
        loop {
            let list = self.list_again(list_path).await?;
            if let Some(result) = done(list["items"].get(0)) {
                return Ok(result);
            }
            let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let mut watch = self.watch(list_path, super::call::JSON, revision);
            while let Seen::Change(change, object) = watch.next().await? {
                if let Some(result) = done(Some(&object).filter(|_| change != "DELETED")) {
                    return Ok(result);
                }
            }
        }
    }

    /// A list, with patience for a server that restarts.
    async fn list_again(&self, list_path: &str) -> Result<Value, CallError> {
        let mut comeback = Comeback::default();
        loop {
            match self.get(list_path).await {
                Ok(list) => return Ok(list),
                Err(error) => comeback.pause(error).await?,
            }
        }
    }
}

impl Watch<'_> {
    /// The next change.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Seen, CallError> {
        loop {
            match self.step().await {
                Ok(Some(seen)) => return Ok(seen),
                Ok(None) => {}
                Err(error) if error.code() == Some(410) => {
                    self.lines = None;
                    return Ok(Seen::Restarted);
                }
                Err(error) => {
                    self.lines = None;
                    self.comeback.pause(error).await?;
                }
            }
        }
    }

    /// One line's worth: `None` when there is nothing to tell.
    async fn step(&mut self) -> Result<Option<Seen>, CallError> {
        let lines = match &mut self.lines {
            Some(lines) => lines,
            none => {
                let mut path = self.path.clone();
                path::with_query(&mut path, "watch", "true");
                path::with_query(&mut path, "allowWatchBookmarks", "true");
                path::with_query(&mut path, "timeoutSeconds", &WATCH_SECONDS.to_string());
                path::with_query(&mut path, "resourceVersion", &self.revision);
                let opened = self.server.open(&path, self.accept).await?;
                self.comeback.reached();
                none.insert(opened)
            }
        };
        match lines.next().await? {
            Some(line) if line.is_empty() => Ok(None),
            Some(line) => self.take(&line),
            // The server ended it: the next goes on from the last revision, a moment later.
            None => {
                self.lines = None;
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(None)
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<Option<Seen>, CallError> {
        let wrong = |error: serde_json::Error| CallError::NotUnderstood {
            what: format!("a watch of {}", self.path),
            why: error.to_string(),
        };
        let mut event: Value = serde_json::from_slice(line).map_err(wrong)?;
        let (change, object) = (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].take());
        if change == "ERROR" {
            let code = object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
            return Err(CallError::Refused(super::Refusal::of(code, None, object.to_string().as_bytes())));
        }
        if let Some(revision) = revision_of(&object) {
            revision.clone_into(&mut self.revision);
        }
        Ok((change != "BOOKMARK").then_some(Seen::Change(change, object)))
    }
}

/// The revision of an object, or of the object in a Table's row.
fn revision_of(object: &Value) -> Option<&str> {
    let of_row = || object["rows"].get(0).and_then(|row| row["object"]["metadata"]["resourceVersion"].as_str());
    let own = || object["metadata"]["resourceVersion"].as_str().filter(|revision| !revision.is_empty());
    if object["kind"] == "Table" { of_row().or_else(own) } else { own() }
}
