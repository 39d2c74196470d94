//! One connection to the database: made when it is needed, made again after it was lost.
//!
//! Several may ask at once: the server answers them in order. In a session of one's own each statement is prepared once. Where a
//! pooler gives each transaction another session, a statement goes with its parameters in one message, and leaves nothing
//! behind. Which of both it is, is seen when the connection is made, by a parameter that only a session of one's own has.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstay_runtime::Tasks;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Notification, Row, SimpleQueryMessage, Statement,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::Address;
use super::parameter::Parameter;
use crate::error::StoreError;
use crate::lock;

/// How long a connection may take, over all hosts.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer is waited for. The server gives up before.
const ANSWER: Duration = Duration::from_secs(20);
/// The same, of what may take long; and what the server is told of that, and afterwards.
const LEISURE: Duration = Duration::from_mins(11);
const UNHURRIED: &str = "SET statement_timeout = '10min'";
const HURRIED: &str = "SET statement_timeout = '15s'";
/// After a failure nobody else tries for this long.
const PAUSE: Duration = Duration::from_millis(200);

/// What each session is set to that is one's own. Whoever turned synchronous commits off for the database does not mean this.
///
/// Statements are planned by statistics that are of before, within functions once and often while tables are empty, and concern few
/// rows of tables that grow by thousands a second: each is to go by the index, and in its order, whatever the statistics
/// say. Behind a pooler all of this is the role's to have, as docs/operations.md tells.
const SETTINGS: &str = "
    SET search_path = mainstay, pg_temp; SET statement_timeout = '15s'; SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '15s'; SET tcp_user_timeout = '10s'; SET tcp_keepalives_idle = 5;
    SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET jit = off; SET client_min_messages = warning;
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
    SET enable_hashjoin = off; SET enable_mergejoin = off;
    SELECT set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN 'on' ELSE current_setting('synchronous_commit') END, false);";

/// A session that is set to nothing has to make commits durable.
const WEAK: &str = "SELECT current_setting('synchronous_commit') IN ('off', 'local')";

