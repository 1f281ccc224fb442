//! No input makes a connection hold more than its configuration allows: limits are met at the header, a
//! declared length costs nothing, and what was held is given back. Bytes are counted by the allocator.

use std::{hint::black_box, io::IoSlice, mem::size_of, sync::Arc, time::Instant};

use bytes::BufMut as _;
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use wireline_proto::{
    Cause, Config, Connection, Event, Initiator, MessageKind, Negotiated, Payload, Prepared, ProtocolError,
    Role, SendError, frame::FrameError,
};
use wireline_testkit::{
    Clock, Endpoint, Frame,
    allocations::{self, CountingAllocator},
    frames::masks,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// What an ended connection may hold: its outcome, and a Close frame to send.
const SMALL_CHANGE: usize = 1024;

fn opened(role: Role, config: Config) -> (Connection, Instant) {
    let now = Clock::new().now();
    (Connection::new(Negotiated::assume_negotiated(role, None), Arc::new(config), masks, now), now)
}

fn wire(role: Role, frame: &Frame) -> Vec<u8> {
    frame.sent_by(match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    })
}

/// Receives without allocating anything itself; how many messages came.
fn receive(connection: &mut Connection, mut bytes: &mut [u8], now: Instant) -> usize {
    let mut messages = 0;
    while let Some(event) = connection.receive(&mut bytes, now) {
        messages += usize::from(matches!(black_box(event), Event::Message(_)));
    }
    messages
}

/// Transmits everything without allocating anything itself.
fn transmit(connection: &mut Connection) {
    loop {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = connection.poll_transmit(&mut slices);
        let count = slices[..filled].iter().map(|slice| slice.len()).sum();
        if count == 0 {
            return;
        }
        connection.handle_transmitted(count);
    }
}

/// Why an endpoint with this configuration fails on the frames, if it does.
fn failure(role: Role, config: &Config, frames: &[Frame]) -> Option<ProtocolError> {
    let now = Clock::new().now();
    let mut endpoint = Endpoint::new(role, config.clone(), now);
    for frame in frames {
        endpoint.receive(&wire(role, frame), now);
    }
    let transmitted = endpoint.transmit();
    match endpoint.outcome()?.cause? {
        Cause::Protocol(error) => {
            let close = Frame::close(error.close_code().into(), "").sent_by(role);
            assert!(transmitted.ends_with(&close), "{error}: {transmitted:x?}");
            Some(error)
        }
        cause => panic!("{cause}"),
    }
}

// What is declared.

#[test]
fn header_that_declares_more_than_the_limit_fails_before_any_payload() {
    for role in ROLES {
        for config in
            [Config::server(), Config::client(), Config::server().max_message_size(0).max_frame_size(5)]
        {
            for declared in [(64 << 20) + 1, 1 << 32, 1 << 62, (1 << 63) - 1] {
                for frame in [Frame::binary(""), Frame::text(""), Frame::binary("").more()] {
                    let frame = frame.declaring(declared);
                    let error = failure(role, &config, std::slice::from_ref(&frame)).expect("too big");
                    assert_eq!(error.close_code(), 1009, "{frame:?}");
                    let continued = [Frame::text("").more(), Frame::continuation("").declaring(declared)];
                    assert_eq!(
                        failure(role, &config, &continued).map(|error| error.close_code()),
                        Some(1009.into())
                    );
                }
            }
            for declared in [1 << 63, u64::MAX] {
                let error = failure(role, &config, &[Frame::binary("").declaring(declared)]);
                assert_eq!(error, Some(FrameError::LengthTopBit.into()));
            }
        }
    }
}

#[test]
fn refused_header_costs_no_more_than_the_answer() {
    for role in ROLES {
        for declared in [1 << 62, 1 << 63] {
            let mut header = wire(role, &Frame::binary("").declaring(declared));
            let (mut connection, now) = opened(role, Config::client());
            let ((), cost) = allocations::of(|| {
                receive(&mut connection, &mut header, now);
            });
            assert!(!connection.is_receiving());
            assert!(cost.peak_bytes < SMALL_CHANGE, "{role:?} {declared}: {cost:?}");
        }
    }
}

