//! Traces on their way to a collector: a bounded queue, one task that sends, and a count of what was lost.
//!
//! Whoever ends a span never waits: when the collector is slow or away the queue fills, and what comes then is dropped and
//! counted. Sending goes through the one constructor of outbound clients, so it ends, and over TLS or within this machine.

use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use mainstay_runtime::client::{Http, Trust};
use mainstay_runtime::{Tasks, trace};
use opentelemetry::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry as Metrics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{Layer, Registry};

use super::args::ServeArgs;

/// Spans that may wait; about 1 KiB each.
const WAITING: usize = 4_096;
/// Spans sent at once.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// How long one batch may take. It is not repeated.
const SEND: Duration = Duration::from_secs(10);
/// The pause after a batch that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the process waits for what is left.
pub(super) const FLUSH: Duration = Duration::from_secs(2);
/// The longest answer of a collector.
const MOST_ANSWER: usize = 64 * 1024;

/// Where a collector is; nowhere when the setting is empty, as OpenTelemetry's are then as good as unset.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint(Option<Uri>);

/// An endpoint as the command line, or the environment, gives it.
///
/// # Errors
/// When traces would leave this machine without TLS.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    if text.is_empty() {
        return Ok(Endpoint(None));
    }
    let uri: Uri = text.parse().map_err(|_| "not a URL".to_owned())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(Endpoint(Some(uri))),
        Some("http") if is_here => Ok(Endpoint(Some(uri))),
        Some("http") => Err("traces go to another machine over https only".to_owned()),
        _ => Err("expected https://HOST[:PORT], or http:// on the loopback".to_owned()),
    }
}

/// A share as the command line gives it.
///
/// # Errors
/// When it is not from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    if text.is_empty() {
        return Ok(1.0);
    }
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// What became of spans.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    sent: Counter,
    dropped: Counter,
    failed: Counter,
}

impl Figures {
    /// Adds them to what is served as `/metrics`.
    pub(super) fn register(&self, metrics: &mut Metrics) {
        metrics.register("trace_spans_sent", "Spans that the collector took", self.sent.clone());
        metrics.register("trace_spans_dropped", "Spans dropped because too many waited", self.dropped.clone());
        metrics.register("trace_spans_failed", "Spans that the collector did not take", self.failed.clone());
    }
}

/// Traces, before anything is sent.
#[derive(Debug)]
pub(super) struct Traces {
    provider: SdkTracerProvider,
    exporter: opentelemetry_otlp::SpanExporter,
    waiting: mpsc::Receiver<SpanData>,
    figures: Figures,
}

impl Traces {
    /// As the command line wants them; `None` when it does not.
    ///
    /// # Errors
    /// When the client of the collector cannot be made.
    pub(super) fn of(args: &ServeArgs, figures: &Figures) -> anyhow::Result<Option<Self>> {
        let Some(Endpoint(Some(endpoint))) = &args.otlp_endpoint else { return Ok(None) };
        let client = Collector(Http::new(Trust::System, MOST_ANSWER).context("make the collector's client")?);
        let url = format!("{}/v1/traces", endpoint.to_string().trim_end_matches('/'));
        let builder = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(client);
        let mut exporter =
            builder.with_endpoint(url).with_timeout(SEND).build().context("make the exporter of traces")?;
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder_empty().with_service_name("mainstay").with_attribute(version).build();
        exporter.set_resource(&resource);
        let (queue, waiting) = mpsc::channel(WAITING);
        let share = Sampler::TraceIdRatioBased(args.otlp_share);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(share)))
            .with_resource(resource)
            .with_span_processor(Enqueue { queue, figures: figures.clone() })
            .build();
        Ok(Some(Self { provider, exporter, waiting, figures: figures.clone() }))
    }

    /// What sees spans, and those only that are exported.
    pub(super) fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("mainstay"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        layer.with_filter(filter_fn(|metadata| metadata.is_span() && trace::SPANS.contains(&metadata.name())))
    }

    /// Begins to send. These tasks are to be stopped when nobody else runs any more: what is ended until then is sent, too.
    pub(super) fn export(self, tasks: &Tasks) {
        // What sends is not traced itself, and must not trace itself.
        trace::begin();
        drop(tasks.spawn("traces", self.send(tasks.stopping()).with_subscriber(NoSubscriber::default())));
    }

    /// Sends until it is told to stop, and then what is left, for a while.
    async fn send(self, stop: CancellationToken) {
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(FLUSH).await;
        };
        tokio::select! {
            () = self.send_all(&stop) => {}
            // What is not taken by then is lost with the process.
            () = late => {}
        }
    }

    async fn send_all(mut self, stop: &CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = self.waiting.recv_many(&mut batch, BATCH) => if count == 0 { return },
                () = stop.cancelled() => return,
            }
            stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
            while batch.len() < BATCH
                && let Ok(span) = self.waiting.try_recv()
            {
                batch.push(span);
            }
            if !self.sent(std::mem::take(&mut batch)).await {
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }

    async fn sent(&self, batch: Vec<SpanData>) -> bool {
        let count = batch.len() as u64;
        let taken = tokio::time::timeout(SEND, self.exporter.export(batch)).await.is_ok_and(|sent| sent.is_ok());
        if taken {
            self.figures.sent.inc_by(count)
        } else {
            self.figures.failed.inc_by(count)
        };
        taken
    }
}

/// Puts spans that have ended into the queue, if there is room.
#[derive(Debug)]
struct Enqueue {
    queue: mpsc::Sender<SpanData>,
    figures: Figures,
}

impl SpanProcessor for Enqueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.queue.try_send(span).is_err() {
            self.figures.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The collector, over a client of ours.
#[derive(Debug)]
struct Collector(Http);

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        Ok(self.0.call(request, SEND).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_leave_this_machine_over_tls_only() {
        for good in
            ["https://collector.example:4318", "http://127.0.0.1:4318", "http://[::1]:4318", "http://localhost:1"]
        {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["http://collector.example:4318", "http://10.0.0.1", "collector:4318", "ftp://localhost"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        assert!(endpoint("").is_ok_and(|nowhere| nowhere.0.is_none()), "empty is unset");
        assert_eq!((share("0.25"), share("1"), share("")), (Ok(0.25), Ok(1.0), Ok(1.0)));
        assert!(share("1.1").is_err() && share("-0.1").is_err() && share("NaN").is_err() && share("x").is_err());
    }
}
