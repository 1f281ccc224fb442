//! What a client says and is told, without IO: topics and requests over one connection after the other.
//!
//! Inputs are [`open`](Dialogue::open), [`receive`](Dialogue::receive), [`handle_lost`](Dialogue::handle_lost) and
//! [`handle_timeout`](Dialogue::handle_timeout), at [`poll_timeout`](Dialogue::poll_timeout) or later; commands are
//! the verbs of the client. After each of them, send what [`next_outgoing`](Dialogue::next_outgoing) gives, if there is
//! a connection. Answers and events go to those who wait for them at once.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wireline::{CloseCode, Message};

use super::{
    ClientError, Event,
    queue::Queue,
    wire::{self, Header},
};
use crate::{Member, Position, PublicationId, Topic};

/// How long the server may take to say whom it takes this for.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may be silent beyond what it promised.
const GRACE: Duration = Duration::from_secs(10);

/// How long after a publication was sent for the first time it is sent again: the server knows its key for two
/// minutes, and what is sent takes a while.
const RESEND_LIMIT: Duration = Duration::from_secs(90);

/// The longest that a client stays away because the server says so.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// Bytes from which on a key is its publication's on all connections, whoever sends it.
const UNGUESSABLE: usize = 22;

/// Between attempts at what the server could not grant yet.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1500)];

/// Whoever waits for an answer.
#[derive(Debug)]
pub(super) struct Answer<T> {
    sender: oneshot::Sender<Result<T, ClientError>>,
    /// Its share of what may be on the way.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<T> Answer<T> {
    pub(super) fn new(
        sender: oneshot::Sender<Result<T, ClientError>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { sender, _permit: permit }
    }

    fn give(self, result: Result<T, ClientError>) {
        // Whoever asked may not wait any more.
        let _ = self.sender.send(result);
    }
}

/// Something on its way to be published.
#[derive(Debug)]
pub(super) struct Publishing {
    topic: Topic,
    message: Message,
    key: String,
    echo: bool,
    answer: Answer<Position>,
    first_sent: Option<Instant>,
}

impl Publishing {
    pub(super) fn new(
        topic: Topic,
        message: Message,
        key: Option<String>,
        echo: bool,
        answer: Answer<Position>,
    ) -> Self {
        let key = key.unwrap_or_else(|| PublicationId::random().as_str().to_owned());
        Self { topic, message, key, echo, answer, first_sent: None }
    }

    /// When it is too late to send it on another connection, if it was sent.
    fn expires(&self) -> Option<Instant> {
        let limit = if self.key.len() < UNGUESSABLE { Duration::ZERO } else { RESEND_LIMIT };
        self.first_sent.map(|sent| sent + limit)
    }
}

/// Where a subscription begins, as the server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscribed {
    pub(super) position: Position,
    pub(super) is_recovered: bool,
}

/// A topic that is heard.
#[derive(Debug)]
pub(super) struct Feed {
    key: u64,
    queue: Arc<Queue>,
    /// The place behind what was queued last.
    position: Option<Position>,
    last: Option<usize>,
    state: FeedState,
    /// Whoever waits for the first answer.
    answer: Option<Answer<Subscribed>>,
}

/// How far the server is with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FeedState {
    /// It is to be asked for.
    Wanted,
    /// The server was asked, and has not answered.
    Asked,
    /// What comes is queued.
    Live,
    /// The queue was full: what comes is dropped, and read again when there is room.
    Behind,
    /// The server could not grant it yet, and is asked again then.
    Delayed(Instant),
}

impl Feed {
    pub(super) fn new(
        key: u64,
        queue: Arc<Queue>,
        since: Option<Position>,
        last: Option<usize>,
        answer: Answer<Subscribed>,
    ) -> Self {
        Self { key, queue, position: since, last, state: FeedState::Wanted, answer: Some(answer) }
    }

    fn offer(&mut self, event: Event) {
        let position = event.position();
        if self.queue.offer(event) {
            self.position = Some(position);
        } else {
            self.state = FeedState::Behind;
        }
    }

    /// What it misses is not known.
    fn reset(&mut self, event: Event) {
        self.position = Some(event.position());
        self.queue.reset(event);
    }

    fn end(self, error: ClientError) {
        self.queue.end_with(&error);
        if let Some(answer) = self.answer {
            answer.give(Err(error));
        }
    }
}

