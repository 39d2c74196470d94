//! Single words with the API about a lease: each has a deadline, and changes only the version that was read.

use std::future::Future;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use tokio::time::{Instant, timeout};

use super::{Inner, Taken};
use crate::CallError;
use crate::failure::{Class, Classify, Doing, Failure, Reason};

/// How long one word may take.
pub(super) const WORD: Duration = Duration::from_secs(5);

/// The term that a lease is in.
pub(super) fn term(spec: &LeaseSpec) -> u64 {
    u64::try_from(spec.lease_transitions.unwrap_or(0)).unwrap_or(0)
}

/// How long it lasts, as its holder says.
pub(super) fn duration(spec: &LeaseSpec) -> Option<Duration> {
    let seconds = u64::try_from(spec.lease_duration_seconds?).ok()?;
    Some(Duration::from_secs(seconds))
}

/// The name of a lease's object.
fn object(name: &str) -> String {
    name.replace('/', ".")
}

async fn word<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match timeout(WORD, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::NoAnswer(WORD)),
    }
}

impl Inner {
    /// The lease as it is; nothing when there is none.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Lease>, Failure> {
        word(self.api.get_opt(&object(name))).await.doing(format!("look at the lease {name}"))
    }

    /// Takes a lease that is as it was found. Nothing when somebody else was first.
    pub(super) async fn take(&self, name: &str, found: Option<Lease>, term: u64) -> Result<Option<Taken>, Failure> {
        let doing = || format!("take the lease {name}");
        let transitions = i32::try_from(term)
            .map_err(|error| Failure::caused_by(Class::Terminal(Reason::Invalid), "count one more term", error))?;
        let now = Some(MicroTime(self.clock.now()));
        let spec = LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(self.pace.duration.as_secs()).ok(),
            lease_transitions: Some(transitions),
            acquire_time: now.clone(),
            renew_time: now,
            ..found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default()
        };
        let sent = Instant::now();
        let params = PostParams::default();
        let taken = if let Some(found) = found {
            let next = Lease { spec: Some(spec), ..found };
            word(self.api.replace(&object(name), &params, &next)).await
        } else {
            let metadata = ObjectMeta { name: Some(object(name)), ..ObjectMeta::default() };
            word(self.api.create(&params, &Lease { metadata, spec: Some(spec) })).await
        };
        match taken {
            Ok(lease) => Ok(Some(Taken { lease, term, sent })),
            Err(error) => match error.class() {
                Class::Conflict | Class::Terminal(Reason::AlreadyExists | Reason::NotFound) => Ok(None),
                _ => Err(error).doing(doing()),
            },
        }
    }

    /// Says that it is still held, and keeps the version that this makes. Tells whether it is.
    pub(super) async fn renew(&self, name: &str, term: u64, lease: &mut Lease) -> Result<bool, Failure> {
        let now = MicroTime(self.clock.now());
        let renew = |spec: &mut LeaseSpec| {
            // Whoever waits has to see a change, also when the clock stands still.
            let same = spec.renew_time.as_ref() == Some(&now);
            spec.renew_time = Some(if same { MicroTime(now.0 + SignedDuration::from_micros(1)) } else { now.clone() });
        };
        self.change((name, term), lease, renew).await.doing(format!("renew the lease {name}"))
    }

    /// Hands it back, if it is still held.
    pub(super) async fn release(&self, name: &str, term: u64, lease: &mut Lease) -> Result<(), Failure> {
        let release = |spec: &mut LeaseSpec| {
            spec.holder_identity = Some(String::new());
            // As client-go does; its waiters count this from when they see it.
            spec.lease_duration_seconds = Some(1);
        };
        let released = self.change((name, term), lease, release);
        let silent = |_| Err(CallError::NoAnswer(WORD));
        timeout(WORD, released).await.unwrap_or_else(silent).map(drop).doing(format!("hand the lease {name} back"))
    }

    /// Changes a lease that is still ours. Tells whether it is.
    async fn change(
        &self,
        (name, term): (&str, u64),
        lease: &mut Lease,
        change: impl Fn(&mut LeaseSpec),
    ) -> Result<bool, CallError> {
        loop {
            let mut next = lease.clone();
            change(next.spec.get_or_insert_default());
            let failure = match word(self.api.replace(&object(name), &PostParams::default(), &next)).await {
                Ok(kept) => {
                    *lease = kept;
                    return Ok(true);
                }
                Err(failure) => failure,
            };
            match failure.class() {
                // Another holder's; or a label, or a word of ours whose answer was lost.
                Class::Conflict => match word(self.api.get_opt(&object(name))).await? {
                    Some(found) if self.is_ours(&found, term) => *lease = found,
                    _ => return Ok(false),
                },
                Class::Terminal(Reason::NotFound) => return Ok(false),
                _ => return Err(failure),
            }
        }
    }

    fn is_ours(&self, lease: &Lease, term: u64) -> bool {
        let is_ours =
            |spec: &LeaseSpec| spec.holder_identity.as_deref() == Some(&self.holder) && self::term(spec) == term;
        lease.spec.as_ref().is_some_and(is_ours)
    }
}
