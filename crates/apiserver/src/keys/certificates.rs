//! Certificate authorities, and the server certificates that they issue.
//!
//! A newer authority carries a second certificate of itself, issued by the one before. Servers send it along: a client that
//! knows only the older one finds its way to the newer, and one that knows the newer needs nothing of it. So a rotation breaks
//! no client; who still has the older one alone is broken when that is retired.
//!
//! A server's key and certificate are made at each start and live in memory.

use std::net::{IpAddr, SocketAddr};

use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use mainstay_runtime::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{KeysError, Secret};

const AUTHORITY_DAYS: i32 = 3650;
const LEAF_DAYS: i32 = 365;
/// A server certificate is renewed when it has no more than this left.
const LEAF_MARGIN_DAYS: i32 = 30;

/// A server's certificate with its private key, and what leads from it to older authorities.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        Self { certificate: self.certificate.clone(), key: self.key.clone_key(), chain: self.chain.clone() }
    }
}

/// Issues server certificates.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    /// The same authority, vouched for by the one before it.
    cross: Option<CertificateDer<'static>>,
    key: KeyPair,
}

/// The names that the server's certificate carries: the listen address, this host's name, the loopback names, and `more`.
pub fn server_names(listen: SocketAddr, more: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    names.extend(certificate_name(&rustix::system::uname().nodename().to_string_lossy()));
    names.extend_from_slice(more);
    normalise(&mut names);
    names
}

/// A name or an address as a certificate can carry it.
///
/// # Errors
/// What is wrong with it, for people.
pub fn certificate_name(name: &str) -> Result<String, String> {
    let label = |label: &str| {
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        letters && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label)) {
        return Ok(name.to_owned());
    }
    Err("must be a DNS name such as box.example.org, or an IP address".to_owned())
}

impl Authority {
    /// A new authority, in PEM: its key, its certificate, and the one that `before` issues to it.
    pub(super) fn make(version: u64, before: Option<&Self>, now: Timestamp) -> Result<Secret, KeysError> {
        let key = KeyPair::generate().map_err(KeysError::certificate)?;
        let params = Self::params(version, now)?;
        let certificate = params.self_signed(&key).map_err(KeysError::certificate)?;
        let mut content = Zeroizing::new(key.serialize_pem());
        content.push_str(&pem(certificate.der()));
        if let Some(before) = before {
            let mut params = Self::params(version, now)?;
            params.use_authority_key_identifier_extension = true;
            let cross = params.signed_by(&key, &before.issuer()?).map_err(KeysError::certificate)?;
            content.push_str(&pem(cross.der()));
        }
        Ok(Zeroizing::new(content.as_bytes().to_vec()))
    }

    /// What [`Authority::make`] gave, or a file of an earlier version.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn parse(content: &[u8]) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let private = PrivatePkcs8KeyDer::from_pem_slice(content).map_err(|error| text(&error))?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&private, &rcgen::PKCS_ECDSA_P256_SHA256);
        let key = key.map_err(|error| text(&error))?;
        let mut certificates = CertificateDer::pem_slice_iter(content);
        let certificate = certificates.next().ok_or("there is no certificate")?.map_err(|error| text(&error))?;
        let cross = certificates.next().transpose().map_err(|error| text(&error))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // The key must be the certificate's.
        rustls::sign::CertifiedKey::from_der(vec![certificate.clone()], PrivateKeyDer::from(private), &provider)
            .map_err(|error| text(&error))?;
        Ok(Self { certificate, cross, key })
    }

    fn params(version: u64, now: Timestamp) -> Result<CertificateParams, KeysError> {
        let mut params = validity(now, AUTHORITY_DAYS)?;
        // Authorities have different names, so that clients can tell them apart while they look for a way.
        params.distinguished_name = common_name(&format!("Mainstay authority {version}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }

    /// What signs.
    pub(super) fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, KeysError> {
        Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(KeysError::certificate)
    }

    pub(super) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) const fn cross(&self) -> Option<&CertificateDer<'static>> {
        self.cross.as_ref()
    }

    /// Whether this is the authority in a file.
    pub(super) fn is(&self, content: &[u8]) -> bool {
        Self::parse(content).is_ok_and(|other| other.certificate == self.certificate)
    }

    /// Whether a certificate that it issues now ends before it does. A clock that was set back does not matter.
    pub(super) fn outlives_a_leaf(&self, now: Timestamp) -> Result<bool, KeysError> {
        lasts(&self.certificate, now, LEAF_DAYS + LEAF_MARGIN_DAYS)
    }

    /// A certificate for exactly these names.
    pub(super) fn issue(
        &self,
        names: &[String],
        now: Timestamp,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Leaf, KeysError> {
        let mut names = names.to_vec();
        normalise(&mut names);
        let mut params = validity(now, LEAF_DAYS)?;
        let named = CertificateParams::new(names).map_err(KeysError::certificate)?;
        params.subject_alt_names = named.subject_alt_names;
        params.distinguished_name = common_name("mainstay");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(KeysError::certificate)?;
        let certificate = params.signed_by(&key, &self.issuer()?).map_err(KeysError::certificate)?.der().clone();
        Ok(Leaf { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()), chain })
    }

    /// Whether a certificate is still as this authority would issue it.
    pub(super) fn serves(&self, leaf: &Leaf, names: &[String], now: Timestamp) -> Result<bool, KeysError> {
        let mut names = names.to_vec();
        normalise(&mut names);
        let (parsed, authority) = (parse(&leaf.certificate)?, parse(&self.certificate)?);
        let signed_by_ours = authority_key_id(&parsed).is_some_and(|id| Some(id) == subject_key_id(&authority));
        Ok(signed_by_ours
            && names_of(&parsed) == names
            && has_begun(&parsed, now)
            && lasts(&leaf.certificate, now, LEAF_MARGIN_DAYS)?)
    }
}

fn normalise(names: &mut Vec<String>) {
    for name in names.iter_mut() {
        *name = name.parse::<IpAddr>().map_or_else(|_| name.to_ascii_lowercase(), |ip| ip.to_string());
    }
    names.sort();
    names.dedup();
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// Valid from yesterday, so that a client whose clock is behind accepts it too.
fn validity(now: Timestamp, days: i32) -> Result<CertificateParams, KeysError> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let first = today.checked_sub(1.day()).map_err(KeysError::certificate)?;
    let last = today.checked_add(days.days()).map_err(KeysError::certificate)?;
    let midnight =
        |date: Date| rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
    let mut params = CertificateParams::default();
    params.not_before = midnight(first);
    params.not_after = midnight(last);
    Ok(params)
}

/// A certificate in PEM.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, KeysError> {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map(|(_, parsed)| parsed).map_err(|error| KeysError::certificate(error.to_string()))
}

/// Whether the certificate is valid for more than `days` from now.
fn lasts(certificate: &CertificateDer<'_>, now: Timestamp, days: i32) -> Result<bool, KeysError> {
    let end = parse(certificate)?.validity().not_after.timestamp();
    Ok(end > now.as_second() + i64::from(days) * 86_400)
}

fn has_begun(certificate: &X509Certificate<'_>, now: Timestamp) -> bool {
    certificate.validity().not_before.timestamp() <= now.as_second()
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(octets) => names.extend(address(octets)),
                _ => {}
            }
        }
    }
    normalise(&mut names);
    names
}

fn address(octets: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(four).to_string());
    }
    <[u8; 16]>::try_from(octets).ok().map(|sixteen| IpAddr::from(sixteen).to_string())
}

fn authority_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

fn subject_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}
