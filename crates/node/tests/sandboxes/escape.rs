//! Attempts to get out. Each is made outside first, where it must succeed: a probe that never works proves nothing.
//!
//! They are small Perl programs, since Perl is part of every Debian and can make any system call.

use std::io::Write;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use mainstay_node::launch::Isolation;

use crate::bench::{Bench, EXE, log_text, run_with, start};

/// Prefix of every probe: `done` says how it went.
const PRELUDE: &str = "use Errno; sub done { my $r = shift; print $r == -1 ? \"failed: $!\" : \"worked\"; exit 0 }";

/// A name, and a system call that must not work inside.
type Call = (&'static str, String);

fn call(number: i64, arguments: &str) -> String {
    format!("done(syscall({number}, {arguments}))")
}

fn calls() -> Vec<Call> {
    [namespaces(), others(), kernel(), rest()].concat()
}

/// Mounts and namespaces.
fn namespaces() -> Vec<Call> {
    let user = libc::CLONE_NEWUSER;
    vec![
        (
            "mount",
            format!(
                "my ($t, $d) = (\"tmpfs\", \"/tmp/probe-$$\"); mkdir $d; my $r = syscall({}, $t, $d, $t, 0, 0); my $e = $!; \
             syscall({}, $d, 2) if $r == 0; rmdir $d; $! = $e; done($r)",
                libc::SYS_mount,
                libc::SYS_umount2,
            ),
        ),
        ("chroot", format!("my $p = \"/usr\"; {}", call(libc::SYS_chroot, "$p"))),
        ("a new user namespace", call(libc::SYS_unshare, &user.to_string())),
        ("a new mount namespace", call(libc::SYS_unshare, &libc::CLONE_NEWNS.to_string())),
        (
            "a user namespace by clone",
            format!(
                "my $r = syscall({}, {}, 0, 0, 0, 0); exit 0 if $r == 0; done($r)",
                libc::SYS_clone,
                user | libc::SIGCHLD,
            ),
        ),
        (
            "a user namespace by clone3",
            format!(
                "my $a = pack(\"Q11\", {user}, 0, 0, 0, {}, (0) x 6); my $r = syscall({}, $a, 88); exit 0 if $r == 0; done($r)",
                libc::SIGCHLD,
                libc::SYS_clone3,
            ),
        ),
    ]
}

/// Other processes and keys.
fn others() -> Vec<Call> {
    vec![
        (
            "setns",
            format!(
                "open(my $f, \"<\", \"/proc/self/ns/uts\") or done(-1); {}",
                call(libc::SYS_setns, "fileno($f), 0"),
            ),
        ),
        ("ptrace", call(libc::SYS_ptrace, "0, 0, 0, 0")),
        (
            "add_key",
            format!("my ($t, $n, $p) = (\"user\", \"probe\", \"x\"); {}", call(libc::SYS_add_key, "$t, $n, $p, 1, -2")),
        ),
        ("keyctl", call(libc::SYS_keyctl, "0, -2, 1")),
    ]
}

/// The kernel's own programs and records.
fn kernel() -> Vec<Call> {
    let buffer = "my $b = \"\\0\" x 256; ";
    vec![
        ("bpf", format!("my $a = pack(\"L4\", 2, 4, 4, 1) . \"\\0\" x 112; {}", call(libc::SYS_bpf, "0, $a, 128"))),
        ("io_uring", format!("{buffer}{}", call(libc::SYS_io_uring_setup, "1, $b"))),
        ("userfaultfd", call(libc::SYS_userfaultfd, "0")),
        (
            "perf_event_open",
            format!(
                "my $a = pack(\"LLQ\", 1, 112, 0) . \"\\0\" x 96; {}",
                call(libc::SYS_perf_event_open, "$a, 0, -1, -1, 0"),
            ),
        ),
        (
            "a file handle",
            format!(
                "my ($p, $h, $m) = (\"/usr\", pack(\"LL\", 128, 0) . \"\\0\" x 128, \"\\0\" x 8); {}",
                call(libc::SYS_name_to_handle_at, "-100, $p, $h, $m, 0"),
            ),
        ),
        (
            "another's descriptor",
            format!(
                "my $f = syscall({}, 0 + $$, 0); {}",
                libc::SYS_pidfd_open,
                call(libc::SYS_pidfd_getfd, "$f, 1, 0")
            ),
        ),
        ("the kernel's log", call(libc::SYS_syslog, "10, 0, 0")),
    ]
}

/// Sockets, devices, names.
fn rest() -> Vec<Call> {
    vec![
        ("a netlink socket", call(libc::SYS_socket, "16, 3, 0")),
        ("a packet socket", call(libc::SYS_socket, "17, 3, 0")),
        ("a raw socket", call(libc::SYS_socket, "2, 3, 1")),
        ("personality", call(libc::SYS_personality, &0x0040_0000.to_string())),
        (
            "a device node",
            format!(
                "my $d = \"/tmp/device-$$\"; my $r = syscall({}, -100, $d, 0x21b6, 0x103); my $e = $!; unlink $d; $! = $e; done($r)",
                libc::SYS_mknodat,
            ),
        ),
        (
            "the host's name",
            format!(
                "my $n = `cat /proc/sys/kernel/hostname`; chomp $n; {}",
                call(libc::SYS_sethostname, "$n, length($n)")
            ),
        ),
    ]
}

fn outside(program: &str) -> String {
    let made =
        Command::new("/usr/bin/perl").args(["-e", &format!("{PRELUDE} {program}")]).stderr(Stdio::inherit()).output();
    String::from_utf8(made.unwrap().stdout).unwrap()
}

/// Runs the programs in one sandbox; one line of output each.
async fn inside(bench: &Bench, programs: &[String]) -> Vec<String> {
    inside_of(Path::new(EXE), bench, programs).await
}

/// The same with another shim.
async fn inside_of(exe: &Path, bench: &Bench, programs: &[String]) -> Vec<String> {
    let quoted = |program: &String| format!("/usr/bin/perl -e '{PRELUDE} {}'; echo", program.replace('\'', "'\\''"));
    let script = programs.iter().map(quoted).collect::<Vec<_>>().join("; ");
    let (record, output) = run_with(exe, &bench.bare("probe", &script)).await;
    let lines: Vec<_> = output.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), programs.len(), "{record:?} {output}");
    lines
}

