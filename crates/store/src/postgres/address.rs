//! Where the database is: a `postgres://` URL, and how its server is known to be the right one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::StoreError;

/// How long one of the address's hosts may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// How long sent data may stay unacknowledged before the connection counts as lost.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// A database. Its `Debug` shows no password.
#[derive(Clone)]
pub struct Address {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    has_password: bool,
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not a URL of a database.
    #[error("not a database URL, expected postgres://USER@HOST/DATABASE: {0}")]
    Malformed(String),
    /// A parameter that has no such value.
    #[error("{parameter}={value} is not known; expected {expected}")]
    Parameter {
        /// Which.
        parameter: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
    /// The file with the certificates of authorities cannot be used.
    #[error("sslrootcert {}: {why}", .file.display())]
    Roots {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Address {
    /// Reads a URL, such as `postgres://mainstay@db.example.org/mainstay`. Several hosts may be named: the one that takes
    /// writes is used.
    ///
    /// To the loopback and to Unix sockets TLS is spoken when `sslmode` asks for it, to others unless `sslmode=disable`. The
    /// server's certificate is always verified: by `sslrootcert=FILE`, else by the system's authorities.
    ///
    /// # Errors
    /// [`AddressError`], which never tells the password.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let (url, roots) = take_parameter(url, "sslrootcert");
        let (url, mode) = take_parameter(&url, "sslmode");
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            AddressError::Malformed(cause)
        })?;
        if config.get_hosts().is_empty() {
            return Err(AddressError::Malformed("no host is named".to_owned()));
        }
        let secure = match mode.as_deref() {
            None => !config.get_hosts().iter().all(is_here),
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            Some(other) => {
                return Err(AddressError::Parameter {
                    parameter: "sslmode",
                    value: other.to_owned(),
                    expected: "disable or verify-full",
                });
            }
        };
        config
            .ssl_mode(if secure { SslMode::Require } else { SslMode::Disable })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(CONNECT)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(UNACKNOWLEDGED);
        let tls = if secure { Some(verified(roots.as_deref().map(Path::new))?) } else { None };
        Ok(Self { has_password: config.get_password().is_some(), config, tls })
    }

    /// Whether a password is in it.
    pub const fn has_password(&self) -> bool {
        self.has_password
    }

    /// The same, with a password.
    #[must_use]
    pub fn with_password(mut self, password: &[u8]) -> Self {
        self.config.password(password);
        self.has_password = true;
        self
    }

    pub(super) fn config(&self, name: &str) -> Config {
        let mut config = self.config.clone();
        config.application_name(name);
        config
    }

    pub(super) const fn tls(&self) -> Option<&MakeRustlsConnect> {
        self.tls.as_ref()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("hosts", &self.config.get_hosts())
            .field("database", &self.config.get_dbname())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        write!(f, "{} at {}", self.config.get_dbname().unwrap_or("the default database"), hosts.join(", "))
    }
}

impl From<AddressError> for StoreError {
    fn from(error: AddressError) -> Self {
        Self::Database(Arc::new(error))
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
        Host::Unix(_) => true,
    }
}

/// The URL without one of its query parameters, and that parameter's value.
fn take_parameter(url: &str, name: &str) -> (String, Option<String>) {
    let Some((before, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let mut value = None;
    let others: Vec<&str> = query
        .split('&')
        .filter(|pair| match pair.split_once('=') {
            Some((key, found)) if key == name => {
                value = Some(found.to_owned());
                false
            }
            _ => true,
        })
        .collect();
    let url = if others.is_empty() { before.to_owned() } else { format!("{before}?{}", others.join("&")) };
    (url, value)
}

fn verified(roots: Option<&Path>) -> Result<MakeRustlsConnect, AddressError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |file: &Path, why: String| AddressError::Roots { file: file.to_owned(), why };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| AddressError::Malformed(error.to_string()))?;
    let config = match roots {
        Some(file) => {
            let mut store = RootCertStore::empty();
            let certificates = CertificateDer::pem_file_iter(file).map_err(|error| failed(file, error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| failed(file, error.to_string()))?;
                store.add(certificate).map_err(|error| failed(file, error.to_string()))?;
            }
            if store.is_empty() {
                return Err(failed(file, "holds no certificate".to_owned()));
            }
            builder.with_root_certificates(store).with_no_client_auth()
        }
        None => builder
            .with_platform_verifier()
            .map_err(|error| AddressError::Malformed(format!("the system's authorities: {error}")))?
            .with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_elsewhere_is_spoken_to_with_tls_unless_it_is_said_otherwise() {
        for (url, secure) in [
            ("postgres://me@127.0.0.1/db", false),
            ("postgres://me@localhost/db?application_name=x", false),
            ("postgres://me@/db?host=/run/postgresql", false),
            ("postgres://me@127.0.0.1/db?sslmode=verify-full", true),
            ("postgres://me@db.example.org/db", true),
            ("postgres://me@db.example.org/db?sslmode=disable", false),
            ("postgres://me@127.0.0.1,db.example.org/db", true),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.tls().is_some(), secure, "{url}");
            assert_eq!(address.config("x").get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        for (url, named) in [
            ("postgres://me:hunter2@127.0.0.1/db?sslmode=prefer", "sslmode=prefer"),
            ("postgres://me:hunter2@127.0.0.1:port/db", "port"),
            ("hunter2", "postgres://USER@HOST/DATABASE"),
            ("postgres://me:hunter2@127.0.0.1/db?sslmode=require&sslrootcert=/nowhere", "/nowhere"),
        ] {
            let said = Address::parse(url).unwrap_err().to_string();
            assert!(said.contains(named), "{said}");
            assert!(url == "hunter2" || !said.contains("hunter2"), "{said}");
        }
        let address = Address::parse("postgres://me:hunter2@127.0.0.1/db").unwrap();
        assert!(address.has_password() && !format!("{address:?} {address}").contains("hunter2"));
    }
}
