//! What it is installed with: units, images, the compose file, the chart and the manifest. Each is checked by the schema of whoever
//! reads it, and names only flags and variables that there are.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_testkit::command::{Done, finish};
use regex::Regex;
use serde_json::Value;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
const UNITS: [&str; 4] = ["mainstay", "mainstay-api", "mainstay-worker", "mainstay-node"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A tool that `scripts/prepare` installs.
fn tool(name: &str) -> Command {
    Command::new(root().join("target/tools/bin").join(name))
}

/// What a command left.
fn run(command: &mut Command, arguments: &[&str]) -> Done {
    let mut whole = Command::new(command.get_program());
    whole.args(command.get_args()).args(arguments);
    finish(whole, "")
}

/// What the chart gives with these values beside its own.
fn rendered(values: &str) -> String {
    rendered_with(&[], values)
}

fn rendered_with(flags: &[&str], values: &str) -> String {
    let mut render = tool("python3");
    render.arg(root().join("crates/mainstay/tests/packaging/render.py")).args(flags);
    render.arg(root().join("deploy/helm/mainstay")).args(["mainstay", "mainstay", values]);
    finish(render, "").ok()
}

/// Seconds from SIGTERM to the end of a process that is given no flags, at the most: to drain, to end, and to be ended.
fn longest_end() -> u64 {
    let help = run(&mut Command::new(EXE), &["serve", "--help"]).ok();
    let usual = |flag: &str| -> u64 {
        let told = Regex::new(&format!(r"(?s){flag} <SECONDS>.*?\[default: (\d+)\]")).unwrap();
        told.captures(&help).unwrap_or_else(|| panic!("{flag} is not told of"))[1].parse().unwrap()
    };
    usual("--drain-delay") + usual("--grace-period") + 2
}

/// The documents of a manifest.
fn documents(manifest: &str) -> Vec<Value> {
    let parsed = |part: &str| serde_saphyr::from_str::<Value>(part).unwrap();
    manifest.split("\n---\n").map(|part| parsed(part.trim_start_matches("---"))).filter(|one| !one.is_null()).collect()
}

fn of_kind<'d>(documents: &'d [Value], kind: &str) -> Vec<&'d Value> {
    documents.iter().filter(|one| one["kind"] == kind).collect()
}

#[test]
fn units_are_what_systemd_takes() {
    let dir = tempfile::tempdir().unwrap();
    for unit in UNITS {
        // Only where it is installed the program is there.
        let installed = text(&format!("dist/systemd/{unit}.service")).replace("/usr/local/bin/mainstay", "/bin/true");
        let file = dir.path().join(format!("{unit}.service"));
        fs::write(&file, installed).unwrap();
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&file);
        let done = finish(verify, "");
        // It only warns of a directive that it does not know.
        let about_this: Vec<&str> = done.err.lines().filter(|line| line.contains(unit)).collect();
        assert!(done.code == Some(0) && about_this.is_empty(), "{unit}: {done:?}");
    }
}

#[test]
fn servers_units_are_hardened() {
    for unit in ["mainstay-api", "mainstay-worker"] {
        let mut look = Command::new("systemd-analyze");
        // Tenths of a level, of ten: what a service without any protection has.
        look.args(["security", "--offline=true", "--threshold=20"]);
        run(look.arg(root().join(format!("dist/systemd/{unit}.service"))), &[]).ok();
    }
}

/// A stop is not cut short by whoever asks for it.
#[test]
fn units_and_compose_file_leave_a_stop_the_time_that_it_takes() {
    let end = longest_end();
    let said = |file: &str, pattern: &str| -> u64 {
        let text = text(file);
        let found = Regex::new(pattern).unwrap().captures(&text).unwrap_or_else(|| panic!("{file}: no {pattern}"));
        found[1].parse().unwrap()
    };
    for unit in UNITS {
        let stop = said(&format!("dist/systemd/{unit}.service"), r"(?m)^TimeoutStopSec=(\d+)$");
        assert!(stop > end, "{unit} is killed after {stop} s, and may need {end} s");
    }
    let stop = said("deploy/compose/compose.yaml", r"(?m)^  stop_grace_period: (\d+)s$");
    assert!(stop > end, "containers are killed after {stop} s, and may need {end} s");
    // And does not set what would take longer.
    for file in UNITS
        .map(|unit| format!("dist/systemd/{unit}.service"))
        .iter()
        .map(String::as_str)
        .chain(["deploy/compose/compose.yaml"])
    {
        let text = text(file);
        let set = ["--grace-period", "--drain-delay", "MAINSTAY_GRACE_PERIOD=", "MAINSTAY_DRAIN_DELAY="];
        assert!(!set.iter().any(|set| text.contains(set)), "{file} sets its own time");
    }
}

