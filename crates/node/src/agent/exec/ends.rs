//! Our ends of a command's pipes, or of its terminal.
//!
//! A terminal is one of the host's, since a sandbox has none of its own; only the end that is handed over is known inside, and no
//! path leads to it there.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::fchown;

use bytes::Bytes;
use mainstay_api::exec::{CHUNK, ExecRequest, TerminalSize};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

/// What ends the input of a program that reads lines from a terminal.
const END_OF_INPUT: &[u8] = &[4];

/// See the module.
#[derive(Debug)]
pub(super) struct Ends {
    /// Where its input goes.
    pub(super) input: Input,
    /// Its terminal, if it has one.
    pub(super) terminal: Terminal,
    /// Where its output comes from.
    pub(super) outputs: Vec<Output>,
}

/// The writing end of a pipe, or a terminal.
#[derive(Debug, Default)]
pub(super) struct Input {
    to: Option<pipe::Sender>,
    /// What ends it is written, too.
    is_terminal: bool,
}

/// To give a terminal a size; also one that takes no input has one.
#[derive(Debug)]
pub(super) struct Terminal(Option<OwnedFd>);

/// The reading end of a pipe, or a terminal.
#[derive(Debug)]
pub(super) struct Output {
    from: pipe::Receiver,
    errors: bool,
}

impl Ends {
    /// Makes them as they are asked for, with the other ends, which are the command's; these belong to `owner`, if given, so that
    /// it can open them anew as `/dev/stdout` and the like. Needs a Tokio runtime.
    pub(super) fn make(request: &ExecRequest, owner: Option<u32>) -> io::Result<(Self, Vec<OwnedFd>)> {
        let (ends, given) = if request.tty { terminal(request)? } else { pipes(request)? };
        for end in &given {
            fchown(end, owner, owner)?;
        }
        Ok((ends, given))
    }
}

fn terminal(request: &ExecRequest) -> io::Result<(Ends, Vec<OwnedFd>)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let its = ioctl_tiocgptpeer(&ours, flags)?;
    // Tokio's pipes are any descriptor that is read or written as one.
    fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
    let own = || ours.try_clone();
    let to = if request.stdin { Some(pipe::Sender::from_owned_fd_unchecked(own()?)?) } else { None };
    // It is read in any case: a program must not wait for somebody who reads.
    let outputs = vec![Output { from: pipe::Receiver::from_owned_fd_unchecked(own()?)?, errors: false }];
    let ends = Ends { input: Input { to, is_terminal: true }, terminal: Terminal(Some(ours)), outputs };
    Ok((ends, vec![its]))
}

fn pipes(request: &ExecRequest) -> io::Result<(Ends, Vec<OwnedFd>)> {
    let (mut given, mut input, mut outputs) = (Vec::new(), Input::default(), Vec::new());
    if request.stdin {
        let (its, ours) = io::pipe()?;
        given.push(its.into());
        input.to = Some(pipe::Sender::from_owned_fd(ours.into())?);
    }
    for (wanted, errors) in [(request.stdout, false), (request.stderr, true)] {
        if wanted {
            let (ours, its) = io::pipe()?;
            given.push(its.into());
            outputs.push(Output { from: pipe::Receiver::from_owned_fd(ours.into())?, errors });
        }
    }
    Ok((Ends { input, terminal: Terminal(None), outputs }, given))
}

impl Input {
    /// Writes all of it. What a command does not read any more is dropped, as its shell would.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let Some(to) = &mut self.to else { return };
        if to.write_all(bytes).await.is_err() {
            self.to = None;
        }
    }

    /// There is no more.
    pub(super) async fn finish(&mut self) {
        if self.is_terminal {
            self.write(END_OF_INPUT).await;
        }
        self.to = None;
    }
}

impl Terminal {
    /// Gives it another size; its programs are told by the kernel.
    pub(super) fn resize(&self, TerminalSize { width, height }: TerminalSize) {
        if let Some(terminal) = &self.0 {
            let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(terminal, size).ok();
        }
    }
}

impl Output {
    /// It is what the command says of errors.
    pub(super) const fn is_errors(&self) -> bool {
        self.errors
    }

    /// The next bytes; `None` at the end, and, once the command has ended, when all is read that is there: whoever it left behind
    /// may hold its end open for ever.
    pub(super) async fn next(&mut self, ended: &CancellationToken) -> Option<Bytes> {
        loop {
            if ended.is_cancelled() {
                // The kernel is asked, not Tokio, which may not have heard yet of what came last.
                return read(self.from.as_fd()).ok().flatten();
            }
            tokio::select! {
                biased;
                ready = self.from.readable() => {
                    ready.ok()?;
                    let mut chunk = Vec::with_capacity(CHUNK);
                    match self.from.try_read_buf(&mut chunk) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Ok(count) if count > 0 => return Some(chunk.into()),
                        Ok(_) | Err(_) => return None,
                    }
                }
                () = ended.cancelled() => {}
            }
        }
    }
}

/// Reads once; `None` at the end. A terminal that nobody has open any more says so by an error.
fn read(from: impl AsFd) -> io::Result<Option<Bytes>> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match rustix::io::read(&from, &mut chunk) {
            Err(rustix::io::Errno::INTR) => {}
            count => {
                chunk.truncate(count?);
                return Ok((!chunk.is_empty()).then(|| Bytes::from(chunk)));
            }
        }
    }
}