#[tokio::test]
async fn system_calls_that_widen_a_sandbox_fail_inside() {
    let bench = Bench::new(Isolation::Full);
    let calls = calls();
    for (name, program) in &calls {
        assert_eq!(outside(program), "worked", "{name} outside");
    }
    let programs: Vec<_> = calls.iter().map(|(_, program)| program.clone()).collect();
    let ordinary = Bench::new(Isolation::User);
    let exe = ordinary.ordinary_user();
    for lines in [inside(&bench, &programs).await, inside_of(&exe, &ordinary, &programs).await] {
        for ((name, _), line) in calls.iter().zip(lines) {
            let refused = ["failed: Operation not permitted", "failed: Function not implemented"];
            assert!(refused.contains(&line.as_str()), "{name} inside: {line}");
        }
    }
}

/// Where a sandbox's neighbour and the host keep things.
fn places(bench: &Bench, neighbour: &mainstay_node::launch::Launch) -> Vec<(String, String)> {
    let read = |path: &str| {
        format!("open(my $f, \"<\", \"{path}\") or done(-1); my $n = read($f, my $b, 1); done($n == 1 ? 0 : -1)")
    };
    let write =
        |path: &str| format!("open(my $f, \">\", \"{path}\") or done(-1); close $f; unlink \"{path}\"; done(0)");
    let dir = bench.path().display();
    let init = mainstay_node::shim::record::read_state(&neighbour.run_dir).unwrap().unwrap().init_pid.unwrap();
    let mut places: Vec<_> = ["/etc/shadow", "/etc/fstab", "/proc/kcore", "/proc/timer_list", "/sys/kernel/notes"]
        .iter()
        .filter(|path| std::path::Path::new(path).exists())
        .map(|path| ((*path).to_owned(), read(path)))
        .collect();
    places.extend([
        ("the data directory".to_owned(), read(&format!("{dir}/secret"))),
        ("the neighbour's token".to_owned(), read(&format!("{}/token", neighbour.token_dir.display()))),
        ("the neighbour's log".to_owned(), read(&format!("{}/log/0.log", neighbour.run_dir.display()))),
        ("the neighbour's workspace".to_owned(), read(&format!("{}/image.ext4", neighbour.workspace.dir.display()))),
        ("the neighbour's environment".to_owned(), read(&format!("/proc/{init}/environ"))),
        ("the neighbour's process".to_owned(), format!("done(kill(0, {init}) ? 0 : -1)")),
        ("writing a program".to_owned(), write("/usr/bin/mainstay-probe")),
        ("writing configuration".to_owned(), write("/etc/mainstay-probe")),
        ("writing into the root".to_owned(), write("/mainstay-probe")),
        (
            "a kernel knob".to_owned(),
            "open(my $f, \"+<\", \"/proc/sys/vm/swappiness\") or done(-1); done(0)".to_owned(),
        ),
        ("a device".to_owned(), "open(my $f, \"<\", \"/dev/loop-control\") or done(-1); done(0)".to_owned()),
    ]);
    places
}

