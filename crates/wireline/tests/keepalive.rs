//! Keepalive with its defaults, minutes of it: the sockets are real and the time is not.
//!
//! tokio moves a stopped clock by itself once every task waits, though a socket may have become readable.
//! So the clock is moved by hand, in small steps, and this thread's tasks never all wait while it stands
//! still. What is written to a Unix socket can be read at once, so a few turns see every answer through.
#![cfg(unix)]

use std::{future::Future, path::PathBuf, time::Duration};

use tokio::sync::mpsc;
use wireline::{Config, ReadyState, Request, Server, Socket, WebSocket, connect};

/// How long no end receives, thrice what it takes to find a peer dead.
const IDLE: Duration = Duration::from_secs(120);

const STEP: Duration = Duration::from_millis(250);

/// Turns of all tasks in a step: many more than a Ping and its Pong take.
const TURNS: u32 = 50;

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// Lets `duration` of the stopped clock's time pass for everyone.
async fn pass(duration: Duration) {
    let start = tokio::time::Instant::now();
    while start.elapsed() < duration {
        tokio::time::advance(STEP).await;
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }
}

/// A server whose handler is busy for as long as `IDLE`, sends `count` messages in the middle of it, and
/// then echoes; and the sending sides of its connections.
fn busy_then_echo(config: Config, count: usize) -> (Server, mpsc::UnboundedReceiver<Socket>) {
    let (give, taken) = mpsc::unbounded_channel();
    let server = Server::new().config(config).on_request(move |req: Request| {
        let give = give.clone();
        async move {
            let mut ws = req.accept().await?;
            let _ = give.send(ws.socket());
            tokio::time::sleep(IDLE / 2).await;
            send_all(&ws, count);
            tokio::time::sleep(IDLE / 2).await;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        }
    });
    (server, taken)
}

fn payload(number: usize) -> Vec<u8> {
    let mut payload = vec![0; 1 << 10];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

fn send_all(socket: &Socket, count: usize) {
    for number in 0..count {
        socket.try_send(payload(number)).expect("the connection is open");
    }
}

async fn receive_all(ws: &mut WebSocket, count: usize) {
    for number in 0..count {
        let message = soon(ws.recv()).await.expect("it is open").expect("it is open");
        assert!(message.as_bytes() == payload(number), "message {number} of {count}");
    }
}

/// Both ends let `IDLE` pass without receiving, send `count` messages in the middle of it, and then take
/// them all.
async fn idle_ends_stay_connected(client: Config, server: Config, count: usize) {
    let pinging = [client.keepalive.is_some(), server.keepalive.is_some()];
    let (server, mut taken) = busy_then_echo(server, count);
    let path = socket_path();
    tokio::spawn(server.bind_unix(&path).expect("the path is free").serve());
    let mut ws =
        connect("ws://localhost/").unix_socket(&path).config(client).await.expect("the server accepts");
    std::fs::remove_file(&path).expect("the socket was there");
    let socket = soon(taken.recv()).await.expect("the handler accepts");

    tokio::time::pause();
    pass(IDLE / 2).await;
    send_all(&ws, count);
    pass(IDLE / 2 + STEP).await;
    assert_eq!([ws.ready_state(), socket.ready_state()], [ReadyState::Open; 2]);
    let pinged = [ws.latency().is_some(), socket.latency().is_some()];
    assert!((0..2).any(|end| pinging[end] && pinged[end]), "no Ping was sent and answered");

    tokio::time::resume();
    receive_all(&mut ws, count).await;
    receive_all(&mut ws, count).await;
    ws.close_with(4000, "done").expect("it can be sent");
    assert_eq!(soon(ws.recv()).await.expect("clean"), None);
}

fn socket_path() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("wireline-keepalive-{}-{number}.sock", std::process::id()))
}

#[tokio::test]
async fn idle_applications_stay_connected_for_minutes_under_the_default_keepalive() {
    idle_ends_stay_connected(Config::client(), Config::server(), 1).await;
}

#[tokio::test]
async fn the_keepalive_of_one_end_is_enough() {
    idle_ends_stay_connected(Config::client().keepalive(None), Config::server(), 1).await;
    idle_ends_stay_connected(Config::client(), Config::server().keepalive(None), 1).await;
}

/// Behind more than the read-ahead a Ping is not seen, and a busy application is not a dead one.
#[tokio::test]
async fn applications_that_are_behind_with_receiving_are_not_taken_for_dead() {
    idle_ends_stay_connected(Config::client(), Config::server(), 150).await;
}
