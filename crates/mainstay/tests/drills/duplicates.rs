//! The same operation is ordered over and over, side by side and across a crash: it is one.

use anyhow::ensure;
use futures::future::try_join_all;
use mainstay_runtime::Tasks;
use mainstay_testkit::crash::Killer;
use serde_json::json;

use crate::cases::report;
use crate::kind::{Kind, NAME};
use crate::stage::{OPERATIONS, Stage};

const TIMES: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ordered_a_hundred_times_is_done_once() -> anyhow::Result<()> {
    let (stage, mut server) = Stage::running().await?;
    server.kill9()?;
    let tasks = Tasks::new();
    // The third step's effect is had; nobody has heard of it.
    let killer = Killer::start(server, vec!["kill:operation.after-act@3".to_owned()], &tasks);
    let ordered = async {
        for _ in 0..2 {
            try_join_all((0..TIMES / 2).map(|_| Kind::Provision.order(&stage))).await?;
        }
        Kind::Provision.comes_to_its_end(&stage).await?;
        // Also when it has ended.
        Kind::Provision.order(&stage).await?;
        Kind::Provision.left_what_it_should(&stage).await
    };
    let ordered = ordered.await;
    let survivor = killer.finish().await?;
    ordered?;
    ensure!(survivor.deaths.len() == 1, "the server did not die");
    let all = stage.client.get(OPERATIONS).await?.json()?;
    let names: Vec<_> =
        all["items"].as_array().into_iter().flatten().map(|one| one["metadata"]["name"].clone()).collect();
    ensure!(names == [NAME], "{names:?}");
    let operations: std::collections::BTreeSet<_> =
        stage.judged().await?.into_iter().map(|effect| effect.operation).collect();
    ensure!(operations.len() == 1, "{operations:?}");
    report("the same operation ordered again", TIMES, &json!({ "deaths": 1, "operations": 1 }))
}
