//! Connections under virtual time: keepalive, close deadlines, and every way in which a transport ends.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use wireline_proto::{
    Cause, CloseCode, CloseFrame, Closed, Config, Connection, Initiator, Keepalive, MessageKind, Role,
};
use wireline_testkit::{Clock, Endpoint, Frame, Pair, Told, frames::pattern};

const ROLES: [Role; 2] = [Role::Client, Role::Server];
const TICK: Duration = Duration::from_nanos(1);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// An endpoint of the default configuration, and the time when it was opened.
fn opened(role: Role) -> (Endpoint, Instant) {
    let now = Clock::new().now();
    (Endpoint::new(role, Config::server(), now), now)
}

fn lost(cause: Cause, initiator: Initiator) -> Told {
    let (code, reason) = (CloseCode::ABNORMAL, String::new());
    Told::Closed(Closed { was_clean: false, code, reason, initiator, cause: Some(cause) })
}

fn clean(code: u16, initiator: Initiator) -> Told {
    Told::Closed(Closed { was_clean: true, code: code.into(), reason: String::new(), initiator, cause: None })
}

/// What goes out when `now` comes.
fn at(endpoint: &mut Endpoint, now: Instant) -> Vec<u8> {
    endpoint.connection.handle_timeout(now);
    endpoint.transmit()
}

// Keepalive.

#[test]
fn ping_goes_out_after_exactly_20_seconds_of_silence() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        assert_eq!(endpoint.connection.poll_timeout(), Some(start + secs(20)));
        assert_eq!(at(&mut endpoint, start + secs(20) - TICK), []);
        assert_eq!(at(&mut endpoint, start + secs(20)), Frame::ping("").sent_by(role));
        assert_eq!(at(&mut endpoint, start + secs(20)), [], "once");
    }
}

#[test]
fn peer_that_is_silent_for_20_seconds_after_the_ping_is_given_up() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        at(&mut endpoint, start + secs(20));
        assert_eq!(endpoint.connection.poll_timeout(), Some(start + secs(40)));
        at(&mut endpoint, start + secs(40) - TICK);
        assert!(endpoint.connection.is_open() && endpoint.events.is_empty());
        assert_eq!(at(&mut endpoint, start + secs(40)), [], "a Close frame would not arrive either");
        assert_eq!(endpoint.events, [lost(Cause::PingTimeout, Initiator::Library)]);
        assert!(endpoint.connection.is_finished());
        assert_eq!(endpoint.connection.poll_timeout(), None);
    }
}

#[test]
fn timeout_counts_from_the_ping_even_if_the_ping_was_late() {
    let (mut endpoint, start) = opened(Role::Server);
    at(&mut endpoint, start + secs(35));
    assert_eq!(endpoint.connection.poll_timeout(), Some(start + secs(55)));
    at(&mut endpoint, start + secs(55) - TICK);
    assert!(endpoint.connection.is_open());
    at(&mut endpoint, start + secs(55));
    assert!(endpoint.connection.is_finished());
}

#[test]
fn anything_received_postpones_the_ping() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        let frames = [Frame::text("x"), Frame::pong("x"), Frame::ping("x"), Frame::binary(vec![0; 100])];
        let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.sent_by(endpoint.peer())).collect();
        let mut now = start;
        for byte in wire {
            now += secs(20) - TICK;
            endpoint.receive(&[byte], now);
            endpoint.transmit();
            assert_eq!(at(&mut endpoint, now), []);
        }
        assert_eq!(at(&mut endpoint, now + secs(20) - TICK), []);
        assert_eq!(at(&mut endpoint, now + secs(20)), Frame::ping("").sent_by(role));
    }
}

