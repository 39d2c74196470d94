//! No isolation: child processes of the shim on the host as it is. For tests, and said so on the Pod.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::process::{Signal, getpid, set_child_subreaper, set_parent_process_death_signal};

use super::files::{self, ROOT};
use super::{During, Inside, SOCKET, SandboxError, TOKEN, environment};
use crate::launch::Launch;

/// Stands for `/mainstay`, below the run directory.
const TREE: &str = "mainstay";

/// Lays the workspace and the files out in plain directories.
pub(crate) fn enter(launch: &Launch) -> Result<Inside, SandboxError> {
    set_child_subreaper(Some(getpid())).during("become the reaper of orphans")?;
    let tree = launch.run_dir.join(TREE);
    let workspace = launch.workspace.dir.join("files");
    for dir in [&tree, &workspace] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).during("make a directory")?;
    }
    symlink(&launch.sock_dir, tree.join("run")).during("link the socket's directory")?;
    files::write(&launch.files, &tree, None)?;
    let home = workspace.to_string_lossy().into_owned();
    let mut env = environment(&home, "/tmp", &tree.to_string_lossy());
    env.extend(launch.env.clone());
    set_parent_process_death_signal(Some(Signal::KILL)).during("tie this process to the shim")?;
    Ok(Inside {
        env,
        working_dir: outside_path(launch, &workspace, &tree),
        socket: launch.sock_dir.join(SOCKET),
        token: launch.token_dir.join(TOKEN),
        is_init: false,
        oom_score: None,
        in_force: Vec::new(),
    })
}

/// The working directory, which is given as it would be in a sandbox.
fn outside_path(launch: &Launch, workspace: &Path, tree: &Path) -> PathBuf {
    let inside = Path::new(&launch.working_dir);
    if let Ok(rest) = inside.strip_prefix(&launch.workspace.mount) {
        return workspace.join(rest);
    }
    inside.strip_prefix(ROOT).map_or_else(|_| inside.to_owned(), |rest| tree.join(rest))
}

/// Removes what [`enter`] made.
pub(crate) fn remove(launch: &Launch) {
    std::fs::remove_dir_all(launch.run_dir.join(TREE)).ok();
    if !launch.workspace.keep {
        std::fs::remove_dir_all(&launch.workspace.dir).ok();
    }
}
