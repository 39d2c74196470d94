use super::*;

#[test]
fn objects_are_shown_in_every_form() {
    let server = server();
    apply(&server, &(config("a", "{x: 'yes'}") + &config("b", "{}"))).ok();
    let table = run(&server, "get cm").ok();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines[0][0], lines[1][0], lines[2][0]), ("NAME", "a", "b"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colour in a pipe");
    assert!(run(&server, "get cm --color always").ok().contains("\u{1b}["));
    assert!(run(&server, "get cm -A").ok().starts_with("NAMESPACE "));
    assert!(!run(&server, "get cm --no-headers").ok().contains("NAME"));
    assert_eq!(run(&server, "get cm -l app=b -o name").ok(), "configmap/b\n");
    assert_eq!(run(&server, "get cm --field-selector metadata.name=a -o name").ok(), "configmap/a\n");
    assert_eq!(run(&server, "get configmap/b cm/a -o name").ok(), "configmap/b\nconfigmap/a\n");
    assert!(run(&server, "get cm a -o yaml").ok().contains("data:\n  x: \"yes\"\nkind: ConfigMap\n"));
    assert_eq!(json(&run(&server, "get cm -o json").ok())["items"].as_array().map(Vec::len), Some(2));
    assert!(run(&server, "get cm,secrets").ok().contains("configmap/a"));
    let empty = run(&server, "get sessions");
    assert_eq!(
        (empty.code, empty.out.as_str(), empty.err.as_str()),
        (Some(0), "", "No sessions found in namespace default.\n")
    );
    let described = run(&server, "describe cm a").ok();
    assert!(described.contains("Name:") && described.contains("Events:"), "{described}");
}

#[test]
fn what_is_not_there_or_not_known_has_its_exit_code() {
    let server = server();
    apply(&server, &config("a", "{}")).ok();
    let done = run(&server, "get cm a none");
    assert!(done.out.contains("\na "), "what is there is shown: {done:?}");
    assert!(done.failed(3).contains("configmaps \"none\" not found"));
    assert!(run(&server, "get gadgets").failed(2).contains("the server has no kind \"gadgets\""));
    assert!(run(&server, "get cm -l a=(").failed(4).contains("error: "));
    run(&server, "get cm a -l app=a").failed(2);
    run(&server, "frobnicate").failed(2);
    run(&server, "describe cm none").failed(3);
}

#[test]
fn r9_a_long_list_is_read_page_by_page() {
    let server = server();
    let item = |n: u32| format!("- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{n:04}}}}}\n");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}", (0..1_100).map(item).collect::<String>());
    apply(&server, &list).ok();
    let names = run(&server, "get cm -o name").ok();
    assert_eq!(names.lines().count(), 1_100);
    assert!(names.ends_with("configmap/c1099\n"));
    assert_eq!(run(&server, "get cm").ok().lines().count(), 1_101);

    // A reader that goes away is no failure.
    let mut child =
        server.command(&["get", "cm", "-o", "yaml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
    assert_eq!(run(&server, "delete cm --all --wait=false").ok().lines().count(), 1_100);
}

#[test]
fn delete_takes_what_is_meant_and_waits() {
    let server = server();
    apply(&server, &["a", "b", "c", "d"].map(|name| config(name, "{}")).concat()).ok();
    assert_eq!(run(&server, "delete cm a").ok(), "configmap/a deleted\n");
    assert!(run(&server, "delete cm").failed(2).contains("which configmaps?"));
    let done = run(&server, "delete cm none b");
    assert_eq!(done.out, "configmap/b deleted\n");
    assert!(done.failed(3).contains("\"none\" not found"));
    run(&server, "delete cm none --ignore-not-found").ok();
    assert_eq!(run(&server, "delete cm -l app=c").ok(), "configmap/c deleted\n");
    let held = config("held", "{}").replace("labels:", "finalizers: [example.com/hold]\n  labels:");
    apply(&server, &held).ok();
    assert!(run(&server, "delete cm held --timeout 1s").failed(6).contains("timed out waiting for configmap/held"));
    assert_eq!(run(&server, "get cm -o name").ok(), "configmap/d\nconfigmap/held\n");
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let server = server();
    apply(&server, &config("a", "{}")).ok();
    let on_terminal = |env: &[(&str, &str)]| {
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{EXE} get cm"), "/dev/null"]);
        // A build service's own say on colours (anstream takes `CI` for a terminal that shows them) is not this test's.
        for name in ["CI", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLORTERM"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm").env("MAINSTAY_KUBECONFIG", server.kubeconfig()).envs(env.iter().copied());
        finish(command, "").ok()
    };
    assert!(on_terminal(&[]).contains("\u{1b}["));
    assert!(!on_terminal(&[("NO_COLOR", "1")]).contains("\u{1b}["));
    assert!(!on_terminal(&[("TERM", "dumb")]).contains("\u{1b}["));
}
