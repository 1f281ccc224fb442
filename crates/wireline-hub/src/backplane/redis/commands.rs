//! The connection that commands go over.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, FromRedisValue, ScriptInvocation, aio::MultiplexedConnection};
use tokio::time::{Instant, timeout};

use super::{CONNECT_TIMEOUT, backoff::Backoff, failure};
use crate::BackplaneError;

/// How long a command may take. Beyond, it may have happened or not, and the connection is given up. Raised, it is how long
/// publishers wait for a server that hangs.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection for all commands, opened when it is needed, and again when it fails.
///
/// While the server is away one caller at a time tries to reach it, after a pause; all others fail at once.
#[derive(Debug)]
pub(super) struct Commands {
    client: Client,
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
    pub(super) fn new(client: Client) -> Self {
        let link = Link { connection: None, number: 0, not_before: Instant::now(), backoff: Backoff::new() };
        Self { client, link: tokio::sync::Mutex::new(link), away: Mutex::default() }
    }

    /// Runs a script. It must do no harm to run it twice: one that was lost with its connection is run again on a
    /// new one.
    ///
    /// # Cancel safety
    /// Dropped early, it may have been run or not.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, BackplaneError> {
        let (mut connection, number) = self.connection().await?;
        let error = match script.invoke_async(&mut connection).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        self.note_failure(&error, number).await;
        if !error.is_connection_dropped() {
            return Err(failure::of_command(&error));
        }
        // The server may have closed it long ago.
        let Ok((mut connection, number)) = self.connection().await else {
            return Err(failure::of_command(&error));
        };
        match script.invoke_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(second) => {
                self.note_failure(&second, number).await;
                // A refusal of the second says nothing of the first.
                Err(failure::of_command(&error))
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
        match self.connect().await {
            Ok(connection) => {
                link.connection = Some(connection.clone());
                link.number += 1;
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

    async fn connect(&self) -> Result<MultiplexedConnection, BackplaneError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT));
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(result) => result.map_err(|error| failure::of_connecting(&error)),
            Err(_) => Err(BackplaneError::Unavailable("no connection came about in time".into())),
        }
    }

    fn away(&self) -> Option<BackplaneError> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_away(&self, error: Option<BackplaneError>) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}
