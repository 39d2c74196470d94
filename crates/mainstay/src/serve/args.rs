//! The flags of `mainstay serve`.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use mainstay_api::node::JoinToken;
use mainstay_apiserver::keys::certificate_name;
use zeroize::Zeroizing;

use super::role::Role;
use super::standby::StandbyArgs;
use super::traces;
use crate::address::database::DatabaseArgs;
use crate::address::queue::QueueArgs;
use crate::further::FurtherArgs;

/// Bytes of a token that are read.
const MAX_TOKEN: u64 = 4_096;

/// Run the control plane: API server, controllers and node agent in one process, or one of them
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay serve
  mainstay serve --data-dir /srv/mainstay --listen 0.0.0.0:7443 --tls-name box.example.org
  mainstay serve --database postgres://mainstay@db.example.org/mainstay --database-password-file /etc/mainstay/password
  mainstay serve --role node --server https://box.example.org:7443 --join-token-file token

The first start makes the keys and an admin kubeconfig, DIR/admin.kubeconfig. Sessions go on while it is stopped.")]
pub(crate) struct ServeArgs {
    /// What this process does
    #[arg(long, value_enum, value_name = "ROLE", env = "MAINSTAY_ROLE", default_value_t)]
    pub(crate) role: Role,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA_DIR", default_value_os_t = crate::connect::default_data_dir())]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", env = "MAINSTAY_LISTEN", default_value = "127.0.0.1:7443")]
    pub(crate) listen: SocketAddr,
    /// One more name or address that clients know this server by, for its certificate; several with commas, or given more
    /// than once
    #[arg(long = "tls-name", value_name = "NAME", env = "MAINSTAY_TLS_NAMES", value_delimiter = ',', value_parser = certificate_name)]
    pub(crate) tls_names: Vec<String>,
    /// The name of this machine's node; by default, the host's at the first start
    #[arg(long, value_name = "NAME", env = "MAINSTAY_NODE_NAME", value_parser = super::name::parse)]
    pub(crate) node_name: Option<String>,
    /// File with the token by which a node joins, from `mainstay node token`; - reads it from standard input. Else
    /// $MAINSTAY_JOIN_TOKEN. Not needed once it has joined
    #[arg(long, value_name = "FILE|-", env = "MAINSTAY_JOIN_TOKEN_FILE")]
    pub(crate) join_token_file: Option<PathBuf>,
    /// Seconds for everything to finish after SIGTERM and the drain delay; then it ends, with a failure. A second signal ends it
    /// at once
    #[arg(long, value_name = "SECONDS", env = "MAINSTAY_GRACE_PERIOD", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    pub(crate) grace_period: u16,
    /// Seconds from saying that it is not ready, after SIGTERM, to refusing connections: for load balancers to notice
    #[arg(long, value_name = "SECONDS", env = "MAINSTAY_DRAIN_DELAY", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=600))]
    pub(crate) drain_delay: u16,
    /// The file with the key that wraps all others: 32 random bytes, 0600; DIR/key if none is named, made at the first start
    #[arg(long, value_name = "FILE", env = "MAINSTAY_KEY_FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// What to log, such as info or mainstay_controllers=debug
    #[arg(long, value_name = "FILTER", env = "MAINSTAY_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Send traces to the OpenTelemetry collector there, as OTLP over HTTP; http:// on the loopback only
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = traces::endpoint)]
    pub(crate) otlp_endpoint: Option<traces::Endpoint>,
    /// The share of traces that are sent, from 0 to 1, of those that no caller has decided on
    #[arg(long, value_name = "SHARE", env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1", value_parser = traces::share)]
    pub(crate) otlp_share: f64,
    /// Seconds after which the operations of a worker that is not heard of are carried out by another, from 3 to 3600
    #[arg(long, value_name = "SECONDS", env = "MAINSTAY_OPERATION_LEASE", default_value_t = 12, value_parser = clap::value_parser!(u16).range(3..=3_600))]
    pub(crate) operation_lease: u16,
    /// Carry out provisioning and tasks in the drill-backend there; for drills, on the loopback only
    #[arg(long, value_name = "URL", hide = true, value_parser = on_the_loopback)]
    pub(crate) drill_backend: Option<String>,
    #[command(flatten)]
    pub(crate) standby: StandbyArgs,
    #[command(flatten)]
    pub(crate) further: FurtherArgs,
}

impl ServeArgs {
    /// Time for everything to finish once it is told to stop.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_period.into())
    }

    /// Time for load balancers to notice that it is going.
    pub(crate) fn drain_delay(&self) -> Duration {
        Duration::from_secs(self.drain_delay.into())
    }

    /// The token by which this machine is to join, if one is given.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(crate) fn join_token(&self) -> anyhow::Result<Option<JoinToken>> {
        let text = match &self.join_token_file {
            Some(file) if file.as_os_str() == "-" => {
                let mut text = Zeroizing::new(String::new());
                std::io::stdin().take(MAX_TOKEN).read_to_string(&mut text).context("read the token")?;
                text
            }
            Some(file) => {
                let read = std::fs::read_to_string(file);
                Zeroizing::new(read.with_context(|| format!("--join-token-file {}", file.display()))?)
            }
            None => match std::env::var("MAINSTAY_JOIN_TOKEN") {
                Ok(text) => Zeroizing::new(text),
                Err(_) => return Ok(None),
            },
        };
        let token = JoinToken::parse(&text);
        token
            .map(Some)
            .context("this is no join token; they begin with mainstay-node_ and come from `mainstay node token`")
    }
}

fn on_the_loopback(url: &str) -> Result<String, String> {
    let parsed: http::Uri = url.parse().map_err(|_| "not a URL".to_owned())?;
    let address = parsed.authority().and_then(|authority| authority.as_str().parse::<SocketAddr>().ok());
    let is_there = parsed.scheme_str() == Some("http") && address.is_some_and(|address| address.ip().is_loopback());
    is_there.then(|| url.to_owned()).ok_or_else(|| "expected http://ADDRESS:PORT of the loopback interface".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a command line is not easily changed, as in a unit, all can be said by the environment.
    #[test]
    fn every_flag_has_a_variable_of_its_name() {
        let serve = ServeArgs::augment_args(clap::Command::new("serve"));
        let mut seen = 0;
        for flag in serve.get_arguments().filter(|flag| !flag.is_hide_set()) {
            let long = flag.get_long().unwrap();
            let wanted = format!("MAINSTAY_{}", long.to_uppercase().replace('-', "_"));
            let variable = flag.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // What may hold a password is not read by clap, which would show it; OpenTelemetry has names of its own.
            let told = flag.get_help().is_some_and(|help| help.to_string().contains(&format!("[env: {wanted}")));
            assert!(
                variable.starts_with(&wanted) || told || variable.starts_with("OTEL_"),
                "--{long} has {variable:?}"
            );
            seen += 1;
        }
        assert!(seen > 12, "{seen} flags");
    }

    #[test]
    fn a_drill_backend_is_on_the_loopback() {
        assert!(on_the_loopback("http://127.0.0.1:80").is_ok() && on_the_loopback("http://[::1]:80").is_ok());
        for wrong in ["", "http://10.0.0.1:80", "https://127.0.0.1:80", "http://localhost:80", "http://127.0.0.1"] {
            assert!(on_the_loopback(wrong).is_err(), "{wrong}");
        }
    }
}
