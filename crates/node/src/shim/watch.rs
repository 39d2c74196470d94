//! The shim's long life: one `poll` loop over the init process, its output, the deadline and orders.

use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mainstay_runtime::Clock;
use mainstay_runtime::clock::boottime;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::LOG_DIR;
use super::claim::Claim;
use super::control::Control;
use super::log::LogWriter;
use super::record::write_state;
use super::start::Started;
use super::verdict::{Cause, Ending, Observed};
use crate::launch::{Answer, Launch, Order, RunState, Verb};
use crate::supervisor::FLUSH_AT_STOP;
use crate::supervisor::link::{Instruction, Report, send};

/// Time for the supervisor beyond the grace period and the last messages.
const MARGIN: Duration = Duration::from_secs(2);
/// How long to read on from pipes that somebody holds after the init process is gone (without a pid namespace only).
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// How often to look whether the run directory is still there.
const LOOK: Duration = Duration::from_secs(10);
/// Longer grace periods, in seconds, are cut to this.
const LONGEST_GRACE: u64 = 7 * 24 * 3600;

#[derive(Debug, Clone, Copy)]
enum Source {
    Init,
    Link,
    Output(usize),
    Timer,
    Control(usize),
}

struct Watch<'a> {
    launch: &'a Launch,
    state: &'a mut RunState,
    started: Started,
    open: [bool; 2],
    link_open: bool,
    log: LogWriter,
    control: Control,
    claim: &'a Claim,
    timer: OwnedFd,
    look_at: Option<Duration>,
    deadline: Option<Duration>,
    kill_at: Option<Duration>,
    seen: Observed,
}

/// Watches a started sandbox to its end.
pub(super) fn watch(
    launch: &Launch,
    state: &mut RunState,
    started: Started,
    (control, claim): (Control, &Claim),
) -> Observed {
    let log = LogWriter::new(&launch.run_dir.join(LOG_DIR), launch.log, Clock::system());
    let timer = match timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK) {
        Ok(timer) => timer,
        Err(error) => {
            pidfd_send_signal(&started.child.pidfd, Signal::KILL).ok();
            super::wait(started.child.pid);
            return Observed { creation: Some(format!("make the deadline's timer: {error}")), ..Observed::default() };
        }
    };
    let deadline = launch.deadline_seconds.and_then(|seconds| boottime().checked_add(Duration::from_secs(seconds)));
    let mut watch = Watch {
        launch,
        state,
        started,
        open: [true; 2],
        link_open: true,
        log,
        control,
        claim,
        timer,
        look_at: Some(boottime() + LOOK),
        deadline,
        kill_at: None,
        seen: Observed::default(),
    };
    watch.run();
    watch.seen
}

