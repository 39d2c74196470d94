//! What sets a sandbox apart from the host.
//!
//! [`enter`] runs in the new init process and builds the sandbox around it; what it returns is all that the supervisor
//! needs to know of where it is.

mod error;
mod files;
mod plain;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

pub(crate) use error::During;
pub use error::SandboxError;

use crate::launch::{Isolation, Launch};
use crate::supervisor::link::{Instruction, Reader};

/// Where the init process finds itself once the sandbox is built.
#[derive(Debug)]
pub(crate) struct Inside {
    /// The agent process's whole environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Where the agent process starts.
    pub(crate) working_dir: PathBuf,
    /// The relay's socket.
    pub(crate) socket: PathBuf,
    /// The session token's file.
    pub(crate) token: PathBuf,
    /// This is pid 1 of a pid namespace.
    pub(crate) is_init: bool,
    /// Our own `oom_score_adj`.
    pub(crate) oom_score: Option<File>,
    /// What of the isolation is in force, in words.
    pub(crate) in_force: Vec<String>,
}

/// The name of the relay's socket in its directory.
pub const SOCKET: &str = "api.sock";
/// The name of the session token in its directory.
pub const TOKEN: &str = "token";

/// The namespaces that the init process is made in.
pub(crate) fn namespaces(isolation: Isolation) -> i32 {
    match isolation {
        Isolation::Full | Isolation::User | Isolation::None => 0,
    }
}

/// Builds the sandbox around the calling process.
pub(crate) fn enter(launch: &Launch, link: &UnixStream) -> Result<Inside, SandboxError> {
    let mut outside = Outside { link, reader: Reader::default() };
    outside.wait().during("wait for the shim")?;
    match launch.isolation {
        Isolation::None => plain::enter(launch),
        Isolation::Full | Isolation::User => Err(SandboxError::Unsupported("isolation".into())),
    }
}

/// Removes what is left outside of a sandbox that has ended.
pub(crate) fn remove(launch: &Launch) {
    if launch.isolation == Isolation::None {
        plain::remove(launch);
    }
}

/// The shim, as the init process sees it.
pub(crate) struct Outside<'a> {
    link: &'a UnixStream,
    reader: Reader,
}

impl Outside<'_> {
    /// Waits until the shim has done its part.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        match self.reader.receive(self.link)? {
            Instruction::Go => Ok(()),
            Instruction::Stop { .. } => Err(io::Error::other("told to stop")),
        }
    }
}

/// The environment of an agent process, but for what its launch adds.
pub(crate) fn environment(home: &str, tmp: &str, mainstay: &str) -> BTreeMap<String, String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    [
        ("PATH", path.to_owned()),
        ("HOME", home.to_owned()),
        ("USER", "agent".to_owned()),
        ("LOGNAME", "agent".to_owned()),
        ("SHELL", "/bin/sh".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("TMPDIR", tmp.to_owned()),
        ("MAINSTAY_WORKSPACE", home.to_owned()),
        ("MAINSTAY_RUN", format!("{mainstay}/run")),
        ("MAINSTAY_CREDENTIALS", format!("{mainstay}/credentials")),
        ("MAINSTAY_FILES", format!("{mainstay}/files")),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
