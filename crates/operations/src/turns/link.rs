//! A connection to Redis that is made when it is needed, and made anew after a failure, not too often.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisError};
use tokio::time::{Instant, timeout};

use super::{GROUP, Shared};

/// How long connecting may take, names and TLS included.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a call may take that does not wait for anything.
pub(super) const CALL: Duration = Duration::from_secs(1);
/// After a failure the next connection is tried after U[0.5, 1] times this at first, and up to [`PAUSE_MOST`] later.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It failed a moment ago, and is not tried again yet.
    #[error("Redis was away a moment ago")]
    Paused,
    /// No answer in time.
    #[error("Redis did not answer within {0:?}")]
    Late(Duration),
    /// It cannot be reached, or refuses.
    #[error("{}", .0.category())]
    Redis(#[source] RedisError),
}

/// See the module.
#[derive(Default)]
pub(super) struct Link {
    connection: Option<MultiplexedConnection>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Link {
    /// Sends a command. Where the group is gone (flushed, failed over to a server that never had it), it is made, and the
    /// command sent again.
    pub(super) async fn ask<T: FromRedisValue>(
        &mut self,
        shared: &Shared,
        command: &Cmd,
        within: Duration,
    ) -> Result<T, Failure> {
        match self.once(shared, command, within).await {
            Err(Failure::Redis(error)) if error.code() == Some("NOGROUP") => {
                let mut make = redis::cmd("XGROUP");
                make.arg("CREATE").arg(&shared.names.stream).arg(GROUP).arg("0").arg("MKSTREAM");
                match self.once::<()>(shared, &make, CALL).await {
                    Err(Failure::Redis(error)) if error.code() == Some("BUSYGROUP") => {}
                    made => made?,
                }
                let again = self.once(shared, command, within).await;
                self.note(shared, again)
            }
            answer => self.note(shared, answer),
        }
    }

    /// Sends several at once.
    pub(super) async fn send(&mut self, shared: &Shared, commands: &Pipeline) -> Result<(), Failure> {
        let sent = async {
            let mut connection = self.connection(shared).await?;
            let count = commands.len();
            match timeout(CALL, connection.req_packed_commands(commands, 0, count)).await {
                Ok(sent) => sent.map(drop).map_err(Failure::Redis),
                Err(_) => Err(Failure::Late(CALL)),
            }
        };
        let sent = sent.await;
        self.note(shared, sent)
    }

    async fn once<T: FromRedisValue>(
        &mut self,
        shared: &Shared,
        command: &Cmd,
        within: Duration,
    ) -> Result<T, Failure> {
        let mut connection = self.connection(shared).await?;
        match timeout(within, command.query_async(&mut connection)).await {
            Ok(answer) => answer.map_err(Failure::Redis),
            Err(_) => Err(Failure::Late(within)),
        }
    }

    async fn connection(&mut self, shared: &Shared) -> Result<MultiplexedConnection, Failure> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(Failure::Paused);
        }
        // Each call has a deadline of its own.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let connected = async {
            let client = shared.address.client()?;
            client.get_multiplexed_async_connection_with_config(&config).await
        };
        let connection = match timeout(CONNECT, connected).await {
            Ok(connection) => connection.map_err(Failure::Redis)?,
            Err(_) => return Err(Failure::Late(CONNECT)),
        };
        Ok(self.connection.insert(connection).clone())
    }

    /// After a failure the connection is not used again: what it would answer next is not known.
    fn note<T>(&mut self, shared: &Shared, answer: Result<T, Failure>) -> Result<T, Failure> {
        match &answer {
            Ok(_) => self.failures = 0,
            Err(Failure::Paused) => {}
            Err(failure) => {
                shared.metrics.failed();
                if self.failures == 0 {
                    tracing::warn!(redis = %shared.address, %failure, "a call of Redis failed; the store's own hints do meanwhile");
                }
                self.connection = None;
                self.not_before = Some(Instant::now() + self.pause());
                self.failures += 1;
            }
        }
        answer
    }

    fn pause(&self) -> Duration {
        let full = PAUSE.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MOST);
        full.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }

    /// When it makes sense to try again.
    pub(super) fn not_before(&self) -> Instant {
        self.not_before.unwrap_or_else(Instant::now)
    }
}
