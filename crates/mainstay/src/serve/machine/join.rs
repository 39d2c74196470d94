//! How a machine becomes a node: with a token that says which server it is to believe, once.
//!
//! The token carries the SHA-256 of the authority that the server must show. Nothing is sent before it has; then the server
//! gets the secret of the token and a signing request, and gives a certificate. The private key never leaves this machine.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use http::Uri;
use mainstay_api::node::{JoinToken, hex};
use mainstay_node::agent::term::Machine;
use mainstay_runtime::Timestamp;
use mainstay_runtime::client::{CallError, bounded, remote_over};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::ASK;
use super::identity::Kept;

const PATH: &str = "/apis/mainstay.dev/v1alpha1/nodecertificates";

/// Joins the server at `uri` as node `name`, on this machine.
///
/// # Errors
/// When the server is not the one that the token is for, or refuses the token.
pub(super) async fn join(uri: &Uri, name: &str, own: &Machine, token: &JoinToken) -> anyhow::Result<Kept> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Pinned { authority: token.authority.clone(), provider: provider.clone() });
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let mut config = kube::Config::new(uri.clone());
    let bearer: http::HeaderValue = format!("Bearer {}", token.bearer()).parse().context("the join token")?;
    config.headers.push((http::header::AUTHORIZATION, bearer));
    let client = remote_over(tls, &config, ASK)?;
    let kept = ask(&client, &json!({ "nodeName": name, "machine": own.id, "place": own.place })).await?;
    if !kept.authorities()?.iter().any(|authority| sha256(authority) == token.authority) {
        bail!("the server's answer names another authority than the token does");
    }
    Ok(kept)
}

/// The next certificate of a node that has one, which the client shows.
///
/// # Errors
/// What the API refuses.
pub(super) async fn renewed(client: &kube::Client) -> Result<Kept, CallError> {
    ask(client, &json!({})).await
}

/// Which authorities the servers have by now.
#[derive(Deserialize)]
pub(super) struct News {
    authority: String,
    issuer: String,
}

impl News {
    /// Whether what is kept is of others.
    pub(super) fn concerns(&self, kept: &Kept) -> bool {
        self.authority != kept.authority || self.issuer != kept.issuer
    }
}

/// Asks which authorities there are; `None` where the server is one that does not tell.
///
/// # Errors
/// What the API refuses.
pub(super) async fn news(client: &kube::Client) -> Result<Option<News>, CallError> {
    match post(client, &json!({ "spec": {} })).await {
        Ok(news) => Ok(Some(news)),
        Err(error) if error.status() == Some(400) => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Deserialize)]
struct Answer<S> {
    status: S,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    certificate: String,
    authority: String,
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    join: u64,
    issued_timestamp: Timestamp,
    expiration_timestamp: Timestamp,
}

/// Asks for a certificate, saying this of the machine.
async fn ask(client: &kube::Client, said: &serde_json::Value) -> Result<Kept, CallError> {
    let unmade = |error: rcgen::Error| CallError::Client(kube::Error::Service(error.into()));
    let key = KeyPair::generate().map_err(unmade)?;
    let request =
        CertificateParams::default().serialize_request(&key).and_then(|request| request.pem()).map_err(unmade)?;
    let mut spec = said.clone();
    spec["request"] = request.into();
    let status: Status = post(client, &json!({ "spec": spec })).await?;
    Ok(Kept {
        key: key.serialize_pem(),
        certificate: status.certificate,
        authority: status.authority,
        issuer: status.issuer,
        join: status.join,
        servers: Vec::new(),
        issued: status.issued_timestamp,
        until: status.expiration_timestamp,
    })
}

async fn post<S: DeserializeOwned>(client: &kube::Client, body: &serde_json::Value) -> Result<S, CallError> {
    let request = http::Request::post(PATH).header(http::header::CONTENT_TYPE, "application/json");
    let request = request.body(body.to_string().into_bytes());
    let request = request.map_err(|error| CallError::Client(kube::Error::HttpError(error)))?;
    let answer: Answer<S> = bounded(client.request(request)).await?;
    Ok(answer.status)
}

/// The SHA-256 of a certificate, in hex.
pub(crate) fn sha256(certificate: &CertificateDer<'_>) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref())
}

/// Believes a server that shows the authority with this hash, and a certificate that it has signed for the server's name.
#[derive(Debug)]
struct Pinned {
    authority: String,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn by(&self, roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        built.map_err(|error| rustls::Error::General(error.to_string()))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|shown| sha256(shown) == self.authority);
        let pinned = pinned.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        self.by(roots)?.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
