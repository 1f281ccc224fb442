//! permessage-deflate (RFC 7692) in a connection: the RFC's examples byte by byte, what peers may and may
//! not send, what a connection holds, and that no cut changes anything.
#![allow(clippy::unwrap_used, reason = "what is not as expected has failed the test")]

use std::{cell::RefCell, io::IoSlice, sync::Arc, time::Instant};

use bytes::Bytes;
use proptest::{prelude::*, sample::Index, test_runner::FileFailurePersistence};
use wireline_proto::{
    Cause, Compress, Config, Connection, Deflate, DeflateParameters, Event, MessageKind, Negotiated, Payload,
    Prepared, ProtocolError, Role,
    deflate::{Compressor, CompressorSettings, ContextPool, Inflater, encode_frame},
};
use wireline_testkit::{
    Clock, Endpoint, Frame, Pair, Told,
    allocations::{self, CountingAllocator},
    frames::{masks, pattern},
};
use zlib_rs::{DeflateConfig, DeflateFlush, Inflate, InflateFlush};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// The example's compressed form of "Hello" (section 7.2.3.1).
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

fn peer(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}

fn agreed(role: Role, parameters: DeflateParameters) -> Negotiated {
    Negotiated::assume_negotiated(role, None).with_deflate(parameters)
}

/// The peer of `role` sends no message that refers to another one.
fn no_takeover(role: Role) -> DeflateParameters {
    DeflateParameters {
        server_no_context_takeover: role == Role::Client,
        client_no_context_takeover: role == Role::Server,
        ..DeflateParameters::default()
    }
}

fn config() -> Config {
    Config::client().deflate(Deflate::client().threshold(0))
}

/// What an endpoint tells for these frames, given whole and byte by byte.
#[track_caller]
fn told(role: Role, parameters: DeflateParameters, config: &Config, frames: &[Frame]) -> Endpoint {
    let now = Clock::new().now();
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.sent_by(peer(role))).collect();
    let [whole, single] = [bytes.len().max(1), 1].map(|size| {
        let mut endpoint = Endpoint::negotiated(agreed(role, parameters), config.clone(), now);
        bytes.chunks(size).for_each(|piece| endpoint.receive(piece, now));
        endpoint.transmit();
        endpoint
    });
    assert_eq!(single.events, whole.events, "{role:?}: other events for single bytes");
    whole
}

#[track_caller]
fn accepts(frames: &[Frame], expected: &[Told]) {
    for role in ROLES {
        let endpoint = told(role, DeflateParameters::default(), &config(), frames);
        assert_eq!(endpoint.events, expected, "{role:?}");
        assert!(endpoint.connection.is_open(), "{role:?}");
    }
}

#[track_caller]
fn fails(config: &Config, frames: &[Frame], error: ProtocolError, code: u16) {
    for role in ROLES {
        let endpoint = told(role, DeflateParameters::default(), config, frames);
        let cause = endpoint.outcome().and_then(|closed| closed.cause);
        assert_eq!(cause, Some(Cause::Protocol(error)), "{role:?}: {:?}", endpoint.events);
        assert_eq!(error.close_code(), code, "{role:?}");
    }
}

fn compressed(payload: impl AsRef<[u8]>) -> Frame {
    Frame::text(payload).rsv(0b100)
}

/// Compresses as another implementation would: one zlib stream for all messages.
struct Stream {
    deflate: zlib_rs::Deflate,
}

impl Stream {
    fn new(window_bits: u8, level: i32) -> Self {
        let config = DeflateConfig { level, window_bits: -i32::from(window_bits), ..Default::default() };
        Self { deflate: zlib_rs::Deflate::new_with_config(config) }
    }

    fn flush(&mut self, message: &[u8], flush: DeflateFlush) -> Vec<u8> {
        let mut out = vec![0; message.len() + message.len() / 8 + 1000];
        let before = self.deflate.total_out();
        let _ = self.deflate.compress(message, &mut out, flush).unwrap();
        out.truncate(usize::try_from(self.deflate.total_out() - before).unwrap());
        out
    }

    fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        let mut out = self.flush(message, DeflateFlush::SyncFlush);
        if out.is_empty() {
            // zlib does not flush twice; section 7.2.3.6 has the block to send instead.
            return vec![0x00];
        }
        assert_eq!(out.split_off(out.len() - 4), [0, 0, 0xff, 0xff]);
        out
    }
}

/// Decompresses as another implementation would: one zlib stream for all messages, with a window of just
/// this size, a byte at a time so that zlib holds to it.
struct Peer {
    inflate: Inflate,
}

impl Peer {
    fn new(window_bits: u8) -> Self {
        Self { inflate: Inflate::new(false, window_bits) }
    }

    fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let bytes = [payload, &[0, 0, 0xff, 0xff]].concat();
        let (mut rest, mut message) = (&bytes[..], Vec::new());
        loop {
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let mut byte = [0];
            self.inflate.decompress(rest, &mut byte, InflateFlush::NoFlush).expect("it is valid");
            rest = &rest[usize::try_from(self.inflate.total_in() - before.0).unwrap()..];
            if self.inflate.total_out() == before.1 {
                assert!(rest.is_empty());
                return message;
            }
            message.push(byte[0]);
        }
    }
}

// The RFC's examples.

#[test]
fn a_message_compressed_using_one_block() {
    // Section 7.2.3.1: 0xc1 0x07 0xf2 ...
    assert_eq!(compressed(HELLO).bytes()[..2], [0xc1, 0x07]);
    accepts(&[compressed(HELLO)], &[Told::text("Hello")]);
    let fragments = [compressed(&HELLO[..3]).more(), Frame::continuation(&HELLO[3..])];
    assert_eq!(fragments[0].bytes()[..2], [0x41, 0x03]);
    accepts(&fragments, &[Told::text("Hello")]);
}