impl Watch<'_> {
    fn run(&mut self) {
        self.arm();
        let mut ended = false;
        while !ended {
            for source in self.ready(None) {
                match source {
                    Source::Init => ended |= self.reap(),
                    Source::Link => self.read_reports(),
                    Source::Output(stream) => self.read_output(stream),
                    Source::Timer => self.due(),
                    Source::Control(index) => self.order(index),
                }
            }
        }
        self.read_reports();
        let until = boottime() + LAST_OUTPUT;
        while self.open.contains(&true) && boottime() < until {
            for source in self.ready(Some(until.saturating_sub(boottime()))) {
                if let Source::Output(stream) = source {
                    self.read_output(stream);
                }
            }
        }
        self.log.finish();
    }

    /// Waits until something can be done, and says what.
    fn ready(&self, timeout: Option<Duration>) -> Vec<Source> {
        let mut sources = Vec::with_capacity(8);
        let mut polled = Vec::with_capacity(8);
        if timeout.is_none() {
            sources.extend([Source::Init, Source::Timer]);
            polled.extend([self.started.child.pidfd.as_fd(), self.timer.as_fd()]);
            if self.link_open {
                sources.push(Source::Link);
                polled.push(self.started.link.as_fd());
            }
            for (index, source) in self.control.sources().enumerate() {
                sources.push(Source::Control(index));
                polled.push(source);
            }
        }
        for stream in (0..2).filter(|stream| self.open[*stream]) {
            sources.push(Source::Output(stream));
            polled.push(self.started.output[stream].as_fd());
        }
        let mut polled: Vec<_> = polled.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        if poll(&mut polled, timeout.as_ref()).is_err() {
            // Interrupted: look again.
            return Vec::new();
        }
        // Connections last and in reverse, so that dropping one does not move another that is still to be handled.
        let ready = sources.into_iter().zip(&polled).filter(|(_, polled)| !polled.revents().is_empty());
        let mut ready: Vec<_> = ready.map(|(source, _)| source).collect();
        ready.sort_by_key(|source| if let Source::Control(index) = source { usize::MAX - index } else { 0 });
        ready
    }

    fn reap(&mut self) -> bool {
        match waitid(WaitId::PidFd(self.started.child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                self.seen.init = Ending { code: status.exit_status(), signal: status.terminating_signal() };
                true
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => false,
            Err(_) => true,
        }
    }

    fn read_reports(&mut self) {
        loop {
            match self.started.reports.next::<Report>() {
                Ok(Some(report)) => self.take(report),
                Ok(None) => match self.started.reports.fill(|chunk| (&self.started.link).read(chunk)) {
                    Ok(true) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Ok(false) | Err(_) => return self.link_open = false,
                },
                Err(_) => return self.link_open = false,
            }
        }
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Failed { message } => self.seen.creation = Some(message),
            Report::Exited { code, signal } => {
                self.seen.agent = Some(Ending { code, signal });
                self.seen.ended_at = Some(Clock::system().now());
            }
            Report::Answered => drop(self.seen.cause.get_or_insert(Cause::Answered)),
            Report::NeedsMaps | Report::Ready { .. } | Report::Started => {}
        }
    }

    fn read_output(&mut self, stream: usize) {
        let mut chunk = [0; 16 * 1024];
        let output: &mut PipeReader = &mut self.started.output[stream];
        match output.read(&mut chunk) {
            Ok(0) => self.open[stream] = false,
            Ok(count) => self.log.write(stream, &chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.open[stream] = false,
        }
    }

    fn order(&mut self, index: usize) {
        let mut orders = Vec::new();
        let (state, run_dir) = (&mut *self.state, &self.launch.run_dir);
        self.control.handle(index, |order: Order| {
            if order.fence < state.fence {
                let message = format!("the order's fence {} is older than {}", order.fence, state.fence);
                return Answer { accepted: false, message };
            }
            if order.fence > state.fence {
                state.fence = order.fence;
                // Before the answer, so that whoever has it finds it written.
                write_state(run_dir, state).ok();
            }
            orders.push(order.verb);
            Answer { accepted: true, message: String::new() }
        });
        for verb in orders {
            match verb {
                Verb::Stop { grace_seconds } => self.stop(Cause::Stop, grace_seconds),
                Verb::Fence => {}
            }
        }
    }

    /// Has the supervisor end the agent process; a repeated stop may only bring the end nearer.
    fn stop(&mut self, cause: Cause, grace_seconds: u64) {
        // What is ordered after the agent process's own end has not ended it.
        if self.seen.agent.is_none() {
            self.seen.cause.get_or_insert(cause);
        }
        let grace_seconds = grace_seconds.min(LONGEST_GRACE);
        send(&self.started.link, &Instruction::Stop { grace_seconds }).ok();
        let kill_at = boottime() + Duration::from_secs(grace_seconds) + FLUSH_AT_STOP + MARGIN;
        self.kill_at = Some(self.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        self.arm();
    }

    fn due(&mut self) {
        // Readable means expired; arming it anew clears that.
        let now = boottime();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            pidfd_send_signal(&self.started.child.pidfd, Signal::KILL).ok();
        }
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.stop(Cause::Deadline, self.launch.grace_seconds);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = (!self.claim.is_removed()).then(|| now + LOOK);
            if self.look_at.is_none() {
                self.stop(Cause::Stop, self.launch.grace_seconds);
            }
        }
        self.arm();
    }

    /// Sets the timer to whatever is due next.
    fn arm(&self) {
        let next = [self.deadline, self.kill_at, self.look_at].into_iter().flatten().min();
        let it_value = next.and_then(|next| Timespec::try_from(next).ok()).unwrap_or_default();
        let spec = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec).ok();
    }
}
