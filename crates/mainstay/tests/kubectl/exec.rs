//! `kubectl exec`: bytes, codes, terminals, rights, and that nothing is left behind.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::time::Instant;

use super::*;

const PATIENCE: Duration = Duration::from_mins(1);

/// A server with a session that only stays.
fn running() -> Kubectl {
    let kubectl = Kubectl::with_projects();
    kubectl.input("create -f -", &session("web", "s", "exec sleep 1000")).ok();
    kubectl.run("wait -n web --for=create pod/s-1 --timeout=60s").ok();
    kubectl.run("wait -n web --for=condition=Ready pod/s-1 --timeout=60s").ok();
    kubectl
}

fn shell<'a>(flags: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["exec", "s-1", "-n", "web"], flags, &["--", "/bin/sh", "-c", script]].concat()
}

/// Waits for a state that another process makes.
#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// Processes with this command line, of whatever namespace.
fn processes(line: &str) -> usize {
    let line = format!("{}\0", line.replace(' ', "\0"));
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|own| own == line.as_bytes())).count()
}

#[test]
fn output_and_code_are_the_commands() {
    let kubectl = running();
    let done = kubectl.exact(&shell(&[], "echo out; echo err >&2"), "");
    assert_eq!(done.ok_with("err\n"), "out\n");
    for (script, code) in [("echo out; exit 7", 7), ("kill -9 $$", 137), ("false", 1)] {
        kubectl.exact(&shell(&[], script), "").failed(code, &format!("command terminated with exit code {code}"));
    }
    let words =
        kubectl.exact(&["exec", "s-1", "-n", "web", "-c", "agent", "--", "printf", "[%s]", "a b", "", "ü$"], "");
    assert_eq!(words.ok(), "[a b][][ü$]");
    assert_eq!(kubectl.exact(&shell(&[], "pwd; echo $MAINSTAY_WORKSPACE"), "").ok(), "/workspace\n/workspace\n");
    // It is confined as the agent process is.
    let status = kubectl.exact(&shell(&[], "cat /proc/self/status; ls /home /proc/1/root"), "").failed(2, "cannot");
    for words in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Uid:\t1000"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    kubectl
        .exact(&["exec", "s-1", "-n", "web", "--", "/no/such/program"], "")
        .failed(1, "/no/such/program: No such file");
    kubectl.run("exec s-1 -n web -c other -- true").failed(1, "container other");
    kubectl.run("exec none -n web -- true").failed(1, "pods \"none\" not found");
    kubectl.run("exec s-1 -n web").failed(1, "you must specify at least one command");
    // What runs is said, by whom and where; not the words of it.
    let log = kubectl.server.log_text();
    assert!(log.contains("a command runs in a Pod") && log.contains("pod=\"web/s-1\""), "{log}");
    assert!(!log.contains("/no/such/program") && !log.contains("kill -9"), "{log}");
}

#[test]
fn five_megabytes_go_in_and_come_back() {
    let kubectl = running();
    let sent: Vec<u8> = (0..5_000_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let scratch = kubectl.server.scratch();
    let (input, output) = (scratch.join("sent"), scratch.join("got"));
    std::fs::write(&input, &sent).unwrap();
    let mut command = kubectl.command(&["exec", "-i", "s-1", "-n", "web", "--", "cat"]);
    command.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap()).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    eventually("its end", || std::fs::metadata(&output).unwrap().len() == 5_000_000);
    assert!(child.wait().unwrap().success(), "the end of the input came through, too");
    assert!(std::fs::read(&output).unwrap() == sent);
    // A command that does not take all of its input has its code all the same.
    let mut command = kubectl.command(&shell(&["-i"], "head -c 5; exit 4"));
    command.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap());
    assert_eq!(command.spawn().unwrap().wait().unwrap().code(), Some(4));
    assert!(std::fs::read(&output).unwrap() == sent[..5]);
}

/// A terminal, and what was seen on it.
struct Terminal {
    ours: File,
    its: OwnedFd,
    seen: std::sync::mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        unlockpt(&ours).unwrap();
        let its = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let ours = File::from(ours);
        let (send, seen) = std::sync::mpsc::channel();
        let mut from = ours.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count) = from.read(&mut chunk) {
                if count == 0 || send.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { ours, its, seen }
    }

    fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.ours, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    fn type_in(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn until(&self, words: &str) -> String {
        let mut all = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&all).into_owned();
            if text.contains(words) {
                return text;
            }
            let more = self.seen.recv_timeout(PATIENCE);
            assert!(more.is_ok(), "no {words:?}: {text:?}");
            all.extend(more.unwrap());
        }
    }
}

