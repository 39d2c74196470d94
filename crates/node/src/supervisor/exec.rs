//! Further commands in the sandbox: `kubectl exec`.
//!
//! They are started by the supervisor, as the agent process is, and by nobody else. It is in all of the sandbox's namespaces and
//! cgroups already, and has given up what the sandbox may not have: identity, capabilities, Landlock and seccomp are inherited by
//! whatever it starts, and there is no way back. So a command has what the agent process has by construction. Entering the
//! sandbox from outside would mean joining each namespace and repeating each of these steps in the right order, with all of the
//! host's rights until the last one; seccomp forbids `setns` inside for that reason.
//!
//! The supervisor carries none of a command's bytes: its ends of the pipes, or of the terminal, come from the node agent. All
//! other descriptors are closed when it is executed.
//!
//! A command ends with its leash ([`crate::shim::exec`]): its process group, and whatever else is in its session. One that has ended
//! by itself leaves what it put into the background, which goes on like anything else in the sandbox, until that ends.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay_api::exec::ExecEnd;
use mainstay_node_sys::process::{Spawn, spawn};
use mainstay_runtime::Tasks;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::agent::{Ending, score};
use crate::sandbox::Inside;
use crate::shim::exec::{ExecOrder, closed, taken};

/// Commands at a time.
const MOST: usize = 64;
/// How long an order may take to come.
const ORDER_TIME: Duration = Duration::from_secs(5);
/// How often a session is looked through for processes that were started meanwhile.
const PASSES: usize = 16;

/// The commands of this sandbox; cheap to clone.
#[derive(Clone)]
pub(super) struct Execs(Arc<Shared>);

struct Shared {
    env: BTreeMap<String, String>,
    working_dir: PathBuf,
    is_init: bool,
    oom_score: Option<File>,
    running: Mutex<Running>,
}

/// Those that have not been reaped: as long as a process is not, its number is its own.
#[derive(Default)]
struct Running {
    all: HashMap<Pid, oneshot::Sender<Ending>>,
    over: bool,
}

impl Execs {
    /// What commands get: what the agent process gets.
    pub(super) fn new(inside: &Inside) -> Self {
        Self(Arc::new(Shared {
            env: inside.env.clone(),
            working_dir: inside.working_dir.clone(),
            is_init: inside.is_init,
            oom_score: inside.oom_score.as_ref().and_then(|file| file.try_clone().ok()),
            running: Mutex::default(),
        }))
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes commands.
    ///
    /// # Errors
    /// When the socket cannot be watched.
    pub(super) fn listen(&self, listener: UnixListener, tasks: &Tasks) -> io::Result<()> {
        let (listener, execs, own) = (tokio::net::UnixListener::from_std(listener)?, self.clone(), tasks.clone());
        tasks.spawn("execs", async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(own.spawn("exec", execs.clone().attend(stream)));
            }
        });
        Ok(())
    }

    /// A process has ended and was reaped.
    pub(super) fn reaped(&self, pid: Pid, how: Ending) {
        let waiting = self.running().all.remove(&pid);
        // Nobody waits for one that was ended with its leash.
        waiting.map(|waiting| waiting.send(how).ok());
    }

    /// The sandbox ends: nothing is started any more, and who waits is told. What runs is ended with everything else.
    pub(super) fn finish(&self) {
        let mut running = self.running();
        running.over = true;
        running.all.clear();
    }

    async fn attend(self, stream: UnixStream) {
        let Ok(Ok((order, descriptors))) = tokio::time::timeout(ORDER_TIME, taken(&stream)).await else { return };
        let end = match self.start(&order, descriptors) {
            Ok((pid, ended)) => tokio::select! {
                how = ended => how.map_or_else(
                    |_| ExecEnd::failed("the sandbox has ended"),
                    |(code, signal)| ExecEnd { code, signal, failure: None },
                ),
                () = closed(&stream) => return self.end(pid),
            },
            Err(why) => ExecEnd::failed(why),
        };
        // Who does not read it has gone. One short line fits into any socket.
        if let Ok(mut line) = serde_json::to_vec(&end) {
            line.push(b'\n');
            stream.try_write(&line).ok();
        }
    }

    fn start(&self, order: &ExecOrder, descriptors: Vec<OwnedFd>) -> Result<(Pid, oneshot::Receiver<Ending>), String> {
        let mut running = self.running();
        if running.over {
            return Err("the sandbox has ended".into());
        }
        if running.all.len() >= MOST {
            return Err(format!("{MOST} commands run in this sandbox, which are all that may"));
        }
        let program = order.command.first().cloned().unwrap_or_default();
        let (tell, ended) = oneshot::channel();
        let pid = self.0.spawn(order, descriptors).map_err(|error| format!("start {program}: {error}"))?;
        running.all.insert(pid, tell);
        drop(running);
        Ok((pid, ended))
    }

    /// Ends a command that nobody waits for any more. It is reaped with all others.
    fn end(&self, pid: Pid) {
        if !self.running().all.contains_key(&pid) {
            return;
        }
        kill_process_group(pid, Signal::KILL).ok();
        kill_process(pid, Signal::KILL).ok();
        for _ in 0..PASSES {
            let left = in_session(Path::new("/proc"), pid);
            if left.is_empty() {
                return;
            }
            for member in left {
                kill_process(member, Signal::KILL).ok();
            }
        }
    }
}

