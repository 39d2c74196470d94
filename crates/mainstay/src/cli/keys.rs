//! `mainstay keys`: the versions of an installation's keys, told, rotated and ended. No key ever passes through here.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use mainstay_apiserver::keys::KeysError;
use mainstay_apiserver::keys::rotation::{key_id, prepare_rewrap};
use mainstay_runtime::failure::chain_of;
use serde_json::{Value, json};

use super::failure::{CliError, CliResult};
use crate::connect::{Call, Repeat, Server, ServerFlags, default_data_dir};
use crate::output::table::Table;
use crate::output::{self, Format};

/// Show and rotate the keys: certificate authority, token-signing and data keys, the admin's token
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay keys                          # what there is, and what it is good for
  mainstay keys rotate data              # Secrets are sealed anew by the server, while it serves
  mainstay keys rotate admin             # the token before is dead at once; DIR/admin.kubeconfig has the new one
  mainstay keys retire tokens 1          # do not wait: what it signed is refused from now on
  mainstay keys rewrap                   # another key file, made by this command, in the place of DIR/key")]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    act: Option<Act>,
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Subcommand)]
enum Act {
    /// Make a new version; what was made with the older ones stays good until nothing needs them
    Rotate {
        /// Which key
        key: Name,
    },
    /// End a version before its time: what was made with it is refused from now on
    Retire {
        /// Which key
        key: Name,
        /// Which version
        version: u64,
    },
    /// Wrap all keys by another key file, on the server's machine
    #[command(after_help = "\
With several replicas, first put the new file beside each one's key file, as FILE.new, 0600. Each puts it in the place of FILE
when the keys are wrapped by it. The old file opens nothing any more, save backups from before.")]
    Rewrap {
        /// The key file that the server was started with
        #[arg(long, value_name = "FILE", env = "MAINSTAY_KEY_FILE", default_value_os_t = default_data_dir().join("key"))]
        key_file: PathBuf,
        /// 32 random bytes to wrap by, 0600; without it they are made
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// The certificate authority
    Ca,
    /// What signs tokens
    Tokens,
    /// What seals Secrets and Credentials
    Data,
    /// The admin's token
    Admin,
}

impl Name {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Tokens => "tokens",
            Self::Data => "data",
            Self::Admin => "admin",
        }
    }
}

/// Runs `mainstay keys`.
pub(crate) async fn run(args: &KeysArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    match &args.act {
        None => show(&server.get("/keys").await?, args.output),
        Some(Act::Rotate { key }) => {
            let name = key.as_str();
            let told = post(&server, &format!("/keys/{name}/rotate")).await?;
            Ok(output::line(format_args!("key {name} rotated: version {}", told["version"]))?)
        }
        Some(Act::Retire { key, version }) => {
            let name = key.as_str();
            post(&server, &format!("/keys/{name}/retire?version={version}")).await?;
            Ok(output::line(format_args!("key {name} version {version} retired"))?)
        }
        Some(Act::Rewrap { key_file, new_key_file }) => rewrap(&server, key_file, new_key_file.as_deref()).await,
    }
}

/// Twice would be another version: never repeated.
async fn post(server: &Server, path: &str) -> CliResult<Value> {
    Ok(server.call(Call::post(path, &json!({}), Repeat::Never)).await?)
}

fn show(told: &Value, format: Format) -> CliResult {
    if matches!(format, Format::Json | Format::Yaml) {
        return Ok(output::document(told, format)?);
    }
    let mut table = Table::new(["key", "version", "created", "state"]);
    for version in told["keys"].as_array().into_iter().flatten() {
        let text = |field: &str| version[field].as_str().map_or_else(|| version[field].to_string(), str::to_owned);
        table.push(["name", "version", "created", "state"].map(text).to_vec());
    }
    output::line(table.render(true).trim_end())?;
    Ok(output::line(format_args!("\nwrapped by key {}", told["wrappingKey"].as_str().unwrap_or_default()))?)
}

async fn rewrap(server: &Server, file: &Path, new: Option<&Path>) -> CliResult {
    let refused = |error: KeysError| CliError::Refused(chain_of(&error));
    let (ours, theirs) = (key_id(file).map_err(refused)?, server.get("/keys").await?);
    let theirs = theirs["wrappingKey"].as_str().unwrap_or_default();
    if ours != theirs {
        return Err(CliError::Refused(format!(
            "{} is not the key file of the server at {}: it holds key {ours}, and the server's keys are wrapped by {theirs}",
            file.display(),
            server.url
        )));
    }
    prepare_rewrap(file, new).map_err(refused)?;
    let told = post(server, "/keys/rewrap").await?;
    let now = told["wrappingKey"].as_str().unwrap_or_default();
    Ok(output::line(format_args!("the keys are wrapped by key {now}, which is in {}", file.display()))?)
}
