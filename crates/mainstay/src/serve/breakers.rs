//! What stands in front of backends, and who hears of it: the log says when a backend is left alone, and when it is well.

use mainstay_runtime::resilience::breaker::{Change, State};
use mainstay_runtime::resilience::gates::{Gates, Key};

/// Gates that are remembered at a time: each backend has at most three for each of its hosts.
const MOST: usize = 256;

/// The gates of the process.
pub(super) fn gates() -> Gates {
    Gates::new(MOST).on_change(tell)
}

/// Once for each illness: that each probe fails, every half a minute, is in the figures.
fn tell(key: &Key, change: Change) {
    let Key { backend, class, host } = key;
    match (change.from, change.to) {
        (State::Closed, _) => tracing::warn!(backend, class, %host, "a breaker opened: the backend is left alone"),
        (_, State::Closed) => tracing::info!(backend, class, %host, "a breaker closed: the backend is well"),
        (from, to) => {
            tracing::debug!(backend, class, %host, from = from.as_str(), to = to.as_str(), "a breaker changed");
        }
    }
}
