//! What one peer sends does not hold up the others on its thread: a connection gives way after so much
//! work, be it bytes that were read or what compression makes of them.

use std::{
    io::Write as _,
    net::Shutdown,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use wireline::{Config, Deflate, Message, Request, Server};
use wireline_proto::deflate::{Compressor, CompressorSettings};
use wireline_testkit::{Frame, RawPeer};

/// How long the others' echoes are timed.
const WHILE: Duration = Duration::from_millis(500);

/// What half of them may take at most, without optimization, on a machine that is not idle. A turn is meant
/// to take a few milliseconds, and an echo waits for two.
const AT_MOST: Duration = Duration::from_millis(60);

/// A server that compresses and echoes text; binary messages it only receives.
fn server() -> Server {
    let config = Config::server().deflate(Deflate::server());
    Server::new().config(config).on_request(|req: Request| async move {
        let mut ws = req.accept().await?;
        while let Some(message) = ws.recv().await? {
            if matches!(message, Message::Text(_)) {
                ws.send(message).await?;
            }
        }
        Ok(())
    })
}

/// Sets a flag when it is dropped, so that a panic leaves no thread behind that waits for it.
struct SetOnDrop<'f>(&'f AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Half of the echoes took at most this, on a server of one thread and beside a peer that sent `flood` over
/// and over and took what came back.
fn median_echo_beside(flood: &[u8]) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(async { server().bind("127.0.0.1:0").expect("a port is free") });
    let addr = listener.local_addr().expect("it is bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = std::thread::spawn(move || {
        runtime.spawn(listener.serve());
        let _ = runtime.block_on(stopped);
    });
    let is_over = AtomicBool::new(false);
    let mut echoes = std::thread::scope(|scope| {
        let _over = SetOnDrop(&is_over);
        let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        let flooder = RawPeer::request(addr, offer);
        let mut answers = flooder.second().into_stream();
        scope.spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        scope.spawn(|| {
            let mut flooder = flooder.into_stream();
            while !is_over.load(Ordering::Relaxed) {
                flooder.write_all(flood).expect("the server takes it");
            }
            let _ = flooder.shutdown(Shutdown::Both);
        });
        let mut other = RawPeer::connect(addr);
        let (begin, mut echoes) = (Instant::now(), Vec::new());
        while begin.elapsed() < WHILE {
            let sent = Instant::now();
            other.send(&Frame::text("me too"));
            other.expect(&Frame::text("me too"));
            echoes.push(sent.elapsed());
        }
        echoes
    });
    drop(stop);
    serving.join().expect("the server ends well");
    echoes.sort_unstable();
    echoes[echoes.len() / 2]
}

#[track_caller]
fn does_not_hold_up_others(frame: &Frame) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _this_one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let frame = frame.clone().masked([0; 4]).bytes();
    let median = median_echo_beside(&frame.repeat((64 << 10) / frame.len()));
    eprintln!("half of the echoes take at most {median:?}");
    assert!(median < AT_MOST, "half of the echoes take more than {median:?}");
}

fn zeros() -> Vec<u8> {
    let settings = CompressorSettings { level: 6, window_bits: 15, memory_level: 5 };
    let mut payload = Vec::new();
    assert!(Compressor::new(settings).compress(&[0; 1 << 20], &mut payload), "it shrinks");
    payload
}

/// Eight dynamic blocks (RFC 1951 section 3.2.7), each of which describes its codes in 107 bits and ends.
#[rustfmt::skip]
const EIGHT_BLOCKS: [u8; 107] = [
    0x04, 0xe0, 0xdb, 0x92, 0x24, 0x49, 0x92, 0x2c, 0xcb, 0xfe, 0xff, 0x5f, 0x23, 0x22, 0x00, 0xdf, 0x96,
    0x24, 0x49, 0x92, 0x64, 0x59, 0xf6, 0xff, 0xff, 0x1a, 0x11, 0x01, 0xf8, 0xb6, 0x24, 0x49, 0x92, 0x24,
    0xcb, 0xb2, 0xff, 0xff, 0xd7, 0x88, 0x08, 0xc0, 0xb7, 0x25, 0x49, 0x92, 0x24, 0x59, 0x96, 0xfd, 0xff,
    0xbf, 0x46, 0x44, 0x00, 0xbe, 0x2d, 0x49, 0x92, 0x24, 0xc9, 0xb2, 0xec, 0xff, 0xff, 0x35, 0x22, 0x02,
    0xf0, 0x6d, 0x49, 0x92, 0x24, 0x49, 0x96, 0x65, 0xff, 0xff, 0xaf, 0x11, 0x11, 0x80, 0x6f, 0x4b, 0x92,
    0x24, 0x49, 0xb2, 0x2c, 0xfb, 0xff, 0x7f, 0x8d, 0x88, 0x00, 0x7c, 0x5b, 0x92, 0x24, 0x49, 0x92, 0x65,
    0xd9, 0xff, 0xff, 0x6b, 0x44,
];

#[test]
fn a_flood_of_messages_of_a_kilobyte_that_are_a_mebibyte_does_not_hold_up_others() {
    does_not_hold_up_others(&Frame::binary(zeros()).rsv(0b100));
}

#[test]
fn a_flood_of_such_messages_that_are_echoed_does_not_hold_up_others() {
    does_not_hold_up_others(&Frame::text(zeros()).rsv(0b100));
}

#[test]
fn a_flood_of_small_compressed_messages_does_not_hold_up_others() {
    // "Hello": what it costs to begin on a message is most of it.
    does_not_hold_up_others(&Frame::binary([0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]).rsv(0b100));
}

#[test]
fn a_flood_of_final_blocks_does_not_hold_up_others() {
    // After each, the window is put in anew.
    does_not_hold_up_others(&Frame::binary(b"\x03\x00".repeat(64)).rsv(0b100));
}

#[test]
fn a_flood_of_blocks_that_describe_their_codes_and_use_none_does_not_hold_up_others() {
    does_not_hold_up_others(&Frame::binary([&EIGHT_BLOCKS.repeat(600)[..], &[0]].concat()).rsv(0b100));
}
