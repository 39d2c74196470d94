//! The network between a client and a server, well and sick.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::time::Duration;

use mainstay_testkit::command::finish;
use mainstay_testkit::postgres::shared;
use mainstay_testkit::proxy::{Direction, Fault, Proxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// For what is to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what is not to come.
const SHORT: Duration = Duration::from_millis(100);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(2);
const DELAY: Duration = Duration::from_millis(100);

/// A server's listener, and the proxy before it.
async fn network() -> (TcpListener, Proxy) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
    (listener, proxy)
}

#[expect(clippy::disallowed_methods, reason = "the client here is the test, and it is bounded")]
async fn connect(proxy: &Proxy) -> std::io::Result<TcpStream> {
    timeout(PATIENCE, TcpStream::connect(proxy.address())).await.unwrap()
}

/// Both ends of a connection.
async fn connection(listener: &TcpListener, proxy: &Proxy) -> (TcpStream, TcpStream) {
    let client = connect(proxy).await.unwrap();
    (client, accept(listener).await)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0
}

/// Reads as many bytes as are expected.
async fn hears(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}

/// How the stream ends, of which nothing more is expected.
async fn ends(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    let read = timeout(PATIENCE, stream.read(&mut [0; 16])).await.unwrap();
    read.map_err(|error| error.kind())
}

async fn hears_nothing(stream: &mut TcpStream) {
    assert!(timeout(SHORT, stream.read(&mut [0; 16])).await.is_err());
}

