//! The periodic duties of a server, before and after it is killed.

use std::time::Duration;

use anyhow::Context as _;
use http::Request;
use mainstay_runtime::duty::{Duty, Place, table};
use mainstay_testkit::server::Server;
use tokio::time::{interval, timeout};

use crate::EXE;

/// Between two looks at the figures.
const LOOK: Duration = Duration::from_millis(20);
/// Longest wait for the first pass of every duty.
const PATIENCE: Duration = Duration::from_secs(30);

/// All duties but those of a node of another machine, and of servers that share a store.
fn of_a_server() -> impl Iterator<Item = &'static Duty> {
    let elsewhere = [table::NODE_CERTIFICATE, table::API_LEASE, table::API_LEASES].map(|duty| duty.name);
    table::ALL.into_iter().filter(move |duty| !elsewhere.contains(&duty.name))
}

/// The figures, once each duty has come to the end of a pass.
async fn after_a_pass_of_each(server: &Server) -> anyhow::Result<String> {
    let client = server.client().await?;
    let mut looks = interval(LOOK);
    let seen = async {
        loop {
            looks.tick().await;
            let text = client.request_text(Request::get("/metrics").body(Vec::new())?).await?;
            let passed = |name| value(&text, "duty_passes_total", "duty", name).is_some_and(|passes| passes > 0);
            if of_a_server().all(|duty| passed(duty.name)) {
                return anyhow::Ok(text);
            }
        }
    };
    timeout(PATIENCE, seen).await.context("a duty has not come to the end of a pass")?
}

fn value(text: &str, figure: &str, label: &str, name: &str) -> Option<u64> {
    let sample = format!("mainstay_{figure}{{{label}=\"{name}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&sample))?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_duty_of_the_table_runs_and_after_a_kill_in_a_higher_term() -> anyhow::Result<()> {
    let mut server = Server::start(EXE)?;
    let before = after_a_pass_of_each(&server).await?;
    server.kill9()?;
    server.restart()?;
    let after = after_a_pass_of_each(&server).await?;
    for duty in of_a_server() {
        let term = |text| value(text, "lease_term", "lease", duty.name);
        match duty.place {
            Place::Singleton => assert!(term(&after) > term(&before) && term(&before) >= Some(1), "{}", duty.name),
            Place::EachProcess => assert_eq!((term(&before), term(&after)), (None, None), "{}", duty.name),
        }
    }
    assert!(!after.contains("mainstay_duty_failures_total{"), "{after}");
    server.stop()
}
