//! Landlock: which files a process may touch, whatever is mounted and whoever it is.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

/// What a process may do below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// List directories.
    List,
    /// Read files and list directories.
    Read,
    /// Read and execute.
    Execute,
    /// Everything but executing.
    Write,
    /// Everything.
    All,
}

/// The newest Landlock version that this kernel offers; 0 is none.
pub fn landlock_version() -> i32 {
    let version: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no structure and only returns a number.
    let found = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, version) };
    i32::try_from(found).unwrap_or(0).max(0)
}

/// Confines this process and its descendants to `rules`. Returns whether the kernel does so; if it can, but fails,
/// that is an error.
///
/// # Errors
/// When a path cannot be opened, or the kernel refuses.
pub fn confine(rules: &[(PathBuf, May)]) -> io::Result<bool> {
    let version = landlock_version();
    if version == 0 {
        return Ok(false);
    }
    // Up to version 6, what this was tested with; later ones confine no less.
    let abi = ABI::from(version.min(6));
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let mut ruleset = ruleset.handle_access(AccessFs::from_all(abi)).map_err(io::Error::other)?;
    if version >= 6 {
        let scopes = Scope::AbstractUnixSocket | Scope::Signal;
        ruleset = ruleset.scope(scopes).map_err(io::Error::other)?;
    }
    let mut ruleset = ruleset.create().map_err(io::Error::other)?;
    for (path, may) in rules {
        ruleset = ruleset.add_rule(rule(path, *may, abi)?).map_err(io::Error::other)?;
    }
    let status = ruleset.restrict_self().map_err(io::Error::other)?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(true),
        RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced => {
            Err(io::Error::other("Landlock is there, but was not enforced in full"))
        }
    }
}

fn rule(path: &Path, may: May, abi: ABI) -> io::Result<PathBeneath<PathFd>> {
    let executing = BitFlags::from(AccessFs::Execute);
    let access = match may {
        May::List => AccessFs::ReadDir.into(),
        May::Read => AccessFs::from_read(abi) & !executing,
        May::Execute => AccessFs::from_read(abi),
        May::Write => AccessFs::from_all(abi) & !executing,
        May::All => AccessFs::from_all(abi),
    };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(abi) };
    let opened = PathFd::new(path).map_err(io::Error::other)?;
    Ok(PathBeneath::new(opened, access))
}
