//! Leadership: what a leader's writes carry, so that those of one who was replaced are refused.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The counter from which all terms are drawn, of whichever lease: of any two terms the later is the higher.
pub const TERMS: &str = "fence";

/// Under which lease, in which term, something is written. It is made only while that term is the lease's newest, which is
/// looked at in the write's own transaction. As text, `LEASE/TERM`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The lease's name.
    pub lease: Arc<str>,
    /// The writer's term.
    pub term: u64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lease, self.term)
    }
}

/// It is not `LEASE/TERM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected LEASE/TERM, the term a number")]
pub struct MalformedFence;

impl FromStr for Fence {
    type Err = MalformedFence;

    fn from_str(text: &str) -> Result<Self, MalformedFence> {
        let (lease, term) = text.rsplit_once('/').ok_or(MalformedFence)?;
        let term = term.parse().map_err(|_| MalformedFence)?;
        // More than the database counts to is nobody's.
        let is_term = i64::try_from(term).is_ok();
        if lease.is_empty() || lease.len() > 253 || !is_term {
            return Err(MalformedFence);
        }
        Ok(Self { lease: lease.into(), term })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_read_as_it_is_written() {
        let fence = Fence { lease: "controller/session".into(), term: 7 };
        assert_eq!(fence.to_string().parse(), Ok(fence));
        for wrong in ["", "a", "a/", "/7", "a/-1", "a/x", "a/9223372036854775808"] {
            assert_eq!(wrong.parse::<Fence>(), Err(MalformedFence), "{wrong}");
        }
    }
}
