//! `project-teardown`: takes a project's world down, in order: sessions, and their Pods with them, then the namespace
//! with the rest. Nothing outside the project's own namespace is touched (R4, R39).
//!
//! Each step deletes what it sees under the uid that it saw, and is done when nothing is left; so it can be repeated at
//! any point, and what was made anew under an old name is left alone. Deleting cannot be undone, and is not.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ObjectList;
use kube::{Client, Resource};
use mainstay_api::operation::Operation;
use mainstay_api::project::Project;
use mainstay_api::session::Session;
use mainstay_runtime::operation::{At, Handler, Progress, Step, Work};
use mainstay_runtime::{Class, Failure, Reason};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::driver::Key;
use crate::objects::Objects;
use crate::operation::Order;
use crate::reconcile::Effect;

/// The handler's name.
pub const HANDLER: &str = "project-teardown";
/// The step of a project's life that this is.
pub(super) const STEP: &str = "teardown";
/// How soon what is going is looked at again.
const LOOK: Duration = Duration::from_millis(200);
/// Deletions under way at once.
const AT_ONCE: usize = 32;

/// What is to be torn down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Payload {
    /// The project's name, which is its namespace's, too.
    project: String,
    /// The namespace's uid.
    namespace_uid: String,
}

/// Orders the teardown of this project's namespace.
pub(super) fn order<'a>(project: &'a Project, namespace: &Namespace) -> Order<'a> {
    let name = project.metadata.name.as_deref().unwrap_or_default();
    let namespace_uid = namespace.metadata.uid.clone().unwrap_or_default();
    let payload = Map::from_iter([
        ("project".to_owned(), Value::from(name)),
        ("namespaceUid".to_owned(), Value::from(namespace_uid)),
    ]);
    Order { step: STEP, handler: HANDLER, project: name, payload }
}

/// Carries it out, through a client of the project controller.
#[derive(Debug)]
pub struct Teardown {
    objects: Objects,
}

impl Teardown {
    /// Acts through this client.
    pub const fn new(client: Client) -> Self {
        Self { objects: Objects::new(client) }
    }
}

impl Handler for Teardown {
    fn name(&self) -> &'static str {
        HANDLER
    }

    fn steps(&self, work: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        let world = Arc::new(World { objects: self.objects.clone(), what: work.payload()? });
        Ok(vec![Box::new(Sessions(world.clone())), Box::new(Rest(world))])
    }
}

/// The project's world, as the steps see it.
struct World {
    objects: Objects,
    what: Payload,
}

impl World {
    /// The namespace that is meant, as long as it is there.
    async fn namespace(&self) -> Result<Option<Namespace>, Failure> {
        let found = self.objects.get::<Namespace>(&self.key()).await?;
        Ok(found.filter(|found| found.metadata.uid.as_deref() == Some(&self.what.namespace_uid)))
    }

    fn key(&self) -> Key {
        Key { namespace: None, name: self.what.project.clone() }
    }

    /// Fails when a dead letter holds the namespace that has left something behind: somebody has to look at it.
    async fn is_held(&self) -> Result<(), Failure> {
        let place = &self.what.project;
        let path = format!("{}?fieldSelector=status.phase%3DDead&limit=100", Operation::url_path(&(), Some(place)));
        let dead: ObjectList<Operation> = self.objects.read(&path, "list the project's dead letters").await?;
        let held = dead.items.into_iter().find(|one| one.metadata.deletion_timestamp.is_some());
        held.map_or(Ok(()), |held| Err(still_there(place, &held.metadata.name.unwrap_or_default())))
    }

    async fn sessions(&self) -> Result<Vec<ObjectMeta>, Failure> {
        if self.namespace().await?.is_none() {
            return Ok(Vec::new());
        }
        self.objects.heads(&Session::url_path(&(), Some(&self.what.project)), usize::MAX).await
    }
}

fn still_there(place: &str, name: &str) -> Failure {
    let what = format!(
        "operation {place}/{name} is a dead letter and may have left something behind: replay it, or take its finalizer off, \
         and then replay this one"
    );
    Failure::new(Class::Terminal(Reason::SystemRefused), what)
}

impl World {
    /// Deletes a session as it was seen.
    async fn delete(&self, session: ObjectMeta) -> Result<Effect, Failure> {
        let key = Key { namespace: Some(self.what.project.clone()), name: session.name.unwrap_or_default() };
        self.objects.delete::<Session>(&key, session.uid.as_deref()).await
    }
}

/// Deletes all sessions; done when none is left.
struct Sessions(Arc<World>);

impl Step for Sessions {
    fn name(&self) -> &'static str {
        "delete-sessions"
    }

    fn observe<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        async {
            let left = self.0.sessions().await?;
            let told = left.iter().all(|session| session.deletion_timestamp.is_some());
            Ok(match (left.is_empty(), told) {
                (true, _) => Some(Progress::DONE),
                (false, true) => Some(Progress::NotYet(LOOK)),
                (false, false) => None,
            })
        }
        .boxed()
    }

    fn act<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        async move {
            let left = self.0.sessions().await?;
            if left.is_empty() {
                return Ok(Progress::DONE);
            }
            let untold = left.into_iter().filter(|session| session.deletion_timestamp.is_none());
            let deletions = futures::stream::iter(untold)
                .take_while(|_| std::future::ready(!at.cancelled.is_cancelled()))
                .map(|session| self.0.delete(session));
            let outcomes: Vec<_> = deletions.buffer_unordered(AT_ONCE).collect().await;
            outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
            Ok(Progress::NotYet(LOOK))
        }
        .boxed()
    }
}

/// Deletes the namespace; done when it is gone.
struct Rest(Arc<World>);

impl Step for Rest {
    fn name(&self) -> &'static str {
        "delete-namespace"
    }

    fn observe<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        async {
            Ok(match self.0.namespace().await? {
                None => Some(Progress::DONE),
                Some(namespace) if namespace.metadata.deletion_timestamp.is_some() => {
                    self.0.is_held().await?;
                    Some(Progress::NotYet(LOOK))
                }
                Some(_) => None,
            })
        }
        .boxed()
    }

    fn act<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        async {
            let uid = &self.0.what.namespace_uid;
            self.0.objects.delete::<Namespace>(&self.0.key(), Some(uid)).await?;
            Ok(Progress::NotYet(LOOK))
        }
        .boxed()
    }
}
