//! RFC 6455 by section, from both roles: literal bytes in, events and literal bytes out.
//!
//! Every test gives its bytes whole and then one by one; `chunking.rs` tries all other cuts.

use wireline_proto::{
    Cause, CloseCode, CloseFrame, CloseFrameError, Closed, Config, Initiator, MessageKind, ProtocolError,
    Role, SendError, frame::FrameError,
};
use wireline_testkit::{
    Clock, Endpoint, Frame, LengthForm, Told,
    frames::{self, MASK, pattern},
};

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// Far more than any test here needs, so that no limit is met by accident.
fn config() -> Config {
    Config::client()
}

fn endpoint(role: Role) -> Endpoint {
    Endpoint::new(role, config(), Clock::new().now())
}

fn peer(role: Role) -> Role {
    endpoint(role).peer()
}

/// What the peer of `role` puts on the wire for these frames.
fn wire(role: Role, frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.sent_by(peer(role))).collect()
}

/// What an endpoint told and transmitted for `bytes`, given whole; and that it is the same for single
/// bytes.
fn exchange(role: Role, bytes: &[u8]) -> (Endpoint, Vec<u8>) {
    let now = Clock::new().now();
    let mut whole = Endpoint::new(role, config(), now);
    whole.receive(bytes, now);
    let transmitted = whole.transmit();
    let mut single = Endpoint::new(role, config(), now);
    bytes.chunks(1).for_each(|byte| single.receive(byte, now));
    assert_eq!(single.transmit(), transmitted, "{role:?}: other bytes out for single bytes in");
    assert_eq!(single.events, whole.events, "{role:?}: other events for single bytes in");
    (whole, transmitted)
}

/// Both roles tell `events` for `frames`, answer with `answers`, and stay open.
#[track_caller]
fn accepts(frames: &[Frame], events: &[Told], answers: &[Frame]) {
    for role in ROLES {
        let (endpoint, transmitted) = exchange(role, &wire(role, frames));
        assert_eq!(endpoint.events, events, "{role:?}");
        assert_eq!(transmitted, answers.iter().flat_map(|frame| frame.sent_by(role)).collect::<Vec<u8>>());
        assert!(endpoint.connection.is_open(), "{role:?}");
    }
}

/// The role tells `before`, then fails the connection for `error`: a Close frame with `code`, nothing
/// after it, and an outcome that names the error.
#[track_caller]
fn fails_on(role: Role, bytes: &[u8], before: &[Told], error: ProtocolError, code: u16) {
    let trailing = Frame::text("after the failure").sent_by(peer(role));
    let (mut endpoint, transmitted) = exchange(role, &[bytes, &trailing[..]].concat());
    let closed = Closed {
        was_clean: false,
        code: CloseCode::ABNORMAL,
        reason: String::new(),
        initiator: Initiator::Library,
        cause: Some(Cause::Protocol(error)),
    };
    let (last, earlier) = endpoint.events.split_last().expect("the end is told");
    assert_eq!(last, &Told::Closed(closed), "{role:?} {bytes:x?}");
    assert_eq!(earlier, before, "{role:?} {bytes:x?}");
    let close = Frame::close(code, "").sent_by(role);
    assert!(transmitted.ends_with(&close), "{role:?} {bytes:x?}: transmitted {transmitted:x?}");
    assert_eq!(error.close_code(), code);
    assert!(endpoint.connection.is_shutdown_expected(), "{role:?}");
    assert_eq!(endpoint.connection.send_slice(MessageKind::Text, b"late"), Err(SendError::Closed));
    assert_eq!(endpoint.transmit(), [], "{role:?}");
}

#[track_caller]
fn fails(frames: &[Frame], error: impl Into<ProtocolError>, code: u16) {
    let error = error.into();
    for role in ROLES {
        fails_on(role, &wire(role, frames), &[], error, code);
    }
}

fn clean(code: u16, reason: &str, initiator: Initiator) -> Told {
    Told::Closed(Closed { was_clean: true, code: code.into(), reason: reason.into(), initiator, cause: None })
}

// Section 5.1: masking.

#[test]
fn server_fails_on_an_unmasked_frame_of_any_kind() {
    for frame in [
        Frame::text("hi"),
        Frame::binary(""),
        Frame::continuation("x"),
        Frame::ping(""),
        Frame::close(1000, ""),
    ] {
        fails_on(Role::Server, &frame.bytes(), &[], ProtocolError::UnmaskedFrame, 1002);
    }
}

#[test]
fn client_fails_on_a_masked_frame_of_any_kind() {
    for frame in [
        Frame::text("hi"),
        Frame::binary(""),
        Frame::continuation("x"),
        Frame::pong(""),
        Frame::close(1000, ""),
    ] {
        for key in [MASK, [0; 4]] {
            let bytes = frame.clone().masked(key).bytes();
            fails_on(Role::Client, &bytes, &[], ProtocolError::MaskedFrame, 1002);
        }
    }
}

