//! Private files: 0600, owned by us, replaced atomically.
//!
//! A crash leaves either the old content or the new one, never a part. A file that others could read or write is
//! refused, not repaired: what it holds may already be known.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use mainstay_runtime::failure::chain_of;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::KeysError;

/// What nobody but an owner may do, beside that its group may read.
const MORE: u32 = 0o037;
/// No file of ours is larger.
const MAX_BYTES: u64 = 64 * 1024;

/// Checks that a directory is there, ours, and closed to others.
pub(super) fn private_dir(path: &Path) -> Result<(), KeysError> {
    let found = fs::symlink_metadata(path).map_err(|error| KeysError::io("examine", path, error))?;
    if !found.is_dir() {
        return Err(KeysError::unsafe_file(path, "it is not a directory"));
    }
    check_owner(path, &found)?;
    check_mode(path, &found, "0700")
}

/// The content of a private file of ours; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeysError> {
    read_with(path, OFlags::NOFOLLOW, false)
}

/// As [`read`], of a file that whoever starts the server named: it may be a link, and root's.
pub(super) fn read_given(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeysError> {
    read_with(path, OFlags::empty(), true)
}

fn read_with(path: &Path, flags: OFlags, may_be_roots: bool) -> Result<Option<Zeroizing<Vec<u8>>>, KeysError> {
    // Non-blocking: a FIFO put in the place of a key must not hang the start.
    let flags = (flags | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeysError::io("open", path, error)),
    };
    let found = file.metadata().map_err(|error| KeysError::io("examine", path, error))?;
    if !found.is_file() || found.len() > MAX_BYTES {
        return Err(KeysError::unsafe_file(path, "it is not an ordinary small file"));
    }
    if !(may_be_roots && found.uid() == 0) {
        check_owner(path, &found)?;
    }
    let is_given = may_be_roots && is_given(found.uid(), rustix::process::geteuid().as_raw(), found.mode());
    if !is_given {
        check_mode(path, &found, "0600")?;
    }
    // Full capacity at once, so that no copy of a secret is left behind by a reallocation.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0) + 1));
    file.take(MAX_BYTES).read_to_end(&mut content).map_err(|error| KeysError::io("read", path, error))?;
    Ok(Some(content))
}

/// Writes a private file durably.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), KeysError> {
    mainstay_runtime::file::replace(path, content).map_err(|error| KeysError::io("write", path, error))
}

/// Gives a file another's name, durably. Where that is not possible the file serves where it is.
pub(super) fn rename_or_say(from: &Path, to: &Path) {
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let renamed = fs::rename(from, to).and_then(|()| File::open(dir)?.sync_all());
    if let Err(error) = renamed.map_err(|error| KeysError::io("rename", from, error)) {
        tracing::warn!(
            error = chain_of(&error),
            "the new key file is used where it is; put it in the place of the old one"
        );
    }
}

fn check_owner(path: &Path, found: &fs::Metadata) -> Result<(), KeysError> {
    let (owner, ours) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner == ours {
        return Ok(());
    }
    Err(KeysError::unsafe_file(path, format!("it belongs to user {owner}, and must belong to user {ours}")))
}

/// Whether a file is root's, given to somebody else to read: systemd's credentials and mounted Secrets are, by a list or a group
/// that shows as the file's group.
const fn is_given(owner: u32, ours: u32, mode: u32) -> bool {
    owner == 0 && ours != 0 && mode & MORE == 0
}

fn check_mode(path: &Path, found: &fs::Metadata, wanted: &str) -> Result<(), KeysError> {
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o777;
        return Err(KeysError::unsafe_file(path, format!("its mode is {mode:04o}, and must be {wanted}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_root_gives_to_another_to_read_may_be_a_groups() {
        assert!(is_given(0, 1_000, 0o100_440) && is_given(0, 1_000, 0o100_640) && is_given(0, 1_000, 0o100_400));
        for (owner, ours, mode) in
            [(0, 0, 0o440), (1_000, 1_000, 0o440), (0, 1_000, 0o444), (0, 1_000, 0o460), (0, 1_000, 0o441)]
        {
            assert!(!is_given(owner, ours, mode), "{owner} {ours} {mode:o}");
        }
    }
}
