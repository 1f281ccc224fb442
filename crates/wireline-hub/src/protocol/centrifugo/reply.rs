//! What the hub sends.

use std::{borrow::Cow, collections::BTreeMap};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use wireline::Message;

use super::{Failure, Terms, history::Kept};
use crate::{
    Content, Member, Position, Publication,
    node::{Notice, SubscribeError},
    protocol::Told,
};

/// The largest integer that JavaScript has with all those below it.
const LARGEST_OFFSET: u64 = (1 << 53) - 1;

/// A subscription ends so that its client begins anew, with the position that it has.
const INSUFFICIENT_STATE: Unsubscribed = Unsubscribed { code: 2500, reason: "insufficient state" };

/// A subscription ends, and its client does not begin anew.
const SERVER_UNSUBSCRIBE: Unsubscribed = Unsubscribed { code: 2000, reason: "server unsubscribe" };

/// What is sent for a publication, to all alike.
pub(in crate::protocol) fn publication(publication: &Publication) -> Message {
    let event = match &publication.content {
        Content::Message(message) => Event::Pub(Published::new(message, publication.position)),
        Content::Join(member) => Event::Join(Presence { info: member.into() }),
        Content::Leave(member) => Event::Leave(Presence { info: member.into() }),
    };
    push(&publication.topic, event)
}

pub(in crate::protocol) fn notice(notice: &Notice) -> Told {
    match notice {
        Notice::Subscribed { request, position, recovered, .. } => {
            let (id, terms) = Terms::of(*request);
            if terms.or_nothing && !recovered {
                return Told::Left(failed(id, Failure::UnrecoverablePosition));
            }
            Told::Message(reply(id, Answer::Subscribe(Subscribed::new(*position, *recovered, terms))))
        }
        Notice::Refused { request, error, .. } => {
            let (id, _) = Terms::of(*request);
            Told::Message(match error {
                SubscribeError::AlreadySubscribed => failed(id, Failure::AlreadySubscribed),
                SubscribeError::Unavailable => failed(id, Failure::Internal),
                SubscribeError::Withdrawn => failed(id, Failure::BadRequest),
            })
        }
        Notice::Reset { topic, .. } => Told::Left(push(topic, Event::Unsubscribe(INSUFFICIENT_STATE))),
    }
}

/// The answer to a command that failed.
pub(crate) fn failed(id: u32, failure: Failure) -> Message {
    let (message, temporary) = (failure.message(), failure.is_temporary());
    reply(id, Answer::Error(Error { code: failure as u16, message, temporary }))
}

/// What a client is told of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Welcome<'c> {
    /// The connection's name.
    pub(crate) client: &'c str,
    /// Seconds after which the client is to come with a new token.
    pub(crate) ttl_s: Option<u64>,
    /// Seconds between Pings, which the client answers.
    pub(crate) ping_s: u64,
}

pub(crate) fn connected(id: u32, Welcome { client, ttl_s, ping_s }: Welcome<'_>) -> Message {
    let connected = Connected { alive: Alive::new(client, ttl_s), ping: ping_s, pong: true, session: client };
    reply(id, Answer::Connect(connected))
}

pub(crate) fn refreshed(id: u32, client: &str, ttl_s: Option<u64>) -> Message {
    reply(id, Answer::Refresh(Alive::new(client, ttl_s)))
}

pub(crate) fn subscription_refreshed(id: u32) -> Message {
    reply(id, Answer::SubRefresh(Empty {}))
}

pub(crate) fn unsubscribed(id: u32) -> Message {
    reply(id, Answer::Unsubscribe(Empty {}))
}

pub(crate) fn published(id: u32) -> Message {
    reply(id, Answer::Publish(Empty {}))
}

/// The client is not subscribed any more, since it may not be.
pub(crate) fn forbidden(channel: &str) -> Message {
    push(channel, Event::Unsubscribe(SERVER_UNSUBSCRIBE))
}

