//! Who this machine is: its key, its certificate, and whom it believes. One private file, replaced as a whole.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use arc_swap::ArcSwap;
use mainstay_runtime::{Class, Doing as _, Failure, Reason, Timestamp};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::join;

const FILE: &str = "identity.json";

/// What is kept of an identity.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    /// The private key, in PEM.
    pub(super) key: String,
    /// The certificate, in PEM.
    pub(super) certificate: String,
    /// The authorities that the server is believed by, in PEM.
    pub(super) authority: String,
    /// The SHA-256 of the authority that the certificate is of, in hex; empty where that was not said.
    #[serde(default)]
    pub(super) issuer: String,
    /// The number of the join that the certificate is of; 0 where joins were not counted yet.
    #[serde(default)]
    pub(super) join: u64,
    /// Where the servers are.
    #[serde(default)]
    pub(super) servers: Vec<String>,
    /// When the certificate was issued.
    pub(super) issued: Timestamp,
    /// When it expires.
    pub(super) until: Timestamp,
}

impl Kept {
    /// The authorities that the server is believed by.
    ///
    /// # Errors
    /// When what is kept is not PEM.
    pub(super) fn authorities(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        Ok(CertificateDer::pem_slice_iter(self.authority.as_bytes()).collect::<Result<_, _>>()?)
    }
}

/// Keeps a second agent out of the directory for as long as it lives.
pub(super) type Held = Arc<File>;

/// Takes the directory for this process.
///
/// # Errors
/// When another process has it.
pub(super) fn lock(dir: &Path) -> anyhow::Result<Held> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let path = dir.join("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
    let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    locked.with_context(|| format!("another agent runs with {}", dir.display()))?;
    Ok(Arc::new(file))
}

/// Reads what is kept; `None` when this machine has not joined.
///
/// # Errors
/// When others can read it, or it is damaged.
pub(super) fn read(dir: &Path) -> anyhow::Result<Option<Kept>> {
    let path = dir.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let mode = std::fs::metadata(&path)?.mode() & 0o777;
    ensure!(mode.trailing_zeros() >= 6, "{} has mode {mode:04o}: others may know the key in it", path.display());
    Ok(Some(serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))?))
}

/// Puts it in place, durably.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(dir: &Path, kept: &Kept) -> anyhow::Result<()> {
    let (path, temporary) = (dir.join(FILE), dir.join("identity.new"));
    let text = Zeroizing::new(serde_json::to_vec(kept)?);
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all().with_context(|| format!("write {}", path.display()))
}

/// The identity as connections show it; renewed live.
#[derive(Clone)]
pub(super) struct Identity(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    kept: Mutex<Kept>,
    shown: ArcSwap<CertifiedKey>,
    believed: ArcSwap<WebPkiServerVerifier>,
    _held: Held,
}

impl Identity {
    /// An identity of what is kept in `dir`.
    ///
    /// # Errors
    /// When key and certificate cannot be used.
    pub(super) fn new(dir: PathBuf, kept: Kept, held: Held) -> anyhow::Result<Self> {
        let (shown, believed) = (ArcSwap::from_pointee(certified(&kept)?), ArcSwap::new(verifier(&kept)?));
        Ok(Self(Arc::new(Shared { dir, kept: Mutex::new(kept), shown, believed, _held: held })))
    }

    fn kept(&self) -> Kept {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of the join that it is of.
    pub(super) fn join(&self) -> u64 {
        self.kept().join
    }

    /// What tells new connections whom to believe.
    pub(super) fn verifier(&self) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Believed(self.clone()))
    }

    /// What new connections show.
    pub(super) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::new(Shown(self.clone()))
    }

    /// Gets the next certificate when two thirds of this one's life are over, or when the servers have another authority by
    /// now, which it believes from then on. Tells whether it did.
    pub(super) async fn renew(&self, client: &kube::Client, now: Timestamp) -> Result<bool, Failure> {
        const DOING: &str = "renew the certificate of this node";
        let old = self.kept();
        let life = old.until.as_second() - old.issued.as_second();
        let is_young = now.as_second() < old.issued.as_second() + life / 3 * 2;
        if is_young && !join::news(client).await.doing(DOING)?.is_some_and(|news| news.concerns(&old)) {
            return Ok(false);
        }
        let kept = Kept { servers: old.servers, ..join::renewed(client).await.doing(DOING)? };
        let wrong = |error: anyhow::Error| Failure::caused_by(Class::Terminal(Reason::Invalid), DOING, error);
        let (shown, believed) = (certified(&kept).map_err(wrong)?, verifier(&kept).map_err(wrong)?);
        write(&self.0.dir, &kept).map_err(|error| Failure::caused_by(Class::TRANSIENT, DOING, error))?;
        tracing::info!(until = %kept.until, "the certificate of this node was renewed");
        self.0.believed.store(believed);
        self.0.shown.store(Arc::new(shown));
        *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(true)
    }
}

fn verifier(kept: &Kept) -> anyhow::Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in kept.authorities()? {
        roots.add(authority)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

fn certified(kept: &Kept) -> anyhow::Result<CertifiedKey> {
    let certificate = CertificateDer::from_pem_slice(kept.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(kept.key.as_bytes())?;
    Ok(CertifiedKey::from_der(vec![certificate], key, &rustls::crypto::aws_lc_rs::default_provider())?)
}

/// Shows the newest certificate to each new connection.
struct Shown(Identity);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.0.shown.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes by the newest authorities at each new connection.
struct Believed(Identity);

impl std::fmt::Debug for Believed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Believed")
    }
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.0.believed.load().verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.0.believed.load().verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.0.believed.load().verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.0.believed.load().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_private_and_its_directory_one_agents() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        let held = lock(&node).unwrap();
        assert!(lock(&node).unwrap_err().to_string().contains("another agent runs"));
        drop(held);
        drop(lock(&node).unwrap());
        assert!(read(&node).unwrap().is_none());
        let (issued, until) = (Timestamp::UNIX_EPOCH, "2030-01-01T00:00:00Z".parse().unwrap());
        let kept = Kept {
            key: "key".to_owned(),
            certificate: "certificate".to_owned(),
            authority: String::new(),
            issuer: String::new(),
            join: 1,
            servers: Vec::new(),
            issued,
            until,
        };
        write(&node, &kept).unwrap();
        assert_eq!(read(&node).unwrap().unwrap().until, until);
        std::fs::set_permissions(node.join(FILE), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&node).err().unwrap().to_string().contains("others may know"));
    }
}
