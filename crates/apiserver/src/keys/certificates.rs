//! The certificate authority of one data directory, and the server certificate that it issues.
//!
//! Key and certificate share one PEM file, so that they are replaced together. An authority is renewed while it can
//! still outlive a leaf; clients then need the new admin kubeconfig, which is written at every start anyway.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use mainstay_runtime::Timestamp;
use mainstay_runtime::failure::chain_of;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{KeysError, files};

const AUTHORITY_DAYS: i32 = 3650;
const LEAF_DAYS: i32 = 365;
/// A server certificate is renewed when it has no more than this left.
const LEAF_MARGIN_DAYS: i32 = 30;
pub(super) const AUTHORITY_FILE: &str = "ca.pem";
const SERVER_FILE: &str = "server.pem";

/// A certificate with its private key.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
}

/// Issues server certificates.
pub(super) struct Authority {
    pair: Pair,
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
    pub(super) fn open_or_create(dir: &Path, now: Timestamp) -> Result<Self, KeysError> {
        let path = dir.join(AUTHORITY_FILE);
        if let Some(pair) = read_pair(&path)? {
            let key = key_pair(&pair).map_err(|error| KeysError::certificate(&path, error))?;
            // A clock that was set back is no reason to throw an authority away.
            if lasts(&pair, now, LEAF_DAYS + LEAF_MARGIN_DAYS, &path)? {
                return Ok(Self { pair, key });
            }
        }
        let key = KeyPair::generate().map_err(|error| KeysError::certificate(&path, error))?;
        let certificate = Self::params(now, &path)?
            .self_signed(&key)
            .map_err(|error| KeysError::certificate(&path, error))?
            .der()
            .clone();
        let pair = Pair { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()) };
        write_pair(&path, &pair, &key)?;
        Ok(Self { pair, key })
    }

    fn params(now: Timestamp, path: &Path) -> Result<CertificateParams, KeysError> {
        let mut params = validity(now, AUTHORITY_DAYS, path)?;
        params.distinguished_name = common_name("Mainstay local authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }

    pub(super) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.pair.certificate
    }

    /// What signs.
    pub(super) const fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The server's certificate for exactly these names: the stored one, or a new one when it does not serve any more.
    pub(super) fn server(&self, dir: &Path, names: &[String], now: Timestamp) -> Result<Pair, KeysError> {
        let path = dir.join(SERVER_FILE);
        let mut names = names.to_vec();
        normalise(&mut names);
        if let Some(pair) = read_pair(&path)?
            && self.serves(&pair, &names, now, &path)?
        {
            return Ok(pair);
        }
        let wrong = |error| KeysError::certificate(&path, error);
        let mut params = validity(now, LEAF_DAYS, &path)?;
        params.subject_alt_names = CertificateParams::new(names).map_err(wrong)?.subject_alt_names;
        params.distinguished_name = common_name("mainstay");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(self.certificate(), &self.key).map_err(wrong)?;
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = params.signed_by(&key, &issuer).map_err(wrong)?.der().clone();
        let pair = Pair { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()) };
        match write_pair(&path, &pair, &key) {
            // It is as good in memory, and the next start makes another.
            Err(error) if error.lacks_room() => tracing::warn!(error = chain_of(&error), "the certificate is not kept"),
            written => written?,
        }
        Ok(pair)
    }

    fn serves(&self, pair: &Pair, names: &[String], now: Timestamp, path: &Path) -> Result<bool, KeysError> {
        let (leaf, authority) = (parse(&pair.certificate, path)?, parse(self.certificate(), path)?);
        let signed_by_ours = authority_key_id(&leaf).is_some_and(|id| Some(id) == subject_key_id(&authority));
        Ok(signed_by_ours
            && names_of(&leaf) == names
            && has_begun(&leaf, now)
            && lasts(pair, now, LEAF_MARGIN_DAYS, path)?)
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
fn validity(now: Timestamp, days: i32, path: &Path) -> Result<CertificateParams, KeysError> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let wrong = |error| KeysError::Certificate { path: path.to_owned(), source: Box::new(error) };
    let first = today.checked_sub(1.day()).map_err(wrong)?;
    let last = today.checked_add(days.days()).map_err(wrong)?;
    let midnight =
        |date: Date| rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
    let mut params = CertificateParams::default();
    params.not_before = midnight(first);
    params.not_after = midnight(last);
    Ok(params)
}

fn key_pair(pair: &Pair) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&pair.key, &rcgen::PKCS_ECDSA_P256_SHA256)
}

pub(super) fn read_pair(path: &Path) -> Result<Option<Pair>, KeysError> {
    let Some(content) = files::read(path)? else { return Ok(None) };
    let damaged = |error| KeysError::Certificate { path: path.to_owned(), source: Box::new(error) };
    let certificate = CertificateDer::from_pem_slice(&content).map_err(damaged)?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&content).map_err(damaged)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let private = PrivateKeyDer::from(key.clone_key());
    rustls::sign::CertifiedKey::from_der(vec![certificate.clone()], private, &provider)
        .map_err(|error| KeysError::Certificate { path: path.to_owned(), source: Box::new(error) })?;
    Ok(Some(Pair { certificate, key }))
}

fn write_pair(path: &Path, pair: &Pair, key: &KeyPair) -> Result<(), KeysError> {
    let mut content = Zeroizing::new(key.serialize_pem());
    content.push_str(&pem(&pair.certificate));
    files::write(path, content.as_bytes())
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

fn parse<'a>(certificate: &'a CertificateDer<'_>, path: &Path) -> Result<X509Certificate<'a>, KeysError> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|error| KeysError::Certificate { path: path.to_owned(), source: error.to_string().into() })
}

/// Whether the certificate is valid for more than `days` from now.
fn lasts(pair: &Pair, now: Timestamp, days: i32, path: &Path) -> Result<bool, KeysError> {
    let end = parse(&pair.certificate, path)?.validity().not_after.timestamp();
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
