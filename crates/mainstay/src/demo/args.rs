//! The flags of `mainstay demo`.

use std::path::PathBuf;

use clap::Args;

/// Watch an agent fix a failing test, while the control plane is killed and comes back
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay demo
  mainstay demo --keep      # and look around afterwards")]
pub(crate) struct DemoArgs {
    /// Keep what the demo made
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not kill the control plane half-way
    #[arg(long)]
    pub(crate) no_kill: bool,
    /// Where the demo's control plane keeps everything; a temporary directory when absent
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}
