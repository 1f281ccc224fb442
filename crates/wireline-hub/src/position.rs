//! Places in a topic.

use std::{fmt, str::FromStr};

/// A place in a topic: behind one publication and before the next.
///
/// `offset` orders the publications of a topic, with or without gaps. `mark` is random for each, so that a
/// position which was valid in another life of the topic (it expired, its broker came up empty, a failover
/// gave numbers out again) is never taken for one of this life. To clients it is one opaque string:
///
/// ```
/// use wireline_hub::Position;
///
/// let position = Position { offset: 42, mark: 0x9f3a_01c2 };
/// assert_eq!(position.to_string(), "42.9f3a01c2");
/// assert_eq!("42.9f3a01c2".parse(), Ok(position));
/// assert!("42".parse::<Position>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The publication's number. Later ones have larger numbers.
    pub offset: u64,
    /// Which publication of that number it was.
    pub mark: u32,
}

impl Position {
    /// A position.
    #[must_use]
    pub const fn new(offset: u64, mark: u32) -> Self {
        Self { offset, mark }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.offset, self.mark)
    }
}

/// What a string that should be a position is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position: a number, a dot, and eight hexadecimal digits")]
pub struct InvalidPosition;

/// Takes exactly what [`Display`](fmt::Display) writes.
impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (offset, mark) = text.split_once('.').ok_or(InvalidPosition)?;
        let position = Self {
            offset: offset.parse().map_err(|_| InvalidPosition)?,
            mark: u32::from_str_radix(mark, 16).map_err(|_| InvalidPosition)?,
        };
        if position.to_string() == text { Ok(position) } else { Err(InvalidPosition) }
    }
}

/// What a publication says of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Predecessor {
    /// Its offset.
    pub offset: u64,
    /// Its mark, where the engine knows it.
    pub mark: Option<u32>,
}

impl Predecessor {
    /// Whether it may be `position`: nothing speaks against it.
    #[must_use]
    pub fn may_be(self, position: Position) -> bool {
        self.offset == position.offset && self.mark.is_none_or(|mark| mark == position.mark)
    }

    /// Whether it is `position` for certain, whoever names that.
    #[must_use]
    pub fn is(self, position: Position) -> bool {
        self == Self::from(position)
    }
}

impl From<Position> for Predecessor {
    fn from(position: Position) -> Self {
        Self { offset: position.offset, mark: Some(position.mark) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_written_in_one_way_only() {
        for text in ["", ".", "1", "1.", "1.abc", "01.00000000", "1.0000000A", "+1.00000000", "1.00000000 "] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text:?}");
        }
        let last = Position::new(u64::MAX, u32::MAX);
        assert_eq!(last.to_string().parse(), Ok(last));
    }

    #[test]
    fn a_predecessor_without_a_mark_proves_nothing() {
        let unmarked = Predecessor { offset: 3, mark: None };
        assert!(unmarked.may_be(Position::new(3, 7)));
        assert!(!unmarked.is(Position::new(3, 7)));
        assert!(!Predecessor::from(Position::new(3, 8)).may_be(Position::new(3, 7)));
    }
}
