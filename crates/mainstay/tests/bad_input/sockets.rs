//! Peers that are slow, half gone, greedy, or do not speak HTTP.

#![expect(clippy::disallowed_methods, reason = "a test is its own peer, and speaks to the server without our client")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use wire::{PATIENCE, rest};

/// A request with these headers and this body, as it is.
fn post(wire: &Wire, headers: &str, body: &str) -> Vec<u8> {
    format!("{}{headers}\r\n{body}", wire.head("POST", CONFIGMAPS)).into_bytes()
}

/// The codes of all responses in these bytes.
fn codes(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].parse().unwrap()).collect()
}

/// The server closes or resets the connection in time.
#[track_caller]
fn is_closed(socket: &mut TcpStream) {
    if let Err(error) = socket.read_to_end(&mut Vec::new()) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection stays open");
    }
}

#[test]
fn whoever_is_slow_is_cut_off() {
    let bothered = Bothered::new();
    let began = Instant::now();
    // All at once, since each of them waits for the server's patience to end.
    std::thread::scope(|scope| {
        for part in ["", "GET /api", "GET /api HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut stream = bothered.wire.connect("http/1.1");
                    stream.write_all(part.as_bytes()).and_then(|()| stream.flush()).unwrap();
                    let answer = rest(&mut stream);
                    assert!(answer.is_empty() || codes(&answer) == [408], "{:?}", String::from_utf8_lossy(&answer));
                });
            }
        }
        for hello in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
            scope.spawn(|| {
                let mut socket = TcpStream::connect(bothered.wire.address).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.write_all(hello).unwrap();
                is_closed(&mut socket);
            });
        }
        // A body that stays out is waited for as long as any request may take.
        scope.spawn(|| {
            let mut stream = bothered.wire.connect("http/1.1");
            stream.sock.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
            stream.write_all(&post(&bothered.wire, "Content-Length: 100\r\n", "{\"metadata\"")).unwrap();
            Answer::parse(&rest(&mut stream)).refused(
                504,
                "took longer than the server allows",
                "a body that stays out",
            );
        });
        // Meanwhile the others are served.
        for _ in 0..20 {
            assert!(bothered.wire.call("GET", "/api", "", "").status == 200);
        }
    });
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    bothered.stays_well();
}

#[test]
fn half_a_request_does_nothing() {
    let bothered = Bothered::new();
    let whole = configmap("half").to_string();
    for (headers, body) in [
        ("Content-Length: 1000\r\n", whole.as_str()),
        ("Transfer-Encoding: chunked\r\n", "10\r\n{\"metadata\":{\"na"),
        ("Transfer-Encoding: chunked\r\n", "zz\r\nwhat\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut stream = bothered.wire.connect("http/1.1");
        stream.write_all(&post(&bothered.wire, headers, body)).and_then(|()| stream.flush()).unwrap();
        stream.conn.send_close_notify();
        drop(stream.flush());
        drop(stream.sock.shutdown(Shutdown::Write));
        let answer = rest(&mut stream);
        let codes = codes(&answer);
        assert!(codes.is_empty() || codes == [400], "{headers:?} {body:?}: {:?}", String::from_utf8_lossy(&answer));
    }
    // Gone without a word, in the middle of what would be a good request.
    let good = post(&bothered.wire, &format!("Content-Length: {}\r\n", whole.len()), &whole);
    for cut in (0..good.len()).step_by(good.len() / 12) {
        let mut stream = bothered.wire.connect("http/1.1");
        stream.write_all(&good[..cut]).and_then(|()| stream.flush()).unwrap();
        drop(stream);
    }
    bothered.stays_well();
}

#[test]
fn heads_that_are_not_heads_are_refused() {
    let bothered = Bothered::new();
    let wire = &bothered.wire;
    let many = (0..5_000).map(|n| format!("X-{n}: y\r\n")).collect::<Vec<_>>().concat();
    let wide = format!("X-Wide: {}\r\n", "y".repeat(400_000));
    let get = wire.head("GET", "/api");
    let length = |length: &str| post(wire, &format!("Content-Length: {length}\r\n"), "{}");
    let table: Vec<(Vec<u8>, &[u16])> = vec![
        (format!("{get}{many}\r\n").into_bytes(), &[431]),
        (format!("{get}{wide}\r\n").into_bytes(), &[431]),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)).into_bytes(), &[414]),
        (format!("{get}X-Nul: a\0b\r\n\r\n").into_bytes(), &[400]),
        (format!("{get}Not a header\r\n\r\n").into_bytes(), &[400]),
        (format!("{get} X-Folded: a\r\n b\r\n\r\n").into_bytes(), &[400]),
        (b"GET\r\n\r\n".to_vec(), &[400]),
        (b"GET /api HTTP/9.9\r\n\r\n".to_vec(), &[400]),
        (b"\0\0\0\0\0\0\0\0".to_vec(), &[400]),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec(), &[400]),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), &[400]),
        (b"GET \xff\xfe HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        (length("-1"), &[400]),
        (length("0x10"), &[400]),
        (length("2\r\nContent-Length: 9"), &[400]),
        (length("99999999999999999999999"), &[400]),
        (length("99999999999"), &[413]),
        (post(wire, "Transfer-Encoding: gzip, bogus\r\n", "{}"), &[400]),
    ];
    for (bytes, expected) in table {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let mut stream = wire.connect("http/1.1");
        drop(stream.write_all(&bytes).and_then(|()| stream.flush()));
        stream.conn.send_close_notify();
        drop(stream.flush());
        let answer = rest(&mut stream);
        assert_eq!(codes(&answer), expected, "{what:?}: {:?}", String::from_utf8_lossy(&answer));
    }
    // Neither TLS nor anything else.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 7_000], b"\x16\x03\x01\xff\xff", b"\x80\x2e\x01\x00\x02"] {
        let mut socket = TcpStream::connect(wire.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        drop(socket.write_all(bytes));
        drop(socket.shutdown(Shutdown::Write));
        is_closed(&mut socket);
    }
    bothered.stays_well();
}

