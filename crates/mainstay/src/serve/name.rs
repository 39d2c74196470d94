//! The name of this machine's node: chosen once, and the data directory's from then on.
//!
//! Its Pods are bound to it, so it does not change with the host's.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use mainstay_api::names::LOCAL_NODE;
use mainstay_api::node::{name_fault, name_of_host};

/// A name as the command line gives it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<String, String> {
    name_fault(text).map_or_else(|| Ok(text.to_owned()), |fault| Err(fault.to_owned()))
}

/// The name of the node of the agent's directory `dir`: the one that it has, or the one that is asked for, or the host's.
///
/// # Errors
/// When another one is asked for than it has, and when it cannot be written.
pub(super) fn of(dir: &Path, asked: Option<&str>) -> anyhow::Result<String> {
    let path = dir.join("name");
    match (std::fs::read_to_string(&path), asked) {
        (Ok(there), Some(asked)) if there.trim() != asked => {
            bail!(
                "{} is that of node {:?}, not {asked:?}: its Pods are bound to that name",
                dir.display(),
                there.trim()
            )
        }
        (Ok(there), _) => return Ok(there.trim().to_owned()),
        (Err(error), _) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("read {}", path.display()));
        }
        (Err(_), _) => {}
    }
    let name = match asked {
        Some(asked) => asked.to_owned(),
        None if dir.join("instance").exists() => LOCAL_NODE.to_owned(),
        None => {
            name_of_host(&rustix::system::uname().nodename().to_string_lossy()).unwrap_or_else(|| LOCAL_NODE.to_owned())
        }
    };
    write(dir, &path, &name).with_context(|| format!("write {}", path.display()))?;
    Ok(name)
}

fn write(dir: &Path, path: &Path, name: &str) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let temporary = dir.join("name.new");
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_the_name_of_its_node() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        assert_eq!(of(&node, Some("box")).unwrap(), "box");
        assert_eq!(of(&node, None).unwrap(), "box");
        assert_eq!(of(&node, Some("box")).unwrap(), "box");
        assert!(of(&node, Some("other")).unwrap_err().to_string().contains("is that of node \"box\""));
        let old = dir.path().join("old");
        std::fs::create_dir(&old).unwrap();
        std::fs::write(old.join("instance"), "x").unwrap();
        assert_eq!(of(&old, None).unwrap(), "local", "from before nodes had names");
        assert!(parse("Box").is_err() && parse("box-1").is_ok());
    }
}
