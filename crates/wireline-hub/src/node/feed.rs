//! One topic, as a node has it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use slab::Slab;

use super::{
    Action, AfterNotice, Lagging, Notice, Outlet, Outside, ResetReason, Start, SubscribeError,
    log::{Log, Place},
    watch::Watch,
};
use crate::{ConnectionId, Content, History, Member, Page, Position, Publication, Topic};

/// Publications that are held while something before them is missing. What comes beyond is read from the
/// engine. Raised, it is memory for each topic whose engine does not answer.
const HELD_MESSAGES: usize = 256;

/// Bytes that are held, for the same reason.
const HELD_BYTES: usize = 1 << 20;

/// How long after a join the engine's rows are read: those of many joins at once.
const PRESENCE_DELAY: Duration = Duration::from_millis(200);

/// Reads after which the engine is believed that there is nothing of what it delivered: it has taken that back,
/// and is not merely late.
const PATIENCE: u32 = 4;

/// A topic with its log, and a cursor in it for each subscriber.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about what the engine was asked for"
)]
pub(super) struct Feed<F> {
    pub(super) topic: Topic,
    pub(super) history: History,
    lagging: Lagging,
    /// None before the engine was asked where the topic stands.
    pub(super) log: Option<Log<F>>,
    pub(super) is_subscribed: bool,
    pub(super) subscribers: Slab<Subscriber>,
    /// Those who wait for something that must be read first.
    pub(super) joining: Vec<Joining>,
    held: VecDeque<Publication>,
    held_bytes: usize,
    /// Something was not held for want of room.
    has_dropped: bool,
    pub(super) wants_past: bool,
    pub(super) wants_heal: bool,
    pub(super) reading: Reading,
    /// The engine may have lost something since it was asked.
    pub(super) is_doubted_meanwhile: bool,
    /// Reads or subscriptions without success, one after the other.
    pub(super) failures: u32,
    /// If the topic tells who is there.
    pub(super) watch: Option<Watch>,
    /// When something was last heard of the topic.
    pub(super) heard: Instant,
    /// When the last subscriber left.
    pub(super) left: Option<Instant>,
    /// The alarm that is set for it.
    pub(super) alarm: Option<Instant>,
}

/// How far a topic is with reading from the engine. There is one read at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    No,
    /// It waits for its turn among the node's reads.
    Queued,
    Asked {
        ticket: u64,
        is_heal: bool,
        is_whole: bool,
    },
    /// The last one failed, or told nothing new.
    Delayed(Instant),
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) connection: usize,
    /// Who it is.
    id: ConnectionId,
    /// The place up to which it has everything; `None`: all that there is.
    behind: Option<Position>,
    pub(super) member: Option<Member>,
}

/// Somebody who subscribes.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) connection: usize,
    pub(super) id: ConnectionId,
    pub(super) start: Start,
    pub(super) member: Option<Member>,
    pub(super) request: u64,
    /// Until when it waits; `None`: for as long as it takes.
    pub(super) until: Option<Instant>,
}

impl<F: Default> Feed<F> {
    pub(super) fn new(
        topic: Topic,
        history: History,
        lagging: Lagging,
        watch: Option<Watch>,
        now: Instant,
    ) -> Self {
        Self {
            topic,
            history,
            lagging,
            log: None,
            is_subscribed: false,
            subscribers: Slab::new(),
            joining: Vec::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            has_dropped: false,
            wants_past: false,
            wants_heal: false,
            reading: Reading::No,
            is_doubted_meanwhile: false,
            failures: 0,
            watch,
            heard: now,
            left: None,
            alarm: None,
        }
    }

    pub(super) fn is_deserted(&self) -> bool {
        self.subscribers.is_empty() && self.joining.is_empty()
    }

    /// Whether the engine has to be asked before this can go on.
    pub(super) fn wants_read(&self) -> bool {
        self.is_subscribed && (self.log.is_none() || self.wants_heal || self.wants_past)
    }

    // Publications.

    /// Takes what the engine delivers.
    pub(super) fn receive<O>(&mut self, publication: Publication, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        self.heard = outside.now;
        let place = match &self.log {
            Some(log) if !self.wants_heal => log.place(&publication),
            _ => return self.hold(publication),
        };
        match place {
            Place::Next => self.append(publication, outside),
            Place::Known => {}
            Place::Elsewhere => {
                self.wants_heal = true;
                self.hold(publication);
            }
        }
    }

    fn hold(&mut self, publication: Publication) {
        if self.held.len() == HELD_MESSAGES || self.held_bytes + publication.content.len() > HELD_BYTES {
            // It is read from the engine.
            self.has_dropped = true;
            return;
        }
        self.held_bytes += publication.content.len();
        self.held.push_back(publication);
    }