#[test]
fn the_compose_file_is_valid_and_holds_no_secret() {
    let mut check = tool("check-jsonschema");
    check.args(["--builtin-schema", "vendor.compose-spec"]).arg(root().join("deploy/compose/compose.yaml"));
    finish(check, "").ok();
    let compose = text("deploy/compose/compose.yaml");
    // Anchors are merged by whoever reads the file; what is said in it is looked at as text.
    assert!(compose.contains("replicas: 3") && compose.contains("service_healthy"));
    let url = Regex::new(r"[a-z]+://[^/\s]*:[^/\s]*@").unwrap();
    assert!(url.find(&compose).is_none(), "a password is in a URL");
}

#[test]
fn the_manifest_is_what_the_chart_gives_and_what_kubernetes_takes() {
    let manifest = text("deploy/kubernetes/mainstay.yaml");
    let (_, documents) = manifest.split_once("---\n").unwrap();
    let chart = rendered("{}");
    assert_eq!(format!("---\n{documents}").trim(), chart.trim(), "run `make manifest`");
    let queue =
        r#"{"queue": {"url": "redis://redis"}, "queuePeers": [{"podSelector": {}}], "tlsNames": ["a.example.org"]}"#;
    for manifest in [chart, rendered(queue)] {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        fs::write(file.path(), manifest).unwrap();
        let mut validate = tool("kubernetes-validate");
        run(validate.arg("--strict").arg(file.path()), &[]).ok();
    }
}

/// Nobody is evicted, spread, reached or fenced off who is not there.
#[test]
fn every_selector_is_the_labels_of_one_deployments_pods() {
    let documents = documents(&rendered("{}"));
    let pods: Vec<(&Value, &Value)> = of_kind(&documents, "Deployment")
        .into_iter()
        .map(|deployment| (&deployment["metadata"]["name"], &deployment["spec"]["template"]["metadata"]["labels"]))
        .collect();
    assert_eq!(pods.len(), 2);
    for deployment in of_kind(&documents, "Deployment") {
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
        let spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap();
        assert!(!spread.is_empty() && spread.iter().all(|one| &one["labelSelector"]["matchLabels"] == labels));
    }
    let selected = |kind: &str, at: &str| {
        let selectors = of_kind(&documents, kind).into_iter().map(|one| one.pointer(at).unwrap());
        let owner = |selector: &Value| {
            let found: Vec<&Value> =
                pods.iter().filter(|(_, labels)| *labels == selector).map(|(name, _)| *name).collect();
            assert_eq!(found.len(), 1, "{kind} selects {selector}");
            found[0].as_str().unwrap().to_owned()
        };
        selectors.map(owner).collect::<Vec<_>>()
    };
    assert_eq!(selected("PodDisruptionBudget", "/spec/selector/matchLabels"), ["mainstay-api", "mainstay-worker"]);
    assert_eq!(selected("NetworkPolicy", "/spec/podSelector/matchLabels"), ["mainstay-api", "mainstay-worker"]);
    assert_eq!(selected("Service", "/spec/selector"), ["mainstay-api"]);
}

