//! The server dies at each fault point of an operation's life and of the store beneath it, and each step is carried out
//! twice.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use mainstay_runtime::Tasks;
use mainstay_runtime::fault::Point;
use mainstay_testkit::crash::{Killer, Seed, hits};

use crate::cases::{drawn, place, report, run};
use crate::kind::Kind;
use crate::stage::{Stage, armed};

/// Passes of each point of the store that are drawn for each kind, of what may be hundreds.
const STORE_DRAWN: usize = 6;

/// A fault while one operation of a kind is carried out.
#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    fault: String,
}

/// How often a calm run passes each point, from the order to the end, after how many passes by the start.
async fn passed(kind: Kind) -> anyhow::Result<BTreeMap<String, (u64, u64)>> {
    let (stage, mut server) = Stage::running().await?;
    kind.prepare(&stage).await?;
    server.kill9()?;
    let log = server.scratch().join("faults");
    let server = armed(server, Some("count"), Some(&log)).await?;
    let before = hits(&log).unwrap_or_default();
    kind.order(&stage).await?;
    kind.comes_to_its_end(&stage).await?;
    let after = hits(&log)?;
    drop(server);
    let since = |point: &String| before.get(point).copied().unwrap_or_default();
    Ok(after.into_iter().map(|(point, to)| (point.clone(), (since(&point), to))).collect())
}

/// Whether a point is one of an operation's life.
fn is_operations(point: &str) -> bool {
    point.starts_with("operation.")
}

/// Faults of this verb at every pass of the operations' points, and some of the store's.
async fn cases(verb: &str, point: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Case>> {
    let mut seed = Seed::fresh("passes of the store's points");
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        for (name, (from, to)) in passed(kind).await?.into_iter().filter(|(name, _)| point(name)) {
            let mut passes: Vec<u64> = (from + 1..=to).collect();
            while !is_operations(&name) && passes.len() > STORE_DRAWN {
                passes.swap_remove(place(&mut seed, passes.len()));
            }
            cases.extend(passes.into_iter().map(|nth| Case { kind, fault: format!("{verb}:{name}@{nth}") }));
        }
    }
    Ok(cases)
}

/// An operation that is carried out, while the server dies once; whether it did.
async fn dies(case: &Case) -> anyhow::Result<bool> {
    let (stage, mut server) = Stage::running().await?;
    case.kind.prepare(&stage).await?;
    server.kill9()?;
    let tasks = Tasks::new();
    let killer = Killer::start(server, vec![case.fault.clone()], &tasks);
    let lived = async {
        case.kind.order(&stage).await?;
        case.kind.comes_to_its_end(&stage).await
    };
    let lived = lived.await;
    let survivor = killer.finish().await?;
    lived?;
    // What is left to be told of it does not change what it left.
    case.kind.left_what_it_should(&stage).await?;
    Ok(!survivor.deaths.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_point_may_be_the_servers_last() -> anyhow::Result<()> {
    let points = |point: &str| is_operations(point) || point.starts_with("store.");
    let all_cases = cases("kill", points).await?;
    for point in Point::ALL.iter().map(|point| point.name()).filter(|name| points(name)) {
        ensure!(all_cases.iter().any(|case| case.fault.contains(point)), "no operation passes {point}");
    }
    let struck = std::sync::atomic::AtomicUsize::new(0);
    let chosen = drawn("last points", all_cases, 8);
    let count = chosen.len();
    run("serve is killed at a fault point", chosen, async |case| {
        let died = dies(case).await?;
        ensure!(died || !is_operations(case.fault.split(':').nth(1).unwrap_or_default()), "it did not die");
        struck.fetch_add(usize::from(died), std::sync::atomic::Ordering::Relaxed);
        Ok(())
    })
    .await?;
    let struck = struck.into_inner();
    // The store passes its points as often as its batches are many, which is not the same twice: of few that are drawn two more may miss.
    ensure!((struck + 2) * 4 >= count * 3, "only {struck} of {count} kills struck");
    report("kills that struck", struck, &serde_json::json!({ "of": count }))
}

/// A step, or its undoing, is carried out once more, or fails after its effect.
async fn strikes(case: &Case) -> anyhow::Result<()> {
    let (stage, mut server) = Stage::running().await?;
    case.kind.prepare(&stage).await?;
    server.kill9()?;
    let log = server.scratch().join("faults");
    let server = armed(server, Some(&case.fault), Some(&log)).await?;
    case.kind.order(&stage).await?;
    case.kind.comes_to_its_end(&stage).await?;
    let (_, at) = case.fault.split_once(':').context("a fault")?;
    let (point, nth) = at.rsplit_once('@').context("a fault")?;
    let passes = hits(&log)?.get(point).copied().unwrap_or_default();
    ensure!(passes >= nth.parse()?, "it passed {point} {passes} times only");
    drop(server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_and_each_undoing_may_be_carried_out_twice() -> anyhow::Result<()> {
    let ends = [Point::OperationAfterAct, Point::OperationAfterUndo];
    let cases = cases("repeat", |name| ends.iter().any(|point| point.name() == name)).await?;
    run("a step, or its undoing, is carried out twice", drawn("repeated steps", cases, 4), strikes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_point_may_fail() -> anyhow::Result<()> {
    let cases = cases("fail", is_operations).await?;
    run("an attempt fails at a fault point", drawn("failing points", cases, 6), strikes).await
}