#[test]
fn masking_is_checked_before_the_payload_comes() {
    for (role, frame, error) in [
        (Role::Server, Frame::binary("").declaring(1000), ProtocolError::UnmaskedFrame),
        (Role::Client, Frame::binary("").declaring(1000).masked(MASK), ProtocolError::MaskedFrame),
    ] {
        let now = Clock::new().now();
        let mut endpoint = Endpoint::new(role, config(), now);
        endpoint.receive(&frame.header(), now);
        endpoint.transmit();
        assert_eq!(endpoint.outcome().and_then(|closed| closed.cause), Some(Cause::Protocol(error)));
    }
}

// Section 5.2: the base framing.

#[test]
fn every_length_form_is_read_and_written_at_its_borders() {
    for len in [0, 1, 124, 125, 126, 127, 128, 65_534, 65_535, 65_536, 65_537] {
        let payload = pattern(len);
        for role in ROLES {
            let (mut endpoint, _) = exchange(role, &wire(role, &[Frame::binary(&payload)]));
            assert_eq!(endpoint.events, [Told::binary(&payload)], "{role:?} {len}");
            endpoint.connection.send_slice(MessageKind::Binary, &payload).unwrap();
            assert_eq!(endpoint.transmit(), Frame::binary(&payload).sent_by(role), "{role:?} {len}");
            endpoint.connection.send(MessageKind::Binary, payload.clone().into()).unwrap();
            assert_eq!(endpoint.transmit(), Frame::binary(&payload).sent_by(role), "{role:?} {len}");
        }
    }
}

#[test]
fn length_that_has_a_shorter_form_is_a_protocol_error() {
    for (len, form) in [
        (0, LengthForm::Medium),
        (125, LengthForm::Medium),
        (0, LengthForm::Long),
        (65_535, LengthForm::Long),
    ] {
        let frame = Frame::binary(vec![0; len]).length_form(form);
        fails(&[frame], FrameError::OverlongLength, 1002);
    }
}

#[test]
fn length_with_the_top_bit_set_is_a_protocol_error() {
    for len in [1 << 63, (1 << 63) + 5, u64::MAX] {
        fails(&[Frame::binary("x").declaring(len)], FrameError::LengthTopBit, 1002);
    }
}

#[test]
fn reserved_bits_are_protocol_errors_on_every_frame() {
    for opcode in [0x0, 0x1, 0x2, 0x8, 0x9, 0xA] {
        for rsv in 0b001..=0b111 {
            let error = match rsv {
                0b100 => ProtocolError::ReservedBit1,
                _ => FrameError::ReservedBits.into(),
            };
            fails(&[Frame::new(opcode, "").rsv(rsv)], error, 1002);
        }
    }
}

#[test]
fn reserved_bit_on_a_continuation_is_a_protocol_error() {
    for rsv in [0b100, 0b010, 0b001] {
        let error = if rsv == 0b100 { ProtocolError::ReservedBit1 } else { FrameError::ReservedBits.into() };
        fails(&[Frame::text("a").more(), Frame::continuation("b").rsv(rsv)], error, 1002);
    }
}

#[test]
fn reserved_opcodes_are_protocol_errors() {
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        fails(&[Frame::new(opcode, "payload")], FrameError::ReservedOpcode(opcode), 1002);
        fails(&[Frame::new(opcode, "").more()], FrameError::ReservedOpcode(opcode), 1002);
        // The size of the payload does not matter: it is not waited for.
        fails(&[Frame::new(opcode, "").declaring(1 << 40)], FrameError::ReservedOpcode(opcode), 1002);
    }
}

#[test]
fn first_byte_that_is_wrong_fails_without_the_second() {
    let now = Clock::new().now();
    for byte in [0x90, 0xA0, 0x83, 0x8B, 0x08, 0x09, 0x0A] {
        for role in ROLES {
            let mut endpoint = Endpoint::new(role, config(), now);
            endpoint.receive(&[byte], now);
            assert_eq!(endpoint.transmit(), Frame::close(1002, "").sent_by(role), "{role:?} {byte:#x}");
        }
    }
}

// Section 5.3: client-to-server masking.