#[test]
fn messages_share_the_window() {
    // Section 7.2.3.2: the second one refers to the first.
    let frames = [compressed(HELLO), compressed([0xf2, 0x00, 0x11, 0x00, 0x00])];
    accepts(&frames, &[Told::text("Hello"), Told::text("Hello")]);
    // What is not compressed does not enter the window.
    let between = [frames[0].clone(), Frame::text("other"), frames[1].clone()];
    accepts(&between, &[Told::text("Hello"), Told::text("other"), Told::text("Hello")]);
    // Without context takeover there is nothing to refer to.
    for role in ROLES {
        let endpoint = told(role, no_takeover(role), &config(), &frames);
        assert_eq!(endpoint.events[0], Told::text("Hello"));
        let cause = endpoint.outcome().and_then(|closed| closed.cause);
        assert_eq!(cause, Some(ProtocolError::InvalidDeflate.into()), "{role:?}");
    }
}

#[test]
fn a_block_with_no_compression() {
    // Section 7.2.3.3.
    let payload = b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00";
    assert_eq!(compressed(payload).bytes()[..2], [0xc1, 0x0b]);
    accepts(&[compressed(payload)], &[Told::text("Hello")]);
}

#[test]
fn a_block_with_bfinal_set() {
    // Section 7.2.3.4.
    let payload = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    assert_eq!(compressed(payload).bytes()[..2], [0xc1, 0x08]);
    accepts(&[compressed(payload)], &[Told::text("Hello")]);
    // Without the empty block behind it, it has one meaning only.
    accepts(&[compressed(&payload[..7])], &[Told::text("Hello")]);
}

#[test]
fn two_blocks_in_one_message() {
    // Section 7.2.3.5.
    let payload = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    accepts(&[compressed(payload)], &[Told::text("Hello")]);
}

#[test]
fn an_empty_fragment() {
    // Section 7.2.3.6: 0x00, at the end of a message or alone.
    accepts(&[compressed([0x00])], &[Told::text("")]);
    let flushed = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00, 0x00, 0xff, 0xff];
    let frames = [compressed(flushed).more(), Frame::continuation([0x00])];
    accepts(&frames, &[Told::text("Hello")]);
    // An empty message without its block has one meaning only.
    accepts(&[compressed(""), compressed(HELLO)], &[Told::text(""), Told::text("Hello")]);
    accepts(&[compressed("").more(), Frame::continuation("")], &[Told::text("")]);
}

// What else a valid peer may do.

#[test]
fn the_window_survives_a_final_block() {
    // "Hello" in a final block, then a block that refers to it, in the same message and in the next.
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let again = [0xf2, 0x00, 0x11, 0x00, 0x00];
    let both = [&last[..], &again].concat();
    accepts(&[compressed(both)], &[Told::text("HelloHello")]);
    let next = [compressed([&last[..], &[0]].concat()), compressed(again)];
    accepts(&next, &[Told::text("Hello"), Told::text("Hello")]);
    let third = [compressed(HELLO), compressed([&last[..], &again, &again].concat())];
    // The empty block at the end of `again` is cut short; here it is whole.
    let third =
        [third[0].clone(), compressed([&last[..], &again[..4], &[0, 0, 0, 0xff, 0xff], &again].concat())];
    accepts(&third, &[Told::text("Hello"), Told::text("HelloHelloHello")]);
}

#[test]
fn control_frames_between_compressed_fragments_change_nothing() {
    let frames = [
        compressed(&HELLO[..3]).more(),
        Frame::ping("a"),
        Frame::continuation(&HELLO[3..5]).more(),
        Frame::pong("b"),
        Frame::continuation(&HELLO[5..]),
        Frame::text("raw"),
        compressed([0xf2, 0x00, 0x11, 0x00, 0x00]),
    ];
    let expected =
        [Told::ping("a"), Told::pong("b"), Told::text("Hello"), Told::text("raw"), Told::text("Hello")];
    accepts(&frames, &expected);
}

#[test]
fn output_that_fills_its_room_loses_nothing() {
    // A short input that stands for much, cut where output is pending inside the decompressor.
    for len in [1, 63, 64, 65, 255, 256, 4096, 65_535, 65_536, 65_537, 200_000] {
        let message = "x".repeat(len);
        let frame = compressed(Stream::new(15, 9).compress(message.as_bytes()));
        accepts(&[frame], &[Told::text(message)]);
    }
}

// What a peer must not do.

#[test]
fn rsv1_stands_on_the_first_frame_of_a_message_only() {
    let misuses = [
        vec![Frame::ping("").rsv(0b100)],
        vec![Frame::pong("x").rsv(0b100)],
        vec![Frame::close_payload("").rsv(0b100)],
        vec![compressed(&HELLO[..3]).more(), Frame::continuation(&HELLO[3..]).rsv(0b100)],
        vec![Frame::text("a").more(), Frame::continuation("b").rsv(0b100)],
    ];
    for frames in misuses {
        fails(&config(), &frames, ProtocolError::ReservedBit1, 1002);
    }
    for role in ROLES {
        let mut endpoint = Endpoint::new(role, config(), Clock::new().now());
        endpoint.receive(&compressed(HELLO).sent_by(peer(role)), Clock::new().now());
        endpoint.transmit();
        let cause = endpoint.outcome().and_then(|closed| closed.cause);
        assert_eq!(cause, Some(ProtocolError::ReservedBit1.into()), "{role:?}: without the extension");
    }
}

