//! Calls of reconcilers to the API: each with a deadline, a class, and the version that it wrote.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ListMeta, ObjectMeta};
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ObjectList, Request};
use kube::{Client, Resource};
use mainstay_runtime::{Class, Classify, Doing, Failure, Reason, bounded};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::driver::Key;
use crate::reconcile::Effect;

/// How many objects a page of a list holds.
const PAGE: u32 = 500;

/// A kind that is known at compile time.
pub(crate) trait Known: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static {}
impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static> Known for K {}

/// Reads and writes objects for one controller; cheap to clone.
#[derive(Clone)]
pub struct Objects {
    client: Client,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}

/// Where objects of a kind are: its URL, in one namespace or over all.
fn place<K: Resource<DynamicType = ()>>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

/// What is being done, for failures: `verb Kind key`.
fn doing<K: Resource<DynamicType = ()>>(verb: &str, key: &Key) -> String {
    format!("{verb} {} {key}", K::kind(&()))
}

fn unsendable(error: http::Error) -> Failure {
    Failure::caused_by(Class::Terminal(Reason::Invalid), "build request", error)
}

impl Objects {
    /// Calls through this client.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// The failure of a request that could not even be put together.
    pub(crate) fn unbuildable(error: kube::core::request::Error) -> Failure {
        Failure::caused_by(Class::Terminal(Reason::Invalid), "build request", error)
    }

    /// The object, or `None` when there is none.
    pub(crate) async fn get<K: Known>(&self, key: &Key) -> Result<Option<K>, Failure> {
        self.get_as::<K, K>(key).await
    }

    /// The object of kind `K`, read as a `T`.
    pub(crate) async fn get_as<K, T>(&self, key: &Key) -> Result<Option<T>, Failure>
    where
        K: Resource<DynamicType = ()>,
        T: DeserializeOwned,
    {
        let request =
            place::<K>(key.namespace.as_deref()).get(&key.name, &GetParams::default()).map_err(Self::unbuildable)?;
        match bounded(self.client.request::<T>(request)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.class() == Class::Terminal(Reason::NotFound) => Ok(None),
            Err(error) => Err(error).doing(doing::<K>("read", key)),
        }
    }

    /// All objects of one namespace, or of all, that carry this label.
    pub(crate) async fn list<K: Known>(&self, namespace: Option<&str>, label: Option<&str>) -> Result<Vec<K>, Failure> {
        let params = ListParams { label_selector: label.map(str::to_owned), ..ListParams::default() };
        self.list_by(namespace, params).await
    }

    /// All objects, of all namespaces, that this field selector picks.
    pub(crate) async fn select<K: Known>(&self, fields: &str) -> Result<Vec<K>, Failure> {
        self.list_by(None, ListParams::default().fields(fields)).await
    }

