//! HTTP calls to anything that is not a Kubernetes-convention API.
//!
//! A call ends: with a whole answer within its deadline and limit, or with an [`HttpError`] that says whether the request
//! may have arrived.

#![expect(clippy::disallowed_types, reason = "over the connections of `pool`")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use tower::BoxError;
use tracing::Instrument as _;

use super::pool::{Cleartext, Confined, Https, confine, pool};
use crate::failure::{Class, Classify, Reason};
use crate::http_class::class_of_status;
use crate::trace;

/// Whom a client believes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The authorities that this machine knows.
    System,
    /// These, and no others. Nobody, for a client of this machine's loopback interface.
    Only(Arc<RootCertStore>),
}

/// A client; its clones share their connections. Needs a Tokio runtime.
#[derive(Debug, Clone)]
pub struct Http {
    pool: legacy::Client<TimeoutConnector<Https>, Full<Bytes>>,
    most: usize,
}

/// A call that brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It was not made.
    #[error(transparent)]
    Cleartext(#[from] Cleartext),
    /// No connection was made in time, so nothing was sent.
    #[error("cannot connect")]
    NotSent(#[source] legacy::Error),
    /// The connection broke before the whole answer was there.
    #[error("the connection broke")]
    Broken(#[source] BoxError),
    /// There was no whole answer in time.
    #[error("no answer within {0:?}")]
    TooLate(Duration),
    /// The server answered with this status, where an answer was needed to go on.
    #[error("the server answered {0}")]
    Refused(http::StatusCode),
    /// The answer is longer than anything that would be understood.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
}

impl Classify for HttpError {
    fn class(&self) -> Class {
        match self {
            Self::Cleartext(_) => Class::Terminal(Reason::Invalid),
            Self::NotSent(_) => Class::TRANSIENT,
            Self::Refused(status) => class_of_status(status.as_u16(), None).unwrap_or(Class::TRANSIENT),
            // It was sent, so it may have been carried out.
            Self::Broken(_) | Self::TooLate(_) | Self::TooLarge(_) => Class::Indeterminate,
        }
    }
}

impl From<legacy::Error> for HttpError {
    fn from(error: legacy::Error) -> Self {
        if error.is_connect() { Self::NotSent(error) } else { Self::Broken(error.into()) }
    }
}

impl Http {
    /// A client that reads answers of up to `most` bytes. It speaks HTTP/2 where that is offered.
    ///
    /// # Errors
    /// When this machine's authorities cannot be read.
    pub fn new(trust: Trust, most: usize) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let https = HttpsConnectorBuilder::new();
        let https = match trust {
            Trust::System => {
                let https = https.with_provider_and_platform_verifier(aws_lc_rs::default_provider());
                https.map_err(|error| rustls::Error::General(error.to_string()))?
            }
            Trust::Only(roots) => {
                let tls =
                    rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
                https.with_tls_config(tls.with_root_certificates(roots).with_no_client_auth())
            }
        };
        let https = https.https_or_http().enable_all_versions().wrap_connector(Confined::new());
        Ok(Self { pool: pool(https, None), most })
    }

    /// Makes one call, and reads the whole answer.
    ///
    /// # Errors
    /// See [`HttpError`]. An answer with a status of 400 or more is an answer.
    ///
    /// # Cancel safety
    /// Dropping it drops the call; the request may have arrived.
    pub async fn call(&self, request: Request<Bytes>, deadline: Duration) -> Result<Response<Bytes>, HttpError> {
        confine(request.uri())?;
        let span = tracing::trace_span!(
            "call",
            otel.kind = "client",
            server.address = request.uri().host(),
            http.request.method = request.method().as_str(),
            http.response.status_code = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        let outcome = self.traced(request, deadline, &span).instrument(span.clone()).await;
        match &outcome {
            Ok(answer) => span.record("http.response.status_code", answer.status().as_u16()),
            Err(error) => span.record("error.type", error.class().as_str()),
        };
        outcome
    }

    async fn traced(
        &self,
        mut request: Request<Bytes>,
        deadline: Duration,
        span: &tracing::Span,
    ) -> Result<Response<Bytes>, HttpError> {
        if let Some(parent) = trace::traceparent(span).and_then(|parent| parent.parse().ok()) {
            request.headers_mut().insert(trace::HEADER, parent);
        }
        match tokio::time::timeout(deadline, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HttpError::TooLate(deadline)),
        }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = self.pool.request(request.map(Full::new)).await?.into_parts();
        if body.size_hint().lower() > self.most as u64 {
            return Err(HttpError::TooLarge(self.most));
        }
        let body = Limited::new(body, self.most).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { HttpError::TooLarge(self.most) } else { HttpError::Broken(error) }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}
