//! The way to the server: found, checked to be Mainstay's, and called under deadlines.
//!
//! Invariants:
//! - Every call has a deadline of [`CALL_DEADLINE`]; a stream has an idle bound instead.
//! - Only calls that may be repeated without harm are repeated, and only for failures that pass by themselves.
//! - No command talks to a server whose `/version` does not carry the `mainstay` field.

mod call;
mod error;
mod find;
pub(crate) mod kinds;
pub(crate) mod path;
mod stream;
pub(crate) mod watch;

use std::time::Duration;

use kube::Client;
use serde_json::Value;

pub(crate) use call::{Call, Repeat};
pub(crate) use error::{CallError, Refusal};
pub(crate) use find::{ServerFlags, default_data_dir};
pub(crate) use stream::Lines;

use crate::cli::failure::{CliError, CliResult};

/// A call that has no answer after this is given up.
pub(crate) use mainstay_runtime::client::CALL_DEADLINE;
/// A stream that brings nothing for this long is opened anew.
pub(crate) const STREAM_IDLE: Duration = Duration::from_secs(330);

/// A Mainstay server.
#[derive(Clone)]
pub(crate) struct Server {
    calls: Client,
    streams: Client,
    authority: Option<Vec<u8>>,
    /// Where it is, for messages to people.
    pub(crate) url: String,
    /// The namespace to use when none is named.
    pub(crate) namespace: String,
}

impl Server {
    /// Finds the server and makes sure that it is one of ours.
    pub(crate) async fn connect(flags: &ServerFlags) -> CliResult<Self> {
        let server = Self::find(flags).await?;
        server.version().await?;
        Ok(server)
    }

    /// Finds the server, without a call to it.
    pub(crate) async fn find(flags: &ServerFlags) -> CliResult<Self> {
        let found = find::find(flags).await?;
        let url = found.config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = flags.namespace.clone().unwrap_or_else(|| found.config.default_namespace.clone());
        let client = |idle| {
            mainstay_runtime::client::remote(&found.config, idle)
                .map_err(|error| CliError::Usage(format!("cannot make a client for {url}: {error}")))
        };
        let authority = find::authority(&found.config);
        Ok(Self { calls: client(CALL_DEADLINE)?, streams: client(STREAM_IDLE)?, authority, url, namespace })
    }

    /// The certificate of the authority that it is believed by, when one is named.
    pub(crate) fn authority(&self) -> Option<Vec<u8>> {
        self.authority.clone()
    }

    /// What `/version` says.
    pub(crate) async fn version(&self) -> CliResult<Value> {
        let version = self.get("/version").await?;
        if version["mainstay"].is_string() {
            return Ok(version);
        }
        Err(CliError::Refused(format!(
            "the server at {} is not a Mainstay server (its /version has no `mainstay` field); name another with \
             --server or --kubeconfig",
            self.url
        )))
    }

    /// A server behind a client of the caller's.
    #[cfg(test)]
    pub(crate) fn over(client: Client) -> Self {
        let namespace = client.default_namespace().to_owned();
        Self { calls: client.clone(), streams: client, authority: None, url: "http://test".to_owned(), namespace }
    }
}

#[cfg(test)]
mod tests;
