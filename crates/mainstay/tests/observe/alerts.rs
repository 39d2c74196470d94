//! The alert rules and the dashboard: they name nothing that a running server does not have, and the rules fire.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;

use mainstay_testkit::server::Server;
use serde_json::Value;

use crate::scrape::{self, Family};
use crate::{EXE, apply, operation, project_file, read};

const RULES: &str = "deploy/observability/alerts.yaml";
const DASHBOARD: &str = "deploy/observability/dashboard.json";
/// What grows on a server that is unwell.
const GROWING: [&str; 10] = [
    "mainstay_request_panics_total",
    "mainstay_operation_workers_lost_total",
    "mainstay_operation_fenced_total",
    "mainstay_operation_settle_retries_total",
    "mainstay_backend_full_total",
    "mainstay_duty_failures_total",
    "mainstay_duty_missed_total",
    "mainstay_driver_transient_failures_total",
    "mainstay_leases_given_up_total",
    "mainstay_leases_taken_total",
];

/// Runs promtool, which `scripts/prepare` puts into `target/tools`; gives whether all was well, and what it said.
fn promtool(arguments: &[&str]) -> (bool, String) {
    let program = project_file("target/tools/bin/promtool");
    let output = Command::new(&program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; see scripts/prepare", program.display()));
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

/// Names of alerts, and their expressions.
fn rules() -> Vec<(String, String)> {
    let rules: Value = serde_saphyr::from_str(&read(RULES)).unwrap();
    let all = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.map(|rule| (text(&rule["alert"]), text(&rule["expr"]))).collect()
}

/// The expressions of the dashboard's panels.
fn panels() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// A metric and the labels that an expression asks of it, as `name{label="..."}`.
fn asked(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression
        .match_indices("mainstay_")
        .map(|(at, _)| {
            let rest = &expression[at..];
            let (name, rest) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
            let labels = rest.strip_prefix('{').map_or("", |rest| rest.split_once('}').unwrap().0);
            let names = labels.split(',').filter(|label| !label.is_empty());
            (name.to_owned(), names.map(|label| label.split(['=', '!']).next().unwrap().trim().to_owned()).collect())
        })
        .collect()
}

/// The labels by which an expression groups or matches.
fn grouped(expression: &str) -> BTreeSet<String> {
    let lists = ["by", "on", "without", "ignoring"].into_iter().flat_map(|word| {
        [format!("{word} ("), format!("{word}(")].into_iter().flat_map(move |open| {
            expression.split(&open).skip(1).map(|rest| rest.split_once(')').unwrap().0.to_owned()).collect::<Vec<_>>()
        })
    });
    let names = lists.flat_map(|list| list.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>());
    names.filter(|name| !name.is_empty()).collect()
}

fn check(expression: &str, families: &BTreeMap<String, Family>) {
    let mut known = BTreeSet::from(["le".to_owned()]);
    for (name, labels) in asked(expression) {
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = families.get(&name).or_else(|| {
            let family = families.get(bare?)?;
            (family.kind == "histogram").then_some(family)
        });
        let family = family.unwrap_or_else(|| panic!("{name} is not served: {expression}"));
        // What has no samples here is held to its documentation by the test of metrics.
        if let Some(has) = &family.labels {
            assert!(labels.is_subset(has), "{name} has labels {has:?}: {expression}");
            known.extend(has.iter().cloned());
        } else {
            known.extend(crate::metrics::documented().remove(&name).unwrap().labels.unwrap());
        }
    }
    assert!(grouped(expression).is_subset(&known), "{expression} groups by what is not there: {known:?}");
}

/// The scrape of a server in which an operation has died, as series of a test of promtool: constant, or growing when they
/// are `growing`.
fn series(text: &str, growing: &[&str]) -> String {
    let mut series = String::new();
    for (sample, value) in scrape::samples(text) {
        let name = sample.split('{').next().unwrap();
        let values = if growing.contains(&name) { format!("{value}+10x60") } else { format!("{value}x60") };
        let quoted = sample.replace('\'', "''");
        writeln!(series, "      - {{series: '{quoted}', values: '{values}'}}").unwrap();
    }
    series
}

/// Evaluates the rules after half an hour of such figures; gives the alerts that fire.
fn fired(series: &str) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut test = format!(
        "rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n{series}    alert_rule_test:\n",
        project_file(RULES).canonicalize().unwrap().display(),
    );
    // Each alert is said not to fire: promtool names those that do.
    for (alert, _) in rules() {
        writeln!(test, "      - {{eval_time: 30m, alertname: {alert}, exp_alerts: []}}").unwrap();
    }
    let file = dir.path().join("test.yaml");
    std::fs::write(&file, test).unwrap();
    let (none, said) = promtool(&["test", "rules", file.to_str().unwrap()]);
    assert!(none || said.contains("alertname: "), "{said}");
    let names = said.lines().filter_map(|line| line.trim().strip_prefix("alertname: ")?.split(',').next());
    names.map(str::to_owned).collect()
}

/// The line of a figure of the server's own node, with this value.
fn nodes(figure: &str, text: &str, value: u64) -> String {
    let begin = format!("mainstay_nodes_{figure}{{");
    let line = text.lines().find(|line| line.starts_with(&begin)).unwrap_or_default();
    format!("{} {value}\n", line.rsplit_once(' ').unwrap_or_default().0)
}

/// Whether the server's own node is said to be ready (1), or not.
fn node(text: &str, ready: u64) -> bool {
    text.contains("mainstay_nodes_ready{") && text.contains(&nodes("ready", text, ready))
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_ask_for_what_is_served_and_the_alerts_fire() {
    let (well_formed, said) = promtool(&["check", "rules", project_file(RULES).to_str().unwrap()]);
    assert!(well_formed, "{said}");
    let server = Server::start(EXE).unwrap();
    let healthy =
        scrape::text_when(&server, |text| text.contains("mainstay_driver_lists_total{") && node(text, 1)).await;
    assert_eq!(fired(&series(&healthy, &[])), BTreeSet::new(), "a healthy server");
    assert_eq!(fired(""), BTreeSet::from(["MainstayDown".to_owned()]), "no server");

    apply(&server, &(operation("well", "noop") + &operation("nobodys", "nobody")));
    let sick = scrape::text_when(&server, |text| text.contains("outcome=\"dead\"") && node(text, 1)).await;
    let families = scrape::families(&sick);
    let (rules, panels) = (rules(), panels());
    assert!(rules.len() >= 15 && panels.len() >= 15, "{} rules, {} panels", rules.len(), panels.len());
    rules.iter().map(|(_, expression)| expression).chain(&panels).for_each(|expression| check(expression, &families));
    // Who leads, in which term, and what was refused: all that is counted of it is shown.
    let shown: BTreeSet<String> = panels.iter().flat_map(|panel| asked(panel)).map(|(name, _)| name).collect();
    let of_leaders = |name: &&String| {
        ["mainstay_lease", "mainstay_fenced_writes", "mainstay_operation_turns"].iter().any(|of| name.starts_with(of))
    };
    let hidden: Vec<&String> = families.keys().filter(of_leaders).filter(|name| !shown.contains(*name)).collect();
    assert!(hidden.is_empty(), "{hidden:?} are in no panel");
    let runbook = read("docs/runbook.md");
    for (alert, _) in &rules {
        assert!(runbook.contains(&format!("\n### {alert}\n")), "docs/runbook.md does not say what to do about {alert}");
    }
    assert_eq!(fired(&series(&sick, &[])), BTreeSet::from(["MainstayDeadLetters".to_owned()]), "as the server is");

    // What a test cannot drive it into in time is put in, under the names and labels that it has.
    let backend = "backend=\"dns\",class=\"read\",host=\"h\"";
    let mut worse = sick.replace("mainstay_operations{state=\"ready\"} 0", "mainstay_operations{state=\"ready\"} 5");
    for (figure, value) in [
        ("store_queued", "5000".to_owned()),
        ("operation_longest_wait_seconds", "90".to_owned()),
        ("store_writable", "0".to_owned()),
        ("operation_turns_away", "1".to_owned()),
    ] {
        let line = worse.lines().find(|line| line.starts_with(&format!("mainstay_{figure} "))).unwrap().to_owned();
        worse = worse.replace(&line, &format!("mainstay_{figure} {value}"));
    }
    worse = worse.replace("mainstay_lease_held{lease=\"leftovers\"} 1", "mainstay_lease_held{lease=\"leftovers\"} 0");
    worse = worse.replace(&nodes("ready", &worse, 1), &nodes("ready", &worse, 0));
    worse = worse.replace(&nodes("held_pods", &worse, 0), &nodes("held_pods", &worse, 2));
    let _ = write!(
        worse,
        "mainstay_backend_full_total{{{backend}}} 0\n\
         mainstay_backend_calls_waiting{{{backend}}} 3\nmainstay_backend_repeats_left{{backend=\"dns\"}} 0\n\
         mainstay_duty_failures_total{{duty=\"leftovers\",class=\"Transient\"}} 0\n",
    );
    // Its own gets were fast.
    let fast = |line: &&str| line.contains("_bucket") && line.contains("verb=\"get\"");
    let worse = worse.lines().filter(|line| !fast(line)).collect::<Vec<_>>().join("\n");
    let mut series = series(&worse, &GROWING);
    for (bound, grows) in [("0.5", 0), ("1.0", 0), ("5.0", 10), ("+Inf", 10)] {
        let sample = format!("mainstay_request_duration_seconds_bucket{{le=\"{bound}\",verb=\"get\"}}");
        writeln!(series, "      - {{series: '{sample}', values: '0+{grows}x60'}}").unwrap();
    }
    // A backend that stalls: each probe takes its time.
    let tried = "2 1 1 ".repeat(20);
    writeln!(series, "      - {{series: 'mainstay_backend_breaker_state{{{backend}}}', values: '{}'}}", tried.trim())
        .unwrap();
    let failed = "mainstay_requests_total{verb=\"get\",group=\"\",resource=\"pods\",code=\"500\"}";
    writeln!(series, "      - {{series: '{failed}', values: '0+1000x60'}}").unwrap();
    let all: BTreeSet<String> =
        rules.into_iter().map(|(alert, _)| alert).filter(|alert| alert != "MainstayDown").collect();
    let fired = fired(&series);
    assert_eq!(fired, all, "not fired: {:?}", all.difference(&fired).collect::<Vec<_>>());
}
