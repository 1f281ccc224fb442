//! Any bytes from the peer: no panic, and the same events whatever the cuts.
#![no_main]

use std::{sync::Arc, time::Instant};

use libfuzzer_sys::fuzz_target;
use wireline_proto::{Config, Connection, Deflate, DeflateParameters, Event, Negotiated, Role};

fuzz_target!(|input: (bool, bool, u8, Vec<u8>)| {
    let (is_server, is_compressed, cut, bytes) = input;
    let whole = told(is_server, is_compressed, &bytes, bytes.len().max(1));
    let cut = told(is_server, is_compressed, &bytes, usize::from(cut).max(1));
    assert_eq!(whole, cut);
});

/// What a connection tells of these bytes, and whether it is still open.
fn told(is_server: bool, is_compressed: bool, bytes: &[u8], piece_len: usize) -> (Vec<String>, bool) {
    let role = if is_server { Role::Server } else { Role::Client };
    let parameters = is_compressed.then(DeflateParameters::default);
    let negotiated = Negotiated::assume_negotiated(role, None).with_deflate(parameters);
    let config = Config::server().max_message_size(32 << 10).deflate(Deflate::server());
    let now = Instant::now();
    let mut connection = Connection::new(negotiated, Arc::new(config), || [0; 4], now);
    let mut events = Vec::new();
    let mut bytes = bytes.to_vec();
    for piece in bytes.chunks_mut(piece_len) {
        let mut piece = piece;
        while let Some(event) = connection.receive(&mut piece, now) {
            events.push(match event {
                Event::Message(message) => {
                    let kind = message.kind();
                    format!("{kind:?} {:x?}", message.into_payload().as_ref())
                }
                Event::Ping(payload) => format!("ping {:x?}", payload.as_ref()),
                Event::Pong(payload) => format!("pong {:x?}", payload.as_ref()),
                other => format!("{other:?}"),
            });
        }
    }
    (events, connection.is_open())
}