#[test]
fn declared_length_allocates_nothing_but_the_state_of_a_cut_frame() {
    for role in ROLES {
        for frame in [Frame::binary(""), Frame::text(""), Frame::binary("").more()] {
            let mut header = wire(role, &frame.declaring(64 << 20));
            let (mut connection, now) = opened(role, Config::client());
            let ((), cost) = allocations::of(|| {
                receive(&mut connection, &mut header, now);
            });
            assert!(connection.is_open());
            assert!(cost.count <= 1 && cost.peak_bytes <= 128, "{role:?}: {cost:?}");
        }
    }
}

#[test]
fn direct_read_of_a_large_declared_payload_takes_64_kib_at_first() {
    for role in ROLES {
        let mut header = wire(role, &Frame::binary("").declaring(64 << 20));
        let (mut connection, now) = opened(role, Config::client());
        receive(&mut connection, &mut header, now);
        let (room, cost) = allocations::of(|| {
            let mut buffer = connection.bulk_buffer().expect("there is much to come");
            (buffer.remaining_mut(), buffer.chunk_mut().len())
        });
        assert_eq!(room, (64 << 20, 64 << 10));
        assert_eq!(cost.peak_bytes, 64 << 10);
    }
}

#[test]
fn memory_follows_what_came_and_not_what_was_declared() {
    for role in ROLES {
        for direct in [false, true] {
            let (mut connection, now) = opened(role, Config::client());
            receive(&mut connection, &mut wire(role, &Frame::binary("").declaring(64 << 20)), now);
            let mut chunk = [0; 1000];
            for received in (1000..=2_000_000).step_by(1000) {
                // The peak of one step includes the move to a larger buffer; what is kept must not.
                let (_, cost) = allocations::of(|| match connection.bulk_buffer() {
                    Some(mut buffer) if direct => {
                        buffer.put_slice(&chunk);
                        assert_eq!(connection.receive_bulk(now), None);
                    }
                    _ => assert_eq!(receive(&mut connection, &mut chunk, now), 0),
                });
                let bound = (2 * received).max(64 << 10) + SMALL_CHANGE;
                assert!(cost.peak_bytes <= bound, "{role:?} direct {direct}: {received} received, {cost:?}");
            }
        }
    }
}

// The limits, to the byte.

#[test]
fn message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    let limit = 1000;
    let config = Config::server().max_message_size(limit);
    let too_big = |announced| Some(ProtocolError::MessageTooBig { announced, limit });
    for role in ROLES {
        let single = |len| failure(role, &config, &[Frame::binary(vec![0; len])]);
        assert_eq!(single(limit), None);
        assert_eq!(single(limit + 1), too_big(1001));
        let fragments = |first, second| {
            let frames = [Frame::text(vec![b'a'; first]).more(), Frame::continuation(vec![b'a'; second])];
            failure(role, &config, &frames)
        };
        assert_eq!(fragments(limit, 0), None);
        assert_eq!(fragments(0, limit), None);
        assert_eq!(fragments(400, 600), None);
        assert_eq!(fragments(400, 601), too_big(1001));
        assert_eq!(fragments(limit, 1), too_big(1001));
        // What came before does not count for the next message, and control frames do not count.
        let frames = [
            Frame::binary(vec![0; limit]),
            Frame::binary(vec![0; limit]).more(),
            Frame::ping([0; 125]),
            Frame::continuation(""),
            Frame::binary(vec![0; limit]),
        ];
        assert_eq!(failure(role, &config, &frames), None);
    }
}

#[test]
fn frame_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    let limit = 100;
    let config = Config::server().max_frame_size(limit);
    for role in ROLES {
        let frames = |len| {
            [Frame::text("").more(), Frame::continuation(vec![b'a'; len]).more(), Frame::continuation("")]
        };
        assert_eq!(failure(role, &config, &frames(limit)), None);
        let error = Some(ProtocolError::FrameTooBig { announced: 101, limit });
        assert_eq!(failure(role, &config, &frames(limit + 1)), error);
        assert_eq!(failure(role, &config, &[Frame::binary([0; 101])]), error);
        assert_eq!(
            failure(role, &config, &[Frame::ping([0; 125])]),
            None,
            "control frames have a limit of their own"
        );
    }
}

#[test]
fn limits_of_zero_let_empty_messages_and_control_frames_through() {
    let config = Config::server().max_message_size(0).max_frame_size(0);
    for role in ROLES {
        assert_eq!(
            failure(role, &config, &[Frame::text(""), Frame::binary(""), Frame::ping([1; 125])]),
            None
        );
        assert!(failure(role, &config, &[Frame::text("a")]).is_some());
    }
}

