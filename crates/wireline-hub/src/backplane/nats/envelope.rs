//! A publication as a message of the broker's: its payload as it is, and the rest in one header.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use wireline::{Message, Utf8Bytes};

use crate::{ConnectionId, Content, History, Member, Outgoing, Position, Predecessor, Publication, Topic};

/// The header, as `mark kind messages bytes age-in-milliseconds except`.
const ENVELOPE: &str = "Wireline";

/// What a message says of its publication beside the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) mark: u32,
    kind: Kind,
    /// What the publisher wants to be kept of the topic, this publication included.
    pub(super) history: History,
    except: Option<ConnectionId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
    Join,
    Leave,
}

const KINDS: [(Kind, &str); 4] =
    [(Kind::Text, "text"), (Kind::Binary, "binary"), (Kind::Join, "join"), (Kind::Leave, "leave")];

/// A publication's headers and payload.
pub(super) fn seal(outgoing: Outgoing, history: History, mark: u32) -> (HeaderMap, Bytes) {
    let (kind, payload) = match outgoing.content {
        Content::Message(Message::Text(text)) => (Kind::Text, Message::Text(text).into_bytes()),
        Content::Message(Message::Binary(bytes)) => (Kind::Binary, bytes),
        Content::Join(member) => (Kind::Join, Bytes::copy_from_slice(member.name().as_bytes())),
        Content::Leave(member) => (Kind::Leave, Bytes::copy_from_slice(member.name().as_bytes())),
    };
    let mut headers = HeaderMap::new();
    headers.insert(ENVELOPE, Envelope { mark, kind, history, except: outgoing.except }.to_string());
    (headers, payload)
}

/// What the headers say; `None` if it is no publication of a hub's.
pub(super) fn envelope(headers: &HeaderMap) -> Option<Envelope> {
    Envelope::parse(headers.get(ENVELOPE)?.as_str())
}

/// The publication that a message is.
pub(super) fn open(
    topic: &Topic,
    sequence: u64,
    previous: Predecessor,
    headers: &HeaderMap,
    payload: Bytes,
) -> Option<Publication> {
    let Envelope { mark, kind, except, .. } = envelope(headers)?;
    let text = |payload: Bytes| String::from_utf8(payload.into()).ok();
    let content = match kind {
        Kind::Text => Content::Message(Utf8Bytes::try_from(payload).ok()?.into()),
        Kind::Binary => Content::Message(payload.into()),
        Kind::Join => Content::Join(Member::new(text(payload)?)),
        Kind::Leave => Content::Leave(Member::new(text(payload)?)),
    };
    let position = Position::new(sequence, mark);
    Some(Publication { topic: topic.clone(), position, previous, content, except })
}

impl Envelope {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mark = u32::from_str_radix(words.next()?, 16).ok()?;
        let word = words.next()?;
        let (kind, _) = KINDS.into_iter().find(|(_, name)| *name == word)?;
        let (messages, bytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let age = Duration::from_millis(words.next()?.parse().ok()?);
        let except = match words.next()? {
            "-" => None,
            id => Some(ConnectionId(u128::from_str_radix(id, 16).ok()?)),
        };
        Some(Self { mark, kind, history: History { messages, bytes, age }, except })
    }
}

impl std::fmt::Display for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = KINDS.into_iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, name)| name);
        let History { messages, bytes, age } = self.history;
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        write!(f, "{:08x} {kind} {messages} {bytes} {age_ms} ", self.mark)?;
        match self.except {
            Some(id) => write!(f, "{id}"),
            None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_as_it_was() {
        let topic = Topic::new("tea").expect("it is a name");
        let contents = [
            Content::Message("κ\n".into()),
            Content::Message(Message::from(vec![0, 0xff])),
            Content::Join(Member::new("ann")),
            Content::Leave(Member::new("")),
        ];
        for content in contents {
            for except in [None, Some(ConnectionId(u128::MAX))] {
                let id = crate::PublicationId::random();
                let outgoing = Outgoing { id, content: content.clone(), except };
                let history = History { messages: usize::MAX, bytes: 0, age: Duration::from_millis(7) };
                let (headers, payload) = seal(outgoing, history, 7);
                assert_eq!(envelope(&headers).map(|envelope| envelope.history), Some(history));
                let previous = Predecessor { offset: 3, mark: None };
                let publication = open(&topic, 4, previous, &headers, payload).expect("it is one");
                assert_eq!(publication.position, Position::new(4, 7));
                assert_eq!((publication.content, publication.except), (content.clone(), except));
            }
        }
    }

    #[test]
    fn what_is_no_publication_is_not_taken_for_one() {
        for text in ["", "7", "7 text 1 1 1", "x text 1 1 1 -", "7 song 1 1 1 -", "7 text 1 1 -1 -"] {
            assert_eq!(Envelope::parse(text), None, "{text:?}");
        }
    }
}
