//! What may happen to a queue.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};

use crate::operation::{State, StepState};

pub(super) const SLOTS: u8 = 6;
pub(super) const LEASE_MS: u64 = 1_000;

/// What is done; operations are given by their slots, attempts by how long ago they were claimed.
#[derive(Debug, Clone)]
pub(in crate::conformance) enum Step {
    Enqueue {
        slot: u8,
        lane: bool,
        key: Option<bool>,
        priority: i32,
        ahead_ms: i64,
        cancelled: bool,
    },
    /// A status write, with nothing for the queue.
    Touch(u8),
    Say {
        slot: u8,
        cancel: bool,
        replay: bool,
    },
    Delete(u8),
    Claim {
        limit: usize,
        per_lane: usize,
    },
    Journal {
        ago: usize,
        step: u8,
        state: StepState,
    },
    Settle {
        ago: usize,
        how: How,
    },
    Renew {
        ago: usize,
    },
    /// The wall clock goes on.
    Later(i64),
    /// The clock of leases goes on.
    Elapse(u64),
    Reopen,
    Crash,
}

#[derive(Debug, Clone, Copy)]
pub(in crate::conformance) enum How {
    Retry { ahead_ms: i64, undoing: bool },
    Later { ahead_ms: i64 },
    Unbegun { ahead_ms: i64 },
    Bury,
    End { state: State, stale: bool, delete: bool },
}

fn how() -> impl Strategy<Value = How> {
    let state = prop_oneof![Just(State::Succeeded), Just(State::Cancelled), Just(State::Dead)];
    let weighted = proptest::bool::weighted;
    prop_oneof![
        4 => (0_i64..200, any::<bool>()).prop_map(|(ahead_ms, undoing)| How::Retry { ahead_ms, undoing }),
        2 => (0_i64..200).prop_map(|ahead_ms| How::Later { ahead_ms }),
        1 => (0_i64..200).prop_map(|ahead_ms| How::Unbegun { ahead_ms }),
        1 => Just(How::Bury),
        4 => (state, weighted(0.2), weighted(0.2))
            .prop_map(|(state, stale, delete)| How::End { state, stale, delete }),
    ]
}

fn one() -> impl Strategy<Value = Step> {
    let ahead = prop_oneof![3 => Just(0_i64), 1 => 1_i64..300];
    let weighted = proptest::bool::weighted;
    let enqueue = (0..SLOTS, any::<bool>(), any::<Option<bool>>(), -1..2_i32, ahead, weighted(0.1));
    let state =
        prop_oneof![Just(StepState::Intent), Just(StepState::Done), Just(StepState::Undoing), Just(StepState::Undone)];
    let ago = || prop_oneof![3 => 0_usize..3, 1 => 0_usize..12];
    prop_oneof![
        8 => enqueue.prop_map(|(slot, lane, key, priority, ahead_ms, cancelled)| {
            Step::Enqueue { slot, lane, key, priority, ahead_ms, cancelled }
        }),
        1 => (0..SLOTS).prop_map(Step::Touch),
        4 => (0..SLOTS, any::<bool>(), any::<bool>()).prop_map(|(slot, cancel, replay)| Step::Say { slot, cancel, replay }),
        2 => (0..SLOTS).prop_map(Step::Delete),
        8 => (0_usize..5, 1_usize..4).prop_map(|(limit, per_lane)| Step::Claim { limit, per_lane }),
        4 => (ago(), 0_u8..3, state).prop_map(|(ago, step, state)| Step::Journal { ago, step, state }),
        8 => (ago(), how()).prop_map(|(ago, how)| Step::Settle { ago, how }),
        2 => ago().prop_map(|ago| Step::Renew { ago }),
        2 => (0_i64..200).prop_map(Step::Later),
        2 => prop_oneof![0..LEASE_MS, Just(LEASE_MS)].prop_map(Step::Elapse),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// Steps, and whether the next one may share the transaction.
pub(in crate::conformance) fn history(steps: usize) -> impl Strategy<Value = Vec<(Step, bool)>> {
    vec((one(), any::<bool>()), 1..=steps)
}
