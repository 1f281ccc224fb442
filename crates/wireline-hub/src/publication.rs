//! What is published, on its way in and on its way out.

use std::{fmt, sync::Arc};

use wireline::Message;

use crate::{Position, Predecessor, Topic};

/// A connection to a hub, which no other connection to any node has the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u128);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a publication tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// What somebody published.
    Message(Message),
    /// Somebody is here now.
    Join(Member),
    /// Somebody is not here any more.
    Leave(Member),
}

impl Content {
    /// Bytes that it is counted as in limits of history and memory.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Message(message) => message.len(),
            Self::Join(member) | Self::Leave(member) => member.len(),
        }
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Who is present: a user, on however many connections. Cloning it is cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(Arc<str>);

impl Member {
    /// Somebody of this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// One entry of a topic, as the backplane ordered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where it was published.
    pub topic: Topic,
    /// Its place in the topic.
    pub position: Position,
    /// The publication before it in this topic.
    pub previous: Predecessor,
    /// What it tells.
    pub content: Content,
    /// Who does not get it: most often the connection that it came from.
    pub except: Option<ConnectionId>,
}

/// What a backplane is given to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The same for each attempt to publish this: a backplane that has it already answers with its position
    /// and publishes nothing.
    pub id: PublicationId,
    /// What it tells.
    pub content: Content,
    /// Who does not get it.
    pub except: Option<ConnectionId>,
}

/// What makes a second attempt to publish known as one. Cloning it is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicationId(Arc<str>);

impl PublicationId {
    /// Bytes that a client's key may have: engines remember it for two minutes.
    pub const MAX_KEY_LEN: usize = 128;

    /// The publisher's own word for it: whoever can say the same word of the same topic can keep it from being
    /// published, so that words of clients need their user's name before them.
    #[must_use]
    pub fn new(word: impl Into<Arc<str>>) -> Self {
        Self(word.into())
    }

    /// One that nothing else has.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:032x}", crate::entropy::number()).into())
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
