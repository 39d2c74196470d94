//! The kinds of operations: how each is ordered, how it ends, and what is there then.

use std::fmt;

use anyhow::ensure;
use mainstay_testkit::drill_backend::{Fault, On};
use serde_json::{Value, json};

use crate::stage::Stage;

/// What is ordered in every drill.
pub(crate) const NAME: &str = "one";
const PROJECTS: &str = "/apis/mainstay.dev/v1alpha1/projects";
const PROJECT: &str = "torn-down";

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `provision`: five steps.
    Provision,
    /// The same, whose last step is refused for good: what was made is taken back.
    Refused,
    /// `deprovision`, of what was provisioned before: five steps.
    Deprovision,
    /// `run-task`: two steps, of which one waits.
    RunTask,
    /// `project-teardown`, ordered by the deletion of a project.
    Teardown,
    /// `noop`: no step at all.
    Noop,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provision => "provision",
            Self::Refused => "provision, refused",
            Self::Deprovision => "deprovision",
            Self::RunTask => "run-task",
            Self::Teardown => "project-teardown",
            Self::Noop => "noop",
        })
    }
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Provision, Self::Refused, Self::Deprovision, Self::RunTask, Self::Teardown, Self::Noop];

    /// The calls of its steps, in order.
    pub(crate) const fn calls(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Provision => &[
                ("network", "create"),
                ("storage", "create"),
                ("compute", "launch"),
                ("dns", "put-record"),
                ("load-balancer", "deploy"),
            ],
            // Of the one that is refused: what takes it back.
            Self::Refused | Self::Deprovision => &[
                ("load-balancer", "remove"),
                ("dns", "delete-record"),
                ("compute", "delete"),
                ("storage", "delete"),
                ("network", "delete"),
            ],
            Self::RunTask => &[("compute", "run-task")],
            Self::Teardown | Self::Noop => &[],
        }
    }

    /// What has to be there before it is ordered. Nothing happens to the server yet.
    pub(crate) async fn prepare(self, stage: &Stage) -> anyhow::Result<()> {
        match self {
            Self::Deprovision => {
                stage.order("before", &provision(NAME)).await?;
                stage.ended("before", "Succeeded", "Succeeded").await.map(drop)
            }
            Self::Refused => {
                let refusal = Fault::Status { code: 422, retry_after_seconds: None };
                stage.backend.drill(On::verb("load-balancer", "deploy"), refusal, None).await
            }
            Self::Teardown => {
                let project = json!({
                    "apiVersion": "mainstay.dev/v1alpha1", "kind": "Project", "metadata": { "name": PROJECT }, "spec": {},
                });
                stage.client.create(PROJECTS, &project).await?;
                while stage.client.get(&format!("{PROJECTS}/{PROJECT}")).await?.json()?["status"]["phase"] != "Active" {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Self::Provision | Self::RunTask | Self::Noop => Ok(()),
        }
    }

    /// What is ordered, under this name.
    pub(crate) fn spec(self, name: &str) -> Value {
        match self {
            Self::Provision | Self::Refused => provision(name),
            Self::Deprovision => {
                json!({ "handler": "deprovision", "payload": { "name": name, "domain": domain(name) } })
            }
            Self::RunTask => {
                let task = json!({ "image": "web", "command": ["looks", "1"] });
                json!({ "handler": "run-task", "payload": task })
            }
            Self::Teardown | Self::Noop => json!({ "handler": "noop" }),
        }
    }

    /// Orders it.
    pub(crate) async fn order(self, stage: &Stage) -> anyhow::Result<()> {
        match self {
            Self::Teardown => stage.client.delete(&format!("{PROJECTS}/{PROJECT}")).await,
            _ => stage.order(NAME, &self.spec(NAME)).await,
        }
    }

    /// Waits for its end, which must be as if nothing had happened.
    pub(crate) async fn comes_to_its_end(self, stage: &Stage) -> anyhow::Result<()> {
        match self {
            Self::Teardown => {
                stage.gone(&format!("{PROJECTS}/{PROJECT}")).await?;
                stage.gone(&format!("/api/v1/namespaces/{PROJECT}")).await?;
            }
            Self::Refused => drop(stage.ended(NAME, "Dead", "Invalid").await?),
            _ => drop(stage.ended(NAME, "Succeeded", "Succeeded").await?),
        }
        self.left_what_it_should(stage).await
    }

    /// What is there, and what was done, is as if nothing had happened.
    pub(crate) async fn left_what_it_should(self, stage: &Stage) -> anyhow::Result<()> {
        let effects = stage.judged().await?;
        let (there, expected) = (stage.there().await?, if self == Self::Provision { site(NAME) } else { Vec::new() });
        ensure!(there == expected, "there is {there:#?}, not {expected:#?}; {effects:#?}\n{}", stage.last_words());
        let had = effects.iter().filter(|effect| effect.verb == "run-task").count();
        ensure!(had == usize::from(self == Self::RunTask), "{had} tasks ran");
        Ok(())
    }
}

/// What `provision` is told to make.
pub(crate) fn provision(name: &str) -> Value {
    json!({
        "handler": "provision",
        "payload": {
            "name": name, "domain": domain(name), "cidr": "10.0.0.0/24", "volumeBytes": 1024, "image": "web",
            "cpuMillis": 500, "memoryBytes": 4096, "port": 443,
        },
    })
}

fn domain(name: &str) -> String {
    format!("{name}.example.org")
}

/// What is there once it is made, as [`Stage::there`] tells it.
pub(crate) fn site(name: &str) -> Vec<String> {
    let instance = json!({
        "image": "web", "cpu_millis": 500, "memory_bytes": 4096,
        "env": { "NETWORK": "<network>", "VOLUME": "<volume>" },
    });
    let inside = format!("i-<instance {name}>.internal");
    let record = json!({ "kind": "CNAME", "ttl_seconds": 60, "values": [inside] });
    let mut site = vec![
        format!("network {name} {}", json!({ "cidr": "10.0.0.0/24" })),
        format!("volume {name} {}", json!({ "size_bytes": 1024 })),
        format!("instance {name} {instance}"),
        format!("record {} {record}", domain(name)),
        format!("load-balancer {name} {}", json!({ "port": 443, "targets": [format!("{inside}:443")] })),
    ];
    site.sort();
    site
}
