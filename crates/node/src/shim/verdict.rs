//! Judges how a sandbox ended. Pure: what was observed goes in, the record's reason comes out.

use mainstay_runtime::Timestamp;

use crate::launch::{ExitReason, ExitRecord, PodRef};

/// Why the shim itself ended a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It was ordered to.
    Stop,
    /// The sandbox outlived its deadline.
    Deadline,
    /// Its agent process had answered all that it was asked, and stayed.
    Answered,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The exit code, if it exited by itself.
    pub(crate) code: Option<i32>,
    /// The signal that ended it, if one did.
    pub(crate) signal: Option<i32>,
}

/// What the shim has seen of a sandbox, at its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Why it never started.
    pub(crate) creation: Option<String>,
    /// How the agent process ended, as its supervisor reported.
    pub(crate) agent: Option<Ending>,
    /// When that was.
    pub(crate) ended_at: Option<Timestamp>,
    /// How the init process ended.
    pub(crate) init: Ending,
    /// How many processes the kernel killed for want of memory.
    pub(crate) out_of_memory: u64,
    /// Why we ended it, if we did: an order that came before the agent process's end.
    pub(crate) cause: Option<Cause>,
}

const SIGKILL: i32 = 9;

/// The record of a sandbox that ended at `finished_at`.
pub(crate) fn judge(pod: &PodRef, seen: &Observed, started_at: Option<String>, finished_at: String) -> ExitRecord {
    let ending = seen.agent.unwrap_or(seen.init);
    let (reason, message) = reason(seen, ending);
    let known = seen.creation.is_none() && (seen.agent.is_some() || seen.init.signal.is_some());
    ExitRecord {
        pod: pod.clone(),
        reason,
        exit_code: ending.code.filter(|_| known),
        signal: ending.signal.filter(|_| known),
        message,
        started_at,
        finished_at,
    }
}

fn reason(seen: &Observed, ending: Ending) -> (ExitReason, String) {
    if let Some(why) = &seen.creation {
        return (ExitReason::CreationFailed, why.clone());
    }
    // A kill of our own also shows as SIGKILL, but does not raise the kernel's count.
    if ending.signal == Some(SIGKILL) && seen.out_of_memory > 0 && (seen.cause.is_none() || seen.agent.is_none()) {
        let count = seen.out_of_memory;
        return (ExitReason::OOMKilled, format!("out of memory: the kernel killed {count} process(es) of the sandbox"));
    }
    match (seen.cause, seen.agent, ending) {
        (Some(Cause::Deadline), ..) => (ExitReason::DeadlineExceeded, "the sandbox outlived its deadline".into()),
        (Some(Cause::Stop), ..) => (ExitReason::Stopped, String::new()),
        (Some(Cause::Answered), Some(_), _) => {
            (ExitReason::Completed, "the agent process had answered, stayed, and was ended".into())
        }
        (None, Some(_), Ending { code: Some(0), .. }) => (ExitReason::Completed, String::new()),
        (None, Some(_), Ending { code: Some(code), .. }) => {
            (ExitReason::Error, format!("the agent process exited with code {code}"))
        }
        (None, Some(_), Ending { signal, .. }) => {
            (ExitReason::Error, format!("the agent process was ended by signal {}", signal.unwrap_or_default()))
        }
        (None | Some(Cause::Answered), None, Ending { code, signal }) => {
            let how = match (code, signal) {
                (_, Some(signal)) => format!("was ended by signal {signal}"),
                (code, None) => format!("exited with code {}", code.unwrap_or_default()),
            };
            (ExitReason::Error, format!("the sandbox's supervisor {how}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Ending {
        Ending { code: Some(code), signal: None }
    }

    fn killed(signal: i32) -> Ending {
        Ending { code: None, signal: Some(signal) }
    }

    #[test]
    fn endings_are_told_apart() {
        use ExitReason::{Completed, CreationFailed, DeadlineExceeded, Error, OOMKilled, Stopped};
        let (stop, deadline, answered) = (Some(Cause::Stop), Some(Cause::Deadline), Some(Cause::Answered));
        let table = [
            (Some(exit(0)), exit(0), 0, None, Completed),
            (Some(exit(3)), exit(0), 0, None, Error),
            (Some(exit(3)), exit(0), 2, None, Error),
            (Some(exit(137)), exit(0), 0, None, Error),
            (Some(killed(9)), exit(0), 0, None, Error),
            (Some(killed(9)), exit(0), 1, None, OOMKilled),
            (Some(killed(11)), exit(0), 1, None, Error),
            (Some(killed(15)), exit(0), 0, stop, Stopped),
            (Some(exit(0)), exit(0), 0, stop, Stopped),
            (Some(killed(9)), exit(0), 1, stop, Stopped),
            (Some(exit(0)), exit(0), 0, deadline, DeadlineExceeded),
            (Some(killed(15)), exit(0), 0, answered, Completed),
            (Some(exit(1)), exit(0), 0, answered, Completed),
            (None, killed(9), 0, answered, Error),
            (None, killed(9), 0, deadline, DeadlineExceeded),
            (None, killed(9), 0, stop, Stopped),
            (None, killed(9), 0, None, Error),
            (None, killed(9), 1, None, OOMKilled),
            (None, exit(101), 0, None, Error),
        ];
        let pod = PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() };
        for (agent, init, out_of_memory, cause, reason) in table {
            let seen = Observed { agent, init, out_of_memory, cause, ..Observed::default() };
            assert_eq!(judge(&pod, &seen, None, String::new()).reason, reason, "{seen:?}");
        }
        let seen = Observed { creation: Some("no disk".into()), ..Observed::default() };
        let record = judge(&pod, &seen, None, String::new());
        assert_eq!((record.reason, record.message.as_str(), record.exit_code), (CreationFailed, "no disk", None));
    }
}
