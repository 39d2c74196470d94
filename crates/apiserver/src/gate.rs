//! How many streams may be open, in all and for one identity.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::auth::Identity;
use crate::config::Limits;
use crate::status::{ApiError, ApiResult};

/// Counts open streams; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: usize,
    each: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    of: HashMap<String, usize>,
}

/// The right to have one stream open; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Gate,
    user: String,
}

impl Gate {
    /// A gate with a server's limits.
    pub(crate) fn new(limits: &Limits) -> Self {
        let (all, each) = (limits.watches, limits.watches_per_identity);
        Self(Arc::new(Shared { all, each, open: Mutex::default() }))
    }

    /// Lets one more stream in.
    ///
    /// # Errors
    /// 429 at either limit.
    pub(crate) fn enter(&self, identity: &Identity) -> ApiResult<Permit> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = open.of.get(identity.user()).copied().unwrap_or(0);
        if open.all >= self.0.all || mine >= self.0.each {
            return Err(ApiError::too_many_requests(format!(
                "too many open watches and streams: {mine} of {} for this user, {} of {} in all",
                self.0.each, open.all, self.0.all
            )));
        }
        open.all += 1;
        let user = identity.user().to_owned();
        open.of.insert(user.clone(), mine + 1);
        drop(open);
        Ok(Permit { gate: self.clone(), user })
    }

    /// Streams that are open now.
    pub(crate) fn open(&self) -> usize {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.gate.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        let left = open.of.get(&self.user).map_or(0, |mine| mine - 1);
        if left == 0 {
            open.of.remove(&self.user);
        } else {
            open.of.insert(std::mem::take(&mut self.user), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_permits_come_back() {
        let gate = Gate::new(&Limits { watches: 3, watches_per_identity: 2, ..Limits::default() });
        let (a, b) = (Identity::new("a", [""; 0]), Identity::new("b", [""; 0]));
        let first = gate.enter(&a).unwrap();
        let _second = gate.enter(&a).unwrap();
        assert_eq!(gate.enter(&a).unwrap_err().code(), 429);
        let _third = gate.enter(&b).unwrap();
        assert_eq!(gate.enter(&b).unwrap_err().code(), 429);
        drop(first);
        assert_eq!(gate.open(), 2);
        assert!(gate.enter(&b).is_ok());
    }
}