#[test]
fn largest_limits_do_not_overflow() {
    let config = Config::server().max_message_size(usize::MAX).max_frame_size(usize::MAX);
    for role in ROLES {
        let frames = [Frame::binary("x").more(), Frame::continuation("").declaring((1 << 63) - 1)];
        assert_eq!(failure(role, &config, &frames), None);
    }
}

#[test]
fn message_may_have_as_many_fragments_as_the_limit_says_empty_ones_counted() {
    for limit in [1_u32, 2, 5] {
        let config = Config::server().max_fragments(limit);
        for role in ROLES {
            for payload in ["", "a"] {
                let message = |count: u32| {
                    let mut frames: Vec<Frame> = (0..count)
                        .map(|i| {
                            if i == 0 { Frame::text(payload) } else { Frame::continuation(payload) }.more()
                        })
                        .collect();
                    frames.last_mut().expect("there is one").fin = true;
                    frames
                };
                let two = [message(limit), vec![Frame::ping(""); 10], message(limit)].concat();
                assert_eq!(failure(role, &config, &two), None, "counted afresh for each message");
                let error = Some(ProtocolError::TooManyFragments { limit });
                assert_eq!(failure(role, &config, &message(limit + 1)), error);
            }
        }
    }
}

#[test]
fn default_fragment_limit_is_131_072() {
    for role in ROLES {
        let (mut connection, now) = opened(role, Config::server());
        let mut next = |frame: &Frame| receive(&mut connection, &mut wire(role, frame), now);
        next(&Frame::binary("").more());
        for _ in 1..131_072 {
            next(&Frame::continuation("").more());
        }
        assert!(connection.is_open());
        receive(&mut connection, &mut wire(role, &Frame::continuation("")), now);
        assert!(!connection.is_open());
    }
}

#[test]
fn fragment_costs_nothing_of_its_own() {
    for role in ROLES {
        let (mut connection, now) = opened(role, Config::server());
        receive(&mut connection, &mut wire(role, &Frame::binary("a").more()), now);
        let fragment = wire(role, &Frame::continuation("b").more());
        let (_, cost) = allocations::of(|| {
            for _ in 1..100_000 {
                let mut bytes = [0; 16];
                let bytes = &mut bytes[..fragment.len()];
                bytes.copy_from_slice(&fragment);
                receive(&mut connection, bytes, now);
            }
        });
        assert!(connection.is_open());
        assert!(cost.peak_bytes <= 2 * 100_000 + SMALL_CHANGE, "{cost:?}");
        assert!(cost.count < 30, "{cost:?}");
    }
}

// A peer that sends and does not read.

#[test]
fn ping_flood_without_reading_stays_bounded() {
    for role in ROLES {
        for len in [0, 1, 125] {
            let (mut connection, now) = opened(role, Config::server());
            let ping = wire(role, &Frame::ping(vec![7; len]));
            let ((), cost) = allocations::of(|| {
                for _ in 0..1_000_000 / (len + 10) {
                    let mut bytes = [0; 256];
                    let bytes = &mut bytes[..ping.len()];
                    bytes.copy_from_slice(&ping);
                    receive(&mut connection, bytes, now);
                }
            });
            assert!(connection.is_open());
            assert!(connection.pending_transmit() <= (16 << 10) + 131, "{}", connection.pending_transmit());
            assert!(cost.peak_bytes <= 64 << 10, "{cost:?}");
        }
    }
}

#[test]
fn ping_flood_behind_unsent_messages_adds_one_pong_at_most() {
    for role in ROLES {
        let now = Clock::new().now();
        let mut endpoint = Endpoint::new(role, Config::server(), now);
        endpoint.connection.send_slice(MessageKind::Binary, &[0; 20_000]).unwrap();
        let before = endpoint.connection.pending_transmit();
        for count in 0..1000_u32 {
            endpoint.receive(&wire(role, &Frame::ping(count.to_be_bytes())), now);
        }
        assert_eq!(endpoint.connection.pending_transmit(), before);
        let sent = Frame::read_all(&endpoint.transmit());
        let payloads: Vec<&[u8]> = sent[1..].iter().map(|frame| &frame.payload[..]).collect();
        assert_eq!(payloads, [999_u32.to_be_bytes()], "the latest Ping is answered, as section 5.5.3 allows");
        assert_eq!(sent[1].opcode, 0xA);
        assert_eq!(endpoint.events.len(), 1000);
        // The debt is paid: the next Ping is answered as ever.
        endpoint.receive(&wire(role, &Frame::ping("next")), now);
        assert_eq!(endpoint.transmit(), Frame::pong("next").sent_by(role));
    }
}

