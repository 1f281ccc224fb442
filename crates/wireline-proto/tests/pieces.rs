//! Messages in pieces, received and sent (RFC 6455 section 5.4): of any size, in constant memory.
#![allow(clippy::unwrap_used, reason = "what is not as expected has failed the test")]

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use wireline_proto::{
    Cause, CloseCode, Config, Connection, Deflate, DeflateParameters, Event, MessageKind, Negotiated,
    Payload, Prepared, ProtocolError, Role, SendError,
    deflate::{Compressor, CompressorSettings},
};
use wireline_testkit::{
    Clock, Endpoint, Frame, Told,
    frames::{MASK, masks, pattern},
    put_together,
};
use zlib_rs::{Deflate as Deflater, DeflateConfig, DeflateFlush};

const ROLES: [Role; 2] = [Role::Client, Role::Server];

fn config() -> Config {
    Config::server().receive_in_pieces(true)
}

fn piece(kind: MessageKind, payload: impl AsRef<[u8]>, ends: [bool; 3]) -> Told {
    let [begins_message, ends_frame, ends_message] = ends;
    Told::Piece { kind, payload: payload.as_ref().to_vec(), begins_message, ends_frame, ends_message }
}

fn binary(payload: impl AsRef<[u8]>, ends: [bool; 3]) -> Told {
    piece(MessageKind::Binary, payload, ends)
}

/// An endpoint that has received these frames of its peer.
fn received(role: Role, config: Config, frames: &[Frame]) -> Endpoint {
    let now = Clock::new().now();
    let mut endpoint = Endpoint::new(role, config, now);
    let peer = endpoint.peer();
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.sent_by(peer)).collect();
    endpoint.receive(&bytes, now);
    endpoint.transmit();
    endpoint
}

// Receiving.

#[test]
fn each_frame_is_a_piece_where_it_comes_whole() {
    for role in ROLES {
        let frames = [
            Frame::new(0x2, "one").more(),
            Frame::ping("between"),
            Frame::new(0x0, "").more(),
            Frame::continuation("two"),
            Frame::text("whole"),
        ];
        let expected = [
            binary("one", [true, true, false]),
            Told::ping("between"),
            binary("", [false, true, false]),
            binary("two", [false, true, true]),
            piece(MessageKind::Text, "whole", [true, true, true]),
        ];
        assert_eq!(received(role, config(), &frames).events, expected);
    }
}

#[test]
fn part_of_a_frame_is_given_before_the_rest_has_come() {
    let now = Clock::new().now();
    let mut endpoint = Endpoint::new(Role::Server, config(), now);
    let bytes = Frame::binary("abcdef").masked(MASK).bytes();
    let header = bytes.len() - 6;
    endpoint.receive(&bytes[..header], now);
    assert_eq!(endpoint.events, []);
    endpoint.receive(&bytes[header..header + 3], now);
    assert_eq!(endpoint.events, [binary("abc", [true, false, false])]);
    endpoint.receive(&bytes[header + 3..], now);
    assert_eq!(endpoint.events[1..], [binary("def", [false, true, true])]);
}

#[test]
fn message_of_any_size_is_taken_and_nothing_of_it_kept() {
    for role in ROLES {
        let config = config().max_message_size(10).max_fragments(2);
        let frames: Vec<Frame> = std::iter::once(Frame::new(0x2, [1; 100]).more())
            .chain((0..50).map(|_| Frame::new(0x0, [1; 100]).more()))
            .collect();
        let endpoint = received(role, config, &frames);
        assert_eq!(endpoint.events.len(), 51);
        assert!(endpoint.connection.is_open());
        // A length that no memory could hold is only a number.
        let endless = received(role, self::config(), &[Frame::binary("").declaring(i64::MAX as u64)]);
        assert!(endless.connection.is_open());
    }
}

#[test]
fn frame_beyond_its_own_limit_is_refused_in_pieces_too() {
    for role in ROLES {
        let endpoint = received(role, config().max_frame_size(99), &[Frame::binary([1; 100])]);
        let cause = endpoint.outcome().and_then(|closed| closed.cause);
        assert_eq!(cause, Some(Cause::Protocol(ProtocolError::FrameTooBig { announced: 100, limit: 99 })));
    }
}

#[test]
fn text_fails_at_the_first_wrong_byte_whatever_was_given_before() {
    for role in ROLES {
        // The first two bytes of a character of three, and then another character.
        for (first, second) in [("\u{20ac}".as_bytes().split_at(2).0, "a"), (b"ok".as_slice(), "\u{ff}")] {
            let second = if second == "a" { b"a".to_vec() } else { vec![0xff] };
            let frames = [Frame::new(0x1, first).more(), Frame::continuation(second)];
            let endpoint = received(role, config(), &frames);
            let cause = endpoint.outcome().and_then(|closed| closed.cause);
            assert_eq!(endpoint.events[0], piece(MessageKind::Text, first, [true, true, false]));
            assert_eq!(cause, Some(Cause::Protocol(ProtocolError::InvalidUtf8)));
        }
    }
}