/// What the client answers, to show that it is there.
pub(crate) fn ping() -> Message {
    "{}".into()
}

pub(crate) fn pong(id: u32) -> Message {
    reply(id, Answer::Ping(Empty {}))
}

/// Who is here. A member is a user, on however many connections: one client each.
pub(crate) fn presence(id: u32, members: &[Member]) -> Message {
    let presence = members.iter().map(|member| (member.name(), member.into())).collect();
    reply(id, Answer::Presence(Present { presence }))
}

pub(crate) fn presence_stats(id: u32, members: &[Member]) -> Message {
    reply(id, Answer::PresenceStats(Counted { num_clients: members.len(), num_users: members.len() }))
}

/// Messages of a topic, which ends at `top`.
pub(crate) fn history(id: u32, top: Position, messages: &[Kept<'_>]) -> Message {
    let publications =
        messages.iter().map(|(message, position)| Published::new(message, *position)).collect();
    reply(id, Answer::History(History { publications, place: top.into() }))
}

fn reply(id: u32, answer: Answer<'_>) -> Message {
    line(&Reply { id, answer })
}

fn push(channel: &str, event: Event<'_>) -> Message {
    line(&Pushed { push: Push { channel, event } })
}

fn line(value: &impl Serialize) -> Message {
    // Strings, numbers and lists of these always have a form in JSON.
    serde_json::to_string(value).unwrap_or_default().into()
}

#[derive(Serialize)]
struct Reply<'r> {
    id: u32,
    #[serde(flatten)]
    answer: Answer<'r>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer<'r> {
    Error(Error),
    Connect(Connected<'r>),
    Subscribe(Subscribed),
    Unsubscribe(Empty),
    Publish(Empty),
    Presence(Present<'r>),
    PresenceStats(Counted),
    History(History<'r>),
    Refresh(Alive<'r>),
    SubRefresh(Empty),
    Ping(Empty),
}

#[derive(Serialize)]
struct Pushed<'p> {
    push: Push<'p>,
}

#[derive(Serialize)]
struct Push<'p> {
    channel: &'p str,
    #[serde(flatten)]
    event: Event<'p>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Event<'p> {
    Pub(Published<'p>),
    Join(Presence<'p>),
    Leave(Presence<'p>),
    Unsubscribe(Unsubscribed),
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Error {
    code: u16,
    message: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    temporary: bool,
}

#[derive(Serialize)]
struct Connected<'c> {
    #[serde(flatten)]
    alive: Alive<'c>,
    ping: u64,
    pong: bool,
    session: &'c str,
}

/// Who a connection is, and for how long.
#[derive(Serialize)]
struct Alive<'c> {
    client: &'c str,
    version: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    expires: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

impl<'c> Alive<'c> {
    fn new(client: &'c str, ttl_s: Option<u64>) -> Self {
        let version = concat!("wireline ", env!("CARGO_PKG_VERSION"));
        Self { client, version, expires: ttl_s.is_some(), ttl: ttl_s }
    }
}

#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "so the protocol has it")]
struct Subscribed {
    recoverable: bool,
    positioned: bool,
    #[serde(flatten)]
    place: Place,
    #[serde(skip_serializing_if = "is_false")]
    recovered: bool,
    #[serde(skip_serializing_if = "is_false")]
    was_recovering: bool,
}

impl Subscribed {
    fn new(position: Position, recovered: bool, terms: Terms) -> Self {
        let place = position.into();
        Self { recoverable: true, positioned: true, place, recovered, was_recovering: terms.is_recovery }
    }
}

/// A position, as a client has it.
#[derive(Serialize)]
struct Place {
    offset: u64,
    epoch: String,
}

impl From<Position> for Place {
    fn from(Position { offset, mark }: Position) -> Self {
        Self { offset: offset.min(LARGEST_OFFSET), epoch: format!("{mark:08x}") }
    }
}

#[derive(Serialize)]
struct Published<'p> {
    data: Cow<'p, RawValue>,
    #[serde(flatten)]
    place: Place,
}

impl<'p> Published<'p> {
    fn new(message: &'p Message, position: Position) -> Self {
        Self { data: data(message), place: position.into() }
    }
}

/// What stands for a payload.
fn data(message: &Message) -> Cow<'_, RawValue> {
    #[derive(Serialize)]
    struct Binary {
        b64data: String,
    }
    let Some(text) = message.as_text() else {
        return owned(&Binary { b64data: BASE64_STANDARD.encode(message.as_bytes()) });
    };
    match serde_json::from_str::<&RawValue>(text) {
        Ok(json) if !json.get().contains('\n') => Cow::Borrowed(json),
        // A line ends at a line feed.
        Ok(json) => {
            RawValue::from_string(json.get().replace('\n', " ")).map_or_else(|_| owned(text), Cow::Owned)
        }
        Err(_) => owned(text),
    }
}

fn owned<'p>(value: &(impl Serialize + ?Sized)) -> Cow<'p, RawValue> {
    // Text always has a form in JSON.
    to_raw_value(value).map_or(Cow::Borrowed(RawValue::NULL), Cow::Owned)
}

#[derive(Serialize)]
struct Presence<'p> {
    info: Info<'p>,
}

/// Somebody who is here.
#[derive(Serialize)]
struct Info<'p> {
    user: &'p str,
    client: &'p str,
}

impl<'p> From<&'p Member> for Info<'p> {
    fn from(member: &'p Member) -> Self {
        Self { user: member.name(), client: member.name() }
    }
}

#[derive(Serialize)]
struct Unsubscribed {
    code: u16,
    reason: &'static str,
}

#[derive(Serialize)]
struct Present<'p> {
    presence: BTreeMap<&'p str, Info<'p>>,
}

#[derive(Serialize)]
struct Counted {
    num_clients: usize,
    num_users: usize,
}

#[derive(Serialize)]
struct History<'p> {
    publications: Vec<Published<'p>>,
    #[serde(flatten)]
    place: Place,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Topic, node::ResetReason};

    fn tea() -> Topic {
        Topic::new("tea \"hot\"").expect("it is a name")
    }

    fn published(content: Content, offset: u64) -> String {
        let publication = Publication {
            topic: tea(),
            position: Position::new(offset, 0xff),
            previous: Position::new(offset - 1, 2).into(),
            content,
            except: None,
        };
        publication_text(&publication)
    }

    fn publication_text(publication: &Publication) -> String {
        super::publication(publication).to_string()
    }

    #[test]
    fn a_payload_that_is_json_stands_in_the_publication_as_it_is() {
        for text in [
            r#"{"b" : 1.50,"a":[null,-0,1e400]}"#,
            r#""\ud800 \u00e4""#,
            "12345678901234567890",
            "null",
            &format!("{}{}", "[".repeat(1000), "]".repeat(1000)),
        ] {
            let expected = format!(
                r#"{{"push":{{"channel":"tea \"hot\"","pub":{{"data":{text},"offset":46,"epoch":"000000ff"}}}}}}"#
            );
            assert_eq!(published(Content::Message(text.into()), 46), expected);
        }
    }

    #[test]
    fn any_payload_is_on_one_line_and_in_json() {
        let bytes = Message::from(vec![0xff, 0, b'{']);
        for (message, expected) in [
            ("{\n  \"a\":\r\n[1,\n2]\n}\n".into(), json!({"a": [1, 2]})),
            ("tea\nis \"ready\" κ".into(), json!("tea\nis \"ready\" κ")),
            ("".into(), json!("")),
            ("{} {}".into(), json!("{} {}")),
            ("NaN".into(), json!("NaN")),
            (bytes, json!({"b64data": "/wB7"})),
            (Message::from(&b"{}"[..]), json!({"b64data": "e30="})),
        ] {
            let text = published(Content::Message(message), 1);
            assert!(!text.contains('\n'), "{text}");
            let value: Value = serde_json::from_str(&text).expect("it is JSON");
            assert_eq!(value["push"]["pub"]["data"], expected, "{text}");
        }
    }

    #[test]
    fn no_offset_is_beyond_the_integers_of_javascript() {
        for (offset, expected) in [
            ((1 << 53) - 1, 9_007_199_254_740_991_u64),
            (1 << 53, 9_007_199_254_740_991),
            (u64::MAX, 9_007_199_254_740_991),
        ] {
            let text = published(Content::Message("1".into()), offset);
            let value: Value = serde_json::from_str(&text).expect("it is JSON");
            assert_eq!(value["push"]["pub"]["offset"], expected);
        }
    }

    #[test]
    fn joins_and_leaves_tell_who() {
        let info = json!({"user": "ann", "client": "ann"});
        for (event, content) in
            [("join", Content::Join(Member::new("ann"))), ("leave", Content::Leave(Member::new("ann")))]
        {
            let value: Value = serde_json::from_str(&published(content, 1)).expect("it is JSON");
            assert_eq!(value, json!({"push": {"channel": "tea \"hot\"", event: {"info": info}}}));
        }
    }

    fn told(notice: &Notice) -> (bool, Value) {
        let (is_left, message) = match super::notice(notice) {
            Told::Message(message) => (false, message),
            Told::Left(message) => (true, message),
            other => panic!("{other:?}"),
        };
        (is_left, serde_json::from_slice(message.as_bytes()).expect("it is JSON"))
    }

    fn subscribed(terms: Terms, recovered: bool) -> (bool, Value) {
        let request = terms.request(u32::MAX);
        told(&Notice::Subscribed { request, topic: tea(), position: Position::new(42, 1), recovered })
    }

    #[test]
    fn a_subscription_is_answered_with_a_position_and_whether_it_was_recovered() {
        let place = json!({"recoverable": true, "positioned": true, "offset": 42, "epoch": "00000001"});
        let with = |more: Value| {
            let mut value = place.clone();
            value
                .as_object_mut()
                .expect("it is one")
                .append(&mut more.as_object().expect("it is one").clone());
            (false, json!({"id": u32::MAX, "subscribe": value}))
        };
        let [first, again] = [false, true].map(|is_recovery| Terms { is_recovery, or_nothing: false });
        assert_eq!(subscribed(first, false), with(json!({})));
        assert_eq!(subscribed(again, false), with(json!({"was_recovering": true})));
        assert_eq!(subscribed(again, true), with(json!({"was_recovering": true, "recovered": true})));
        let all = Terms { is_recovery: true, or_nothing: true };
        assert_eq!(subscribed(all, true), subscribed(again, true));
        let error = json!({"code": 112, "message": "unrecoverable position"});
        assert_eq!(subscribed(all, false), (true, json!({"id": u32::MAX, "error": error})));
    }

    #[test]
    fn what_is_not_subscribed_is_told_with_a_code() {
        for (error, expected) in [
            (SubscribeError::AlreadySubscribed, json!({"code": 105, "message": "already subscribed"})),
            (
                SubscribeError::Unavailable,
                json!({"code": 100, "message": "internal server error", "temporary": true}),
            ),
            (SubscribeError::Withdrawn, json!({"code": 107, "message": "bad request"})),
        ] {
            let notice = Notice::Refused { request: 7, topic: tea(), error };
            assert_eq!(told(&notice), (false, json!({"id": 7, "error": expected})));
        }
        let reason = ResetReason::Rollback;
        let notice = Notice::Reset { topic: tea(), position: Position::new(42, 1), reason };
        let unsubscribe = json!({"code": 2500, "reason": "insufficient state"});
        let push = json!({"push": {"channel": "tea \"hot\"", "unsubscribe": unsubscribe}});
        assert_eq!(told(&notice), (true, push));
    }
}
