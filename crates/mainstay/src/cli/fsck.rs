//! `mainstay fsck`: whether a data directory says the same everywhere.

use std::path::PathBuf;

use clap::Args;
use mainstay_store::sqlite::check::Report;
use serde_json::json;

use super::failure::{CliError, CliResult};
use super::offline::{contents, examine};
use crate::output::progress::Meter;
use crate::output::{self, plain};

/// Check a data directory: the database, its history, messages, operations and keys. Changes nothing
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay fsck
  mainstay fsck --data-dir /srv/mainstay --json

The server may run. The exit code is 0 when all is well, 1 when there are faults, and 2 when it could not be looked at.")]
pub(crate) struct FsckArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA_DIR", default_value_os_t = crate::connect::default_data_dir())]
    data_dir: PathBuf,
    /// The file with the key that wraps the others, to check them with; DIR/key if none is named
    #[arg(long, value_name = "FILE", env = "MAINSTAY_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Give the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `mainstay fsck`.
pub(crate) fn run(args: &FsckArgs) -> CliResult {
    let meter = Meter::start();
    let report = examine(&args.data_dir, args.key_file.as_deref(), &mut |step, done, all| meter.tell(step, done, all));
    drop(meter);
    // That it cannot be looked at has a code of its own, whatever the reason.
    let report = report.map_err(|error| CliError::Usage(CliError::from(error).to_string()))?;
    if args.json {
        let document = json!({
            "clean": report.is_clean(), "contents": report.contents, "faults": report.faults, "more": report.more,
            "skipped": report.skipped,
        });
        output::document(&document, output::Format::Json)?;
    } else {
        show(&report)?;
    }
    if report.is_clean() { Ok(()) } else { Err(CliError::Silent) }
}

/// Shows a report to people.
pub(super) fn show(report: &Report) -> CliResult {
    for fault in &report.faults {
        output::line(format_args!("{}: {}: {}", fault.check, plain(&fault.place), plain(&fault.meaning)))?;
        output::line(format_args!("    {}", fault.remedy))?;
    }
    if !report.skipped.is_empty() {
        output::line(format_args!("not looked at, the tables are of an older version: {}", report.skipped.join(", ")))?;
    }
    let held = report.contents.as_ref().map_or_else(|| "what it holds cannot be told".to_owned(), contents);
    match report.faults.len() as u64 + report.more {
        0 => output::line(format_args!("clean: {held}"))?,
        1 => output::line(format_args!("1 fault: {held}"))?,
        faults => output::line(format_args!("{faults} faults: {held}"))?,
    }
    Ok(())
}
