//! TLS of the listener: 1.2 and 1.3, HTTP/2 and 1.1 by ALPN, and a certificate that is renewed while serving.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mainstay_runtime::duty::{Duties, table};
use mainstay_runtime::failure::chain_of;
use mainstay_runtime::{Class, Classify, Clock, Doing, Reason, Tasks};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::keys::{Keys, KeysError, Leaf};

mod peer;

#[cfg(test)]
mod tests;

pub use peer::Peer;
use peer::Verifier;

/// The server's side of TLS; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    clients: Arc<Verifier>,
    config: Arc<rustls::ServerConfig>,
}

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's key or certificate.
    #[error("the server's certificate could not be had")]
    Keys(#[from] KeysError),
    /// The library refused.
    #[error("TLS could not be configured")]
    Rustls(#[from] rustls::Error),
}

impl Classify for TlsError {
    fn class(&self) -> Class {
        match self {
            Self::Keys(error) => error.class(),
            Self::Rustls(_) => Class::Terminal(Reason::Unsupported),
        }
    }
}

/// The certificate that new connections get, and what it was made of.
struct Current(ArcSwap<(Leaf, Arc<CertifiedKey>)>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().1))
    }
}

impl Tls {
    /// TLS with a certificate for these names (see [`crate::keys::server_names`]).
    pub fn new(keys: &Keys, names: &[String], clock: &Clock) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let leaf = keys.leaf(None, names, clock.now())?;
        let certified = certified(&leaf, &provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee((leaf, certified))));
        let clients = Arc::new(Verifier::new(&keys.authorities(), &provider)?);
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(Arc::clone(&clients) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { provider, current, clients, config: Arc::new(config) })
    }

    /// Accepts connections.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Renews the certificate if it is due, or the authority is another; connections that are open keep theirs.
    pub fn renew(&self, keys: &Keys, names: &[String], clock: &Clock) -> Result<(), TlsError> {
        let leaf = keys.leaf(Some(&self.current.0.load().0), names, clock.now())?;
        let certified = certified(&leaf, &self.provider)?;
        self.current.0.store(Arc::new((leaf, certified)));
        self.clients.believe(&keys.authorities(), &self.provider)
    }

    /// Renews the certificate whenever it is due or the authorities change, until the process stops.
    pub fn keep_current(&self, keys: Keys, names: Vec<String>, clock: Clock, tasks: &Tasks, duties: &Duties) {
        const DOING: &str = "renew the server's certificate";
        let (tls, mut changes, stopping) = (self.clone(), keys.changes(), tasks.stopping());
        let (known, named, time) = (keys.clone(), names.clone(), clock.clone());
        drop(tasks.spawn("certificate", async move {
            while let Some(Ok(())) = stopping.run_until_cancelled(changes.changed()).await {
                if let Err(error) = tls.renew(&known, &named, &time).doing(DOING) {
                    tracing::warn!(error = chain_of(&error), "the certificate stays as it is");
                }
            }
        }));
        let tls = self.clone();
        duties.start(&table::CERTIFICATE, move |_| std::future::ready(tls.renew(&keys, &names, &clock).doing(DOING)));
    }
}

fn certified(leaf: &Leaf, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = std::iter::once(&leaf.certificate).chain(&leaf.chain).cloned().collect();
    Ok(Arc::new(CertifiedKey::from_der(chain, PrivateKeyDer::from(leaf.key.clone_key()), provider)?))
}