#[test]
fn anything_received_after_the_ping_is_a_sign_of_life() {
    for role in ROLES {
        let peer = opened(role).0.peer();
        for sign in [
            Frame::pong("").sent_by(peer),
            Frame::pong("unasked").sent_by(peer),
            Frame::ping("").sent_by(peer),
            Frame::text("").sent_by(peer),
            Frame::text("").sent_by(peer)[..1].to_vec(),
        ] {
            let (mut endpoint, start) = opened(role);
            at(&mut endpoint, start + secs(20));
            let heard = start + secs(40) - TICK;
            endpoint.receive(&sign, heard);
            endpoint.transmit();
            at(&mut endpoint, start + secs(40));
            assert!(endpoint.connection.is_open(), "{role:?} {sign:x?}");
            assert_eq!(endpoint.connection.poll_timeout(), Some(heard + secs(20)), "{role:?} {sign:x?}");
            assert_eq!(at(&mut endpoint, heard + secs(20)), Frame::ping("").sent_by(role));
        }
    }
}

#[test]
fn sign_of_life_does_not_last_forever() {
    let (mut endpoint, start) = opened(Role::Client);
    at(&mut endpoint, start + secs(20));
    endpoint.receive(&Frame::text("last words").bytes(), start + secs(21));
    at(&mut endpoint, start + secs(40));
    assert_eq!(at(&mut endpoint, start + secs(41)), Frame::ping("").sent_by(Role::Client));
    at(&mut endpoint, start + secs(61));
    assert_eq!(endpoint.outcome().and_then(|closed| closed.cause), Some(Cause::PingTimeout));
}

#[test]
fn reading_nothing_is_no_sign_of_life() {
    let (mut endpoint, start) = opened(Role::Server);
    at(&mut endpoint, start + secs(20));
    endpoint.receive(&[], start + secs(30));
    at(&mut endpoint, start + secs(40));
    assert!(endpoint.connection.is_finished());
}

/// `receive_bulk` says that appending no bytes is fine; then nothing was heard either.
#[test]
fn bulk_read_of_nothing_is_no_sign_of_life() {
    let (mut endpoint, start) = opened(Role::Client);
    endpoint.receive(&Frame::binary("").declaring(100_000).bytes(), start);
    at(&mut endpoint, start + secs(20));
    assert!(endpoint.connection.bulk_buffer().is_some());
    assert_eq!(endpoint.connection.receive_bulk(start + secs(30)), None);
    at(&mut endpoint, start + secs(40));
    assert!(endpoint.connection.is_finished());
}

#[test]
fn bulk_read_of_a_byte_is_a_sign_of_life() {
    use bytes::BufMut as _;
    let (mut endpoint, start) = opened(Role::Client);
    endpoint.receive(&Frame::binary("").declaring(100_000).bytes(), start);
    at(&mut endpoint, start + secs(20));
    endpoint.connection.bulk_buffer().unwrap().put_u8(1);
    assert_eq!(endpoint.connection.receive_bulk(start + secs(39)), None);
    at(&mut endpoint, start + secs(40));
    assert_eq!(endpoint.connection.poll_timeout(), Some(start + secs(59)));
}

#[test]
fn pong_to_the_keepalive_ping_gives_the_latency() {
    let (mut endpoint, start) = opened(Role::Client);
    assert_eq!(endpoint.connection.latency(), None);
    at(&mut endpoint, start + secs(20));
    endpoint.receive(&Frame::pong("not the answer").bytes(), start + secs(21));
    assert_eq!(endpoint.connection.latency(), None);
    endpoint.receive(&Frame::pong("").bytes(), start + secs(22));
    assert_eq!(endpoint.connection.latency(), Some(secs(2)));
    endpoint.receive(&Frame::pong("").bytes(), start + secs(25));
    assert_eq!(endpoint.connection.latency(), Some(secs(2)), "nobody asked for the second");
    assert_eq!(endpoint.connection.poll_timeout(), Some(start + secs(45)));
}

