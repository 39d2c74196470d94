//! A network between a client and a server that is sick on demand: a TCP proxy whose faults are switched while
//! connections are open.
//!
//! What it holds back is not lost, as TCP loses nothing: it is delivered when the fault is over, and who sends more than
//! the buffers hold has to wait. Once a method has returned, no byte passes that the fault forbids.

mod accept;
mod carry;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use mainstay_runtime::Tasks;
use tokio::sync::watch;

use crate::server::reserve;

/// Longest time for anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of the two ways through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends.
    ToServer,
    /// What the server answers.
    ToClient,
}

impl Direction {
    const fn back(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// What is wrong with the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    Pass,
    /// Nobody listens: new connections are refused. Those that are open go on, until [`Proxy::cut`].
    Refuse,
    /// New connections are accepted, and reset at once. Those that are open go on, until [`Proxy::cut`].
    Reset,
    /// New connections are accepted, and nothing passes on any, not even that one side has closed it.
    Blackhole,
    /// The same in one direction alone: a half-open connection.
    Half(Direction),
    /// Everything arrives so much later.
    Delay(Duration),
    /// On each connection, so many bytes more pass in this direction; at the next one it is reset on both sides. With 0
    /// `ToClient`, a request arrives and is answered, and who asked never hears of it.
    CutAfter(Direction, u64),
}

impl Fault {
    fn holds_back(self, direction: Direction) -> bool {
        match self {
            Self::Blackhole => true,
            Self::Half(dead) => dead == direction,
            Self::Pass | Self::Refuse | Self::Reset | Self::Delay(_) | Self::CutAfter(..) => false,
        }
    }
}

/// The fault, and what was ordered besides.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// Where new connections lead.
    server: SocketAddr,
    fault: Fault,
    /// How often a fault was set: what [`Fault::CutAfter`] counts begins anew with each.
    settings: u64,
    /// How often all connections were cut: those from before the last time are dead.
    cuts: u64,
}

/// What has passed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Those of them that have not ended.
    pub open: u64,
    /// Bytes that were passed on to the server.
    pub to_server: u64,
    /// Bytes that were passed on to clients.
    pub to_client: u64,
}

/// A proxy before one server. It ends when this is dropped, and its connections with it.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    _reserved: UdpSocket,
    weather: watch::Sender<Weather>,
    listening: watch::Receiver<bool>,
    counts: watch::Receiver<Counts>,
    tasks: Tasks,
}

impl Proxy {
    /// Starts one before this server, which need not run yet. Everything passes.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let (listen, reserved) = reserve()?;
        let clear = Weather { server, fault: Fault::Pass, settings: 0, cuts: 0 };
        let (tasks, (weather, _), (counts, counted)) =
            (Tasks::new(), watch::channel(clear), watch::channel(Counts::default()));
        let (listens, listening) = watch::channel(false);
        let acceptor = accept::Acceptor { listen, weather: weather.subscribe(), listens, counts, tasks: tasks.clone() };
        tasks.spawn("accept of a proxy", acceptor.run(tasks.stopping()));
        let proxy = Self { listen, _reserved: reserved, weather, listening, counts: counted, tasks };
        proxy.set(Fault::Pass).await?;
        Ok(proxy)
    }

    /// Where it listens, over all its faults.
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Switches to this fault.
    ///
    /// # Errors
    /// When it cannot listen again after [`Fault::Refuse`].
    ///
    /// # Cancel safety
    /// The fault is switched in any case.
    pub async fn set(&self, fault: Fault) -> anyhow::Result<()> {
        self.weather.send_modify(|weather| {
            weather.fault = fault;
            weather.settings += 1;
        });
        let mut listening = self.listening.clone();
        let obeyed = listening.wait_for(|listens| *listens == (fault != Fault::Refuse));
        tokio::time::timeout(PATIENCE, obeyed).await.context("the proxy does not obey")?.context("the proxy ended")?;
        Ok(())
    }

    /// New connections lead to another server, as after a failover; those that are open are reset.
    pub fn lead_to(&self, server: SocketAddr) {
        self.weather.send_modify(|weather| {
            weather.server = server;
            weather.cuts += 1;
        });
    }

    /// Resets all connections that are open, on both sides.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// What has passed so far.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until the counts are so, and gives them.
    ///
    /// # Errors
    /// When they are not for long.
    pub async fn until(&self, mut are_so: impl FnMut(&Counts) -> bool) -> anyhow::Result<Counts> {
        let mut counts = self.counts.clone();
        let waited = tokio::time::timeout(PATIENCE, counts.wait_for(|counts| are_so(counts))).await;
        let counts = waited.with_context(|| format!("what was waited for: {:?}", self.counts()))?;
        Ok(*counts.context("the proxy ended")?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}
