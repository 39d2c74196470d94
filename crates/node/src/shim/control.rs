//! The shim's control socket: orders in, answers out, one JSON object per line.
//!
//! It lies in the run directory, which only the node agent's user can enter, and is not seen from inside the sandbox.
//! A connection may be held open without a word: its end tells the other side that the shim has gone.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::record::CONTROL;
use crate::launch::{Answer, Order};

/// Connections beyond this push out the oldest.
const CONNECTIONS: usize = 16;
const LINE_LIMIT: usize = 4096;

/// The listening socket and its connections.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

/// A socket's address must be short; its directory's need not be. The path is good as long as the descriptor is open.
pub(crate) fn short_path(run_dir: &Path, name: &str) -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(run_dir, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    Ok((dir, path))
}

impl Control {
    /// Listens in `run_dir`.
    pub(crate) fn listen(run_dir: &Path) -> io::Result<Self> {
        let (_dir, path) = short_path(run_dir, CONTROL)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connections: Vec::new() })
    }

    /// What to poll for input: the listener first, then each connection.
    pub(crate) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.connections.iter().map(|held| held.stream.as_fd()))
    }

    /// Handles input on source `index` of [`Control::sources`]; gives each order to `take` and sends its answer.
    pub(crate) fn handle(&mut self, index: usize, take: impl FnMut(Order) -> Answer) {
        let Some(index) = index.checked_sub(1) else { return self.accept() };
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.serve(take).is_err() {
            self.connections.remove(index);
        }
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.connections.len() == CONNECTIONS {
            self.connections.remove(0);
        }
        self.connections.push(Connection { stream, buffer: Vec::new() });
    }
}

impl Connection {
    fn serve(&mut self, mut take: impl FnMut(Order) -> Answer) -> io::Result<()> {
        let mut chunk = [0; 1024];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 || self.buffer.len() > LINE_LIMIT {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.buffer.extend_from_slice(&chunk[..count]);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let answer = match serde_json::from_slice(&line) {
                Ok(order) => take(order),
                Err(error) => Answer { accepted: false, message: format!("not an order: {error}") },
            };
            let mut line = serde_json::to_vec(&answer)?;
            line.push(b'\n');
            self.stream.write_all(&line)?;
        }
        Ok(())
    }
}