/// What the server has not answered.
#[derive(Debug)]
enum Request {
    Authenticate,
    Subscribe {
        topic: Topic,
        key: u64,
    },
    /// Nobody waits for the answer.
    Unsubscribe,
    Publish(Box<Publishing>),
    Who {
        topic: Topic,
        answer: Answer<Vec<Member>>,
    },
}

/// What is to be said.
#[derive(Debug)]
enum Outgoing {
    Message(Message),
    /// What outlives connections is put into words when its turn has come.
    Request(u64),
}

impl Request {
    /// Whether it must not be sent again.
    fn is_over(&self, now: Instant) -> bool {
        match self {
            Self::Publish(publishing) => publishing.expires().is_some_and(|expires| expires <= now),
            _ => false,
        }
    }

    /// Nobody knows what became of it.
    fn give_up(self) {
        if let Self::Publish(publishing) = self {
            publishing.answer.give(Err(ClientError::Unknown));
        }
    }

    /// Whether it belongs to one connection.
    fn ends_with_connection(&self) -> bool {
        matches!(self, Self::Authenticate | Self::Subscribe { .. } | Self::Unsubscribe)
    }
}

/// What is to become of the connection.
#[derive(Debug)]
pub(super) enum Next {
    /// It goes on.
    Stay,
    /// The server believes who this is. If it says so: in what time it wants clients to come back after a loss.
    Open(Option<[Duration; 2]>),
    /// It is to be left for another, after this time.
    Leave([Duration; 2]),
    /// It is no good.
    Abandon(&'static str),
    /// There shall be no other.
    End(ClientError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Away,
    Authenticating { until: Instant },
    Open,
}

/// The state machine: see the [module](self).
#[derive(Debug)]
pub(super) struct Dialogue {
    phase: Phase,
    topics: HashMap<Topic, Feed>,
    /// By their numbers, which those that outlive a connection keep.
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    outgoing: VecDeque<Outgoing>,
    /// Where it is among what is broadcast.
    broadcasts: Option<Position>,
    /// Those who hear what is broadcast, by their keys.
    listeners: HashMap<u64, Arc<Queue>>,
    /// What the server promised: after how long it is heard of at the latest.
    silence: Option<Duration>,
    /// When it has been silent for too long.
    silent_at: Option<Instant>,
    /// Feeds that are delayed.
    delayed: Vec<(Instant, Topic)>,
    /// Publications that the server could not take yet.
    put_off: Vec<(Instant, u64)>,
    /// Anything from 0 to 1.
    random: fn() -> f64,
}

impl Dialogue {
    pub(super) fn new(random: fn() -> f64) -> Self {
        Self {
            phase: Phase::Away,
            topics: HashMap::new(),
            requests: BTreeMap::new(),
            next_request: 1,
            outgoing: VecDeque::new(),
            broadcasts: None,
            listeners: HashMap::new(),
            silence: None,
            silent_at: None,
            delayed: Vec::new(),
            put_off: Vec::new(),
            random,
        }
    }

    // Outputs.

    pub(super) fn next_outgoing(&mut self, now: Instant) -> Option<Message> {
        while let Some(outgoing) = self.outgoing.pop_front() {
            let message = match outgoing {
                Outgoing::Message(message) => Some(message),
                Outgoing::Request(id) => self.encode(id, now),
            };
            if message.is_some() {
                return message;
            }
        }
        None
    }

    /// What is asked again; `None` if it is answered, or must not be any more: it may have waited here for long.
    fn encode(&mut self, id: u64, now: Instant) -> Option<Message> {
        let request = self.requests.get_mut(&id)?;
        if request.is_over(now) {
            self.requests.remove(&id)?.give_up();
            return None;
        }
        match request {
            Request::Publish(publishing) => {
                publishing.first_sent.get_or_insert(now);
                let Publishing { topic, message, key, echo, .. } = &**publishing;
                let (t, key, echo) = (Some(&**topic), Some(&**key), (!echo).then_some(false));
                let request = wire::Request { op: "pub", id, t, key, echo, ..Default::default() };
                Some(request.encode_with(message))
            }
            Request::Who { topic, .. } => {
                Some(wire::Request { op: "who", id, t: Some(&**topic), ..Default::default() }.encode())
            }
            Request::Authenticate | Request::Subscribe { .. } | Request::Unsubscribe => None,
        }
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Away => self.first_to_expire(),
            Phase::Authenticating { until } => Some(until),
            Phase::Open => {
                let delayed = self.delayed.iter().map(|(at, _)| *at);
                let put_off = self.put_off.iter().map(|(at, _)| *at);
                self.silent_at.into_iter().chain(delayed).chain(put_off).min()
            }
        }
    }

    /// Publications are sent in the order of their numbers: the first that was sent is the first to expire, but for
    /// those with keys that hold on one connection, which do with that.
    fn first_to_expire(&self) -> Option<Instant> {
        self.requests.values().find_map(|request| match request {
            Request::Publish(publishing) => publishing.expires(),
            _ => None,
        })
    }

    // The connection.

    /// There is a connection: says who this is.
    pub(super) fn open(&mut self, token: Option<&str>, now: Instant) {
        self.phase = Phase::Authenticating { until: now + AUTHENTICATION_TIMEOUT };
        let id = self.number(Request::Authenticate);
        let all = self.broadcasts.map(|position| position.to_string());
        self.say(&wire::Request { op: "auth", id, token, all, ..Default::default() });
    }

    /// The connection is lost, or left. What the server closed it with, if it did.
    pub(super) fn handle_lost(&mut self, code: Option<CloseCode>, now: Instant) {
        self.phase = Phase::Away;
        self.silent_at = None;
        self.outgoing.clear();
        self.delayed.clear();
        self.put_off.clear();
        self.requests.retain(|_, request| !request.ends_with_connection());
        for feed in self.topics.values_mut().filter(|feed| feed.state != FeedState::Behind) {
            feed.state = FeedState::Wanted;
        }
        if code == Some(CloseCode::MESSAGE_TOO_BIG) {
            self.refuse_largest();
        }
        self.expire(now);
    }

    /// The server takes no message as large as one that it was sent: of those it can only have been the largest.
    fn refuse_largest(&mut self) {
        let sent = self.requests.iter().filter_map(|(id, request)| match request {
            Request::Publish(publishing) if publishing.first_sent.is_some() => {
                Some((publishing.message.len(), *id))
            }
            _ => None,
        });
        let largest = sent.max().and_then(|(_, id)| self.requests.remove(&id));
        if let Some(Request::Publish(publishing)) = largest {
            let error = ClientError::Refused { code: "too_large".to_owned(), is_temporary: false };
            publishing.answer.give(Err(error));
        }
    }

    /// Gives up what must not be sent again.
    fn expire(&mut self, now: Instant) {
        for (_, request) in self.requests.extract_if(.., |_, request| request.is_over(now)) {
            request.give_up();
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Next {
        match self.phase {
            Phase::Away => self.expire(now),
            Phase::Authenticating { until } if until <= now => return Next::Abandon("it does not answer"),
            Phase::Open if self.silent_at.is_some_and(|at| at <= now) => {
                return Next::Abandon("it is silent");
            }
            Phase::Authenticating { .. } | Phase::Open => {
                self.ask_delayed(now);
                for (_, id) in self.put_off.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
                    self.ask_again(id);
                }
            }
        }
        Next::Stay
    }

    fn ask_delayed(&mut self, now: Instant) {
        for (at, topic) in self.delayed.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            let is_delayed = |feed: &Feed| feed.state == FeedState::Delayed(at);
            if self.topics.get(&topic).is_some_and(is_delayed) {
                self.ask_for(&topic);
            }
        }
    }

    /// Nothing will be said any more: everybody who waits gets this error.
    pub(super) fn end(&mut self, error: &ClientError) {
        for (_, feed) in self.topics.drain() {
            feed.end(error.clone());
        }
        for (_, queue) in self.listeners.drain() {
            queue.end_with(error);
        }
        for request in std::mem::take(&mut self.requests).into_values() {
            match request {
                Request::Publish(publishing) => publishing.answer.give(Err(error.clone())),
                Request::Who { answer, .. } => answer.give(Err(error.clone())),
                _ => {}
            }
        }
    }

    // Commands.

    pub(super) fn subscribe(&mut self, topic: &Topic, feed: Feed) {
        if self.topics.contains_key(topic) {
            return feed.end(ClientError::AlreadySubscribed);
        }
        self.topics.insert(topic.clone(), feed);
        if self.phase == Phase::Open {
            self.ask_for(topic);
        }
    }

    /// What is broadcast goes to this queue, too.
    pub(super) fn listen(&mut self, key: u64, queue: Arc<Queue>) {
        self.listeners.insert(key, queue);
    }

    pub(super) fn unsubscribe(&mut self, topic: &Topic, key: u64) {
        self.listeners.remove(&key);
        if self.topics.get(topic).is_some_and(|feed| feed.key == key) {
            self.topics.remove(topic);
            self.ask_to_end(topic);
        }
    }

    /// There is room for what a subscription had none for.
    pub(super) fn catch_up(&mut self, topic: &Topic, key: u64) {
        let Some(feed) = self.topics.get_mut(topic) else { return };
        if feed.key != key || feed.state != FeedState::Behind {
            return;
        }
        feed.state = FeedState::Wanted;
        self.ask_to_end(topic);
        if self.phase == Phase::Open {
            self.ask_for(topic);
        }
    }

    pub(super) fn publish(&mut self, publishing: Publishing) {
        let id = self.number(Request::Publish(Box::new(publishing)));
        self.ask_again(id);
    }

    pub(super) fn who(&mut self, topic: Topic, answer: Answer<Vec<Member>>) {
        let id = self.number(Request::Who { topic, answer });
        self.ask_again(id);
    }

    fn say(&mut self, request: &wire::Request<'_>) {
        self.outgoing.push_back(Outgoing::Message(request.encode()));
    }

    fn number(&mut self, request: Request) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.requests.insert(id, request);
        id
    }