#[test]
fn keepalive_towards_a_peer_that_sends_and_does_not_read_stays_bounded() {
    let (mut connection, mut now) = opened(Role::Server, Config::server());
    connection.pause_receiving(true, now);
    for _ in 0..100_000 {
        let Some(due) = connection.poll_timeout() else { break };
        now = now.max(due);
        connection.handle_timeout(now);
    }
    assert!(connection.is_open());
    assert!(connection.pending_transmit() <= 16 << 10, "{}", connection.pending_transmit());
}

// What is given back.

#[test]
fn small_echo_allocates_nothing_when_the_send_buffer_is_warm() {
    for role in ROLES {
        for frame in
            [Frame::text("twenty bytes of text"), Frame::binary(vec![0; 3000]), Frame::ping("are you there")]
        {
            let (mut connection, now) = opened(role, Config::server());
            let burst: Vec<u8> = wire(role, &frame).repeat(16);
            let mut input = burst.clone();
            let mut once = |connection: &mut Connection| {
                input.copy_from_slice(&burst);
                let mut bytes = &mut input[..];
                while let Some(event) = connection.receive(&mut bytes, now) {
                    if let Event::Message(message) = event {
                        connection.send_slice(message.kind(), message.payload()).unwrap();
                    }
                }
                assert!(connection.pending_transmit() >= 16 * frame.payload.len());
                transmit(connection);
            };
            once(&mut connection);
            let ((), cost) = allocations::of(|| (0..100).for_each(|_| once(&mut connection)));
            assert_eq!((cost.count, cost.kept_bytes), (0, 0), "{role:?} {frame:?}");
        }
    }
}

#[test]
fn small_echo_in_a_lent_buffer_allocates_nothing_at_all() {
    for role in ROLES {
        let (mut connection, now) = opened(role, Config::server());
        let mut input = wire(role, &Frame::text("hi"));
        let mut shared = Vec::with_capacity(1000);
        let (buffer, cost) = allocations::of(|| {
            connection.lend_buffer(|| std::mem::take(&mut shared));
            assert_eq!(receive(&mut connection, &mut input, now), 1);
            connection.send_slice(MessageKind::Text, b"hi").unwrap();
            assert_eq!(connection.reclaim_buffer(), None, "not while something is queued");
            transmit(&mut connection);
            connection.reclaim_buffer()
        });
        assert_eq!(cost.count, 0);
        assert_eq!(buffer.map(|buffer| (buffer.len(), buffer.capacity())), Some((0, 1000)));
        assert_eq!(connection.reclaim_buffer(), None);
    }
}

/// What an open connection holds after `life`, its send buffer reclaimed.
#[track_caller]
fn holds_nothing_after(what: &str, life: impl Fn(&mut Connection, Role, Instant)) {
    for role in ROLES {
        let (mut connection, now) = opened(role, Config::server());
        let ((), cost) = allocations::of(|| {
            life(&mut connection, role, now);
            transmit(&mut connection);
            drop(connection.reclaim_buffer());
        });
        assert!(connection.is_open(), "{what}");
        assert_eq!(cost.kept_bytes, 0, "{role:?} after {what}");
    }
}

#[test]
fn idle_connection_owns_no_buffers_after_received_messages() {
    let give = |connection: &mut Connection, role, now, frame: &Frame| {
        let bytes = wire(role, frame);
        for size in [1, 100, usize::MAX] {
            for piece in bytes.chunks(size) {
                receive(connection, &mut piece.to_vec(), now);
            }
        }
    };
    holds_nothing_after("nothing", |_, _, _| {});
    holds_nothing_after("messages and Pings", |connection, role, now| {
        for frame in [Frame::text("é".repeat(100)), Frame::binary(vec![0; 100_000]), Frame::ping([1; 125])] {
            give(connection, role, now, &frame);
        }
    });
    holds_nothing_after("fragments", |connection, role, now| {
        for frame in [Frame::text("a").more(), Frame::ping("b"), Frame::continuation("c")] {
            receive(connection, &mut wire(role, &frame), now);
        }
    });
}