#[test]
fn what_is_not_deflate_fails_the_connection() {
    let garbage: [&[u8]; 8] = [
        b"\x06",                             // a block type that does not exist
        b"\xff\xff\xff\xff",                 // likewise
        b"\x00\x05\x00\x00\x00Hello\x00",    // a length and its complement that do not agree
        &HELLO[..5],                         // cut within a block
        b"\xf2\x00\x11\x00\x00",             // refers to what was never sent
        b"\xf3\x48\xcd\xc9\xc9\x07\x00junk", // junk behind a final block
        b"\x04\x00",                         // a dynamic block that is cut
        b"\x00\x00",                         // an empty block that is cut
    ];
    for payload in garbage {
        fails(&config(), &[Frame::binary(payload).rsv(0b100)], ProtocolError::InvalidDeflate, 1007);
    }
}

#[test]
fn four_bytes_that_once_hung_others_do_not() {
    let now = Clock::new().now();
    let mut client = Endpoint::negotiated(agreed(Role::Client, DeflateParameters::default()), config(), now);
    client.receive(&[0xc2, 0x02, 0x03, 0x80], now);
    assert_eq!(client.events, [Told::binary("")]);
    client.receive(&compressed(HELLO).bytes(), now);
    assert_eq!(client.events[1..], [Told::text("Hello")]);
    accepts(&[Frame::binary([0x03, 0x80]).rsv(0b100)], &[Told::binary("")]);
}

#[test]
fn text_is_checked_as_it_is_inflated() {
    // A bad byte early in a message of which the rest has not come.
    let bytes = Stream::new(15, 6).flush(b"ab\xffcd", DeflateFlush::SyncFlush);
    fails(&config(), &[compressed(bytes).more()], ProtocolError::InvalidUtf8, 1007);
    // Valid on the wire as bytes, cut within a character at the end.
    let bytes = Stream::new(15, 6).compress("κόσμ".as_bytes().split_last().unwrap().1);
    fails(&config(), &[compressed(bytes)], ProtocolError::InvalidUtf8, 1007);
    let mut stream = Stream::new(15, 6);
    let halves = "κόσμε".as_bytes().split_at(3);
    let frames = [
        compressed(stream.flush(halves.0, DeflateFlush::SyncFlush)).more(),
        Frame::continuation(stream.compress(halves.1)),
    ];
    accepts(&frames, &[Told::text("κόσμε")]);
}

#[test]
fn the_limit_holds_to_the_byte() {
    let limit = 100_000;
    let config = config().max_message_size(limit);
    let zeros = |len| Frame::binary(Stream::new(15, 9).compress(&vec![0; len])).rsv(0b100);
    for role in ROLES {
        let endpoint = told(role, DeflateParameters::default(), &config, &[zeros(limit)]);
        assert_eq!(endpoint.events, [Told::binary(vec![0; limit])], "{role:?}");
    }
    let error = ProtocolError::MessageTooBig { announced: limit as u64 + 1, limit };
    for len in [limit + 1, limit + 2, limit + 258, 2 * limit] {
        fails(&config, &[zeros(len)], error, 1009);
    }
    let fragments = [compressed(zeros(limit).payload).more(), Frame::continuation(HELLO)];
    fails(&config, &fragments, ProtocolError::InvalidDeflate, 1007);
    let none = config.max_message_size(0);
    for role in ROLES {
        let endpoint = told(role, DeflateParameters::default(), &none, &[compressed([0])]);
        assert_eq!(endpoint.events, [Told::text("")], "{role:?}");
    }
    fails(&none, &[compressed(HELLO)], ProtocolError::MessageTooBig { announced: 1, limit: 0 }, 1009);
}

#[test]
fn blocks_that_stand_for_nothing_come_to_an_end() {
    // A stored block of no bytes, over and over, has no output that a limit could stop.
    let config = config().max_message_size(1000);
    let nothing = b"\x00\x00\x00\xff\xff".repeat(20);
    let mut frames = vec![compressed("").more()];
    frames.extend((0..40).map(|_| Frame::continuation(&nothing).more()));
    fails(&config, &frames, ProtocolError::MessageTooBig { announced: 3100, limit: 1000 }, 1009);
    // So does an announcement of them.
    let announced = compressed("").declaring(1 << 62);
    fails(&config, &[announced], ProtocolError::MessageTooBig { announced: 1 << 62, limit: 1000 }, 1009);
    // Final blocks, each of which copies the window, are counted too.
    let frames = [compressed(b"\x03\x00".repeat(5000))];
    fails(&self::config(), &frames, ProtocolError::TooManyFinalBlocks { limit: 64 }, 1009);
    // What a message stands for pays for more of them: 200 times "Hello" does not, 4 KiB do for four.
    let little = [compressed(final_block(b"Hello").repeat(200))];
    fails(&self::config(), &little, ProtocolError::TooManyFinalBlocks { limit: 64 }, 1009);
    let much = [final_block(&[b'x'; 4096]), b"\x03\x00".repeat(200)].concat();
    fails(&self::config(), &[compressed(much)], ProtocolError::TooManyFinalBlocks { limit: 68 }, 1009);
}

/// A stored block with BFINAL set.
fn final_block(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap();
    [&[1][..], &len.to_le_bytes(), &(!len).to_le_bytes(), bytes].concat()
}

#[test]
fn a_long_message_may_have_any_number_of_final_blocks() {
    let block = final_block(&[b'x'; 1024]);
    for role in ROLES {
        let endpoint = told(role, DeflateParameters::default(), &config(), &[compressed(block.repeat(300))]);
        assert_eq!(endpoint.events, [Told::text("x".repeat(300 * 1024))], "{role:?}");
    }
}

