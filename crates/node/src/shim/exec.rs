//! How a further command comes into a sandbox: one connection to its supervisor for each.
//!
//! The node agent sends one byte that carries the command's own ends of pipes or of a terminal, then an [`ExecOrder`] in a line.
//! The supervisor answers with one line, an [`ExecEnd`]. The connection is the command's leash: when either side closes
//! it, the command is over.
//!
//! The socket is bound in the run directory, which only the node agent's user can enter, before the sandbox is built; it is
//! not seen from inside, and the supervisor, who listens on it, starts nothing that inherits it.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use mainstay_api::exec::ExecEnd;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use super::client::connect_for_exec;
use super::control::short_path;
use super::record::EXEC;
use crate::supervisor::link::Reader;

/// The most descriptors that come with an order.
const MOST: usize = 3;

/// A command to start beside the agent process. It does not show itself, since it may hold secrets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExecOrder {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Which of its standard descriptors come with it, in this order; a terminal is all three, and comes once.
    pub(crate) standard: [bool; 3],
    /// What comes is a terminal.
    pub(crate) terminal: bool,
}

/// Listens in `run_dir`.
pub(super) fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let (_dir, path) = short_path(run_dir, EXEC)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Hands a command over to the supervisor of the live sandbox of `run_dir`; the leash. Blocking, with bounds.
///
/// # Errors
/// When the supervisor is not there, or takes nothing.
pub(crate) fn order(run_dir: &Path, order: &ExecOrder, descriptors: &[OwnedFd]) -> io::Result<UnixStream> {
    let mut stream = connect_for_exec(run_dir)?;
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    sendmsg(&stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(&line)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Reads what [`order`] sent. Cancel safe in that nothing was started.
pub(crate) async fn taken(stream: &tokio::net::UnixStream) -> io::Result<(ExecOrder, Vec<OwnedFd>)> {
    let descriptors = loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive(stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => break received?,
        }
    };
    Ok((line(stream, &mut Reader::default()).await?, descriptors))
}

fn receive(stream: &tokio::net::UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut first = [0];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut first)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let mut descriptors = Vec::with_capacity(MOST);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(descriptors)
}

/// How the command ended, as its supervisor says; an error when the supervisor has gone.
pub(crate) async fn ending(stream: &tokio::net::UnixStream) -> io::Result<ExecEnd> {
    line(stream, &mut Reader::default()).await
}

/// Waits until the other side has closed.
pub(crate) async fn closed(stream: &tokio::net::UnixStream) {
    let mut chunk = [0; 64];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut chunk) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {}
        }
    }
}

async fn line<T: DeserializeOwned>(stream: &tokio::net::UnixStream, reader: &mut Reader) -> io::Result<T> {
    loop {
        if let Some(found) = reader.next()? {
            return Ok(found);
        }
        stream.readable().await?;
        match reader.fill(|chunk| stream.try_read(chunk)) {
            Ok(true) => {}
            Ok(false) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
