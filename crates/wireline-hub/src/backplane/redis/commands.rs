//! The connection that commands go over.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{AsyncConnectionConfig, FromRedisValue, ScriptInvocation, aio::MultiplexedConnection};
use tokio::time::{Instant, timeout};

use super::{CONNECT_TIMEOUT, backoff::Backoff, failure, place::Place, scripts::Scripts};
use crate::BackplaneError;

/// How long a command may take. Beyond, it may have happened or not, and the connection is given up. Raised, it is how long
/// publishers wait for a server that hangs.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the server knows which connections were given up: longer than a system tries to deliver what it was given.
const FENCE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// One connection for all commands, opened when it is needed, and again when it fails.
///
/// While the server is away one caller at a time tries to reach it, after a pause; all others fail at once. Each new
/// connection is numbered and told to the server first, so that what an earlier one still carries is not done any more.
#[derive(Debug)]
pub(super) struct Commands {
    server: Place,
    /// The key of that number.
    fence: String,
    link: tokio::sync::Mutex<Link>,
    /// Why the last attempt to connect failed, until one does not.
    away: Mutex<Option<BackplaneError>>,
}

#[derive(Debug)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Which one it is.
    number: u64,
    not_before: Instant,
    backoff: Backoff,
}

impl Commands {
    pub(super) fn new(server: Place, fence: String) -> Self {
        let link = Link { connection: None, number: 0, not_before: Instant::now(), backoff: Backoff::new() };
        Self { server, fence, link: tokio::sync::Mutex::new(link), away: Mutex::default() }
    }

    /// Runs the script that is made for the number of a connection. It must do no harm to run it twice: one that was
    /// lost with its connection is run again on a new one.
    ///
    /// # Cancel safety
    /// Dropped early, it may have been run or not.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: impl Fn(u64) -> ScriptInvocation<'static>,
    ) -> Result<T, BackplaneError> {
        let (mut connection, number) = self.connection().await?;
        let error = match script(number).invoke_async(&mut connection).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        self.note_failure(&error, number).await;
        // A refusal of the second attempt would say nothing of the first.
        let failure = Err(failure::of_command(&error));
        if !error.is_connection_dropped() {
            return failure;
        }
        // The server may have closed it long ago.
        let Ok((mut connection, number)) = self.connection().await else { return failure };
        match script(number).invoke_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.note_failure(&error, number).await;
                failure
            }
        }
    }

    async fn note_failure(&self, error: &redis::RedisError, number: u64) {
        if failure::spoils_connection(error) {
            let mut link = self.link.lock().await;
            if link.number == number {
                link.connection = None;
            }
        }
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), BackplaneError> {
        let away = self.away();
        let mut link = match (self.link.try_lock(), away) {
            (Ok(link), _) => link,
            // Somebody is trying.
            (Err(_), Some(error)) => return Err(error),
            (Err(_), None) => self.link.lock().await,
        };
        if let Some(connection) = &link.connection {
            return Ok((connection.clone(), link.number));
        }
        if let Some(error) = self.away().filter(|_| Instant::now() < link.not_before) {
            return Err(error);
        }
        link.number += 1;
        match timeout(CONNECT_TIMEOUT, self.connect(link.number)).await.unwrap_or_else(|_| Err(late())) {
            Ok(connection) => {
                link.connection = Some(connection.clone());
                link.backoff.reset();
                self.set_away(None);
                Ok((connection, link.number))
            }
            Err(error) => {
                link.not_before = Instant::now() + link.backoff.next();
                self.set_away(Some(error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self, number: u64) -> Result<MultiplexedConnection, BackplaneError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT));
        let connecting = async {
            let server = self.server.find().await?;
            server.get_multiplexed_async_connection_with_config(&config).await
        };
        let mut connection = connecting.await.map_err(|error| failure::of_connecting(&error))?;
        let mut script = Scripts::shared().connect.prepare_invoke();
        script.key(&self.fence).arg(number).arg(FENCE_LIFETIME.as_secs() * 1000);
        let fenced = script.invoke_async::<()>(&mut connection).await;
        fenced.map_err(|error| failure::of_connecting(&error))?;
        Ok(connection)
    }

    fn away(&self) -> Option<BackplaneError> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_away(&self, error: Option<BackplaneError>) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

fn late() -> BackplaneError {
    BackplaneError::Unavailable("no connection came about in time".into())
}
