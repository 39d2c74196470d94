//! What a client's certificate says: which node its holder is the agent of.
//!
//! rustls has verified the chain, the time and that it is meant for clients; the server's own certificate is not, and nobody
//! but nodes gets one that is.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::TlsError;
use crate::auth::identity::NODES;
use crate::keys::JOIN_PREFIX;

/// A node, as a certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// The uid of the Node that it was made for.
    pub uid: String,
    /// The number of the join that it was made for; 0 before joins were counted.
    pub join: u64,
    /// Seconds since 1970 at which it expires.
    pub until: i64,
}

impl Peer {
    /// Reads a certificate that was verified; `None` when it is not a node's.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let subject = parsed.subject();
        let group = subject.iter_organization().next()?.as_str().ok()?;
        let node = subject.iter_common_name().next()?.as_str().ok()?.strip_prefix("system:node:")?;
        let uid = subject.iter_by_oid(&x509_parser::oid_registry::OID_X509_SERIALNUMBER).next()?.as_str().ok()?;
        let mut units =
            subject.iter_organizational_unit().filter_map(|unit| unit.as_str().ok()?.strip_prefix(JOIN_PREFIX));
        let join = units.find_map(|number| number.parse().ok()).unwrap_or(0);
        let until = parsed.validity().not_after.timestamp();
        (group == NODES).then(|| Self { node: node.to_owned(), uid: uid.to_owned(), join, until })
    }
}

/// Verifies client certificates by authorities that may change while it serves. Nobody has to show one.
pub(super) struct Verifier(ArcSwap<Arc<dyn ClientCertVerifier>>);

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// Believes these authorities.
    pub(super) fn new(authorities: &[CertificateDer<'_>], provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(build(authorities, provider)?)))
    }

    /// Believes these from now on, and no others.
    pub(super) fn believe(
        &self,
        authorities: &[CertificateDer<'_>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), TlsError> {
        self.0.store(Arc::new(build(authorities, provider)?));
        Ok(())
    }
}

fn build(
    authorities: &[CertificateDer<'_>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone().into_owned())?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let built = builder.allow_unauthenticated().build();
    Ok(built.map_err(|error| rustls::Error::General(error.to_string()))?)
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: they are borrowed from what may change, and clients of ours have but one certificate to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.load().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.load().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use mainstay_runtime::Clock;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::keys::{Keys, server_names};

    #[test]
    fn a_nodes_certificate_names_it_and_a_servers_names_nobody() {
        let now = Clock::system().now();
        let keys = Keys::ephemeral(now).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        // Whatever the request says, the certificate says what we do.
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let signed = keys.sign_node(&request, ("box", "u-1", 7), now).unwrap();
        let certificate = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
        let until = now.as_second() + 24 * 3_600;
        assert_eq!(
            Peer::read(&certificate),
            Some(Peer { node: "box".to_owned(), uid: "u-1".to_owned(), join: 7, until })
        );
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        assert!(parsed.subject_alternative_name().unwrap().is_none(), "it names no server");
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let names = server_names("127.0.0.1:0".parse().unwrap(), &[]);
        let server = keys.leaf(None, &names, now).unwrap().certificate;
        assert_eq!(Peer::read(&server), None);
        let verifier = Verifier::new(&keys.authorities(), &Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let verifier = verifier.unwrap();
        assert!(verifier.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok());
        assert!(verifier.verify_client_cert(&server, &[], UnixTime::now()).is_err(), "it is no client's");
        let stranger = Keys::ephemeral(now).unwrap().sign_node(&request, ("box", "u-1", 7), now).unwrap();
        let stranger = CertificateDer::from_pem_slice(stranger.certificate.as_bytes()).unwrap();
        assert!(verifier.verify_client_cert(&stranger, &[], UnixTime::now()).is_err(), "another authority's");
    }
}