    fn append<O>(&mut self, publication: Publication, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        let Some(log) = &mut self.log else { return };
        let before = log.top();
        let entry = log.append(publication, &self.history, outside.now);
        let except = entry.publication.except;
        for (_, subscriber) in &mut self.subscribers {
            let is_excepted = except == Some(subscriber.id);
            if subscriber.behind.is_none()
                && !is_excepted
                && outside.connections.offer(subscriber.connection, &entry, &mut outside.actions).is_err()
            {
                subscriber.behind = Some(before);
            }
        }
        self.note_presence(&entry.publication.content, outside);
    }

    fn note_presence<O>(&mut self, content: &Content, outside: &mut Outside<O>) {
        let Some(watch) = &mut self.watch else { return };
        match content {
            Content::Message(_) => {}
            Content::Join(_) => watch.hear_join(outside.now + PRESENCE_DELAY),
            Content::Leave(member) => {
                watch.hear_leave(member);
                outside.presence.hear_leave(&self.topic, member, outside.now);
            }
        }
    }

    // Reading.

    /// Takes what the engine has of the topic. Whether that was not what is missing.
    pub(super) fn receive_page<O>(
        &mut self,
        page: Page,
        is_heal: bool,
        is_whole: bool,
        outside: &mut Outside<O>,
    ) -> bool
    where
        O: Outlet<Frames = F>,
    {
        self.heard = outside.now;
        self.reading = Reading::No;
        let before = self.log.as_ref().map(Log::top);
        match before {
            None => self.open(page, is_whole, outside.now),
            Some(_) if is_heal => self.heal(page, outside),
            Some(_) => self.extend_back(page, outside.now),
        }
        let is_ahead = |feed: &Self| feed.log.as_ref().map(Log::top) != before;
        if !is_ahead(self) && self.failures >= PATIENCE {
            // The engine stands by what it says. Should it change its mind, the chain will show it.
            self.held.clear();
        }
        self.release_held(outside);
        let is_stuck = self.wants_heal && !is_ahead(self);
        self.wants_heal |= std::mem::take(&mut self.is_doubted_meanwhile);
        self.wants_heal |= std::mem::take(&mut self.has_dropped);
        self.admit(outside);
        is_stuck
    }

    fn open(&mut self, page: Page, is_whole: bool, now: Instant) {
        let log = self.log.insert(Log::new(page.top));
        log.prepend(page.items, &self.history, now);
        log.reaches_back = is_whole;
        self.wants_past = false;
    }

    fn extend_back(&mut self, page: Page, now: Instant) {
        self.wants_past = false;
        if let Some(log) = &mut self.log {
            log.prepend(page.items, &self.history, now);
            log.reaches_back = true;
        }
    }

    /// Fills the hole, or gives the chain up.
    fn heal<O>(&mut self, page: Page, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        self.wants_heal = false;
        if !page.proven {
            return self.reset(page, outside);
        }
        for publication in page.items {
            match self.log.as_ref().map(|log| log.place(&publication)) {
                Some(Place::Next) => self.append(publication, outside),
                Some(Place::Known) => {}
                // No chain at all: the next read tells.
                _ => self.wants_heal = true,
            }
        }
        // More than one page is missing.
        self.wants_heal |= self.log.as_ref().is_some_and(|log| log.top().offset < page.top.offset);
    }

    fn reset<O>(&mut self, page: Page, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        let is_rollback = self.log.as_ref().is_some_and(|log| page.top.offset <= log.top().offset);
        let reason = if is_rollback { ResetReason::Rollback } else { ResetReason::Lost };
        let position = page.top;
        self.open(page, true, outside.now);
        let notice = Notice::Reset { topic: self.topic.clone(), position, reason };
        let mut left = Vec::new();
        for (key, subscriber) in &mut self.subscribers {
            subscriber.behind = None;
            if outside.connections.tell(subscriber.connection, &notice) == AfterNotice::Left {
                left.push(key);
            }
        }
        left.into_iter().for_each(|key| self.take_leave(key, outside));
    }

    /// Puts what was held where it belongs.
    fn release_held<O>(&mut self, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        self.held_bytes = 0;
        for publication in std::mem::take(&mut self.held) {
            let Some(log) = &self.log else { return };
            // The engine has just told what there is: what is not newer, and not known, was taken back.
            let is_past = publication.position.offset <= log.top().offset;
            if !is_past {
                self.receive(publication, outside);
            }
        }
    }

    // Subscribers.

    /// Somebody subscribes.
    pub(super) fn join<O>(&mut self, joining: Joining, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        if let Some(log) = &mut self.log {
            log.trim(&self.history, outside.now);
            if !self.wants_heal {
                if log.knows(joining.start) {
                    return self.let_in(joining, outside);
                }
                self.wants_past = true;
            }
        }
        self.joining.push(joining);
    }

    /// Lets in all those of whom it is known what they have missed.
    pub(super) fn admit<O>(&mut self, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        let Some(log) = &self.log else { return };
        if self.wants_heal {
            return;
        }
        let joining = std::mem::take(&mut self.joining);
        let (waiting, known) = joining.into_iter().partition(|joining| !log.knows(joining.start));
        self.joining = waiting;
        self.wants_past = !self.joining.is_empty();
        let known: Vec<Joining> = known;
        for joining in known {
            self.let_in(joining, outside);
        }
    }

