//! Calls to a Kubernetes-convention API: a deadline on each, and a class for every way in which they fail.
//!
//! `kube::Client` has no deadlines of its own. Single calls go through [`bounded`]; a client that is handed to a
//! watcher goes through [`bounded_client`], which bounds the time to an answer's head and leaves its body, which may
//! stream for minutes, to the watcher's own idle bound. A client of a server elsewhere is made by [`remote`] only; one of
//! anything that is not such an API by [`Http::new`]; both stand on one pool of connections. A Unix socket is called
//! through [`unix::connect`]. clippy.toml refuses all other ways out of the process.

mod http;
mod pool;
mod turned;
pub mod unix;

pub use self::http::{Http, HttpError, Trust};
pub use self::pool::{CONNECT_TIMEOUT, Cleartext};
pub use self::turned::{LINK_CALLS, LINK_PING, LINK_STREAM_WINDOW, LINK_WINDOW, LinkBody, Reversed, open};

use std::future::Future;
use std::time::Duration;

use hyper_util::client::legacy;
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::core::response::Status;
use tower::ServiceBuilder;

use crate::failure::{Class, Classify, Reason};
use crate::http_class::class_of_status;

/// How long a single call may take.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server said why. Its words are all that is shown: they end up in conditions and Events that people read.
    #[error("{}", words(.0))]
    Refused(Box<Status>),
    /// There was no answer that could be understood.
    #[error(transparent)]
    Client(kube::Error),
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            error => Self::Client(error),
        }
    }
}

/// A Status in words, also when it has none of its own.
fn words(status: &Status) -> String {
    match (status.message.is_empty(), status.reason.is_empty()) {
        (false, _) => status.message.clone(),
        (true, false) => status.reason.clone(),
        (true, true) => format!("the server answered with status {}", status.code),
    }
}

impl CallError {
    /// The HTTP status of the answer, when there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(status) => Some(status.code),
            Self::Client(_) | Self::NoAnswer(_) => None,
        }
    }

    /// The `reason` word of the answer's Status object; empty when there was no answer.
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused(status) => &status.reason,
            Self::Client(_) | Self::NoAnswer(_) => "",
        }
    }
}

impl Classify for CallError {
    fn class(&self) -> Class {
        match self {
            Self::Refused(status) => class_of_answer(status),
            Self::Client(error) => class_of(error),
            Self::NoAnswer(_) => Class::Indeterminate,
        }
    }
}

/// The class of a client's error.
///
/// An answer is judged by its status and, where one status has two meanings, by the reason word or the first cause's,
/// all of which are protocol. A connection that broke may have broken after the request was carried out, so it is in doubt.
pub fn class_of(error: &kube::Error) -> Class {
    match error {
        kube::Error::Api(status) => class_of_answer(status),
        kube::Error::Service(error) if error.downcast_ref().is_some_and(legacy::Error::is_connect) => Class::TRANSIENT,
        // The answer broke off, or came but cannot be read: what was asked for may have been done.
        kube::Error::SerdeError(_)
        | kube::Error::FromUtf8(_)
        | kube::Error::HyperError(_)
        | kube::Error::Service(_)
        | kube::Error::ReadEvents(_)
        | kube::Error::LinesCodecMaxLineLengthExceeded => Class::Indeterminate,
        kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => Class::Terminal(Reason::Invalid),
        // The rest concerns how a client is configured or connects: nothing was sent.
        _ => Class::TRANSIENT,
    }
}

fn class_of_answer(status: &Status) -> Class {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    let retry_after = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)));
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let cause = causes.map(|cause| cause.reason.as_str()).next().unwrap_or_default();
    match (status.code, status.reason.as_str(), cause) {
        (409, "AlreadyExists", _) => Class::Terminal(Reason::AlreadyExists),
        (401 | 409, "Fenced", _) => Class::Fenced,
        (403, "QuotaExceeded", _) | (403, _, "QuotaExceeded") => Class::Terminal(Reason::QuotaExceeded),
        // Asked for a state that is yet to come: nothing was done.
        (504, _, "ResourceVersionTooLarge") => Class::Transient { retry_after },
        // A Status without a code is a server's bug; the request may have been carried out.
        (0, ..) => Class::Indeterminate,
        (code, ..) => class_of_status(code, retry_after).unwrap_or(Class::Indeterminate),
    }
}

/// Runs one call under [`CALL_DEADLINE`].
///
/// # Errors
/// The client's error, or [`CallError::NoAnswer`].
///
/// # Cancel safety
/// Dropping it drops the call; over the in-process client the server still carries the request out.
pub async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::NoAnswer(CALL_DEADLINE)),
    }
}

/// A client of a server elsewhere: connecting, sending, and each wait for more of an answer are bounded. `idle` is the
/// longest silence within an answer: [`CALL_DEADLINE`], or longer where the answer is a stream. What may be repeated is
/// the caller's to know: nothing is here.
///
/// # Errors
/// When the configuration makes no client: a certificate that cannot be read, say.
pub fn remote(config: &kube::Config, idle: Duration) -> Result<kube::Client, kube::Error> {
    // The only error is that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let https = config.rustls_https_connector_with_connector(pool::Confined::new())?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(pool::pool::<kube::client::Body>(https, Some((CALL_DEADLINE, idle))));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// As [`remote`], over TLS as `tls` has it, with a certificate of the caller's for instance. Of `config` count the URL, the
/// namespace, and the headers; who it says the caller is does not.
///
/// # Errors
/// As [`remote`].
pub fn remote_over(
    tls: rustls::ClientConfig,
    config: &kube::Config,
    idle: Duration,
) -> Result<kube::Client, kube::Error> {
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(pool::pool::<kube::client::Body>(pool::over(tls), Some((CALL_DEADLINE, idle))));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// A service that passes requests on, each with the whole URL of where it goes, over TLS as `tls` has it; bounded like
/// [`remote`].
pub fn forwarder<B>(
    tls: rustls::ClientConfig,
    idle: Duration,
) -> impl tower::Service<
    ::http::Request<B>,
    Response = ::http::Response<hyper::body::Incoming>,
    Error = legacy::Error,
    Future: Send,
> + Clone
+ Send
+ Sync
where
    B: ::http_body::Body<Data: Send, Error: Into<tower::BoxError>> + Send + Unpin + 'static,
{
    pool::pool::<B>(pool::over(tls), Some((CALL_DEADLINE, idle)))
}

/// A client each of whose requests must begin to be answered within [`CALL_DEADLINE`]. Needs a Tokio runtime.
pub fn bounded_client(client: kube::Client) -> kube::Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request| {
        let client = client.clone();
        async move { client.send(request).await }
    });
    kube::Client::new(tower::timeout::Timeout::new(service, CALL_DEADLINE), namespace)
}

#[cfg(test)]
mod tests;
