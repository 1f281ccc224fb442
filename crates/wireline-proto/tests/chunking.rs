//! Any input cut anywhere gives the same events and the same bytes out, and any output written in any
//! portions gives the same bytes.
//!
//! Transcripts are mostly valid, often broken in one place, and the limits are small enough to be met.

use bytes::BufMut as _;
use proptest::{prelude::*, sample::Index, test_runner::FileFailurePersistence};
use wireline_proto::{Config, Connection, MessageKind, Role};
use wireline_testkit::{Clock, Endpoint, Frame, LengthForm, Told, frames::pattern, put_together};

const ROLES: [Role; 2] = [Role::Client, Role::Server];

fn proptest_config(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

fn config() -> Config {
    Config::server().max_message_size(80_000).max_frame_size(70_000).max_fragments(6)
}

fn peer(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}

// Transcripts.

/// A part of a valid conversation, and what it makes the receiver tell.
#[derive(Debug, Clone)]
struct Part {
    frames: Vec<Frame>,
    told: Vec<Told>,
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..140),
        1 => (60_000..70_000_usize).prop_map(pattern),
    ]
}

fn text() -> impl Strategy<Value = String> {
    // Short characters and long ones, so that a cut often falls within one.
    prop_oneof![
        8 => prop::collection::vec(prop_oneof!["[a-z]", "[é-ϿЀ-ӿ]", "[€-ퟏ]", "[😀-🙏]"], 0..60)
            .prop_map(|characters| characters.concat()),
        1 => (5_000..16_000_usize).prop_map(|len| "😀".repeat(len)),
    ]
}

fn message() -> impl Strategy<Value = (Frame, Told)> {
    prop_oneof![
        payload().prop_map(|payload| (Frame::binary(&payload), Told::binary(&payload))),
        text().prop_map(|text| (Frame::text(&text), Told::text(text))),
    ]
}

fn control() -> impl Strategy<Value = (Frame, Told)> {
    let payload = || prop::collection::vec(any::<u8>(), 0..126);
    prop_oneof![
        payload().prop_map(|payload| (Frame::ping(&payload), Told::ping(&payload))),
        payload().prop_map(|payload| (Frame::pong(&payload), Told::pong(&payload))),
    ]
}

/// A message in up to five frames, cut anywhere, with control frames between them.
fn fragmented() -> impl Strategy<Value = Part> {
    let cuts = prop::collection::vec((any::<Index>(), prop::option::of(control())), 1..5);
    (message(), cuts).prop_map(|((whole, told), mut cuts)| {
        let len = whole.payload.len();
        cuts.sort_by_key(|(cut, _)| cut.index(len + 1));
        let (mut frames, mut tolds, mut from) = (Vec::new(), Vec::new(), 0);
        for (cut, control) in cuts {
            let to = cut.index(len + 1);
            let opcode = if frames.is_empty() { whole.opcode } else { 0x0 };
            frames.push(Frame::new(opcode, &whole.payload[from..to]).more());
            from = to;
            if let Some((frame, told)) = control {
                frames.push(frame);
                tolds.push(told);
            }
        }
        frames.push(Frame::continuation(&whole.payload[from..]));
        tolds.push(told);
        Part { frames, told: tolds }
    })
}

fn part() -> impl Strategy<Value = Part> {
    let single = |(frame, told)| Part { frames: vec![frame], told: vec![told] };
    prop_oneof![3 => message().prop_map(single), 2 => control().prop_map(single), 3 => fragmented()]
}

/// A frame that ends the conversation: a Close frame of any kind, or a broken rule, or a passed limit.
fn ending() -> impl Strategy<Value = Frame> {
    let payload = || prop::collection::vec(any::<u8>(), 0..100);
    prop_oneof![
        Just(Frame::close_payload("")),
        (900..5_100_u16, "[a-zé€]{0,20}").prop_map(|(code, reason)| Frame::close(code, reason)),
        prop::collection::vec(any::<u8>(), 1..10).prop_map(Frame::close_payload),
        (0..16_u8, any::<bool>(), 0..8_u8, payload())
            .prop_map(|(opcode, fin, rsv, payload)| Frame { fin, ..Frame::new(opcode, payload).rsv(rsv) }),
        payload().prop_map(|text| Frame::text([&b"\xff"[..], &text].concat())),
        "[€😀]{1,9}".prop_map(|text| Frame::text(&text.as_bytes()[..text.len() - 1])),
        "[€😀]{1,9}".prop_map(|text| Frame::text(&text.as_bytes()[..text.len() - 1]).more()),
        payload().prop_map(|payload| Frame::ping([&[0; 100][..], &payload].concat())),
        payload().prop_map(|payload| Frame::binary(payload).length_form(LengthForm::Medium)),
        payload().prop_map(|payload| Frame::binary(payload).length_form(LengthForm::Long)),
        any::<u64>().prop_map(|len| Frame::binary("").declaring(len)),
        (60_000..90_000_usize).prop_map(|len| Frame::binary(vec![1; len]).more()),
        (60_000..90_000_usize).prop_map(|len| Frame::continuation(vec![b'a'; len])),
    ]
}