#[test]
fn client_draws_a_new_key_for_every_frame_and_masks_with_it() {
    use std::cell::Cell;
    thread_local!(static DRAWN: Cell<u8> = const { Cell::new(0) });
    let negotiated = wireline_proto::Negotiated::assume_negotiated(Role::Client, None);
    let draw = || {
        DRAWN.set(DRAWN.get() + 1);
        [DRAWN.get(), 0xAA, 0x55, 0xFF]
    };
    let clock = Clock::new();
    let connection =
        wireline_proto::Connection::new(negotiated, config().fragment_size(5_000).into(), draw, clock.now());
    let mut client = Endpoint { connection, events: Vec::new() };
    client.connection.send_slice(MessageKind::Text, b"one").unwrap();
    client.connection.ping(b"two").unwrap();
    let large = vec![7; 10_001];
    client.connection.send(MessageKind::Binary, large.into()).unwrap();
    client.receive(&Frame::ping("six").bytes(), clock.now());
    client.connection.close(None, Initiator::User, clock.now());
    let sent = Frame::read_all(&client.transmit());
    let keys: Vec<_> = sent.iter().map(|frame| frame.mask.unwrap()).collect();
    assert_eq!(keys, (1..=7).map(|count| [count, 0xAA, 0x55, 0xFF]).collect::<Vec<_>>());
    let payloads: Vec<_> = sent.into_iter().map(|frame| frame.payload).collect();
    let expected: [&[u8]; 7] = [b"one", b"two", &[7; 5_000], &[7; 5_000], &[7; 1], b"six", b""];
    assert_eq!(payloads, expected);
}

#[test]
fn masking_a_shared_payload_leaves_the_other_owner_its_bytes() {
    let payload = bytes::Bytes::from(vec![b'x'; 10_000]);
    for size in [None, Some(4_096)] {
        let now = Clock::new().now();
        let mut client = Endpoint::new(Role::Client, config().fragment_size(size), now);
        client.connection.send(MessageKind::Binary, payload.clone()).unwrap();
        client.connection.send(MessageKind::Binary, payload.slice(1..)).unwrap();
        let sent: usize = Frame::read_all(&client.transmit())
            .iter()
            .map(|frame| frame.payload.iter().filter(|byte| **byte == b'x').count())
            .sum();
        assert_eq!(sent, 19_999);
        assert!(payload.iter().all(|byte| *byte == b'x'));
    }
}

// Section 5.4: fragmentation.

#[test]
fn fragments_make_one_message() {
    let frames = [
        Frame::text("Hel").more(),
        Frame::continuation("").more(),
        Frame::continuation("lo").more(),
        Frame::continuation(""),
        Frame::binary([0xFF]).more(),
        Frame::continuation([0xFE]),
        Frame::text("").more(),
        Frame::continuation(""),
    ];
    accepts(&frames, &[Told::text("Hello"), Told::binary([0xFF, 0xFE]), Told::text("")], &[]);
}

#[test]
fn control_frames_between_fragments_are_told_and_answered_before_the_message() {
    let frames = [
        Frame::text("a").more(),
        Frame::ping("1"),
        Frame::continuation("b").more(),
        Frame::pong("2"),
        Frame::ping("3"),
        Frame::continuation("c"),
    ];
    let events = [Told::ping("1"), Told::pong("2"), Told::ping("3"), Told::text("abc")];
    accepts(&frames, &events, &[Frame::pong("1"), Frame::pong("3")]);
}

#[test]
fn control_frame_within_a_split_character_leaves_it_whole() {
    let [first, second] = [[0xE2, 0x82], [0xAC, 0x21]];
    let frames = [Frame::text(first).more(), Frame::ping([0xFF]), Frame::continuation(second)];
    accepts(&frames, &[Told::ping([0xFF]), Told::text("€!")], &[Frame::pong([0xFF])]);
}

#[test]
fn continuation_of_nothing_is_a_protocol_error() {
    fails(&[Frame::continuation("x")], ProtocolError::UnexpectedContinuation, 1002);
    fails(&[Frame::continuation("x").more()], ProtocolError::UnexpectedContinuation, 1002);
    for role in ROLES {
        let ended = [Frame::text("a").more(), Frame::continuation("b"), Frame::continuation("c")];
        let error = ProtocolError::UnexpectedContinuation;
        fails_on(role, &wire(role, &ended), &[Told::text("ab")], error, 1002);
        let whole = [Frame::binary("a"), Frame::continuation("b").more()];
        fails_on(role, &wire(role, &whole), &[Told::binary("a")], error, 1002);
    }
}

#[test]
fn message_within_a_message_is_a_protocol_error() {
    for first in [Frame::text("a"), Frame::binary("")] {
        for second in
            [Frame::text("b"), Frame::binary("b"), Frame::text("b").more(), Frame::binary("").more()]
        {
            fails(&[first.clone().more(), second], ProtocolError::ContinuationExpected, 1002);
        }
    }
}

