//! `hub.v1`: a line of JSON, a line feed, and then the payload as its publisher sent it, text or binary.

use serde::{Deserialize, Serialize};
use wireline::{Message, Utf8Bytes};

use super::{Ending, Farewell, Refusal, code};
use crate::{
    Content, Member, Position, Publication, Topic,
    node::{Notice, ResetReason, Start, SubscribeError},
};

/// The name of the subprotocol.
pub(crate) const NAME: &str = "hub.v1";

/// Bytes of a header line. A topic's name may be escaped, and a token has a few KiB.
const MAX_HEADER_LEN: usize = 16 << 10;

/// The number of what the hub itself subscribes a connection to, and of no request.
pub(crate) const HUBS_OWN: u64 = 0;

/// Why a request has not that number.
const NOT_THE_HUBS: &str = "a request's number is 1 or more";

/// In what time, in milliseconds, clients that are told to go are to come back: they go one by one as it is.
const LEAVING_RETRY_MS: [u64; 2] = [0, 1000];

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// To be taken for somebody.
    Authenticate {
        token: Option<String>,
        /// Where it was among what is broadcast.
        broadcasts: Option<Position>,
    },
    Subscribe {
        topic: Topic,
        start: Start,
    },
    Unsubscribe {
        topic: Topic,
    },
    Publish {
        topic: Topic,
        key: Option<String>,
        echo: bool,
        message: Message,
    },
    /// Who is here?
    Who {
        topic: Topic,
    },
}

/// What a client sent is not the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("no header line of at most {MAX_HEADER_LEN} bytes")]
    Header,
    #[error("the header line is not understood: {0}")]
    Json(String),
    /// It tells its number, so that it can be answered.
    #[error("request {id} is not understood: {why}")]
    Request { id: u64, why: String },
}

