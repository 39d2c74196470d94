//! `mainstay schema`: which tables a shared database has, who works with them, and what of them can go after an upgrade.

use clap::Args;
use mainstay_runtime::failure::chain_of;
use mainstay_store::StoreError;
use mainstay_store::postgres::upgrade::{ContractError, Schema, contract, look};

use super::failure::{CliError, CliResult};
use crate::address::database::DatabaseArgs;
use crate::further::FurtherArgs;
use crate::output;
use crate::output::table::Table;

/// Show which schema a shared database has and who works with it; contract it after an upgrade
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay schema --database postgres://mainstay@db.example.org/mainstay --database-password-file /etc/mainstay/password
  mainstay schema --contract

A newer program expands the schema when it first starts, and older ones work on beside it: an upgrade goes one replica after
the other, and back in the same way. Once it is not to be taken back, --contract removes what only older programs used; it
is refused while one of them is at work, and they are refused from then on.")]
pub(crate) struct SchemaArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Remove what only programs older than this one used, and refuse them from now on
    #[arg(long)]
    contract: bool,
    #[command(flatten)]
    further: FurtherArgs,
}

/// Runs `mainstay schema`.
pub(crate) fn run(args: &SchemaArgs) -> CliResult {
    let usage = |error: anyhow::Error| CliError::Usage(format!("{error:#}"));
    let address = args.database.address().map_err(usage)?.ok_or_else(|| {
        CliError::Usage("of which database? Give --database URL, or MAINSTAY_DATABASE in the environment".to_owned())
    })?;
    let further = args.further.step().map_err(usage)?;
    let schema = if args.contract {
        contract(&address, further.as_ref())?
    } else {
        look(&address, further.as_ref()).map_err(ContractError::Store)?
    };
    show(&schema)
}

fn show(schema: &Schema) -> CliResult {
    let Schema { version, oldest, known, replicas } = schema;
    output::line(format_args!("schema   {version}; programs that know {oldest} or later work with it"))?;
    output::line(format_args!("program  {known}{}", next(schema)))?;
    if !replicas.is_empty() {
        let mut table = Table::new(["replica", "knows", "at work", "heard of"]);
        for replica in replicas {
            let there = if replica.there { "yes" } else { "no" };
            let silent = format!("{} s ago", replica.silent.as_secs());
            table.push(vec![output::plain(&replica.name), replica.knows.to_string(), there.to_owned(), silent]);
        }
        output::line(table.render(true).trim_end())?;
    }
    Ok(())
}

/// What can be done.
const fn next(schema: &Schema) -> &'static str {
    if schema.version < schema.known {
        "; its first start expands the schema"
    } else if schema.oldest < schema.version && schema.version == schema.known {
        "; --contract ends the way back"
    } else {
        ""
    }
}

impl From<ContractError> for CliError {
    fn from(error: ContractError) -> Self {
        let text = chain_of(&error);
        match error {
            ContractError::Older { .. } => {
                Self::Refused(format!("{text}: upgrade or stop it first; nothing has changed"))
            }
            ContractError::Store(StoreError::Away(_)) => Self::Unreachable(text),
            ContractError::Store(_) => Self::Failed(text),
        }
    }
}