#[test]
fn application_that_has_no_room_for_a_message_fails_the_connection_with_1009() {
    for role in ROLES {
        let mut endpoint = received(role, config(), &[Frame::new(0x2, [1; 100]).more()]);
        endpoint.connection.refuse_message(100, 64, Clock::new().now());
        let sent = endpoint.transmit();
        assert_eq!(sent, Frame::close(CloseCode::MESSAGE_TOO_BIG.into(), "").sent_by(role));
        let cause = endpoint.outcome().and_then(|closed| closed.cause);
        assert_eq!(cause, Some(Cause::Protocol(ProtocolError::MessageTooBig { announced: 100, limit: 64 })));
    }
}

// Receiving what is compressed.

fn compressor() -> Compressor {
    Compressor::new(CompressorSettings { level: 6, window_bits: 12, memory_level: 5 })
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    assert!(compressor().compress(message, &mut compressed), "it is not smaller");
    compressed
}

fn compressed_endpoint(role: Role, takeover: bool) -> Endpoint {
    let parameters = DeflateParameters {
        server_no_context_takeover: !takeover,
        client_no_context_takeover: !takeover,
        ..DeflateParameters::default()
    };
    let negotiated = Negotiated::assume_negotiated(role, None).with_deflate(parameters);
    let config = config().deflate(Deflate::server().receive_window_bits(12));
    Endpoint::negotiated(negotiated, config, Clock::new().now())
}

#[test]
fn compressed_bomb_comes_in_pieces_of_bounded_size() {
    for role in ROLES {
        let bomb = deflated(&vec![0; 8 << 20]);
        let now = Clock::new().now();
        let mut endpoint = compressed_endpoint(role, true);
        let bytes = Frame::binary(&bomb).rsv(0b100).sent_by(endpoint.peer());
        endpoint.receive(&bytes, now);
        let sizes = endpoint.events.iter().map(|told| match told {
            Told::Piece { payload, .. } => payload.len(),
            other => panic!("{other:?}"),
        });
        assert!(sizes.clone().max().unwrap() <= 256 << 10, "{:?}", sizes.max());
        assert_eq!(sizes.sum::<usize>(), 8 << 20);
        assert_eq!(endpoint.connection.deflate_totals().unwrap().received, 8 << 20);
    }
}

proptest! {
    #[test]
    fn compressed_messages_come_in_pieces_whatever_the_cuts_and_refer_to_each_other(
        role in prop::sample::select(&ROLES),
        takeover in any::<bool>(),
        lens in prop::collection::vec(20..9_000_usize, 1..6),
        fragment in 1..4_000_usize,
        reads in prop::collection::vec(prop_oneof![1..9_usize, 1..9_000_usize], 1..6),
    ) {
        let now = Clock::new().now();
        let mut receiver = compressed_endpoint(role, takeover);
        // The other end, whose messages refer to each other if they may.
        let parameters = DeflateParameters {
            server_no_context_takeover: !takeover,
            client_no_context_takeover: !takeover,
            ..DeflateParameters::default()
        };
        let negotiated = Negotiated::assume_negotiated(receiver.peer(), None).with_deflate(parameters);
        let config = Config::server().deflate(Deflate::server().threshold(0)).fragment_size(fragment);
        let mut sender = Endpoint::negotiated(negotiated, config, now);
        let mut expected = Vec::new();
        for len in lens {
            let message = [&b"the beginning that all have, "[..], &pattern(len)].concat();
            sender.connection.send_slice(MessageKind::Binary, &message).unwrap();
            expected.push(Told::binary(&message));
        }
        let bytes = sender.transmit();
        let mut rest = &bytes[..];
        for size in reads.iter().cycle() {
            let (front, behind) = rest.split_at(rest.len().min(*size));
            receiver.receive(front, now);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(put_together(receiver.events), expected);
    }
}

#[test]
fn last_blocks_within_a_message_refer_back_in_pieces_too() {
    // A last block, then a block that refers back to it (RFC 7692 section 7.2.3.4).
    let stored = |last: u8, bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).unwrap();
        [&[last][..], &len.to_le_bytes(), &(!len).to_le_bytes(), bytes].concat()
    };
    let text = b"text that a later block refers back to";
    let mut deflate =
        Deflater::new_with_config(DeflateConfig { window_bits: -12, ..DeflateConfig::default() });
    deflate.set_dictionary(text).unwrap();
    let mut block = [0; 64];
    deflate.compress(text, &mut block, DeflateFlush::SyncFlush).unwrap();
    let len = usize::try_from(deflate.total_out()).unwrap();
    assert!(len < 20, "it does not refer back: {len} bytes");
    let payload = [&stored(1, text), &block[..len - 4]].concat();
    for takeover in [true, false] {
        let now = Clock::new().now();
        let mut endpoint = compressed_endpoint(Role::Client, takeover);
        for byte in Frame::binary(&payload).rsv(0b100).bytes() {
            endpoint.receive(&[byte], now);
        }
        assert_eq!(put_together(endpoint.events), [Told::binary([text, &text[..]].concat())]);
    }
}

