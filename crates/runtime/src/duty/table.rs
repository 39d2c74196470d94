//! All periodic duties of Mainstay, in one place; `docs/duties.md` shows the same table.

use std::time::Duration;

use super::Place::{EachProcess, Singleton};
use super::{Duty, Missed, Place, Retry, Schedule};

/// Says that this process serves the API.
pub const API_LEASE: Duty = Duty {
    name: "api-lease",
    schedule: every(Duration::from_secs(2)),
    jitter: 0.0,
    timeout: Duration::from_secs(4),
    place: EachProcess,
    retry: Retry::NextTick,
    why: "renews the lease by which other processes see that this one serves the API; it lasts for three passes",
    ..USUAL
};

/// Removes leases of servers that are gone.
pub const API_LEASES: Duty = Duty {
    name: "api-leases",
    schedule: every(Duration::from_hours(1)),
    place: Singleton,
    why: "removes leases of servers of the API that were not renewed for an hour; one that comes back makes its own anew",
    ..USUAL
};

/// Renews the listener's certificate.
pub const CERTIFICATE: Duty = Duty {
    name: "certificate",
    schedule: every(Duration::from_hours(12)),
    timeout: Duration::from_mins(1),
    place: EachProcess,
    why: "renews the listener's certificate when it is due; it lasts long enough to be looked at twice a day",
    ..USUAL
};

/// Keeps this process's keys in step with the ring.
pub const KEYRING: Duty = Duty {
    name: "keyring",
    schedule: every(Duration::from_secs(5)),
    timeout: Duration::from_secs(30),
    place: EachProcess,
    why: "reads the ring of keys, also when nothing says that it changed; a version is used only some seconds later",
    ..USUAL
};

/// Removes what belongs to no session.
pub const LEFTOVERS: Duty = Duty {
    name: "leftovers",
    schedule: every(Duration::from_hours(1)),
    timeout: Duration::from_mins(10),
    place: Singleton,
    why: "removes messages of sessions that are gone, which only a crash leaves behind; what is removed stays so",
    ..USUAL
};

/// Renews a node's certificate.
pub const NODE_CERTIFICATE: Duty = Duty {
    name: "node-certificate",
    schedule: every(Duration::from_secs(30)),
    timeout: Duration::from_mins(1),
    place: EachProcess,
    why: "renews a node's certificate when two thirds of its day are over, or the authority is another; an older one stays good",
    ..USUAL
};

/// Removes operations that nobody needs any more.
pub const OPERATIONS: Duty = Duty {
    name: "operations",
    schedule: every(Duration::from_mins(1)),
    timeout: Duration::from_mins(5),
    place: Singleton,
    why: "cancels and removes operations whose owner is gone, and removes old ones; only if each is what was read",
    ..USUAL
};

/// Looks for what no Pod accounts for on this machine.
pub const ORPHANS: Duty = Duty {
    name: "orphans",
    schedule: every(Duration::from_mins(1)),
    timeout: Duration::from_mins(5),
    place: EachProcess,
    why: "ends sandboxes and removes directories of this machine that no Pod accounts for, each after a live read",
    ..USUAL
};

/// Reports what is used of quotas.
pub const QUOTA_STATUS: Duty = Duty {
    name: "quota-status",
    schedule: every(Duration::from_secs(1)),
    jitter: 0.0,
    timeout: Duration::from_mins(1),
    place: Singleton,
    why: "shows a change within a second, so without jitter; writes only what differs, and only if it is what was read",
    ..USUAL
};

/// Brings old keys to their end.
pub const RESEAL: Duty = Duty {
    name: "reseal",
    schedule: every(Duration::from_mins(1)),
    timeout: Duration::from_mins(10),
    place: Singleton,
    why: "seals anew what is under an old data key, each object only if it is what was read; retires what nothing needs",
    ..USUAL
};

/// Writes the newest activity of sessions.
pub const SESSION_ACTIVITY: Duty = Duty {
    name: "session-activity",
    schedule: every(Duration::from_secs(10)),
    timeout: Duration::from_mins(2),
    place: EachProcess,
    why: "writes what this process saw of sessions to their status, where it only grows; reads never lag behind",
    ..USUAL
};

/// Every duty there is, in order of names.
pub const ALL: [&Duty; 11] = [
    &API_LEASE,
    &API_LEASES,
    &CERTIFICATE,
    &KEYRING,
    &LEFTOVERS,
    &NODE_CERTIFICATE,
    &OPERATIONS,
    &ORPHANS,
    &QUOTA_STATUS,
    &RESEAL,
    &SESSION_ACTIVITY,
];

/// What most duties have in common.
const USUAL: Duty = Duty {
    name: "",
    schedule: every(Duration::from_mins(1)),
    jitter: 0.1,
    timeout: Duration::from_mins(1),
    place: Place::EachProcess,
    retry: Retry::BackOff,
    missed: Missed::Counted,
    why: "",
};

const fn every(period: Duration) -> Schedule {
    Schedule::Every(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(duty: &Duty) -> String {
        let place = match duty.place {
            Singleton => "singleton",
            EachProcess => "each process",
        };
        let retry = match duty.retry {
            Retry::BackOff => "back-off",
            Retry::NextTick => "next due time",
        };
        let missed = match duty.missed {
            Missed::Counted => "counted",
            Missed::Each => "made up for",
        };
        let (period, timeout) = (words(duty.schedule.period()), words(duty.timeout));
        let (name, jitter, why) = (duty.name, duty.jitter * 100.0, duty.why);
        format!("| `{name}` | {period} | {jitter} % | {timeout} | {place} | {retry} | {missed} | {why} |")
    }

    fn words(span: Duration) -> String {
        match span.as_secs() {
            seconds if seconds % 3_600 == 0 => format!("{} h", seconds / 3_600),
            seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
            seconds => format!("{seconds} s"),
        }
    }

    #[test]
    fn the_documents_show_each_duty_as_it_is_and_no_other() {
        let shown = include_str!("../../../../docs/duties.md");
        let (duties, _) = shown.split_once("\n\nA *singleton*").expect("the table is the first");
        let rows: Vec<&str> = duties.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = ALL.into_iter().map(row).collect();
        assert_eq!(rows, expected, "docs/duties.md should have:\n{}", expected.join("\n"));
    }

    #[test]
    fn duties_are_told_apart_by_name_and_their_numbers_make_sense() {
        assert!(ALL.is_sorted_by(|one, next| one.name < next.name));
        for duty in ALL {
            assert!((0.0..=0.5).contains(&duty.jitter), "{}", duty.name);
            assert!(!duty.timeout.is_zero() && !duty.schedule.period().is_zero(), "{}", duty.name);
        }
    }
}
