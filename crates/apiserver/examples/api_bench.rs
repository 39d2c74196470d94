//! Figures of the API server: in-process reads, durable creates over HTTPS, watch fan-out. One process, all on the
//! same cores; the floor (fdatasync of 4 KiB on the same disk) is measured in the same run.
//!
//!     cargo run --release -p mainstay-apiserver --example api_bench -- [DIR] [SECONDS]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kube::api::{Api, PostParams};
use mainstay_api::Registry;
use mainstay_apiserver::auth::Authenticator;
use mainstay_apiserver::crypt::Sealer;
use mainstay_apiserver::keys::Keys;
use mainstay_apiserver::listener::Listener;
use mainstay_apiserver::rbac::{Authorizer, bootstrap};
use mainstay_apiserver::tls::Tls;
use mainstay_apiserver::token::{StoreSubjects, Tokens};
use mainstay_apiserver::{Access, ApiServer, Config, Identity, Limits, inprocess};
use mainstay_runtime::{Clock, Tasks};
use mainstay_store::{Options, SqliteStore, Store};
use tokio::net::TcpStream;
use tokio::time::Instant;

type ConfigMap = k8s_openapi::api::core::v1::ConfigMap;
type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Bench {
    server: ApiServer,
    tasks: Tasks,
    address: SocketAddr,
    connector: tokio_rustls::TlsConnector,
    token: String,
    length: Duration,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let dir = match arguments.next() {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    floor(dir.path())?;
    let bench = start(dir.path(), Duration::from_secs(seconds)).await?;
    bench.reads().await?;
    for clients in [1, 16, 64] {
        bench.creates(clients).await?;
    }
    bench.fan_out(100, 500).await?;
    bench.tasks.shutdown(Duration::from_secs(10)).await?;
    Ok(())
}

fn floor(dir: &Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(dir.join("floor"))?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let start = Instant::now();
        file.write_all(&[1; 4_096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    report("floor: write and fdatasync of 4 KiB", &mut times);
    Ok(())
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 1_000).min(times.len() - 1)];
    println!("{what}: {} times, p50 {:?}, p99 {:?}, max {:?}", times.len(), at(500), at(990), at(1_000));
}

async fn start(dir: &Path, length: Duration) -> Result<Bench, Failure> {
    use rustls::pki_types::pem::PemObject;
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let store: Arc<dyn Store> = SqliteStore::open(Options::new(dir))?;
    let registry = Arc::new(Registry::standard());
    bootstrap(&store, &registry, &clock).await?;
    let keys = Arc::new(Keys::open_or_create(dir, clock.now())?);
    let tokens = Arc::new(Tokens::new(&keys, Arc::new(StoreSubjects::new(store.clone())), clock.clone())?);
    let access = Access {
        authenticator: Arc::new(Authenticator::new(keys.clone(), tokens.clone())),
        authorizer: Authorizer::new(store.clone()),
        tokens,
    };
    let sealer = Arc::new(Sealer::new(&keys)?);
    let tls = Tls::new(&keys, &["localhost".to_owned()], &clock)?;
    let config = Config {
        store,
        registry,
        access,
        sealer,
        clock,
        tasks: tasks.clone(),
        limits: Limits::default(),
        version: "bench",
    };
    let server = ApiServer::new(config)?;
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), tls.acceptor()).await?;
    let address = listener.address()?;
    drop(tasks.spawn("listener", listener.serve(server.clone(), tasks.stopping())));

    let path = dir.join("kubeconfig");
    keys.write_kubeconfig(&path, &format!("https://{address}"))?;
    let text = std::fs::read_to_string(&path)?;
    let token = text.lines().find_map(|line| line.trim().strip_prefix("token: ")).ok_or("no token")?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(keys.authority_pem().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    Ok(Bench { server, tasks, address, connector, token: token.trim_matches('"').to_owned(), length })
}

/// A client over TLS, with a connection of its own.
async fn connect(bench: &Bench) -> Result<http1::SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(bench.address).await?;
    stream.set_nodelay(true)?;
    let stream = bench.connector.connect("localhost".try_into()?, stream).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    drop(bench.tasks.spawn("client", async move { drop(connection.await) }));
    Ok(sender)
}

async fn create(sender: &mut http1::SendRequest<Full<Bytes>>, token: &str, name: &str) -> Result<(), Failure> {
    let body = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"{name}\"}},\"data\":{{\"k\":\"{}\"}}}}",
        "x".repeat(900)
    );
    let request = Request::post("/api/v1/namespaces/default/configmaps")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::new(body.into()))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    if status != 201 {
        return Err(format!("{status}: {bytes:?}").into());
    }
    Ok(())
}