#[test]
fn a_message_holds_what_it_has_and_not_what_its_bytes_promised() {
    // Sixteen thousand bytes on the wire, blocks of nothing most of them, and one letter.
    let payload = [b"\x00\x00\x00\xff\xff".repeat(3280), HELLO.to_vec()].concat();
    let mut bytes = compressed(payload).sent_by(Role::Client);
    let now = Clock::new().now();
    let agreed = agreed(Role::Server, DeflateParameters::default());
    let mut connection = Connection::new(agreed, Arc::new(config()), masks, now);
    let mut input = &mut bytes[..];
    let Some(Event::Message(message)) = connection.receive(&mut input, now) else {
        panic!("it is a message");
    };
    let Payload::Owned(payload) = message.into_payload() else { panic!("it was inflated") };
    assert!(payload.capacity() < 100, "{} bytes for {}", payload.capacity(), payload.len());
}

/// A gibibyte of zeros, in a mebibyte.
fn bomb() -> Vec<u8> {
    let mut stream = Stream::new(15, 9);
    let zeros = vec![0; 8 << 20];
    let mut bytes: Vec<u8> = (0..127).flat_map(|_| stream.flush(&zeros, DeflateFlush::NoFlush)).collect();
    bytes.extend(stream.compress(&zeros));
    assert!(bytes.len() < 1100 << 10, "{}", bytes.len());
    bytes
}

#[test]
fn a_bomb_costs_no_more_than_the_limit() {
    let bomb = bomb();
    for role in ROLES {
        for (limit, read) in [(1 << 20, 64 << 10), (1 << 20, usize::MAX), (16 << 20, 1000), (1000, 64 << 10)]
        {
            let now = Clock::new().now();
            let config = Arc::new(config().max_message_size(limit));
            let mut bytes = Frame::binary(&bomb).rsv(0b100).sent_by(peer(role));
            let (connection, cost) = allocations::of(|| {
                let negotiated = agreed(role, DeflateParameters::default());
                let mut connection = Connection::new(negotiated, config, masks, now);
                for mut piece in bytes.chunks_mut(read.min(1 << 30)) {
                    while connection.receive(&mut piece, now).is_some() {}
                }
                connection
            });
            assert!(!connection.is_receiving(), "{role:?} {limit}");
            assert!(connection.poll_transmit(&mut [IoSlice::new(&[])]) > 0);
            // Beyond the message: a context of 46 KiB.
            assert!(cost.peak_bytes <= 2 * limit + (64 << 10), "{role:?} {limit}: {cost:?}");
            assert!(cost.kept_bytes < 2048, "{role:?} {limit}: {cost:?}");
        }
    }
}

// What goes out.

fn transmitted(endpoint: &mut Endpoint) -> Vec<Frame> {
    Frame::read_all(&endpoint.transmit())
}

#[test]
fn the_threshold_and_the_callers_choice_decide() {
    let text = Bytes::from("abcabcabcabc".repeat(100));
    for (threshold, choice, len, expected) in [
        (1024, Compress::ByThreshold, 1023, false),
        (1024, Compress::ByThreshold, 1024, true),
        (1024, Compress::Always, 100, true),
        (1024, Compress::Never, 1200, false),
        (0, Compress::ByThreshold, 100, true),
        (0, Compress::ByThreshold, 0, false),
        (0, Compress::Always, 1, false),
    ] {
        for role in ROLES {
            let config = Config::client().deflate(Deflate::client().threshold(threshold));
            let negotiated = agreed(role, DeflateParameters::default());
            let mut endpoint = Endpoint::negotiated(negotiated, config, Clock::new().now());
            endpoint.connection.send_with(MessageKind::Text, text.slice(..len), choice).unwrap();
            let frames = transmitted(&mut endpoint);
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].rsv == 0b100, expected, "{role:?} {threshold} {choice:?} {len}");
            let payload =
                if expected { Peer::new(15).inflate(&frames[0].payload) } else { frames[0].payload.clone() };
            assert_eq!(payload, text[..len], "{role:?}");
        }
    }
}

/// Bytes without any pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| step(&mut state)).collect()
}

#[test]
fn what_does_not_shrink_is_sent_raw_and_leaves_no_trace() {
    for role in ROLES {
        let negotiated = agreed(role, DeflateParameters::default());
        let mut endpoint = Endpoint::negotiated(negotiated, config(), Clock::new().now());
        let mut other = Peer::new(15);
        let (noise, text) = (noise(3000), "the quick brown fox ".repeat(20));
        // The noise again, after it was sent: a compressor that had taken it in would refer to it.
        for (message, is_compressed) in [
            (&noise[..], false),
            (text.as_bytes(), true),
            (&noise[..], false),
            (text.as_bytes(), true),
            (&[&noise[..300], text.as_bytes()].concat()[..], true),
        ] {
            endpoint.connection.send_slice(MessageKind::Binary, message).unwrap();
            let frame = transmitted(&mut endpoint).remove(0);
            assert_eq!(frame.rsv == 0b100, is_compressed, "{role:?}");
            let payload = if is_compressed { other.inflate(&frame.payload) } else { frame.payload };
            assert_eq!(payload, message, "{role:?}");
        }
    }
}

#[test]
fn what_waits_to_go_out_is_counted_to_the_byte_and_held_once() {
    let (noise, text) = (noise(1 << 20), "the quick brown fox ".repeat(5000).into_bytes());
    for role in ROLES {
        for fragment_size in [None, Some(10_000)] {
            let config = config().fragment_size(fragment_size);
            let negotiated = agreed(role, DeflateParameters::default());
            let mut endpoint = Endpoint::negotiated(negotiated, config, Clock::new().now());
            let (mut waiting, mut transmitted) = (0, Vec::new());
            for (number, message) in
                [&noise[..], &text, &noise[..3000], &noise, &text[..50], &noise[..7]].iter().enumerate()
            {
                let payload = Bytes::copy_from_slice(message);
                let ((), cost) = allocations::of(|| {
                    endpoint.connection.send(MessageKind::Binary, payload).unwrap();
                });
                let added = endpoint.connection.pending_transmit() - waiting;
                // Headers, the buffer for small frames, and where large ones wait by reference; a client masks
                // what it shares with nobody in its place.
                let overhead = (128 << 10) + isize::try_from(message.len() / 100).unwrap();
                assert!(cost.kept_bytes < overhead, "{role:?} {fragment_size:?} {number}: {cost:?}");
                // A part of it goes out, and the rest waits for the next.
                transmitted.extend(endpoint.transmit_at_most(added / 2 + 1));
                waiting = endpoint.connection.pending_transmit();
            }
            let rest = endpoint.transmit();
            assert_eq!(rest.len(), waiting, "{role:?} {fragment_size:?}");
            assert_eq!(endpoint.connection.pending_transmit(), 0);
            transmitted.extend(rest);
            let frames = Frame::read_all(&transmitted);
            assert_eq!(frames.iter().filter(|frame| frame.fin).count(), 6, "{role:?} {fragment_size:?}");
        }
    }
}

