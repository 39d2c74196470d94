//! `/metrics` as a scraper reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstay_apiserver::Identity;
use mainstay_apiserver::metrics::{Figure, Figures};
use mainstay_runtime::resilience::Denied;
use mainstay_runtime::resilience::gates::{Gates, Key, Limits as GateLimits};
use mainstay_store::operation::State;

use crate::harness::{Harness, PATIENCE, configmap, configmaps, sessions};
use crate::operations::{claim, end, operation, operations};

/// What a family was declared as, and its samples: name with labels, and value.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    samples: Vec<(String, f64)>,
}

/// Reads the text as OpenMetrics demands it: one block for each family, with HELP and TYPE before its samples.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(families.insert(name.to_owned(), Family::default()).is_none(), "{name} is declared twice");
            name.clone_into(&mut current);
            help.clone_into(&mut families.get_mut(name).unwrap().help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "{line}");
            kind.clone_into(&mut families.get_mut(name).unwrap().kind);
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let family = families.get_mut(&current).unwrap();
            family.samples.push((sample.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}"))));
        }
    }
    families
}

fn same(one: f64, other: f64) -> bool {
    (one - other).abs() < f64::EPSILON
}

fn check(name: &str, family: &Family) {
    let clean =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    assert!(name.starts_with("mainstay_") && clean(name), "{name}");
    assert!(family.help.ends_with('.') && family.help.len() > 8, "{name}: {}", family.help);
    let mut seen = BTreeSet::new();
    for (sample, value) in &family.samples {
        let (full, labels) = sample.split_once('{').map_or((sample.as_str(), ""), |(full, labels)| (full, labels));
        let suffix = full.strip_prefix(name).unwrap_or_else(|| panic!("{sample} in {name}"));
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_sum", "_count", "_bucket"],
            "gauge" => &[""],
            other => panic!("{name} is a {other}"),
        };
        assert!(suffixes.contains(&suffix), "{sample} in a {}", family.kind);
        assert!(labels.is_empty() || (labels.ends_with("\"}") && !labels.contains("=\"{")), "{sample}");
        assert!(seen.insert(sample), "{sample} is there twice");
        assert!(*value >= 0.0, "{sample} {value}");
    }
}

/// Buckets grow up to `+Inf`, which is the count.
fn check_histogram(name: &str, family: &Family) {
    let mut last: BTreeMap<&str, f64> = BTreeMap::new();
    for (sample, value) in &family.samples {
        let Some((bound, rest)) =
            sample.strip_prefix(&format!("{name}_bucket{{le=\"")).and_then(|rest| rest.split_once("\","))
        else {
            continue;
        };
        assert!(last.get(rest).is_none_or(|before| before <= value), "{sample}");
        last.insert(rest, *value);
        if bound == "+Inf" {
            let count = format!("{name}_count{{{rest}");
            assert!(family.samples.iter().any(|(sample, found)| *sample == count && same(*found, *value)), "{count}");
        }
    }
    assert!(!last.is_empty());
}

struct Two;

impl Figures for Two {
    fn read(&self) -> Vec<Figure> {
        vec![Figure::by("controller", "driver_events", "Events read", true, ["one", "other"].map(|name| (name, 7)))]
    }
}