#[test]
fn messages_before_a_broken_frame_are_told() {
    for role in ROLES {
        let frames = [Frame::text("good"), Frame::ping("p"), Frame::new(0x3, "bad")];
        let before = [Told::text("good"), Told::ping("p")];
        fails_on(role, &wire(role, &frames), &before, FrameError::ReservedOpcode(3).into(), 1002);
        let (_, transmitted) = exchange(role, &wire(role, &frames));
        assert_eq!(Frame::read_all(&transmitted).len(), 2, "the Ping is answered, then Close");
    }
}

#[test]
fn messages_are_sent_in_frames_of_the_configured_size() {
    for (size, len, sizes) in [
        (10, 0, &[0][..]),
        (10, 10, &[10]),
        (10, 11, &[10, 1]),
        (3, 9, &[3, 3, 3]),
        (5_000, 10_001, &[5_000, 5_000, 1]),
    ] {
        for role in ROLES {
            let mut endpoint = Endpoint::new(role, config().fragment_size(size), Clock::new().now());
            let payload = vec![b'x'; len];
            for by_reference in [false, true] {
                if by_reference {
                    endpoint.connection.send(MessageKind::Text, payload.clone().into()).unwrap();
                } else {
                    endpoint.connection.send_slice(MessageKind::Text, &payload).unwrap();
                }
                let sent = Frame::read_all(&endpoint.transmit());
                assert_eq!(sent.iter().map(|frame| frame.payload.len()).collect::<Vec<_>>(), sizes);
                for (index, frame) in sent.iter().enumerate() {
                    assert_eq!(frame.opcode, if index == 0 { 0x1 } else { 0x0 });
                    assert_eq!(frame.fin, index == sizes.len() - 1);
                }
            }
        }
    }
}

/// The setter keeps it at 1 or more; the field is open to all.
#[test]
fn frame_size_of_zero_is_as_good_as_one() {
    let mut config = config();
    config.fragment_size = Some(0);
    let mut server = Endpoint::new(Role::Server, config, Clock::new().now());
    server.connection.send_slice(MessageKind::Text, b"ab").unwrap();
    let expected = [Frame::text("a").more(), Frame::continuation("b")];
    assert_eq!(Frame::read_all(&server.transmit()), expected);
}

// Section 5.5: control frames.

#[test]
fn fragmented_control_frame_is_a_protocol_error() {
    for opcode in [0x8, 0x9, 0xA] {
        fails(&[Frame::new(opcode, "").more()], FrameError::FragmentedControlFrame, 1002);
        let within = [Frame::text("a").more(), Frame::new(opcode, "b").more()];
        fails(&within, FrameError::FragmentedControlFrame, 1002);
    }
}

#[test]
fn control_frame_of_126_bytes_is_a_protocol_error() {
    for opcode in [0x8, 0x9, 0xA] {
        fails(&[Frame::new(opcode, [b'x'; 126])], FrameError::OversizedControlFrame, 1002);
        let overlong = Frame::new(opcode, "").length_form(LengthForm::Medium);
        fails(&[overlong], FrameError::OversizedControlFrame, 1002);
        fails(&[Frame::new(opcode, "").declaring(1 << 62)], FrameError::OversizedControlFrame, 1002);
    }
}

#[test]
fn control_frame_of_125_bytes_is_fine() {
    let payload = [0xFF; 125];
    let events = [Told::ping(payload), Told::pong(payload)];
    accepts(&[Frame::ping(payload), Frame::pong(payload)], &events, &[Frame::pong(payload)]);
    let reason = "r".repeat(123);
    for role in ROLES {
        let (endpoint, transmitted) = exchange(role, &wire(role, &[Frame::close(1000, &reason)]));
        assert_eq!(endpoint.events, [clean(1000, &reason, Initiator::Remote)]);
        assert_eq!(transmitted, Frame::close(1000, &reason).sent_by(role));
    }
}

// Section 5.5.1: Close.

#[test]
fn close_frame_with_one_byte_payload_is_a_protocol_error() {
    for byte in [0x00, 0x03, 0xFF] {
        fails(&[Frame::close_payload([byte])], ProtocolError::TruncatedCloseCode, 1002);
    }
}

#[test]
fn empty_close_frame_is_echoed_empty_and_told_as_1005() {
    for role in ROLES {
        let (endpoint, transmitted) = exchange(role, &wire(role, &[Frame::close_payload("")]));
        assert_eq!(endpoint.events, [clean(1005, "", Initiator::Remote)]);
        assert_eq!(transmitted, Frame::close_payload("").sent_by(role));
    }
}

#[test]
fn close_reason_that_is_not_utf8_fails_with_1007() {
    for reason in [&b"\xff"[..], b"ok\xce", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
        fails(&[Frame::close(1000, reason)], ProtocolError::InvalidCloseReason, 1007);
    }
}