#[test]
fn without_keepalive_there_is_no_deadline() {
    let now = Clock::new().now();
    let mut endpoint = Endpoint::new(Role::Server, Config::server().keepalive(None), now);
    assert_eq!(endpoint.connection.poll_timeout(), None);
    assert_eq!(at(&mut endpoint, now + secs(1_000_000)), []);
    assert!(endpoint.connection.is_open());
}

/// The driver need not ask after every message, says `poll_timeout`: receiving moves it to later, unless
/// the timeout is longer than the interval.
#[test]
fn receiving_while_open_never_brings_the_deadline_forward() {
    for (interval, timeout) in [(20, 20), (20, 5)] {
        let keepalive = Keepalive { interval: secs(interval), timeout: secs(timeout) };
        for pong in ["", "unasked"] {
            let start = Clock::new().now();
            let mut client = Endpoint::new(Role::Client, Config::client().keepalive(keepalive), start);
            at(&mut client, start + secs(interval));
            let before = client.connection.poll_timeout();
            client.receive(&Frame::pong(pong).bytes(), start + secs(interval + 1));
            let after = client.connection.poll_timeout();
            assert!(after >= before, "interval {interval}, timeout {timeout}: {:?}", before.zip(after));
        }
    }
}

#[test]
fn longest_durations_mean_never_and_do_not_overflow() {
    let keepalive = Keepalive { interval: Duration::MAX, timeout: Duration::MAX };
    let now = Clock::new().now();
    for role in ROLES {
        let config = Config::server().keepalive(keepalive).close_timeout(Duration::MAX);
        let mut endpoint = Endpoint::new(role, config, now);
        assert_eq!(endpoint.connection.poll_timeout(), None);
        let close = Frame::close(1000, "").sent_by(endpoint.peer());
        endpoint.receive(&close, now);
        endpoint.transmit();
        assert_eq!(endpoint.events, [clean(1000, Initiator::Remote)]);
    }
}

#[test]
fn idle_pair_stays_alive_for_a_day_on_few_pings() {
    let mut pair = Pair::new(Config::client(), Config::server());
    pair.advance(secs(86_400));
    assert!(pair.client.connection.is_open() && pair.server.connection.is_open());
    for log in [&pair.to_server.log, &pair.to_client.log] {
        let frames = Frame::read_all(log).len();
        assert!((86_400 / 20..=2 * 86_400 / 20).contains(&frames), "{frames} frames");
    }
}

#[test]
fn peer_that_vanishes_is_noticed_after_40_seconds_at_both_ends() {
    let mut pair = Pair::new(Config::client(), Config::server());
    pair.client.connection.send_slice(MessageKind::Text, b"hello").unwrap();
    pair.advance(secs(5));
    pair.sever();
    pair.server.connection.send_slice(MessageKind::Text, b"is anyone there?").unwrap();
    // The server heard its peer last, and the client never heard anything.
    pair.advance(secs(35) - TICK);
    assert!(pair.client.connection.is_open() && pair.server.connection.is_open());
    pair.advance(TICK);
    assert_eq!(pair.client.events, [lost(Cause::PingTimeout, Initiator::Library)]);
    assert!(pair.server.connection.is_finished(), "heard at 0 s: given up at 40 s");
    assert_eq!(pair.server.events, [Told::text("hello"), lost(Cause::PingTimeout, Initiator::Library)]);
}

#[test]
fn one_dead_direction_is_noticed_by_the_end_that_hears_nothing() {
    let mut pair = Pair::new(Config::client(), Config::server());
    pair.to_client.hold();
    pair.advance(secs(41));
    assert_eq!(pair.client.outcome().and_then(|closed| closed.cause), Some(Cause::PingTimeout));
    let server = pair.server.outcome().expect("the server saw the end of file");
    assert_eq!((server.cause, server.initiator), (Some(Cause::ConnectionLost), Initiator::Remote));
}

