//! A backend that fails is seen in the figures, on the status page and in the log; operations wait until it is well.

use std::fmt::Write as _;

use mainstay_testkit::drill_backend::{DrillBackend, Fault, On, doubled};
use mainstay_testkit::server::Server;
use serde_json::Value;

use crate::metrics::documented;
use crate::{EXE, apply, run, scrape};

/// More than the backend has places for.
const OPERATIONS: usize = 24;

/// A figure of the gate for DNS records.
fn figure(text: &str, name: &str) -> Option<u64> {
    let begins = format!("mainstay_backend_{name}{{backend=\"dns\",class=\"effect\",host=");
    let (_, value) = scrape::samples(text).find(|(sample, _)| sample.starts_with(&begins))?;
    value.parse().ok()
}

/// What the status page says of that gate's breaker.
fn shown(server: &Server) -> Option<String> {
    let page = run(server, "status");
    let cells = page.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    cells.into_iter().find(|cells| cells.starts_with(&["dns", "effect"])).map(|cells| cells[3].to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_is_seen_everywhere_and_operations_wait_for_it() {
    let backend = DrillBackend::start().unwrap();
    let mut server = Server::idle(EXE).unwrap();
    server.set_arguments(&["--drill-backend", &backend.url()]);
    server.restart().unwrap();
    let down = Fault::Status { code: 503, retry_after_seconds: None };
    backend.drill(On::verb("dns", "delete-record"), down, None).await.unwrap();
    let orders = (0..OPERATIONS).fold(String::new(), |mut orders, at| {
        let spec = format!("{{handler: deprovision, payload: {{name: site-{at}, domain: site-{at}.example}}}}");
        write!(
            orders,
            "apiVersion: mainstay.dev/v1alpha1\nkind: Operation\nmetadata: {{name: op-{at}}}\nspec: {spec}\n---\n"
        )
        .unwrap();
        orders
    });
    apply(&server, &orders);

    let all_wait = format!("mainstay_operations{{state=\"delayed\"}} {OPERATIONS}\n");
    let sick = scrape::text_when(&server, |text| figure(text, "breaker_state") == Some(2) && text.contains(&all_wait));
    let sick = sick.await;
    let families = scrape::families(&sick);
    let backends = documented().into_iter().filter(|(name, _)| name.starts_with("mainstay_backend_"));
    for (name, said) in backends.inspect(|(name, _)| assert!(families.contains_key(name), "{name} is not served")) {
        assert_eq!(families[&name], said, "{name}");
    }
    for (name, least) in [("calls_total", 10), ("sick_total", 5), ("refused_total", 1), ("opened_total", 1)] {
        assert!(figure(&sick, name).unwrap() >= least, "{name}: {sick}");
    }
    assert_eq!(shown(&server).as_deref(), Some("open"));
    let operations: Value = serde_json::from_str(&run(&server, "get op -o json")).unwrap();
    let phases = operations["items"].as_array().unwrap().iter().map(|one| one["status"]["phase"].as_str().unwrap());
    assert_eq!(phases.filter(|phase| *phase == "Waiting").count(), OPERATIONS);

    backend.calm().await.unwrap();
    let all_done = format!("{{handler=\"deprovision\",outcome=\"succeeded\"}} {OPERATIONS}\n");
    let well = scrape::text_when(&server, |text| text.contains(&all_done) || text.contains("outcome=\"dead\"")).await;
    assert!(!well.contains("outcome=\"dead\""), "{well}");
    assert_eq!((figure(&well, "breaker_state"), shown(&server).as_deref()), (Some(0), Some("closed")));
    assert_eq!(doubled(&backend.effects().await.unwrap()), []);
    let log = server.log_text();
    for said in ["WARN", " INFO"].into_iter().zip(["a breaker opened", "a breaker closed"]) {
        let line = log.lines().find(|line| line.contains(said.1)).unwrap_or_else(|| panic!("{}: {log}", said.1));
        let gate = ["backend=\"dns\"", "class=\"effect\"", &format!("host={}", backend.address())];
        assert!(line.contains(said.0) && gate.iter().all(|label| line.contains(label)), "{line}");
    }
}
