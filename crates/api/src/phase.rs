//! The phases of a session and the moves between them; the API refuses any other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Accepted; nothing of its run exists yet.
    #[default]
    Pending,
    /// Its Pod exists, its agent is not yet known to run.
    Creating,
    /// The supervisor's first heartbeat was accepted.
    Running,
    /// It was told to stop, or ran into a limit; its sandbox is not yet known to be gone.
    Stopping,
    /// It was stopped.
    Stopped,
    /// Its agent finished by itself with success.
    Completed,
    /// Its agent failed, or its sandbox was lost, or could not be made.
    Failed,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 7] =
        [Self::Pending, Self::Creating, Self::Running, Self::Stopping, Self::Stopped, Self::Completed, Self::Failed];

    /// Whether a session may move from `self` to `next`; staying is always allowed.
    pub fn may_become(self, next: Self) -> bool {
        use Phase::{Completed, Creating, Failed, Pending, Running, Stopped, Stopping};
        self == next
            || match self {
                Pending => matches!(next, Creating | Failed | Stopped),
                Creating => matches!(next, Running | Completed | Failed | Stopping),
                Running => matches!(next, Completed | Failed | Stopping),
                Stopping => matches!(next, Stopped | Failed),
                // A new run.
                Completed | Failed | Stopped => next == Pending,
            }
    }

    /// Whether the run is over.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Completed | Self::Failed)
    }

    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Creating => "Creating",
            Self::Running => "Running",
            Self::Stopping => "Stopping",
            Self::Stopped => "Stopped",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        }
    }

    /// The phase of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R44: the state machine, written out a second time as the pairs that the design settles.
    #[test]
    fn only_the_settled_moves_are_allowed() {
        let allowed = "Pending>Creating Pending>Failed Pending>Stopped Creating>Running Creating>Completed Creating>Failed \
                       Creating>Stopping Running>Completed Running>Failed Running>Stopping Stopping>Stopped Stopping>Failed \
                       Completed>Pending Failed>Pending Stopped>Pending";
        let allowed: Vec<&str> = allowed.split_whitespace().collect();
        for from in Phase::ALL {
            for to in Phase::ALL {
                let expected = from == to || allowed.contains(&format!("{from}>{to}").as_str());
                assert_eq!(from.may_become(to), expected, "{from} -> {to}");
            }
        }
    }
}