/// The bytes that an endpoint of this role receives. Sometimes a frame is masked wrongly, sometimes the
/// end is cut off, sometimes rubbish follows.
fn transcript(role: Role) -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::collection::vec(part(), 0..5);
    let endings = prop::collection::vec(ending(), 0..6);
    let rubbish = prop::collection::vec(any::<u8>(), 0..20);
    (parts, endings, prop::option::weighted(0.1, any::<[u8; 4]>()), rubbish, prop::option::of(any::<Index>()))
        .prop_map(move |(parts, endings, wrong_mask, rubbish, keep)| {
            let mut bytes = Vec::new();
            for frame in parts.into_iter().flat_map(|part| part.frames).chain(endings) {
                bytes.extend(frame.sent_by(peer(role)));
            }
            if let Some(key) = wrong_mask {
                let frame = Frame::binary("wrongly masked or not");
                bytes.extend(if role == Role::Client { frame.masked(key) } else { frame }.bytes());
            }
            bytes.extend(rubbish);
            if let Some(keep) = keep {
                bytes.truncate(keep.index(bytes.len() + 1));
            }
            bytes
        })
}

fn role_and_transcript() -> impl Strategy<Value = (Role, Vec<u8>)> {
    prop::sample::select(&ROLES).prop_flat_map(|role| (Just(role), transcript(role)))
}

// Drivers.

/// How a driver goes about it.
#[derive(Debug, Clone)]
struct Manner {
    /// Sizes of the reads, over and over.
    reads: Vec<usize>,
    /// Whether large payloads are read directly where that is offered.
    bulk: bool,
    /// Whether messages come in pieces, which are put together here.
    pieces: bool,
    /// Whether messages are sent back.
    echo: bool,
    /// How much is written after each read; then, at the end, how much at a time.
    write_between: Option<usize>,
    writes: Vec<usize>,
}

impl Manner {
    fn plain(echo: bool) -> Self {
        Self {
            reads: vec![usize::MAX],
            bulk: false,
            pieces: false,
            echo,
            write_between: None,
            writes: vec![usize::MAX],
        }
    }

    fn in_pieces(self) -> Self {
        Self { pieces: true, ..self }
    }
}

fn manner(echo: bool) -> impl Strategy<Value = Manner> {
    let size = || {
        prop_oneof![
            4 => 1..8_usize,
            3 => 1..200_usize,
            2 => 1..5_000_usize,
            2 => 16_000..70_000_usize,
        ]
    };
    let sizes = move || prop::collection::vec(size(), 1..8);
    let between = prop::option::of(0..3_000_usize);
    (sizes(), any::<bool>(), between, sizes()).prop_map(move |(reads, bulk, between, writes)| Manner {
        reads,
        bulk,
        pieces: false,
        echo,
        // With echoes a queue that is drained in between changes which Pings are answered at once.
        write_between: between.filter(|_| !echo),
        writes,
    })
}

/// All that can be seen of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    told: Vec<Told>,
    transmitted: Vec<u8>,
    open: bool,
    receiving: bool,
    shutdown_expected: bool,
    deadline: Option<std::time::Duration>,
}

fn run(role: Role, bytes: &[u8], manner: &Manner) -> Seen {
    let now = Clock::new().now();
    let mut endpoint = Endpoint::new(role, config().receive_in_pieces(manner.pieces), now);
    let mut transmitted = Vec::new();
    let application = if manner.echo { echo } else { |_: &mut Connection, _: &Told| {} };
    let mut sizes = manner.reads.iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = (*sizes.next().expect("there are sizes")).min(rest.len());
        let taken = match endpoint.connection.bulk_buffer() {
            Some(mut buffer) if manner.bulk => {
                let size = size.min(buffer.remaining_mut());
                assert!(size > 0, "a bulk buffer without room");
                buffer.put_slice(&rest[..size]);
                if let Some(told) = endpoint.connection.receive_bulk(now).map(Told::from) {
                    application(&mut endpoint.connection, &told);
                    endpoint.events.push(told);
                }
                size
            }
            _ => {
                endpoint.receive_with(&rest[..size], now, application);
                size
            }
        };
        rest = &rest[taken..];
        if let Some(limit) = manner.write_between {
            transmitted.extend(endpoint.transmit_at_most(limit));
        }
    }
    for limit in manner.writes.iter().cycle() {
        if endpoint.connection.pending_transmit() == 0 {
            break;
        }
        transmitted.extend(endpoint.transmit_at_most(*limit));
    }
    endpoint.take_events();
    let connection = &endpoint.connection;
    Seen {
        transmitted,
        open: connection.is_open(),
        receiving: connection.is_receiving(),
        shutdown_expected: connection.is_shutdown_expected(),
        deadline: connection.poll_timeout().map(|due| due - now),
        told: put_together(endpoint.events),
    }
}

