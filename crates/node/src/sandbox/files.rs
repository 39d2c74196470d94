//! Writes the launch's file sets.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{During, SandboxError};
use crate::launch::FileSet;

/// Where file sets may be mounted.
pub(crate) const ROOT: &str = "/mainstay";

/// Writes `sets` below `root`, which stands for [`ROOT`]; owned by `owner`, if given.
pub(crate) fn write(sets: &[FileSet], root: &Path, owner: Option<u32>) -> Result<(), SandboxError> {
    for set in sets {
        let inside = below(&set.mount)
            .ok_or_else(|| SandboxError::Invalid(format!("files cannot be mounted at {}", set.mount)))?;
        let dir = root.join(inside);
        DirBuilder::new().recursive(true).mode(0o755).create(&dir).during("make a directory of files")?;
        for (name, content) in &set.files {
            if name.is_empty() || name.contains('/') || name == "." || name == ".." {
                return Err(SandboxError::Invalid(format!("{name:?} is not a file name")));
            }
            let content = STANDARD.decode(content).map_err(io::Error::other).during("decode a file")?;
            write_one(&dir.join(name), &content, set.mode, owner).during("write a file")?;
        }
    }
    Ok(())
}

fn write_one(path: &Path, content: &[u8], mode: u32, owner: Option<u32>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    chown(path, owner, owner)?;
    file.set_permissions(Permissions::from_mode(mode & 0o777))
}

/// The path below [`ROOT`], if it is one.
fn below(mount: &str) -> Option<PathBuf> {
    let inside = Path::new(mount).strip_prefix(ROOT).ok()?;
    let plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
    let reserved = ["run", "token"].iter().any(|taken| inside.starts_with(taken));
    (plain && !reserved && inside.components().next().is_some()).then(|| inside.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_sets_stay_where_they_belong() {
        for wrong in ["/etc", "/mainstay", "/mainstay/../etc", "/mainstay/run/x", "/mainstay/token", "mainstay/x"] {
            assert_eq!(below(wrong), None, "{wrong}");
        }
        assert_eq!(below("/mainstay/credentials/git"), Some(PathBuf::from("credentials/git")));
        let dir = tempfile::tempdir().unwrap();
        let files = [("../x".to_owned(), String::new())].into();
        let set = FileSet { mount: "/mainstay/files".into(), mode: 0o400, files };
        assert!(matches!(write(&[set], dir.path(), None), Err(SandboxError::Invalid(_))));
    }
}