#[test]
fn idle_connection_owns_no_buffers_after_small_messages_were_sent() {
    holds_nothing_after("a small message", |connection, _, _| {
        connection.send_slice(MessageKind::Text, b"hi").unwrap();
    });
    holds_nothing_after("a Ping that had to wait", |connection, role, now| {
        connection.send_slice(MessageKind::Binary, &[0; 50_000]).unwrap();
        for payload in ["a", "b"] {
            receive(connection, &mut wire(role, &Frame::ping(payload)), now);
        }
    });
}

#[test]
fn idle_connection_owns_no_buffers_after_a_large_message_was_sent() {
    holds_nothing_after("a large message", |connection, _, _| {
        connection.send(MessageKind::Binary, vec![0; 100_000].into()).unwrap();
    });
}

type Ending = fn(&mut Connection, Role, Instant);

#[test]
fn ended_connection_lets_go_of_a_half_received_message() {
    let endings: [(&str, Ending); 6] = [
        ("a broken frame", |connection, role, now| {
            receive(connection, &mut wire(role, &Frame::text("").rsv(1)), now);
        }),
        ("a Close frame", |connection, role, now| {
            receive(connection, &mut wire(role, &Frame::close(1000, "")), now);
        }),
        ("the end of file", |connection, _, _| connection.receive_eof()),
        ("a transport error", |connection, _, _| connection.handle_transport_error()),
        ("an abort", |connection, _, _| connection.abort()),
        ("a missed deadline", |connection, _, now| {
            connection.close(None, Initiator::User, now);
            connection.handle_timeout(now + std::time::Duration::from_secs(5));
        }),
    ];
    for role in ROLES {
        for (what, end) in endings {
            let (mut connection, now) = opened(role, Config::server());
            let ((), cost) = allocations::of(|| {
                receive(&mut connection, &mut wire(role, &Frame::binary(vec![0; 500_000]).more()), now);
                end(&mut connection, role, now);
            });
            assert!(!connection.is_receiving(), "{what}");
            assert!(cost.kept_bytes < SMALL_CHANGE as isize, "{role:?} after {what}: {cost:?}");
        }
    }
}

#[test]
fn given_up_connection_lets_go_of_what_was_queued() {
    for role in ROLES {
        let (mut connection, now) = opened(role, Config::server());
        let ((), cost) = allocations::of(|| {
            connection.send(MessageKind::Binary, vec![0; 500_000].into()).unwrap();
            connection.send_slice(MessageKind::Binary, &[0; 500_000]).unwrap();
            connection.close(None, Initiator::User, now);
            connection.abort();
        });
        assert_eq!(connection.pending_transmit(), 0);
        assert!(cost.kept_bytes < SMALL_CHANGE as isize, "{cost:?}");
    }
}

#[test]
fn message_that_lies_whole_in_the_input_is_not_copied() {
    for role in ROLES {
        let (mut connection, now) = opened(role, Config::client());
        let mut bytes = wire(role, &Frame::binary(vec![1; 1 << 20]));
        let mut input = &mut bytes[..];
        let (event, cost) = allocations::of(|| connection.receive(&mut input, now));
        let Some(Event::Message(message)) = event else { panic!("{event:?}") };
        assert!(matches!(message.into_payload(), Payload::Borrowed(_)));
        assert_eq!(cost.count, 0);
    }
}

/// A payload is sent by reference because it is large. In small frames it is not.
#[test]
fn large_message_in_small_frames_is_not_an_allocation_and_a_slice_for_each() {
    for role in ROLES {
        let (mut connection, _) = opened(role, Config::server().fragment_size(64));
        let payload = vec![1; 64 << 10].into();
        let ((), cost) = allocations::of(|| connection.send(MessageKind::Binary, payload).unwrap());
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = connection.poll_transmit(&mut slices);
        let first_write: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
        assert!(cost.count < 64, "{role:?}: {cost:?}");
        assert!(first_write > 32 << 10, "{role:?}: {first_write} bytes in 16 slices");
    }
}

/// 10,000 idle connections are to cost little; this part of each is known exactly.
#[test]
fn connection_itself_is_small() {
    const CEILING: usize = 208;
    let size = size_of::<Connection>();
    assert!(size <= CEILING, "a Connection has {size} bytes");
    assert!(size > CEILING - 32, "a Connection has only {size} bytes: lower the ceiling");
}

// Anything at all.

#[derive(Debug, Clone)]
struct Attack {
    frames: Vec<Frame>,
    reads: usize,
}