#[derive(Deserialize)]
struct Header {
    id: u64,
    #[serde(flatten)]
    operation: Operation,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation {
    Auth {
        token: Option<String>,
        all: Option<String>,
    },
    Sub {
        t: String,
        since: Option<String>,
        last: Option<usize>,
    },
    Unsub {
        t: String,
    },
    Pub {
        t: String,
        key: Option<String>,
        #[serde(default = "yes")]
        echo: bool,
    },
    Who {
        t: String,
    },
}

/// What is left of a header that is not understood.
#[derive(Deserialize)]
struct Numbered {
    id: u64,
}

fn yes() -> bool {
    true
}

/// The request's number, and what is wanted.
pub(crate) fn decode(message: Message) -> Result<(u64, Command), Malformed> {
    let bytes = message.as_bytes();
    let end = bytes.iter().take(MAX_HEADER_LEN + 1).position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    if end > MAX_HEADER_LEN {
        return Err(Malformed::Header);
    }
    let header = &bytes[..end];
    let Header { id, operation } = serde_json::from_slice(header).map_err(|error| {
        let why = error.to_string();
        match serde_json::from_slice(header) {
            Ok(Numbered { id }) => Malformed::Request { id, why },
            Err(_) => Malformed::Json(why),
        }
    })?;
    let command =
        if id == HUBS_OWN { Err(NOT_THE_HUBS.into()) } else { command(operation, message, end + 1) };
    command.map(|command| (id, command)).map_err(|why| Malformed::Request { id, why })
}

/// What is wanted, with the message's bytes from `payload_start` on.
fn command(operation: Operation, message: Message, payload_start: usize) -> Result<Command, String> {
    Ok(match operation {
        Operation::Auth { token, all } => {
            Command::Authenticate { token, broadcasts: all.map(|all| position(&all)).transpose()? }
        }
        Operation::Sub { t, since, last } => {
            Command::Subscribe { topic: topic(t)?, start: start(since, last)? }
        }
        Operation::Unsub { t } => Command::Unsubscribe { topic: topic(t)? },
        Operation::Pub { t, key, echo } => {
            Command::Publish { topic: topic(t)?, key, echo, message: payload(message, payload_start) }
        }
        Operation::Who { t } => Command::Who { topic: topic(t)? },
    })
}

fn topic(name: String) -> Result<Topic, String> {
    Topic::try_from(name).map_err(|error| error.to_string())
}

fn position(text: &str) -> Result<Position, String> {
    text.parse().map_err(|_| format!("{text:?} is no position"))
}

fn start(since: Option<String>, last: Option<usize>) -> Result<Start, String> {
    Ok(match (since, last) {
        (Some(since), _) => Start::After(position(&since)?),
        (None, Some(last)) => Start::Last(last),
        (None, None) => Start::Now,
    })
}

/// The message without its header.
pub(crate) fn payload(message: Message, start: usize) -> Message {
    let is_text = message.as_text().is_some();
    let bytes = message.into_bytes();
    let payload = bytes.slice(start.min(bytes.len())..);
    if is_text && let Ok(text) = Utf8Bytes::try_from(payload.clone()) {
        return text.into();
    }
    payload.into()
}

/// What is sent for a publication, to all alike.
pub(super) fn publication(publication: &Publication) -> Message {
    let topic = &*publication.topic;
    let position = publication.position.to_string();
    match &publication.content {
        Content::Message(message) => with_payload(&line(&Published { t: topic, p: &position }), message),
        Content::Join(member) => presence("join", topic, member, &position),
        Content::Leave(member) => presence("leave", topic, member, &position),
    }
}

pub(crate) fn with_payload(header: &str, message: &Message) -> Message {
    let mut bytes = Vec::with_capacity(header.len() + 1 + message.len());
    bytes.extend_from_slice(header.as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(message.as_bytes());
    match message {
        Message::Text(_) => {
            String::from_utf8(bytes).map_or_else(|error| error.into_bytes().into(), Message::from)
        }
        Message::Binary(_) => bytes.into(),
    }
}

fn presence(event: &'static str, topic: &str, member: &Member, position: &str) -> Message {
    line(&Presence { ev: event, t: topic, who: member.name(), p: position }).into()
}

pub(super) fn notice(notice: &Notice) -> Message {
    let line = match notice {
        Notice::Subscribed { request: HUBS_OWN, topic, position, recovered } => {
            line(&SubscribedEvent { ev: "sub", t: topic, pos: &position.to_string(), recovered: *recovered })
        }
        Notice::Subscribed { request, position, recovered, .. } => {
            line(&Subscribed { re: *request, pos: &position.to_string(), recovered: *recovered })
        }
        Notice::Refused { request, error, .. } => match error {
            SubscribeError::AlreadySubscribed => return self::error(*request, "subscribed", false),
            SubscribeError::Unavailable => return self::error(*request, "unavailable", true),
            SubscribeError::Withdrawn => return self::error(*request, "unsubscribed", false),
        },
        Notice::Reset { topic, position, reason } => {
            let why = match reason {
                ResetReason::Window => "window",
                ResetReason::Rollback => "rollback",
                ResetReason::Lost => "lost",
            };
            line(&Reset { ev: "reset", t: topic, pos: &position.to_string(), why })
        }
    };
    line.into()
}

/// The answer to a request that failed; `is_temporary`: it is worth another try.
pub(crate) fn error(request: u64, code: &'static str, is_temporary: bool) -> Message {
    line(&Failed { re: request, err: Failure { code, temp: is_temporary } }).into()
}

/// The answer to a request that the hub does not do.
pub(crate) fn refused(request: u64, refusal: Refusal) -> Message {
    let code = match refusal {
        Refusal::Forbidden => "forbidden",
        Refusal::TooManySubscriptions => "too_many_subscriptions",
        Refusal::TooLarge => "too_large",
        Refusal::Unavailable => "unavailable",
    };
    error(request, code, refusal.is_temporary())
}

/// The answer to who says who it is. `silence`: seconds after which the server is heard of at the latest.
pub(crate) fn authenticated(request: u64, connection: &str, silence: u64, retry: [u64; 2]) -> Message {
    line(&Authenticated { re: request, conn: connection, ping: silence, retry }).into()
}

pub(super) fn farewell(ending: Ending) -> Farewell {
    let (word, code, reason) = match ending {
        Ending::Expired => (None, code::EXPIRED, "expired"),
        Ending::Leaving => (Some(bye(LEAVING_RETRY_MS)), code::LEAVING, "leaving"),
        Ending::TooSlow => (None, code::TOO_SLOW, "too slow"),
    };
    Farewell { word, code, reason }
}

/// The client is to go, and to come back within so many milliseconds.
fn bye(retry: [u64; 2]) -> Message {
    line(&Bye { ev: "bye", retry }).into()
}

pub(crate) fn published(request: u64, position: Position) -> Message {
    line(&Positioned { re: request, pos: &position.to_string() }).into()
}

pub(crate) fn unsubscribed(request: u64) -> Message {
    line(&Done { re: request }).into()
}

pub(crate) fn who(request: u64, members: &[Member]) -> Message {
    line(&Who { re: request, who: members.iter().map(Member::name).collect() }).into()
}

#[derive(Serialize)]
struct Published<'p> {
    t: &'p str,
    p: &'p str,
}

#[derive(Serialize)]
struct Presence<'p> {
    ev: &'static str,
    t: &'p str,
    who: &'p str,
    p: &'p str,
}

