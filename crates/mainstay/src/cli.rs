//! The command line: what it understands, and the way from a verb to its code.

mod apply;
mod backup;
mod complete;
mod delete;
mod describe;
pub(crate) mod failure;
mod fsck;
mod get;
mod keys;
mod logs;
mod messages;
mod migrate;
mod node;
mod offline;
mod operation;
mod restore;
mod schema;
mod session;
mod start;
mod status;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use crate::connect::ServerFlags;
use crate::demo::args::DemoArgs;
use crate::output;
use crate::serve::args::ServeArgs;
use failure::{CliError, CliResult, EXIT_CODES};

/// How long the end waits for a thread that is not done.
const BLOCKED: Duration = Duration::from_secs(1);

/// A self-hosted control plane for agent sessions
#[derive(Debug, Parser)]
#[command(name = "mainstay", version, after_help = EXIT_CODES, after_long_help = EXIT_CODES, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every verb knows.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    #[command(flatten)]
    pub(crate) server: ServerFlags,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", hide_short_help = true)]
    pub(crate) color: Color,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Those that talk to a server.
    #[command(flatten)]
    Client(ClientCommand),
    Serve(Box<ServeArgs>),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    Migrate(migrate::MigrateArgs),
    Schema(schema::SchemaArgs),
    Fsck(fsck::FsckArgs),
    Demo(DemoArgs),
}

/// The verbs that talk to a server.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    Get(get::GetArgs),
    Describe(describe::DescribeArgs),
    Apply(apply::ApplyArgs),
    Delete(delete::DeleteArgs),
    Watch(get::WatchArgs),
    Start(Box<start::StartArgs>),
    Resume(session::ResumeArgs),
    Stop(session::StopArgs),
    Send(session::SendArgs),
    Keys(keys::KeysArgs),
    Cancel(operation::CancelArgs),
    Replay(operation::ReplayArgs),
    Messages(messages::MessagesArgs),
    Logs(logs::LogsArgs),
    Status(status::StatusArgs),
    Version(status::VersionArgs),
    Node(node::NodeArgs),
    Completion(complete::CompletionArgs),
}

/// Reads the command line; answers a shell's request for completions, and ends, when that is what it is.
pub(crate) fn parse() -> Cli {
    complete::answer();
    Cli::parse()
}

/// Runs what the command line asks for.
pub(crate) fn run(cli: Cli) -> ExitCode {
    match cli.global.color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    finish(match cli.command {
        Command::Client(command) => {
            on(Builder::new_current_thread(), async { Box::pin(dispatch(&cli.global.server, command)).await })
        }
        Command::Serve(args) => on(Builder::new_multi_thread(), async {
            Ok(Box::pin(crate::serve::run(*args, cli.global.server.server)).await?)
        }),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Migrate(args) => migrate::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Fsck(args) => fsck::run(&args),
        Command::Demo(args) => on(Builder::new_multi_thread(), async { Box::pin(crate::demo::run(args)).await }),
    })
}

fn on(mut builder: Builder, work: impl Future<Output = CliResult>) -> CliResult {
    let runtime = builder.enable_all().build().map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(work);
    // What blocks a thread by then has nobody left who waits for it.
    runtime.shutdown_timeout(BLOCKED);
    outcome
}

fn finish(result: CliResult) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                output::error(&error);
            }
            error.exit_code()
        }
    }
}

async fn dispatch(flags: &ServerFlags, command: ClientCommand) -> CliResult {
    match command {
        ClientCommand::Get(args) => get::run(&args, flags).await,
        ClientCommand::Describe(args) => describe::run(&args, flags).await,
        ClientCommand::Apply(args) => apply::run(&args, flags).await,
        ClientCommand::Delete(args) => delete::run(&args, flags).await,
        ClientCommand::Watch(args) => get::run_watch(&args, flags).await,
        ClientCommand::Start(args) => start::run(&args, flags).await,
        ClientCommand::Resume(args) => session::resume(&args, flags).await,
        ClientCommand::Stop(args) => session::stop(&args, flags).await,
        ClientCommand::Send(args) => session::send(&args, flags).await,
        ClientCommand::Keys(args) => keys::run(&args, flags).await,
        ClientCommand::Cancel(args) => operation::cancel(&args, flags).await,
        ClientCommand::Replay(args) => operation::replay(&args, flags).await,
        ClientCommand::Messages(args) => messages::run(&args, flags).await,
        ClientCommand::Logs(args) => logs::run(&args, flags).await,
        ClientCommand::Status(args) => status::run(&args, flags).await,
        ClientCommand::Version(args) => status::version(&args, flags).await,
        ClientCommand::Node(args) => node::run(&args, flags).await,
        ClientCommand::Completion(args) => complete::run(&args),
    }
}
