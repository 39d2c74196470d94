//! How it is sick.

use serde::{Deserialize, Serialize};

/// Which calls: all those that match what is given. Reads are the verbs `effect`, `resources` and `ping`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct On {
    /// Of this backend.
    pub backend: Option<String>,
    /// Of this verb.
    pub verb: Option<String>,
}

impl On {
    /// Every call.
    pub fn all() -> Self {
        Self::default()
    }

    /// The calls of one verb.
    pub fn verb(backend: &str, verb: &str) -> Self {
        Self { backend: Some(backend.to_owned()), verb: Some(verb.to_owned()) }
    }

    fn is(&self, backend: &str, verb: &str) -> bool {
        self.backend.as_deref().is_none_or(|own| own == backend) && self.verb.as_deref().is_none_or(|own| own == verb)
    }
}

/// What happens to a call. Whether its effect is done is part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// No effect; never answered.
    Stall,
    /// Done; the answer's head and a little of its body come, and then nothing.
    StallBody,
    /// No effect; answered so.
    Status {
        /// The HTTP status.
        code: u16,
        /// In a `retry-after` header.
        retry_after_seconds: Option<u64>,
    },
    /// Done at once, answered late.
    LateAnswer {
        /// So late.
        millis: u64,
    },
    /// Done late, whether or not the caller is still there: a straggler.
    LateEffect {
        /// So late.
        millis: u64,
    },
    /// Done; the connection is cut without an answer.
    Cut,
    /// Answered with 200 and something that is no answer to this call.
    Lie {
        /// With what.
        with: Lie,
        /// Whether it is done all the same.
        done: bool,
    },
    /// The process aborts.
    Die(Die),
}

/// What a lie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lie {
    /// Something that is not JSON.
    Nonsense,
    /// The answer to another call.
    Other,
    /// An answer that is longer than anything sensible.
    Endless,
}

/// When it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Die {
    /// Nothing is done.
    Before,
    /// Done, and not answered.
    After,
}

/// An order to be sick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    /// Which calls.
    pub on: On,
    /// What happens to them.
    pub fault: Fault,
    /// How often; until told otherwise when absent.
    pub times: Option<u32>,
}

/// The orders that count, oldest first.
#[derive(Debug, Default)]
pub(super) struct Drills(Vec<Drill>);

impl Drills {
    pub(super) fn order(&mut self, drill: Drill) {
        self.0.push(drill);
    }

    pub(super) fn calm(&mut self) {
        self.0.clear();
    }

    /// What is to happen to this call.
    pub(super) fn take(&mut self, backend: &str, verb: &str) -> Option<Fault> {
        let at = self.0.iter().position(|drill| drill.on.is(backend, verb) && drill.times != Some(0))?;
        let drill = self.0.get_mut(at)?;
        let fault = drill.fault.clone();
        drill.times = drill.times.map(|times| times - 1);
        Some(fault)
    }
}