impl Shared {
    fn spawn(&self, order: &ExecOrder, descriptors: Vec<OwnedFd>) -> io::Result<Pid> {
        if !self.working_dir.is_dir() {
            return Err(io::Error::other(format!("the working directory {} is missing", self.working_dir.display())));
        }
        let mut env = self.env.clone();
        if order.terminal {
            env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
        }
        let started = Spawn {
            command: &order.command,
            env: &env,
            dir: &self.working_dir,
            stdio: stdio(order, descriptors)?,
            die_with_parent: !self.is_init,
            terminal: order.terminal,
        };
        score(self.oom_score.as_ref(), b"500");
        let started = spawn(started);
        score(self.oom_score.as_ref(), b"0");
        started
    }
}

/// Its standard descriptors: what came, or nothing.
fn stdio(order: &ExecOrder, descriptors: Vec<OwnedFd>) -> io::Result<[Stdio; 3]> {
    let missing = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut given = descriptors.into_iter();
    if order.terminal {
        let terminal = given.next().ok_or_else(missing)?;
        return Ok([terminal.try_clone()?.into(), terminal.try_clone()?.into(), terminal.into()]);
    }
    let mut next = |wanted: bool| -> io::Result<Stdio> {
        if wanted { Ok(given.next().ok_or_else(missing)?.into()) } else { Ok(Stdio::null()) }
    };
    let [stdin, stdout, stderr] = order.standard;
    Ok([next(stdin)?, next(stdout)?, next(stderr)?])
}

/// The live processes of a session, in this pid namespace.
fn in_session(proc: &Path, session: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let is_member = |pid: &Pid| {
        let stat =
            std::fs::read_to_string(proc.join(pid.as_raw_nonzero().to_string()).join("stat")).unwrap_or_default();
        is_live_in(&stat, session)
    };
    pids.filter(is_member).collect()
}

/// The name, which may hold anything, is in parentheses; then come state, parent, group and session.
fn is_live_in(stat: &str, session: Pid) -> bool {
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let state = fields.next();
    let of = fields.nth(2).and_then(|of| of.parse().ok());
    of == Some(session.as_raw_nonzero().get()) && !matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_of_its_session_whatever_it_calls_itself() {
        let session = Pid::from_raw(7).unwrap();
        for (stat, live) in [
            ("9 (sleep) S 1 9 7 0 -1", true),
            ("9 (a) S 1 9 8 (b) S 1 9 7 0", true),
            ("9 (sleep) S 1 7 8 0 -1", false),
            ("9 (sleep) Z 1 9 7 0 -1", false),
            ("", false),
        ] {
            assert_eq!(is_live_in(stat, session), live, "{stat}");
        }
    }
}