    fn ask_for(&mut self, topic: &Topic) {
        let Some(feed) = self.topics.get_mut(topic) else { return };
        feed.state = FeedState::Asked;
        let since = feed.position.map(|position| position.to_string());
        let last = feed.last.filter(|_| since.is_none());
        let key = feed.key;
        let id = self.number(Request::Subscribe { topic: topic.clone(), key });
        let t = Some(&**topic);
        self.say(&wire::Request { op: "sub", id, t, since, last, ..Default::default() });
    }

    fn ask_to_end(&mut self, topic: &Topic) {
        if self.phase == Phase::Open {
            let id = self.number(Request::Unsubscribe);
            let t = Some(&**topic);
            self.say(&wire::Request { op: "unsub", id, t, ..Default::default() });
        }
    }

    /// Asks what outlives connections, on the one that there is.
    fn ask_again(&mut self, id: u64) {
        if self.phase == Phase::Open {
            self.outgoing.push_back(Outgoing::Request(id));
        }
    }

    // What the server says.

    pub(super) fn receive(&mut self, message: Message, now: Instant) -> Next {
        self.silent_at = self.silence.and_then(|silence| now.checked_add(silence));
        if message.is_empty() {
            return Next::Stay; // A sign of life.
        }
        let Some((header, payload)) = wire::decode(message) else {
            return Next::Abandon("it does not speak hub.v1");
        };
        if let Some(id) = header.re {
            return self.handle_answer(id, header, now);
        }
        match header.ev.as_deref() {
            Some("bye") => return Next::Leave(window(header.retry.unwrap_or_default())),
            event => {
                let event = event.map(str::to_owned);
                self.handle_event(event.as_deref(), &header, payload);
            }
        }
        Next::Stay
    }

