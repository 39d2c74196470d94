//! Looks at keys without making any.

use std::path::Path;

use mainstay_runtime::Timestamp;
use mainstay_store::Ring;
use zeroize::Zeroizing;

use super::certificates::Authority;
use super::material::{Found, Material, rows};
use super::takeover::{ADMIN_FILE, AUTHORITY_FILE, DATA_FILE, TOKEN_FILE, parse_lines};
use super::wrapping::WrappingKey;
use super::{KeyName, KeysError, Secret, files};

/// The data keys of a ring, or of the files in `DIR/keys` that an earlier version had, and what is wrong with any key there.
pub(crate) fn inspect(data_dir: &Path, key_file: Option<&Path>, ring: &Ring) -> (Vec<Secret>, Vec<KeysError>) {
    if ring.rows.is_empty() {
        return files_of(data_dir);
    }
    let own = data_dir.join("key");
    let path = key_file.unwrap_or(&own);
    let wrapping = match WrappingKey::read(path) {
        Ok(Some(wrapping)) => wrapping,
        Ok(None) => return (Vec::new(), vec![KeysError::NoKeyFile { path: path.to_owned() }]),
        Err(error) => return (Vec::new(), vec![error]),
    };
    let mut faults = Vec::new();
    // Another key than the one that is needed is one fault, not one of each row.
    for row in &ring.rows {
        match wrapping.unwrap(row) {
            Err(error @ KeysError::Mismatch { .. }) => return (Vec::new(), vec![error]),
            Err(error) => faults.push(error),
            Ok(_) => {}
        }
    }
    if faults.is_empty() {
        // Nothing is used here: when does not matter.
        let found = Found::AtStart(Timestamp::UNIX_EPOCH);
        faults.extend(Material::of(ring, &wrapping, found).err());
    }
    (rows(ring, KeyName::Data).rev().filter_map(|row| wrapping.unwrap(row).ok()).collect(), faults)
}

fn files_of(data_dir: &Path) -> (Vec<Secret>, Vec<KeysError>) {
    let dir = data_dir.join("keys");
    let mut faults = Vec::new();
    let path = dir.join(AUTHORITY_FILE);
    match content(&path) {
        Ok(text) => faults.extend(Authority::parse(&text).err().map(|why| KeysError::Unusable {
            name: path.display().to_string(),
            version: 1,
            source: why.into(),
        })),
        Err(error) => faults.push(error),
    }
    for name in [TOKEN_FILE, ADMIN_FILE] {
        let path = dir.join(name);
        faults.extend(content(&path).and_then(|text| parse_lines(&text, &path)).err());
    }
    let path = dir.join(DATA_FILE);
    let sealing = content(&path).and_then(|text| parse_lines(&text, &path)).unwrap_or_else(|error| {
        faults.push(error);
        Vec::new()
    });
    if sealing.iter().any(|key| key.len() != 32) {
        faults.push(KeysError::Damaged { path });
        return (Vec::new(), faults);
    }
    (sealing, faults)
}

fn content(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    files::read(path)?.ok_or_else(|| KeysError::Missing { path: path.to_owned() })
}
