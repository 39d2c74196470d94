//! The shim: one per sandbox, outlives the control plane, and alone knows how the sandbox ended.
//!
//! It reads a [`Launch`] from standard input, detaches (two forks and a session of its own, so that nothing that
//! happens to `mainstay serve` happens to it), claims the run directory, says so in one line on standard output, makes
//! the sandbox, watches it, and records its end.
//!
//! Invariants:
//! - Nothing is executed before the claim, and a claimed directory is never claimed again: a run happens at most once.
//! - One thread, no async runtime: the init process is made by `clone` from this very memory, which stays shared.
//! - If the shim dies, the kernel kills the sandbox, so no agent process runs on unrecorded.
//! - If its run directory is removed, as with the whole data directory, it ends the sandbox: nobody else could.
//! - What the shim makes it removes, but for the run directory, whose records the node agent reads.

mod claim;
pub mod client;
mod control;
pub(crate) mod exec;
mod log;
pub mod record;
mod start;
mod verdict;
mod watch;

use std::io::{self, Read, Write};
use std::process::exit;

use mainstay_node_sys::process::{Side, close_inherited, fork, set_standard};
use mainstay_runtime::failure::chain_of;
use mainstay_runtime::fault::{Point, arm_shim_from_env, hit};
use mainstay_runtime::{Clock, clock};
use rustix::process::{Pid, WaitOptions, setsid, waitpid};

pub use claim::LOG_DIR;

use self::claim::Claim;
use self::control::Control;
use self::start::Role;
use self::verdict::{Observed, judge};
use crate::launch::{EffectiveIsolation, Launch, RunState};
use crate::sandbox::{During, SandboxError};

/// The largest launch that is read.
const LAUNCH_LIMIT: u64 = 8 * 1024 * 1024;

/// The hidden verb `__shim`: returns its exit code in each of the three processes that it becomes.
pub fn main() -> i32 {
    match prepare() {
        Ok(Some((launch, claim, control))) => run(launch, claim, control),
        Ok(None) => 0,
        Err(error) => {
            say(&serde_json::json!({ "error": chain_of(&error) }));
            1
        }
    }
}

/// Reads, detaches and claims; `None` in the processes that only lead to the detached one.
fn prepare() -> Result<Option<(Launch, Claim, Control)>, SandboxError> {
    close_inherited().during("close inherited descriptors")?;
    arm_shim_from_env().map_err(|error| SandboxError::Invalid(error.to_string()))?;
    let launch = read_launch()?;
    if let Side::Parent(child) = fork().during("detach")? {
        wait(child);
        return Ok(None);
    }
    setsid().during("detach")?;
    if let Side::Parent(_) = fork().during("detach")? {
        return Ok(None);
    }
    std::env::set_current_dir("/").during("detach")?;
    pass(Point::ShimBeforeClaim);
    let claim = claim::claim(&launch.run_dir)?;
    pass(Point::ShimAfterClaim);
    let control = Control::listen(&launch.run_dir).during("listen for orders")?;
    Ok(Some((launch, claim, control)))
}

fn read_launch() -> Result<Launch, SandboxError> {
    let mut input = Vec::new();
    io::stdin().lock().take(LAUNCH_LIMIT + 1).read_to_end(&mut input).during("read the launch")?;
    if input.len() as u64 > LAUNCH_LIMIT {
        return Err(SandboxError::Invalid(format!("the launch is larger than {LAUNCH_LIMIT} bytes")));
    }
    let launch: Launch = serde_json::from_slice(&input).map_err(io::Error::from).during("read the launch")?;
    if launch.command.is_empty() {
        return Err(SandboxError::Invalid("the launch has no command".into()));
    }
    Ok(launch)
}

fn wait(child: Pid) {
    while waitpid(Some(child), WaitOptions::empty()).is_err_and(|error| error == rustix::io::Errno::INTR) {}
}

fn say(words: &serde_json::Value) {
    // Nobody listens any more: nothing is lost, the records tell the same.
    io::stdout().write_all(format!("{words}\n").as_bytes()).ok();
    io::stdout().flush().ok();
}

/// The detached process: makes the sandbox, watches it, records its end. Also where the sandbox's init process ends.
fn run(mut launch: Launch, claim: Claim, control: Control) -> i32 {
    say(&serde_json::json!({ "claimed": true }));
    if silence().is_err() {
        return 1;
    }
    let mut state = first_state(&launch);
    record::write_state(&launch.run_dir, &state).ok();
    pass(Point::ShimAfterState);
    let clock = Clock::system();
    let mut outside = None;
    let role = start::prepare(&launch).and_then(|prepared| {
        let outside = outside.insert(prepared);
        state.cgroups = outside.cgroups.paths();
        record::write_state(&launch.run_dir, &state).ok();
        pass(Point::ShimBeforeStart);
        start::start(&launch, &outside.cgroups)
    });
    let mut seen = match role {
        Ok(Role::Init(init)) => {
            drop((control, outside));
            exit(init.run(&launch, claim));
        }
        Ok(Role::Shim(started)) => {
            pass(Point::ShimAfterStart);
            forget_secrets(&mut launch);
            state.started_at = Some(clock.now().to_string());
            state.init_pid = Some(started.child.pid.as_raw_nonzero().get());
            state.isolation.in_force.clone_from(&started.in_force);
            record::write_state(&launch.run_dir, &state).ok();
            watch::watch(&launch, &mut state, started, (control, &claim))
        }
        Err(error) => Observed { creation: Some(chain_of(&error)), ..Observed::default() },
    };
    seen.out_of_memory = outside.as_ref().map_or(0, |outside| outside.cgroups.out_of_memory());
    let finished_at = seen.ended_at.unwrap_or_else(|| clock.now()).to_string();
    let exit = judge(&launch.pod, &seen, state.started_at.take(), finished_at);
    pass(Point::ShimBeforeRecord);
    let recorded = record::write_exit(&launch.run_dir, &exit);
    pass(Point::ShimAfterRecord);
    match outside {
        Some(outside) => outside.remove(&launch),
        // Half made; a kept workspace may be another's.
        None if !launch.workspace.keep => crate::sandbox::remove(&launch),
        None => {}
    }
    pass(Point::ShimAfterRemove);
    drop(claim);
    i32::from(recorded.is_err())
}

/// Passes a fault point: a shim can be killed at any, and reports its failures by its records alone.
fn pass(point: Point) {
    hit(point).ok();
}

/// Gives up the standard streams, which are the node agent's.
fn silence() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    (0..=2).try_for_each(|number| set_standard(number, &null))
}

fn first_state(launch: &Launch) -> RunState {
    RunState {
        pod: launch.pod.clone(),
        session: launch.session.clone(),
        boot_id: clock::boot_id().unwrap_or_default(),
        shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
        init_pid: None,
        uid_base: launch.uid_base,
        started_at: None,
        isolation: EffectiveIsolation { asked: launch.isolation, in_force: Vec::new() },
        fence: launch.fence,
        cgroups: Vec::new(),
    }
}

/// The init process has its own copy; this long-lived one needs none.
fn forget_secrets(launch: &mut Launch) {
    launch.env.clear();
    launch.files.clear();
}
