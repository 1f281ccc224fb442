//! Names of topics.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

/// Bytes of a topic's name. Raised, it is memory for each topic and bytes on the wire for each publication.
pub const MAX_TOPIC_LEN: usize = 255;

/// The name of a topic: 1 to 255 bytes of text without control characters. Cloning it is cheap.
///
/// Names that begin with `$` are the hub's own; clients cannot publish there.
///
/// ```
/// use wireline_hub::Topic;
///
/// let topic: Topic = "chat:1".parse()?;
/// assert_eq!(&*topic, "chat:1");
/// assert!("".parse::<Topic>().is_err());
/// # Ok::<(), wireline_hub::InvalidTopic>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// Text that cannot be the name of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a topic's name has 1 to {MAX_TOPIC_LEN} bytes and no control characters")]
pub struct InvalidTopic;

impl Topic {
    /// A topic of this name.
    ///
    /// # Errors
    /// When the name is empty, too long, or has control characters.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, InvalidTopic> {
        let name = name.into();
        let is_valid = (1..=MAX_TOPIC_LEN).contains(&name.len()) && !name.chars().any(char::is_control);
        if is_valid { Ok(Self(name)) } else { Err(InvalidTopic) }
    }

    /// The topic that every connection hears: what is broadcast.
    pub(crate) fn everyone() -> Self {
        Self("$all".into())
    }

    /// Whether it is the hub's own.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl Deref for Topic {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Topic {
    type Err = InvalidTopic;

    fn from_str(name: &str) -> Result<Self, InvalidTopic> {
        Self::new(name)
    }
}

impl From<&Self> for Topic {
    fn from(topic: &Self) -> Self {
        topic.clone()
    }
}

impl TryFrom<&str> for Topic {
    type Error = InvalidTopic;

    fn try_from(name: &str) -> Result<Self, InvalidTopic> {
        Self::new(name)
    }
}

impl TryFrom<String> for Topic {
    type Error = InvalidTopic;

    fn try_from(name: String) -> Result<Self, InvalidTopic> {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_length_and_no_control_characters() {
        assert!(Topic::new("κόσμε/1 2").is_ok());
        assert!(Topic::new("x".repeat(MAX_TOPIC_LEN)).is_ok());
        for name in
            [String::new(), "x".repeat(MAX_TOPIC_LEN + 1), "a\nb".into(), "a\0".into(), "\u{85}".into()]
        {
            assert_eq!(Topic::new(&*name), Err(InvalidTopic), "{name:?}");
        }
    }
}
