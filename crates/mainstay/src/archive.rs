//! A backup's file: a tar of which every byte is accounted for.
//!
//! | entry | what |
//! |---|---|
//! | `manifest.json` | [`Manifest`]: the format, who wrote it, what state it is, and each part with its size and SHA-256 |
//! | the parts | in the manifest's order, under their names in a data directory |
//! | `sha256` | of every byte before this entry, in hexadecimal |
//!
//! A file is read only when its last entry says that it is whole. Then names are looked up in [`PARTS`], never followed,
//! and what an entry claims of its size is held against the manifest and the file before anything is made of it.

mod error;
mod read;
#[cfg(test)]
mod tests;
mod work;
mod write;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use mainstay_runtime::Timestamp;
use mainstay_store::sqlite::Contents;
use mainstay_store::sqlite::backup::{Progress, STATE};
use serde::{Deserialize, Serialize};

pub(crate) use error::ArchiveError;
pub(crate) use read::Archive;
pub(crate) use work::Work;
pub(crate) use write::write;

/// The format that this program writes, and the only one that it reads.
pub(crate) const FORMAT: u32 = 1;
/// Every part that there can be, in the order that they have; only the first must be there. Those under `keys` are of
/// earlier versions, which had their keys there.
pub(crate) const PARTS: [&str; 8] =
    [STATE, "keys/ca.pem", "keys/token.key", "keys/data.key", "keys/admin.sha256", KUBECONFIG, "clock", KEY];
/// The admin's, which a start writes.
pub(crate) const KUBECONFIG: &str = "admin.kubeconfig";
/// The key that wraps those in the database, where it is kept beside it.
pub(crate) const KEY: &str = "key";

const MANIFEST: &str = "manifest.json";
const SEAL: &str = "sha256";
/// The last entry's header and its content, each in a block, and the two empty blocks that end a tar.
const SEAL_BYTES: usize = 4 * 512;
/// No manifest is larger.
const MANIFEST_BYTES: u64 = 64 << 10;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// The version of the program that wrote it.
    pub(crate) program: String,
    /// When it was taken.
    pub(crate) created: Timestamp,
    /// What its database holds.
    pub(crate) state: Contents,
    /// What it is made of.
    pub(crate) parts: Vec<Part>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Its name in a data directory.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub(crate) sha256: String,
}

impl Manifest {
    /// Of the parts that are in a directory.
    pub(crate) fn of(dir: &Path, state: Contents, created: Timestamp, tell: Progress<'_>) -> io::Result<Self> {
        let mut parts = Vec::new();
        for name in PARTS {
            let mut file = match File::open(dir.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && name != STATE => continue,
                opened => opened?,
            };
            let (all, mut hashed) = (file.metadata()?.len(), Hashed::new(io::sink()));
            copy(&mut file, &mut hashed, &mut |done| tell("digest", done, all))?;
            parts.push(Part { name: name.to_owned(), bytes: hashed.bytes, sha256: hashed.hex() });
        }
        Ok(Self { format: FORMAT, program: env!("CARGO_PKG_VERSION").to_owned(), created, state, parts })
    }
}

/// What is written through it, with its digest so far.
struct Hashed<W> {
    inner: W,
    hash: Context,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Context::new(&SHA256), bytes: 0 }
    }

    fn hex(&self) -> String {
        use std::fmt::Write as _;
        let digest = self.hash.clone().finish();
        digest.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a String does not fail.
            write!(hex, "{byte:02x}").ok();
            hex
        })
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Copies all, in pieces that are worth a system call, and tells how many bytes that were so far.
fn copy(from: &mut dyn io::Read, to: &mut dyn Write, tell: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let (mut piece, mut done) = (vec![0; 1 << 20], 0);
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(done),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        to.write_all(piece.get(..read).unwrap_or_default())?;
        done += read as u64;
        tell(done);
    }
}

fn header(name: &str, bytes: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// All that comes after the bytes with this digest.
fn seal(digest: &str) -> io::Result<Vec<u8>> {
    let mut end = tar::Builder::new(Vec::with_capacity(SEAL_BYTES));
    end.append(&header(SEAL, digest.len() as u64)?, digest.as_bytes())?;
    end.into_inner()
}

/// A reader's first `bytes`, and not one more.
fn first(reader: impl io::Read, bytes: u64) -> io::Take<impl io::Read> {
    reader.take(bytes)
}
