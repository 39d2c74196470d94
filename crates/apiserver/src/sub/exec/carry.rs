//! Carries a command's bytes between a WebSocket and the agent of its node.
//!
//! Each way holds one message, and what the node has room for: who does not read is waited for. A side that has gone ends the other.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{self, SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use mainstay_api::exec::{CHUNK, ExecEnd, ExecFrame, ExecRequest, INPUT_UNITS, units};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::outcome;
use super::socket::Protocol;
use crate::nodelink::{ExecFrames, NodeLink};

/// The most bytes of a message from a client.
const MOST: usize = 1 << 20;
/// The most bytes that wait to be sent to a client, beside one message.
const UNSENT: usize = 256 << 10;
/// How often something is said: what is on the way keeps the connection, and one that is broken is noticed. It is an answer that
/// nobody asked for, since clients (client-go) leave when they do not get one, and we may not read what they ask while the
/// command does not take its input.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// How long a client may take to take the last word, and to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// How it went.
pub(super) enum Carried {
    /// The client was told of this end.
    Ended(ExecEnd),
    /// The client has left.
    Left,
}

/// Runs the command until it ends, its client leaves, or `over`.
pub(super) async fn carry(
    upgraded: Upgraded,
    protocol: Protocol,
    (link, request): (&dyn NodeLink, ExecRequest),
    over: impl Future<Output = ()>,
) -> Carried {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MOST))
        .max_frame_size(Some(MOST))
        .write_buffer_size(0)
        .max_write_buffer_size(UNSENT);
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(limits)).await;
    let (mut to, mut from) = socket.split();
    let (send, mut receive) = channel(1);
    let input = stream::poll_fn(move |context| receive.poll_recv(context)).boxed();
    let room = Semaphore::new(usize::try_from(INPUT_UNITS).unwrap_or_default());
    let carried = {
        let output = async {
            match link.exec(request, input).await {
                Ok(said) => to_client(&mut to, said, &room).await,
                Err(error) => Carried::Ended(ExecEnd::failed(error.to_string())),
            }
        };
        tokio::select! {
            biased;
            carried = output => carried,
            () = from_client(&mut from, (send, &room), protocol) => Carried::Left,
            () = over => Carried::Ended(ExecEnd::failed("the right to it has ended, or the server stops")),
        }
    };
    if let Carried::Ended(end) = &carried {
        timeout(FAREWELL, say_goodbye(&mut to, &mut from, end)).await.ok();
    }
    carried
}

/// What the command says, until its end.
async fn to_client(to: &mut SplitSink<Socket, Message>, mut said: ExecFrames, room: &Semaphore) -> Carried {
    let mut signs = interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    loop {
        let message = tokio::select! {
            frame = said.next() => match frame {
                Some(Ok(ExecFrame::Stdout(bytes))) => on(STDOUT, &bytes),
                Some(Ok(ExecFrame::Stderr(bytes))) => on(STDERR, &bytes),
                Some(Ok(ExecFrame::Taken(units))) if units <= INPUT_UNITS => {
                    room.add_permits(usize::try_from(units).unwrap_or_default());
                    continue;
                }
                Some(Ok(ExecFrame::End(end))) => return Carried::Ended(end),
                Some(Ok(_) | Err(_)) | None => {
                    let why = "the connection to the Pod's node broke; whether the command has ended is not known";
                    return Carried::Ended(ExecEnd::failed(why));
                }
            },
            _ = signs.tick() => Message::Pong(Bytes::new()),
        };
        if to.send(message).await.is_err() {
            return Carried::Left;
        }
    }
}

fn on(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// What the client says, until it leaves.
async fn from_client(
    from: &mut SplitStream<Socket>,
    (send, room): (Sender<io::Result<ExecFrame>>, &Semaphore),
    protocol: Protocol,
) {
    while let Some(Ok(message)) = from.next().await {
        let mut bytes = match message {
            Message::Binary(bytes) if !bytes.is_empty() => bytes,
            Message::Close(_) | Message::Text(_) => return,
            _ => continue,
        };
        let channel = bytes.split_to(1)[0];
        let frame = match (channel, protocol) {
            (STDIN, _) => {
                while !bytes.is_empty() {
                    let chunk = bytes.split_to(bytes.len().min(CHUNK));
                    let Ok(taken) = room.acquire_many(units(chunk.len())).await else { return };
                    taken.forget();
                    send.send(Ok(ExecFrame::Stdin(chunk))).await.ok();
                }
                continue;
            }
            (RESIZE, _) => serde_json::from_slice(&bytes).ok().map(ExecFrame::Resize),
            (CLOSE, Protocol::V5) if *bytes == [STDIN] => Some(ExecFrame::StdinEnd),
            // As upstream, what has no meaning has none.
            _ => None,
        };
        if let Some(frame) = frame {
            send.send(Ok(frame)).await.ok();
        }
    }
}

/// Tells of the end, and waits for the client to close: what it still sends is read, or the system would tell it that the
/// connection broke, maybe before it has read the last word.
async fn say_goodbye(to: &mut SplitSink<Socket, Message>, from: &mut SplitStream<Socket>, end: &ExecEnd) {
    let close = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let said = async {
        to.send(on(ERROR, outcome::status(end).as_bytes())).await?;
        to.send(Message::Close(Some(close))).await
    };
    if said.await.is_ok() {
        while let Some(Ok(_)) = from.next().await {}
    }
}
