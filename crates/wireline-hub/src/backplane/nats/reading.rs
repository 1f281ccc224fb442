//! Reading a topic.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use super::{
    Engine, envelope, origin,
    store::{Store, Stored},
};
use crate::{BackplaneError, History, Page, Position, Predecessor, Publication, Topic};

/// How much wider each look back is than the one before it, which found too little.
const WIDENING: u64 = 4;

/// What [`Backplane::read`](crate::Backplane::read) answers.
pub(super) async fn read(
    engine: &Engine,
    topic: &Topic,
    after: Option<Position>,
    max: usize,
) -> Result<Page, BackplaneError> {
    let subject = engine.names.kept(topic);
    let passed_subject = engine.names.passed(topic);
    let (kept, passed) = tokio::try_join!(engine.kept.last(&subject), engine.passed.last(&passed_subject))?;
    let newest = kept.iter().chain(&passed).max_by_key(|stored| stored.time);
    if after.is_some_and(|after| after.offset > newest.map_or(0, |newest| newest.sequence)) {
        // It was taken back, or the replica that has answered does not know of it yet.
        let (kept_there, passed_there) = tokio::try_join!(
            engine.kept.last_at_leader(&subject),
            engine.passed.last_at_leader(&passed_subject)
        )?;
        if is_newer(kept_there, kept.as_ref()) || is_newer(passed_there, passed.as_ref()) {
            return Err(BackplaneError::Unavailable("a replica is behind".into()));
        }
    }
    let is_passed_over = passed.is_some();
    let (newest, is_kept) = match (kept, passed) {
        (None, None) => return read_empty(engine, after).await,
        // The topic's rules have changed: it goes on where it was published last.
        (Some(kept), Some(passed)) if kept.time < passed.time => (passed, false),
        (Some(kept), _) => (kept, true),
        (None, Some(passed)) => (passed, false),
    };
    let top = newest.position();
    let page = |proven, items| Ok(Page { top, proven, items });
    if after == Some(top) {
        return page(true, vec![]);
    }
    let history = if is_kept { engine.allowed(newest.history()) } else { History::NONE };
    if history.is_none() {
        return page(false, vec![]);
    }
    let reading = Reading { engine, store: &engine.kept, topic, subject, top, history };
    let behind = match after {
        Some(after) if after.offset == 0 && !is_passed_over => reading.since_origin(after, max).await?,
        Some(after) if after.offset < top.offset => reading.behind(after, max).await?,
        _ => None,
    };
    match behind {
        Some(items) => page(true, items),
        None => page(false, reading.newest(newest, max).await?),
    }
}

fn is_newer(there: Option<Stored>, here: Option<&Stored>) -> bool {
    there.is_some_and(|there| here.is_none_or(|here| there.sequence > here.sequence))
}

/// Of a topic of which nothing is there.
async fn read_empty(engine: &Engine, after: Option<Position>) -> Result<Page, BackplaneError> {
    if let Some(after) = after
        && after.offset == 0
        && origin::is_kept(engine, after.mark).await?
    {
        return Ok(Page { top: after, proven: true, items: vec![] });
    }
    Ok(Page { top: origin::position(engine).await?, proven: false, items: vec![] })
}

/// A topic of which something is kept.
struct Reading<'r> {
    engine: &'r Engine,
    store: &'r Store,
    topic: &'r Topic,
    subject: String,
    top: Position,
    history: History,
}