#[test]
fn a_compressed_message_is_cut_into_fragments_like_any_other() {
    for role in ROLES {
        let negotiated = agreed(role, DeflateParameters::default());
        let mut endpoint = Endpoint::negotiated(negotiated, config().fragment_size(100), Clock::new().now());
        let message = [noise(500), pattern(5000)].concat();
        endpoint.connection.send(MessageKind::Binary, message.clone().into()).unwrap();
        let frames = transmitted(&mut endpoint);
        assert!(frames.len() > 5, "{}", frames.len());
        for (number, frame) in frames.iter().enumerate() {
            assert_eq!(frame.rsv, if number == 0 { 0b100 } else { 0 });
            assert_eq!(frame.opcode, if number == 0 { 0x2 } else { 0x0 });
            assert_eq!(frame.fin, number + 1 == frames.len());
            assert!(frame.payload.len() <= 100);
        }
        let payload: Vec<u8> = frames.into_iter().flat_map(|frame| frame.payload).collect();
        assert_eq!(Peer::new(15).inflate(&payload), message);
    }
}

#[test]
fn every_window_is_kept_to() {
    // zlib itself refuses a reference beyond the window; 8 bits are served by a compressor of 9.
    let words: Vec<u8> = (0..40_000_u32).flat_map(|n| format!("{} ", n * n % 977).into_bytes()).collect();
    for bits in 8..=15 {
        for role in ROLES {
            for level in [1, 2, 3, 6, 9] {
                let parameters = DeflateParameters {
                    server_max_window_bits: (role == Role::Server).then_some(bits),
                    client_max_window_bits: (role == Role::Client).then_some(bits),
                    ..DeflateParameters::default()
                };
                let options = Deflate::client().threshold(0).send_window_bits(15).level(level);
                let config = Config::client().deflate(options);
                let mut endpoint = Endpoint::negotiated(agreed(role, parameters), config, Clock::new().now());
                let mut other = Peer::new(bits);
                for message in words.chunks(7001).take(6) {
                    endpoint.connection.send_slice(MessageKind::Binary, message).unwrap();
                    let frame = transmitted(&mut endpoint).remove(0);
                    assert_eq!(frame.rsv, 0b100, "{role:?} {bits}");
                    assert_eq!(other.inflate(&frame.payload), message, "{role:?} {bits} {level}");
                }
            }
        }
    }
}

/// What corrupted memory in zlib before 1.2.12 (CVE-2018-25032): many short matches far away, so that
/// what is pending outgrows what was thought to be enough.
#[test]
fn many_distant_matches_come_back_whole() {
    let random = noise(32_000);
    let picks = noise(60_000);
    let message: Vec<u8> = random
        .iter()
        .copied()
        .chain(picks.chunks_exact(2).flat_map(|pick| {
            let at = usize::from(u16::from_be_bytes([pick[0], pick[1]])) % 700;
            random[at..at + 5].to_vec()
        }))
        .collect();
    for level in [1, 3, 6, 9] {
        for memory_level in 1..=9 {
            let settings = CompressorSettings { level, window_bits: 15, memory_level };
            let mut payload = Vec::new();
            assert!(Compressor::new(settings).compress(&message, &mut payload), "{settings:?}");
            assert!(Peer::new(15).inflate(&payload) == message, "{settings:?}");
        }
    }
}

#[test]
fn an_endpoint_may_use_less_than_was_agreed_on() {
    let options = Deflate::server().threshold(0).send_window_bits(9).send_context_takeover(false);
    let config = Config::server().deflate(options);
    let mut endpoint =
        Endpoint::negotiated(agreed(Role::Server, DeflateParameters::default()), config, Clock::new().now());
    let mut sizes = Vec::new();
    let message = "neither refers to the other".repeat(10).into_bytes();
    for _ in 0..2 {
        endpoint.connection.send_slice(MessageKind::Binary, &message).unwrap();
        let frame = transmitted(&mut endpoint).remove(0);
        assert_eq!(Peer::new(9).inflate(&frame.payload), message);
        sizes.push(frame.payload.len());
    }
    assert_eq!(sizes[0], sizes[1], "the second refers to the first");
}

#[test]
fn a_frame_is_made_once_for_many() {
    let settings = CompressorSettings { level: 6, window_bits: 12, memory_level: 5 };
    let mut compressor = Compressor::new(settings);
    let message = "the same for everyone ".repeat(50);
    let frame = encode_frame(MessageKind::Text, message.as_bytes(), &mut compressor).unwrap();
    // A client that has a history, and one that has none.
    for before in [&b""[..], &HELLO] {
        let now = Clock::new().now();
        let mut client =
            Endpoint::negotiated(agreed(Role::Client, DeflateParameters::default()), config(), now);
        client.receive(&compressed(before).bytes(), now);
        client.receive(&frame, now);
        assert_eq!(client.events[1..], [Told::text(&message)]);
    }
    assert_eq!(encode_frame(MessageKind::Binary, &noise(100), &mut compressor), None);
    let server = Connection::new(
        agreed(Role::Server, DeflateParameters::default()),
        Arc::new(Config::server().deflate(Deflate::server())),
        masks,
        Clock::new().now(),
    );
    assert_eq!(server.compressor_settings(), Some(settings));
}