async fn say(stream: &mut TcpStream, words: &str) {
    stream.write_all(words.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn what_is_said_passes_and_is_counted() {
    let (listener, proxy) = network().await;
    let (mut client, mut server) = connection(&listener, &proxy).await;
    say(&mut client, "question").await;
    hears(&mut server, "question").await;
    say(&mut server, "no").await;
    hears(&mut client, "no").await;
    client.shutdown().await.unwrap();
    assert_eq!(ends(&mut server).await, Ok(0));
    say(&mut server, "after all").await;
    drop(server);
    hears(&mut client, "after all").await;
    assert_eq!(ends(&mut client).await, Ok(0));
    let counts = proxy.until(|counts| counts.open == 0).await.unwrap();
    assert_eq!((counts.accepted, counts.to_server, counts.to_client), (1, 8, 11));
}

#[tokio::test]
async fn more_than_the_buffers_hold_passes_whole() {
    let (listener, proxy) = network().await;
    let (mut client, mut server) = connection(&listener, &proxy).await;
    let much: Vec<u8> = (0..20_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let (mut got, sent) = (Vec::new(), much.clone());
    let sending = async {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let ((), read) = timeout(PATIENCE, async { tokio::join!(sending, server.read_to_end(&mut got)) }).await.unwrap();
    read.unwrap();
    assert!(got == much);
}

#[tokio::test]
async fn who_is_refused_is_new() {
    let (listener, proxy) = network().await;
    let (mut client, mut server) = connection(&listener, &proxy).await;
    for _ in 0..3 {
        proxy.set(Fault::Refuse).await.unwrap();
        assert_eq!(connect(&proxy).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        say(&mut client, "still here").await;
        hears(&mut server, "still here").await;
        proxy.set(Fault::Pass).await.unwrap();
        connection(&listener, &proxy).await;
    }
    assert_eq!(proxy.counts().accepted, 4);
}

#[tokio::test]
async fn who_is_reset_is_new_until_all_are_cut() {
    let (listener, proxy) = network().await;
    let (mut client, mut server) = connection(&listener, &proxy).await;
    proxy.set(Fault::Reset).await.unwrap();
    assert_eq!(ends(&mut connect(&proxy).await.unwrap()).await, Err(ErrorKind::ConnectionReset));
    say(&mut client, "still here").await;
    hears(&mut server, "still here").await;
    proxy.cut();
    assert_eq!(ends(&mut client).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(ends(&mut server).await, Err(ErrorKind::ConnectionReset));
    proxy.until(|counts| counts.open == 0).await.unwrap();
    proxy.set(Fault::Pass).await.unwrap();
    connection(&listener, &proxy).await;
}

#[tokio::test]
async fn nothing_passes_a_blackhole_until_it_is_gone() {
    let (listener, proxy) = network().await;
    let (mut client, mut server) = connection(&listener, &proxy).await;
    proxy.set(Fault::Blackhole).await.unwrap();
    say(&mut client, "question").await;
    say(&mut server, "unasked").await;
    server.shutdown().await.unwrap();
    let mut late = connect(&proxy).await.unwrap();
    say(&mut late, "knock").await;
    hears_nothing(&mut client).await;
    hears_nothing(&mut server).await;
    assert!(timeout(SHORT, listener.accept()).await.is_err());
    assert_eq!((proxy.counts().to_server, proxy.counts().to_client), (0, 0));

    proxy.set(Fault::Pass).await.unwrap();
    hears(&mut server, "question").await;
    hears(&mut client, "unasked").await;
    assert_eq!(ends(&mut client).await, Ok(0));
    hears(&mut accept(&listener).await, "knock").await;
}

#[tokio::test]
async fn a_reset_does_not_pass_a_blackhole_either() {
    let (listener, proxy) = network().await;
    let (mut client, server) = connection(&listener, &proxy).await;
    proxy.set(Fault::Blackhole).await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    say(&mut client, "hello?").await;
    hears_nothing(&mut client).await;
    proxy.set(Fault::Pass).await.unwrap();
    assert_eq!(ends(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_reset_does_not_pass_a_dead_direction_as_an_answer_to_more() {
    let (listener, proxy) = network().await;
    let (mut client, mut server) = connection(&listener, &proxy).await;
    say(&mut client, "hello").await;
    hears(&mut server, "hello").await;
    proxy.set(Fault::Half(Direction::ToClient)).await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    for _ in 0..3 {
        say(&mut client, "hello?").await;
        hears_nothing(&mut client).await;
    }
    proxy.set(Fault::Pass).await.unwrap();
    assert_eq!(ends(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn one_direction_may_be_dead_alone() {
    let (listener, proxy) = network().await;
    let (mut client, mut server) = connection(&listener, &proxy).await;
    proxy.set(Fault::Half(Direction::ToClient)).await.unwrap();
    say(&mut client, "question").await;
    hears(&mut server, "question").await;
    say(&mut server, "answer").await;
    hears_nothing(&mut client).await;
    proxy.set(Fault::Pass).await.unwrap();
    hears(&mut client, "answer").await;
    proxy.set(Fault::Half(Direction::ToServer)).await.unwrap();
    say(&mut client, "question").await;
    say(&mut server, "unasked").await;
    hears(&mut client, "unasked").await;
    hears_nothing(&mut server).await;
    // Who resets it is heard in the direction that lives, and only there.
    server.set_zero_linger().unwrap();
    drop(server);
    assert_eq!(ends(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn what_is_delayed_arrives_later_in_order_and_not_one_by_one() {
    let (listener, proxy) = network().await;
    let (mut client, mut server) = connection(&listener, &proxy).await;
    proxy.set(Fault::Delay(DELAY)).await.unwrap();
    let begun = Instant::now();
    for n in 0..20 {
        say(&mut client, &format!("{n:02}")).await;
        // So that each is read alone.
        tokio::task::yield_now().await;
    }
    hears(&mut server, "00").await;
    assert!(begun.elapsed() >= DELAY, "{:?}", begun.elapsed());
    hears(&mut server, "01020304050607080910111213141516171819").await;
    assert!(begun.elapsed() < DELAY * 10, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_connection_is_cut_after_so_many_bytes() {
    let (listener, proxy) = network().await;
    for _ in 0..2 {
        proxy.set(Fault::Pass).await.unwrap();
        let (mut client, mut server) = connection(&listener, &proxy).await;
        say(&mut client, "hello").await;
        hears(&mut server, "hello").await;
        let before = proxy.counts().to_server;
        proxy.set(Fault::CutAfter(Direction::ToServer, 3)).await.unwrap();
        say(&mut client, "yes").await;
        hears(&mut server, "yes").await;
        say(&mut server, "and?").await;
        hears(&mut client, "and?").await;
        say(&mut client, "no").await;
        assert_eq!(ends(&mut server).await, Err(ErrorKind::ConnectionReset));
        assert_eq!(ends(&mut client).await, Err(ErrorKind::ConnectionReset));
        assert_eq!(proxy.counts().to_server, before + 3);
    }
}

#[tokio::test]
async fn who_connects_while_no_server_is_there_is_reset() {
    let (listener, proxy) = network().await;
    drop(listener);
    assert_eq!(ends(&mut connect(&proxy).await.unwrap()).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_commit_whose_answer_is_cut_off_is_made_and_its_client_does_not_know() {
    let cluster = tokio::task::spawn_blocking(shared).await.unwrap().unwrap();
    let (database, proxy) = (cluster.database().unwrap(), Proxy::start(cluster.address()).await.unwrap());
    cluster.sql(&database.name, "CREATE TABLE t (n int); GRANT ALL ON t TO mainstay").unwrap();
    let ask = |statements: String| {
        let mut psql = cluster.client("psql");
        psql.args(["--no-psqlrc", "-qAt", "--file=-", &cluster.url_at(proxy.address(), &database.name)]);
        tokio::task::spawn_blocking(move || finish(psql, &statements))
    };
    ask("INSERT INTO t VALUES (1)".to_owned()).await.unwrap().ok();

    // psql goes on only when the shell does: when the answers are cut off.
    let gate = tempfile::tempdir().unwrap();
    let (ready, go) = (gate.path().join("ready"), gate.path().join("go"));
    std::fs::set_permissions(gate.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let wait = format!("touch {}; until [ -e {} ]; do :; done", ready.display(), go.display());
    let asking = ask(format!("SELECT 1;\n\\! {wait}\nINSERT INTO t VALUES (2);\n"));
    timeout(PATIENCE, async {
        while !ready.exists() {
            tokio::time::sleep(GLANCE).await;
        }
    })
    .await
    .unwrap();
    proxy.set(Fault::CutAfter(Direction::ToClient, 0)).await.unwrap();
    std::fs::write(go, "").unwrap();
    let done = asking.await.unwrap();
    assert_ne!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains("server closed the connection") || done.err.contains("Connection reset"), "{done:?}");
    assert_eq!(cluster.sql(&database.name, "SELECT sum(n) FROM t").unwrap(), "3");
}
