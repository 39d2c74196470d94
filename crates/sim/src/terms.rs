//! Who leads, as the leaders themselves see it: at most one at a time, and somebody soon.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainstay_runtime::lease::Held;
use tokio_util::sync::CancellationToken;

use crate::clients::LEASES;
use crate::host::Host;
use crate::wire::Weather;

/// The longest that nobody leads while somebody could, in milliseconds: a host is silent for 10 s, and that is seen.
const LEADERLESS: u64 = 12_500;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Terms(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By term: the lease, who leads, and whether it is lost.
    begun: BTreeMap<u64, (&'static str, Arc<str>, CancellationToken)>,
    /// Since when nobody leads although somebody could.
    since: BTreeMap<&'static str, u64>,
}

impl Terms {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, who: &Arc<str>, held: &Held) {
        self.lock().begun.insert(held.term, (held.name, Arc::clone(who), held.lost.clone()));
    }

    pub(crate) fn end(&self, term: u64) {
        self.lock().begun.remove(&term);
    }

    /// Whatever it led, it is dead.
    pub(crate) fn gone(&self, who: &str) {
        self.lock().begun.retain(|_, (_, of, _)| **of != *who);
    }

    /// Looks at all leases at one moment. Gives the promise that is broken.
    pub(crate) fn look(&self, hosts: &[Host], now_ms: u64) -> Result<(), (&'static str, String)> {
        let mut state = self.lock();
        let steady = hosts.iter().any(|host| host.is_well_since(now_ms.saturating_sub(LEADERLESS)));
        // Of who hears only some of the answers, a lease may be taken that nobody hears of.
        let clear = hosts.iter().all(|host| !matches!(host.wire.weather(), Weather::Lossy(_)));
        for lease in LEASES {
            let leads = |able: &dyn Fn(&Host) -> bool| -> Vec<Arc<str>> {
                let here = |who: &str| hosts.iter().any(|host| *host.name == *who && able(host));
                let terms = state.begun.values().filter(|(of, _, lost)| *of == lease && !lost.is_cancelled());
                terms.filter(|(_, who, _)| here(who)).map(|(_, who, _)| Arc::clone(who)).collect()
            };
            // Of who was frozen nobody can say what it believes before it had a moment.
            let leaders = leads(&|host| host.is_awake_since(now_ms, 3_000));
            if leaders.len() > 1 {
                return Err(("one leads at a time", format!("{lease}: {leaders:?}")));
            }
            let is_led = !leads(&|host| host.is_awake_since(now_ms, 0)).is_empty();
            let since = *state.since.entry(lease).or_insert(now_ms);
            if is_led || !clear || !steady {
                state.since.insert(lease, now_ms);
            } else if now_ms - since > LEADERLESS {
                return Err(("somebody leads soon", format!("{lease}: nobody since {since} ms")));
            }
        }
        Ok(())
    }
}
