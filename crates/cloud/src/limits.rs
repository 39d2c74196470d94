//! The numbers of all backends, in one place; docs/resilience.md shows the same table, and says what they have in common.

use std::time::Duration;

use mainstay_runtime::resilience::gates::Limits;

/// A class of operation of a backend: what is gated together.
#[derive(Debug)]
pub struct Class {
    /// Its name in metrics, logs and tables.
    pub name: &'static str,
    /// Its numbers.
    pub limits: Limits,
    /// Why these.
    pub why: &'static str,
}

/// A backend.
#[derive(Debug)]
pub struct Backend {
    /// Its name in metrics, logs and tables.
    pub name: &'static str,
    /// How it is looked at.
    pub read: &'static Class,
    /// How it is made to do things.
    pub effects: &'static [&'static Class],
}

/// How backends are asked how they are.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// For how long an answer counts.
    pub fresh: Duration,
    /// For how long it is waited for.
    pub deadline: Duration,
}

/// Longest answer of a backend, in bytes. What it has made itself is far shorter; a list of ten thousand things fits.
pub const MOST_ANSWER: usize = 4 * 1024 * 1024;

/// Of all backends.
pub const PING: Ping = Ping { fresh: Duration::from_secs(5), deadline: Duration::from_secs(5) };

/// All backends.
pub const ALL: [&Backend; 5] =
    [&compute::LIMITS, &dns::LIMITS, &load_balancer::LIMITS, &network::LIMITS, &storage::LIMITS];

const fn seconds(seconds: u64) -> Limits {
    Limits::of(Duration::from_secs(seconds))
}

/// Minutes, not milliseconds: three failures say enough, and the operation repeats it, having looked first.
const fn long(minutes: u64) -> Limits {
    Limits::of(Duration::from_secs(minutes * 60)).opened_by(3).attempts(1)
}

/// Of [`Compute`](crate::port::Compute).
pub mod compute {
    use super::{Backend, Class, long, seconds};

    const READ: Class = Class {
        name: "read",
        limits: seconds(10).places(20),
        why: "answered from memory; whoever reconciles waits for it",
    };
    /// Start, stop, delete.
    pub const EFFECT: Class = Class {
        name: "effect",
        limits: seconds(120).places(20),
        why: "stopping waits for what runs inside to end, up to a minute and a half",
    };
    /// Launch, tasks.
    pub const LONG: Class = Class {
        name: "long",
        limits: long(10).places(20),
        why: "images are fetched and tasks run to their end; places of their own, so that 20 of them hold up no stop",
    };
    /// All.
    pub const LIMITS: Backend = Backend { name: "compute", read: &READ, effects: &[&EFFECT, &LONG] };
}

/// Of [`Network`](crate::port::Network).
pub mod network {
    use super::{Backend, Class, seconds};

    const READ: Class = Class {
        name: "read",
        limits: seconds(10).places(15),
        why: "answered from memory; whoever reconciles waits for it",
    };
    /// All effects.
    pub const EFFECT: Class = Class {
        name: "effect",
        limits: seconds(30).places(15),
        why: "one transaction of a switch; more at a time wait for its lock",
    };
    /// All.
    pub const LIMITS: Backend = Backend { name: "network", read: &READ, effects: &[&EFFECT] };
}

/// Of [`Storage`](crate::port::Storage).
pub mod storage {
    use super::{Backend, Class, long, seconds};

    const READ: Class = Class {
        name: "read",
        limits: seconds(10).places(10),
        why: "answered from memory; whoever reconciles waits for it",
    };
    /// Create, resize, delete.
    pub const EFFECT: Class = Class {
        name: "effect",
        limits: seconds(30).places(10),
        why: "changes to tables of a volume group, one after the other",
    };
    /// Snapshots.
    pub const LONG: Class = Class {
        name: "long",
        limits: long(5).places(10),
        why: "may copy a volume; more at a time than disks can write only make each slower",
    };
    /// All.
    pub const LIMITS: Backend = Backend { name: "storage", read: &READ, effects: &[&EFFECT, &LONG] };
}

/// Of [`Dns`](crate::port::Dns).
pub mod dns {
    use super::{Backend, Class, seconds};

    const READ: Class = Class { name: "read", limits: seconds(10).places(10), why: "one row of a database" };
    /// All effects.
    pub const EFFECT: Class = Class {
        name: "effect",
        limits: seconds(10).places(10),
        why: "one row of a database; without a bound on calls, one sick server took every caller with it",
    };
    /// All.
    pub const LIMITS: Backend = Backend { name: "dns", read: &READ, effects: &[&EFFECT] };
}

/// Of [`LoadBalancer`](crate::port::LoadBalancer).
pub mod load_balancer {
    use super::{Backend, Class, long, seconds};

    const READ: Class = Class {
        name: "read",
        limits: seconds(10).places(10),
        why: "answered from memory; whoever reconciles waits for it",
    };
    /// Update, remove.
    pub const EFFECT: Class =
        Class { name: "effect", limits: seconds(30).places(10), why: "a configuration is written and taken up" };
    /// Deploy.
    pub const LONG: Class =
        Class { name: "long", limits: long(2).places(10), why: "starts a balancer, which fetches its image" };
    /// All.
    pub const LIMITS: Backend = Backend { name: "load-balancer", read: &READ, effects: &[&EFFECT, &LONG] };
}

#[cfg(test)]
mod tests;
