//! Finding the server: what is named on the command line, what `KUBECONFIG` names, or the one that runs here.

use std::path::{Path, PathBuf};

use clap::Args;
use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};

use crate::cli::failure::{CliError, CliResult};

/// Which server to talk to, and as whom.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerFlags {
    /// URL of the server, in place of a kubeconfig; for a node, of each replica: several with commas, or given more than once
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',', conflicts_with = "kubeconfig")]
    pub(crate) server: Vec<String>,
    /// PEM file with the authority that signed the server's certificate
    #[arg(long, global = true, value_name = "FILE", requires = "server")]
    pub(crate) ca: Option<PathBuf>,
    /// File with the bearer token
    #[arg(long, global = true, value_name = "FILE", requires = "server")]
    pub(crate) token_file: Option<PathBuf>,
    /// Kubeconfig file; else $MAINSTAY_KUBECONFIG, $KUBECONFIG, or the server that runs on this machine
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "server")]
    pub(crate) context: Option<String>,
    /// Namespace, which is the project's name; else the context's, or `default`
    #[arg(short, long, global = true, value_name = "NAME", visible_alias = "project")]
    pub(crate) namespace: Option<String>,
}

/// The way to a server.
pub(super) struct Found {
    pub(super) config: Config,
}

/// Where the embedded server keeps its data when nobody says otherwise.
pub(crate) fn default_data_dir() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = of("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let home = || of("HOME").unwrap_or_else(|| PathBuf::from("/"));
    state.unwrap_or_else(|| home().join(".local/state")).join("mainstay")
}

/// Finds the server.
pub(super) async fn find(flags: &ServerFlags) -> CliResult<Found> {
    // The process has one provider; that it was chosen before is no failure.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let config = if let [url, more @ ..] = &flags.server[..] {
        if !more.is_empty() {
            return Err(CliError::Usage("--server: one is asked; several are for `serve --role node`".to_owned()));
        }
        by_url(url, flags)?
    } else if let Some(file) = flags.kubeconfig.clone().or_else(|| variable("MAINSTAY_KUBECONFIG").map(Into::into)) {
        by_kubeconfig(read(&file)?, flags, None).await?
    } else if variable("KUBECONFIG").is_some() {
        let merged = Kubeconfig::from_env().map_err(|error| CliError::Usage(format!("$KUBECONFIG: {error}")))?;
        by_kubeconfig(merged.unwrap_or_default(), flags, None).await?
    } else {
        local(flags).await?
    };
    Ok(Found { config })
}

/// The certificate of the first authority that a configuration names, as bytes.
pub(super) fn authority(config: &Config) -> Option<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let file = config.root_cert_file.as_ref().and_then(|file| CertificateDer::from_pem_file(file).ok());
    file.map(|found| found.to_vec()).or_else(|| config.root_cert.as_ref()?.first().cloned())
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn by_url(url: &str, flags: &ServerFlags) -> CliResult<Config> {
    let uri: http::Uri = url.parse().map_err(|error| CliError::Usage(format!("--server {url}: {error}")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(CliError::Usage(format!("--server {url}: must be a URL such as https://127.0.0.1:7443")));
    }
    // A token in clear text is for everyone on the way to read.
    if uri.scheme_str() == Some("http") && flags.token_file.is_some() {
        return Err(CliError::Usage(format!("--server {url}: a token is sent over https only")));
    }
    let mut config = Config::new(uri);
    config.root_cert_file.clone_from(&flags.ca);
    if let Some(ca) = &flags.ca {
        std::fs::metadata(ca).map_err(|error| CliError::Usage(format!("--ca {}: {error}", ca.display())))?;
    }
    if let Some(file) = &flags.token_file {
        let failed = |error: std::io::Error| CliError::Usage(format!("--token-file {}: {error}", file.display()));
        let token = std::fs::read_to_string(file).map_err(failed)?;
        config.auth_info = AuthInfo { token: Some(token.trim().to_owned().into()), ..AuthInfo::default() };
    }
    Ok(config)
}

fn read(file: &Path) -> CliResult<Kubeconfig> {
    Kubeconfig::read_from(file).map_err(|error| CliError::Usage(format!("kubeconfig {}: {error}", file.display())))
}

async fn by_kubeconfig(mut kubeconfig: Kubeconfig, flags: &ServerFlags, url: Option<&str>) -> CliResult<Config> {
    if let Some(url) = url {
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(url.to_owned());
        }
    }
    let options = KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| CliError::Usage(format!("the kubeconfig cannot be used: {error}")))
}

/// The server that runs on this machine, by the `endpoint` file that it keeps while it runs.
async fn local(flags: &ServerFlags) -> CliResult<Config> {
    let chosen = variable("MAINSTAY_DATA_DIR").map(PathBuf::from);
    let places = chosen.map_or_else(|| vec![default_data_dir(), "/var/lib/mainstay".into()], |place| vec![place]);
    for place in &places {
        let Ok(url) = std::fs::read_to_string(place.join("endpoint")) else { continue };
        return by_kubeconfig(read(&place.join("admin.kubeconfig"))?, flags, Some(url.trim())).await;
    }
    let looked: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    Err(CliError::Unreachable(format!(
        "no Mainstay server is running here (looked in {}). Start one with `mainstay serve`, or name one with --server, \
         --kubeconfig or $KUBECONFIG",
        looked.join(" and ")
    )))
}