#[test]
fn requests_in_one_piece_are_answered_one_by_one() {
    let bothered = Bothered::with(&[(CONFIGMAPS, configmap("c"))]);
    let wire = &bothered.wire;
    let mut bytes = Vec::new();
    for n in 0..200 {
        bytes.extend(format!("{}\r\n", wire.head("GET", &format!("{CONFIGMAPS}/missing-{n}"))).into_bytes());
    }
    bytes.extend(post(wire, "Content-Length: 9\r\n", "not json\n"));
    bytes.extend(format!("{}Connection: close\r\n\r\n", wire.head("GET", &format!("{CONFIGMAPS}/c"))).into_bytes());
    let answer = wire.raw(&bytes);
    let expected: Vec<u16> = std::iter::repeat_n(404, 200).chain([400, 200]).collect();
    assert_eq!(codes(&answer), expected);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let places: Vec<usize> = (0..200).map(|n| text.find(&format!("\\\"missing-{n}\\\"")).unwrap()).collect();
    assert!(places.is_sorted(), "in the order of the requests");
    // Two lengths for one body: whatever the second request is taken for, it is not one that is allowed.
    let inner = "0\r\n\r\nDELETE /api/v1/namespaces/default/configmaps/c HTTP/1.1\r\nHost: x\r\n\r\n";
    let both = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", inner.len());
    let answer =
        wire.raw(&[post(wire, &both, inner), b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec()].concat());
    assert!(codes(&answer).iter().all(|code| [400, 401].contains(code)), "{:?}", String::from_utf8_lossy(&answer));
    bothered.stays_well();
}

#[test]
fn bodies_without_end_are_refused_while_they_come() {
    let bothered = Bothered::new();
    let wire = &bothered.wire;
    let mut stream = wire.connect("http/1.1");
    stream.write_all(&post(wire, "Transfer-Encoding: chunked\r\n", "")).unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    let mut sent = 0_usize;
    // Until it has heard enough.
    while sent < 64 << 20 && stream.write_all(chunk.as_bytes()).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "the server reads on for ever");
    // One who asks before it sends is told at once.
    let asks = post(wire, "Expect: 100-continue\r\nContent-Length: 10485760\r\n", "");
    let mut stream = wire.connect("http/1.1");
    stream.write_all(&asks).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 413", "{:?}", String::from_utf8_lossy(&first));
    bothered.stays_well();
}