/// Keepalive while the application takes no messages, so that the driver has stopped reading. What the
/// peer sends stays in the socket.
#[test]
fn application_that_never_reads_for_60_seconds_stays_alive_on_both_sides() {
    for busy in ROLES {
        for total in [60, 61, 600] {
            let mut pair = Pair::new(Config::client(), Config::server());
            pair.drive();
            pause(&mut pair, busy, true);
            pair.advance(secs(total));
            assert!(
                pair.client.connection.is_open(),
                "{busy:?} busy for {total} s: client {:?}",
                pair.client
            );
            assert!(
                pair.server.connection.is_open(),
                "{busy:?} busy for {total} s: server {:?}",
                pair.server
            );
            pause(&mut pair, busy, false);
            pair.advance(secs(100));
            assert!(pair.client.connection.is_open() && pair.server.connection.is_open());
        }
    }
}

/// Stops or resumes reading at one end.
fn pause(pair: &mut Pair, role: Role, paused: bool) {
    let now = pair.clock.now();
    let (endpoint, wire) = match role {
        Role::Client => (&mut pair.client, &mut pair.to_client),
        Role::Server => (&mut pair.server, &mut pair.to_server),
    };
    endpoint.connection.pause_receiving(paused, now);
    if paused { wire.hold() } else { wire.release() }
}

#[test]
fn paused_receiving_does_not_fail_and_the_peer_has_its_time_again_afterwards() {
    for role in ROLES {
        // Paused before the Ping, and after it.
        for paused_at in [0, 25] {
            let (mut endpoint, start) = opened(role);
            let mut now = start;
            for second in 0..600 {
                now = start + secs(second);
                if second == paused_at {
                    endpoint.connection.pause_receiving(true, now);
                }
                at(&mut endpoint, now);
                assert!(endpoint.connection.is_open(), "{role:?} at {second} s");
            }
            endpoint.connection.pause_receiving(false, now);
            let mut failed_after = None;
            for second in 1..100 {
                at(&mut endpoint, now + secs(second));
                if failed_after.is_none() && endpoint.connection.is_finished() {
                    failed_after = Some(second);
                }
            }
            let failed_after = failed_after.expect("the peer is dead");
            assert!((20..=40).contains(&failed_after), "{failed_after} s after reading again");
        }
    }
}

/// A slow reader is no dead peer: while it takes bytes, the Ping that waits behind them was not sent.
#[test]
fn peer_that_steadily_takes_what_is_sent_is_not_given_up_before_the_ping_went_out() {
    let (mut server, start) = opened(Role::Server);
    server.connection.send(MessageKind::Binary, vec![0; 1 << 20].into()).unwrap();
    let mut now = start;
    while server.connection.pending_transmit() > 0 && server.connection.is_open() {
        assert!(!server.transmit_at_most(10_000).is_empty());
        now += secs(1);
        server.connection.handle_timeout(now);
    }
    assert!(server.connection.is_open(), "given up after {:?}", now - start);
}

// The close deadline.

#[test]
fn peer_that_does_not_answer_our_close_frame_has_5_seconds() {
    for role in ROLES {
        for initiator in [Initiator::User, Initiator::Library] {
            let (mut endpoint, start) = opened(role);
            let now = start + secs(3);
            endpoint.connection.close(None, initiator, now);
            endpoint.transmit();
            assert_eq!(endpoint.connection.poll_timeout(), Some(now + secs(5)));
            // Data is no answer.
            endpoint.receive(&Frame::text("x").sent_by(endpoint.peer()), now + secs(4));
            at(&mut endpoint, now + secs(5) - TICK);
            assert_eq!(endpoint.events, [Told::text("x")]);
            at(&mut endpoint, now + secs(5));
            assert_eq!(endpoint.events[1..], [lost(Cause::CloseTimeout, initiator)]);
            assert!(endpoint.connection.is_finished());
        }
    }
}

