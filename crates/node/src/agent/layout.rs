//! Where the node agent keeps what: the layout of `DIR/node`.
//!
//! `run/POD_UID` is the shim's (claimed by its mkdir, removed here once the Pod is gone); `pods/POD_UID` is the agent's
//! own part of a Pod (socket, token, record); `workspaces/KEY` holds a workspace and whose it is.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The paths below `DIR/node`.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// Whether `name` can be a directory's name here. Uids come from the API; nothing else may become a path.
pub(crate) fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Layout {
    /// Lays `root` out, for nobody but this user.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub(crate) fn new(root: PathBuf) -> io::Result<Self> {
        let layout = Self::at(root);
        for dir in [&layout.root, &layout.runs(), &layout.pods(), &layout.workspaces()] {
            make_dir(dir, 0o700)?;
        }
        Ok(layout)
    }

    /// The paths below `root`, whether or not it is laid out.
    pub(crate) const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// All run directories.
    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The run directory of a Pod.
    pub(crate) fn run(&self, uid: &str) -> PathBuf {
        self.runs().join(uid)
    }

    /// The agent's own directories of all Pods.
    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// The agent's own directory of a Pod.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// The directory of a Pod's relay socket.
    pub(crate) fn sock(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("sock")
    }

    /// The directory of a Pod's session token.
    pub(crate) fn token(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("token")
    }

    /// The agent's record of a Pod.
    pub(crate) fn record(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("pod.json")
    }

    /// Empty workspaces by size, from which shims copy.
    pub(crate) fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    /// All workspaces.
    pub(crate) fn workspaces(&self) -> PathBuf {
        self.root.join("workspaces")
    }

    /// A workspace, by the uid of its Pod, or of its session when it is kept.
    pub(crate) fn workspace(&self, key: &str) -> PathBuf {
        self.workspaces().join(key)
    }

    /// Whose a workspace is.
    pub(crate) fn owner(&self, key: &str) -> PathBuf {
        self.workspace(key).join("claim.json")
    }

    /// The id of this data directory, made on first use.
    ///
    /// # Errors
    /// When it can neither be read nor written.
    pub(crate) fn instance(&self) -> io::Result<String> {
        let path = self.root.join("instance");
        match read(&path)?.map(String::from_utf8) {
            Some(Ok(id)) if is_plain(id.trim()) => return Ok(id.trim().to_owned()),
            Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "not an instance id")),
            None => {}
        }
        let id = format!("{:016x}", rand::random::<u64>());
        replace(&path, id.as_bytes(), 0o600, None, Keep::OverPowerLoss)?;
        Ok(id)
    }
}

/// Makes a directory, and its parents, with exactly this mode, whatever the umask is.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// How long a file must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nobody needs it after a crash of the machine.
    ThisBoot,
    /// It is on the disk before it is in place.
    OverPowerLoss,
}

/// Puts a file in place whole: whoever reads it sees the old content or the new.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32, owner: Option<u32>, keep: Keep) -> io::Result<()> {
    let temporary = path.with_extension("new");
    remove_file(&temporary)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    if owner.is_some() {
        chown(&temporary, owner, owner)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    if keep == Keep::ThisBoot {
        return std::fs::rename(&temporary, path);
    }
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Writes a record by [`replace`].
pub(crate) fn write_record(path: &Path, record: &impl Serialize, keep: Keep) -> io::Result<()> {
    replace(path, &serde_json::to_vec(record)?, 0o600, None, keep)
}

/// Reads a record; `None` when there is none.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    read(path)?.map(|bytes| serde_json::from_slice(&bytes).map_err(wrong)).transpose()
}

/// A file's content. One that was put in place for [`Keep::ThisBoot`] can be there without any after a crash of the
/// machine, which is to be as if it were not there.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes).filter(|bytes| bytes.iter().any(|byte| *byte != 0))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    ignore_absent(std::fs::remove_file(path))
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    ignore_absent(std::fs::remove_dir_all(path))
}

fn ignore_absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The names in a directory that can be uids; none when it is not there.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && is_plain(&name)
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uids_become_paths() {
        assert!(is_plain("0b8e4f6a-3f0e-4b51-9f93-0c2a5e5f6a77"));
        for wrong in ["", "..", "a/b", "a.b", &"x".repeat(65)] {
            assert!(!is_plain(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_instance_id_stays_and_everything_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("node")).unwrap();
        let id = layout.instance().unwrap();
        assert_eq!(Layout::new(dir.path().join("node")).unwrap().instance().unwrap(), id);
        let mode = std::fs::metadata(layout.pods()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_file_that_a_power_loss_has_emptied_is_as_if_absent() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("node")).unwrap();
        for empty in [&b""[..], &[0; 40]] {
            std::fs::write(layout.root.join("instance"), empty).unwrap();
            let id = layout.instance().unwrap();
            assert_eq!(layout.instance().unwrap(), id, "a new one, which stays");
            make_dir(&layout.pod("u"), 0o700).unwrap();
            std::fs::write(layout.record("u"), empty).unwrap();
            assert_eq!(read_record::<serde_json::Value>(&layout.record("u")).unwrap(), None);
        }
        std::fs::write(layout.record("u"), "{").unwrap();
        let said = read_record::<serde_json::Value>(&layout.record("u")).unwrap_err().to_string();
        assert!(said.contains("pods/u/pod.json: "), "{said}");
    }
}