/// Frames that are often valid, so that state builds up; lengths that are often lies.
fn attack() -> impl Strategy<Value = Attack> {
    let opcode = prop_oneof![8 => prop::sample::select(&[0x0_u8, 0x2, 0x9, 0x0, 0x0]), 1 => 0..16_u8];
    let len = prop_oneof![8 => 0..126_usize, 4 => 126..3_000_usize, 1 => 3_000..70_000_usize];
    let lie = prop::option::weighted(0.05, any::<u64>());
    let frame = (opcode, len, any::<bool>(), lie).prop_map(|(opcode, len, fin, declared)| {
        let fin = fin || opcode & 0x8 != 0;
        let len = if opcode & 0x8 == 0 { len } else { len % 126 };
        Frame { fin, declared, ..Frame::new(opcode, vec![b'x'; len]) }
    });
    (prop::collection::vec(frame, 0..200), 1..30_000_usize)
        .prop_map(|(frames, reads)| Attack { frames, reads })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_input_makes_a_connection_hold_more_than_its_limits(
        role in prop::sample::select(&ROLES),
        attack in attack(),
        direct: bool,
    ) {
        let limit = 60_000;
        let (mut connection, now) = opened(role, Config::server().max_message_size(limit));
        let mut bytes: Vec<u8> = attack.frames.iter().flat_map(|frame| wire(role, frame)).collect();
        let ((), cost) = allocations::of(|| {
            for mut piece in bytes.chunks_mut(attack.reads) {
                if direct && let Some(mut buffer) = connection.bulk_buffer() {
                    let (front, rest) = piece.split_at_mut(piece.len().min(buffer.remaining_mut()));
                    buffer.put_slice(front);
                    black_box(connection.receive_bulk(now));
                    piece = rest;
                }
                receive(&mut connection, piece, now);
            }
        });
        // A message that grows may need room for twice what came; Pongs wait in at most 16 KiB, in a
        // buffer that grew by doubling.
        let bound = 2 * limit + (32 << 10) + 2 * SMALL_CHANGE;
        prop_assert!(cost.peak_bytes <= bound, "{:?}", cost);
    }
}

#[test]
fn prepared_message_is_framed_once_and_its_bytes_are_shared() {
    const LEN: usize = 64 << 10;
    let (frame, cost) = allocations::of(|| Prepared::new(MessageKind::Binary, vec![7; LEN].into()));
    assert!(cost.kept_bytes.unsigned_abs() < LEN + 128, "{cost:?}");
    let mut connections: Vec<_> = (0..100).map(|_| opened(Role::Server, Config::server()).0).collect();
    let ((), cost) = allocations::of(|| {
        for connection in &mut connections {
            connection.send_prepared(&frame).expect("it is open");
        }
    });
    assert!(cost.peak_bytes < 100 * 512, "{cost:?}");
    for connection in &connections {
        let mut slices = [IoSlice::new(&[])];
        assert_eq!(connection.poll_transmit(&mut slices), 1);
        assert_eq!(slices[0].as_ptr(), frame.frame().as_ptr());
        assert_eq!(slices[0].len(), frame.frame().len());
    }
}

#[test]
fn prepared_message_goes_out_as_the_message_itself_would() {
    for (kind, len) in [(MessageKind::Text, 0), (MessageKind::Text, 125), (MessageKind::Binary, 70_000)] {
        for role in [Role::Client, Role::Server] {
            for config in [Config::server(), Config::server().fragment_size(1000)] {
                let payload = bytes::Bytes::from(vec![b'x'; len]);
                let (mut plain, _) = opened(role, config.clone());
                let (mut prepared, now) = opened(role, config);
                plain.send(kind, payload.clone()).expect("it is open");
                prepared.send_prepared(&Prepared::new(kind, payload)).expect("it is open");
                assert_eq!(sent(&mut prepared), sent(&mut plain), "{role:?} {kind:?} {len}");
                prepared.close(None, Initiator::User, now);
                let refused = prepared.send_prepared(&Prepared::new(kind, bytes::Bytes::new()));
                assert_eq!(refused, Err(SendError::Closed));
            }
        }
    }
}

/// All that is queued.
fn sent(connection: &mut Connection) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = connection.poll_transmit(&mut slices);
        if filled == 0 {
            return all;
        }
        let before = all.len();
        slices[..filled].iter().for_each(|slice| all.extend_from_slice(slice));
        let count = all.len() - before;
        connection.handle_transmitted(count);
    }
}