#[test]
fn close_frame_is_echoed_with_its_code_and_reason() {
    for role in ROLES {
        let (endpoint, transmitted) = exchange(role, &wire(role, &[Frame::close(4001, "κόσμε")]));
        assert_eq!(endpoint.events, [clean(4001, "κόσμε", Initiator::Remote)]);
        assert_eq!(transmitted, Frame::close(4001, "κόσμε").sent_by(role));
    }
}

#[test]
fn everything_after_a_close_frame_is_ignored() {
    for role in ROLES {
        for rest in [
            Frame::text("late").sent_by(peer(role)),
            Frame::ping("late").sent_by(peer(role)),
            Frame::close(1001, "again").sent_by(peer(role)),
            vec![0xFF; 40],
        ] {
            let mut bytes = wire(role, &[Frame::close(1000, "bye")]);
            bytes.extend(rest);
            let (mut endpoint, transmitted) = exchange(role, &bytes);
            endpoint.receive(&wire(role, &[Frame::text("later still")]), Clock::new().now());
            assert_eq!(endpoint.events, [clean(1000, "bye", Initiator::Remote)]);
            assert_eq!(transmitted, Frame::close(1000, "bye").sent_by(role));
            assert_eq!(endpoint.transmit(), []);
        }
    }
}

#[test]
fn close_frame_within_a_message_closes_cleanly_and_drops_the_fragments() {
    for role in ROLES {
        let frames = [Frame::text("half a mess").more(), Frame::close(1001, "")];
        let (endpoint, _) = exchange(role, &wire(role, &frames));
        assert_eq!(endpoint.events, [clean(1001, "", Initiator::Remote)]);
    }
}

#[test]
fn echo_of_a_close_frame_goes_out_behind_what_was_queued() {
    for role in ROLES {
        let now = Clock::new().now();
        let mut endpoint = endpoint(role);
        endpoint.connection.send_slice(MessageKind::Text, b"queued").unwrap();
        endpoint.receive(&wire(role, &[Frame::close(1000, "")]), now);
        assert_eq!(endpoint.connection.send_slice(MessageKind::Text, b"late"), Err(SendError::Closed));
        let expected = [Frame::text("queued"), Frame::close(1000, "")];
        assert_eq!(
            endpoint.transmit(),
            expected.iter().flat_map(|frame| frame.sent_by(role)).collect::<Vec<_>>()
        );
    }
}

#[test]
fn outcome_is_told_only_when_the_echo_was_transmitted() {
    for role in ROLES {
        let mut endpoint = endpoint(role);
        endpoint.receive(&wire(role, &[Frame::close(1000, "")]), Clock::new().now());
        let echo = Frame::close(1000, "").sent_by(role);
        for sent in 0..echo.len() {
            endpoint.take_events();
            assert_eq!(endpoint.events, []);
            assert!(!endpoint.connection.is_shutdown_expected());
            assert_eq!(endpoint.connection.pending_transmit(), echo.len() - sent);
            endpoint.transmit_at_most(1);
        }
        assert_eq!(endpoint.events, [clean(1000, "", Initiator::Remote)]);
        assert!(endpoint.connection.is_shutdown_expected());
        assert!(!endpoint.connection.is_finished());
        endpoint.connection.receive_eof();
        assert!(endpoint.connection.is_finished());
    }
}

#[test]
fn closing_handshake_that_this_end_began_is_clean_with_the_peers_code() {
    for role in ROLES {
        for (ours, theirs, expected) in [
            (Some(1000), Frame::close(1000, ""), (1000, "")),
            (Some(1000), Frame::close(4999, "so be it"), (4999, "so be it")),
            (None, Frame::close_payload(""), (1005, "")),
            (Some(3000), Frame::close_payload(""), (1005, "")),
        ] {
            for initiator in [Initiator::User, Initiator::Library] {
                let now = Clock::new().now();
                let mut endpoint = endpoint(role);
                let frame = ours.map(|code| CloseFrame::new(code, "why").unwrap());
                endpoint.connection.close(frame.as_ref(), initiator, now);
                let sent = match ours {
                    None => Frame::close_payload(""),
                    Some(code) => Frame::close(code, "why"),
                };
                assert_eq!(endpoint.transmit(), sent.sent_by(role));
                assert_eq!(endpoint.events, []);
                endpoint.receive(&wire(role, std::slice::from_ref(&theirs)), now);
                assert_eq!(endpoint.transmit(), [], "a Close frame is not answered with a second one");
                assert_eq!(endpoint.events, [clean(expected.0, expected.1, initiator)]);
            }
        }
    }
}

