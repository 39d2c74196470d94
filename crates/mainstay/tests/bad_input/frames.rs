//! HTTP/2 frames as no client sends them. The connection may end; the server goes on.

use std::io::{Error, ErrorKind, Read as _, Write as _};

use super::*;
use wire::Stream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A text of HPACK, not compressed.
fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 127);
    [&[length], text.as_bytes()].concat()
}

/// The head of `GET PATH` with the admin's token, as HPACK.
fn get(wire: &Wire, path: &str) -> Vec<u8> {
    // By their place in the static table: GET, https; and as literals: path, authority, authorization.
    let mut block = vec![0x82, 0x87, 0x04];
    block.extend(text(path));
    block.push(0x01);
    block.extend(text("localhost"));
    block.extend([0x0f, 0x08]);
    block.extend(text(&format!("Bearer {}", wire.token)));
    block
}

/// A connection that has said hello.
fn connect(wire: &Wire) -> Stream {
    let mut stream = wire.connect("h2");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream
}

/// Sends it all, and returns the frames that came back, as their kinds and payloads, up to the answer with these words
/// or the end; without words it hangs up first.
fn exchange(wire: &Wire, frames: &[Vec<u8>], words: &str) -> Vec<(u8, Vec<u8>)> {
    let mut stream = connect(wire);
    for bytes in frames {
        // The server may have had enough.
        if stream.write_all(bytes).is_err() {
            break;
        }
    }
    drop(stream.flush());
    if words.is_empty() {
        stream.conn.send_close_notify();
        drop(stream.flush());
        drop(stream.sock.shutdown(std::net::Shutdown::Write));
    }
    let mut found = Vec::new();
    while let Some((kind, payload)) = next(&mut stream) {
        let is_last = !words.is_empty() && String::from_utf8_lossy(&payload).contains(words);
        found.push((kind, payload));
        if is_last {
            break;
        }
    }
    found
}

/// The next frame; `None` at the end of the connection.
fn next(stream: &mut Stream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    read_exact(stream, &mut head)?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    read_exact(stream, &mut payload)?;
    Some((head[3], payload))
}

fn read_exact(stream: &mut Stream, bytes: &mut [u8]) -> Option<()> {
    let read = stream.read_exact(bytes);
    let silent = |error: &Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(!read.as_ref().is_err_and(silent), "the server neither answers nor closes");
    read.ok()
}

/// Whether the server has ended the connection with a reason.
fn was_sent_away(found: &[(u8, Vec<u8>)]) -> bool {
    found.iter().any(|(kind, payload)| *kind == GOAWAY && payload[4..8] != [0; 4])
}

/// Whether the server ends the connection for these, with a reason. Nobody hangs up: that would end it without one.
fn is_sent_away(wire: &Wire, frames: &[Vec<u8>]) -> bool {
    let mut stream = connect(wire);
    // The server may have had enough before the last.
    drop(frames.iter().try_for_each(|bytes| stream.write_all(bytes)));
    drop(stream.flush());
    std::iter::from_fn(|| next(&mut stream)).any(|answer| was_sent_away(std::slice::from_ref(&answer)))
}

#[test]
fn a_good_request_is_answered() {
    let bothered = Bothered::new();
    let found = exchange(
        &bothered.wire,
        &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &get(&bothered.wire, "/api"))],
        "serverAddress",
    );
    assert!(found.iter().any(|(kind, payload)| *kind == DATA && payload.starts_with(b"{")), "{found:?}");
    assert!(!was_sent_away(&found));
    bothered.stays_well();
}

