//! Real handshakes: what is offered, what is refused, and a certificate swapped under an open listener.

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use tokio_rustls::TlsConnector;

use super::*;
use crate::keys::{KeyName, server_names};

struct Fixture {
    /// The authority that the client knows.
    trusted: String,
    keys: Keys,
    tls: Tls,
    names: Vec<String>,
    clock: Clock,
}

fn fixture() -> Fixture {
    let clock = Clock::system();
    let keys = Keys::ephemeral(clock.now()).unwrap();
    let names = server_names("127.0.0.1:0".parse().unwrap(), &[]);
    let tls = Tls::new(&keys, &names, &clock).unwrap();
    Fixture { trusted: keys.authority_pem(), keys, tls, names, clock }
}

impl Fixture {
    /// A handshake for `name`; gives the ALPN protocol and the server's certificate.
    async fn shake(
        &self,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> Result<(Option<Vec<u8>>, CertificateDer<'static>), std::io::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.trusted.as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.tls.provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let (client, server) =
            tokio::join!(TlsConnector::from(Arc::new(config)).connect(name, near), self.tls.acceptor().accept(far));
        let client = client?;
        server?;
        let session = client.get_ref().1;
        let certificate = session.peer_certificates().unwrap()[0].clone();
        Ok((session.alpn_protocol().map(<[u8]>::to_vec), certificate))
    }
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_offered_on_every_name() {
    let fixture = fixture();
    for name in &fixture.names {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (alpn, _) = fixture.shake(name, &[version], &["h2", "http/1.1"]).await.unwrap();
            assert_eq!(alpn.as_deref(), Some(b"h2".as_slice()), "{name}");
        }
    }
    let (alpn, _) = fixture.shake("localhost", &[&rustls::version::TLS13], &["http/1.1"]).await.unwrap();
    assert_eq!(alpn.as_deref(), Some(b"http/1.1".as_slice()));
}

#[tokio::test]
async fn another_name_is_refused_by_the_client() {
    assert!(fixture().shake("example.org", &[&rustls::version::TLS13], &[]).await.is_err());
}

#[tokio::test]
async fn a_certificate_is_swapped_while_serving() {
    let fixture = fixture();
    let versions = [&rustls::version::TLS13];
    let (_, first) = fixture.shake("localhost", &versions, &[]).await.unwrap();
    fixture.tls.renew(&fixture.keys, &fixture.names, &fixture.clock).unwrap();
    let (_, same) = fixture.shake("localhost", &versions, &[]).await.unwrap();
    assert_eq!(first, same, "what is not due is kept");
    let mut names = fixture.names.clone();
    names.push("mainstay.test".to_owned());
    fixture.tls.renew(&fixture.keys, &names, &fixture.clock).unwrap();
    let (_, second) = fixture.shake("mainstay.test", &versions, &[]).await.unwrap();
    assert_ne!(first, second);
}

#[tokio::test]
async fn clients_of_every_authority_find_the_newest_until_theirs_is_retired() {
    let mut fixture = fixture();
    let versions = [&rustls::version::TLS13];
    let (_, first) = fixture.shake("localhost", &versions, &[]).await.unwrap();
    for _ in 0..2 {
        fixture.keys.rotate(KeyName::Ca, fixture.clock.now()).await.unwrap();
    }
    fixture.tls.renew(&fixture.keys, &fixture.names, &fixture.clock).unwrap();
    let (_, new) = fixture.shake("localhost", &versions, &[]).await.expect("who knows the first authority alone");
    assert_ne!(first, new);
    // One that knows the newest alone; it is the first of the bundle.
    let old = std::mem::replace(&mut fixture.trusted, fixture.keys.authority_pem());
    fixture.shake("localhost", &versions, &[]).await.expect("who knows the newest authority alone");
    assert_eq!(fixture.keys.authority_pem().matches("BEGIN CERTIFICATE").count(), 3);

    fixture.keys.retire(KeyName::Ca, &[1]).await.unwrap();
    fixture.tls.renew(&fixture.keys, &fixture.names, &fixture.clock).unwrap();
    assert!(!fixture.keys.authority_pem().contains(&old));
    fixture.shake("localhost", &versions, &[]).await.expect("the newest is still there");
    assert!(matches!(fixture.keys.retire(KeyName::Ca, &[3]).await, Err(KeysError::InUse { .. })));
}
