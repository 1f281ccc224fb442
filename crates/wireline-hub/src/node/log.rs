//! What a node keeps of a topic: the newest publications in one unbroken chain.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::Start;
use crate::{History, Position, Predecessor, Publication};

/// A publication in a node's log, shared by all who wait for it.
#[derive(Debug)]
pub struct Entry<F> {
    /// The publication.
    pub publication: Publication,
    /// What an outlet makes of it for the wire, once for all connections.
    pub frames: F,
    received: Instant,
}

impl<F: Default> Entry<F> {
    fn new(publication: Publication, received: Instant) -> Arc<Self> {
        Arc::new(Self { publication, frames: F::default(), received })
    }
}

impl<F> Entry<F> {
    fn position(&self) -> Position {
        self.publication.position
    }
}

/// Where a publication belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Right behind the last one.
    Next,
    /// It is here.
    Known,
    /// Not behind the last one, and not known here: something is missing, or was taken back.
    Elsewhere,
}

/// A chain of publications, each the predecessor of the next. Everything behind `floor` is here.
#[derive(Debug)]
pub(super) struct Log<F> {
    /// What stood before the first entry.
    floor: Predecessor,
    entries: VecDeque<Arc<Entry<F>>>,
    bytes: usize,
    /// The position of the last entry, or where the next one will follow.
    top: Position,
    /// All that the engine keeps was read once, so that it cannot prove more than this log.
    pub(super) reaches_back: bool,
}

impl<F: Default> Log<F> {
    /// Of a topic that stands at `top`, of whose past nothing is known.
    pub(super) fn new(top: Position) -> Self {
        Self { floor: top.into(), entries: VecDeque::new(), bytes: 0, top, reaches_back: false }
    }

    pub(super) fn top(&self) -> Position {
        self.top
    }

    pub(super) fn place(&self, publication: &Publication) -> Place {
        let position = publication.position;
        let is_known = position == self.top
            || Predecessor::from(position) == self.floor
            || self.index_of(position.offset).is_some_and(|index| self.entries[index].position() == position);
        if is_known {
            return Place::Known;
        }
        let is_next = position.offset > self.top.offset && publication.previous.may_be(self.top);
        if is_next { Place::Next } else { Place::Elsewhere }
    }

    /// Appends what [belongs](Place::Next) behind the last entry.
    pub(super) fn append(
        &mut self,
        publication: Publication,
        history: &History,
        now: Instant,
    ) -> Arc<Entry<F>> {
        debug_assert_eq!(self.place(&publication), Place::Next);
        self.top = publication.position;
        self.bytes += publication.content.len();
        let entry = Entry::new(publication, now);
        self.entries.push_back(Arc::clone(&entry));
        self.trim(history, now);
        entry
    }

    /// Puts before the first entry what a page from the engine has of it. Their age counts from now: the engine
    /// keeps to it too, and what is kept longer here is no less true.
    pub(super) fn prepend(&mut self, older: Vec<Publication>, history: &History, now: Instant) {
        let joins = |publication: &Publication| self.floor.may_be(publication.position);
        let Some(end) = older.iter().rposition(joins) else { return };
        for publication in older.into_iter().take(end + 1).rev() {
            if !self.floor.may_be(publication.position) {
                break;
            }
            self.floor = publication.previous;
            self.bytes += publication.content.len();
            self.entries.push_front(Entry::new(publication, now));
        }
        self.trim(history, now);
    }

    /// Forgets what the limits do not allow.
    pub(super) fn trim(&mut self, history: &History, now: Instant) {
        while let Some(oldest) = self.entries.front() {
            let age = now.saturating_duration_since(oldest.received);
            if history.allows(self.entries.len(), self.bytes, age) {
                return;
            }
            self.floor = oldest.position().into();
            self.bytes -= oldest.publication.content.len();
            self.entries.pop_front();
        }
    }

    /// When the log is to be trimmed for its oldest entry's age: a sixteenth late, so that it is not done for
    /// each entry by itself.
    pub(super) fn expires(&self, history: &History) -> Option<Instant> {
        let oldest = self.entries.front()?;
        oldest.received.checked_add(history.age.checked_add(history.age / 16)?)
    }

    /// Whether everything behind `position` is here.
    pub(super) fn proves(&self, position: Position) -> bool {
        position == self.top || self.index_behind(position).is_some()
    }

    /// The entry behind `position`; `None` if that is the last one, or is not [proven](Self::proves).
    pub(super) fn next(&self, position: Position) -> Option<&Arc<Entry<F>>> {
        self.entries.get(self.index_behind(position)?)
    }

    /// The position behind which the last `count` entries stand, or all that there are.
    pub(super) fn position_before(&self, count: usize) -> Position {
        let index = self.entries.len().saturating_sub(count);
        let before = match index.checked_sub(1) {
            Some(before) => Some(self.entries[before].position()),
            None => self.floor.mark.map(|mark| Position::new(self.floor.offset, mark)),
        };
        // Where the engine did not tell the mark of what it has forgotten, that entry is left out.
        before.or_else(|| self.entries.front().map(|first| first.position())).unwrap_or(self.top)
    }

    /// Whether it is known here where `start` is, or that nobody knows.
    pub(super) fn knows(&self, start: Start) -> bool {
        match start {
            _ if self.reaches_back => true,
            Start::Now => true,
            Start::After(position) => self.proves(position),
            Start::Last(count) => count <= self.entries.len(),
        }
    }

    pub(super) fn newest(&self) -> Option<&Arc<Entry<F>>> {
        self.entries.back()
    }

    fn index_behind(&self, position: Position) -> Option<usize> {
        if self.floor.is(position) {
            return Some(0);
        }
        let index = self.index_of(position.offset)?;
        (self.entries[index].position() == position).then_some(index + 1)
    }

    fn index_of(&self, offset: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&offset, |entry| entry.position().offset).ok()
    }
}