impl Bench {
    async fn reads(&self) -> Result<(), Failure> {
        let client = inprocess::client(self.server.clone(), Identity::admin(), self.tasks.clone());
        let api: Api<ConfigMap> = Api::namespaced(client, "default");
        let mut object = ConfigMap::default();
        object.metadata.name = Some("read".to_owned());
        object.data = Some([("k".to_owned(), "x".repeat(900))].into());
        api.create(&PostParams::default(), &object).await?;
        // On a worker thread, as reconcilers are.
        let (alone, length) = (api.clone(), self.length);
        let each = self.tasks.spawn("reader", async move {
            let (start, mut count) = (Instant::now(), 0_u32);
            while start.elapsed() < length {
                for _ in 0..100 {
                    alone.get("read").await?;
                }
                count += 100;
            }
            Ok::<_, kube::Error>(start.elapsed() / count)
        });
        println!("in-process GET, one after the other: {:?} each", each.await??);
        let (start, total) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let readers: Vec<_> = (0..16)
            .map(|_| {
                let (api, total, length) = (api.clone(), total.clone(), self.length);
                self.tasks.spawn("reader", async move {
                    while start.elapsed() < length {
                        api.get("read").await?;
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, kube::Error>(())
                })
            })
            .collect();
        for reader in readers {
            reader.await??;
        }
        println!("in-process GET, 16 at once: {} per s", total.load(Ordering::Relaxed) / self.length.as_secs());
        Ok(())
    }

    async fn creates(&self, clients: usize) -> Result<(), Failure> {
        let mut runs = Vec::new();
        let start = Instant::now();
        for client in 0..clients {
            let (mut sender, token, length) = (connect(self).await?, self.token.clone(), self.length);
            runs.push(self.tasks.spawn("creator", async move {
                let mut times = Vec::new();
                while start.elapsed() < length {
                    let begin = Instant::now();
                    create(&mut sender, &token, &format!("c{clients}-{client}-{}", times.len())).await?;
                    times.push(begin.elapsed());
                }
                Ok::<_, Failure>(times)
            }));
        }
        let mut times = Vec::new();
        for run in runs {
            times.extend(run.await??);
        }
        println!("creates over HTTPS, {clients} clients: {} per s", times.len() as u64 / self.length.as_secs());
        report("  latency", &mut times);
        Ok(())
    }

    async fn fan_out(&self, watchers: usize, rate: u64) -> Result<(), Failure> {
        let sent: Arc<Vec<AtomicU64>> =
            Arc::new((0..rate * self.length.as_secs()).map(|_| AtomicU64::new(0)).collect());
        let zero = Instant::now();
        let mut runs = Vec::new();
        for _ in 0..watchers {
            let mut sender = connect(self).await?;
            let request = Request::get("/api/v1/namespaces/default/configmaps?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")
                .header("host", "localhost")
                .header("authorization", format!("Bearer {}", self.token))
                .body(Full::default())?;
            let body = sender.send_request(request).await?.into_body();
            runs.push(self.tasks.spawn("watcher", follow(sender, body, sent.clone(), zero)));
        }
        let mut sender = connect(self).await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
        for (at, slot) in sent.iter().enumerate() {
            ticks.tick().await;
            slot.store(u64::try_from(zero.elapsed().as_nanos())?, Ordering::SeqCst);
            create(&mut sender, &self.token, &format!("fan-{at:06}")).await?;
        }
        let mut times = Vec::new();
        for run in runs {
            times.extend(run.await??);
        }
        report(
            &format!("{watchers} watchers over HTTPS, {rate} creates per s, request sent to event read"),
            &mut times,
        );
        Ok(())
    }
}

/// Reads events until the last one; each must come once and in order.
async fn follow(
    _sender: http1::SendRequest<Full<Bytes>>,
    mut body: hyper::body::Incoming,
    sent: Arc<Vec<AtomicU64>>,
    zero: Instant,
) -> Result<Vec<Duration>, Failure> {
    let (mut times, mut text) = (Vec::with_capacity(sent.len()), Vec::new());
    while times.len() < sent.len() {
        let frame = body.frame().await.ok_or("the watch ended")??;
        text.extend_from_slice(frame.data_ref().ok_or("no data")?);
        let mut from = 0;
        while let Some(end) = text[from..].iter().position(|byte| *byte == b'\n') {
            let line = &text[from..from + end];
            let name = format!("\"name\":\"fan-{:06}\"", times.len());
            if !line.windows(name.len()).any(|part| part == name.as_bytes()) {
                return Err(format!("expected {name}, got {}", String::from_utf8_lossy(line)).into());
            }
            let then = Duration::from_nanos(sent[times.len()].load(Ordering::SeqCst));
            times.push(zero.elapsed().saturating_sub(then));
            from += end + 1;
        }
        text.drain(..from);
    }
    Ok(times)
}
