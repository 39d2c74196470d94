//! The work bench: a node directory for one test, launches with sensible defaults, and waiting under a deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_node::launch::{
    Adaptor, Answer, ExitRecord, Isolation, Launch, Limits, LogLimits, Order, PodRef, SessionRef, Verb, Workspace,
};
use mainstay_node::shim::{client, record};
use tempfile::TempDir;

/// The binary with the hidden verb.
pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_mainstay-shim-test");
/// Some user of the host's without rights.
const ORDINARY: u32 = 65534;
const DEADLINE: Duration = Duration::from_mins(1);

/// A node agent's directory. Ends every sandbox of its own when dropped.
#[derive(Debug)]
pub(crate) struct Bench {
    dir: TempDir,
    isolation: Isolation,
}

impl Bench {
    pub(crate) fn new(isolation: Isolation) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make namespaces, mounts and cgroups: run them as root"
        );
        let dir = tempfile::tempdir().unwrap();
        for name in ["run", "pods", "workspaces"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, isolation }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The shim as an ordinary user starts it, without any group, in a directory of its own.
    pub(crate) fn ordinary_user(&self) -> PathBuf {
        let dir = self.dir.path();
        let binary = dir.join("shim");
        std::fs::copy(EXE, &binary).unwrap();
        let user = Some(ORDINARY);
        for path in [dir, &binary, &dir.join("run"), &dir.join("pods"), &dir.join("workspaces")] {
            std::os::unix::fs::chown(path, user, user).unwrap();
        }
        let wrapper = dir.join("as-user");
        let set = format!("--reuid {ORDINARY} --regid {ORDINARY} --clear-groups");
        std::fs::write(&wrapper, format!("#!/bin/sh\nexec setpriv {set} {} \"$@\"\n", binary.display())).unwrap();
        std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        wrapper
    }

    /// A launch of `sh -c script` in a session.
    pub(crate) fn shell(&self, name: &str, script: &str) -> Launch {
        // Unlike any other test's, since cgroups are named after it.
        let unique = self.dir.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let uid = format!("{unique}-{name}");
        Launch {
            pod: PodRef { namespace: "demo".into(), name: format!("{name}-1"), uid: uid.clone() },
            session: Some(SessionRef { name: "fix".into(), uid: "s".into(), run: 1, stop_on_finish: false }),
            adaptor: Adaptor::Exec,
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: [("GREETING".to_owned(), "hello".to_owned())].into(),
            working_dir: "/workspace".into(),
            limits: Limits::default(),
            grace_seconds: 2,
            deadline_seconds: None,
            fence: 5,
            workspace: Workspace {
                dir: self.dir.path().join("workspaces").join(&uid),
                mount: "/workspace".into(),
                size_bytes: 64 << 20,
                keep: false,
            },
            files: Vec::new(),
            run_dir: self.dir.path().join("run").join(&uid),
            sock_dir: self.dir.path().join("pods").join(&uid).join("sock"),
            token_dir: self.dir.path().join("pods").join(&uid).join("token"),
            instance: format!("test-{unique}"),
            isolation: self.isolation,
            uid_base: 300_000,
            log: LogLimits { file_bytes: 1 << 20, files: 3 },
        }
    }

    /// The same without a session.
    pub(crate) fn bare(&self, name: &str, script: &str) -> Launch {
        Launch { session: None, ..self.shell(name, script) }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let runs = std::fs::read_dir(self.dir.path().join("run")).unwrap();
        for run in runs.filter_map(Result::ok).map(|run| run.path()).filter(|run| record::is_live(run).unwrap_or(false))
        {
            let order = Order { fence: u64::MAX, verb: Verb::Stop { grace_seconds: 0 } };
            client::send(&run, &order).ok();
            let poll = || record::is_live(&run).unwrap_or(true);
            (0..200).take_while(|_| poll()).for_each(|_| pause());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "polls for a state that another process makes, under a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Starts a sandbox, with a token in place.
pub(crate) fn start(launch: &Launch) -> PathBuf {
    start_with(Path::new(EXE), launch)
}

/// The same with another shim.
pub(crate) fn start_with(exe: &Path, launch: &Launch) -> PathBuf {
    for dir in [&launch.sock_dir, &launch.token_dir] {
        std::fs::create_dir_all(dir).unwrap();
    }
    write_token(launch, "token-1");
    client::spawn(exe, launch).unwrap();
    launch.run_dir.clone()
}

/// Replaces the session token by rename, as the node agent does.
pub(crate) fn write_token(launch: &Launch, token: &str) {
    let dir = &launch.token_dir;
    std::fs::write(dir.join("token.new"), token).unwrap();
    std::fs::set_permissions(dir.join("token.new"), std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    std::fs::rename(dir.join("token.new"), dir.join("token")).unwrap();
}

/// Waits for a state, under a deadline.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the sandbox's end and for all that its shim cleans up.
pub(crate) async fn ended(run_dir: &Path) -> ExitRecord {
    let record = eventually("an exit record", || record::read_exit(run_dir).unwrap()).await;
    eventually("the shim's end", || (!record::is_live(run_dir).unwrap()).then_some(())).await;
    record
}

pub(crate) fn log_text(run_dir: &Path) -> String {
    std::fs::read_to_string(run_dir.join("log/0.log")).unwrap_or_default()
}

pub(crate) fn stop(run_dir: &Path, fence: u64, grace_seconds: u64) -> Answer {
    client::send(run_dir, &Order { fence, verb: Verb::Stop { grace_seconds } }).unwrap()
}

/// Runs a script to its end in a sandbox without a session; returns its record and its output.
pub(crate) async fn run(launch: &Launch) -> (ExitRecord, String) {
    run_with(Path::new(EXE), launch).await
}

/// The same with another shim.
pub(crate) async fn run_with(exe: &Path, launch: &Launch) -> (ExitRecord, String) {
    let run_dir = start_with(exe, launch);
    let record = ended(&run_dir).await;
    let log = log_text(&run_dir);
    let lines: Vec<_> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    (record, lines.join("\n"))
}
