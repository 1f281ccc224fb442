//! The protocol's hot paths, one at a time, to be counted by `bench/instructions`: `CASE COUNT` runs one of
//! them so often; without arguments it names them.

#![allow(clippy::print_stdout, reason = "a program")]

use std::{hint::black_box, io::IoSlice, sync::Arc};

use wireline_proto::{
    Config, Connection, Event, MessageKind, Negotiated, Opcode, Role,
    frame::{FrameHeader, MAX_HEADER_LEN},
    mask::apply_mask,
};
use wireline_testkit::Clock;

/// One message there and back, over and over.
type Case = (&'static str, fn(usize));

const CASES: [Case; 10] = [
    ("encode-20", |count| encode(Role::Server, 20, count)),
    ("encode-20-masked", |count| encode(Role::Client, 20, count)),
    ("encode-4k", |count| encode(Role::Server, 4095, count)),
    ("decode-text-20", |count| decode(Opcode::Text, 20, count)),
    ("decode-text-512", |count| decode(Opcode::Text, 512, count)),
    ("decode-binary-20", |count| decode(Opcode::Binary, 20, count)),
    ("decode-binary-16k", |count| decode(Opcode::Binary, 16 << 10, count)),
    ("decode-text-16k", |count| decode(Opcode::Text, 16 << 10, count)),
    ("mask-20", |count| mask(20, count)),
    ("mask-16k", |count| mask(16 << 10, count)),
];

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(count)) = (args.next(), args.next()) else {
        return CASES.iter().for_each(|(name, _)| println!("{name}"));
    };
    let (_, run) = CASES.iter().find(|(known, _)| *known == name).expect("a case that exists");
    run(count.parse().expect("a number"));
}

fn connection(role: Role) -> Connection {
    let negotiated = Negotiated::assume_negotiated(role, None);
    Connection::new(negotiated, Arc::new(Config::server()), || KEY, Clock::new().now())
}

/// Letters of one to four bytes, the last one whole.
fn text(len: usize) -> Vec<u8> {
    let mut text: String = "𝄞, 線, провод, and plain words; ".chars().cycle().take(len).collect();
    while text.len() > len {
        text.pop();
    }
    text.push_str(&".".repeat(len - text.len()));
    text.into_bytes()
}

fn encode(role: Role, len: usize, count: usize) {
    let (mut connection, payload) = (connection(role), text(len));
    for _ in 0..count {
        connection.send_slice(MessageKind::Text, black_box(&payload)).expect("it is open");
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = connection.poll_transmit(&mut slices);
        let sent = black_box(&slices[..filled]).iter().map(|slice| slice.len()).sum();
        connection.handle_transmitted(sent);
    }
}

fn decode(opcode: Opcode, len: usize, count: usize) {
    let mut connection = connection(Role::Server);
    let now = Clock::new().now();
    let payload = if opcode == Opcode::Text { text(len) } else { vec![0xA5; len] };
    let mut header = FrameHeader::new(opcode, len as u64);
    header.mask = Some(KEY);
    let mut encoded = [0; MAX_HEADER_LEN];
    let header_len = header.encode(&mut encoded);
    let mut frame = [&encoded[..header_len], &payload].concat();
    apply_mask(&mut frame[header_len..], KEY, 0);
    let mut buffer = frame.clone();
    for _ in 0..count {
        buffer.copy_from_slice(&frame);
        let mut input = &mut buffer[..];
        while let Some(event) = connection.receive(&mut input, now) {
            assert!(matches!(black_box(event), Event::Message(_)));
        }
    }
}

fn mask(len: usize, count: usize) {
    let mut payload = vec![0xA5; len];
    for _ in 0..count {
        apply_mask(black_box(&mut payload), KEY, 0);
    }
}
