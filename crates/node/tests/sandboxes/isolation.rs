//! What a sandbox sees, and what it cannot do.

use mainstay_node::launch::{ExitReason, FileSet, Isolation};

use crate::bench::{Bench, ended, log_text, run, start};
use crate::fake_api::FakeApi;

fn bench() -> Bench {
    Bench::new(Isolation::Full)
}

#[tokio::test]
async fn a_sandbox_sees_an_allow_list_and_nothing_else() {
    let bench = bench();
    let script = "id -u; id -G; hostname; echo $$ > pid; ls / | tr '\\n' ' '; echo; ls /mainstay | tr '\\n' ' '; echo; pwd; \
                  ls -A . ; ls /dev | tr '\\n' ' '; cat /etc/passwd | wc -l; echo $HOME $GREETING";
    let (record, output) = run(&bench.bare("sees", script)).await;
    assert_eq!(record.reason, ExitReason::Completed, "{record:?} {output}");
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..3], ["1000", "1000", "sees-1"]);
    let allowed = "bin dev etc lib lib32 lib64 libx32 mainstay opt proc sbin tmp usr workspace";
    assert!(lines[3].split(' ').all(|name| allowed.contains(name)), "{output}");
    assert_eq!(lines[4], "credentials files run token ");
    assert_eq!(lines[5..7], ["/workspace", "pid"], "{output}");
}

#[tokio::test]
async fn a_session_talks_from_inside() {
    let bench = bench();
    let api = FakeApi::new();
    api.say("the prompt");
    let mut launch = bench.shell("talk", "read line; echo \"got $line\"; cat /mainstay/credentials/git/token");
    let files = [("token".to_owned(), "c2VjcmV0".to_owned())].into();
    launch.files.push(FileSet { mount: "/mainstay/credentials/git".into(), mode: 0o400, files });
    let run_dir = start(&launch);
    let listening = api.listen(&launch.sock_dir);
    let record = ended(&run_dir).await;
    assert_eq!(record.reason, ExitReason::Completed, "{record:?} {}", log_text(&run_dir));
    assert_eq!(api.texts("agent"), ["got the prompt", "secret"]);
    drop(listening);
}

#[tokio::test]
async fn ordinary_programs_work_inside() {
    let bench = bench();
    let script = "echo out > /dev/stdout; echo err > /dev/stderr; printf 'b\\na\\n' | sort; f=$(mktemp) && echo tmp > $f && cat $f; \
                  printf '#!/bin/sh\\necho script\\n' > run; chmod +x run; ./run; /mainstay/files/tool; id -un; \
                  perl -e 'use POSIX; printf \"%d cores\\n\", POSIX::sysconf(84)' | grep -o cores; \
                  dd if=/dev/urandom of=/dev/null bs=1k count=1 2>/dev/null && echo devices; (sleep 0.01 & wait) && echo jobs; \
                  echo x > /dev/shm/x && mkdir -p a/b && mv a/b c && ln c/../run hard && echo files; cat /etc/hostname";
    let mut launch = bench.bare("programs", script);
    launch.pod.name = format!("{}-1", "long".repeat(20));
    let files = [("tool".to_owned(), "IyEvYmluL3NoCmVjaG8gdG9vbAo=".to_owned())].into();
    launch.files.push(FileSet { mount: "/mainstay/files".into(), mode: 0o555, files });
    let (record, output) = run(&launch).await;
    assert_eq!(record.reason, ExitReason::Completed, "{record:?} {output}");
    let mut lines: Vec<_> = output.lines().filter(|line| *line != "err").collect();
    let hostname = lines.pop().unwrap();
    assert_eq!(
        lines,
        ["out", "a", "b", "tmp", "script", "tool", "agent", "cores", "devices", "jobs", "files"],
        "{output}"
    );
    assert!(output.contains("err\n") && hostname.len() == 63, "{output}");
}
