//! The flags of `mainstay serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use mainstay_apiserver::keys::certificate_name;

/// Run the control plane: API server, controllers and node agent in one process
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay serve
  mainstay serve --data-dir /srv/mainstay --listen 0.0.0.0:7443 --tls-name box.example.org

The first start makes the keys and an admin kubeconfig, DIR/admin.kubeconfig. Sessions go on while it is stopped.")]
pub(crate) struct ServeArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA_DIR", default_value_os_t = crate::connect::default_data_dir())]
    pub(crate) data_dir: PathBuf,
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7443")]
    pub(crate) listen: SocketAddr,
    /// One more name or address that clients know this server by, for its certificate; may be given more than once
    #[arg(long = "tls-name", value_name = "NAME", value_parser = certificate_name)]
    pub(crate) tls_names: Vec<String>,
    /// What to log, such as info or mainstay_controllers=debug
    #[arg(long, value_name = "FILTER", env = "MAINSTAY_LOG", default_value = "info")]
    pub(crate) log: String,
}
