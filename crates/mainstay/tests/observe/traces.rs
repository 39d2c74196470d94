//! Traces, as a collector gets them, and what becomes of the server when it gets none.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mainstay_runtime::Tasks;
use mainstay_testkit::drill_backend::DrillBackend;
use mainstay_testkit::server::Server;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval, timeout};

use crate::{EXE, scrape};

/// Longest wait for a trace to be whole.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
const OPERATIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/operations";
const PROJECTS: &str = "/apis/mainstay.dev/v1alpha1/projects";

/// A collector on the loopback.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let taken = spans.clone();
        let tasks = Tasks::new();
        let others = tasks.clone();
        drop(tasks.spawn("collector", async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let taken = taken.clone();
                let take = service_fn(move |request| take(request, taken.clone()));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), take);
                drop(others.spawn("connection", served));
            }
        }));
        Self { url, spans }
    }

    /// The spans of a trace, once `whole` of them.
    async fn trace(&self, id: &str, whole: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut looks = interval(LOOK);
        let found = || -> Vec<Span> {
            self.spans.lock().unwrap().iter().filter(|span| hex(&span.trace_id) == id).cloned().collect()
        };
        let look = async {
            while !whole(&found()) {
                looks.tick().await;
            }
        };
        let seen = timeout(PATIENCE, look).await;
        let all: Vec<String> = found().iter().map(|span| span.name.clone()).collect();
        seen.unwrap_or_else(|_| panic!("the trace is not whole: {all:?}"));
        found()
    }
}

async fn take(
    request: Request<hyper::body::Incoming>,
    spans: Arc<Mutex<Vec<Span>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let sent = ExportTraceServiceRequest::decode(body).unwrap();
    let scopes = sent.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    spans.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    Ok(Response::builder().header("content-type", "application/x-protobuf").body(Full::from(answer)).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The spans with this name whose parent is that one.
fn children<'a>(spans: &'a [Span], of: &[u8], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent_span_id == of && span.name == name).collect()
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    format!("{:?}", found.unwrap_or_else(|| panic!("{key} in {span:?}")).value)
}

/// Whether it is a request of that verb for that resource.
fn asks(span: &Span, request: &str) -> bool {
    span.name == "request" && attribute(span, "mainstay.request").contains(request)
}

async fn post(server: &Server, path: &str, body: &Value, traceparent: &str) -> Value {
    let client = server.client().await.unwrap();
    let request = Request::post(path).header("content-type", "application/json").header("traceparent", traceparent);
    client.request(request.body(body.to_string().into_bytes()).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_a_request_through_operation_and_step_to_the_backend() {
    let collector = Collector::start().await;
    let backend = DrillBackend::start().unwrap();
    let mut server = Server::idle(EXE).unwrap();
    server.set_env("OTEL_EXPORTER_OTLP_ENDPOINT", Some(&collector.url));
    server.set_arguments(&["--drill-backend", &backend.url()]);
    server.restart().unwrap();

    let (trace, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let spec = json!({"handler": "deprovision", "payload": {"name": "traced", "domain": "traced.example"}});
    let order = json!({"metadata": {"name": "traced"}, "spec": spec});
    let made = post(&server, OPERATIONS, &order, &format!("00-{trace}-{caller}-01")).await;
    assert!(made["metadata"]["annotations"]["mainstay.dev/traceparent"].as_str().unwrap().contains(trace), "{made}");
    let spans = collector.trace(trace, |spans| {
        let is = |name: &str| spans.iter().any(|span| span.name == name);
        is("request") && is("operation") && is("step") && is("call")
    });
    let spans = spans.await;
    let requests: Vec<&Span> = spans.iter().filter(|span| hex(&span.parent_span_id) == caller).collect();
    assert_eq!(requests.len(), 1);
    assert!(asks(requests[0], "create operations.mainstay.dev"));
    assert!(attribute(requests[0], "http.response.status_code").contains("201"));
    let attempts = children(&spans, &requests[0].span_id, "operation");
    assert!(attribute(attempts[0], "attempt").contains('1'));
    let steps = children(&spans, &attempts[0].span_id, "step");
    assert!(!steps.is_empty(), "{spans:#?}");
    let calls = steps.iter().flat_map(|step| children(&spans, &step.span_id, "call"));
    assert!(calls.clone().count() > 0, "{spans:#?}");
    calls.for_each(|call| assert!(attribute(call, "server.address").contains("127.0.0.1")));
    assert!(!format!("{spans:?}").contains("traced"), "a name is in {spans:#?}");

    // What a controller does about a write belongs to the write's trace, and so does what it asks for.
    let trace = "1bf92f3577b34da6a3ce929d0e0e4736";
    post(&server, PROJECTS, &json!({"metadata": {"name": "team"}, "spec": {}}), &format!("00-{trace}-{caller}-01"))
        .await;
    let asked = |spans: &[Span]| {
        let reconciles = spans.iter().filter(|span| hex(&span.parent_span_id) == caller);
        let reconciles = reconciles.flat_map(|request| children(spans, &request.span_id, "reconcile"));
        reconciles.flat_map(|one| children(spans, &one.span_id, "request")).count()
    };
    collector.trace(trace, |spans| asked(spans) > 0).await;

    // A caller who decided that its trace is not kept is obeyed.
    let left_out = "2bf92f3577b34da6a3ce929d0e0e4736";
    post(&server, PROJECTS, &json!({"metadata": {"name": "quiet"}, "spec": {}}), &format!("00-{left_out}-{caller}-00"))
        .await;
    let after = "3bf92f3577b34da6a3ce929d0e0e4736";
    post(&server, PROJECTS, &json!({"metadata": {"name": "loud"}, "spec": {}}), &format!("00-{after}-{caller}-01"))
        .await;
    collector.trace(after, |spans| !spans.is_empty()).await;
    assert!(collector.spans.lock().unwrap().iter().all(|span| hex(&span.trace_id) != left_out));
    let text = scrape::text(&server).await;
    assert!(text.contains("mainstay_trace_spans_dropped_total 0"), "{text}");
    server.stop().unwrap();
}

/// What is lost is counted, and requests and the end of the process do not wait for it.
async fn holds_nothing_up(collector: &str, lost: &str) {
    let mut server = Server::idle(EXE).unwrap();
    server.set_env("OTEL_EXPORTER_OTLP_ENDPOINT", Some(collector));
    server.restart().unwrap();
    let client = server.client().await.unwrap();
    let look = async {
        loop {
            let text = client.request_text(Request::get("/metrics").body(Vec::new()).unwrap()).await.unwrap();
            if !text.contains(&format!("mainstay_trace_spans_{lost}_total 0")) {
                return;
            }
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("what is lost is not counted"));
    let began = Instant::now();
    server.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_stalls_holds_nothing_up() {
    // The kernel takes its connections, and nobody their bytes.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    holds_nothing_up(&format!("http://{}", deaf.local_addr().unwrap()), "dropped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_nothing_up() {
    // Held, and nobody listens there.
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    holds_nothing_up(&format!("http://{}", held.local_addr().unwrap()), "failed").await;
}
