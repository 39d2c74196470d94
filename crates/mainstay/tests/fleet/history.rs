//! Judges what was recorded: by clients, by watchers, and by the database itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};

use crate::calls::CONFIG_MAPS;
use crate::follower::Seen;
use crate::ledger::Told;
use crate::stage::Fleet;

/// What a drill leaves to be judged.
pub(crate) struct History {
    pub(crate) told: Told,
    pub(crate) seen: Vec<Seen>,
}

/// What the judge counted.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    pub(crate) events: usize,
    pub(crate) terms: usize,
    /// Writes of leaders that were refused because another led.
    pub(crate) deposed: u64,
}

impl History {
    /// Nothing acknowledged is lost, on any replica; watchers saw everything, in order, once; terms only grew, each of one
    /// holder; and nobody's write was accepted after one of a later term.
    pub(crate) async fn judge(&self, fleet: &Fleet) -> anyhow::Result<Verdict> {
        self.nothing_is_lost(fleet).await?;
        self.watchers_saw_it_all(fleet).await?;
        let terms = terms(fleet).await?;
        let deposed = no_stale_write(fleet).await?;
        let events = self.seen.iter().map(|seen| seen.events.len()).sum();
        Ok(Verdict { acknowledged: self.told.acknowledged.len(), events, terms, deposed })
    }

    async fn nothing_is_lost(&self, fleet: &Fleet) -> anyhow::Result<()> {
        for (at, replica) in fleet.replicas.iter().enumerate() {
            let answer = replica.api.get(CONFIG_MAPS).await;
            ensure!(answer.code == Some(200), "replica {at} gives no list: {answer:?}");
            let list = answer.json();
            let there: BTreeMap<&str, &str> = list["items"]
                .as_array()
                .context("no items")?
                .iter()
                .filter_map(|item| {
                    Some((item["metadata"]["name"].as_str()?, item["metadata"]["resourceVersion"].as_str()?))
                })
                .collect();
            for (name, revision) in &self.told.acknowledged {
                let found = there.get(name.as_str());
                let same = found.is_some_and(|found| revision.is_none_or(|revision| *found == revision.to_string()));
                ensure!(same, "{name} was acknowledged at {revision:?}; at replica {at} it is at {found:?}");
            }
        }
        Ok(())
    }

    /// By the database's own history.
    async fn watchers_saw_it_all(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let rows = fleet
            .sql(
                "SELECT revision, kind, name FROM mainstay.history
                 WHERE resource LIKE '%configmaps' AND namespace = 'default' ORDER BY revision",
            )
            .await?;
        let row = |row: &String| {
            let mut columns = row.splitn(3, '|');
            let revision = columns.next()?.parse().ok()?;
            let kind = match columns.next()? {
                "0" => "ADDED",
                "1" => "MODIFIED",
                _ => "DELETED",
            };
            Some((revision, kind.to_owned(), columns.next()?.to_owned()))
        };
        let log: Vec<(u64, String, String)> = rows.iter().filter_map(row).collect();
        ensure!(log.len() == rows.len(), "the history cannot be read");
        for (at, seen) in self.seen.iter().enumerate() {
            let told = |revision: u64| {
                revision > seen.from
                    && revision <= seen.upto
                    && !seen.gaps.iter().any(|(from, to)| revision > *from && revision <= *to)
            };
            let expected: Vec<_> = log.iter().filter(|(revision, ..)| told(*revision)).collect();
            let got: Vec<_> = seen.events.iter().collect();
            if let Some(place) =
                (0..expected.len().max(got.len())).find(|place| expected.get(*place) != got.get(*place))
            {
                anyhow::bail!(
                    "watcher {at} saw {:?} where {:?} was to come; gaps {:?}",
                    got.get(place),
                    expected.get(place),
                    seen.gaps
                );
            }
        }
        Ok(())
    }
}

/// Of each lease, terms only grow, and one has one holder; how many there were.
async fn terms(fleet: &Fleet) -> anyhow::Result<usize> {
    let rows = fleet.sql("SELECT lease, term, holder FROM mainstay.drill_terms ORDER BY n").await?;
    let mut newest: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    let mut given = BTreeSet::new();
    for row in &rows {
        let mut columns = row.split('|');
        let (Some(lease), Some(term), Some(holder)) = (columns.next(), columns.next(), columns.next()) else {
            anyhow::bail!("a lease that cannot be read: {row}")
        };
        let term: u64 = term.parse()?;
        let before = newest.insert(lease, (term, holder));
        match before {
            Some((before, last)) if before == term => {
                // It was handed back.
                ensure!(holder.is_empty() || holder == last, "{lease}/{term} went from {last} to {holder}");
            }
            Some((before, _)) => ensure!(before < term, "{lease} went from {before} back to {term}"),
            None => {}
        }
        given.insert((lease, term));
    }
    Ok(given.len())
}

/// Nobody's write was accepted after one of a later term of the same lease; gives how many were refused.
async fn no_stale_write(fleet: &Fleet) -> anyhow::Result<u64> {
    let stale = fleet
        .sql(
            "SELECT lease, term, revision, newest FROM (
                SELECT *, max(term) OVER (PARTITION BY lease ORDER BY revision) AS newest
                FROM mainstay.drill_writes WHERE code = 0) w
             WHERE newest > term LIMIT 5",
        )
        .await?;
    ensure!(stale.is_empty(), "stale writes were accepted (lease, term, revision, newest term before it): {stale:?}");
    let refused = fleet.sql("SELECT count(*) FROM mainstay.drill_writes WHERE code = 6").await?;
    Ok(refused.first().context("no count")?.parse()?)
}
