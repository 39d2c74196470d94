//! Figures that others count, read when they are asked for.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use mainstay_store::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// One figure with its values.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Its name, without `mainstay_` and, for a counter, without `_total`.
    pub name: String,
    /// What it says, as a sentence without a full stop.
    pub help: &'static str,
    /// It only grows.
    pub counter: bool,
    /// A value for each set of labels.
    pub values: Vec<(Labels, Value)>,
}

/// Names and values, which come from closed or bounded sets.
pub type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// A figure's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// So many.
    Count(u64),
    /// A span; told in seconds.
    Span(Duration),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<Duration> for Value {
    fn from(span: Duration) -> Self {
        Self::Span(span)
    }
}

impl Figure {
    /// A figure without labels.
    pub fn plain(name: &str, help: &'static str, counter: bool, value: impl Into<Value>) -> Self {
        Self { name: name.to_owned(), help, counter, values: vec![(Vec::new(), value.into())] }
    }

    /// A figure with one label.
    pub fn by<K, V>(
        label: &'static str,
        name: &str,
        help: &'static str,
        counter: bool,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> Self
    where
        K: Into<Cow<'static, str>>,
        V: Into<Value>,
    {
        let value = |(key, value): (K, V)| (vec![(label, key.into())], value.into());
        Self { name: name.to_owned(), help, counter, values: values.into_iter().map(value).collect() }
    }
}

/// A part of the process that counts.
pub trait Figures: Send + Sync + 'static {
    /// Its figures now, each name once.
    fn read(&self) -> Vec<Figure>;
}

/// Hands figures to the registry.
pub(super) struct Collected<F>(F);

impl<F: Fn() -> Vec<Figure> + Send + Sync + 'static> Collected<F> {
    pub(super) const fn new(read: F) -> Self {
        Self(read)
    }
}

impl<F> fmt::Debug for Collected<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected")
    }
}

impl<F: Fn() -> Vec<Figure> + Send + Sync + 'static> Collector for Collected<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for figure in (self.0)() {
            let kind = if figure.counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(&figure.name, &format!("{}.", figure.help), None, kind)?;
            match figure.values.as_slice() {
                [(labels, value)] if labels.is_empty() => encode(&figure, *value, family)?,
                values => {
                    for (labels, value) in values {
                        encode(&figure, *value, family.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn encode(figure: &Figure, value: Value, encoder: MetricEncoder<'_>) -> fmt::Result {
    match (value, figure.counter) {
        (Value::Count(count), true) => ConstCounter::new(count).encode(encoder),
        (Value::Count(count), false) => ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)).encode(encoder),
        (Value::Span(span), true) => ConstCounter::new(span.as_secs_f64()).encode(encoder),
        (Value::Span(span), false) => ConstGauge::new(span.as_secs_f64()).encode(encoder),
    }
}

pub(super) fn of_build(version: &'static str) -> Vec<Figure> {
    vec![Figure::by("version", "build_info", "The version of this program", false, [(version, 1)])]
}

pub(super) fn of_store(store: &dyn Store) -> Vec<Figure> {
    let stats = store.stats();
    let (counter, gauge) = (true, false);
    vec![
        Figure::plain("store_writable", "Whether writes can be stored", gauge, u64::from(store.ready().is_ok())),
        Figure::plain("store_objects", "Objects now", gauge, stats.objects),
        Figure::plain("store_revision", "The newest revision", gauge, store.revision().0),
        Figure::plain("store_floor", "The compaction floor", gauge, store.floor().0),
        Figure::plain("store_commits", "Commits since start", counter, stats.commits),
        Figure::plain("store_writes", "Writes that succeeded since start", counter, stats.writes),
        Figure::plain("store_watchers", "Watches open on the store", gauge, stats.watchers),
        Figure::plain(
            "store_slow_watchers_ended",
            "Watches ended because their reader was too slow",
            counter,
            stats.slow_watchers_ended,
        ),
        Figure::plain("store_queued", "Writes waiting for the writer", gauge, stats.queued),
    ]
}
