//! What people and scripts see: results on standard output, everything else on standard error.
//!
//! Colour is used on a terminal only (`NO_COLOR`, `CLICOLOR_FORCE` and `--color` are obeyed); text that came from
//! somebody else is shown without its control characters.

pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod yaml;

use std::fmt::Display;
use std::io::{self, Write};

use clap::ValueEnum;
use owo_colors::OwoColorize as _;
use serde_json::Value;

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// KIND/NAME, one a line
    Name,
}

/// Writes one line of a result.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    writeln!(anstream::stdout(), "{text}")
}

/// Says something to the person in front of it: on standard error, so that results stay clean.
pub(crate) fn note(text: impl Display) {
    // When nobody can read it there is nobody to tell.
    drop(writeln!(anstream::stderr(), "{text}"));
}

/// Says what went wrong.
pub(crate) fn error(text: impl Display) {
    note(format_args!("{} {text}", "error:".red().bold()));
}

/// Writes a result as JSON or YAML.
pub(crate) fn document(value: &Value, format: Format) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    if format == Format::Yaml {
        return out.write_all(yaml::to_string(value).as_bytes());
    }
    writeln!(out, "{value:#}")
}

/// Takes the control characters out of text that came from somebody else, so that it cannot drive the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
