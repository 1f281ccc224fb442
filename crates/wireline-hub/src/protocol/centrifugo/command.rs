//! What clients send.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::{Buf as _, Bytes};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use wireline::{Message, Utf8Bytes};

use super::{Failure, Since, Terms};
use crate::{Topic, node::Start};

/// What a client sent is not the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no command")]
pub(crate) struct Malformed;

/// A line of a client's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The answer to a Ping.
    Pong,
    /// Something for the application, to which nothing is answered.
    Send,
    /// What is wanted, and the number that the answer has; or why it cannot be.
    Command(u32, Result<Command, Failure>),
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// To be taken for somebody.
    Connect {
        token: Option<String>,
    },
    Subscribe {
        topic: Topic,
        start: Start,
        terms: Terms,
    },
    Unsubscribe {
        topic: Topic,
    },
    Publish {
        topic: Topic,
        message: Message,
    },
    /// Who is here?
    Presence {
        topic: Topic,
    },
    /// How many are here?
    PresenceStats {
        topic: Topic,
    },
    /// What is kept of a topic?
    History {
        topic: Topic,
        since: Option<Since>,
        /// Publications at most; `None`: all.
        limit: Option<usize>,
        is_reverse: bool,
    },
    /// To be taken for somebody still.
    Refresh {
        token: String,
    },
    /// To be allowed to hear a topic still.
    SubRefresh {
        topic: Topic,
    },
    Ping,
}

/// The lines of a message that are not empty.
pub(crate) fn lines(message: Message) -> impl Iterator<Item = Bytes> {
    let mut rest = message.into_bytes();
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let line = rest.split_to(end);
            rest.advance(rest.len().min(1));
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
        None
    })
}

#[derive(Deserialize)]
struct Object<'l> {
    #[serde(default)]
    id: u32,
    connect: Option<Connect>,
    subscribe: Option<Subscribe>,
    unsubscribe: Option<Channel>,
    #[serde(borrow)]
    publish: Option<Publish<'l>>,
    presence: Option<Channel>,
    presence_stats: Option<Channel>,
    history: Option<History>,
    refresh: Option<Connect>,
    sub_refresh: Option<Channel>,
    ping: Option<Empty>,
    rpc: Option<Empty>,
    send: Option<Empty>,
}

#[derive(Deserialize)]
struct Connect {
    token: Option<String>,
}

#[derive(Deserialize)]
struct Channel {
    channel: String,
}

#[derive(Deserialize)]
struct Subscribe {
    channel: String,
    #[serde(default)]
    recover: bool,
    #[serde(default)]
    offset: u64,
    epoch: Option<String>,
    #[serde(default)]
    flag: u64,
    /// Of another kind than a stream of publications.
    #[serde(default)]
    r#type: u64,
    /// A filter of publications.
    tf: Option<Empty>,
}

#[derive(Deserialize)]
struct Publish<'l> {
    channel: String,
    #[serde(borrow, default, deserialize_with = "some")]
    data: Option<&'l RawValue>,
    /// Of another kind than into a stream.
    #[serde(default)]
    r#type: u64,
}

#[derive(Deserialize)]
struct History {
    channel: String,
    since: Option<Since>,
    #[serde(default)]
    limit: i64,
    #[serde(default)]
    reverse: bool,
}

#[derive(Deserialize)]
struct Empty {}

/// `null` is a value here.
fn some<'l, D: Deserializer<'l>>(deserializer: D) -> Result<Option<&'l RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Understands a line.
pub(crate) fn decode(line: &Bytes) -> Result<Line, Malformed> {
    // serde would take a list of all fields, too.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err(Malformed);
    }
    let object: Object<'_> = serde_json::from_slice(line).map_err(|_| Malformed)?;
    let requests = object.requests();
    match (object.id, requests) {
        (0, 0) => Ok(Line::Pong),
        (0, 1) if object.send.is_some() => Ok(Line::Send),
        (0, _) => Err(Malformed),
        (id, 0) => Ok(Line::Command(id, Err(Failure::MethodNotFound))),
        (id, 1) => Ok(Line::Command(id, object.command(line))),
        (id, _) => Ok(Line::Command(id, Err(Failure::BadRequest))),
    }
}