impl Reading<'_> {
    /// What follows a position, if all of it is there.
    async fn behind(&self, after: Position, max: usize) -> Result<Option<Vec<Publication>>, BackplaneError> {
        // One more than may be kept shows that more are there.
        let most = max.min(self.history.messages.saturating_add(1));
        let run = self.store.run(&self.subject, after.offset + 1, self.top.offset, most).await?;
        let items = self.open(run.as_slice(), after.into());
        if !self.allows(&run) || items.len() < run.len() || (run.is_empty() && max > 0) {
            return Ok(None);
        }
        // The stream forgets a topic in order: if this one is still there, so was all that follows.
        let witness = self.store.at(after.offset).await?;
        let is_there =
            witness.is_some_and(|stored| stored.subject == self.subject && stored.position() == after);
        Ok(is_there.then_some(items))
    }

    /// All of a topic of which nothing has been forgotten since it was empty.
    async fn since_origin(
        &self,
        after: Position,
        max: usize,
    ) -> Result<Option<Vec<Publication>>, BackplaneError> {
        let run = self
            .store
            .run(&self.subject, 1, self.top.offset, self.history.messages.saturating_add(1))
            .await?;
        let is_full = run.len() >= self.engine.kept_messages();
        let mut items = self.open(&run, after.into());
        if is_full || run.is_empty() || !self.allows(&run) || items.len() < run.len() {
            return Ok(None);
        }
        // Nor was anything forgotten while it was read.
        let first = self.store.next(&self.subject, 1).await?.map(|stored| stored.sequence);
        if first != Some(run[0].sequence) || !origin::is_kept(self.engine, after.mark).await? {
            return Ok(None);
        }
        items.truncate(max);
        Ok(Some(items))
    }

    /// The newest publications.
    async fn newest(&self, newest: Stored, max: usize) -> Result<Vec<Publication>, BackplaneError> {
        let wanted = max.min(self.history.messages);
        if wanted == 0 {
            return Ok(vec![]);
        }
        // The one before them is their predecessor.
        let mut found = self.look_back(newest, wanted.saturating_add(1)).await?;
        let mut before = None;
        while found.len() > wanted || !self.allows(found.make_contiguous()) {
            before = found.pop_front().map(|stored| stored.position());
        }
        let previous = match (before, found.front()) {
            (Some(before), _) => before.into(),
            (None, Some(first)) => self.before_the_first(first.sequence).await?,
            (None, None) => return Ok(vec![]),
        };
        let found = found.make_contiguous();
        let items = self.open(found, previous);
        // What is not a hub's breaks the chain.
        Ok(if items.len() < found.len() { vec![] } else { items })
    }

    /// The newest `wanted` that are there, or all that are young enough. A stream is read forwards only: each time from
    /// farther back.
    async fn look_back(&self, newest: Stored, wanted: usize) -> Result<VecDeque<Stored>, BackplaneError> {
        let mut end = newest.sequence;
        let mut found = VecDeque::from([newest]);
        let mut width = wanted as u64;
        while found.len() < wanted && end > 1 && found.front().is_some_and(|oldest| self.is_young(oldest)) {
            let start = end.saturating_sub(width).max(1);
            let run = self.store.run(&self.subject, start, end - 1, usize::MAX).await?;
            for stored in run.into_iter().rev() {
                found.push_front(stored);
            }
            end = start;
            width = width.saturating_mul(WIDENING);
        }
        Ok(found)
    }

    /// What stands before the first publication that is there.
    async fn before_the_first(&self, first: u64) -> Result<Predecessor, BackplaneError> {
        let origin = origin::newest(self.engine).await?;
        let mark = origin.filter(|(_, sequence)| *sequence < first).map(|(mark, _)| mark);
        Ok(Predecessor { offset: 0, mark })
    }

    fn allows(&self, run: &[Stored]) -> bool {
        let bytes = run.iter().map(|stored| stored.payload.len()).sum();
        let age = run.first().map_or(Duration::ZERO, age);
        self.history.allows(run.len(), bytes, age)
    }

    fn is_young(&self, stored: &Stored) -> bool {
        age(stored) <= self.history.age
    }

    /// Those of them, from the first on, that are publications.
    fn open(&self, run: &[Stored], mut previous: Predecessor) -> Vec<Publication> {
        let mut items: Vec<Publication> = Vec::with_capacity(run.len());
        for stored in run {
            let Stored { sequence, headers, payload, .. } = stored;
            let Some(item) = envelope::open(self.topic, *sequence, previous, headers, payload.clone()) else {
                tracing::warn!(topic = %self.topic, sequence, "what is kept is no publication of a hub's");
                break;
            };
            previous = item.position.into();
            items.push(item);
        }
        items
    }
}

/// By the clocks of the broker and of this machine.
fn age(stored: &Stored) -> Duration {
    SystemTime::now().duration_since(stored.time).unwrap_or(Duration::ZERO)
}