#[derive(Serialize)]
struct Subscribed<'p> {
    re: u64,
    pos: &'p str,
    recovered: bool,
}

#[derive(Serialize)]
struct SubscribedEvent<'p> {
    ev: &'static str,
    t: &'p str,
    pos: &'p str,
    recovered: bool,
}

#[derive(Serialize)]
struct Reset<'p> {
    ev: &'static str,
    t: &'p str,
    pos: &'p str,
    why: &'static str,
}

#[derive(Serialize)]
struct Failed {
    re: u64,
    err: Failure,
}

#[derive(Serialize)]
struct Failure {
    code: &'static str,
    temp: bool,
}

#[derive(Serialize)]
struct Authenticated<'p> {
    re: u64,
    conn: &'p str,
    ping: u64,
    retry: [u64; 2],
}

#[derive(Serialize)]
struct Bye {
    ev: &'static str,
    retry: [u64; 2],
}

#[derive(Serialize)]
struct Positioned<'p> {
    re: u64,
    pos: &'p str,
}

#[derive(Serialize)]
struct Done {
    re: u64,
}

#[derive(Serialize)]
struct Who<'p> {
    re: u64,
    who: Vec<&'p str>,
}

pub(crate) fn line(value: &impl Serialize) -> String {
    // Strings, numbers and lists of these always have a form in JSON.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tea() -> Topic {
        Topic::new("tea \"hot\"").expect("it is a name")
    }

    #[test]
    fn every_command_is_understood() {
        let position = Position::new(42, 0x9f3a_01c2);
        for (line, expected) in [
            (
                r#"{"op":"auth","id":1,"token":"x","all":"42.9f3a01c2"}"#,
                Command::Authenticate { token: Some("x".into()), broadcasts: Some(position) },
            ),
            (r#"{"op":"auth","id":1}"#, Command::Authenticate { token: None, broadcasts: None }),
            (
                r#"{"op":"sub","id":1,"t":"tea \"hot\"","since":"42.9f3a01c2"}"#,
                Command::Subscribe { topic: tea(), start: Start::After(position) },
            ),
            (
                r#"{"id":1,"op":"sub","t":"tea \"hot\"","last":3}"#,
                Command::Subscribe { topic: tea(), start: Start::Last(3) },
            ),
            (
                r#"{"op":"sub","id":1,"t":"tea \"hot\"","unknown":0}"#,
                Command::Subscribe { topic: tea(), start: Start::Now },
            ),
            (r#"{"op":"unsub","id":1,"t":"tea \"hot\""}"#, Command::Unsubscribe { topic: tea() }),
            (r#"{"op":"who","id":1,"t":"tea \"hot\""}"#, Command::Who { topic: tea() }),
            (
                "{\"op\":\"pub\",\"id\":1,\"t\":\"tea \\\"hot\\\"\",\"key\":\"k\",\"echo\":false}\nκ\n2",
                Command::Publish {
                    topic: tea(), key: Some("k".into()), echo: false, message: "κ\n2".into()
                },
            ),
        ] {
            assert_eq!(decode(line.into()), Ok((1, expected)), "{line}");
        }
    }

    #[test]
    fn a_binary_payload_stays_binary_and_may_be_empty() {
        let header = br#"{"op":"pub","id":7,"t":"t"}"#;
        for (payload, expected) in [(&b"\n\xff\x00"[..], vec![0xff, 0]), (b"\n", vec![]), (b"", vec![])] {
            let message = Message::from([&header[..], payload].concat());
            let Ok((7, Command::Publish { message, echo: true, key: None, .. })) = decode(message) else {
                panic!("{payload:?}");
            };
            assert_eq!(message, Message::from(expected));
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        for line in [
            "",
            "{}",
            "[]",
            r#"{"op":"sub","t":"t"}"#,
            r#"{"op":"sub","id":-1,"t":"t"}"#,
            r#"{"op":"sub","id":1,"t":"t"} and more"#,
        ] {
            assert!(matches!(decode(line.into()), Err(Malformed::Json(_))), "{line}");
        }
        for line in [
            r#"{"op":"nap","id":1}"#,
            r#"{"op":"sub","id":1}"#,
            r#"{"op":"sub","id":1,"t":""}"#,
            r#"{"op":"sub","id":1,"t":7}"#,
            r#"{"op":"sub","id":1,"t":"t","since":"42"}"#,
        ] {
            assert!(matches!(decode(line.into()), Err(Malformed::Request { id: 1, .. })), "{line}");
        }
        let hubs_own = decode(r#"{"op":"sub","id":0,"t":"t"}"#.into());
        assert_eq!(hubs_own, Err(Malformed::Request { id: 0, why: NOT_THE_HUBS.into() }));
        assert_eq!(decode(" ".repeat(MAX_HEADER_LEN + 1).into()), Err(Malformed::Header));
    }

    #[test]
    fn a_publication_is_a_line_and_its_payload() {
        let mut publication = Publication {
            topic: tea(),
            position: Position::new(46, 1),
            previous: Position::new(45, 2).into(),
            content: Content::Message("κ".into()),
            except: None,
        };
        let line = r#"{"t":"tea \"hot\"","p":"46.00000001"}"#;
        assert_eq!(super::publication(&publication), format!("{line}\nκ").into());
        publication.content = Content::Message(Message::from(vec![0xff]));
        assert_eq!(super::publication(&publication), Message::from([line.as_bytes(), b"\n\xff"].concat()));
        publication.content = Content::Join(Member::new("ann"));
        let join = r#"{"ev":"join","t":"tea \"hot\"","who":"ann","p":"46.00000001"}"#;
        assert_eq!(super::publication(&publication), join.into());
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text: String) {
            let _ = decode(Message::from(bytes));
            let _ = decode(Message::from(text));
        }

        #[test]
        fn any_topic_and_payload_arrive_as_they_were(name in "[^\\p{Cc}]{1,60}", payload: String) {
            let topic = Topic::new(&*name).expect("it is a name");
            let header = serde_json::json!({"op": "pub", "id": 1, "t": name});
            let decoded = decode(format!("{header}\n{payload}").into());
            let expected =
                Command::Publish { topic, key: None, echo: true, message: payload.into() };
            prop_assert_eq!(decoded, Ok((1, expected)));
        }
    }
}