impl Object<'_> {
    /// How many things are wanted at once.
    fn requests(&self) -> usize {
        let requests = [
            self.connect.is_some(),
            self.subscribe.is_some(),
            self.unsubscribe.is_some(),
            self.publish.is_some(),
            self.presence.is_some(),
            self.presence_stats.is_some(),
            self.history.is_some(),
            self.refresh.is_some(),
            self.sub_refresh.is_some(),
            self.ping.is_some(),
            self.rpc.is_some(),
            self.send.is_some(),
        ];
        requests.into_iter().filter(|is_there| *is_there).count()
    }

    fn command(self, line: &Bytes) -> Result<Command, Failure> {
        match self {
            Self { connect: Some(Connect { token }), .. } => Ok(Command::Connect { token }),
            Self { subscribe: Some(subscribe), .. } => subscribe.command(),
            Self { unsubscribe: Some(Channel { channel }), .. } => {
                Ok(Command::Unsubscribe { topic: topic(channel)? })
            }
            Self { publish: Some(publish), .. } => publish.command(line),
            Self { presence: Some(Channel { channel }), .. } => {
                Ok(Command::Presence { topic: topic(channel)? })
            }
            Self { presence_stats: Some(Channel { channel }), .. } => {
                Ok(Command::PresenceStats { topic: topic(channel)? })
            }
            Self { history: Some(History { channel, since, limit, reverse }), .. } => {
                let limit = if limit < 0 { None } else { Some(usize::try_from(limit).unwrap_or(usize::MAX)) };
                Ok(Command::History { topic: topic(channel)?, since, limit, is_reverse: reverse })
            }
            Self { refresh: Some(Connect { token }), .. } => {
                Ok(Command::Refresh { token: token.ok_or(Failure::BadRequest)? })
            }
            Self { sub_refresh: Some(Channel { channel }), .. } => {
                Ok(Command::SubRefresh { topic: topic(channel)? })
            }
            Self { ping: Some(_), .. } => Ok(Command::Ping),
            // There is nothing that could be called.
            _ => Err(Failure::MethodNotFound),
        }
    }
}

impl Subscribe {
    fn command(self) -> Result<Command, Failure> {
        /// A bit of `flag`: who is not recovered wants an error.
        const REJECT_UNRECOVERED: u64 = 2;
        if self.r#type != 0 || self.tf.is_some() {
            return Err(Failure::NotAvailable);
        }
        let since = Since { offset: self.offset, epoch: self.epoch };
        let position = since.position().filter(|_| self.recover);
        Ok(Command::Subscribe {
            topic: topic(self.channel)?,
            start: position.map_or(Start::Now, Start::After),
            terms: Terms {
                is_recovery: self.recover,
                or_nothing: self.recover && self.flag & REJECT_UNRECOVERED != 0,
            },
        })
    }
}

impl Publish<'_> {
    fn command(self, line: &Bytes) -> Result<Command, Failure> {
        if self.r#type != 0 {
            return Err(Failure::NotAvailable);
        }
        let data = self.data.ok_or(Failure::BadRequest)?;
        let text = Utf8Bytes::try_from(line.slice_ref(data.get().as_bytes()));
        let message = text.map_err(|_| Failure::BadRequest)?.into();
        Ok(Command::Publish { topic: topic(self.channel)?, message })
    }
}

fn topic(channel: String) -> Result<Topic, Failure> {
    Topic::try_from(channel).map_err(|_| Failure::BadRequest)
}

