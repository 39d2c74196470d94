//! Where the document's figures come from. Each is read as it is now; no two are of one moment.

use std::collections::BTreeMap;

use mainstay_runtime::Timestamp;
use mainstay_runtime::duty::Seen;
use mainstay_runtime::lease::Standing;
use mainstay_runtime::resilience::gates::View;
use mainstay_store::operation::{self, QueueFigures, State};
use serde_json::Value;

use super::{Breaker, Check, DEAD_LETTERS, DeadLetter, Depth, Duty, Lease, Overview, PROJECTS, Project, Queue, Store};
use crate::health;
use crate::object;
use crate::server::ApiServer;

/// How the server is now.
pub(crate) async fn overview(server: &ApiServer) -> Overview {
    let readiness = health::readiness(server).await;
    Overview {
        version: server.version().to_owned(),
        uptime_seconds: server.uptime().as_secs(),
        ready: readiness.iter().all(|(_, found)| found.is_ok()),
        checks: readiness
            .into_iter()
            .map(|(name, found)| Check { name: name.to_owned(), failure: found.err() })
            .collect(),
        store: store(server),
        queue: health::queue_figures(server).await.as_ref().map(queue),
        dead_letters: dead_letters(server).await,
        breakers: server.gates().map(|gates| gates.view().iter().map(breaker).collect()).unwrap_or_default(),
        leases: server.duties().leases().iter().map(lease).collect(),
        duties: server.duties().seen().into_iter().map(|(duty, seen)| self::duty(duty.name, &seen)).collect(),
    }
}

fn store(server: &ApiServer) -> Store {
    let stats = server.store().stats();
    Store {
        objects: stats.objects,
        revision: server.store().revision().0,
        floor: server.store().floor().0,
        queued: stats.queued,
        writes: stats.writes,
        commits: stats.commits,
        watchers: stats.watchers,
    }
}

fn queue(figures: &QueueFigures) -> Queue {
    let (mut all, mut projects) = (Depth::default(), BTreeMap::<&str, Depth>::new());
    for (lane, state, count) in &figures.depth {
        all.add(*state, *count);
        projects.entry(lane).or_default().add(*state, *count);
    }
    let named = |(name, depth): (&str, Depth)| Project { name: name.to_owned(), depth };
    let count = projects.len() as u64;
    let mut most: Vec<Project> = projects.into_iter().map(named).collect();
    // Stable: of equals the first by name.
    most.sort_by_key(|project| std::cmp::Reverse(project.depth.sum()));
    most.truncate(PROJECTS);
    Queue {
        all,
        longest_wait_seconds: figures.longest_wait.map(|wait| wait.as_secs_f64()),
        fenced: figures.fenced,
        workers_lost: figures.lost,
        projects: count,
        most,
    }
}

impl Depth {
    fn add(&mut self, state: State, count: u64) {
        match state {
            State::Ready => self.ready += count,
            State::Delayed => self.delayed += count,
            State::Blocked => self.blocked += count,
            State::Running => self.running += count,
            State::Dead => self.dead += count,
            State::Succeeded | State::Cancelled => {}
        }
    }

    const fn sum(&self) -> u64 {
        self.ready + self.delayed + self.blocked + self.running + self.dead
    }
}

async fn dead_letters(server: &ApiServer) -> Vec<DeadLetter> {
    let letters = match tokio::time::timeout(health::FIGURES, server.store().dead_letters(DEAD_LETTERS)).await {
        Ok(Ok(letters)) => letters,
        Ok(Err(error)) => return unread(&error),
        Err(late) => return unread(&late),
    };
    let mut told = Vec::new();
    for letter in letters {
        // One that has just been replayed or deleted is left out.
        let Ok(Some(object)) = server.store().get(&letter.key).await else { continue };
        let Ok(object) = serde_json::from_slice(&object.body) else { continue };
        told.push(dead_letter(&letter, &object));
    }
    told
}

fn unread<T>(error: &dyn std::fmt::Display) -> Vec<T> {
    tracing::warn!(%error, "the dead letters cannot be had");
    Vec::new()
}

fn dead_letter(letter: &operation::DeadLetter, object: &Value) -> DeadLetter {
    let status = &object["status"];
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let owner = owners
        .filter(|owner| owner["controller"] == true)
        .find_map(|owner| Some(format!("{}/{}", owner["kind"].as_str()?, owner["name"].as_str()?)));
    DeadLetter {
        namespace: letter.key.namespace.to_string(),
        name: object::text(object, "name").to_owned(),
        project: letter.lane.to_string(),
        handler: letter.handler.to_string(),
        owner,
        reason: status["reason"].as_str().map(str::to_owned),
        at: status["finishedAt"].as_str().and_then(|at| at.parse::<Timestamp>().ok()),
    }
}

fn breaker(view: &View) -> Breaker {
    Breaker {
        backend: view.key.backend.to_owned(),
        class: view.key.class.to_owned(),
        host: view.key.host.to_string(),
        state: view.state.as_str().to_owned(),
        since_seconds: view.since.as_secs(),
        in_flight: view.inside as u64,
        places: view.places as u64,
        waiting: view.waiting as u64,
        calls: view.counts.calls,
        sick: view.counts.sick,
        refused: view.counts.refused,
    }
}

fn lease(standing: &Standing) -> Lease {
    let Standing { name, term, held, began } = *standing;
    Lease { name: name.to_owned(), held, term, since_seconds: began.as_secs() }
}

fn duty(name: &str, seen: &Seen) -> Duty {
    Duty {
        name: name.to_owned(),
        running: seen.running,
        last_success: seen.last_success,
        next: seen.next,
        passes: seen.passes,
        missed: seen.missed,
        failures: seen.failures.values().sum(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_projects_with_the_most_operations_are_named_and_all_are_counted() {
        let depth = (0..30_u64).map(|number| (Arc::from(format!("p{number:02}")), State::Ready, number + 1));
        let mut depth: Vec<_> = depth.collect();
        depth.push(("p00".into(), State::Dead, 100));
        let queue = queue(&QueueFigures { depth, ..QueueFigures::default() });
        assert_eq!((queue.projects, queue.all.ready, queue.all.dead), (30, 465, 100));
        let names: Vec<&str> = queue.most.iter().map(|project| &*project.name).collect();
        assert_eq!(names, ["p00", "p29", "p28", "p27", "p26", "p25", "p24", "p23", "p22", "p21"]);
    }
}
