//! The supervisor: the first process inside the sandbox, between the agent process and the session.
//!
//! It is not executed but forked from the shim, so nothing of the host's binary need be visible inside, and their
//! memory stays shared. It starts the agent process, reaps, turns output into messages, hands user messages inwards,
//! renews the heartbeat, and ends the agent process with a grace period. The API may be away at any time.
//!
//! Invariants:
//! - No output is dropped: what the API has not accepted waits here, and when that is full, the agent process waits.
//!   After its end its last messages wait for the API as long as nobody orders a stop.
//! - The agent process's own ending is what is reported, at once, whatever happens to its messages.

pub(crate) mod adaptor;
mod agent;
mod api;
mod cursor;
mod exec;
mod input;
pub(crate) mod link;
mod outbox;
mod output;
mod sender;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Tasks;
use serde_json::json;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::agent::{Agent, Ending, Pipes};
use self::api::{Address, Api};
use self::cursor::{Position, Speaker};
use self::exec::Execs;
use self::link::{Instruction, Reader, Report, send};
use self::outbox::{Message, Outbox};
use crate::launch::{Launch, SessionRef};
use crate::sandbox::Inside;

/// How long the last messages are tried when the sandbox is being stopped.
pub(crate) const FLUSH_AT_STOP: Duration = Duration::from_secs(10);
/// How long to read on once everything that could write has been killed.
const DRAIN: Duration = Duration::from_mins(1);

/// Runs the agent process to its end, with the commands that come over `exec`; returns the supervisor's exit code.
pub(crate) fn main(launch: &Launch, inside: &Inside, (link, exec): (&UnixStream, UnixListener)) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ran = runtime.and_then(|runtime| {
        let ran = runtime.block_on(run(launch, inside, (link, exec)));
        // Nothing that is left over may hold up the end.
        runtime.shutdown_background();
        ran
    });
    match ran {
        Ok(()) => 0,
        Err(error) => {
            let message = format!("start {}: {error}", launch.command.first().map_or("", String::as_str));
            send(link, &Report::Failed { message }).ok();
            1
        }
    }
}

async fn run(launch: &Launch, inside: &Inside, (link, exec): (&UnixStream, UnixListener)) -> io::Result<()> {
    let mut events = Events::new(link, launch.grace_seconds)?;
    let (agent, pipes) = Agent::start(launch, inside)?;
    let (execs, tasks) = (Execs::new(inside), Tasks::new());
    execs.listen(exec, &tasks)?;
    send(link, &Report::Started)?;
    let mut leave = Leave { answered: CancellationToken::new(), grace: events.orders.grace, at: None };
    let talk = match (&launch.session, pipes) {
        (Some(session), Some(pipes)) => Some(Talk::start(launch, session, inside, pipes, leave.answered.clone())?),
        _ => None,
    };
    let ending = events.until_ended(&agent, &execs, (&mut leave, link)).await;
    execs.finish();
    agent.kill_everything();
    // Without the link the shim has gone, and the kernel ends us.
    let (code, signal) = ending;
    send(link, &Report::Exited { code, signal })?;
    if let Some(talk) = talk {
        talk.finish(ending, &mut events).await;
    }
    Ok(())
}

/// What the supervisor waits for from outside of the conversation.
struct Events {
    children: Signal,
    orders: Orders,
}

/// Orders to end the agent process: the shim's, or a SIGTERM.
struct Orders {
    link: tokio::net::UnixStream,
    reader: Reader,
    terminate: Signal,
    grace: Duration,
    stopping: bool,
}

/// An agent process that has answered and is to end then: told by the end of its input, and by a signal if it stays.
struct Leave {
    answered: CancellationToken,
    grace: Duration,
    at: Option<Instant>,
}

impl Leave {
    /// Waits until it has stayed for the grace period. Cancel safe.
    async fn overdue(&mut self) {
        self.answered.cancelled().await;
        let grace = self.grace;
        sleep_until(*self.at.get_or_insert_with(|| Instant::now() + grace)).await;
    }
}

impl Events {
    fn new(link: &UnixStream, grace_seconds: u64) -> io::Result<Self> {
        link.set_nonblocking(true)?;
        let orders = Orders {
            link: tokio::net::UnixStream::from_std(link.try_clone()?)?,
            reader: Reader::default(),
            terminate: signal(SignalKind::terminate())?,
            grace: Duration::from_secs(grace_seconds),
            stopping: false,
        };
        Ok(Self { children: signal(SignalKind::child())?, orders })
    }

    /// Waits for the agent process's end, ending it when told to.
    async fn until_ended(&mut self, agent: &Agent, execs: &Execs, (leave, link): (&mut Leave, &UnixStream)) -> Ending {
        let mut kill_at: Option<Instant> = None;
        loop {
            // A signal may have come before its handler, and several may come as one: look each time.
            if let Some(ending) = agent.reap(|pid, how| execs.reaped(pid, how)) {
                return ending;
            }
            let due = kill_at.unwrap_or_else(Instant::now);
            let grace = tokio::select! {
                _ = self.children.recv() => continue,
                () = sleep_until(due), if kill_at.is_some() => {
                    execs.finish();
                    agent.kill_everything();
                    kill_at = None;
                    continue;
                }
                grace = self.orders.stop() => grace,
                () = leave.overdue(), if kill_at.is_none() => {
                    // Without the link the shim has gone, and the kernel ends us.
                    send(link, &Report::Answered).ok();
                    leave.grace
                }
            };
            if kill_at.is_none() {
                agent.terminate();
            }
            let earliest = Instant::now() + grace;
            kill_at = Some(kill_at.map_or(earliest, |at| at.min(earliest)));
        }
    }
}