#[test]
fn messages_still_come_in_between_our_close_frame_and_the_peers() {
    for role in ROLES {
        let now = Clock::new().now();
        let mut endpoint = endpoint(role);
        endpoint.receive(&wire(role, &[Frame::text("be").more()]), now);
        endpoint.connection.close(None, Initiator::User, now);
        assert!(!endpoint.connection.is_open() && endpoint.connection.is_receiving());
        let frames = [Frame::continuation("fore"), Frame::binary("2"), Frame::close(1000, "")];
        endpoint.receive(&wire(role, &frames), now);
        endpoint.transmit();
        let end = clean(1000, "", Initiator::User);
        assert_eq!(endpoint.events, [Told::text("before"), Told::binary("2"), end]);
    }
}

#[test]
fn nothing_can_be_sent_after_our_close_frame() {
    for role in ROLES {
        let now = Clock::new().now();
        let mut endpoint = endpoint(role);
        endpoint.connection.close(None, Initiator::User, now);
        let connection = &mut endpoint.connection;
        assert_eq!(connection.send_slice(MessageKind::Text, b"x"), Err(SendError::Closed));
        assert_eq!(connection.send(MessageKind::Binary, vec![0; 10_000].into()), Err(SendError::Closed));
        assert_eq!(connection.ping(b""), Err(SendError::Closed));
        assert_eq!(connection.pong(b""), Err(SendError::Closed));
        let second = CloseFrame::new(4000, "second").unwrap();
        connection.close(Some(&second), Initiator::Library, now);
        assert_eq!(endpoint.transmit(), Frame::close_payload("").sent_by(role));
    }
}

#[test]
fn simultaneous_close_is_clean_at_both_ends_with_the_others_code() {
    let mut pair = wireline_testkit::Pair::new(Config::client(), Config::server());
    let now = pair.clock.now();
    let [from_client, from_server] = [4001, 4002].map(|code| CloseFrame::new(code, "").unwrap());
    pair.client.connection.close(Some(&from_client), Initiator::User, now);
    pair.server.connection.close(Some(&from_server), Initiator::Library, now);
    pair.drive();
    assert_eq!(pair.client.events, [clean(4002, "", Initiator::User)]);
    assert_eq!(pair.server.events, [clean(4001, "", Initiator::Library)]);
    assert_eq!(pair.to_server.log, Frame::close(4001, "").sent_by(Role::Client));
    assert_eq!(pair.to_client.log, Frame::close(4002, "").sent_by(Role::Server));
    assert!(pair.client.connection.is_finished() && pair.server.connection.is_finished());
}

#[test]
fn broken_frame_after_our_close_frame_is_not_answered_with_a_second_one() {
    for role in ROLES {
        let now = Clock::new().now();
        let mut endpoint = endpoint(role);
        endpoint.connection.close(None, Initiator::User, now);
        endpoint.receive(&wire(role, &[Frame::new(0x3, "")]), now);
        assert_eq!(endpoint.transmit(), Frame::close_payload("").sent_by(role));
        let closed = endpoint.outcome().unwrap();
        assert!(!closed.was_clean);
        assert_eq!(closed.code, CloseCode::ABNORMAL);
        assert_eq!(closed.cause, Some(Cause::Protocol(FrameError::ReservedOpcode(3).into())));
    }
}

/// `Closed::initiator` is who began to end the connection, and that was the user, whatever the peer did
/// next. A lost transport and a missed deadline keep it so.
#[test]
fn broken_frame_after_our_close_frame_does_not_change_who_began() {
    for role in ROLES {
        let now = Clock::new().now();
        let mut endpoint = endpoint(role);
        endpoint.connection.close(None, Initiator::User, now);
        endpoint.receive(&wire(role, &[Frame::new(0x3, "")]), now);
        endpoint.transmit();
        assert_eq!(endpoint.outcome().unwrap().initiator, Initiator::User);
    }
}

// Sections 5.5.2 and 5.5.3: Ping and Pong.

#[test]
fn ping_is_answered_with_its_payload() {
    accepts(&[Frame::ping("")], &[Told::ping("")], &[Frame::pong("")]);
    accepts(&[Frame::ping([0, 0xFF, 7])], &[Told::ping([0, 0xFF, 7])], &[Frame::pong([0, 0xFF, 7])]);
}

#[test]
fn pings_are_answered_in_order() {
    let payloads = ["1", "2", "3"];
    let events = payloads.map(Told::ping);
    accepts(&payloads.map(Frame::ping), &events, &payloads.map(Frame::pong));
}

#[test]
fn pong_that_nobody_asked_for_is_told_and_not_answered() {
    accepts(&[Frame::pong("x"), Frame::pong("")], &[Told::pong("x"), Told::pong("")], &[]);
}

