//! One connection: what is read on one side is queued with the time when it is due, and written on the other side when
//! the fault allows it.

use std::io::{Error, ErrorKind};

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::net::{Shutdown, shutdown};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Counts, Direction, Fault, Weather};

/// At most so much is read at once, in bytes.
const CHUNK: usize = 16 * 1024;
/// At most so many reads are on their way in each direction.
const ON_THE_WAY: usize = 64;

/// What arrived, in order.
#[derive(Debug)]
enum Arrival {
    Bytes(Bytes),
    /// No more will.
    End,
    /// It was reset.
    Broken,
}

/// Both sides are to be reset.
#[derive(Debug)]
struct Dead;

#[derive(Debug)]
pub(super) struct Connection<'a> {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
    pub(super) weather: watch::Receiver<Weather>,
    pub(super) counts: &'a watch::Sender<Counts>,
    /// How often all were cut when it began.
    pub(super) cuts: u64,
}

impl Connection<'_> {
    /// Until both sides have closed it, or it is reset.
    pub(super) async fn carry(self) {
        // Small packets are not to wait for their answers here.
        let _ = (self.client.set_nodelay(true), self.server.set_nodelay(true));
        let mut weather = self.weather.clone();
        let both = async { tokio::try_join!(self.carry_one(Direction::ToServer), self.carry_one(Direction::ToClient)) };
        let is_dead = tokio::select! {
            biased;
            _ = weather.wait_for(|weather| weather.cuts != self.cuts) => true,
            ended = both => ended.is_err(),
        };
        if is_dead {
            reset(&self.client);
            reset(&self.server);
        }
    }

    async fn carry_one(&self, direction: Direction) -> Result<(), Dead> {
        let (from, to) = match direction {
            Direction::ToServer => (&self.client, &self.server),
            Direction::ToClient => (&self.server, &self.client),
        };
        let (arrives, arrived) = mpsc::channel(ON_THE_WAY);
        let reading = async {
            self.read(from, arrives).await;
            Ok(())
        };
        tokio::try_join!(reading, self.write(to, direction, arrived)).map(drop)
    }

    async fn read(&self, from: &TcpStream, arrives: mpsc::Sender<(Instant, Arrival)>) {
        loop {
            let arrival = read_once(from).await;
            let is_last = !matches!(arrival, Arrival::Bytes(_));
            let due = match self.weather.borrow().fault {
                Fault::Delay(span) => Instant::now() + span,
                _ => Instant::now(),
            };
            if arrives.send((due, arrival)).await.is_err() || is_last {
                return;
            }
        }
    }

    async fn write(
        &self,
        to: &TcpStream,
        direction: Direction,
        mut arrived: mpsc::Receiver<(Instant, Arrival)>,
    ) -> Result<(), Dead> {
        let mut valve = Valve { direction, weather: self.weather.clone(), cuts: self.cuts, settings: 0, left: None };
        while let Some((due, arrival)) = arrived.recv().await {
            tokio::time::sleep_until(due).await;
            match arrival {
                Arrival::Bytes(mut bytes) => {
                    while !bytes.is_empty() {
                        let written = valve.write(to, &bytes).await?;
                        bytes.advance(written);
                        self.counts.send_modify(|counts| *count(counts, direction) += written as u64);
                    }
                }
                Arrival::End => {
                    valve.open().await?;
                    // It may have been reset by now: its reader says so.
                    let _ = shutdown(to, Shutdown::Write);
                }
                Arrival::Broken => {
                    valve.open().await?;
                    return Err(Dead);
                }
            }
        }
        Ok(())
    }
}

/// Lets through what the fault allows.
struct Valve {
    direction: Direction,
    weather: watch::Receiver<Weather>,
    cuts: u64,
    /// Which fault `left` belongs to.
    settings: u64,
    /// How many bytes may pass yet, where they are counted.
    left: Option<u64>,
}

impl Valve {
    /// Waits until something may pass.
    async fn open(&mut self) -> Result<(), Dead> {
        let (cuts, direction) = (self.cuts, self.direction);
        let opens = |weather: &Weather| weather.cuts != cuts || !weather.fault.holds_back(direction);
        let weather = *self.weather.wait_for(opens).await.map_err(|_| Dead)?;
        if weather.cuts == cuts { Ok(()) } else { Err(Dead) }
    }

    /// Writes some of these bytes, at least one.
    async fn write(&mut self, to: &TcpStream, bytes: &[u8]) -> Result<usize, Dead> {
        loop {
            self.open().await?;
            to.writable().await.map_err(|_| Dead)?;
            // Nobody can change it as long as this is borrowed: what is written now is allowed.
            let weather = self.weather.borrow();
            if weather.cuts != self.cuts || weather.fault.holds_back(self.direction) {
                continue;
            }
            if weather.settings != self.settings {
                self.settings = weather.settings;
                self.left = match weather.fault {
                    Fault::CutAfter(direction, bytes) if direction == self.direction => Some(bytes),
                    _ => None,
                };
            }
            let most =
                self.left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            if most == 0 {
                return Err(Dead);
            }
            match to.try_write(&bytes[..most]) {
                Ok(written) => {
                    self.left = self.left.map(|left| left - written as u64);
                    return Ok(written);
                }
                Err(error) if is_passing(&error) => continue,
                Err(_) => {}
            }
            break;
        }
        // The other side has reset it, which has its own way back to who sent this.
        self.direction = self.direction.back();
        self.open().await?;
        Err(Dead)
    }
}

async fn read_once(from: &TcpStream) -> Arrival {
    let mut bytes = BytesMut::with_capacity(CHUNK);
    loop {
        let read = match from.readable().await {
            Ok(()) => from.try_read_buf(&mut bytes),
            Err(error) => Err(error),
        };
        match read {
            Ok(0) => return Arrival::End,
            Ok(_) => return Arrival::Bytes(bytes.freeze()),
            Err(error) if is_passing(&error) => {}
            Err(_) => return Arrival::Broken,
        }
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn count(counts: &mut Counts, direction: Direction) -> &mut u64 {
    match direction {
        Direction::ToServer => &mut counts.to_server,
        Direction::ToClient => &mut counts.to_client,
    }
}

/// Makes of its end a reset: what is on its way is thrown away.
pub(super) fn reset(stream: &TcpStream) {
    // One that is reset already needs none.
    let _ = stream.set_zero_linger();
}