/// What the Pod security standard `restricted` asks for, and that a stop is not cut short.
#[test]
fn pods_are_restricted_and_have_the_time_that_they_ask_for() {
    for deployment in of_kind(&documents(&rendered(r#"{"gracePeriodSeconds": 40}"#)), "Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let (security, container) = (&pod["securityContext"], &pod["containers"][0]);
        assert_eq!(
            (&security["runAsNonRoot"], &security["seccompProfile"]["type"]),
            (&true.into(), &"RuntimeDefault".into())
        );
        let inside = &container["securityContext"];
        assert_eq!(inside["allowPrivilegeEscalation"], false);
        assert_eq!(inside["readOnlyRootFilesystem"], true);
        assert_eq!(inside["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["terminationGracePeriodSeconds"], 5 + 40 + 10);
        assert!(container["args"].as_array().unwrap().contains(&"--grace-period=40".into()));
        // Who waits for PostgreSQL lives, and is not ready: to be started again would mend nothing.
        for (probe, path) in [("startupProbe", "/livez"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
            assert_eq!(container[probe]["httpGet"]["scheme"], "HTTPS", "{probe}");
            assert_eq!(container[probe]["httpGet"]["path"], path, "{probe}");
        }
    }
}

/// Where PostgreSQL and Redis are is said once, in their URLs; behind a Service their Pods may have other ports.
#[test]
fn the_way_is_open_to_the_ports_that_are_used_and_to_no_others() {
    let open = |values: &str| -> Vec<Vec<Value>> {
        let all: Vec<Vec<Vec<Value>>> = of_kind(&documents(&rendered(values)), "NetworkPolicy")
            .into_iter()
            .map(|policy| {
                let rules = policy["spec"]["egress"].as_array().unwrap().iter();
                let ports =
                    |rule: &Value| rule["ports"].as_array().unwrap().iter().map(|p| p["port"].clone()).collect();
                // The first one is for names.
                rules.skip(1).map(ports).collect()
            })
            .collect();
        assert!(all.len() == 2 && all[0] == all[1], "{all:?}");
        all[0].clone()
    };
    let ports = |of: &[&[u16]]| -> Vec<Vec<Value>> {
        of.iter().map(|ports| ports.iter().map(|port| Value::from(*port)).collect()).collect()
    };
    let url = |database: &str, queue: &str| {
        format!(r#"{{"database": {{"url": "{database}"}}, "queue": {{"url": "{queue}"}}}}"#)
    };
    assert_eq!(open("{}"), ports(&[&[5432]]));
    assert_eq!(open(&url("postgres://me@db:6432/mainstay", "rediss://q:6380/0")), ports(&[&[6432], &[6380]]));
    let several = "postgres://me@a:6432,b,[fd00::1]:7000,[fd00::2],b/mainstay?sslmode=verify-full";
    assert_eq!(open(&url(several, "redis://q")), ports(&[&[6432, 5432, 7000], &[6379]]));
    assert_eq!(open(&url("postgresql://db/mainstay?application_name=a&port=5433", "")), ports(&[&[5433]]));
    let given = r#"{"databasePorts": [6432, 6433], "queuePorts": [1], "queue": {"url": "redis://q:2"}}"#;
    assert_eq!(open(given), ports(&[&[6432, 6433], &[1]]));
}

#[test]
fn the_notes_name_every_key_of_the_secret_that_is_read() {
    let read = |values: &str| {
        let manifest = rendered(values);
        let found = Regex::new("/etc/mainstay/([a-z-]+)").unwrap();
        let files: BTreeSet<String> = found.captures_iter(&manifest).map(|found| found[1].to_owned()).collect();
        files
    };
    let told = |values: &str| {
        let notes = rendered_with(&["--notes"], values);
        let found = Regex::new("--from-file=([a-z-]+)").unwrap();
        let files: BTreeSet<String> = found.captures_iter(&notes).map(|found| found[1].to_owned()).collect();
        files
    };
    let of = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|&name| name.to_owned()).collect() };
    for (values, names) in [
        ("{}", &["database-password", "mainstay-key"][..]),
        (r#"{"queue": {"url": "redis://q"}}"#, &["database-password", "mainstay-key", "queue-password"]),
        (r#"{"queue": {"url": "redis://q", "hasPassword": false}}"#, &["database-password", "mainstay-key"]),
    ] {
        assert_eq!((read(values), told(values)), (of(names), of(names)), "{values}");
    }
}

#[test]
fn the_chart_refuses_values_that_it_does_not_know_and_passwords() {
    let refused = |values: &str| {
        let mut render = tool("python3");
        render.arg(root().join("crates/mainstay/tests/packaging/render.py"));
        run(render.arg(root().join("deploy/helm/mainstay")), &["mainstay", "mainstay", values]).code != Some(0)
    };
    assert!(!refused("{}"));
    for wrong in [
        r#"{"replicas": 3}"#,
        r#"{"database": {"url": "postgres://me:hunter2@db/mainstay"}}"#,
        r#"{"queue": {"url": "redis://:hunter2@redis"}}"#,
        r#"{"api": {"replicas": 0}}"#,
        r#"{"databasePorts": ["5432"]}"#,
        r#"{"queuePorts": [65536]}"#,
    ] {
        assert!(refused(wrong), "{wrong}");
    }
}

#[test]
fn every_flag_and_variable_that_is_named_exists() {
    let known = run(&mut Command::new(EXE), &["serve", "--help"]).ok();
    let (flag, variable) = (Regex::new(r"--[a-z][a-z-]+").unwrap(), Regex::new(r"\bMAINSTAY_[A-Z_]+").unwrap());
    let mut sources: BTreeMap<String, String> = UNITS
        .iter()
        .map(|unit| {
            let file = format!("dist/systemd/{unit}.service");
            // Comments name the variables that people are to set.
            let lines = |line: &&str| line.starts_with("ExecStart=") || line.contains("MAINSTAY_");
            let said = text(&file).lines().filter(lines).collect::<Vec<_>>().join("\n");
            (file, said)
        })
        .collect();
    let compose: String = text("deploy/compose/compose.yaml")
        .lines()
        // Those in braces are compose's own, and whoever starts it sets them.
        .filter(|line| !line.trim_start().starts_with('#') && (line.contains("MAINSTAY_") || line.contains("serve")))
        .map(|line| Regex::new(r"\$\{[^}]*\}").unwrap().replace_all(line, "").into_owned() + "\n")
        .collect();
    sources.insert("compose.yaml".to_owned(), compose);
    let values = r#"{"queue": {"url": "redis://redis"}, "tlsNames": ["a.example.org"]}"#;
    sources.insert("chart".to_owned(), rendered(values));
    sources.insert(
        "Containerfile".to_owned(),
        text("dist/Containerfile").lines().filter(|line| line.starts_with("ENV") || line.starts_with("CMD")).collect(),
    );
    for (source, said) in &sources {
        let mut named = flag.find_iter(said).chain(variable.find_iter(said)).map(|found| found.as_str()).peekable();
        assert!(named.peek().is_some(), "{source} names nothing: {said}");
        for name in named {
            let is_there = Regex::new(&format!(r"{name}\b[^-]")).unwrap().is_match(&known);
            assert!(is_there, "{source} names {name}, which `mainstay serve --help` does not");
        }
    }
}