    fn let_in<O>(&mut self, joining: Joining, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        let Some(log) = &self.log else { return };
        let Joining { connection, id, start, member, request, .. } = joining;
        let (position, recovered) = match start {
            Start::After(position) if log.proves(position) => (position, true),
            Start::After(_) | Start::Now => (log.top(), false),
            Start::Last(count) => (log.position_before(count), false),
        };
        let behind = (position != log.top()).then_some(position);
        let key = self.subscribers.insert(Subscriber { connection, id, behind, member: None });
        outside.connections.at(connection).subscriptions.insert(self.topic.clone(), Some(key));
        let notice = Notice::Subscribed { request, topic: self.topic.clone(), position, recovered };
        if outside.connections.tell(connection, &notice) == AfterNotice::Left {
            return self.take_leave(key, outside);
        }
        if let Some(member) = member {
            outside.presence.join(&self.topic, &member, outside.now);
            self.subscribers[key].member = Some(member);
        }
        self.catch_up(key, outside);
    }

    /// Gives a subscriber that is behind what it lacks, as far as its queue has room.
    pub(super) fn catch_up<O>(&mut self, key: usize, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        let (Some(log), Some(subscriber)) = (&self.log, self.subscribers.get_mut(key)) else { return };
        while let Some(behind) = subscriber.behind {
            if behind == log.top() {
                subscriber.behind = None;
                return;
            }
            let Some(entry) = log.next(behind) else {
                return self.give_up(key, outside);
            };
            let is_excepted = entry.publication.except == Some(subscriber.id);
            if !is_excepted
                && outside.connections.offer(subscriber.connection, entry, &mut outside.actions).is_err()
            {
                return;
            }
            subscriber.behind = Some(entry.publication.position);
        }
    }

    /// What a slow subscriber lacks is not kept any more.
    fn give_up<O>(&mut self, key: usize, outside: &mut Outside<O>)
    where
        O: Outlet<Frames = F>,
    {
        let Some(log) = &self.log else { return };
        let subscriber = &mut self.subscribers[key];
        match self.lagging {
            Lagging::Reset => {
                subscriber.behind = None;
                let topic = self.topic.clone();
                let notice = Notice::Reset { topic, position: log.top(), reason: ResetReason::Window };
                if outside.connections.tell(subscriber.connection, &notice) == AfterNotice::Left {
                    self.take_leave(key, outside);
                }
            }
            Lagging::Close => outside.actions.push(Action::Close(subscriber.id)),
        }
    }

    /// A subscriber is gone, or somebody who wanted to be one.
    pub(super) fn remove<O: Outlet>(
        &mut self,
        key: Option<usize>,
        id: ConnectionId,
        outside: &mut Outside<O>,
    ) {
        let subscriber = key.and_then(|key| self.subscribers.try_remove(key));
        if let Some(member) = subscriber.and_then(|subscriber| subscriber.member) {
            outside.presence.leave(&self.topic, &member, outside.now);
        }
        if key.is_none() {
            self.joining.retain(|joining| joining.id != id);
        }
    }

    /// A subscriber was told that it is none any more.
    fn take_leave<O: Outlet>(&mut self, key: usize, outside: &mut Outside<O>) {
        let Subscriber { connection, id, .. } = self.subscribers[key];
        outside.connections.at(connection).subscriptions.remove(&self.topic);
        self.remove(Some(key), id, outside);
    }

    /// Somebody who waits to become a subscriber does not want that any more.
    pub(super) fn withdraw<O: Outlet>(&mut self, id: ConnectionId, outside: &Outside<O>) {
        for withdrawn in self.joining.extract_if(.., |joining| joining.id == id) {
            let (request, topic) = (withdrawn.request, self.topic.clone());
            let notice = Notice::Refused { request, topic, error: SubscribeError::Withdrawn };
            outside.connections.tell(withdrawn.connection, &notice);
        }
    }

    /// Refuses those who have waited too long.
    pub(super) fn refuse_late<O: Outlet>(&mut self, outside: &mut Outside<O>) {
        let topic = &self.topic;
        self.joining.retain(|joining| {
            let is_late = joining.until.is_some_and(|until| until <= outside.now);
            if is_late {
                let error = SubscribeError::Unavailable;
                let notice = Notice::Refused { request: joining.request, topic: topic.clone(), error };
                outside.connections.tell(joining.connection, &notice);
                outside.connections.at(joining.connection).subscriptions.remove(topic);
            }
            !is_late
        });
    }

    /// How many subscribers are behind.
    pub(super) fn lagging(&self) -> usize {
        self.subscribers.iter().filter(|(_, subscriber)| subscriber.behind.is_some()).count()
    }
}