#[test]
fn deadline_holds_though_nothing_could_be_transmitted() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        endpoint.connection.send(MessageKind::Binary, vec![0; 1 << 20].into()).unwrap();
        endpoint.connection.close(None, Initiator::User, start);
        endpoint.transmit_at_most(1000);
        at(&mut endpoint, start + secs(5));
        assert_eq!(endpoint.events, [lost(Cause::CloseTimeout, Initiator::User)]);
        assert_eq!(endpoint.connection.pending_transmit(), 0);
    }
}

#[test]
fn peers_close_frame_starts_the_deadline_afresh() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        endpoint.connection.close(None, Initiator::User, start);
        endpoint.transmit();
        endpoint.receive(&Frame::close(1000, "").sent_by(endpoint.peer()), start + secs(4));
        endpoint.transmit();
        assert_eq!(endpoint.events, [clean(1000, Initiator::User)]);
        assert_eq!(endpoint.connection.poll_timeout(), Some(start + secs(9)));
        at(&mut endpoint, start + secs(9) - TICK);
        assert!(endpoint.connection.is_shutdown_expected() && !endpoint.connection.is_finished());
        at(&mut endpoint, start + secs(9));
        assert!(endpoint.connection.is_finished(), "the peer kept its end open");
        assert_eq!(endpoint.events.len(), 1);
    }
}

#[test]
fn peer_that_closes_and_does_not_take_the_echo_is_not_clean() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        endpoint.receive(&Frame::close(4000, "bye").sent_by(endpoint.peer()), start);
        endpoint.transmit_at_most(1);
        assert_eq!(endpoint.connection.poll_timeout(), Some(start + secs(5)));
        at_without_transmit(&mut endpoint, start + secs(5));
        let closed = Closed {
            was_clean: false,
            code: 4000.into(),
            reason: "bye".into(),
            initiator: Initiator::Remote,
            cause: Some(Cause::CloseTimeout),
        };
        assert_eq!(endpoint.events, [Told::Closed(closed)]);
        assert!(endpoint.connection.is_finished());
    }
}

fn at_without_transmit(endpoint: &mut Endpoint, now: Instant) {
    endpoint.connection.handle_timeout(now);
    endpoint.take_events();
}

#[test]
fn keepalive_does_not_ping_while_closing() {
    let config = || Config::client().close_timeout(secs(1000));
    let mut pair = Pair::new(config(), config());
    pair.to_client.hold();
    let now = pair.clock.now();
    pair.client.connection.close(None, Initiator::User, now);
    pair.advance(secs(500));
    assert_eq!(pair.to_server.log, Frame::close_payload("").sent_by(Role::Client));
    pair.to_client.release();
    pair.drive();
    assert_eq!(pair.client.events, [clean(1005, Initiator::User)]);
}

// The end of the transport.

#[test]
fn clean_close_ends_both_ends_at_once() {
    for closer in ROLES {
        let mut pair = Pair::new(Config::client(), Config::server());
        let now = pair.clock.now();
        let frame = CloseFrame::new(1001, "").unwrap();
        let (closing, other) = match closer {
            Role::Client => (&mut pair.client, &mut pair.server),
            Role::Server => (&mut pair.server, &mut pair.client),
        };
        other.connection.send_slice(MessageKind::Text, b"before the echo").unwrap();
        closing.connection.close(Some(&frame), Initiator::User, now);
        pair.drive();
        let (closing, other) = match closer {
            Role::Client => (&pair.client, &pair.server),
            Role::Server => (&pair.server, &pair.client),
        };
        assert_eq!(closing.events, [Told::text("before the echo"), clean(1001, Initiator::User)]);
        assert_eq!(other.events, [clean(1001, Initiator::Remote)]);
        assert!(closing.connection.is_finished() && other.connection.is_finished());
    }
}

#[test]
fn end_of_file_behind_the_peers_close_frame_still_lets_the_echo_out() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        endpoint.receive(&Frame::close(1000, "").sent_by(endpoint.peer()), start);
        endpoint.connection.receive_eof();
        endpoint.take_events();
        assert_eq!(endpoint.events, [], "nothing was transmitted yet");
        assert_eq!(endpoint.transmit(), Frame::close(1000, "").sent_by(role));
        assert_eq!(endpoint.events, [clean(1000, Initiator::Remote)]);
    }
}