#[test]
fn floods_end_their_connection_and_nothing_else() {
    let bothered = Bothered::new();
    let wire = &bothered.wire;
    let list = get(wire, CONFIGMAPS);
    let open = |stream: u32| frame(HEADERS, END_STREAM | END_HEADERS, stream, &list);
    let cancel = |stream: u32| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let streams = |count: u32| (0..count).map(|n| 2 * n + 1);
    let resets: Vec<_> = streams(5_000).flat_map(|stream| [open(stream), cancel(stream)]).collect();
    // Each is cancelled as fast as it began, or the peer is sent away: what counts is what the others feel.
    exchange(wire, &resets, "");
    assert_eq!(wire.call("GET", "/api", "", "").status, 200, "streams opened and reset at once");
    let endless: Vec<_> = [frame(HEADERS, 0, 1, &list)]
        .into_iter()
        .chain((0..5_000).map(|_| frame(CONTINUATION, 0, 1, &[0x00, 1, b'x', 1, b'y'].repeat(100))))
        .collect();
    let found = exchange(wire, &endless, "");
    assert!(!found.iter().any(|(kind, _)| *kind == HEADERS), "a head without end is no request");
    // One long header put into the table, and named again and again with one byte each.
    let mut bomb = list.clone();
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend(vec![b'y'; 4_000]);
    bomb.extend(vec![0xbe; 10_000]);
    let found = exchange(wire, &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)], "");
    assert!(
        !found.iter().any(|(kind, payload)| *kind == DATA && payload.starts_with(b"{\"kind\":\"ConfigMap")),
        "a bomb"
    );
    for (what, bytes) in [
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ] {
        // Answered or sent away: both will do, as long as it ends.
        exchange(wire, &vec![bytes; 20_000], "");
        assert_eq!(wire.call("GET", "/api", "", "").status, 200, "{what}");
    }
    let empty: Vec<_> =
        [frame(HEADERS, END_HEADERS, 1, &list)].into_iter().chain(vec![frame(DATA, 0, 1, &[]); 20_000]).collect();
    exchange(wire, &empty, "");
    bothered.stays_well();
}

#[test]
fn more_streams_than_are_allowed_are_refused() {
    let bothered = Bothered::new();
    let watch = get(&bothered.wire, &format!("{CONFIGMAPS}?watch=1"));
    let frames: Vec<_> = (0..3_000_u32).map(|n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &watch)).collect();
    let mut stream = connect(&bothered.wire);
    // The server may have had enough before the last. Nobody hangs up: that would end the connection unanswered.
    drop(frames.iter().try_for_each(|bytes| stream.write_all(bytes)));
    drop(stream.flush());
    let refused = |(kind, payload): &(u8, Vec<u8>)| *kind == RST_STREAM && **payload == 7_u32.to_be_bytes();
    let sent_away = |answer: &(u8, Vec<u8>)| was_sent_away(std::slice::from_ref(answer));
    let told = std::iter::from_fn(|| next(&mut stream)).any(|answer| refused(&answer) || sent_away(&answer));
    assert!(told, "streams beyond the limit of a connection");
    bothered.stays_well();
}

#[test]
fn frames_that_break_the_rules_end_the_connection() {
    let bothered = Bothered::new();
    let wire = &bothered.wire;
    let list = get(wire, CONFIGMAPS);
    let good = frame(HEADERS, END_STREAM | END_HEADERS, 1, &list);
    let table: [(&str, Vec<Vec<u8>>); 10] = [
        ("data without a stream", vec![frame(DATA, 0, 1, b"x")]),
        ("headers on stream 0", vec![frame(HEADERS, END_HEADERS, 0, &list)]),
        ("an even stream", vec![frame(HEADERS, END_STREAM | END_HEADERS, 2, &list)]),
        ("a stream number that goes back", vec![frame(HEADERS, END_STREAM | END_HEADERS, 9, &list), good.clone()]),
        ("a frame longer than allowed", vec![frame(DATA, 0, 1, &vec![0; 1 << 20])[..40].to_vec()]),
        ("settings of no length", vec![frame(SETTINGS, 0, 0, &[1, 2, 3])]),
        ("a window without increment", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        ("a window too wide", vec![frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()); 2]),
        ("a table index that is none", vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0xff, 0x7f])]),
        ("a continuation of nothing", vec![frame(CONTINUATION, END_HEADERS, 1, &list)]),
    ];
    for (what, frames) in table {
        assert!(is_sent_away(wire, &frames), "{what}");
    }
    // Heads that are frames, but no requests: the stream ends, or is answered with a refusal; nothing is done.
    for block in [
        vec![0x82],
        vec![0x82, 0x82, 0x87, 0x84],
        [list.as_slice(), &[0x00, 1, b'X', 1, b'y']].concat(),
        [list.as_slice(), &[0x00, 10], b"connection", &[5], b"close"].concat(),
        [list.as_slice(), &[0x00, 1, b'x', 3, b'a', 0, b'b']].concat(),
    ] {
        let found = exchange(wire, &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)], "");
        assert!(!found.iter().any(|(kind, _)| *kind == DATA) || !was_sent_away(&found), "{block:?}: {found:?}");
        assert!(!found.iter().any(|(_, payload)| payload.starts_with(b"{\"kind\":\"ConfigMapList")), "{block:?}");
    }
    bothered.stays_well();
}
