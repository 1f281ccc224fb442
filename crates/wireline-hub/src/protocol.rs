//! What goes over a connection: which bytes stand for what a node tells and a client wants.

pub(crate) mod centrifugo;
pub(crate) mod hub_v1;
pub(crate) mod raw;

use wireline::{CloseCode, Message};

use crate::{BackplaneError, Denied, Publication, node::Notice};

/// How a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// A line of JSON, then the payload.
    HubV1,
    /// Lines of JSON, for Centrifugo's clients.
    Centrifugo,
    /// One topic, and nothing but its payloads.
    Raw,
}

/// Their number.
pub(crate) const WIRES: usize = 3;

/// What a notice is to a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Message(Message),
    /// The connection is not subscribed any more: its session has to leave the topic.
    Left(Message),
    /// There are no words for it: the connection ends.
    Close(CloseCode, &'static str),
    Nothing,
}

impl Wire {
    pub(crate) fn publication(self, publication: &Publication) -> Option<Message> {
        match self {
            Self::HubV1 => Some(hub_v1::publication(publication)),
            Self::Centrifugo => Some(centrifugo::publication(publication)),
            Self::Raw => raw::publication(publication),
        }
    }

    pub(crate) fn notice(self, notice: &Notice) -> Told {
        match self {
            Self::HubV1 => Told::Message(hub_v1::notice(notice)),
            Self::Centrifugo => centrifugo::notice(notice),
            Self::Raw => raw::notice(notice),
        }
    }

    pub(crate) fn farewell(self, ending: Ending) -> Farewell {
        match self {
            Self::HubV1 => hub_v1::farewell(ending),
            Self::Centrifugo => centrifugo::farewell(ending),
            Self::Raw => Farewell { word: None, ..hub_v1::farewell(ending) },
        }
    }
}

/// Why the hub ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Who it is was true for so long.
    Expired,
    /// The node is drained.
    Leaving,
    /// It reads more slowly than its topics go.
    TooSlow,
}

/// How a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// What is said before.
    pub(crate) word: Option<Message>,
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

/// Why the hub does not do what a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Forbidden,
    TooManySubscriptions,
    TooLarge,
    /// The backplane does not answer, or not for certain.
    Unavailable,
}

impl Refusal {
    /// Whether another try may go better.
    pub(crate) fn is_temporary(self) -> bool {
        self == Self::Unavailable
    }
}

impl From<Denied> for Refusal {
    fn from(_: Denied) -> Self {
        Self::Forbidden
    }
}

impl From<BackplaneError> for Refusal {
    fn from(error: BackplaneError) -> Self {
        match error {
            BackplaneError::TooLarge { .. } => Self::TooLarge,
            BackplaneError::Denied(_) => Self::Forbidden,
            BackplaneError::Unavailable(_) | BackplaneError::Unknown(_) => Self::Unavailable,
        }
    }
}

/// Close codes of the hub's own. From 3000 to 3499 a client should come back, from 3500 to 3999 it should not.
pub(crate) mod code {
    /// The connection was not resumed where it was, and its wire has no word for that. Come back.
    pub(crate) const CONTINUITY_LOST: u16 = 3001;
    /// The topic's backplane does not answer. Come back later.
    pub(crate) const UNAVAILABLE: u16 = 3002;
    /// Who it is was true for so long. Come back with a new token.
    pub(crate) const EXPIRED: u16 = 3003;
    /// The node is going. Come back, to another.
    pub(crate) const LEAVING: u16 = 3004;
    /// Not what the protocol has.
    pub(crate) const MALFORMED: u16 = 3500;
    /// Who it is was not believed, or not said in time.
    pub(crate) const UNAUTHORIZED: u16 = 3501;
    /// It is not allowed to.
    pub(crate) const FORBIDDEN: u16 = 3502;
    /// It reads more slowly than its topics go.
    pub(crate) const TOO_SLOW: u16 = 4008;
}
