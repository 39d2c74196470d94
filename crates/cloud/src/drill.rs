//! drill-backend, the small cloud of `testkit`, over HTTP.
//!
//! The pattern for real backends: one way to have an effect, one to look, and each port's verbs in a file of its own.

mod verbs;

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Builder;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use mainstay_runtime::client::Http;
use mainstay_runtime::operation::EffectKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::limits::{self, Class};
use crate::port::{Backend, Receipt, Resource};
use crate::{CloudError, Code};

/// What a backend is used as.
pub trait Area: Debug + Send + Sync + 'static {
    /// Its name and numbers.
    const LIMITS: &'static limits::Backend;
}

macro_rules! areas {
    ($($name:ident = $module:ident,)+) => { $(
        #[doc = concat!("As a backend of [`", stringify!($name), "`](crate::port::", stringify!($name), ").")]
        #[derive(Debug)]
        pub enum $name {}

        impl Area for $name {
            const LIMITS: &'static limits::Backend = &limits::$module::LIMITS;
        }
    )+ };
}

areas! {
    Compute = compute,
    Network = network,
    Storage = storage,
    Dns = dns,
    LoadBalancer = load_balancer,
}

/// drill-backend, used as an `A`.
#[derive(Debug)]
pub struct Drill<A> {
    http: Http,
    /// Scheme and authority.
    url: Arc<str>,
    host: Arc<str>,
    area: PhantomData<fn() -> A>,
}

impl<A> Clone for Drill<A> {
    fn clone(&self) -> Self {
        Self { http: self.http.clone(), url: Arc::clone(&self.url), host: Arc::clone(&self.host), area: PhantomData }
    }
}

impl<A: Area> Drill<A> {
    /// The one at `url`: scheme, host and port.
    ///
    /// # Errors
    /// [`CloudError::Unspeakable`] when that is no URL.
    pub fn new(http: Http, url: &str) -> Result<Self, CloudError> {
        let host = url.parse::<http::Uri>().ok().and_then(|url| url.authority().map(|host| Arc::from(host.as_str())));
        let host = host.ok_or(CloudError::Unspeakable("a URL without a host"))?;
        Ok(Self { http, url: Arc::from(url.trim_end_matches('/')), host, area: PhantomData })
    }

    /// Has an effect.
    async fn effect(
        &self,
        class: &Class,
        key: &EffectKey,
        verb: &str,
        name: &str,
        spec: &impl Serialize,
    ) -> Result<Receipt, CloudError> {
        let body = serde_json::to_vec(spec).map_err(|_| CloudError::Unspeakable("what is asked for"))?;
        let path = format!("{verb}/{}", segment(name)?);
        let request = self.request(Method::POST, &path, &key.operation, &key.step);
        let request = request.header("mainstay-fence", key.token).header(header::CONTENT_TYPE, "application/json");
        let answer = self.call(class, request, body.into()).await?;
        let receipt: Receipt = serde_json::from_slice(answer.body()).map_err(CloudError::Nonsense)?;
        let is_own = (&*key.operation, &*key.step, name) == (&receipt.operation, &receipt.step, &receipt.name);
        is_own.then_some(receipt).ok_or(CloudError::Other)
    }

    /// Looks; `None` when there is nothing.
    async fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        operation: &str,
        step: &str,
    ) -> Result<Option<T>, CloudError> {
        let request = self.request(Method::GET, path, operation, step);
        match self.call(A::LIMITS.read, request, Bytes::new()).await {
            Ok(answer) => serde_json::from_slice(answer.body()).map(Some).map_err(CloudError::Unread),
            Err(CloudError::Refused { code: Code::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn request(&self, method: Method, path: &str, operation: &str, step: &str) -> Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}/v1/{}/{path}", self.url, A::LIMITS.name))
            .header("mainstay-operation", operation)
            .header("mainstay-step", step)
    }

    async fn call(&self, class: &Class, request: Builder, body: Bytes) -> Result<Response<Bytes>, CloudError> {
        let request = request.body(body).map_err(|_| CloudError::Unspeakable("a name or key"))?;
        let answer = self.http.call(request, class.limits.deadline).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        #[derive(Default, Deserialize)]
        struct Why {
            code: Code,
        }
        // Whoever stands before the backend says no in other words; then the status counts.
        let why: Why = serde_json::from_slice(answer.body()).unwrap_or_default();
        let retry_after = retry_after(answer.headers());
        Err(CloudError::Refused { status: answer.status().as_u16(), code: why.code, retry_after })
    }
}

impl<A: Area> Backend for Drill<A> {
    const LIMITS: &'static limits::Backend = A::LIMITS;

    fn host(&self) -> &Arc<str> {
        &self.host
    }

    async fn find(&self, operation: &str, step: &str) -> Result<Option<Receipt>, CloudError> {
        self.read("effect", operation, step).await
    }

    async fn look(&self, kind: &str, name: &str) -> Result<Option<Resource>, CloudError> {
        self.read(&format!("resources/{}/{}", segment(kind)?, segment(name)?), "", "").await
    }

    async fn list(&self) -> Result<Vec<Resource>, CloudError> {
        Ok(self.read("resources", "", "").await?.unwrap_or_default())
    }

    async fn ping(&self) -> Result<(), CloudError> {
        self.read::<serde_json::Value>("ping", "", "").await.map(drop)
    }
}

/// A name that is one segment of a path, whatever it is called.
fn segment(name: &str) -> Result<&str, CloudError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*@".contains(&byte);
    let is_one = !matches!(name, "" | "." | "..") && name.bytes().all(plain);
    is_one.then_some(name).ok_or(CloudError::Unspeakable("a name"))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        for name in ["web-1", "www.example.org", "*.example.org", "@", "_dmarc"] {
            assert!(segment(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a?b", "a b", "a%2fb", "ä"] {
            assert!(segment(name).is_err(), "{name}");
        }
    }
}