#[test]
fn a_shell_on_a_terminal_knows_its_size() {
    let kubectl = running();
    let mut terminal = Terminal::new();
    terminal.resize(101, 33);
    // kubectl is told of a new size as the owner of the terminal.
    let plain = kubectl.command(&["exec", "-it", "s-1", "-n", "web", "--", "/bin/sh"]);
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(plain.get_program()).args(plain.get_args()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
    for number in 0..3 {
        let end = Stdio::from(terminal.its.try_clone().unwrap());
        match number {
            0 => command.stdin(end),
            1 => command.stdout(end),
            _ => command.stderr(end),
        };
    }
    let mut child = command.spawn().unwrap();
    terminal.type_in("stty size; echo on $TERM\r");
    let shown = terminal.until("on xterm");
    assert!(shown.contains("33 101"), "{shown}");
    terminal.resize(90, 20);
    terminal.type_in("until stty size | grep -q '20 90'; do :; done; echo re\"\"sized\r");
    terminal.until("resized");
    terminal.type_in("test -t 0 && test -t 2 && exit 5\r");
    let end = Instant::now() + PATIENCE;
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        assert!(Instant::now() < end, "it does not end");
        std::thread::yield_now();
    };
    assert_eq!(code, Some(5));
}

#[test]
fn who_is_killed_and_a_server_that_stops_leave_no_process() {
    let mut kubectl = running();
    for script in ["sleep 9101 & echo up; wait", "echo up; exec sleep 9101"] {
        let line = shell(&[], script);
        let mut child = kubectl.command(&line).spawn().unwrap();
        eventually("it runs", || processes("sleep 9101") == 1);
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("no process", || processes("sleep 9101") == 0);
    }
    let mut child = kubectl.command(&shell(&[], "exec sleep 9102")).spawn().unwrap();
    eventually("it runs", || processes("sleep 9102") == 1);
    kubectl.server.stop().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!child.wait().unwrap().success() && said.contains("stops"), "{said}");
    eventually("no process", || processes("sleep 9102") == 0);
    // The sandbox has gone on; so does this.
    kubectl.server.restart().unwrap();
    eventually("its node", || kubectl.exact(&shell(&[], "echo again"), "").is("again\n"));
    // Its end is that of what runs in it.
    let mut child = kubectl.command(&shell(&[], "exec sleep 9103")).spawn().unwrap();
    eventually("it runs", || processes("sleep 9103") == 1);
    assert!(kubectl.server.command(&["stop", "s", "-n", "web"]).status().unwrap().success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!child.wait().unwrap().success() && said.contains("the sandbox has ended"), "{said}");
    eventually("no process", || processes("sleep 9103") == 0);
    kubectl.run("wait -n web --for=jsonpath={.status.phase}=Stopped session/s --timeout=60s").ok();
    kubectl.exact(&shell(&[], "true"), "").failed(1, "");
}

#[test]
fn editors_may_and_viewers_may_not() {
    let kubectl = running();
    let manifest = |role: &str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {role}, namespace: web}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {role}, namespace: web}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \"mainstay:{role}\"}}\n\
             subjects: [{{kind: ServiceAccount, name: {role}, namespace: web}}]\n---\n"
        )
    };
    kubectl.input("create -f -", &(manifest("viewer") + &manifest("editor"))).ok();
    let token = |role: &str| {
        let line = format!("create --raw /api/v1/namespaces/web/serviceaccounts/{role}/token -f -");
        let answer = kubectl.input(&line, "{\"spec\": {}}").ok();
        serde_json::from_str::<Value>(&answer).unwrap()["status"]["token"].as_str().unwrap().to_owned()
    };
    // As somebody else: kubectl would show the administrator's token beside this one.
    let other = kubectl.server.scratch().join("other.kubeconfig");
    let own = std::fs::read_to_string(kubectl.server.kubeconfig()).unwrap();
    let line = own.lines().find(|line| line.trim().starts_with("token: ")).unwrap();
    let run = |role: &str, line_of: &[&str]| {
        std::fs::write(&other, own.replace(line.trim(), &format!("token: {}", token(role)))).unwrap();
        let mut command = kubectl.command(line_of);
        let output = command.env("KUBECONFIG", &other).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, out, err) = run("viewer", &["exec", "s-1", "-n", "web", "--", "echo", "in"]);
    assert!(
        code == Some(1) && out.is_empty() && err.contains("cannot create resource \"pods/exec\""),
        "{code:?} {out} {err}"
    );
    assert_eq!(run("viewer", &["logs", "s-1", "-n", "web"]).0, Some(0), "logs are for viewers");
    let (code, out, err) = run("editor", &["exec", "s-1", "-n", "web", "--", "echo", "in"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "in\n", ""));
    // A right that is taken back ends what runs by it, within the time of a second look.
    let mut child = {
        std::fs::write(&other, own.replace(line.trim(), &format!("token: {}", token("editor")))).unwrap();
        kubectl.command(&shell(&[], "exec sleep 9104")).env("KUBECONFIG", &other).spawn().unwrap()
    };
    eventually("it runs", || processes("sleep 9104") == 1);
    kubectl.run("delete rolebinding editor -n web").ok();
    eventually("no process", || processes("sleep 9104") == 0);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
