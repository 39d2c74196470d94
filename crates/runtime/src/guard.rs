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
    /// A leader that could not renew in time stops, before another may lead.
    LeaseTerm = "lease-term",
    /// What came of a batch whose answer was lost is asked before anything is sent again.
    Settle = "settle",
    /// A call that was not sent uses up none of its operation's attempts.
    Unsent = "unsent",
    /// Batches are carried out one after the other: whoever is to have the next revisions holds the log.
    LogLock = "log-lock",
    /// Nothing is written to another database than was entered.
    Place = "place",
    /// What is said of leases has a connection of its own.
    Reserved = "reserved",
    /// A lease is judged by how long its waiter has seen it unrenewed, by the waiter's own clock.
    OwnClock = "own-clock",
    /// What the database says of new work is heeded when no turn follows.
    Hints = "hints",
    /// A peer that takes nothing of a stream loses it.
    Stall = "stall",
    /// After a disk's failure nothing more is done.
    FailedSync = "failed-sync",
    /// A watch begins where it is asked to.
    Resume = "resume",
    /// What begins below what is kept of the history is refused.
    Floor = "floor",
    /// History that nobody can ask for goes.
    Compaction = "compaction",
    /// What is deleted is there until all who have to do with it are done.
    Finalizers = "finalizers",
    /// Who deletes what it saw does not delete what has its name by now.
    Uid = "uid",
    /// What is too much is refused.
    Shedding = "shedding",
}

/// The SQL of a schema without what stands between `/*NAME*/` and `/*.*/`, for each guard that is away: what stands in
/// functions is taken away where they are made.
#[cfg(not(feature = "drills"))]
pub const fn in_sql(text: String) -> String {
    text
}

/// The SQL of a schema without what stands between `/*NAME*/` and `/*.*/`, for each guard that is away: what stands in
/// functions is taken away where they are made.
#[cfg(feature = "drills")]
pub fn in_sql(text: String) -> String {
    Guard::ALL.iter().filter(|guard| !guard.holds()).fold(text, |text, guard| {
        let begins = format!("/*{}*/", guard.name());
        let (first, rest) = text.split_once(&begins).unwrap_or((&text, ""));
        let after = |piece: &str| piece.split_once("/*.*/").map_or(String::new(), |(_, after)| after.to_owned());
        rest.split(&begins).fold(first.to_owned(), |kept, piece| kept + &after(piece))
    })
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
