//! Publications as the engine keeps and delivers them.
//!
//! Kept: a letter for what it is, the connection that is left out or nothing, a line feed, and the payload. Delivered,
//! the ids of the publication and of the one before it stand in a line before that.

use bytes::Bytes;
use wireline::Message;

use crate::{ConnectionId, Content, Member, Position, Publication, Topic};

/// What is kept of a publication.
pub(super) fn encode(content: &Content, except: Option<ConnectionId>) -> Vec<u8> {
    let (kind, payload) = match content {
        Content::Message(Message::Text(text)) => (b't', text.as_bytes()),
        Content::Message(Message::Binary(bytes)) => (b'b', &bytes[..]),
        Content::Join(member) => (b'j', member.name().as_bytes()),
        Content::Leave(member) => (b'l', member.name().as_bytes()),
    };
    let except = except.map(|except| except.to_string()).unwrap_or_default();
    let mut body = Vec::with_capacity(2 + except.len() + payload.len());
    body.push(kind);
    body.extend_from_slice(except.as_bytes());
    body.push(b'\n');
    body.extend_from_slice(payload);
    body
}

/// What was delivered; `None` if it is nothing that a hub publishes.
pub(super) fn decode_delivery(topic: Topic, delivery: Bytes) -> Option<Publication> {
    let (line, body) = split_line(delivery)?;
    let (id, previous) = line.split_once(' ')?;
    decode(topic, id, previous, body)
}

/// What was kept; `None` if it is nothing that a hub publishes.
pub(super) fn decode(topic: Topic, id: &str, previous: &str, body: Bytes) -> Option<Publication> {
    let (line, payload) = split_line(body)?;
    let (kind, except) = line.split_at_checked(1)?;
    let except = match except {
        "" => None,
        except => Some(ConnectionId(u128::from_str_radix(except, 16).ok()?)),
    };
    let content = match kind {
        "b" => Content::Message(Message::Binary(payload)),
        kind => {
            let text = str::from_utf8(&payload).ok()?;
            match kind {
                "t" => Content::Message(text.into()),
                "j" => Content::Join(Member::new(text)),
                "l" => Content::Leave(Member::new(text)),
                _ => return None,
            }
        }
    };
    let (position, previous) = (decode_id(id)?, decode_id(previous)?.into());
    Some(Publication { topic, position, previous, content, except })
}

/// An entry's id: the offset and the mark, as decimal numbers.
pub(super) fn encode_id(position: Position) -> String {
    format!("{}-{}", position.offset, position.mark)
}

/// The position of an entry's id.
pub(super) fn decode_id(id: &str) -> Option<Position> {
    let (offset, mark) = id.split_once('-')?;
    Some(Position::new(offset.parse().ok()?, mark.parse().ok()?))
}

fn split_line(mut bytes: Bytes) -> Option<(String, Bytes)> {
    // The longest line: two ids of a stream, and the space between.
    const MAX_LINE: usize = 2 * 41 + 1;
    let end = bytes.iter().take(MAX_LINE + 1).position(|byte| *byte == b'\n')?;
    let line = String::from_utf8(bytes.split_to(end).into()).ok()?;
    Some((line, bytes.slice(1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic::new("tea").expect("it is a name")
    }

    #[test]
    fn what_is_delivered_is_what_was_encoded() {
        let (position, previous) = (Position::new(u64::MAX, u32::MAX), Position::new(u64::MAX - 1, 0));
        let contents = [
            Content::Message("κ\n".into()),
            Content::Message(Message::from(vec![0, 0xff, b'\n'])),
            Content::Join(Member::new("")),
            Content::Leave(Member::new("a\nb")),
        ];
        for content in contents {
            for except in [None, Some(ConnectionId(0)), Some(ConnectionId(u128::MAX))] {
                let mut delivery = format!("{} {}\n", encode_id(position), encode_id(previous)).into_bytes();
                delivery.extend(encode(&content, except));
                let publication = decode_delivery(topic(), delivery.into()).expect("it is one");
                let expected = Publication {
                    topic: topic(),
                    position,
                    previous: previous.into(),
                    content: content.clone(),
                    except,
                };
                assert_eq!(publication, expected);
            }
        }
    }

    #[test]
    fn what_no_hub_publishes_is_none() {
        for delivery in [
            "",
            "\n",
            "1-1\n",
            "1-1 0-1",
            "1-1 0-1\n",
            "1-1 0-1\nt",
            "1-1 0-1\nx\n",
            "1 0-1\nt\n",
            "1-1 0\nt\n",
            "-1-1 0-1\nt\n",
            "1-4294967296 0-1\nt\n",
            "1-1 0-1\ntx\n",
            "1-1 0-1\n\u{e9}\n",
            "1-1 0-1\n\n",
        ] {
            assert_eq!(decode_delivery(topic(), Bytes::from(delivery)), None, "{delivery:?}");
        }
        assert_eq!(decode_delivery(topic(), Bytes::from_static(b"1-1 0-1\nt\n\xff")), None);
    }
}
