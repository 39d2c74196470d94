//! Reading a backup's file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mainstay_store::sqlite::backup::{Progress, STATE};
use serde::Deserialize;

use super::{ArchiveError, FORMAT, Hashed, MANIFEST, MANIFEST_BYTES, Manifest, PARTS, Part, SEAL, SEAL_BYTES};
use super::{copy, first, seal};

/// A whole backup.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    file: File,
    /// What it says of itself.
    pub(crate) manifest: Manifest,
}

impl Archive {
    /// Opens a backup: reads all of it, and believes nothing of it before.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`], [`ArchiveError::Unsupported`], or what the file system said.
    pub(crate) fn open(path: &Path, tell: Progress<'_>) -> Result<Self, ArchiveError> {
        let mut file = File::open(path).map_err(ArchiveError::io("open", path))?;
        check_seal(&mut file, path, tell)?;
        let manifest = manifest(&mut file, path)?;
        let bytes = file.metadata().map_err(ArchiveError::io("examine", path))?.len();
        check_parts(&manifest, bytes).map_err(|why| ArchiveError::damaged(path, why))?;
        Ok(Self { path: path.to_owned(), file, manifest })
    }

    /// Reads every part and holds it against its digest.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub(crate) fn verify(&mut self, tell: Progress<'_>) -> Result<(), ArchiveError> {
        self.each(|_| Ok(Some(Box::new(io::sink()))), tell)
    }

    /// Puts the parts that are `wanted` into a directory, each 0600 and as its digest says. What is left there after a
    /// failure is worth nothing.
    ///
    /// # Errors
    /// As [`Archive::open`], and when the directory cannot be written.
    pub(crate) fn extract(
        &mut self,
        into: &Path,
        wanted: impl Fn(&str) -> bool,
        tell: Progress<'_>,
    ) -> Result<(), ArchiveError> {
        let make = |part: &Part| -> io::Result<Option<Box<dyn Write>>> {
            if !wanted(&part.name) {
                return Ok(None);
            }
            let path = into.join(&part.name);
            if let Some(above) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(above)?;
            }
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            Ok(Some(Box::new(file)))
        };
        self.each(make, tell)
    }

    /// Goes through the parts, giving each to what `sink` makes for it.
    fn each(
        &mut self,
        sink: impl Fn(&Part) -> io::Result<Option<Box<dyn Write>>>,
        tell: Progress<'_>,
    ) -> Result<(), ArchiveError> {
        let path = self.path.clone();
        let read = |error| ArchiveError::io("read", &path)(error);
        self.file.rewind().map_err(read)?;
        let mut tar = tar::Archive::new(&self.file);
        // Raw: what an entry says may make the library read, or make, something is only looked at.
        let mut entries = tar.entries().map_err(read)?.raw(true).skip(1);
        for part in &self.manifest.parts {
            let entry = entries.next().ok_or_else(|| ArchiveError::damaged(&path, "a part is missing"))?;
            let entry = entry.map_err(read)?;
            if !is(&entry, &part.name) || entry.size() != part.bytes {
                return Err(ArchiveError::damaged(&path, format!("{} is not where it should be", part.name)));
            }
            let made = sink(part).map_err(ArchiveError::io("write", Path::new(&part.name)))?;
            let mut hashed = Hashed::new(made.unwrap_or_else(|| Box::new(io::sink())));
            let told = &mut |done| tell("check the parts", done, part.bytes);
            copy(&mut first(entry, part.bytes), &mut hashed, told).map_err(read)?;
            if hashed.bytes != part.bytes || hashed.hex() != part.sha256 {
                return Err(ArchiveError::damaged(&path, format!("{} is not what its digest says", part.name)));
            }
        }
        let last = entries.next().transpose().map_err(read)?;
        if last.is_some_and(|entry| is(&entry, SEAL)) && entries.next().is_none() {
            return Ok(());
        }
        Err(ArchiveError::damaged(&path, "it holds more than its manifest names"))
    }
}

fn is<R: io::Read>(entry: &tar::Entry<'_, R>, name: &str) -> bool {
    entry.header().entry_type() == tar::EntryType::Regular && *entry.path_bytes() == *name.as_bytes()
}

/// Its last bytes must be the digest of all before.
fn check_seal(file: &mut File, path: &Path, tell: Progress<'_>) -> Result<(), ArchiveError> {
    let read = |error| ArchiveError::io("read", path)(error);
    let found = file.metadata().map_err(read)?;
    let bytes = found.len().checked_sub(SEAL_BYTES as u64).filter(|_| found.is_file());
    let Some(bytes) = bytes else {
        return Err(ArchiveError::damaged(path, "it is no file, or a very short one"));
    };
    let mut hashed = Hashed::new(io::sink());
    copy(&mut first(&*file, bytes), &mut hashed, &mut |done| tell("read", done, bytes)).map_err(read)?;
    let mut end = Vec::with_capacity(SEAL_BYTES);
    first(&*file, SEAL_BYTES as u64 + 1).read_to_end(&mut end).map_err(read)?;
    if end == seal(&hashed.hex()).map_err(read)? {
        return Ok(());
    }
    Err(ArchiveError::damaged(path, "its digest is not that of its content: it is cut off, was changed, or is none"))
}

fn manifest(file: &mut File, path: &Path) -> Result<Manifest, ArchiveError> {
    #[derive(Deserialize)]
    struct Probe {
        format: u64,
    }
    let read = |error| ArchiveError::io("read", path)(error);
    let none = || ArchiveError::damaged(path, "it does not begin with a manifest");
    file.rewind().map_err(read)?;
    let mut tar = tar::Archive::new(&*file);
    let entry = tar.entries().map_err(read)?.raw(true).next().ok_or_else(none)?;
    let entry = entry.ok().filter(|entry| is(entry, MANIFEST) && entry.size() <= MANIFEST_BYTES).ok_or_else(none)?;
    let mut text = Vec::new();
    first(entry, MANIFEST_BYTES).read_to_end(&mut text).map_err(read)?;
    let Probe { format } = serde_json::from_slice(&text).map_err(|_| none())?;
    if format != u64::from(FORMAT) {
        return Err(ArchiveError::Unsupported { path: path.to_owned(), found: format, known: FORMAT });
    }
    serde_json::from_slice(&text).map_err(|error| ArchiveError::damaged(path, format!("its manifest: {error}")))
}

/// Only parts that we know, each once, with no more bytes than the file has.
fn check_parts(manifest: &Manifest, bytes: u64) -> Result<(), String> {
    let mut known = PARTS.iter();
    for part in &manifest.parts {
        if !known.any(|name| *name == part.name) {
            return Err(format!("{:?} is no part of a backup, or not in its place", part.name));
        }
    }
    let claimed = manifest.parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.bytes));
    if claimed.is_none_or(|claimed| claimed > bytes) {
        return Err("its parts claim more bytes than it has".to_owned());
    }
    if manifest.parts.first().is_some_and(|part| part.name == STATE) { Ok(()) } else { Err("no database".to_owned()) }
}
