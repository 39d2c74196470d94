//! One more step of the schema than this program's own: what a drill of an upgrade has in place of a later program.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use mainstay_store::postgres::Step;

/// The flag.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FurtherArgs {
    /// A directory with expand.sql and contract.sql: be the next version, with this step; for drills
    #[arg(long, value_name = "DIR", hide = true)]
    drill_step: Option<PathBuf>,
}

impl FurtherArgs {
    /// The step, if one is named.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn step(&self) -> anyhow::Result<Option<Step>> {
        let Some(dir) = &self.drill_step else { return Ok(None) };
        let read = |name: &str| {
            let file = dir.join(name);
            std::fs::read_to_string(&file).map(Arc::from).with_context(|| format!("--drill-step {}", file.display()))
        };
        Ok(Some(Step { expand: read("expand.sql")?, contract: read("contract.sql")? }))
    }
}
