//! How fast messages come in. Each sender of a session has an allowance of bytes of its own, which grows at a steady rate
//! up to a burst: one that floods a session waits, and neither its disk nor another sender does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_store::Sender;
use tokio::time::Instant;

use crate::config::Limits;

/// Senders that are remembered before the first look for those that are idle.
const SWEEP_FROM: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Bytes a second.
    rate: f64,
    burst: f64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    allowances: HashMap<(Arc<str>, Sender), Allowance>,
    sweep_at: usize,
}

/// Bytes that may be sent at a moment; less than none after more was sent than there were.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    bytes: f64,
    at: Instant,
}

impl Flow {
    pub(crate) fn new(limits: &Limits) -> Self {
        let number = |bytes: u32| f64::from(bytes.max(1));
        Self { rate: number(limits.messages_rate), burst: number(limits.messages_burst), known: Mutex::default() }
    }

    /// Takes as much from the sender's allowance, which any of it suffices for: so no size is refused for ever.
    ///
    /// # Errors
    /// How long to wait, when there is nothing left.
    pub(crate) fn take(&self, session: &Arc<str>, sender: Sender, bytes: usize) -> Result<(), Duration> {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.allowances.len() >= known.sweep_at.max(SWEEP_FROM) {
            // One that is whole again is as one that was never used.
            known.allowances.retain(|_, allowance| self.grown(*allowance, now) < self.burst);
            known.sweep_at = known.allowances.len() * 2;
        }
        let unused = Allowance { bytes: self.burst, at: now };
        let allowance = known.allowances.entry((session.clone(), sender)).or_insert(unused);
        let there = self.grown(*allowance, now);
        if there <= 0.0 {
            return Err(Duration::from_secs_f64((1.0 - there) / self.rate));
        }
        *allowance = Allowance { bytes: there - f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)), at: now };
        Ok(())
    }

    fn grown(&self, allowance: Allowance, now: Instant) -> f64 {
        let since = now.saturating_duration_since(allowance.at).as_secs_f64();
        self.rate.mul_add(since, allowance.bytes).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow::new(&Limits { messages_rate: 100, messages_burst: 1_000, ..Limits::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_gets_its_burst_and_then_its_rate() {
        let (flow, session) = (flow(), Arc::from("s"));
        let take = |bytes| flow.take(&session, Sender::Agent, bytes);
        assert_eq!((take(600), take(600)), (Ok(()), Ok(())), "what is left suffices for more");
        let wait = take(1).unwrap_err();
        assert!((2.0..2.1).contains(&wait.as_secs_f64()), "{wait:?} for 200 bytes too many");
        tokio::time::advance(wait).await;
        assert_eq!(take(50), Ok(()));
        assert!(take(1).is_err());
        let mut sent = 0;
        for _ in 0..200 {
            tokio::time::advance(Duration::from_secs(1)).await;
            sent += if take(400).is_ok() { 400 } else { 0 };
        }
        assert!((19_000..=20_800).contains(&sent), "{sent} bytes in 200 s");
    }

    #[tokio::test(start_paused = true)]
    async fn senders_and_sessions_do_not_wait_for_each_other_and_the_idle_are_forgotten() {
        let flow = flow();
        let of = |number: usize| Arc::<str>::from(number.to_string());
        assert_eq!(flow.take(&of(0), Sender::Agent, 10_000), Ok(()));
        for sender in [Sender::User, Sender::Platform] {
            assert_eq!(flow.take(&of(0), sender, 1), Ok(()));
        }
        for number in 1..500 {
            assert_eq!(flow.take(&of(number), Sender::Agent, 1_000), Ok(()));
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        let known = flow.known.lock().unwrap().allowances.len();
        assert!(known < 100, "{known} are known; about 20 are not whole again");
        assert_eq!(flow.take(&of(0), Sender::Agent, 1), Ok(()));
    }
}