/// "An endpoint MUST send a Pong frame in response, unless it already received a Close frame": having
/// sent one is no excuse.
#[test]
fn ping_between_our_close_frame_and_the_peers_is_answered() {
    for role in ROLES {
        let now = Clock::new().now();
        let mut endpoint = endpoint(role);
        endpoint.connection.close(None, Initiator::User, now);
        endpoint.transmit();
        endpoint.receive(&wire(role, &[Frame::ping("still there?")]), now);
        assert_eq!(endpoint.transmit(), Frame::pong("still there?").sent_by(role));
    }
}

#[test]
fn application_sends_pings_and_pongs_of_at_most_125_bytes() {
    for role in ROLES {
        let mut endpoint = endpoint(role);
        let connection = &mut endpoint.connection;
        assert_eq!(connection.ping(&[0; 126]), Err(SendError::ControlPayloadTooBig(126)));
        assert_eq!(connection.pong(&[0; 126]), Err(SendError::ControlPayloadTooBig(126)));
        connection.ping(&[1; 125]).unwrap();
        connection.pong(b"").unwrap();
        let expected = [Frame::ping([1; 125]), Frame::pong("")];
        assert_eq!(
            endpoint.transmit(),
            expected.iter().flat_map(|frame| frame.sent_by(role)).collect::<Vec<_>>()
        );
    }
}

// Section 5.7: the examples.

