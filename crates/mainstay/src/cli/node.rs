//! `mainstay node`: lets machines join.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use mainstay_api::names::NODE_TOKEN;
use mainstay_api::node::{JoinToken, hex, name_fault};
use serde_json::json;

use super::failure::{CliError, CliResult};
use crate::connect::{Call, Repeat, Server, ServerFlags};
use crate::output;

const SECRETS: &str = "/api/v1/namespaces/mainstay-system/secrets";

/// Let other machines run sandboxes
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay node token                         # for one machine more
  mainstay get nodes")]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    Token(TokenArgs),
}

/// Make a token that lets one machine join, once
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay node token > token                 # then, on the other machine:
  mainstay serve --role node --server https://box.example.org:7443 --join-token-file token
  mainstay node token box-2 --life 600        # for box-2 only, also to let it join anew

Whoever has the token becomes a node: keep it as you keep secrets. The server knows its hash only.")]
struct TokenArgs {
    /// The name of the node that may use it; by default, any that is not there yet
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Seconds for which it is good
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    life: u32,
}

/// Runs `mainstay node`.
pub(crate) async fn run(args: &NodeArgs, flags: &ServerFlags) -> CliResult {
    let What::Token(args) = &args.what;
    let server = Server::connect(flags).await?;
    if let Some(fault) = args.name.as_deref().and_then(name_fault) {
        return Err(CliError::Usage(format!("NAME {fault}")));
    }
    let authority = server.authority().ok_or_else(|| {
        CliError::Usage(
            "the server's authority must be known, by a kubeconfig or --ca: nodes believe it alone".to_owned(),
        )
    })?;
    let token = JoinToken {
        id: hex(&rand::random::<[u8; 8]>()),
        secret: secret()?,
        authority: hex(digest(&SHA256, &authority).as_ref()),
    };
    let kept = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": JoinToken::secret_name(&token.id) },
        "type": NODE_TOKEN,
        "stringData": {
            "hash": hex(digest(&SHA256, token.secret.as_bytes()).as_ref()),
            "node": args.name.clone().unwrap_or_default(),
            "seconds": args.life.to_string(),
        },
    });
    server.call(Call::post(SECRETS, &kept, Repeat::Never)).await?;
    Ok(output::line(token.text())?)
}

/// 256 random bits.
fn secret() -> CliResult<String> {
    let mut random = [0u8; 32];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| CliError::Failed("no random numbers from the system".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}
