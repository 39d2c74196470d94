//! Guards that drills take away, one at a time, to see that it is noticed.
//!
//! Without feature `drills`, which no build has that people run, all guards hold and asking costs nothing. With it,
//! [`ENV`] names those that do not. docs/drills.md says which drill fails without which.

/// The environment variable that names guards to be taken away, with commas between them.
pub const ENV: &str = "MAINSTAY_DRILL_WITHOUT";

macro_rules! guards {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Every guard that can be taken away.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Guard { $($(#[doc = $doc])+ $name,)+ }

        impl Guard {
            /// All guards.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The guard's name in [`ENV`].
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

guards! {
    /// A step's intent is in the journal before it acts.
    Intent = "intent",
    /// A step in doubt is observed before it acts again.
    Observation = "observation",
    /// A step is taken back also when there is no trace of it.
    Untraced = "untraced",
    /// A worker carries on only what it still holds: an attempt that is over may not speak.
    Attempt = "attempt",
    /// What workers die of is taken for their death's cause in the end.
    LostLimit = "lost-limit",
    /// One of a concurrency key at a time.
    ConcurrencyKey = "concurrency-key",
    /// No project has more running at a time than its share.
    LaneLimit = "lane-limit",
    /// Repeats of calls are paid from a budget.
    RetryBudget = "retry-budget",
    /// A call that was not sent uses up none of its operation's attempts.
    Unsent = "unsent",
}

impl Guard {
    /// Whether it is there.
    #[cfg(not(feature = "drills"))]
    pub const fn holds(self) -> bool {
        let _ = self;
        true
    }

    /// Whether it is there.
    #[cfg(feature = "drills")]
    pub fn holds(self) -> bool {
        static AWAY: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let away = AWAY.get_or_init(|| std::env::var(ENV).unwrap_or_default());
        away.split(',').all(|name| name != self.name())
    }
}
