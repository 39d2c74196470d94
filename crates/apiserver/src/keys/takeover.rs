//! Keys of earlier versions of this program, which had them as files in `DIR/keys`: they are taken over into the ring once.
//!
//! | a crash | leaves | the next start |
//! |---|---|---|
//! | before the ring is changed | all files, an empty ring | takes them over |
//! | after it | a full ring, some files | removes those whose keys the ring holds |
//!
//! So no file goes before what it holds is durable elsewhere, and a file that holds something else is never removed.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_runtime::failure::chain_of;
use zeroize::Zeroizing;

use super::material::Material;
use super::{KeyName, KeysError, Secret, files, kubeconfig, sha256};

pub(super) const AUTHORITY_FILE: &str = "ca.pem";
pub(super) const TOKEN_FILE: &str = "token.key";
pub(super) const DATA_FILE: &str = "data.key";
pub(super) const ADMIN_FILE: &str = "admin.sha256";
/// Made anew by each start since keys are in the ring.
const SERVER_FILE: &str = "server.pem";

/// A data directory of an earlier version.
#[derive(Debug)]
pub(super) struct Legacy {
    dir: PathBuf,
    kubeconfig: PathBuf,
}

impl Legacy {
    /// The files in a data directory; `None` when there are none.
    pub(super) fn of(data_dir: &Path) -> Result<Option<Self>, KeysError> {
        let dir = data_dir.join("keys");
        if fs::symlink_metadata(&dir).is_err() {
            return Ok(None);
        }
        files::private_dir(&dir)?;
        Ok(Some(Self { dir, kubeconfig: data_dir.join("admin.kubeconfig") }))
    }

    /// The versions of a key, oldest first, as the ring has them.
    pub(super) fn versions(&self, name: KeyName) -> Result<Vec<Secret>, KeysError> {
        match name {
            KeyName::Ca => Ok(files::read(&self.dir.join(AUTHORITY_FILE))?.into_iter().collect()),
            KeyName::Tokens => self.lines(TOKEN_FILE),
            KeyName::Data => {
                let path = self.dir.join(DATA_FILE);
                let mut keys = self.lines(DATA_FILE)?;
                if keys.iter().any(|key| key.len() != 32) {
                    return Err(KeysError::Damaged { path });
                }
                keys.reverse();
                Ok(keys)
            }
            KeyName::Admin => self.admin(),
        }
    }

    /// The token is in the kubeconfig only; one that is not there is replaced by another.
    fn admin(&self) -> Result<Vec<Secret>, KeysError> {
        let hash = self.lines(ADMIN_FILE)?;
        let token = kubeconfig::read_token(&self.kubeconfig)?;
        let same = |token: &Zeroizing<String>| hash.iter().any(|hash| **hash == sha256(token.as_bytes()));
        Ok(token.filter(same).map(|token| Zeroizing::new(token.as_bytes().to_vec())).into_iter().collect())
    }

    /// Removes each file whose keys the ring holds. What cannot be removed stays, and is said.
    pub(super) fn remove(&self, material: &Material) {
        for (file, held) in [
            (SERVER_FILE, Ok(true)),
            (ADMIN_FILE, Ok(true)),
            (TOKEN_FILE, self.holds(KeyName::Tokens, material)),
            (AUTHORITY_FILE, self.holds(KeyName::Ca, material)),
            (DATA_FILE, self.holds(KeyName::Data, material)),
        ] {
            let path = self.dir.join(file);
            match held {
                Ok(true) => drop(fs::remove_file(&path)),
                Ok(false) => {
                    tracing::warn!(path = %path.display(), "a key file of an earlier version holds a key that is not used: it is left alone");
                }
                Err(error) => {
                    tracing::warn!(error = chain_of(&error), "a key file of an earlier version is left alone");
                }
            }
        }
        if fs::remove_dir(&self.dir).is_ok() {
            tracing::info!("the key files of an earlier version are taken over into the database");
        }
    }

    fn holds(&self, name: KeyName, material: &Material) -> Result<bool, KeysError> {
        let all = |known: &dyn Fn(&[u8]) -> bool| self.versions(name).map(|keys| keys.iter().all(|key| known(key)));
        match name {
            KeyName::Ca => all(&|key| material.authorities.iter().any(|one| one.key.is(key))),
            KeyName::Tokens => all(&|key| material.signers.iter().any(|one| one.key.is(key))),
            KeyName::Data => all(&|key| material.data.iter().any(|one| one.key.is(key))),
            KeyName::Admin => Ok(true),
        }
    }

    /// One secret a line, in base64.
    fn lines(&self, file: &str) -> Result<Vec<Secret>, KeysError> {
        let path = self.dir.join(file);
        let Some(text) = files::read(&path)? else { return Ok(Vec::new()) };
        parse_lines(&text, &path)
    }
}

pub(super) fn parse_lines(text: &[u8], path: &Path) -> Result<Vec<Secret>, KeysError> {
    let damaged = |_| KeysError::Damaged { path: path.to_owned() };
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let keys: Vec<_> =
        lines.map(|line| STANDARD.decode(line).map(Zeroizing::new).map_err(damaged)).collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(KeysError::Damaged { path: path.to_owned() }) } else { Ok(keys) }
}