// What is held.

/// The thread's contexts, as a driver keeps them.
#[derive(Debug)]
struct Pool;

thread_local! {
    static KEPT: RefCell<(Vec<Inflater>, Vec<Compressor>)> = RefCell::default();
}

impl ContextPool for Pool {
    fn take_inflater(&self) -> Option<Inflater> {
        KEPT.with_borrow_mut(|kept| kept.0.pop())
    }

    fn keep_inflater(&self, inflater: Inflater) {
        KEPT.with_borrow_mut(|kept| kept.0.push(inflater));
    }

    fn take_compressor(&self, settings: CompressorSettings) -> Option<Compressor> {
        KEPT.with_borrow_mut(|(_, compressors)| {
            let index = compressors.iter().position(|compressor| compressor.settings() == settings)?;
            Some(compressors.swap_remove(index))
        })
    }

    fn keep_compressor(&self, compressor: Compressor) {
        KEPT.with_borrow_mut(|kept| kept.1.push(compressor));
    }
}

impl Pool {
    /// One that has nothing yet.
    fn empty() -> &'static Self {
        KEPT.take();
        &Self
    }

    fn kept(&self) -> (usize, usize) {
        KEPT.with_borrow(|kept| (kept.0.len(), kept.1.len()))
    }
}

#[test]
fn contexts_are_held_for_a_message_only() {
    for parameters in [DeflateParameters::default(), no_takeover(Role::Server), no_takeover(Role::Client)] {
        let pool = Pool::empty();
        let now = Clock::new().now();
        let mut ends: Vec<Endpoint> = (0..10)
            .map(|_| {
                let mut end = Endpoint::negotiated(agreed(Role::Server, parameters), config(), now);
                end.connection.share_contexts(pool);
                end
            })
            .collect();
        assert_eq!(pool.kept(), (0, 0), "nothing is made before it is needed");
        for end in &mut ends {
            end.receive(&compressed(HELLO).sent_by(Role::Client), now);
            end.connection.send_slice(MessageKind::Binary, &pattern(2000)).unwrap();
            assert_eq!(pool.kept(), (1, 1), "one of each serves all");
        }
        // One that is in the middle of a message holds its own.
        ends[0].receive(&compressed(&HELLO[..3]).more().sent_by(Role::Client), now);
        assert_eq!(pool.kept(), (0, 1));
        ends[1].receive(&compressed(HELLO).sent_by(Role::Client), now);
        assert_eq!(pool.kept(), (1, 1));
        ends[0].receive(&Frame::continuation(&HELLO[3..]).sent_by(Role::Client), now);
        assert_eq!(pool.kept(), (2, 1));
        assert_eq!(ends[0].events, [Told::text("Hello"), Told::text("Hello")]);
        // So does one that ends there, no longer than that.
        ends[2].receive(&compressed(&HELLO[..3]).more().sent_by(Role::Client), now);
        assert_eq!(pool.kept(), (1, 1));
        ends[2].connection.abort();
        assert_eq!(pool.kept(), (2, 1));
        // And one that fails.
        ends[3].receive(&compressed([0x06]).sent_by(Role::Client), now);
        assert_eq!(pool.kept(), (2, 1));
        ends[4].receive(&compressed(HELLO).sent_by(Role::Client), now);
        assert_eq!(
            ends[4].events,
            [Told::text("Hello"), Told::text("Hello")],
            "a failed context is clean again"
        );
    }
}

#[test]
fn a_connection_holds_its_windows_and_no_more() {
    let text = "some words that are much alike, as words in a chat are; ".repeat(40);
    let wire = compressed(Stream::new(12, 6).compress(text.as_bytes())).sent_by(Role::Client);
    for (takeover, least, most) in [(true, 2000, 4 << 10), (false, 0, 0)] {
        let pool = Pool::empty();
        let now = Clock::new().now();
        let parameters = DeflateParameters {
            server_no_context_takeover: !takeover,
            client_no_context_takeover: !takeover,
            server_max_window_bits: Some(11),
            client_max_window_bits: Some(11),
        };
        let config = Arc::new(config());
        let mut connection = Connection::new(agreed(Role::Server, parameters), config, masks, now);
        connection.share_contexts(pool);
        let mut exchange = |mut bytes: Vec<u8>| {
            let mut input = &mut bytes[..];
            while connection.receive(&mut input, now).is_some() {}
            connection.send_slice(MessageKind::Text, text.as_bytes()).unwrap();
            let pending = connection.pending_transmit();
            connection.handle_transmitted(pending);
            drop(connection.reclaim_buffer());
        };
        // The first message also brings the pool's contexts into being.
        let ((), first) = allocations::of(|| exchange(wire.clone()));
        let pooled = 46_000 + 128_000;
        assert!(first.kept_bytes > pooled, "{first:?}");
        let ((), second) = allocations::of(|| exchange(wire.clone()));
        assert_eq!(second.kept_bytes, 0, "{takeover}");
        let ((), cost) = allocations::of(|| drop(connection));
        let held = usize::try_from(-cost.kept_bytes).unwrap();
        let own = 512; // The extension's own state, and the configuration.
        assert!((least..=most + own).contains(&held), "{takeover}: {held}");
    }
}