/// Waits until a periodic duty has come to the end of a pass.
async fn passed(api: &Harness, duty: &str) {
    let passes = format!("mainstay_duty_passes_total{{duty=\"{duty}\"}} ");
    let look = async {
        loop {
            let text = String::from_utf8(api.get("/metrics").await.bytes.to_vec()).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(&passes));
            if line.is_some_and(|passes| passes != "0") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("a pass in time");
}

/// R24, R26.
#[tokio::test]
async fn metrics_are_well_formed_and_their_labels_bounded() {
    let api = Harness::new().await;
    api.server.set_figures(Arc::new(Two));
    api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let _watch = api.lines(&configmaps("?watch=1")).await;
    // What callers make up becomes no label.
    for path in ["/made/up", "/apis/made.up/v1/things", &configmaps("/made-up"), &sessions("/made-up/log")] {
        assert!(api.get(path).await.status.is_client_error(), "{path}");
    }
    passed(&api, "quota-status").await;
    let answer = api.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
    assert!(!text.contains("made"), "{text}");
    let families = parse(&text);
    for (name, family) in &families {
        check(name, family);
    }
    check_histogram("mainstay_request_duration_seconds", &families["mainstay_request_duration_seconds"]);
    let value = |family: &str, sample: &str| {
        families[family].samples.iter().find(|(found, _)| found == sample).unwrap_or_else(|| panic!("{sample}")).1
    };
    let created = "mainstay_requests_total{verb=\"create\",group=\"\",resource=\"configmaps\",code=\"201\"}";
    assert!(same(value("mainstay_requests", created), 1.0));
    let events = "mainstay_driver_events_total{controller=\"other\"}";
    assert!(same(value("mainstay_driver_events", events), 7.0));
    assert!(value("mainstay_store_commits", "mainstay_store_commits_total") >= 2.0);
    for lease in ["leftovers", "quota-status"] {
        assert!(same(value("mainstay_lease_held", &format!("mainstay_lease_held{{lease=\"{lease}\"}}")), 1.0));
        assert!(value("mainstay_lease_term", &format!("mainstay_lease_term{{lease=\"{lease}\"}}")) >= 1.0);
    }
    let succeeded = "mainstay_duty_last_success_seconds{duty=\"quota-status\"}";
    assert!(value("mainstay_duty_last_success_seconds", succeeded) > 1.7e9);
    assert!(same(value("mainstay_duty_missed", "mainstay_duty_missed_total{duty=\"session-activity\"}"), 0.0));
    assert!(families["mainstay_duty_failures"].samples.is_empty());
    assert!(same(value("mainstay_open_streams", "mainstay_open_streams"), 1.0));
    assert!(same(value("mainstay_build_info", "mainstay_build_info{version=\"0.1.0\"}"), 1.0));
}

/// The queue's figures and the gates' are served beside all others; `/status` says the same, to those who may ask.
#[tokio::test]
async fn queue_and_gates_show_in_metrics_and_status() {
    let api = Harness::new().await;
    api.post(&operations(""), &operation("a")).await.expect(201);
    api.post(&operations(""), &operation("b")).await.expect(201);
    let claimed = claim(&api).await;
    end(&api, &claimed[0], State::Dead, "Broken").await;
    let gates = Arc::new(Gates::new(8));
    let key = Key { backend: "dns", class: "read", host: "here:1".into() };
    gates.of(&key, &GateLimits::of(PATIENCE)).call(false, || async { Ok::<_, Denied>(()) }).await.unwrap();
    api.server.set_gates(gates);
    let text = String::from_utf8(api.get("/metrics").await.bytes.to_vec()).unwrap();
    let families = parse(&text);
    for (name, family) in &families {
        check(name, family);
    }
    for sample in [
        "mainstay_operations{state=\"running\"} 1",
        "mainstay_operations{state=\"dead\"} 1",
        "mainstay_operations{state=\"ready\"} 0",
        "mainstay_operation_projects 1",
        "mainstay_backend_calls_total{backend=\"dns\",class=\"read\",host=\"here:1\"} 1",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample} is not in {text}");
    }
    let status = api.get("/status").await.expect(200);
    assert_eq!((&status["queue"]["all"]["dead"], &status["queue"]["most"][0]["running"]), (&1.into(), &1.into()));
    assert_eq!(
        (&status["deadLetters"][0]["reason"], &status["deadLetters"][0]["handler"]),
        (&"Broken".into(), &"drill".into())
    );
    assert_eq!((&status["breakers"][0]["state"], &status["breakers"][0]["calls"]), (&"closed".into(), &1.into()));
    assert!(status["duties"].as_array().is_some_and(|duties| duties.len() >= 4), "{status}");
    let stranger = api.call_as(Identity::controller("session-controller"), "GET", "/status", "", "").await;
    assert_eq!(stranger.status.as_u16(), 403);
    api.post("/status", &serde_json::json!({})).await.expect(405);
}