impl Orders {
    /// The next order to stop, with its grace period. Cancel safe.
    async fn stop(&mut self) -> Duration {
        let grace = tokio::select! {
            // Without a link the shim has gone, and the kernel ends us.
            Some(grace) = instruction(&self.link, &mut self.reader) => grace,
            _ = self.terminate.recv() => self.grace,
        };
        self.stopping = true;
        grace
    }
}

async fn instruction(link: &tokio::net::UnixStream, reader: &mut Reader) -> Option<Duration> {
    loop {
        match reader.next::<Instruction>() {
            Ok(Some(Instruction::Stop { grace_seconds })) => return Some(Duration::from_secs(grace_seconds)),
            Ok(Some(Instruction::Go)) => continue,
            Ok(None) => {}
            Err(_) => return None,
        }
        link.readable().await.ok()?;
        match reader.fill(|chunk| link.try_read(chunk)) {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(false) | Err(_) => return None,
        }
    }
}

/// The conversation between agent process and session.
struct Talk {
    run: u64,
    outbox: Arc<Outbox>,
    pumps: Vec<JoinHandle<()>>,
    sender: JoinHandle<()>,
}

impl Talk {
    fn start(
        launch: &Launch,
        session: &SessionRef,
        inside: &Inside,
        pipes: Pipes,
        answered: CancellationToken,
    ) -> io::Result<Self> {
        let tasks = Tasks::new();
        let address = address(launch, session, inside);
        let api = || Api::new(address.clone(), tasks.clone());
        let adaptor = adaptor::adaptor(launch.adaptor);
        let outbox = Arc::new(Outbox::default());
        let (in_turn, turns) = watch::channel(false);
        let speaker = Speaker { run: session.run, pod_uid: launch.pod.uid.clone() };
        let [stdout, stderr] = pipes.output;
        let mut pumps = Vec::with_capacity(2);
        for (stream, from, log) in [("stdout", stdout, log(io::stdout())?), ("stderr", stderr, log(io::stderr())?)] {
            let (outbox, in_turn) = (Arc::clone(&outbox), in_turn.clone());
            let output = output::Output { stream, run: session.run, adaptor, outbox, in_turn };
            pumps.push(tasks.spawn("output", output.pump(from, log)));
        }
        let sender = tasks.spawn("sender", sender::send_all(api(), Arc::clone(&outbox)));
        let (first, beats, speaker_of_beats) = (api(), api(), speaker.clone());
        let (position, positions) = watch::channel(Position::default());
        let input = input::Input {
            stream: api(),
            cursor: first,
            speaker,
            position,
            adaptor,
            in_turn,
            stop_on_finish: session.stop_on_finish,
        };
        let starter = tasks.clone();
        tasks.spawn("input", async move {
            let mut input = input;
            input.position.send_replace(cursor::get(&mut input.cursor).await);
            starter.spawn("heartbeat", cursor::beat(beats, speaker_of_beats, positions, turns));
            if input.carry(pipes.stdin).await {
                answered.cancel();
            }
        });
        Ok(Self { run: session.run, outbox, pumps, sender })
    }

    /// Sends what is left, and the ending itself; once a stop is ordered, as long as time allows.
    async fn finish(mut self, (code, signal): Ending, events: &mut Events) {
        let at_stop = || Instant::now() + FLUSH_AT_STOP;
        let mut limit = events.orders.stopping.then(at_stop);
        let Self { run, outbox, pumps, sender } = &mut self;
        let flush = async {
            for pump in pumps {
                timeout(DRAIN, pump).await.ok();
            }
            let data = json!({ "event": "exited", "code": code, "signal": signal });
            let text = match (code, signal) {
                (Some(code), _) => format!("the agent process exited with code {code}"),
                (None, signal) => format!("the agent process was ended by signal {}", signal.unwrap_or_default()),
            };
            outbox.push(&Message { id: format!("r{run}-system-exited"), kind: "system", run: *run, text, data }).await;
            outbox.close();
            sender.await.ok();
        };
        tokio::pin!(flush);
        loop {
            tokio::select! {
                () = &mut flush => return,
                () = sleep_until(limit.unwrap_or_else(Instant::now)), if limit.is_some() => return,
                _ = events.orders.stop() => drop(limit.get_or_insert_with(at_stop)),
            }
        }
    }
}

fn address(launch: &Launch, session: &SessionRef, inside: &Inside) -> Address {
    let (namespace, name) = (&launch.pod.namespace, &session.name);
    Address {
        socket: inside.socket.clone(),
        token: inside.token.clone(),
        session: format!("/apis/mainstay.dev/v1alpha1/namespaces/{namespace}/sessions/{name}"),
    }
}

fn log(stream: impl std::os::fd::AsFd) -> io::Result<pipe::Sender> {
    pipe::Sender::from_owned_fd(stream.as_fd().try_clone_to_owned()?)
}
