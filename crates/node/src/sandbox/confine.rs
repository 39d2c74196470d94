//! The last steps: becoming nobody in particular, and giving up the way back.

use std::path::{Path, PathBuf};

use mainstay_node_sys::paths::{May, confine};
use mainstay_node_sys::privileges::{become_user, drop_capabilities, gain_no_capabilities, limit_resources};
use mainstay_node_sys::seccomp;
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};

use super::{During, INSIDE_ID, SandboxError};
use crate::launch::Launch;

/// Descriptors of one process inside.
const DESCRIPTORS: u64 = 65_536;

/// Takes the sandbox's identity and gives up everything else; says what is in force.
pub(super) fn give_up(launch: &Launch, may_set_groups: bool) -> Result<Vec<String>, SandboxError> {
    limit_resources(DESCRIPTORS).during("limit resources")?;
    gain_no_capabilities().during("give up capabilities")?;
    become_user(INSIDE_ID, may_set_groups).during("become the sandbox's user")?;
    drop_capabilities().during("drop capabilities")?;
    // After the change of user, which would have cleared it. From here on the kernel ends us with the shim.
    set_parent_process_death_signal(Some(Signal::KILL)).during("tie this process to the shim")?;
    let mut in_force = vec!["no-new-privileges".to_owned(), "no-capabilities".to_owned()];
    if confine(&rules(launch)).during("confine the sandbox by Landlock")? {
        in_force.push("landlock".into());
    }
    seccomp::install().during("filter system calls")?;
    in_force.push("seccomp".into());
    // The agent process has our user id: without this it could read our memory and descriptors.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during("hide the supervisor's memory")?;
    Ok(in_force)
}

/// The file access that is left, as mounts allow it too.
fn rules(launch: &Launch) -> Vec<(PathBuf, May)> {
    let wanted = [
        ("/", May::List),
        ("/usr", May::Execute),
        ("/opt", May::Execute),
        ("/bin", May::Execute),
        ("/sbin", May::Execute),
        ("/lib", May::Execute),
        ("/lib32", May::Execute),
        ("/lib64", May::Execute),
        ("/libx32", May::Execute),
        ("/etc", May::Read),
        ("/proc", May::Read),
        ("/dev", May::Write),
        ("/tmp", May::All),
        ("/mainstay", May::Execute),
        (launch.workspace.mount.as_str(), May::All),
    ];
    wanted.iter().map(|(path, may)| (PathBuf::from(path), *may)).filter(|(path, _)| Path::exists(path)).collect()
}