#[test]
fn totals_tell_what_compression_made_of_it() {
    let mut pair = Pair::negotiated(config(), config(), Some(DeflateParameters::default()));
    let text = "again and ".repeat(100);
    pair.client.connection.send_slice(MessageKind::Text, text.as_bytes()).unwrap();
    pair.client.connection.send_slice(MessageKind::Text, b"!").unwrap();
    pair.drive();
    assert_eq!(pair.server.events, [Told::text(&text), Told::text("!")]);
    let sent = pair.client.connection.deflate_totals().unwrap();
    let received = pair.server.connection.deflate_totals().unwrap();
    assert_eq!((sent.sent, received.received), (1000, 1000));
    assert_eq!(sent.sent_compressed, received.received_compressed);
    assert!(sent.sent_compressed < 100, "{sent:?}");
    pair.client.connection.abort();
    assert_eq!(pair.client.connection.deflate_totals(), Some(sent), "they outlive the connection");
}

#[test]
fn the_work_of_compression_is_told_once() {
    let now = Clock::new().now();
    let mut plain = Endpoint::new(Role::Client, config(), now);
    plain.receive(&Frame::binary(pattern(5000)).bytes(), now);
    assert_eq!(plain.connection.take_deflate_work(), 0);
    let mut client = Endpoint::negotiated(agreed(Role::Client, DeflateParameters::default()), config(), now);
    let zeros = Stream::new(15, 9).compress(&vec![0; 1 << 20]);
    for (payload, least) in [
        (&zeros[..], 1 << 20),
        (&HELLO, 1 << 10),
        // A context is primed anew after each final block.
        (&b"\x03\x00".repeat(64), 64 << 10),
        // Blocks that stand for nothing.
        (&[&b"\x00\x00\x00\xff\xff".repeat(1000)[..], &[0]].concat(), 8 * 5000),
    ] {
        client.receive(&Frame::binary(payload).rsv(0b100).bytes(), now);
        let work = client.connection.take_deflate_work();
        assert!((least..2 * least).contains(&work), "{work} for at least {least}");
    }
    client.connection.send_slice(MessageKind::Binary, &noise(10_000)).unwrap();
    let work = client.connection.take_deflate_work();
    assert!(work > 100_000, "{work} for a message that does not shrink");
    assert_eq!(client.connection.take_deflate_work(), 0);
}

// Anything, cut anywhere.

fn parameters() -> impl Strategy<Value = DeflateParameters> {
    let bits = || prop::option::of(8..=15_u8);
    (any::<bool>(), any::<bool>(), bits(), bits()).prop_map(|(server, client, server_bits, client_bits)| {
        DeflateParameters {
            server_no_context_takeover: server,
            client_no_context_takeover: client,
            server_max_window_bits: server_bits,
            client_max_window_bits: client_bits,
        }
    })
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(prop_oneof!["[a-c]{1,9}", "[é-ϿЀ-ӿ]", "[😀-🙏]"], 0..60)
            .prop_map(|words| words.concat().into_bytes()),
        2 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (0..9000_usize).prop_map(pattern),
        1 => (0..70_000_usize).prop_map(|len| vec![b'z'; len]),
    ]
}

/// How a peer of its own kind sends a message.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
struct Sent {
    message: Vec<u8>,
    is_text: bool,
    is_compressed: bool,
    /// Ends its stream with the message (BFINAL), so that nothing refers back beyond it.
    is_final: bool,
    cuts: Vec<Index>,
    /// With a Ping before each frame.
    ping: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let flags = (any::<bool>(), prop::bool::weighted(0.8), prop::bool::weighted(0.2), any::<bool>());
    let cuts = prop::collection::vec(any::<Index>(), 0..4);
    (message(), flags, cuts).prop_map(|(message, (is_text, is_compressed, is_final, ping), cuts)| {
        let is_text = is_text && std::str::from_utf8(&message).is_ok();
        Sent { message, is_text, is_compressed, is_final, cuts, ping }
    })
}

fn wire(role: Role, takeover: bool, messages: &[Sent]) -> (Vec<u8>, Vec<Told>) {
    let mut stream = Stream::new(15, 6);
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for sent in messages {
        if !takeover {
            stream = Stream::new(15, 6);
        }
        let payload = match (sent.is_compressed, sent.is_final) {
            (false, _) => sent.message.clone(),
            (true, false) => stream.compress(&sent.message),
            (true, true) => {
                let mut last = stream.flush(&sent.message, DeflateFlush::Finish);
                stream = Stream::new(15, 6);
                last.push(0);
                last
            }
        };
        let mut cuts: Vec<usize> = sent.cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.extend([0, payload.len()]);
        cuts.sort_unstable();
        for (number, part) in cuts.windows(2).enumerate() {
            let opcode = if number > 0 {
                0x0
            } else if sent.is_text {
                0x1
            } else {
                0x2
            };
            let rsv = if number == 0 && sent.is_compressed { 0b100 } else { 0 };
            let mut frame = Frame::new(opcode, &payload[part[0]..part[1]]).rsv(rsv);
            frame.fin = number + 2 == cuts.len();
            if sent.ping {
                bytes.extend(Frame::ping("?").sent_by(peer(role)));
                expected.push(Told::ping("?"));
            }
            bytes.extend(frame.sent_by(peer(role)));
        }
        expected.push(match sent.is_text {
            true => Told::text(String::from_utf8(sent.message.clone()).unwrap()),
            false => Told::binary(&sent.message),
        });
    }
    (bytes, expected)
}

fn receive(
    role: Role,
    parameters: DeflateParameters,
    bytes: &[u8],
    reads: &[usize],
    now: Instant,
) -> Endpoint {
    let config = Config::server().max_message_size(60_000).deflate(Deflate::server().threshold(100));
    let mut endpoint = Endpoint::negotiated(agreed(role, parameters), config, now);
    let (mut sizes, mut rest) = (reads.iter().cycle(), bytes);
    while !rest.is_empty() {
        let (front, behind) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
        endpoint.receive_with(front, now, |connection, told| {
            let _ = match told {
                Told::Text(text) => connection.send(MessageKind::Text, text.clone().into()),
                Told::Binary(bytes) => connection.send_slice(MessageKind::Binary, bytes),
                _ => Ok(()),
            };
        });
        rest = behind;
    }
    endpoint
}

