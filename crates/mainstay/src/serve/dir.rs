//! The data directory's own files: who may enter, and where the server tells that it is there.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// The admin's kubeconfig.
pub(crate) fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join("admin.kubeconfig")
}

/// The file that holds the key that wraps all others, if no other is named.
pub(crate) fn key(dir: &Path) -> PathBuf {
    dir.join("key")
}

/// The file that holds the URL of the running server.
pub(crate) fn endpoint(dir: &Path) -> PathBuf {
    dir.join("endpoint")
}

/// Makes the directory, or checks that it is ours and nobody else can enter.
pub(crate) fn prepare(dir: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("make the data directory {}", dir.display()))?;
    let metadata = std::fs::metadata(dir)?;
    let uid = rustix::process::geteuid().as_raw();
    ensure!(
        metadata.uid() == uid,
        "{} belongs to uid {}, not to uid {uid} that serves it",
        dir.display(),
        metadata.uid()
    );
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .with_context(|| format!("keep others out of {}", dir.display()))?;
    }
    Ok(())
}

/// Writes the URL for the command line to find, atomically, if it is not there: a server that was killed leaves its own.
pub(crate) fn write_endpoint(dir: &Path, url: &str) -> anyhow::Result<()> {
    let (path, temporary) = (endpoint(dir), dir.join("endpoint.new"));
    if std::fs::read_to_string(&path).is_ok_and(|there| there.trim_end() == url) {
        return Ok(());
    }
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{url}").with_context(|| format!("write {}", temporary.display()))?;
    std::fs::rename(&temporary, &path).with_context(|| format!("write {}", path.display()))
}

/// A clean end leaves no endpoint behind.
pub(crate) fn remove_endpoint(dir: &Path) {
    if let Err(error) = std::fs::remove_file(endpoint(dir)) {
        tracing::warn!(%error, "the endpoint file could not be removed");
    }
}