// Sending.

#[test]
fn pieces_are_frames_of_one_message() {
    for role in ROLES {
        let mut endpoint = received(role, Config::server(), &[]);
        let connection = &mut endpoint.connection;
        connection.send_piece(MessageKind::Text, Bytes::from_static(b"a"), false).unwrap();
        assert!(connection.is_message_under_way());
        connection.ping(b"between").unwrap();
        connection.send_piece(MessageKind::Text, Bytes::new(), false).unwrap();
        connection.send_piece(MessageKind::Text, pattern(5_000).escape_ascii().collect(), false).unwrap();
        connection.send_piece(MessageKind::Text, Bytes::new(), true).unwrap();
        assert!(!connection.is_message_under_way());
        let long: Vec<u8> = pattern(5_000).escape_ascii().collect();
        let frames = [
            Frame::new(0x1, "a").more(),
            Frame::ping("between"),
            Frame::new(0x0, "").more(),
            Frame::new(0x0, long).more(),
            Frame::continuation(""),
        ];
        let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.sent_by(role)).collect();
        assert_eq!(endpoint.transmit(), expected);
    }
}

#[test]
fn no_piece_is_larger_than_a_frame_may_be() {
    let mut endpoint = received(Role::Server, Config::server().fragment_size(2), &[]);
    endpoint.connection.send_piece(MessageKind::Binary, Bytes::from_static(b"abc"), false).unwrap();
    endpoint.connection.send_piece(MessageKind::Binary, Bytes::from_static(b"defg"), true).unwrap();
    let frames = [
        Frame::new(0x2, "ab").more(),
        Frame::new(0x0, "c").more(),
        Frame::new(0x0, "de").more(),
        Frame::continuation("fg"),
    ];
    let expected: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
    assert_eq!(endpoint.transmit(), expected);
}

#[test]
fn no_other_message_goes_between_pieces() {
    for role in ROLES {
        let mut endpoint = received(role, Config::server(), &[]);
        let connection = &mut endpoint.connection;
        connection.send_piece(MessageKind::Binary, Bytes::from_static(b"a"), false).unwrap();
        let queued = connection.pending_transmit();
        let other = connection.send(MessageKind::Binary, Bytes::from_static(b"b"));
        assert_eq!(other, Err(SendError::MessageUnderWay));
        assert_eq!(connection.send_slice(MessageKind::Text, b"b"), Err(SendError::MessageUnderWay));
        let prepared = Prepared::new(MessageKind::Text, Bytes::from_static(b"b"));
        assert_eq!(connection.send_prepared(&prepared), Err(SendError::MessageUnderWay));
        let kind = connection.send_piece(MessageKind::Text, Bytes::new(), true);
        assert_eq!(kind, Err(SendError::MessageUnderWay));
        assert_eq!(connection.pending_transmit(), queued);
        connection.send_piece(MessageKind::Binary, Bytes::new(), true).unwrap();
        connection.send(MessageKind::Binary, Bytes::from_static(b"b")).unwrap();
    }
}

#[test]
fn text_in_pieces_must_be_utf8_as_a_whole() {
    let mut endpoint = received(Role::Server, Config::server(), &[]);
    let connection = &mut endpoint.connection;
    let mut send =
        |bytes: &'static [u8], fin| connection.send_piece(MessageKind::Text, Bytes::from_static(bytes), fin);
    send(&[0xe2], false).unwrap();
    send(&[0x82], false).unwrap();
    assert_eq!(send(b"", true), Err(SendError::InvalidUtf8));
    send(&[0xac], true).unwrap();
    assert_eq!(send(&[0xff], true), Err(SendError::InvalidUtf8));
}

#[test]
fn a_compressed_piece_holds_no_more_than_it_shows() {
    let now = Clock::new().now();
    let negotiated =
        Negotiated::assume_negotiated(Role::Server, None).with_deflate(Some(DeflateParameters::default()));
    let config = config().deflate(Deflate::server());
    let mut connection = Connection::new(negotiated, Arc::new(config), masks, now);
    // Blocks that stand for nothing, and at their end one for a byte.
    let payload = [&[0, 0, 0, 0xFF, 0xFF].repeat(800)[..], &[0, 1, 0, 0xFE, 0xFF, b'x']].concat();
    let (mut shown, mut held) = (0, 0);
    for round in 0..100 {
        let frame =
            if round == 0 { Frame::new(0x2, &payload).rsv(0b100) } else { Frame::continuation(&payload) };
        let mut bytes = frame.more().masked(MASK).bytes();
        let mut input = &mut bytes[..];
        while let Some(event) = connection.receive(&mut input, now) {
            let Event::Piece(piece) = event else { panic!("{event:?}") };
            let Payload::Owned(payload) = piece.payload else { panic!("it was inflated") };
            shown += payload.len();
            held += payload.capacity();
        }
    }
    assert_eq!(shown, 100);
    assert!(held <= 100 * 64, "{held} bytes for {shown}");
}
