//! Which cases of a drill are run, and what is told of them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mainstay_testkit::crash::{Seed, note};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Set to `all`, every case of each drill is run.
const ALL: &str = "MAINSTAY_DRILLS";
/// The file that each drill adds its line to.
const REPORT: &str = "MAINSTAY_DRILLS_REPORT";
/// Servers at a time: most of a case is spent waiting for the disk and for a next attempt.
const AT_ONCE: usize = 6;

/// Whether every case is to be run.
pub(crate) fn all() -> bool {
    std::env::var(ALL).is_ok_and(|word| word == "all")
}

/// All of these cases, or `few` that are drawn.
pub(crate) fn drawn<T>(drill: &str, mut cases: Vec<T>, few: usize) -> Vec<T> {
    if all() {
        return cases;
    }
    let mut seed = Seed::fresh(drill);
    let mut drawn = Vec::new();
    while drawn.len() < few && !cases.is_empty() {
        drawn.push(cases.swap_remove(place(&mut seed, cases.len())));
    }
    drawn
}

/// One of so many places, which are not none.
pub(crate) fn place(seed: &mut Seed, places: usize) -> usize {
    usize::try_from(seed.upto(places as u64)).unwrap_or(1) - 1
}

/// Runs the cases of a drill, and reports them.
pub(crate) async fn run<T: std::fmt::Debug>(
    drill: &str,
    cases: Vec<T>,
    case: impl AsyncFn(&T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (began, case) = (Instant::now(), &case);
    let runs = cases.iter().map(|one| async move {
        let began = Instant::now();
        case(one).await.with_context(|| format!("{drill}: {one:?}"))?;
        anyhow::Ok(began.elapsed())
    });
    let mut times: Vec<Duration> = stream::iter(runs).buffer_unordered(AT_ONCE).try_collect().await?;
    times.sort_unstable();
    let seconds = |at: usize| times.get(at).map_or(0.0, Duration::as_secs_f64);
    report(
        drill,
        times.len(),
        &json!({
            "median_s": seconds(times.len() / 2), "max_s": seconds(times.len().saturating_sub(1)),
            "took_s": began.elapsed().as_secs_f64(),
        }),
    )
}

/// Adds a line to the report: a drill, how many cases, and its figures.
pub(crate) fn report(drill: &str, cases: usize, figures: &Value) -> anyhow::Result<()> {
    note(&format!("{drill}: {cases} cases, {figures}"));
    let Some(path) = std::env::var_os(REPORT) else { return Ok(()) };
    let mut line = BTreeMap::from([("drill", json!(drill)), ("cases", json!(cases))]);
    line.insert("figures", figures.clone());
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{}\n", serde_json::to_string(&line)?).as_bytes())?;
    Ok(())
}
