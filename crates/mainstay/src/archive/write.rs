//! Writing a backup's file.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use mainstay_store::sqlite::backup::Progress;

use super::{Hashed, MANIFEST, Manifest, SEAL, header};

/// Writes the parts that the manifest names, which are in `dir`; gives the size.
pub(crate) fn write(dir: &Path, manifest: &Manifest, out: impl Write, tell: Progress<'_>) -> io::Result<u64> {
    let mut tar = tar::Builder::new(Hashed::new(out));
    let text = serde_json::to_vec_pretty(manifest)?;
    tar.append(&header(MANIFEST, text.len() as u64)?, &*text)?;
    let all: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
    for part in &manifest.parts {
        tar.append(&header(&part.name, part.bytes)?, File::open(dir.join(&part.name))?)?;
        tell("write", tar.get_ref().bytes.min(all), all);
    }
    let digest = tar.get_ref().hex();
    tar.append(&header(SEAL, digest.len() as u64)?, digest.as_bytes())?;
    let mut whole = tar.into_inner()?;
    whole.flush()?;
    Ok(whole.bytes)
}