    fn handle_event(&mut self, name: Option<&str>, header: &Header, payload: Message) {
        let (Some(topic), Some(position)) = (header.t.as_deref(), header.position()) else { return };
        if topic == &*Topic::everyone() {
            return self.handle_broadcast(name, header, position, payload);
        }
        let Some(feed) = self.topics.get_mut(topic).filter(|feed| feed.state == FeedState::Live) else {
            return;
        };
        let member = || Member::new(header.member().unwrap_or_default());
        match name {
            None => feed.offer(Event::Message { message: payload, position }),
            Some("join") => feed.offer(Event::Join { member: member(), position }),
            Some("leave") => feed.offer(Event::Leave { member: member(), position }),
            Some("reset") => feed.reset(Event::Reset { why: header.reset_reason(), position }),
            // Of a later version of the protocol.
            Some(_) => {}
        }
    }

    fn handle_broadcast(
        &mut self,
        name: Option<&str>,
        header: &Header,
        position: Position,
        payload: Message,
    ) {
        let before = self.broadcasts.replace(position);
        let event = match name {
            None => Event::Message { message: payload, position },
            Some("reset") => Event::Reset { why: header.reset_reason(), position },
            // It was somewhere else before.
            Some("sub") if before.is_some() && !header.recovered => Event::Reset { why: None, position },
            Some(_) => return,
        };
        for queue in self.listeners.values() {
            queue.offer_or_reset(event.clone());
        }
    }

