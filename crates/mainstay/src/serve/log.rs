//! The server's log: to standard error, one line an event, in colour on a terminal only. Spans go to the layer of traces,
//! where there is one.

use std::io::IsTerminal as _;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Starts logging what `filter` lets through.
pub(crate) fn init<L>(filter: &str, traces: Option<L>) -> anyhow::Result<()>
where
    L: Layer<Registry> + Send + Sync,
{
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter:?} is no filter; try info, or warn,mainstay_node=debug"))?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    tracing_subscriber::registry().with(traces).with(log).try_init().context("start the log")
}