/// An application that sends back what it is told.
fn echo(connection: &mut Connection, told: &Told) {
    let _ = match told {
        Told::Text(text) => connection.send(MessageKind::Text, text.clone().into()),
        Told::Binary(bytes) => connection.send_slice(MessageKind::Binary, bytes),
        _ => Ok(()),
    };
}

/// That the property tests do try the direct reads, and that those give what plain reads give.
#[test]
fn large_payload_read_directly_is_the_same_message() {
    for role in ROLES {
        let payload = pattern(70_000);
        let frames = [Frame::binary(&payload), Frame::text("next")];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.sent_by(peer(role))).collect();
        let now = Clock::new().now();
        for read in [1, 17, 1000, 20_000] {
            let mut endpoint = Endpoint::new(role, config(), now);
            let mut rest = &bytes[..];
            let mut direct = 0;
            while !rest.is_empty() {
                let Some(mut buffer) = endpoint.connection.bulk_buffer() else {
                    let (front, behind) = rest.split_at(read.min(rest.len()));
                    endpoint.receive(front, now);
                    rest = behind;
                    continue;
                };
                let (front, behind) = rest.split_at(read.min(rest.len()).min(buffer.remaining_mut()));
                buffer.put_slice(front);
                direct += front.len();
                rest = behind;
                endpoint.events.extend(endpoint.connection.receive_bulk(now).map(Told::from));
            }
            assert_eq!(endpoint.events, [Told::binary(&payload), Told::text("next")]);
            assert!(direct > 30_000, "{role:?} {read}: {direct} bytes read directly");
        }
    }
}

/// Bytes that lead arbitrary ones past the first header, to where there is state to break.
const STARTS: [&[u8]; 5] = [b"", b"\x81", b"\x82\x85", b"\x02\x80\0\0\0\0", b"\x01\x00\x80"];

proptest! {
    #![proptest_config(proptest_config(256))]

    #[test]
    fn any_cut_gives_the_same_events_and_the_same_bytes_out(
        (role, bytes) in role_and_transcript(),
        manner in manner(false),
    ) {
        let whole = run(role, &bytes, &Manner::plain(false));
        prop_assert_eq!(run(role, &bytes, &manner), whole);
    }

    #[test]
    fn any_cut_gives_the_same_echoes(
        (role, bytes) in role_and_transcript(),
        manner in manner(true),
    ) {
        let whole = run(role, &bytes, &Manner::plain(true));
        prop_assert_eq!(run(role, &bytes, &manner), whole);
    }

    #[test]
    fn any_cut_gives_the_same_messages_in_pieces(
        (role, bytes) in role_and_transcript(),
        manner in manner(false),
    ) {
        let whole = run(role, &bytes, &Manner::plain(false).in_pieces());
        prop_assert_eq!(run(role, &bytes, &manner.in_pieces()), whole);
    }

    #[test]
    fn valid_conversation_is_told_as_it_was_meant(
        role in prop::sample::select(&ROLES),
        parts in prop::collection::vec(part(), 0..6),
        manner in manner(false),
        pieces in any::<bool>(),
    ) {
        let frames = parts.iter().flat_map(|part| &part.frames);
        let bytes: Vec<u8> = frames.clone().flat_map(|frame| frame.sent_by(peer(role))).collect();
        let pongs = frames.filter(|frame| frame.opcode == 0x9).map(|ping| Frame::pong(&ping.payload));
        let expected = Seen {
            transmitted: pongs.flat_map(|pong| pong.sent_by(role)).collect(),
            told: parts.iter().flat_map(|part| part.told.clone()).collect(),
            open: true,
            receiving: true,
            shutdown_expected: false,
            deadline: Some(std::time::Duration::from_secs(20)),
        };
        prop_assert_eq!(run(role, &bytes, &Manner { pieces, ..manner }), expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_end_the_same_whatever_the_cuts(
        role in prop::sample::select(&ROLES),
        start in prop::sample::select(&STARTS),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        manner in manner(false),
    ) {
        let bytes = [start, &bytes].concat();
        prop_assert_eq!(run(role, &bytes, &manner), run(role, &bytes, &Manner::plain(false)));
    }
}
