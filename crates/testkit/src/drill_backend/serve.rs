//! The process: HTTP in, ledger, HTTP out.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mainstay_runtime::Tasks;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::body::{self, Answer};
use super::drill::{Die, Drills, Fault, Lie};
use super::ledger::{Effect, Ledger, Order, Refusal};
use super::verb;

/// Largest body of a request.
const BODY_LIMIT: usize = 1024 * 1024;

/// The headers that say whose effect it is.
pub(super) const OPERATION: &str = "mainstay-operation";
pub(super) const STEP: &str = "mainstay-step";
pub(super) const FENCE: &str = "mainstay-fence";

/// The connection is to be cut.
#[derive(Debug, thiserror::Error)]
#[error("cut, as told")]
struct Cut;

struct Backend {
    ledger: Mutex<Ledger>,
    drills: Mutex<Drills>,
    arrivals: Mutex<BTreeMap<String, u64>>,
    /// How often somebody looked what became of a task, by operation and step.
    looks: Mutex<BTreeMap<(String, String), u64>>,
    tasks: Tasks,
}

/// Serves until standard input is closed, which is when whoever started it has gone. Prints its address when it listens.
///
/// # Errors
/// When it cannot listen, or its log cannot be read.
pub async fn run(dir: &Path, listen: SocketAddr) -> io::Result<()> {
    let backend = Arc::new(Backend {
        ledger: Mutex::new(Ledger::open(dir)?),
        drills: Mutex::default(),
        arrivals: Mutex::default(),
        looks: Mutex::default(),
        tasks: Tasks::new(),
    });
    let listener = TcpListener::bind(listen).await?;
    #[expect(clippy::print_stdout, reason = "whoever started it waits for this line")]
    {
        println!("{}", listener.local_addr()?);
    }
    let mut stdin = tokio::io::stdin();
    let mut word = [0; 1];
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let backend = Arc::clone(&backend);
                backend.tasks.clone().spawn("connection", async move {
                    let service = service_fn(move |request| Arc::clone(&backend).answer(request));
                    // A connection that breaks is its peer's, or as told.
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
            read = stdin.read(&mut word) => if read.unwrap_or_default() == 0 { return Ok(()) },
        }
    }
}

impl Backend {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Answer>, Cut> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
            return Ok(invalid("the body is too large, or broke off"));
        };
        let body = body.to_bytes();
        let path = head.uri.path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (&head.method, parts.as_slice()) {
            (_, ["judge" | "control", what]) => Ok(self.control(&head.method, what, &body)),
            (&Method::POST, ["v1", backend, verb, name]) => {
                let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
                let order = order(backend, verb, name, header, &body);
                self.sick(backend, verb, move |backend| match &order {
                    Ok(order) => backend.carry_out(order),
                    Err(why) => invalid(why),
                })
                .await
            }
            (&Method::GET, ["v1", backend, what, rest @ ..]) => {
                let header =
                    |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
                let look = Look {
                    backend: (*backend).to_owned(),
                    what: (*what).to_owned(),
                    rest: rest.iter().map(|&part| part.to_owned()).collect(),
                    operation: header(OPERATION).to_owned(),
                    step: header(STEP).to_owned(),
                };
                self.sick(backend, what, move |backend| backend.look(&look)).await
            }
            _ => Ok(invalid("there is no such path")),
        }
    }

    /// A call, with what is to happen to it.
    async fn sick(
        self: Arc<Self>,
        backend: &str,
        verb: &str,
        act: impl Fn(&Self) -> Response<Answer> + Send + 'static,
    ) -> Result<Response<Answer>, Cut> {
        *lock(&self.arrivals).entry(format!("{backend}/{verb}")).or_default() += 1;
        let fault = lock(&self.drills).take(backend, verb);
        let Some(fault) = fault else { return Ok(act(&self)) };
        match fault {
            Fault::Stall => std::future::pending().await,
            Fault::StallBody => Ok(act(&self).map(|_| body::stalled())),
            Fault::Status { code, retry_after_seconds } => Ok(status(code, retry_after_seconds)),
            Fault::LateAnswer { millis } => {
                let answer = act(&self);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(answer)
            }
            Fault::LateEffect { millis } => {
                let tasks = self.tasks.clone();
                let late = format!("late/{verb}");
                let late = tasks.spawn("straggler", async move {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    let answer = act(&self);
                    *lock(&self.arrivals).entry(late).or_default() += 1;
                    answer
                });
                late.await.map_err(|_| Cut)
            }
            Fault::Cut => {
                drop(act(&self));
                Err(Cut)
            }
            Fault::Lie { with, done } => {
                if done {
                    drop(act(&self));
                }
                Ok(lie(with))
            }
            Fault::Die(when) => {
                if when == Die::After {
                    drop(act(&self));
                }
                std::process::abort()
            }
        }
    }

    fn carry_out(&self, order: &Order) -> Response<Answer> {
        match lock(&self.ledger).carry_out(order) {
            Ok(Ok(effect)) => json(StatusCode::OK, &effect),
            Ok(Err(refusal)) => refused(&refusal),
            Err(_) => status(507, None),
        }
    }

    fn look(&self, look: &Look) -> Response<Answer> {
        let ledger = lock(&self.ledger);
        let mut own = ledger.resources().filter(|there| there.backend == look.backend);
        let rest: Vec<&str> = look.rest.iter().map(String::as_str).collect();
        match (look.what.as_str(), rest.as_slice()) {
            ("ping", []) => json(StatusCode::OK, &json!({ "ok": true })),
            ("effect", []) => {
                found(ledger.result(&look.operation, &look.step).map(|effect| self.seen(effect)).as_ref())
            }
            ("resources", []) => json(StatusCode::OK, &own.collect::<Vec<_>>()),
            ("resources", [kind, name]) => found(own.find(|there| there.kind == *kind && there.name == *name)),
            _ => invalid("there is no such path"),
        }
    }

    /// An effect as it looks now: a task runs for as many looks as it was told to.
    fn seen(&self, effect: &Effect) -> Effect {
        let mut seen = effect.clone();
        let Some(task) = seen.resource.as_mut().filter(|_| effect.verb == "run-task") else { return seen };
        let command = task.spec["command"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [Value::String(word), Value::String(times)] = command else { return seen };
        let mut looks = lock(&self.looks);
        let looked = looks.entry((effect.operation.clone(), effect.step.clone())).or_default();
        if word == "looks" && times.parse().is_ok_and(|times| *looked < times) {
            *looked += 1;
            "running".clone_into(&mut task.state);
        }
        seen
    }

    fn control(&self, method: &Method, what: &str, body: &Bytes) -> Response<Answer> {
        match (method, what) {
            (&Method::GET, "effects") => json::<&Vec<Effect>>(StatusCode::OK, &&lock(&self.ledger).effects),
            (&Method::GET, "inventory") => json(StatusCode::OK, &lock(&self.ledger).resources().collect::<Vec<_>>()),
            (&Method::GET, "arrivals") => json(StatusCode::OK, &*lock(&self.arrivals)),
            (&Method::GET, "refusals") => json(StatusCode::OK, &lock(&self.ledger).refusals),
            (&Method::POST, "drill") => taken(body, |drill| lock(&self.drills).order(drill)),
            (&Method::POST, "calm") => taken(&Bytes::from_static(b"null"), |()| lock(&self.drills).calm()),
            (&Method::POST, "guards") => taken(body, |guards| lock(&self.ledger).guards = guards),
            _ => invalid("there is no such path"),
        }
    }
}

