//! The report as people read it: what is wrong stands out, what is empty is left out.

use mainstay_apiserver::overview::{Breaker, DeadLetter, Depth, Duty, Lease, Overview, Queue, Store};
use mainstay_runtime::{Clock, Timestamp};
use owo_colors::OwoColorize as _;

use super::Report;
use crate::cli::failure::CliResult;
use crate::output::table::Table;
use crate::output::text::age;
use crate::output::{self, plain};

/// Writes the report.
pub(super) fn report(report: &Report) -> CliResult {
    let now = Clock::system().now();
    output::line(format_args!("Server    {}", report.url))?;
    output::line(format_args!("Version   {}", plain(&report.version)))?;
    if let Some(overview) = &report.overview {
        output::line(format_args!("Up        {}", seconds(overview.uptime_seconds, now)))?;
    }
    let ready = if report.ready { "yes".green().to_string() } else { "no".red().bold().to_string() };
    output::line(format_args!("Ready     {ready}"))?;
    let checks = report.checks.iter();
    let checks = checks.map(|check| [check.name.clone(), check.failure.clone().unwrap_or_else(|| "ok".to_owned())]);
    section(&["CHECK", "STATE"], checks)?;
    let sessions = report.sessions.iter();
    section(&["SESSIONS", "COUNT"], sessions.map(|(phase, count)| [phase.clone(), count.to_string()]))?;
    report.overview.as_ref().map_or(Ok(()), |overview| details(overview, now))
}

fn details(overview: &Overview, now: Timestamp) -> CliResult {
    section(&["STORE", "VALUE"], store(&overview.store))?;
    if let Some(queue) = &overview.queue {
        section(&["PROJECT", "READY", "DELAYED", "BLOCKED", "RUNNING", "DEAD"], depths(queue))?;
        section(&["OPERATIONS", "VALUE"], queue_figures(queue))?;
    }
    let letters = overview.dead_letters.iter();
    section(&["DEAD LETTER", "OWNER", "REASON", "SINCE", "REPLAY"], letters.map(|letter| dead_letter(letter, now)))?;
    let breakers = overview.breakers.iter();
    let head = ["BACKEND", "CLASS", "HOST", "BREAKER", "SINCE", "CALLS", "SICK", "REFUSED", "PLACES", "WAITING"];
    section(&head, breakers.map(|one| breaker(one, now)))?;
    section(&["LEASE", "HELD", "TERM", "SINCE"], overview.leases.iter().map(|one| lease(one, now)))?;
    let duties = overview.duties.iter();
    section(&["DUTY", "LAST", "NEXT", "PASSES", "MISSED", "FAILED"], duties.map(|one| duty(one, now)))
}

fn section<const N: usize>(head: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> CliResult {
    let mut table = Table::new(head.iter().copied());
    rows.for_each(|row| table.push(row.map(|cell| plain(&cell)).into()));
    if table.rows.is_empty() {
        return Ok(());
    }
    output::line("")?;
    Ok(output::line(table.render(true).trim_end())?)
}

fn store(store: &Store) -> impl Iterator<Item = [String; 2]> {
    let Store { objects, revision, floor, queued, writes, commits, watchers } = *store;
    let figures = [
        ("objects", objects),
        ("revision", revision),
        ("floor", floor),
        ("queued", queued),
        ("writes", writes),
        ("commits", commits),
        ("watchers", watchers),
    ];
    figures.into_iter().map(|(name, value)| [name.to_owned(), value.to_string()])
}

fn depths(queue: &Queue) -> impl Iterator<Item = [String; 6]> {
    let row = |name: &str, depth: &Depth| {
        let Depth { ready, delayed, blocked, running, dead } = *depth;
        let [ready, delayed, blocked, running, dead] = [ready, delayed, blocked, running, dead].map(|n| n.to_string());
        [name.to_owned(), ready, delayed, blocked, running, dead]
    };
    let projects = queue.most.iter().map(move |project| row(&project.name, &project.depth));
    let others = queue.projects.saturating_sub(queue.most.len() as u64);
    let all = if others > 0 { format!("(all, {others} more)") } else { "(all)".to_owned() };
    projects.chain(std::iter::once(row(&all, &queue.all)))
}

fn queue_figures(queue: &Queue) -> impl Iterator<Item = [String; 2]> {
    let wait = queue.longest_wait_seconds.map_or_else(|| "-".to_owned(), |wait| format!("{wait:.1} s"));
    let figures = [
        ("longest wait", wait),
        ("fenced", queue.fenced.to_string()),
        ("lost workers", queue.workers_lost.to_string()),
    ];
    figures.into_iter().map(|(name, value)| [name.to_owned(), value])
}

fn dead_letter(letter: &DeadLetter, now: Timestamp) -> [String; 5] {
    [
        format!("{}/{}", letter.namespace, letter.name),
        letter.owner.clone().unwrap_or_else(|| "-".to_owned()),
        letter.reason.clone().unwrap_or_default(),
        letter.at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
        format!("mainstay replay operation {} -n {}", letter.name, letter.namespace),
    ]
}

fn breaker(breaker: &Breaker, now: Timestamp) -> [String; 10] {
    [
        breaker.backend.clone(),
        breaker.class.clone(),
        breaker.host.clone(),
        breaker.state.clone(),
        seconds(breaker.since_seconds, now),
        breaker.calls.to_string(),
        breaker.sick.to_string(),
        breaker.refused.to_string(),
        format!("{}/{}", breaker.in_flight, breaker.places),
        breaker.waiting.to_string(),
    ]
}

fn lease(lease: &Lease, now: Timestamp) -> [String; 4] {
    let (held, term) = (if lease.held { "here" } else { "no" }, lease.term.to_string());
    [lease.name.clone(), held.to_owned(), term, seconds(lease.since_seconds, now)]
}

fn duty(duty: &Duty, now: Timestamp) -> [String; 6] {
    let last = match (duty.running, duty.last_success) {
        (true, _) => "running".to_owned(),
        (false, Some(at)) => format!("{} ago", age(at, now)),
        (false, None) => "never".to_owned(),
    };
    // The distance is told as an age: that of now, seen from then.
    let next = duty.next.map_or_else(|| "-".to_owned(), |at| format!("in {}", age(now, at)));
    let [passes, missed, failures] = [duty.passes, duty.missed, duty.failures].map(|n| n.to_string());
    [duty.name.clone(), last, next, passes, missed, failures]
}

fn seconds(ago: u64, now: Timestamp) -> String {
    let ago = std::time::Duration::from_secs(ago);
    now.checked_sub(ago).map_or_else(|_| "-".to_owned(), |then| age(then, now))
}