/// The end of file is told once; it must not have to be told again when the echo is out, or the
/// connection waits for its deadline.
#[test]
fn end_of_file_that_came_before_the_echo_went_out_is_remembered() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        endpoint.receive(&Frame::close(1000, "").sent_by(endpoint.peer()), start);
        endpoint.connection.receive_eof();
        endpoint.transmit();
        assert!(endpoint.connection.is_finished(), "{role:?}: waits for an end of file that has been");
    }
}

#[test]
fn end_of_file_after_our_close_frame_is_a_loss_that_we_began() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        endpoint.connection.close(None, Initiator::User, start);
        endpoint.transmit();
        endpoint.connection.receive_eof();
        endpoint.take_events();
        assert_eq!(endpoint.events, [lost(Cause::ConnectionLost, Initiator::User)]);
        assert!(endpoint.connection.is_finished());
    }
}

#[test]
fn shutdown_is_expected_only_between_the_last_byte_and_the_end_of_file() {
    for role in ROLES {
        let (mut endpoint, start) = opened(role);
        let expected = |endpoint: &Endpoint| endpoint.connection.is_shutdown_expected();
        assert!(!expected(&endpoint));
        endpoint.connection.close(None, Initiator::User, start);
        endpoint.transmit();
        assert!(!expected(&endpoint), "the peer may still send");
        endpoint.receive(&Frame::close(1000, "").sent_by(endpoint.peer()), start);
        endpoint.transmit();
        assert!(expected(&endpoint) && !endpoint.connection.is_finished());
        endpoint.receive(b"whatever comes", start);
        assert!(expected(&endpoint));
        endpoint.connection.receive_eof();
        assert!(!expected(&endpoint) && endpoint.connection.is_finished());
    }
}

#[test]
fn peer_that_half_closes_while_open_has_lost_the_connection() {
    let mut pair = Pair::new(Config::client(), Config::server());
    pair.server.connection.receive_eof();
    pair.drive();
    assert_eq!(pair.server.events, [lost(Cause::ConnectionLost, Initiator::Remote)]);
    assert_eq!(pair.client.events, [lost(Cause::ConnectionLost, Initiator::Remote)]);
}

/// Each stage of a connection's life, and how to get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    CloseQueued,
    CloseSent,
    EchoQueued,
    /// Both Close frames are through, and the end is not yet told.
    HandshakeDone,
    FailureQueued,
    AwaitingEof,
    Finished,
}

use Stage::{AwaitingEof, CloseQueued, CloseSent, EchoQueued, FailureQueued, Finished, HandshakeDone, Open};

const STAGES: [Stage; 8] =
    [Open, CloseQueued, CloseSent, EchoQueued, HandshakeDone, FailureQueued, AwaitingEof, Finished];

fn in_stage(stage: Stage, role: Role) -> (Endpoint, Instant) {
    let (mut endpoint, now) = opened(role);
    let close = Frame::close(1000, "").sent_by(endpoint.peer());
    match stage {
        Open => {}
        CloseQueued => endpoint.connection.close(None, Initiator::User, now),
        CloseSent | HandshakeDone => {
            endpoint.connection.close(None, Initiator::User, now);
            endpoint.transmit();
            if stage == HandshakeDone {
                endpoint.receive(&close, now);
            }
        }
        EchoQueued => endpoint.receive(&close, now),
        FailureQueued => endpoint.receive(&[0xFF], now),
        AwaitingEof | Finished => {
            endpoint.receive(&close, now);
            endpoint.transmit();
            if stage == Finished {
                endpoint.connection.receive_eof();
            }
        }
    }
    (endpoint, now)
}