struct Look {
    backend: String,
    what: String,
    rest: Vec<String>,
    operation: String,
    step: String,
}

fn order<'a>(
    backend: &str,
    verb: &str,
    name: &str,
    header: impl Fn(&'static str) -> Option<&'a str>,
    body: &Bytes,
) -> Result<Order, &'static str> {
    let word = |name| header(name).filter(|value| !value.is_empty());
    Ok(Order {
        operation: word(OPERATION).ok_or("no mainstay-operation")?.to_owned(),
        step: word(STEP).ok_or("no mainstay-step")?.to_owned(),
        token: word(FENCE).and_then(|token| token.parse().ok()).ok_or("no mainstay-fence")?,
        verb: verb::find(backend, verb).ok_or("there is no such verb")?,
        name: name.to_owned(),
        spec: if body.is_empty() { Value::Null } else { serde_json::from_slice(body).map_err(|_| "not JSON")? },
    })
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Answer> {
    // What is serialised here are strings, numbers and JSON values.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = Response::new(body::whole(bytes));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

fn refused(refusal: &Refusal) -> Response<Answer> {
    let status = match refusal {
        Refusal::OldToken { .. } | Refusal::Undone { .. } | Refusal::AlreadyExists => StatusCode::CONFLICT,
        Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
    };
    json(status, refusal)
}

fn invalid(why: &str) -> Response<Answer> {
    refused(&Refusal::Invalid { why: why.to_owned() })
}

fn found<T: Serialize>(thing: Option<&T>) -> Response<Answer> {
    thing.map_or_else(|| refused(&Refusal::NotFound), |thing| json(StatusCode::OK, thing))
}

fn status(code: u16, retry_after_seconds: Option<u64>) -> Response<Answer> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(code, &json!({ "code": "AsTold" }));
    answer.headers_mut().extend(retry_after_seconds.map(|seconds| (http::header::RETRY_AFTER, seconds.into())));
    answer
}

fn lie(with: Lie) -> Response<Answer> {
    match with {
        Lie::Nonsense => Response::new(body::whole("<html>welcome</html>")),
        Lie::Other => json(StatusCode::OK, &another()),
        Lie::Endless => Response::new(body::endless()),
    }
}

/// What would be the right answer to another call.
fn another() -> Effect {
    Effect {
        seq: 1,
        operation: "another".to_owned(),
        step: "another".to_owned(),
        token: 1,
        round: 1,
        backend: "compute".to_owned(),
        verb: "delete".to_owned(),
        name: "another".to_owned(),
        changed: true,
        resource: None,
    }
}

fn taken<T: DeserializeOwned>(body: &Bytes, take: impl FnOnce(T)) -> Response<Answer> {
    match serde_json::from_slice(body) {
        Ok(value) => {
            take(value);
            json(StatusCode::OK, &json!({}))
        }
        Err(_) => invalid("not what is expected here"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