#[test]
fn examples_of_section_5_7() {
    let hello = |role, bytes: &[u8]| assert_eq!(exchange(role, bytes).0.events, [Told::text("Hello")]);
    hello(Role::Client, &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    hello(Role::Server, &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    hello(Role::Client, &[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f]);

    let (_, pong) = exchange(Role::Client, &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    assert_eq!(pong, [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);

    let mut bytes = vec![0x82, 0x7E, 0x01, 0x00];
    bytes.extend([7; 256]);
    assert_eq!(exchange(Role::Client, &bytes).0.events, [Told::binary([7; 256])]);

    let mut bytes = vec![0x82, 0x7F, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00];
    bytes.extend(vec![7; 65_536]);
    assert_eq!(exchange(Role::Client, &bytes).0.events, [Told::binary(vec![7; 65_536])]);
}

// Sections 7.1 and 7.2: how a connection ends.

#[test]
fn end_of_file_without_a_close_frame_is_a_loss() {
    for role in ROLES {
        for bytes in [vec![], wire(role, &[Frame::text("part").more()]), vec![0x81]] {
            let mut endpoint = endpoint(role);
            endpoint.receive(&bytes, Clock::new().now());
            endpoint.connection.receive_eof();
            assert!(endpoint.connection.is_finished() && !endpoint.connection.is_open());
            endpoint.take_events();
            let closed = Closed {
                was_clean: false,
                code: CloseCode::ABNORMAL,
                reason: String::new(),
                initiator: Initiator::Remote,
                cause: Some(Cause::ConnectionLost),
            };
            assert_eq!(endpoint.events, [Told::Closed(closed)]);
            assert_eq!(endpoint.transmit(), []);
        }
    }
}

#[test]
fn end_is_told_once_whatever_comes_after_it() {
    for role in ROLES {
        let clock = Clock::new();
        let now = clock.now();
        let mut endpoint = endpoint(role);
        endpoint.receive(&wire(role, &[Frame::close(1000, "")]), now);
        endpoint.transmit();
        endpoint.connection.receive_eof();
        endpoint.connection.handle_transport_error();
        endpoint.connection.abort();
        endpoint.connection.close(None, Initiator::User, now);
        endpoint.connection.handle_timeout(now + std::time::Duration::from_secs(100));
        endpoint.receive(&wire(role, &[Frame::close(1000, "")]), now);
        assert_eq!(endpoint.transmit(), []);
        assert_eq!(endpoint.events, [clean(1000, "", Initiator::Remote)]);
        assert_eq!(endpoint.connection.poll_timeout(), None);
        assert!(endpoint.connection.is_finished() && !endpoint.connection.is_shutdown_expected());
    }
}

// Section 7.4: status codes.

fn may_be_on_the_wire(code: u16) -> bool {
    (1000..=1003).contains(&code) || (1007..=1014).contains(&code) || (3000..=4999).contains(&code)
}

#[test]
fn every_close_code_from_0_to_5000_is_taken_or_refused_as_the_registry_says() {
    for code in (0..=5000).chain([0x8000, u16::MAX]) {
        for role in ROLES {
            let bytes = wire(role, &[Frame::close(code, "")]);
            if may_be_on_the_wire(code) {
                let mut endpoint = endpoint(role);
                endpoint.receive(&bytes, Clock::new().now());
                assert_eq!(endpoint.transmit(), Frame::close(code, "").sent_by(role));
                assert_eq!(endpoint.events, [clean(code, "", Initiator::Remote)]);
            } else {
                fails_on(role, &bytes, &[], ProtocolError::InvalidCloseCode(code), 1002);
            }
        }
    }
}

#[test]
fn close_frame_that_must_not_be_sent_cannot_be_made() {
    for code in (0..=5000).chain([0x8000, u16::MAX]) {
        let made = CloseFrame::new(code, "");
        let expected = may_be_on_the_wire(code);
        assert_eq!(made.is_ok(), expected, "{code}");
        if !expected {
            assert_eq!(made, Err(CloseFrameError::UnsendableCode(code.into())));
        }
    }
    assert!(CloseFrame::new(1000, "r".repeat(123)).is_ok());
    assert_eq!(CloseFrame::new(1000, "r".repeat(124)), Err(CloseFrameError::ReasonTooLong(124)));
    // Bytes count, not characters.
    assert_eq!(CloseFrame::new(1000, "é".repeat(62)), Err(CloseFrameError::ReasonTooLong(124)));
}

#[test]
fn code_is_checked_before_the_reason() {
    fails(&[Frame::close(1005, [0xFF])], ProtocolError::InvalidCloseCode(1005), 1002);
}

// Section 8.1: UTF-8.

/// Text, and at which byte it is proved wrong.
const INVALID: [(&[u8], usize); 9] = [
    (b"\x80", 1),
    (b"ok\xff", 3),
    (b"\xc0\xaf", 1),
    (b"\xc1\x80", 1),
    (b"\xe0\x9f\x80", 2),
    (b"\xed\xa0\x80", 2),
    (b"\xf0\x8f\x80\x80", 2),
    (b"\xf4\x90\x80\x80", 2),
    (b"\xce\xba\xe1\xbd\xb9\xf5", 6),
];

#[test]
fn text_that_is_not_utf8_fails_with_1007() {
    for (text, _) in INVALID {
        fails(&[Frame::text(text)], ProtocolError::InvalidUtf8, 1007);
        fails(&[Frame::text(text).more()], ProtocolError::InvalidUtf8, 1007);
        fails(&[Frame::text("").more(), Frame::continuation(text)], ProtocolError::InvalidUtf8, 1007);
    }
}

#[test]
fn text_fails_at_the_byte_that_proves_it_wrong() {
    for (text, proof) in INVALID {
        for role in ROLES {
            let now = Clock::new().now();
            // The frame announces far more than comes.
            let frame = Frame::text([text, &[b'x'; 1000]].concat()).sent_by(peer(role));
            let header = frame.len() - text.len() - 1000;
            let mut endpoint = endpoint(role);
            endpoint.receive(&frame[..header + proof - 1], now);
            assert!(endpoint.connection.is_open(), "{role:?} {text:x?}");
            endpoint.receive(&frame[header + proof - 1..header + proof], now);
            assert_eq!(endpoint.transmit(), Frame::close(1007, "").sent_by(role), "{role:?} {text:x?}");
        }
    }
}

#[test]
fn text_that_ends_within_a_character_fails_with_1007() {
    for text in [&b"\xce"[..], b"abc\xe2\x82", b"\xf0\x9f\x98"] {
        fails(&[Frame::text(text)], ProtocolError::InvalidUtf8, 1007);
        fails(&[Frame::text(text).more(), Frame::continuation("")], ProtocolError::InvalidUtf8, 1007);
    }
}

#[test]
fn characters_may_be_split_between_frames() {
    for text in ["\u{7f}é\u{7ff}", "\u{800}€\u{d7ff}\u{e000}\u{ffff}", "\u{10000}😀\u{10ffff}"] {
        for at in 0..=text.len() {
            let (front, rest) = text.as_bytes().split_at(at);
            accepts(&[Frame::text(front).more(), Frame::continuation(rest)], &[Told::text(text)], &[]);
        }
    }
}

#[test]
fn next_text_starts_afresh() {
    accepts(
        &[Frame::text("é"), Frame::binary([0xC3]), Frame::text([0xC3]).more(), Frame::continuation([0xA9])],
        &[Told::text("é"), Told::binary([0xC3]), Told::text("é")],
        &[],
    );
}

#[test]
fn binary_need_not_be_utf8() {
    let frames = [Frame::binary([0xFF]), Frame::binary([0xC3]).more(), Frame::continuation([0xC3])];
    accepts(&frames, &[Told::binary([0xFF]), Told::binary([0xC3, 0xC3])], &[]);
}

#[test]
fn testkit_reads_back_what_it_writes() {
    for frame in
        [Frame::text("a"), Frame::binary(vec![1; 70_000]).more(), Frame::ping("x").masked([1, 2, 3, 4])]
    {
        assert_eq!(Frame::read_all(&frame.bytes()), [frame]);
    }
    assert_eq!(frames::masks(), MASK);
}