    async fn list_by<K: Known>(&self, namespace: Option<&str>, params: ListParams) -> Result<Vec<K>, Failure> {
        let mut params = params.limit(PAGE);
        let mut all = Vec::new();
        loop {
            let request = place::<K>(namespace).list(&params).map_err(Self::unbuildable)?;
            let page: ObjectList<K> =
                bounded(self.client.request(request)).await.doing(format!("list {}", K::plural(&())))?;
            all.extend(page.items);
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(all);
            }
        }
    }

    /// Makes an object; `None` when one of its name is there already.
    pub(crate) async fn create<K: Known>(&self, key: &Key, object: &impl Serialize) -> Result<Option<K>, Failure> {
        let body = serde_json::to_vec(object).map_err(|error| {
            Failure::caused_by(Class::Terminal(Reason::Invalid), doing::<K>("write out", key), error)
        })?;
        let request =
            place::<K>(key.namespace.as_deref()).create(&PostParams::default(), body).map_err(Self::unbuildable)?;
        match bounded(self.client.request::<K>(request)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.class() == Class::Terminal(Reason::AlreadyExists) => Ok(None),
            Err(error) => Err(error).doing(doing::<K>("create", key)),
        }
    }

    /// Merges `body` into the object.
    pub(crate) async fn merge<K: Known>(&self, key: &Key, body: &Value) -> Result<Effect, Failure> {
        let request = place::<K>(key.namespace.as_deref())
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(body))
            .map_err(Self::unbuildable)?;
        self.written(request, doing::<K>("patch", key)).await
    }

    /// Merges `body`, which should name the resourceVersion that it was made for, into the object's status.
    pub(crate) async fn merge_status<K>(&self, key: &Key, body: &Value) -> Result<Effect, Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        self.merge_part::<K>("status", key, body).await
    }

    /// Merges `body` through a subresource.
    pub(crate) async fn merge_part<K>(&self, part: &str, key: &Key, body: &Value) -> Result<Effect, Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        let request = place::<K>(key.namespace.as_deref())
            .patch_subresource(part, &key.name, &PatchParams::default(), &Patch::Merge(body))
            .map_err(Self::unbuildable)?;
        self.written(request, doing::<K>(&format!("write {part} of"), key)).await
    }

    /// Deletes the object if it still has this uid; one that is gone already is as good.
    pub(crate) async fn delete<K>(&self, key: &Key, uid: Option<&str>) -> Result<Effect, Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        let collection = K::url_path(&(), key.namespace.as_deref());
        self.delete_at(&collection, &key.name, uid).await
    }

    /// Sends a deletion that was built elsewhere.
    pub(crate) async fn deleted(&self, request: http::Request<Vec<u8>>, what: String) -> Result<Effect, Failure> {
        match self.written(request, what).await {
            Err(failure) if failure.class() == Class::Terminal(Reason::NotFound) => Ok(Effect::NONE),
            result => result,
        }
    }

    /// Sends a request whose answer is an object, or a Status, of which only the version matters.
    pub(crate) async fn written(&self, request: http::Request<Vec<u8>>, what: String) -> Result<Effect, Failure> {
        #[derive(serde::Deserialize)]
        struct Answer {
            #[serde(default)]
            metadata: ObjectMeta,
        }
        let answer: Answer = bounded(self.client.request(request)).await.doing(what)?;
        Ok(Effect::wrote(&answer.metadata))
    }

    /// Takes one finalizer off, on the version that was read.
    pub(crate) async fn remove_finalizer<K: Known>(&self, object: &K, finalizer: &str) -> Result<Effect, Failure> {
        self.keep_finalizers(object, |name| name != finalizer).await
    }

    /// Takes all finalizers off, on the version that was read.
    pub(crate) async fn remove_finalizers<K: Known>(&self, object: &K) -> Result<Effect, Failure> {
        self.keep_finalizers(object, |_| false).await
    }

    async fn keep_finalizers<K: Known>(&self, object: &K, keep: impl Fn(&str) -> bool) -> Result<Effect, Failure> {
        let meta = object.meta();
        let left: Vec<&String> = meta.finalizers.iter().flatten().filter(|name| keep(name)).collect();
        let body = json!({ "metadata": { "resourceVersion": meta.resource_version, "finalizers": left } });
        match self.merge::<K>(&Key::of(meta), &body).await {
            Err(failure) if failure.class() == Class::Terminal(Reason::NotFound) => Ok(Effect::NONE),
            result => result,
        }
    }

    /// Metadata of all objects of this collection, at most about `most` of them.
    pub(crate) async fn heads(&self, collection: &str, most: usize) -> Result<Vec<ObjectMeta>, Failure> {
        #[derive(serde::Deserialize)]
        struct Head {
            metadata: ObjectMeta,
        }
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            metadata: ListMeta,
            items: Vec<Head>,
        }
        let mut params = ListParams::default().limit(PAGE);
        let mut all = Vec::new();
        loop {
            let request = Request::new(collection).list(&params).map_err(Self::unbuildable)?;
            let page: Page = self.call(request, format!("list {collection}")).await?;
            all.extend(page.items.into_iter().map(|head| head.metadata));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() || all.len() >= most {
                return Ok(all);
            }
        }
    }

    /// Deletes the object at a path if it still has this uid; one that is gone already is as good.
    pub(crate) async fn delete_at(&self, collection: &str, name: &str, uid: Option<&str>) -> Result<Effect, Failure> {
        let preconditions = uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let request = Request::new(collection).delete(name, &params).map_err(Self::unbuildable)?;
        self.deleted(request, format!("delete {collection}/{name}")).await
    }

    /// Reads what is at a path.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &str, what: &'static str) -> Result<T, Failure> {
        let request = http::Request::get(path).body(Vec::new()).map_err(unsendable)?;
        self.call(request, what).await
    }

    /// Posts to a path.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        what: &'static str,
    ) -> Result<T, Failure> {
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(unsendable)?;
        self.call(request, what).await
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        request: http::Request<Vec<u8>>,
        what: impl Into<Cow<'static, str>>,
    ) -> Result<T, Failure> {
        bounded(self.client.request(request)).await.doing(what)
    }
}

/// Puts a condition into a list of them: the transition time of one whose status stays is kept.
pub(crate) fn merge_condition(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}
