//! The protocol of Centrifugo in JSON, for the clients that there are for it: npm `centrifuge` and others.
//!
//! A line of JSON is a command with an `id`, or a reply with the same `id`, or a push without one; a message may have
//! several lines. `{}` is a Ping, and the answer to it. What the hub calls a topic is a channel here.
//!
//! # Positions
//!
//! A [`Position`] is an offset and a mark. Centrifugo has an `offset` and an `epoch`, which stands for the life of a stream;
//! here it is the mark. Each publication carries both, so that what a client has of its last one is the position of that
//! very publication:
//!
//! - Who has just subscribed has the position of the reply.
//! - Who has heard publications since then has that of the last one: npm `centrifuge` takes the `epoch` of a publication since
//!   5.6.0, as it takes its `offset`.
//! - A client that does not, an older one or one in another language, comes back with the offset of its last publication and
//!   the epoch of the reply. That is the mark of another publication, and the pair proves nothing: `recovered` is false, though
//!   nothing may be missing. The offset alone would not do. If a broker took publications back and gave their numbers out again,
//!   the history has others at these offsets now, and neither their predecessors nor the reply's epoch can tell.
//!
//! The pair goes to the node as the position that it is, and the node decides as it does for `hub.v1`: nobody counts
//! offsets, so that gaps, which NATS has, do not matter, and a topic that was made anew, or rolled back, has other marks. An epoch
//! that is no mark (a client whose state was invalidated sends `_`) proves nothing.
//!
//! What follows a position comes in publications of its own behind the reply, whose position is the one that was proven, and
//! not in the reply's `publications`: so it is bounded by the connection's queue and framed once for all, as everything
//! else is. A reset has a word: the subscription ends with 2500, insufficient state, on which clients subscribe again with
//! what they have, and are told that it was not recovered.
//!
//! Joins and leaves have places in a topic, but no offsets on this wire. So those behind a client's last publication are
//! told again when it comes back.
//!
//! A number above 2^53 - 1 is none to JavaScript. Should a topic come that far, its publications have the offset 2^53 - 1 and
//! their own marks, which no position has.
//!
//! # Payloads
//!
//! A text that is JSON is `data` as it stands; line feeds, which stand only between tokens there, become spaces. Another text is
//! a string. Bytes are `{"b64data": "..."}`, in base64: a string could not be told from a text, and JSON has nothing
//! else. What clients publish is the text of its JSON: who publishes the string `tea` is heard as `"tea"` by subscribers of
//! other protocols.

mod command;
mod history;
mod reply;

pub(super) use self::reply::{notice, publication};
pub(crate) use self::{
    command::{Command, Line, decode, is_expired, lines},
    history::{Since, select},
    reply::{
        Welcome, connected, failed, forbidden, history, ping, pong, presence, presence_stats, published,
        refreshed, subscription_refreshed, unsubscribed,
    },
};
use super::{Ending, Farewell, Refusal};

/// The name of the subprotocol, for who offers one. npm `centrifuge` offers none.
pub(crate) const NAME: &str = "centrifuge-json";

/// What a client says with a subscription, and its answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Terms {
    /// It named a position, provable or not.
    pub(crate) is_recovery: bool,
    /// Who cannot be told what it missed does not want to be subscribed.
    pub(crate) or_nothing: bool,
}

impl Terms {
    const RECOVERY: u64 = 1 << 32;
    const OR_NOTHING: u64 = 1 << 33;

    /// The request that a node answers, of which the notice of that is made.
    pub(crate) fn request(self, id: u32) -> u64 {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        u64::from(id) | flag(self.is_recovery, Self::RECOVERY) | flag(self.or_nothing, Self::OR_NOTHING)
    }

    pub(super) fn of(request: u64) -> (u32, Self) {
        let terms =
            Self { is_recovery: request & Self::RECOVERY != 0, or_nothing: request & Self::OR_NOTHING != 0 };
        // What is cut off are the flags.
        (u32::try_from(request & u64::from(u32::MAX)).unwrap_or_default(), terms)
    }
}

/// Why a command is not done, as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Failure {
    Internal = 100,
    PermissionDenied = 103,
    MethodNotFound = 104,
    AlreadySubscribed = 105,
    LimitExceeded = 106,
    BadRequest = 107,
    NotAvailable = 108,
    TokenExpired = 109,
    UnrecoverablePosition = 112,
}

impl Failure {
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::PermissionDenied => "permission denied",
            Self::MethodNotFound => "method not found",
            Self::AlreadySubscribed => "already subscribed",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::TokenExpired => "token expired",
            Self::UnrecoverablePosition => "unrecoverable position",
        }
    }

    /// Whether another try may go better.
    pub(super) fn is_temporary(self) -> bool {
        self == Self::Internal
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Forbidden => Self::PermissionDenied,
            Refusal::TooManySubscriptions | Refusal::TooLarge => Self::LimitExceeded,
            Refusal::Unavailable => Self::Internal,
        }
    }
}

/// Why a connection is ended, as clients know it: from 3000 to 3499 they come back, from 3500 to 3999 they do not.
pub(crate) mod disconnect {
    /// A close code and its reason.
    pub(crate) type Disconnect = (u16, &'static str);

    pub(crate) const SHUTDOWN: Disconnect = (3001, "shutdown");
    pub(crate) const EXPIRED: Disconnect = (3005, "connection expired");
    pub(crate) const SLOW: Disconnect = (3008, "slow");
    pub(crate) const NO_PONG: Disconnect = (3012, "no pong");
    pub(crate) const INVALID_TOKEN: Disconnect = (3500, "invalid token");
    pub(crate) const BAD_REQUEST: Disconnect = (3501, "bad request");
    pub(crate) const STALE: Disconnect = (3502, "stale");
    pub(crate) const NOT_AVAILABLE: Disconnect = (3508, "not available");
}

pub(super) fn farewell(ending: Ending) -> Farewell {
    let (code, reason) = match ending {
        Ending::Expired => disconnect::EXPIRED,
        Ending::Leaving => disconnect::SHUTDOWN,
        Ending::TooSlow => disconnect::SLOW,
    };
    Farewell { word: None, code, reason }
}
