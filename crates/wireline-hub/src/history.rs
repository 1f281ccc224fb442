//! How much of a topic is kept.

use std::time::Duration;

/// What is kept of a topic for those who come late, come back, or read slowly: the newest publications, as far
/// as all three limits allow.
///
/// ```
/// use std::time::Duration;
/// use wireline_hub::History;
///
/// let history = History::messages(1000).age(Duration::from_secs(600));
/// assert_eq!(history.messages, 1000);
/// assert!(History::NONE.is_none());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Publications.
    pub messages: usize,
    /// Bytes of payload.
    pub bytes: usize,
    /// How old they may be.
    pub age: Duration,
}

impl History {
    /// Nothing is kept: who was away, or reads slower than the topic goes, gets a reset.
    pub const NONE: Self = Self { messages: 0, bytes: 0, age: Duration::ZERO };

    /// So many publications, of at most 1 MiB together, for at most 5 minutes.
    #[must_use]
    pub const fn messages(messages: usize) -> Self {
        Self { messages, bytes: 1 << 20, age: Duration::from_secs(300) }
    }

    /// Sets the limit of bytes of payload.
    #[must_use]
    pub const fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Sets how old publications may become.
    #[must_use]
    pub const fn age(self, age: Duration) -> Self {
        Self { age, ..self }
    }

    /// Whether nothing is kept.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.messages == 0
    }

    /// Whether so much may be kept, of which the oldest publication has this age.
    pub(crate) fn allows(&self, messages: usize, bytes: usize, age: Duration) -> bool {
        messages <= self.messages && bytes <= self.bytes && age <= self.age
    }
}

/// 100 publications.
impl Default for History {
    fn default() -> Self {
        Self::messages(100)
    }
}