/// Whether a token that was refused says of itself that its time is over, in seconds since 1970: then its client is to
/// get a new one. Nothing is allowed for that, so that nothing is verified.
pub(crate) fn is_expired(token: &str, now_s: u64) -> bool {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let claims = token.split('.').nth(1).and_then(|claims| BASE64_URL_SAFE_NO_PAD.decode(claims).ok());
    let claims = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok());
    claims.is_some_and(|claims| claims.exp <= now_s)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Position;

    fn tea() -> Topic {
        Topic::new("tea").expect("it is a name")
    }

    fn decode(line: &str) -> Result<Line, Malformed> {
        super::decode(&Bytes::copy_from_slice(line.as_bytes()))
    }

    fn subscribe(start: Start, is_recovery: bool, or_nothing: bool) -> Command {
        Command::Subscribe { topic: tea(), start, terms: Terms { is_recovery, or_nothing } }
    }

    #[test]
    fn every_command_is_understood() {
        let after = Start::After(Position::new(42, 0x9f3a_01c2));
        let history = |since, limit, is_reverse| Command::History { topic: tea(), since, limit, is_reverse };
        for (request, expected) in [
            (
                r#""connect":{"token":"x","name":"js","data":{"a":[]},"subs":{}}"#,
                Command::Connect { token: Some("x".into()) },
            ),
            (r#""connect":{}"#, Command::Connect { token: None }),
            (r#""subscribe":{"channel":"tea","flag":1}"#, subscribe(Start::Now, false, false)),
            (
                r#""subscribe":{"channel":"tea","recover":true,"offset":42,"epoch":"9f3a01c2"}"#,
                subscribe(after, true, false),
            ),
            (
                r#""subscribe":{"channel":"tea","recover":true,"offset":42,"epoch":"9f3a01c2","flag":3}"#,
                subscribe(after, true, true),
            ),
            (
                r#""subscribe":{"channel":"tea","offset":42,"epoch":"9f3a01c2","flag":2}"#,
                subscribe(Start::Now, false, false),
            ),
            (r#""unsubscribe":{"channel":"tea"}"#, Command::Unsubscribe { topic: tea() }),
            (
                r#""publish":{"channel":"tea","data": {"a" : "\u00e4"} }"#,
                Command::Publish { topic: tea(), message: r#"{"a" : "\u00e4"}"#.into() },
            ),
            (
                r#""publish":{"channel":"tea","data":null}"#,
                Command::Publish { topic: tea(), message: "null".into() },
            ),
            (r#""presence":{"channel":"tea"}"#, Command::Presence { topic: tea() }),
            (r#""presence_stats":{"channel":"tea"}"#, Command::PresenceStats { topic: tea() }),
            (r#""history":{"channel":"tea"}"#, history(None, Some(0), false)),
            (
                r#""history":{"channel":"tea","since":{"offset":3,"epoch":"x"},"limit":-1,"reverse":true}"#,
                history(Some(Since { offset: 3, epoch: Some("x".into()) }), None, true),
            ),
            (r#""refresh":{"token":"y"}"#, Command::Refresh { token: "y".into() }),
            (r#""sub_refresh":{"channel":"tea","token":"y"}"#, Command::SubRefresh { topic: tea() }),
            (r#""ping":{}"#, Command::Ping),
        ] {
            assert_eq!(
                decode(&format!(r#"{{"id":7,{request}}}"#)),
                Ok(Line::Command(7, Ok(expected))),
                "{request}"
            );
        }
        assert_eq!(decode("{}"), Ok(Line::Pong));
        assert_eq!(decode(r#"{"send":{"data":{}}}"#), Ok(Line::Send));
    }

    #[test]
    fn a_position_that_cannot_be_one_is_none_and_no_error() {
        for since in [
            r#""offset":42"#,
            r#""epoch":"9f3a01c2x""#,
            r#""offset":42,"epoch":"_""#,
            r#""offset":42,"epoch":"""#,
            r#""offset":42,"epoch":"9F3A01C2""#,
            r#""offset":42,"epoch":"+f3a01c2""#,
            r#""offset":42,"epoch":"1""#,
        ] {
            let line = format!(r#"{{"id":1,"subscribe":{{"channel":"tea","recover":true,{since}}}}}"#);
            assert_eq!(decode(&line), Ok(Line::Command(1, Ok(subscribe(Start::Now, true, false)))), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_told_from_what_is_none_that_there_is() {
        for line in [
            "[]",
            "[1,{},null,null,null,null,null,null,null,null,null,null,null]",
            "{",
            "tea",
            r#"{"id":-1,"ping":{}}"#,
            r#"{"id":4294967296,"ping":{}}"#,
            r#"{"id":1,"subscribe":{}}"#,
            r#"{"id":1,"subscribe":{"channel":"tea","offset":1.5}}"#,
            r#"{"id":1,"ping":{},"ping":{}}"#,
            r#"{"id":1,"ping":{}}{"id":2,"ping":{}}"#,
            r#"{"connect":{}}"#,
            r#"{"ping":{},"send":{}}"#,
        ] {
            assert_eq!(decode(line), Err(Malformed), "{line}");
        }
        let too_long = "x".repeat(256);
        for (request, failure) in [
            (r#""nap":{}"#, Failure::MethodNotFound),
            (r#""rpc":{"method":"nap","data":{}}"#, Failure::MethodNotFound),
            (r#""ping":{},"connect":{}"#, Failure::BadRequest),
            (r#""publish":{"channel":"tea"}"#, Failure::BadRequest),
            (r#""refresh":{}"#, Failure::BadRequest),
            (r#""subscribe":{"channel":""}"#, Failure::BadRequest),
            (&format!(r#""subscribe":{{"channel":"{too_long}"}}"#), Failure::BadRequest),
            (r#""subscribe":{"channel":"tea","type":1}"#, Failure::NotAvailable),
            (r#""subscribe":{"channel":"tea","tf":{"key":"a"}}"#, Failure::NotAvailable),
            (r#""publish":{"channel":"tea","type":1,"key":"a","data":1}"#, Failure::NotAvailable),
        ] {
            let line = format!(r#"{{"id":1,{request}}}"#);
            assert_eq!(decode(&line), Ok(Line::Command(1, Err(failure))), "{line}");
        }
    }

    #[test]
    fn a_message_has_any_number_of_lines() {
        let lines = |text: &str| lines(text.into()).collect::<Vec<_>>();
        assert_eq!(lines("{}\n{ }"), ["{}", "{ }"]);
        assert_eq!(lines("\n\r\n{}\n\n"), ["{}"]);
        assert_eq!(lines(""), Vec::<Bytes>::new());
    }

    #[test]
    fn a_token_that_says_that_it_is_over_is_known() {
        let token = |claims: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        assert!(is_expired(&token(r#"{"sub":"ann","exp":100}"#), 100));
        assert!(!is_expired(&token(r#"{"sub":"ann","exp":101}"#), 100));
        for other in ["", "ann", "a.b.c", "..", &token("{}")] {
            assert!(!is_expired(other, 100), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text: String) {
            for message in [Message::from(bytes), Message::from(text)] {
                for line in lines(message) {
                    let _ = super::decode(&line);
                }
            }
        }

        #[test]
        fn any_topic_and_payload_arrive_as_they_were(name in "[^\\p{Cc}]{1,60}", payload: String) {
            let line = serde_json::json!({"id": 1, "publish": {"channel": name, "data": payload}}).to_string();
            let decoded = decode(&line);
            let Ok(Line::Command(1, Ok(Command::Publish { topic, message }))) = decoded else {
                panic!("{decoded:?}");
            };
            prop_assert_eq!(&*topic, &*name);
            prop_assert_eq!(serde_json::from_slice::<String>(message.as_bytes()).expect("it is JSON"), payload);
        }
    }
}
