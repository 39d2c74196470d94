//! Looks at keys without making any.

use std::path::Path;

use zeroize::Zeroizing;

use super::certificates::AUTHORITY_FILE;
use super::{ADMIN_FILE, DATA_FILE, KeysError, TOKEN_FILE, certificates, decode_line, files, parse_data_keys};

/// The data keys in `DIR/keys`, and what is wrong with any key there.
pub(crate) fn inspect(data_dir: &Path) -> (Vec<Zeroizing<[u8; 32]>>, Vec<KeysError>) {
    let dir = data_dir.join("keys");
    let mut faults = Vec::new();
    let authority = dir.join(AUTHORITY_FILE);
    faults.extend(match certificates::read_pair(&authority) {
        Ok(Some(_)) => None,
        Ok(None) => Some(KeysError::Missing { path: authority }),
        Err(error) => Some(error),
    });
    for name in [TOKEN_FILE, ADMIN_FILE] {
        let path = dir.join(name);
        faults.extend(match content(&path).and_then(|line| decode_line(&line, &path)) {
            Ok(key) if key.is_empty() => Some(KeysError::Damaged { path }),
            Ok(_) => None,
            Err(error) => Some(error),
        });
    }
    let path = dir.join(DATA_FILE);
    let sealing = content(&path).and_then(|text| parse_data_keys(&text, &path)).unwrap_or_else(|error| {
        faults.push(error);
        Vec::new()
    });
    (sealing, faults)
}

fn content(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    files::read(path)?.ok_or_else(|| KeysError::Missing { path: path.to_owned() })
}