fn proptest_config(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

fn reads() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..8_usize, 1..200_usize, 1..70_000_usize], 1..6)
}

proptest! {
    #![proptest_config(proptest_config(192))]

    #[test]
    fn any_cut_gives_the_same_events_and_the_same_echoes(
        role in prop::sample::select(&ROLES),
        parameters in parameters(),
        messages in prop::collection::vec(sent(), 0..5),
        flaw in prop::option::of((any::<Index>(), any::<u8>())),
        reads in reads(),
    ) {
        let (mut bytes, _) = wire(role, true, &messages);
        if let (Some((at, byte)), false) = (flaw, bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let now = Clock::new().now();
        let mut whole = receive(role, parameters, &bytes, &[usize::MAX], now);
        let mut cut = receive(role, parameters, &bytes, &reads, now);
        prop_assert_eq!(cut.transmit(), whole.transmit());
        prop_assert_eq!(cut.events, whole.events);
    }

    #[test]
    fn what_another_implementation_compressed_is_told_as_it_was_meant(
        role in prop::sample::select(&ROLES),
        takeover: bool,
        messages in prop::collection::vec(sent(), 0..5),
        reads in reads(),
    ) {
        let parameters = if takeover { DeflateParameters::default() } else { no_takeover(role) };
        let (bytes, expected) = wire(role, takeover, &messages);
        let now = Clock::new().now();
        let mut endpoint = Endpoint::negotiated(agreed(role, parameters), config(), now);
        let mut sizes = reads.iter().cycle();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (front, behind) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            endpoint.receive(front, now);
            rest = behind;
        }
        prop_assert_eq!(endpoint.events, expected);
    }

    #[test]
    fn both_ends_understand_each_other(
        parameters in parameters(),
        levels in (1..=9_u8, 1..=9_u8),
        fragment_size in prop::option::of(1..5000_usize),
        messages in prop::collection::vec((message(), any::<bool>(), 0..3_u8), 1..8),
        pieces in reads(),
    ) {
        let options = Deflate::client().threshold(64).level(levels.0).memory_level(levels.1).send_window_bits(15);
        let config = Config::client().deflate(options).fragment_size(fragment_size);
        let mut pair = Pair::negotiated(config.clone(), config, Some(parameters));
        pair.to_server.cut_into(&pieces);
        pair.to_client.cut_into(&pieces);
        let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
        for (message, by_client, choice) in messages {
            let compress = [Compress::ByThreshold, Compress::Always, Compress::Never][usize::from(choice)];
            let (end, told) = match by_client {
                true => (&mut pair.client, &mut from_client),
                false => (&mut pair.server, &mut from_server),
            };
            end.connection.send_with(MessageKind::Binary, message.clone().into(), compress).unwrap();
            told.push(Told::Binary(message));
        }
        pair.drive();
        prop_assert_eq!(pair.server.events, from_client);
        prop_assert_eq!(pair.client.events, from_server);
    }

    #[test]
    fn connections_that_take_turns_with_compressors_do_not_mix_their_windows(
        steps in prop::collection::vec((0..3_usize, message(), 0..8_u8), 1..30),
        compressors in 1..4_usize,
    ) {
        let pool = Pool::empty();
        let deflate = Deflate::client().threshold(0).send_window_bits(10);
        let config = Config::server().deflate(deflate);
        let parameters = DeflateParameters { server_max_window_bits: Some(10), ..Default::default() };
        let mut pairs: Vec<Pair> =
            (0..3).map(|_| Pair::negotiated(config.clone(), config.clone(), Some(parameters))).collect();
        for pair in &mut pairs {
            pair.server.connection.share_contexts(pool);
        }
        let mut expected = vec![Vec::new(); pairs.len()];
        for (index, message, choice) in steps {
            let connection = &mut pairs[index].server.connection;
            let kind = MessageKind::Binary;
            match choice {
                // Once for all, which every window takes in.
                0 => {
                    let prepared = Prepared::new(kind, message.clone().into());
                    let settings = connection.compressor_settings().expect("it is compressed");
                    match prepared.compress(&mut Compressor::new(settings)) {
                        Some(compressed) => connection.send_precompressed(&prepared, &compressed).unwrap(),
                        None => connection.send_prepared(&prepared).unwrap(),
                    }
                }
                1 => connection.send_with(kind, message.clone().into(), Compress::Never).unwrap(),
                2 => connection.send(kind, noise(message.len()).into()).unwrap(),
                _ => connection.send(kind, message.clone().into()).unwrap(),
            }
            expected[index].push(Told::Binary(if choice == 2 { noise(message.len()) } else { message }));
            KEPT.with_borrow_mut(|kept| kept.1.truncate(compressors));
        }
        for (pair, expected) in pairs.iter_mut().zip(expected) {
            pair.drive();
            prop_assert_eq!(&pair.client.events, &expected);
        }
    }

    #[test]
    fn arbitrary_compressed_bytes_end_the_same_whatever_the_cuts(
        role in prop::sample::select(&ROLES),
        opcode in 1..=2_u8,
        payload in prop::collection::vec(any::<u8>(), 0..200),
        reads in reads(),
    ) {
        let frames = [Frame::new(opcode, payload).rsv(0b100), Frame::ping("still here")];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.sent_by(peer(role))).collect();
        let now = Clock::new().now();
        let whole = receive(role, DeflateParameters::default(), &bytes, &[usize::MAX], now);
        let cut = receive(role, DeflateParameters::default(), &bytes, &reads, now);
        prop_assert_eq!(cut.events, whole.events);
    }
}
