//! What the client's errors mean.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::BackplaneError;

/// Codes of a server that may do what it refuses when it is asked again.
const TEMPORARY: [&str; 11] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNKILLABLE",
];

/// What became of a command that failed.
pub(super) fn of_command(error: &RedisError) -> BackplaneError {
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => {
            BackplaneError::Denied(error.to_string())
        }
        // The server has answered.
        ErrorKind::Server(_) | ErrorKind::Extension => {
            if error.code().is_some_and(|code| TEMPORARY.contains(&code)) {
                BackplaneError::Unavailable(error.to_string())
            } else {
                BackplaneError::Denied(error.to_string())
            }
        }
        _ => BackplaneError::Unknown(error.to_string()),
    }
}

/// Why a connection did not come about: nothing else has happened.
pub(super) fn of_connecting(error: &RedisError) -> BackplaneError {
    match of_command(error) {
        BackplaneError::Unknown(reason) => BackplaneError::Unavailable(reason),
        other => other,
    }
}

/// Whether another connection may lead to a server that does better.
pub(super) fn spoils_connection(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading,
        ) => true,
        ErrorKind::Server(_) | ErrorKind::Extension => false,
        _ => true,
    }
}
