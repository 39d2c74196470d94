//! One connection to the database: made when it is needed, made again after it was lost, with statements prepared once.
//!
//! Several may ask at once: the server answers them in order.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstay_runtime::Tasks;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Notification, Row, Statement};

use super::Address;
use crate::error::StoreError;
use crate::lock;

/// How long a connection may take, over all hosts.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer is waited for. The server gives up before.
const ANSWER: Duration = Duration::from_secs(20);
/// After a failure nobody else tries for this long.
const PAUSE: Duration = Duration::from_millis(200);

/// What each session is set to. Whoever turned synchronous commits off for the database does not mean this.
const SETTINGS: &str = "
    SET search_path = mainstay, pg_temp; SET statement_timeout = '15s'; SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '15s'; SET tcp_user_timeout = '10s'; SET tcp_keepalives_idle = 5;
    SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET jit = off; SET client_min_messages = warning;
    SELECT set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN 'on' ELSE current_setting('synchronous_commit') END, false);";

/// Parameters of a statement.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Why a statement gave no rows.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// It was not sent: there is no connection.
    Away(Arc<dyn std::error::Error + Send + Sync>),
    /// It was sent, and there is no answer: it may have been carried out.
    Unknown(Arc<dyn std::error::Error + Send + Sync>),
    /// The server refused it: it was not carried out.
    Refused(Arc<tokio_postgres::Error>),
}

impl Failure {
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Refused(error) => error.code(),
            Self::Away(_) | Self::Unknown(_) => None,
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure.code().cloned() {
            Some(code) if code.code().starts_with("53") && code != SqlState::TOO_MANY_CONNECTIONS => Self::Full,
            Some(
                SqlState::T_R_SERIALIZATION_FAILURE
                | SqlState::T_R_DEADLOCK_DETECTED
                | SqlState::LOCK_NOT_AVAILABLE
                | SqlState::QUERY_CANCELED,
            ) => Self::Busy,
            _ => match failure {
                Failure::Away(cause) => Self::Away(cause),
                Failure::Unknown(cause) => Self::Database(cause),
                Failure::Refused(error) => Self::Database(error),
            },
        }
    }
}

/// What is told to those who listen.
pub(super) type Listener = Arc<dyn Fn(Notification) + Send + Sync>;

/// See the module.
pub(super) struct Link {
    address: Address,
    name: String,
    /// The connections' own tasks: what carries others' messages ends last.
    tasks: Tasks,
    listener: Option<Listener>,
    session: tokio::sync::Mutex<Known>,
}

#[derive(Default)]
struct Known {
    session: Option<Arc<Session>>,
    failed: Option<(Instant, Failure)>,
}

/// A connection that is up, as far as is known.
pub(super) struct Session {
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(address: &Address, name: String, tasks: &Tasks, listener: Option<Listener>) -> Self {
        let (address, tasks) = (address.clone(), tasks.clone());
        Self { address, name, tasks, listener, session: tokio::sync::Mutex::default() }
    }

    /// The connection; made when there is none.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut known = self.session.lock().await;
        if let Some(session) = known.session.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(Arc::clone(session));
        }
        known.session = None;
        if let Some((at, failure)) = &known.failed
            && at.elapsed() < PAUSE
        {
            return Err(failure.clone());
        }
        match self.connect().await {
            Ok(session) => {
                let session = Arc::new(session);
                *known = Known { session: Some(Arc::clone(&session)), failed: None };
                Ok(session)
            }
            Err(failure) => {
                known.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn connect(&self) -> Result<Session, Failure> {
        let away = |error: tokio_postgres::Error| Failure::Away(Arc::new(error));
        let connecting = async {
            let config = self.address.config(&self.name);
            let client = match self.address.tls() {
                None => {
                    let (client, connection) = config.connect(NoTls).await.map_err(away)?;
                    self.drive(connection);
                    client
                }
                Some(tls) => {
                    let (client, connection) = config.connect(tls.clone()).await.map_err(away)?;
                    self.drive(connection);
                    client
                }
            };
            client.batch_execute(SETTINGS).await.map_err(away)?;
            Ok(Session { client, statements: Mutex::default() })
        };
        let silent = |_| Failure::Away(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)));
        timeout(CONNECT, connecting).await.map_err(silent)?
    }

    /// Carries messages until the connection ends.
    fn drive<S, T>(&self, mut connection: Connection<S, T>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (listener, stopping) = (self.listener.clone(), self.tasks.stopping());
        let carry = async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let (AsyncMessage::Notification(told), Some(listener)) = (message, &listener) {
                    listener(told);
                }
            }
        };
        drop(self.tasks.spawn("database connection", async move {
            stopping.run_until_cancelled(carry).await;
        }));
    }

    /// A statement's rows.
    pub(super) async fn query(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let session = self.session().await?;
        match timeout(ANSWER, session.query(sql, parameters)).await {
            Ok(Err(failure)) if !matches!(failure, Failure::Refused(_)) => {
                self.forget(&session).await;
                Err(failure)
            }
            Ok(outcome) => outcome,
            Err(_) => {
                self.forget(&session).await;
                Err(Failure::Unknown(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut))))
            }
        }
    }

    /// The one row that a statement gives.
    pub(super) async fn one(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Row, Failure> {
        let missing = || Failure::Unknown(Arc::new(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
        self.query(sql, parameters).await?.pop().ok_or_else(missing)
    }

    /// Statements that nobody else uses.
    pub(super) async fn run(&self, sql: &str) -> Result<(), Failure> {
        let session = self.session().await?;
        if let Ok(outcome) = timeout(ANSWER, session.client.batch_execute(sql)).await {
            return outcome.map_err(failure);
        }
        self.forget(&session).await;
        Err(Failure::Unknown(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut))))
    }

    /// The connection is of no use any more.
    async fn forget(&self, session: &Arc<Session>) {
        let mut known = self.session.lock().await;
        if known.session.as_ref().is_some_and(|known| Arc::ptr_eq(known, session)) {
            known.session = None;
        }
    }
}

impl Session {
    /// For statements that nobody else uses, and whoever asks for them bounds.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) async fn query(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let known = lock(&self.statements).get(sql).cloned();
        let statement = if let Some(statement) = known {
            statement
        } else {
            // Whatever comes of this, the statement itself was not sent.
            let statement = self.client.prepare(sql).await.map_err(|error| match failure(error) {
                Failure::Unknown(cause) => Failure::Away(cause),
                failure => failure,
            })?;
            lock(&self.statements).insert(sql, statement.clone());
            statement
        };
        let query: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(self.client.query(&statement, parameters));
        query.await.map_err(failure)
    }
}

/// A server that shuts down, or a connection that ends, answers nothing of what it was asked.
pub(super) fn failure(error: tokio_postgres::Error) -> Failure {
    match error.code() {
        Some(code) if !code.code().starts_with("57P0") => Failure::Refused(Arc::new(error)),
        Some(_) => Failure::Unknown(Arc::new(error)),
        None if error.is_closed()
            || std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>) =>
        {
            Failure::Unknown(Arc::new(error))
        }
        // What could not be encoded was not sent; what could not be decoded was answered.
        None => Failure::Refused(Arc::new(error)),
    }
}
