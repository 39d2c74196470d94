//! The figures of periodic duties, and of the leases that singletons among them hold.

use mainstay_runtime::duty::{Duties, Seen};

use super::{Figure, Value};

pub(super) fn of_duties(duties: &Duties) -> Vec<Figure> {
    let seen: Vec<(&'static str, Seen)> = duties.seen().into_iter().map(|(duty, seen)| (duty.name, seen)).collect();
    let each = |name: &str, help, counter, value: fn(&Seen) -> Option<Value>| {
        let value = |(duty, seen): &(&'static str, Seen)| Some((*duty, value(seen)?));
        Figure::by("duty", &format!("duty_{name}"), help, counter, seen.iter().filter_map(value))
    };
    let (counter, gauge) = (true, false);
    let mut figures = vec![
        each("passes", "Passes of a periodic duty that ended", counter, |seen| Some(seen.passes.into())),
        each("missed", "Due times at which no pass could begin", counter, |seen| Some(seen.missed.into())),
        each("running", "Whether a pass is under way", gauge, |seen| Some(u64::from(seen.running).into())),
        each("last_success_seconds", "When a pass last succeeded, in seconds since 1970", gauge, |seen| {
            u64::try_from(seen.last_success?.as_second()).ok().map(Value::Count)
        }),
        each("busy_seconds", "Time that passes took", counter, |seen| Some(seen.busy.into())),
        failures(&seen),
    ];
    figures.extend(leases(duties));
    figures.extend(happened(duties));
    figures
}

fn failures(seen: &[(&'static str, Seen)]) -> Figure {
    let of_duty = |(duty, seen): &(&'static str, Seen)| -> Vec<_> {
        seen.failures
            .iter()
            .map(|(class, count)| (vec![("duty", (*duty).into()), ("class", (*class).into())], (*count).into()))
            .collect()
    };
    let help = "Passes that failed, and leases that could not be had";
    Figure { name: "duty_failures".to_owned(), help, counter: true, values: seen.iter().flat_map(of_duty).collect() }
}

fn happened(duties: &Duties) -> [Figure; 5] {
    let counts = duties.lease_counts();
    let count = |name: &str, help, value: Value| Figure::plain(&format!("leases_{name}"), help, true, value);
    [
        count("taken", "Leases that this process took", counts.taken.into()),
        count("silent_seconds", "How long those were without a sign of their holder", counts.silent.into()),
        count("given_up", "Leases that could not be renewed in time", counts.given_up.into()),
        count("replaced", "Leases found to be held by another process", counts.replaced.into()),
        count("failed", "Looks at leases, renewals among them, that failed", counts.failed.into()),
    ]
}

fn leases(duties: &Duties) -> [Figure; 2] {
    let standings = duties.leases();
    let gauge = |name: &str, help, value: fn(bool, u64) -> u64| {
        let values = standings.iter().map(|lease| (lease.name, value(lease.held, lease.term)));
        Figure::by("lease", &format!("lease_{name}"), help, false, values)
    };
    [
        gauge("held", "Whether this process holds the lease", |held, _| held.into()),
        gauge("term", "The newest term that this process had", |_, term| term),
    ]
}