/// The outcome after `end` was done to a connection in `stage`: clean or not, who, why.
#[track_caller]
fn ends(role: Role, stage: Stage, end: fn(&mut Connection), expected: (bool, u16, Initiator, Option<Cause>)) {
    let (mut endpoint, now) = in_stage(stage, role);
    end(&mut endpoint.connection);
    assert!(endpoint.connection.is_finished(), "{role:?} {stage:?}");
    assert_eq!(endpoint.transmit(), [], "{role:?} {stage:?}");
    assert_eq!(endpoint.connection.poll_timeout(), None);
    endpoint.receive(b"ignored", now);
    endpoint.connection.handle_timeout(now + secs(1000));
    endpoint.take_events();
    let [Told::Closed(closed)] = &endpoint.events[..] else { panic!("{stage:?}: {:?}", endpoint.events) };
    let actual = (closed.was_clean, closed.code.into(), closed.initiator, closed.cause);
    assert_eq!(actual, expected, "{role:?} {stage:?}");
}

fn broken() -> Cause {
    Cause::Protocol(wireline_proto::frame::FrameError::ReservedBits.into())
}

#[test]
fn abort_ends_every_stage_at_once() {
    for role in ROLES {
        let abort: fn(&mut Connection) = Connection::abort;
        for stage in STAGES {
            let expected = match stage {
                Open | CloseQueued | CloseSent => (false, 1006, Initiator::User, Some(Cause::Aborted)),
                EchoQueued => (false, 1000, Initiator::Remote, Some(Cause::Aborted)),
                FailureQueued => (false, 1006, Initiator::Library, Some(broken())),
                HandshakeDone => continue,
                AwaitingEof | Finished => (true, 1000, Initiator::Remote, None),
            };
            ends(role, stage, abort, expected);
        }
    }
}

#[test]
fn transport_error_ends_every_stage_at_once() {
    for role in ROLES {
        let error: fn(&mut Connection) = Connection::handle_transport_error;
        for stage in STAGES {
            let expected = match stage {
                Open => (false, 1006, Initiator::Remote, Some(Cause::ConnectionLost)),
                CloseQueued | CloseSent => (false, 1006, Initiator::User, Some(Cause::ConnectionLost)),
                EchoQueued => (false, 1000, Initiator::Remote, Some(Cause::ConnectionLost)),
                FailureQueued => (false, 1006, Initiator::Library, Some(broken())),
                HandshakeDone => continue,
                AwaitingEof | Finished => (true, 1000, Initiator::Remote, None),
            };
            ends(role, stage, error, expected);
        }
    }
}

/// A Close frame sent and one received is a clean end, says `Closed`. Whatever becomes of the transport
/// before the driver asks for the event does not undo it.
#[test]
fn completed_handshake_stays_clean_whatever_ends_the_transport() {
    let endings: [fn(&mut Connection); 2] = [Connection::handle_transport_error, Connection::abort];
    for role in ROLES {
        for end in endings {
            ends(role, HandshakeDone, end, (true, 1000, Initiator::User, None));
        }
    }
}

/// A write may complete after the connection was given up, where writes take time.
#[test]
fn bytes_reported_as_transmitted_after_an_abort_are_ignored() {
    for role in ROLES {
        let (mut endpoint, _) = opened(role);
        endpoint.connection.send_slice(MessageKind::Text, b"under way").unwrap();
        endpoint.connection.abort();
        endpoint.connection.handle_transmitted(5);
        assert_eq!(endpoint.transmit(), []);
        assert_eq!(endpoint.events, [lost(Cause::Aborted, Initiator::User)]);
    }
}

#[test]
fn reset_is_told_to_both_ends() {
    let mut pair = Pair::new(Config::client(), Config::server());
    pair.to_server.hold();
    pair.client.connection.send_slice(MessageKind::Text, b"lost").unwrap();
    pair.drive();
    assert!(pair.to_server.in_flight() > 0);
    pair.reset();
    pair.to_server.release();
    pair.drive();
    for end in [&pair.client, &pair.server] {
        assert_eq!(end.events, [lost(Cause::ConnectionLost, Initiator::Remote)]);
    }
}

