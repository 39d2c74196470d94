//! Runs kubectl, and follows what it streams; nothing waits without a deadline.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mainstay_testkit::server::Server;
use serde_json::Value;

/// Longest time for one command, and between two lines of a stream.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server, and kubectl that knows no other.
pub(crate) struct Kubectl {
    pub(crate) server: Server,
    home: PathBuf,
    program: PathBuf,
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Done {
    /// What was printed by a command that went well and had nothing to complain of.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    /// Whether it went well, and printed this.
    pub(crate) fn is(&self, out: &str) -> bool {
        self.code == Some(0) && self.out == out
    }

    /// The same, of a command that also says something on standard error.
    #[track_caller]
    pub(crate) fn ok_with(self, words: &str) -> String {
        assert!(self.code == Some(0) && self.err.contains(words), "{self:?} does not say {words:?}");
        self.out
    }

    /// What was said by a command that failed, with these words.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, words: &str) -> String {
        assert!(self.code == Some(code) && self.err.contains(words), "{self:?} does not end with {code}, {words:?}");
        self.out
    }
}

/// A command that streams; it is killed when dropped.
pub(crate) struct Stream {
    child: Child,
    lines: Receiver<String>,
}

impl Stream {
    /// The next line.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    /// Reads until a line has these words.
    #[track_caller]
    pub(crate) fn until(&self, words: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(words) {
                return line;
            }
        }
    }

    /// The lines until the stream ends by itself, and how the command ended.
    #[track_caller]
    pub(crate) fn rest(mut self) -> (Vec<String>, Option<i32>) {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => rest.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error}: the stream goes on after {rest:?}"),
            }
        }
        (rest, self.child.wait().unwrap().code())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Kubectl {
    /// A fresh server.
    pub(crate) fn new() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/kubectl");
        assert!(program.is_file(), "there is no {}: run scripts/prepare, which installs it", program.display());
        let server = Server::start(env!("CARGO_BIN_EXE_mainstay")).unwrap();
        let home = server.scratch().join("home");
        std::fs::create_dir(&home).unwrap();
        Self { server, home, program }
    }

    /// The same with the two projects of [`super::PROJECTS`], ready for use.
    pub(crate) fn with_projects() -> Self {
        let kubectl = Self::new();
        kubectl.input("create -f -", super::PROJECTS).ok();
        kubectl.run("wait --for=condition=Ready project/web project/shop --timeout=30s").ok();
        kubectl
    }

    /// kubectl with these arguments, its streams piped.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &self.home).env("TZ", "UTC");
        command.env("KUBECONFIG", self.server.kubeconfig()).env("TMPDIR", &self.home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a line, split at blanks.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Done {
        self.input(line, "")
    }

    /// Runs a line, split at blanks, with this on standard input.
    #[track_caller]
    pub(crate) fn input(&self, line: &str, input: &str) -> Done {
        self.exact(&line.split_whitespace().collect::<Vec<_>>(), input)
    }

    /// Runs exactly these arguments.
    #[track_caller]
    pub(crate) fn exact(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = self.command(arguments).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let (out, err) = (all_of(child.stdout.take().unwrap()), all_of(child.stderr.take().unwrap()));
        let Ok(out) = out.recv_timeout(PATIENCE) else {
            drop(child.kill());
            panic!("kubectl {arguments:?} hangs: {}", err.recv().unwrap_or_default());
        };
        Done { code: child.wait().unwrap().code(), out, err: err.recv_timeout(PATIENCE).unwrap() }
    }

    /// Starts a line that streams.
    pub(crate) fn follow(&self, line: &str) -> Stream {
        let mut child = self.command(&line.split_whitespace().collect::<Vec<_>>()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Stream { child, lines }
    }

    /// An object as the server has it.
    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        let text = self.run(&format!("get {line} -o json")).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

fn all_of(mut from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, text) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(from.read_to_end(&mut bytes));
        drop(send.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    text
}