/// Parameters of a statement.
pub(super) type Parameters<'a> = &'a [&'a dyn Parameter];

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
            Some(SqlState::DISK_FULL) => Self::Full,
            Some(
                SqlState::OUT_OF_MEMORY
                | SqlState::CONFIGURATION_LIMIT_EXCEEDED
                | SqlState::T_R_SERIALIZATION_FAILURE
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
    /// No pooler gives it to others between two transactions.
    own: bool,
    /// What is prepared in a session of one's own.
    prepared: Mutex<HashMap<&'static str, Statement>>,
    /// The connection goes with it, whatever is still owed: the server is to see that nobody listens.
    _ends: DropGuard,
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
        let connecting = async {
            let mark = Uuid::new_v4().simple().to_string();
            let config = self.address.config(&self.name);
            let marked = config.get_options().map_or_else(String::new, |options| format!("{options} "));
            let marked = Config::options(&mut config.clone(), format!("{marked}-c mainstay.mark={mark}")).clone();
            let connected = match self.open(&marked).await {
                // What stands between knows no such parameter.
                Err(error) if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) => self.open(&config).await,
                connected => connected,
            };
            let (client, ends) = connected.map_err(away)?;
            let own = told(&client, &format!("SELECT current_setting('mainstay.mark', true) = '{mark}'")).await?;
            if own {
                client.batch_execute(SETTINGS).await.map_err(away)?;
            } else if told(&client, WEAK).await? {
                let why = "behind a transaction pooler the role has to have synchronous_commit = on";
                return Err(Failure::Away(Arc::new(std::io::Error::other(why))));
            }
            Ok(Session { client, own, prepared: Mutex::default(), _ends: ends })
        };
        let silent = |_| Failure::Away(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)));
        timeout(CONNECT, connecting).await.map_err(silent)?
    }

    async fn open(&self, config: &Config) -> Result<(Client, DropGuard), tokio_postgres::Error> {
        let end = self.tasks.stopping().child_token();
        let client = match self.address.tls() {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                self.drive(connection, end.clone());
                client
            }
            Some(tls) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                self.drive(connection, end.clone());
                client
            }
        };
        Ok((client, end.drop_guard()))
    }

    /// Carries messages until the connection ends, or is to end.
    fn drive<S, T>(&self, mut connection: Connection<S, T>, end: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let listener = self.listener.clone();
        let carry = async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let (AsyncMessage::Notification(told), Some(listener)) = (message, &listener) {
                    listener(told);
                }
            }
        };
        drop(self.tasks.spawn("database connection", async move {
            end.run_until_cancelled(carry).await;
        }));
    }

    /// A statement's rows.
    pub(super) async fn query(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.query_within(ANSWER, sql, parameters).await
    }

    async fn query_within(
        &self,
        within: Duration,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let session = self.session().await?;
        match timeout(within, session.query(sql, parameters)).await {
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
        the_one(self.query(sql, parameters).await?)
    }

    /// The one row that a statement gives that may take long. Behind a pooler the server sets it no bound but its role's.
    pub(super) async fn one_at_leisure(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Row, Failure> {
        let own = self.session().await?.is_own();
        if own {
            self.run(UNHURRIED).await?;
        }
        let rows = self.query_within(LEISURE, sql, parameters).await;
        if own {
            self.run(HURRIED).await?;
        }
        the_one(rows?)
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

    /// Closes the connection, which may still carry what is said, and no answer.
    pub(super) async fn hang_up(&self) {
        self.session.lock().await.session = None;
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

    /// Whether it is one's own: what is set, locked and listened to in it is there the next time.
    pub(super) const fn is_own(&self) -> bool {
        self.own
    }

    /// A statement that meets a change of a table's form, by a program that is newer, is refused before it has done
    /// anything: it is asked once more.
    pub(super) async fn query(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        match self.ask(sql, parameters).await {
            Err(failure) if met_a_change(&failure) => {
                lock(&self.prepared).remove(sql);
                self.ask(sql, parameters).await
            }
            outcome => outcome,
        }
    }

    async fn ask(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let asked: Pin<Box<dyn Future<Output = _> + Send>> = if self.own {
            let statement = self.statement(sql, parameters).await?;
            let values: Vec<_> = parameters.iter().map(|parameter| parameter.as_sql()).collect();
            Box::pin(async move { self.client.query(&statement, &values).await })
        } else {
            let typed: Vec<_> = parameters.iter().map(|parameter| (parameter.as_sql(), parameter.of())).collect();
            Box::pin(async move { self.client.query_typed(sql, &typed).await })
        };
        asked.await.map_err(failure)
    }

    /// Prepared when it is asked for the first time, by two at once if it comes to that.
    async fn statement(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Statement, Failure> {
        if let Some(statement) = lock(&self.prepared).get(sql) {
            return Ok(statement.clone());
        }
        let types: Vec<_> = parameters.iter().map(|parameter| parameter.of()).collect();
        let statement = Box::pin(self.client.prepare_typed(sql, &types)).await.map_err(failure)?;
        lock(&self.prepared).insert(sql, statement.clone());
        Ok(statement)
    }
}

fn the_one(mut rows: Vec<Row>) -> Result<Row, Failure> {
    let missing = || Failure::Unknown(Arc::new(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
    rows.pop().ok_or_else(missing)
}

fn away(error: tokio_postgres::Error) -> Failure {
    Failure::Away(Arc::new(error))
}

/// What a statement says that answers yes or no.
async fn told(client: &Client, question: &str) -> Result<bool, Failure> {
    let answer = client.simple_query(question).await.map_err(away)?;
    let is_yes =
        |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"));
    Ok(answer.iter().any(is_yes))
}

/// What a server says of a function that was begun before a table got a column.
fn met_a_change(failure: &Failure) -> bool {
    matches!(
        failure.code(),
        Some(&(SqlState::FEATURE_NOT_SUPPORTED | SqlState::INTERNAL_ERROR | SqlState::DATATYPE_MISMATCH))
    )
}

/// A server that shuts down, or a connection that ends, answers nothing of what it was asked; a pooler says so of the connection
/// behind it (class 08).
pub(super) fn failure(error: tokio_postgres::Error) -> Failure {
    let is_lost = |code: &SqlState| ["57P0", "08", "40003"].iter().any(|lost| code.code().starts_with(lost));
    match error.code() {
        Some(code) if !is_lost(code) => Failure::Refused(Arc::new(error)),
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
