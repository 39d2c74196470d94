//! What sets a sandbox apart from the host.
//!
//! We launch sandboxes ourselves rather than through an OCI runtime library. One code path has to serve root and an
//! ordinary user, for whom youki's libcontainer fails in the cgroup file system; forking instead of executing keeps the
//! host's binary out of the sandbox and its memory shared (0.7 MB for shim and supervisor); and it saves some 125 crates.
//!
//! As root the order is: clone into pid, mount, network, ipc and uts namespaces; cgroups; cgroup namespace; mounts and
//! `pivot_root`; only then a user namespace, mapped to a range of host ids that nobody else has; the user's identity, no
//! capabilities, Landlock, seccomp. An ordinary user's sandbox starts with the user namespace, of one id.
//!
//! `enter` runs in the new init process and builds the sandbox around it; what it returns is all that the supervisor
//! needs to know of where it is.

mod confine;
mod error;
mod etc;
mod files;
mod plain;
pub mod probe;
mod root;
pub mod workspace;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

pub(crate) use error::During;
pub use error::SandboxError;

use mainstay_node_sys::network::bring_loopback_up;
use mainstay_node_sys::privileges::{Namespace, enter_new};
use mainstay_node_sys::process::{NEW_IPC, NEW_MOUNT, NEW_NETWORK, NEW_PID, NEW_USER, NEW_UTS};

use self::root::Root;
use crate::launch::{Isolation, Launch};
use crate::supervisor::link::{Instruction, Reader, Report, send};

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

/// The sandbox's user and group id, as seen inside.
pub(crate) const INSIDE_ID: u32 = 1000;

/// The namespaces that the init process is made in. As root, the user namespace comes last, so that the others belong
/// to the host's own and nothing inside has power over them.
pub(crate) fn namespaces(isolation: Isolation) -> i32 {
    let common = NEW_PID | NEW_MOUNT | NEW_NETWORK | NEW_IPC | NEW_UTS;
    match isolation {
        Isolation::Full => common,
        Isolation::User => common | NEW_USER,
        Isolation::None => 0,
    }
}

/// Builds the sandbox around the calling process.
pub(crate) fn enter(launch: &Launch, link: &UnixStream) -> Result<Inside, SandboxError> {
    let mut outside = Outside { link, reader: Reader::default() };
    outside.wait().during("wait for the shim")?;
    match launch.isolation {
        Isolation::None => plain::enter(launch),
        Isolation::Full | Isolation::User => isolated(launch, &mut outside),
    }
}

fn isolated(launch: &Launch, outside: &mut Outside<'_>) -> Result<Inside, SandboxError> {
    let full = launch.isolation == Isolation::Full;
    let oom_score = File::options().write(true).open("/proc/self/oom_score_adj").ok();
    enter_new(Namespace::Cgroup).during("make a cgroup namespace")?;
    bring_loopback_up().during("bring the loopback interface up")?;
    let name = hostname(&launch.pod.name);
    rustix::system::sethostname(name.as_bytes()).during("name the sandbox")?;
    let owner = if full { launch.uid_base + INSIDE_ID } else { INSIDE_ID };
    // So that it can open /dev/stdout and /dev/stderr anew, which are these.
    for stream in [io::stdout().as_fd(), io::stderr().as_fd()] {
        std::os::unix::fs::fchown(stream, Some(owner), Some(owner)).during("give the output to the sandbox")?;
    }
    let root = Root::new(launch, owner)?;
    root.fill()?;
    if full {
        workspace::attach(launch, &root.workspace()?, INSIDE_ID)?;
    } else {
        root.workspace_in_memory()?;
    }
    root.enter()?;
    if full {
        enter_new(Namespace::User).during("make a user namespace")?;
        outside.ask(&Report::NeedsMaps).during("have the user namespace mapped")?;
    }
    let mut in_force: Vec<_> =
        ["user", "pid", "mount", "network", "ipc", "uts", "cgroup"].iter().map(|name| (*name).to_owned()).collect();
    in_force.extend(confine::give_up(launch, full)?);
    in_force.push("limits:workspace".into());
    let mut env = environment(&launch.workspace.mount, "/tmp", files::ROOT);
    env.extend(launch.env.clone());
    Ok(Inside {
        env,
        working_dir: PathBuf::from(&launch.working_dir),
        socket: Path::new(files::ROOT).join("run").join(SOCKET),
        token: Path::new(files::ROOT).join("token").join(TOKEN),
        is_init: true,
        oom_score,
        in_force,
    })
}

/// A Pod's name may be longer than the kernel takes for a host's.
pub(crate) fn hostname(pod: &str) -> &str {
    let end = pod.char_indices().map(|(at, _)| at).take_while(|at| *at <= 63).last().unwrap_or(0);
    let cut = if pod.len() <= 63 { pod } else { &pod[..end] };
    cut.trim_end_matches(['-', '.'])
}

/// What a sandbox needs outside, made before its init process. Dropped with the sandbox gone.
#[derive(Debug)]
pub(crate) struct Held {
    _workspace: Option<workspace::Held>,
}

/// Makes what a sandbox needs outside. Runs in the shim.
pub(crate) fn prepare(launch: &Launch) -> Result<Held, SandboxError> {
    let held = match launch.isolation {
        Isolation::Full => Some(workspace::prepare(launch)?),
        Isolation::User if launch.workspace.keep => {
            return Err(SandboxError::Unsupported("a kept workspace without being root".into()));
        }
        Isolation::User | Isolation::None => None,
    };
    Ok(Held { _workspace: held })
}

/// Removes what is left outside of a sandbox that has ended.
pub(crate) fn remove(launch: &Launch) {
    match launch.isolation {
        Isolation::Full => workspace::remove(launch),
        Isolation::None => plain::remove(launch),
        Isolation::User => {}
    }
}

/// The shim, as the init process sees it.
pub(crate) struct Outside<'a> {
    link: &'a UnixStream,
    reader: Reader,
}

impl Outside<'_> {
    /// Waits until the shim has done its part.
    fn wait(&mut self) -> io::Result<()> {
        match self.reader.receive(self.link)? {
            Instruction::Go => Ok(()),
            Instruction::Stop { .. } => Err(io::Error::other("told to stop")),
        }
    }

    /// Asks the shim for something and waits until it is done.
    fn ask(&mut self, report: &Report) -> io::Result<()> {
        send(self.link, report)?;
        self.wait()
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
