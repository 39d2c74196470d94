//! How a cluster is made: its directory, who gets in, its certificates, its user.

use std::os::unix::fs::PermissionsExt;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::{ADMIN, Cluster, FIRST_DATABASE};
use crate::daemon::{give, run};

/// Who owns the databases of tests.
pub(super) const USER: &str = "mainstay";
/// The certificate of the authority, in the data directory.
pub(super) const AUTHORITY: &str = "authority.crt";
const KEY: &str = "server.key";

/// As installed, but small, and without segments in /dev/shm, which outlive who made them.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 500
shared_buffers = 64MB
dynamic_shared_memory_type = mmap
max_wal_size = 256MB
password_encryption = scram-sha-256
log_line_prefix = '%m [%p] %u@%d '
";
/// Whoever may enter the directory with the socket may be anybody.
const SOCKET: &str = "
local all all trust
local replication all trust
";

impl Cluster {
    /// Makes the data directory.
    pub(super) fn set_up(&self) -> anyhow::Result<()> {
        let mut initdb = self.daemon.command(self.programs.join("initdb"));
        initdb.arg("-D").arg(self.data()).args(["-U", ADMIN, "--no-sync", "--auth=trust", "--encoding=UTF8"]);
        initdb.args(["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]);
        run(initdb, "").context("make a cluster of PostgreSQL")?;

        let (data, switch) = (self.data(), |on| if on { "on" } else { "off" });
        let installed = std::fs::read_to_string(data.join("postgresql.conf"))?;
        let (fsync, ssl) = (switch(self.settings.fsync), switch(self.settings.tls));
        let conf = format!("{installed}{SETTINGS}fsync = {fsync}\nssl = {ssl}\n");
        std::fs::write(data.join("postgresql.conf"), conf)?;
        let host = if self.settings.tls { "hostssl" } else { "host" };
        let rules = format!("{SOCKET}{host} all {USER} 127.0.0.1/32 scram-sha-256\n");
        std::fs::write(data.join("pg_hba.conf"), rules)?;
        if self.settings.tls { self.certify() } else { Ok(()) }
    }

    /// Writes the server's certificate and key, and the certificate of who signed it, where PostgreSQL looks for them.
    fn certify(&self) -> anyhow::Result<()> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "testkit");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let server = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &authority)?;
        for (name, text) in [(AUTHORITY, authority.pem()), ("server.crt", server.pem()), (KEY, String::new())] {
            std::fs::write(self.data().join(name), text)?;
        }
        let path = self.data().join(KEY);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        std::fs::write(&path, key.serialize_pem())?;
        give(&path)
    }

    /// Makes the owner of the databases to come.
    pub(super) fn add_user(&self) -> anyhow::Result<()> {
        self.sql(FIRST_DATABASE, &format!("CREATE ROLE {USER} LOGIN PASSWORD '{}'", self.password)).map(drop)
    }
}
