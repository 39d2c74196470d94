//! The wrapping key: 32 random bytes in a file of their own, under which the ring's secrets are stored.
//!
//! A wrapped secret is `1, ID, NONCE, CIPHERTEXT, TAG` of AES-256-GCM; its name and version are authenticated with it, so
//! that none can be taken for another. ID is a part of the wrapping key's hash: it tells which key is needed, and nothing
//! of it. Nonces are 96 random bits, and only a few secrets are ever wrapped by one key.

use std::fmt;
use std::fmt::Write as _;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use mainstay_store::KeyRow;
use zeroize::Zeroizing;

use super::{KeyName, KeysError, Secret, files, fill_random, sha256};

const FORMAT: u8 = 1;
const ID_LEN: usize = 8;
const HEAD: usize = 1 + ID_LEN + NONCE_LEN;
const KEY_LEN: usize = 32;

/// See the module.
pub(super) struct WrappingKey {
    key: LessSafeKey,
    id: [u8; ID_LEN],
}

impl WrappingKey {
    /// The key in a file that its owner alone can read; `None` when there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, KeysError> {
        let Some(content) = files::read_given(path)? else { return Ok(None) };
        if content.len() != KEY_LEN {
            let why = format!("it has {} bytes, and must have {KEY_LEN} random ones", content.len());
            return Err(KeysError::unsafe_file(path, why));
        }
        Self::of(&content).map(Some)
    }

    /// A new key, in a new file: durable when this returns.
    pub(super) fn make(path: &Path) -> Result<Self, KeysError> {
        let mut random = Zeroizing::new([0; KEY_LEN]);
        fill_random(random.as_mut())?;
        files::write(path, random.as_ref())?;
        Self::of(random.as_ref())
    }

    /// One that nobody keeps.
    pub(super) fn random() -> Result<Self, KeysError> {
        let mut random = Zeroizing::new([0; KEY_LEN]);
        fill_random(random.as_mut())?;
        Self::of(random.as_ref())
    }

    fn of(bytes: &[u8]) -> Result<Self, KeysError> {
        let unbound = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| KeysError::Random)?;
        let hash = sha256(&[b"mainstay wrapping key\0", bytes].concat());
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&hash[..ID_LEN]);
        Ok(Self { key: LessSafeKey::new(unbound), id })
    }

    /// What it is known by.
    pub(super) fn id(&self) -> String {
        hex(&self.id)
    }

    /// Wraps a version of a key.
    pub(super) fn wrap(&self, name: KeyName, version: u64, plain: &[u8]) -> Result<Bytes, KeysError> {
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce)?;
        let mut wrapped = Zeroizing::new(Vec::with_capacity(HEAD + plain.len() + AES_256_GCM.tag_len()));
        wrapped.push(FORMAT);
        wrapped.extend_from_slice(&self.id);
        wrapped.extend_from_slice(&nonce);
        wrapped.extend_from_slice(plain);
        let (nonce, place) = (Nonce::assume_unique_for_key(nonce), Aad::from(place(name.as_str(), version)));
        let tag = self.key.seal_in_place_separate_tag(nonce, place, &mut wrapped[HEAD..]);
        wrapped.extend_from_slice(tag.map_err(|_| KeysError::Random)?.as_ref());
        Ok(Bytes::copy_from_slice(&wrapped))
    }

    /// What is in a row.
    ///
    /// # Errors
    /// [`KeysError::Mismatch`] when another key wrapped it, [`KeysError::Unusable`] when it was changed or moved.
    pub(super) fn unwrap(&self, row: &KeyRow) -> Result<Secret, KeysError> {
        let (name, version) = (&*row.name, row.version);
        let wrong = |why| KeysError::Unusable { name: name.to_owned(), version, source: why };
        if row.wrapped.len() < HEAD + AES_256_GCM.tag_len() || row.wrapped[0] != FORMAT {
            return Err(wrong("it is not wrapped as this program does it".into()));
        }
        if row.wrapped[1..=ID_LEN] != self.id {
            return Err(KeysError::Mismatch { ours: self.id(), needed: hex(&row.wrapped[1..=ID_LEN]) });
        }
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&row.wrapped[1 + ID_LEN..HEAD]);
        let mut sealed = Zeroizing::new(row.wrapped[HEAD..].to_vec());
        let opened = self.key.open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place(name, version)),
            sealed.as_mut_slice(),
        );
        let plain =
            opened.map_err(|_| wrong("it was changed since it was wrapped, or moved from another place".into()))?;
        Ok(Zeroizing::new(plain.to_vec()))
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

/// The name with its length before it, so that no two places give the same bytes.
fn place(name: &str, version: u64) -> Vec<u8> {
    let mut bytes = b"mainstay keyring\0".to_vec();
    bytes.extend_from_slice(&(name.len() as u64).to_be_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}
