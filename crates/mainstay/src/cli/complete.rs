//! Completion: the script for a shell, and the answers when the shell asks: kinds from the registry, names from the
//! server that runs, within a moment or not at all.

use std::ffi::OsStr;
use std::time::Duration;

use clap::{Args, CommandFactory as _};
use clap_complete::CompletionCandidate;
use clap_complete::env::{CompleteEnv, EnvCompleter, Shells};

use super::Cli;
use super::failure::{CliError, CliResult};
use crate::connect::kinds::Kinds;
use crate::connect::{Server, ServerFlags};

/// A shell does not wait longer than this.
const PATIENCE: Duration = Duration::from_millis(700);

/// Print the completion script for a shell
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay completion bash > /etc/bash_completion.d/mainstay
  source <(mainstay completion zsh)
  mainstay completion fish | source")]
pub(crate) struct CompletionArgs {
    /// Shell
    #[arg(value_parser = ["bash", "zsh", "fish", "powershell", "elvish"])]
    shell: String,
}

/// Answers a shell's question, and ends the process, when this is one.
pub(super) fn answer() {
    CompleteEnv::with_factory(Cli::command).complete();
}

/// Runs `mainstay completion`.
pub(super) fn run(args: &CompletionArgs) -> CliResult {
    let shells = Shells::builtins();
    let shell: &dyn EnvCompleter =
        shells.completer(&args.shell).ok_or_else(|| CliError::Usage(format!("no completion for {}", args.shell)))?;
    let mut script = Vec::new();
    shell.write_registration("COMPLETE", "mainstay", "mainstay", "mainstay", &mut script)?;
    let mut out = anstream::stdout().lock();
    Ok(std::io::Write::write_all(&mut out, &script)?)
}

/// Kinds; after `KIND/`, the names of that kind.
pub(super) fn kinds_and_names(current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    if let Some((kind, name)) = current.split_once('/') {
        let candidates = names(kind).into_iter().filter(|candidate| candidate.starts_with(name));
        return candidates.map(|name| CompletionCandidate::new(format!("{kind}/{name}"))).collect();
    }
    let registry = mainstay_api::Registry::standard();
    let fitting = registry.iter().filter(|kind| kind.plural.starts_with(current.as_ref()));
    let mut candidates: Vec<_> = fitting.map(|kind| CompletionCandidate::new(kind.plural)).collect();
    // The word before may be a kind already: `get session fi<TAB>`.
    if let Some(kind) = typed_kind() {
        let fitting = names(&kind).into_iter().filter(|name| name.starts_with(current.as_ref()));
        candidates = fitting.map(CompletionCandidate::new).collect();
    }
    candidates
}

/// Names of sessions.
pub(super) fn sessions(current: &OsStr) -> Vec<CompletionCandidate> {
    named("sessions", current)
}

/// Names of agents.
pub(super) fn agents(current: &OsStr) -> Vec<CompletionCandidate> {
    named("agents", current)
}

fn named(kind: &str, current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    names(kind).into_iter().filter(|name| name.starts_with(current.as_ref())).map(CompletionCandidate::new).collect()
}

/// The kind that was typed before the word to complete: `mainstay -- mainstay get session fi`.
fn typed_kind() -> Option<String> {
    let registry = mainstay_api::Registry::standard();
    let words: Vec<String> = std::env::args().collect();
    let before = words.get(..words.len().saturating_sub(1))?;
    before.iter().rev().find(|word| registry.by_word(word).is_some()).cloned()
}

/// The names of all objects of a kind; none when the server does not answer in a moment.
fn names(kind: &str) -> Vec<String> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let ask = async {
        let server = Server::connect(&typed_flags()).await.ok()?;
        let kinds = Kinds::discover(&server).await.ok()?;
        let info = kinds.by_word(kind).ok()?.first().copied()?.clone();
        let objects = server.all(&info.collection(Some(&server.namespace))).await.ok()?;
        Some(objects.iter().filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned)).collect())
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, ask).await }).ok().flatten().unwrap_or_default()
}

/// The server that the line so far names.
fn typed_flags() -> ServerFlags {
    let words: Vec<String> = std::env::args().collect();
    let typed = |flags: &[&str]| {
        words.iter().enumerate().find_map(|(at, word)| {
            let (flag, value) = word.split_once('=').map_or((word.as_str(), None), |(flag, value)| (flag, Some(value)));
            let value = value.or_else(|| words.get(at + 1).map(String::as_str));
            value.filter(|_| flags.contains(&flag)).map(str::to_owned)
        })
    };
    ServerFlags {
        server: typed(&["--server"]).into_iter().collect(),
        ca: typed(&["--ca"]).map(Into::into),
        token_file: typed(&["--token-file"]).map(Into::into),
        kubeconfig: typed(&["--kubeconfig"]).map(Into::into),
        context: typed(&["--context"]),
        namespace: typed(&["-n", "--namespace", "--project"]),
    }
}