#[tokio::test]
async fn host_and_neighbours_are_out_of_reach() {
    let bench = Bench::new(Isolation::Full);
    let mut secret = std::fs::File::create(bench.path().join("secret")).unwrap();
    secret.write_all(b"secret").unwrap();
    std::fs::set_permissions(bench.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let neighbour = bench.bare("neighbour", "echo up; sleep 1000");
    let run_dir = start(&neighbour);
    crate::bench::eventually("the neighbour", || log_text(&run_dir).contains("up").then_some(())).await;
    let places = places(&bench, &neighbour);
    for (name, program) in &places {
        assert_eq!(outside(program), "worked", "{name} outside");
    }
    let programs: Vec<_> = places.iter().map(|(_, program)| program.clone()).collect();
    let ordinary = Bench::new(Isolation::User);
    let exe = ordinary.ordinary_user();
    for lines in [inside(&bench, &programs).await, inside_of(&exe, &ordinary, &programs).await] {
        for ((name, _), line) in places.iter().zip(lines) {
            assert!(line.starts_with("failed: "), "{name} inside: {line}");
        }
    }
}

#[tokio::test]
async fn sockets_of_the_host_are_out_of_reach() {
    let bench = Bench::new(Isolation::Full);
    let path = bench.path().join("open.sock");
    std::fs::set_permissions(bench.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let _by_path = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    let name = path.display().to_string();
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let connect = |family: &str, address: &str| {
        format!(
            "use Socket; socket(my $s, {family}, SOCK_STREAM, 0) or done(-1); done(connect($s, {address}) ? 0 : -1)"
        )
    };
    let probes = [
        ("a world-writable socket", connect("PF_UNIX", &format!("pack_sockaddr_un(\"{name}\")"))),
        ("an abstract socket", connect("PF_UNIX", &format!("pack_sockaddr_un(\"\\0{name}\")"))),
        ("the host's loopback", connect("PF_INET", &format!("pack_sockaddr_in({port}, inet_aton(\"127.0.0.1\"))"))),
    ];
    for (name, program) in &probes {
        assert_eq!(outside(program), "worked", "{name} outside");
    }
    let away = connect("PF_INET", "pack_sockaddr_in(53, inet_aton(\"192.0.2.1\"))");
    let own = "use Socket; socket(my $l, PF_INET, SOCK_STREAM, 0); bind($l, pack_sockaddr_in(0, inet_aton(\"127.0.0.1\"))); \
               listen($l, 1); socket(my $s, PF_INET, SOCK_STREAM, 0); done(connect($s, getsockname($l)) ? 0 : -1)";
    let mut programs: Vec<_> = probes.iter().map(|(_, program)| program.clone()).collect();
    programs.extend([away, own.to_owned()]);
    let ordinary = Bench::new(Isolation::User);
    let exe = ordinary.ordinary_user();
    for lines in [inside(&bench, &programs).await, inside_of(&exe, &ordinary, &programs).await] {
        for ((name, _), line) in probes.iter().zip(&lines) {
            assert!(line.starts_with("failed: "), "{name} inside: {line}");
        }
        assert_eq!(lines[3], "failed: Network is unreachable");
        assert_eq!(lines[4], "worked", "a sandbox may talk to itself");
    }
}

#[tokio::test]
async fn the_supervisor_is_out_of_the_agents_reach() {
    let bench = Bench::new(Isolation::Full);
    let read = |path: &str| format!("open(my $f, \"<\", \"{path}\") or done(-1); done(0)");
    let list = |path: &str| format!("opendir(my $d, \"{path}\") or done(-1); done(0)");
    let probes = |pid: &str| {
        vec![read(&format!("/proc/{pid}/environ")), read(&format!("/proc/{pid}/mem")), list(&format!("/proc/{pid}/fd"))]
    };
    for program in probes("self") {
        assert_eq!(outside(&program), "worked");
    }
    let mut programs = probes("1");
    programs.push("kill(9, 1); kill(15, 1) if 0; done(kill(0, 1) ? 0 : -1)".into());
    let ordinary = Bench::new(Isolation::User);
    let exe = ordinary.ordinary_user();
    for lines in [inside(&bench, &programs).await, inside_of(&exe, &ordinary, &programs).await] {
        assert!(lines[..3].iter().all(|line| line.starts_with("failed: ")), "{lines:?}");
        assert_eq!(lines[3], "worked", "it lives on");
    }
}