// Slow and choppy transports.

#[test]
fn slow_reader_makes_the_sender_keep_its_bytes_and_loses_none() {
    let mut pair = Pair::new(Config::client(), Config::server());
    pair.to_client.set_capacity(1000);
    pair.to_client.hold();
    let messages: Vec<Vec<u8>> = (0..20).map(|i| vec![i; 1 + usize::from(i) * 500]).collect();
    for message in &messages {
        pair.server.connection.send(MessageKind::Binary, message.clone().into()).unwrap();
    }
    pair.drive();
    assert_eq!(pair.to_client.in_flight(), 1000);
    assert!(pair.server.connection.pending_transmit() > 90_000);
    pair.to_client.release();
    pair.drive();
    assert_eq!(pair.server.connection.pending_transmit(), 0);
    assert_eq!(pair.client.events, messages.iter().map(Told::binary).collect::<Vec<_>>());
}

#[derive(Debug, Clone)]
enum Step {
    Send { role: Role, len: usize, by_reference: bool },
    Ping(Role),
    Drive,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let role = || prop::sample::select(&ROLES);
    let len = prop_oneof![4 => 0..300_usize, 1 => 4_000..6_000_usize, 1 => 60_000..150_000_usize];
    prop_oneof![
        4 => (role(), len, any::<bool>())
            .prop_map(|(role, len, by_reference)| Step::Send { role, len, by_reference }),
        1 => role().prop_map(Step::Ping),
        2 => Just(Step::Drive),
        1 => (1..50_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: Some(Box::new(
            prop::test_runner::FileFailurePersistence::WithSource("regressions")
        )),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_pieces_and_the_room_both_ends_hear_what_was_sent(
        steps in prop::collection::vec(step(), 0..20),
        pieces in prop::collection::vec(1..5_000_usize, 1..6),
        capacity in 1..50_000_usize,
        fragment_size in prop::option::of(100..20_000_usize),
    ) {
        let config = || Config::client().fragment_size(fragment_size);
        let mut pair = Pair::new(config(), config());
        for wire in [&mut pair.to_server, &mut pair.to_client] {
            wire.cut_into(&pieces);
            wire.set_capacity(capacity);
        }
        let mut heard = [Vec::new(), Vec::new()];
        for step in steps {
            match step {
                Step::Send { role, len, by_reference } => {
                    let payload = pattern(len);
                    let (sender, heard) = match role {
                        Role::Client => (&mut pair.client, &mut heard[0]),
                        Role::Server => (&mut pair.server, &mut heard[1]),
                    };
                    heard.push(Told::binary(&payload));
                    if by_reference {
                        sender.connection.send(MessageKind::Binary, payload.into()).unwrap();
                    } else {
                        sender.connection.send_slice(MessageKind::Binary, &payload).unwrap();
                    }
                }
                Step::Ping(Role::Client) => pair.client.connection.ping(b"p").unwrap(),
                Step::Ping(Role::Server) => pair.server.connection.ping(b"p").unwrap(),
                Step::Drive => pair.drive(),
                Step::Wait(seconds) => pair.advance(secs(seconds)),
            }
        }
        let now = pair.clock.now();
        pair.client.connection.close(None, Initiator::User, now);
        pair.drive();
        let [by_server, by_client] = heard;
        for (end, mut expected, initiator) in [
            (pair.server, by_server, Initiator::Remote),
            (pair.client, by_client, Initiator::User),
        ] {
            expected.push(clean(1005, initiator));
            let told: Vec<Told> = end.events.into_iter()
                .filter(|told| !matches!(told, Told::Ping(_) | Told::Pong(_)))
                .collect();
            prop_assert_eq!(told, expected);
            prop_assert!(end.connection.is_finished());
        }
    }
}