    fn handle_answer(&mut self, id: u64, mut header: Header, now: Instant) -> Next {
        let error = header
            .err
            .take()
            .map(|failure| ClientError::Refused { code: failure.code, is_temporary: failure.temp });
        let position = header.position();
        match self.requests.remove(&id) {
            Some(Request::Authenticate) => return self.handle_authenticated(error, &header, now),
            Some(Request::Subscribe { topic, key }) => {
                self.handle_subscribed(&topic, key, error, position, header.recovered, now);
            }
            Some(Request::Publish(publishing)) => match (error, position) {
                (Some(error), _) if error.is_temporary() => self.put_off(id, publishing, error, now),
                (Some(error), _) => publishing.answer.give(Err(error)),
                (None, Some(position)) => publishing.answer.give(Ok(position)),
                (None, None) => return Next::Abandon("it does not speak hub.v1"),
            },
            Some(Request::Who { answer, .. }) => answer.give(match error {
                Some(error) => Err(error),
                None => Ok(header.members().into_iter().map(Member::new).collect()),
            }),
            Some(Request::Unsubscribe) | None => {}
        }
        Next::Stay
    }

    /// The server cannot take a publication yet, or does not know what became of it: it is sent again, known by its key,
    /// for as long as that holds.
    fn put_off(&mut self, id: u64, publishing: Box<Publishing>, error: ClientError, now: Instant) {
        let at = self.again_at(now);
        if publishing.expires().is_none_or(|expires| expires <= at) {
            return publishing.answer.give(Err(error));
        }
        self.requests.insert(id, Request::Publish(publishing));
        self.put_off.push((at, id));
    }

    /// When to ask again what could not be granted.
    fn again_at(&self, now: Instant) -> Instant {
        let [least, most] = RETRY;
        now + least + (most - least).mul_f64((self.random)())
    }

    fn handle_authenticated(&mut self, error: Option<ClientError>, header: &Header, now: Instant) -> Next {
        match error {
            Some(error) if error.is_temporary() => return Next::Abandon("it cannot say yet who this is"),
            Some(error) => return Next::End(error),
            None => {}
        }
        self.silence = header.ping.map(|seconds| Duration::from_secs(seconds).saturating_add(GRACE));
        self.silent_at = self.silence.and_then(|silence| now.checked_add(silence));
        self.phase = Phase::Open;
        self.expire(now);
        let wanted = self.topics.iter().filter(|(_, feed)| feed.state == FeedState::Wanted);
        for topic in wanted.map(|(topic, _)| topic.clone()).collect::<Vec<_>>() {
            self.ask_for(&topic);
        }
        let outlived = self.requests.iter().filter(|(_, request)| !request.ends_with_connection());
        for id in outlived.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.ask_again(id);
        }
        Next::Open(header.retry.map(window))
    }

    fn handle_subscribed(
        &mut self,
        topic: &Topic,
        key: u64,
        error: Option<ClientError>,
        position: Option<Position>,
        is_recovered: bool,
        now: Instant,
    ) {
        let at = self.again_at(now);
        let is_asked = |feed: &Feed| feed.key == key && feed.state == FeedState::Asked;
        let Some(feed) = self.topics.get_mut(topic).filter(|feed| is_asked(feed)) else { return };
        let Some(position) = position else {
            let error = error.unwrap_or(ClientError::Unknown);
            if error.is_temporary() {
                feed.state = FeedState::Delayed(at);
                self.delayed.push((at, topic.clone()));
            } else if let Some(feed) = self.topics.remove(topic) {
                feed.end(error);
            }
            return;
        };
        feed.state = FeedState::Live;
        if feed.position.is_some() && !is_recovered {
            feed.reset(Event::Reset { why: None, position });
        }
        feed.position = Some(position);
        if let Some(answer) = feed.answer.take() {
            answer.give(Ok(Subscribed { position, is_recovered }));
        }
    }
}

fn window(milliseconds: [u64; 2]) -> [Duration; 2] {
    milliseconds.map(|milliseconds| Duration::from_millis(milliseconds).min(LONGEST_RETRY))
}

#[cfg(test)]
mod tests;
