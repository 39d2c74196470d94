//! A client that outlives the server: a call is repeated until somebody answers it.
//!
//! What it sends must bear repetition: names and ids are the caller's, so that a call whose answer was lost is the same
//! call when it is made again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::TryStreamExt as _;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt as _};
use mainstay_runtime::Tasks;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Longest time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Longest time for a call, over all deaths of the server.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Clone)]
pub struct Client(kube::Client);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// What the server said at last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 2xx, with this body.
    Done(String),
    /// A refusal, with its code and message.
    Refused(u16, String),
}

impl Answer {
    /// The body.
    ///
    /// # Errors
    /// When the server refused.
    pub fn done(self) -> anyhow::Result<String> {
        match self {
            Self::Done(body) => Ok(body),
            Self::Refused(code, message) => bail!("refused with {code}: {message}"),
        }
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When the server refused, or it is not JSON.
    pub fn json(self) -> anyhow::Result<Value> {
        let body = self.done()?;
        serde_json::from_str(&body).with_context(|| format!("read {body}"))
    }
}

/// Objects of one kind in one namespace by name, kept current over the server's deaths.
pub type Objects<K> = watch::Receiver<BTreeMap<String, K>>;

impl Client {
    /// Makes calls through `client`.
    pub const fn new(client: kube::Client) -> Self {
        Self(client)
    }

    /// Makes a call until it is answered. A patch is a merge patch.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let until = Instant::now() + PATIENCE;
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        loop {
            let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
            let asked = timeout(ATTEMPT, self.0.request_text(request.body(bytes.clone())?)).await;
            let why = match asked {
                Ok(Ok(body)) => return Ok(Answer::Done(body)),
                Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
                    return Ok(Answer::Refused(status.code, status.message));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer in {ATTEMPT:?}"),
            };
            if Instant::now() > until {
                bail!("{method} {path} was not answered in {PATIENCE:?}: {why}");
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.call("GET", path, &Value::Null).await
    }

    /// Creates an object; one that is there already was created by a call whose answer was lost.
    ///
    /// # Errors
    /// When it is refused, or nobody answers in time.
    pub async fn create(&self, path: &str, object: &Value) -> anyhow::Result<()> {
        match self.call("POST", path, object).await? {
            Answer::Done(_) | Answer::Refused(409, _) => Ok(()),
            Answer::Refused(code, message) => bail!("create {path}: {code}: {message}"),
        }
    }

    /// Deletes an object; one that is not there was deleted by a call whose answer was lost.
    ///
    /// # Errors
    /// When it is refused, or nobody answers in time.
    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        match self.call("DELETE", path, &Value::Null).await? {
            Answer::Done(_) | Answer::Refused(404, _) => Ok(()),
            Answer::Refused(code, message) => bail!("delete {path}: {code}: {message}"),
        }
    }

    /// Watches objects of a kind until nobody looks any more.
    pub fn objects<K>(&self, namespace: &str, tasks: &Tasks) -> Objects<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (sender, objects) = watch::channel(BTreeMap::new());
        let api: Api<K> = Api::namespaced(self.0.clone(), namespace);
        tasks.spawn("objects", async move {
            while !sender.is_closed() {
                // Whatever broke it off, the next look starts anew.
                tokio::select! {
                    _ = follow(&api, &sender) => {}
                    () = sender.closed() => {}
                }
                sleep(PAUSE).await;
            }
        });
        objects
    }
}

async fn follow<K>(api: &Api<K>, sender: &watch::Sender<BTreeMap<String, K>>) -> kube::Result<()>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    let list = api.list(&ListParams::default()).await?;
    let version = list.metadata.resource_version.clone().unwrap_or_default();
    sender.send_replace(list.items.into_iter().map(|object| (object.name_any(), object)).collect());
    let mut events = std::pin::pin!(api.watch(&WatchParams::default(), &version).await?);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                sender.send_modify(|objects| drop(objects.insert(object.name_any(), object)));
            }
            WatchEvent::Deleted(object) => sender.send_modify(|objects| drop(objects.remove(&object.name_any()))),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(_) => return Ok(()),
        }
    }
    Ok(())
}
