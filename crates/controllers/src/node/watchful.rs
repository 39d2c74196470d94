//! For how long nothing was heard of a node, by our own clock of moments.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use mainstay_runtime::Clock;

/// For how long a node was silent, as far as this process has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Silence {
    /// Since its lease was seen to change; for ever, when nobody has ever taken it.
    pub of_agent: Duration,
    /// The end of that during which the API was served, so that its agent could have been heard.
    pub counted: Duration,
    /// Since it was seen to be called not ready; zero while it is not.
    pub known: Duration,
}

/// Remembers when leases were seen to change. Losing it gives every node the time of a lease anew.
#[derive(Debug)]
pub(super) struct Watchful {
    clock: Clock,
    seen: Mutex<HashMap<String, Sighting>>,
}

#[derive(Debug)]
struct Sighting {
    renewal: String,
    heard: Duration,
    unready: Option<Duration>,
}

impl Watchful {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, seen: Mutex::default() }
    }

    /// A node was just said to be ready, or not.
    pub(super) fn said(&self, node: &str, ready: bool) {
        let now = self.clock.since_boot();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sighting) = seen.get_mut(node) {
            sighting.unready = (!ready).then(|| sighting.unready.unwrap_or(now));
        }
    }

    /// Looks at a node's lease, and at whether it is said to be ready; the API was `served` for so long.
    pub(super) fn look(&self, node: &str, lease: Option<&Lease>, said_ready: bool, served: Duration) -> Silence {
        let now = self.clock.since_boot();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let Some(renewed) = spec.and_then(|spec| spec.renew_time.as_ref()) else {
            seen.remove(node);
            return Silence { of_agent: Duration::MAX, counted: served, known: Duration::ZERO };
        };
        let renewal = format!("{:?} {:?}", spec.and_then(|spec| spec.lease_transitions), renewed.0);
        let sighting = seen.entry(node.to_owned()).or_insert_with(|| Sighting {
            renewal: renewal.clone(),
            heard: now,
            unready: None,
        });
        if sighting.renewal != renewal {
            (sighting.renewal, sighting.heard) = (renewal, now);
        }
        sighting.unready = if said_ready { None } else { Some(sighting.unready.unwrap_or(now)) };
        let known = sighting.unready.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let of_agent = now.saturating_sub(sighting.heard);
        Silence { of_agent, counted: of_agent.min(served), known }
    }
}
