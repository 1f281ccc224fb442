//! Any bytes as one compressed message: bounded in output and in time.
#![no_main]

use std::{sync::Arc, time::Duration, time::Instant};

use libfuzzer_sys::fuzz_target;
use wireline_proto::{
    Config, Connection, Deflate, DeflateParameters, Event, Negotiated, Opcode, Role,
    frame::{FrameHeader, MAX_HEADER_LEN},
};

/// Small, so that inputs come to it.
const LIMIT: usize = 64 << 10;

/// Generous, since a sanitizer slows everything down and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(1);

fuzz_target!(|input: (bool, u8, bool, u8, Vec<u8>)| {
    let (no_takeover, bits, is_text, cut, payload) = input;
    let parameters = DeflateParameters {
        client_no_context_takeover: no_takeover,
        client_max_window_bits: Some(8 + bits % 8),
        ..Default::default()
    };
    let negotiated = Negotiated::assume_negotiated(Role::Server, None).with_deflate(Some(parameters));
    let config = Config::server().max_message_size(LIMIT).deflate(Deflate::server());
    let now = Instant::now();
    let mut connection = Connection::new(negotiated, Arc::new(config), || [0; 4], now);
    // Twice, so that the second message may refer to the first.
    for _ in 0..2 {
        let mut bytes = frame(is_text, &payload);
        for piece in bytes.chunks_mut(usize::from(cut).max(1) * 7) {
            let mut piece = piece;
            while let Some(event) = connection.receive(&mut piece, now) {
                if let Event::Message(message) = event {
                    assert!(message.into_payload().as_ref().len() <= LIMIT);
                }
            }
        }
    }
    assert!(now.elapsed() < PATIENCE, "{:?} for {} bytes", now.elapsed(), payload.len());
});

fn frame(is_text: bool, payload: &[u8]) -> Vec<u8> {
    let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
    let header = FrameHeader::new(opcode, payload.len() as u64);
    let mut encoded = [0; MAX_HEADER_LEN];
    let len = FrameHeader { rsv1: true, mask: Some([0; 4]), ..header }.encode(&mut encoded);
    [&encoded[..len], payload].concat()
}
