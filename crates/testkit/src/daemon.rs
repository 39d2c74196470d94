//! A server that is not ours, such as PostgreSQL: its processes, its directory, and that nothing of it is left.
//!
//! Its processes are those whose working directory is in its own directory: servers fork, and their children have
//! process groups of their own. A guard outside of this process holds the end of a pipe: when this process has
//! ended, by whatever, it kills them and removes the directory.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::command::{Done, finish};

/// Longest time to start, to stop, or to become anything else.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at what is waited for.
const GLANCE: Duration = Duration::from_millis(2);
/// Servers refuse to be root: they are Debian's `nobody` then.
const NOBODY: u32 = 65_534;

/// Waits until its standard input ends, then kills whoever works in the directory, until nobody does, and removes it.
const GUARD: &str = r#"
cat >/dev/null
found=yes
while [ -n "$found" ]; do
  found=
  for process in /proc/[0-9]*; do
    case $(readlink "$process/cwd") in
      "$1" | "$1"/*) kill -KILL "${process#/proc/}" && found=yes ;;
    esac
  done
done
rm -rf -- "$1"
"#;

/// One such server. All of it ends, and its directory goes, when this is dropped or this process has ended.
#[derive(Debug)]
pub(crate) struct Daemon {
    dir: PathBuf,
    child: Option<Child>,
    guard: Child,
    /// The guard acts when this is closed.
    held: Option<ChildStdin>,
}

impl Daemon {
    /// Makes the directory, and no process yet. `name` is a word of the directory's name.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix(&format!("mainstay-{name}-")).tempdir();
        // The kernel shows working directories without links in their paths.
        let dir = dir.context("make a temporary directory")?.keep().canonicalize()?;
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a terminal sends to a test is not meant for it.
            .process_group(0)
            .spawn()
            .context("start the guard of a server")?;
        let held = guard.stdin.take();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700))?;
        let daemon = Self { dir, child: None, guard, held };
        give(&daemon.dir)?;
        Ok(daemon)
    }

    /// Its directory, without links in its path.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that works in the directory, as the server's user.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(&self.dir).env("HOME", &self.dir).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Starts the server; what it says goes to its log.
    pub(crate) fn spawn(&mut self, mut command: Command) -> anyhow::Result<u32> {
        ensure!(self.child.is_none(), "the server is running already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        let pid = child.id();
        self.child = Some(child);
        Ok(pid)
    }

    /// Waits until it looks so; whether it does is asked again and again. Fails at once when the server ends instead.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        mut looks_so: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        for _ in 0..PATIENCE.as_micros() / GLANCE.as_micros() {
            if looks_so()? {
                return Ok(());
            }
            if ended_within(self.pid()?, GLANCE)? {
                let status = self.wait()?;
                bail!("not {what}: the server ended with {status}:\n{}", self.log_text());
            }
        }
        bail!("not {what}:\n{}", self.log_text())
    }

    /// Whether it was started, and not ended since by one of these methods.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        let child = self.child.as_ref().context("the server is not running")?;
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid")
    }

    /// All its processes, the one that was started first.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let first = self.pid().ok();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let of_it = entries
            .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.dir)));
        let pids = of_it.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
        let mut pids: Vec<_> = pids.filter(|pid| Some(*pid) != first).collect();
        pids.splice(..0, first);
        pids
    }

    /// Ends all its processes by SIGKILL, and waits until they have.
    pub(crate) fn kill9(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_some(), "the server is not running");
        // The first one forks no more once it is dead, so that these are all.
        self.end(Signal::KILL)?;
        for pid in self.processes() {
            signal(pid, Signal::KILL)?;
            ensure!(ended_within(pid, PATIENCE)?, "{pid:?} does not die");
        }
        Ok(())
    }

    /// Sends a signal to the process that was started, and waits until it has ended.
    pub(crate) fn end(&mut self, by: Signal) -> anyhow::Result<ExitStatus> {
        signal(self.pid()?, by)?;
        ensure!(ended_within(self.pid()?, PATIENCE)?, "the server does not end:\n{}", self.log_text());
        self.wait()
    }

    fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.child.take().context("the server is not running")?.wait()?)
    }

    /// Stops all its processes by SIGSTOP, and waits until they have stopped.
    pub(crate) fn pause(&mut self) -> anyhow::Result<()> {
        let mut told = BTreeSet::new();
        for _ in 0..PATIENCE.as_micros() / GLANCE.as_micros() {
            let running: Vec<_> = self.processes().into_iter().filter(|pid| !is_stopped(*pid)).collect();
            if running.is_empty() {
                return Ok(());
            }
            for pid in running {
                if told.insert(pid.as_raw_nonzero()) {
                    signal(pid, Signal::STOP)?;
                }
            }
            ended_within(self.pid()?, GLANCE)?;
        }
        bail!("the server does not stop")
    }

    /// Lets all its processes go on by SIGCONT.
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        self.processes().into_iter().try_for_each(|pid| signal(pid, Signal::CONT))
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// All that it said.
    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It does all that is to be done, as it does when this process is killed.
        drop(self.held.take());
        if let Some(child) = &mut self.child {
            child.wait().ok();
        }
        self.guard.wait().ok();
    }
}

/// Makes the servers' user the owner of a file.
pub(crate) fn give(path: &Path) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).with_context(|| format!("give away {}", path.display()))?;
    }
    Ok(())
}

/// Runs a command to its end, and gives what it printed.
pub(crate) fn run(command: Command, input: &str) -> anyhow::Result<String> {
    let program = command.get_program().to_owned();
    let Done { code, out, err } = finish(command, input);
    ensure!(code == Some(0), "{} ended with {code:?}: {out}{err}", program.display());
    Ok(out)
}

/// One that has ended takes no signal, and needs none.
fn signal(pid: Pid, signal: Signal) -> anyhow::Result<()> {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("signal {pid:?}")),
    }
}

fn ended_within(pid: Pid, span: Duration) -> anyhow::Result<bool> {
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error).context("watch a process"),
    };
    let span = Timespec::try_from(span).context("a span")?;
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&span)) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error).context("watch a process"),
    }
}

fn is_stopped(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The state follows the name, which is in parentheses and may hold any. One that has ended does nothing either.
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 'Z', 'X'])))
}
