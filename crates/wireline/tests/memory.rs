//! What connections cost: resident memory of 10,000 idle ones, and allocations for what peers send.
//!
//! The server whose memory is measured runs in a process of its own: this test binary again.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::oneshot;
use wireline::{Config, Deflate, Request, Server, Socket};
use wireline_proto::deflate::{Compressor, CompressorSettings};
use wireline_testkit::{
    Frame, RawPeer,
    allocations::{self, CountingAllocator},
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const CONNECTIONS: usize = 10_000;

/// Bytes of resident memory that one of them may cost.
const BUDGET: usize = 1536;

/// How the server of the child process compresses: "takeover", "no takeover", or not at all.
const DEFLATE: &str = "WIRELINE_TEST_DEFLATE";

/// Whether it is in event style.
const EVENTS: &str = "WIRELINE_TEST_EVENTS";

fn echo() -> Server {
    let deflate = std::env::var(DEFLATE).ok().map(|which| {
        let takeover = which == "takeover";
        Deflate::server().threshold(0).send_context_takeover(takeover).receive_context_takeover(takeover)
    });
    let server = Server::new().config(Config::server().deflate(deflate));
    if std::env::var_os(EVENTS).is_some() {
        return server
            .on_request(|req: Request| async move { req.accept().run().await })
            .on_message(|socket, message| async move { Ok(socket.send(message).await?) });
    }
    server.on_request(|req: Request| async move {
        let mut ws = req.accept().await?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    })
}

/// An echo server with the default limits, until its standard input ends.
#[tokio::main]
async fn serve_until_stdin_ends() {
    use std::io::Write as _;
    let listener = echo().bind("127.0.0.1:0").expect("a port is free");
    writeln!(std::io::stdout(), "\nlistening on {}", listener.local_addr().expect("it is bound"))
        .expect("the parent reads");
    tokio::spawn(listener.serve());
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = ended.await;
    std::process::exit(0);
}

#[test]
#[ignore = "the server of the test below, in its own process"]
fn the_server_of_a_child_process() {
    serve_until_stdin_ends();
}

/// The server's process; it ends when this is dropped.
struct ServerProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Kept, since the child's test harness prints to it now and then.
    _stdout: BufReader<ChildStdout>,
    addr: SocketAddr,
}

impl ServerProcess {
    fn start_with(setting: Option<(&str, &str)>) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary has a path"))
            .args(["--ignored", "--exact", "the_server_of_a_child_process", "--nocapture"])
            .envs(setting)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs again");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let addr = stdout
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on ")?.parse().ok())
            .expect("the child says where it listens");
        Self { child, stdin, _stdout: stdout, addr }
    }

    fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the child runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells the RSS");
        let kib = line.trim().trim_end_matches(" kB").parse::<usize>().expect("it is a number");
        kib << 10
    }

    /// The resident memory once it has stopped changing.
    fn settled_resident_bytes(&self) -> usize {
        let mut before = 0;
        loop {
            let now = self.resident_bytes();
            if now == before {
                return now;
            }
            before = now;
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn descriptor_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux tells the limits");
    let line =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("files are limited");
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

fn echo_one(peer: &mut RawPeer) {
    peer.send(&Frame::text("twenty bytes of text"));
    let mut read = || peer.read().expect("the connection is open");
    let mut frame = read();
    // On a slow machine keepalive may come in between.
    while frame == Frame::ping("") {
        frame = read();
    }
    assert_eq!(frame, Frame::text("twenty bytes of text"));
}

#[test]
fn an_idle_connection_costs_at_most_one_and_a_half_kilobytes_in_either_style() {
    idle_connections_are_within_budget(None);
    idle_connections_are_within_budget(Some((EVENTS, "")));
}

fn idle_connections_are_within_budget(setting: Option<(&str, &str)>) {
    let limit = descriptor_limit();
    assert!(limit > CONNECTIONS + 200, "{limit} file descriptors are too few; raise them: ulimit -n 16384");
    let server = ServerProcess::start_with(setting);
    // What a server sets up once is not a connection's cost.
    let mut warm: Vec<_> = (0..64).map(|_| RawPeer::connect(server.addr)).collect();
    warm.iter_mut().for_each(echo_one);
    drop(warm);
    std::thread::sleep(Duration::from_millis(300));
    let before = server.settled_resident_bytes();
    let mut peers: Vec<_> = (0..CONNECTIONS).map(|_| RawPeer::connect(server.addr)).collect();
    let idle = (server.settled_resident_bytes() - before) / CONNECTIONS;
    eprintln!("an idle connection {setting:?} costs {idle} bytes of RSS");
    peers.iter_mut().for_each(echo_one);
    let used = (server.settled_resident_bytes() - before) / CONNECTIONS;
    eprintln!("an idle connection that echoed once costs {used} bytes of RSS");
    assert!(idle <= BUDGET, "an idle connection costs {idle} bytes");
    assert!(used <= BUDGET, "a connection that echoed once and is idle costs {used} bytes");
}

/// What 5,000 connections cost each that were agreed to be compressed, after one message there and back
/// that an object of 1 KB is.
fn idle_compressed_connection(which: &str) -> usize {
    const CONNECTIONS: usize = 5000;
    let server = ServerProcess::start_with(Some((DEFLATE, which)));
    let object = format!(r#"{{"type":"update","items":[{}0]}}"#, "1234567,".repeat(120)).into_bytes();
    let settings = CompressorSettings { level: 6, window_bits: 12, memory_level: 5 };
    let mut compressed = Vec::new();
    assert!(Compressor::new(settings).compress(&object, &mut compressed));
    let message = Frame::new(1, compressed).rsv(0b100);
    let open = || {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let mut peer = RawPeer::request(server.addr, offer);
        assert!(peer.header("Sec-WebSocket-Extensions").is_some(), "{}", peer.head());
        peer.send(&message);
        assert!(peer.read().expect("the connection is open").rsv == 0b100, "the answer is not compressed");
        peer
    };
    // What a server sets up once, its contexts among it, is not a connection's cost.
    drop((0..64).map(|_| open()).collect::<Vec<_>>());
    std::thread::sleep(Duration::from_millis(300));
    let before = server.settled_resident_bytes();
    let _peers: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
    let cost = (server.settled_resident_bytes() - before) / CONNECTIONS;
    eprintln!("an idle compressed connection ({which}) costs {cost} bytes of RSS");
    cost
}

#[test]
fn an_idle_compressed_connection_without_context_takeover_costs_at_most_two_kilobytes() {
    assert!(idle_compressed_connection("no takeover") <= 2048);
}

#[test]
fn an_idle_compressed_connection_with_context_takeover_costs_its_two_windows() {
    // Far from the 80 KB of a context each: two windows of 4 KiB at most, filled as far as messages went.
    assert!(idle_compressed_connection("takeover") <= 12 << 10);
}

/// Runs `server` on this thread while `talk` runs on another, and counts what this thread allocates
/// between the two moments that `talk` gets.
fn allocations_during(
    server: &Server,
    talk: impl FnOnce(SocketAddr, &dyn Fn(), &dyn Fn()) + Send + 'static,
) -> allocations::Allocations {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let (begin_tell, begin) = oneshot::channel::<()>();
    let (end_tell, end) = oneshot::channel::<()>();
    let listener = runtime.block_on(async { server.bind("127.0.0.1:0").expect("a port is free") });
    let addr = listener.local_addr().expect("it is bound");
    runtime.spawn(listener.serve());
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let talker = std::thread::spawn(move || {
        let (begin_tell, end_tell) =
            (std::cell::Cell::new(Some(begin_tell)), std::cell::Cell::new(Some(end_tell)));
        let begin = || {
            let _ = begin_tell.take().map(|tell| tell.send(()));
            gone.recv().expect("the counting begins");
        };
        let end = || {
            let _ = end_tell.take().map(|tell| tell.send(()));
        };
        talk(addr, &begin, &end);
    });
    runtime.block_on(begin).expect("the peer begins");
    let ((), cost) = allocations::of(|| {
        go.send(()).expect("the peer waits");
        runtime.block_on(end).expect("the peer ends");
    });
    talker.join().expect("the peer is content");
    cost
}

#[test]
fn an_echo_allocates_once_for_its_payload() {
    const ECHOES: usize = 2000;
    let cost = allocations_during(&echo(), |addr, begin, end| {
        let mut peer = RawPeer::connect(addr);
        (0..100).for_each(|_| echo_one(&mut peer));
        begin();
        (0..ECHOES).for_each(|_| echo_one(&mut peer));
        end();
    });
    eprintln!("{ECHOES} echoes of 20 bytes cost the server {cost:?}");
    assert!(cost.count <= ECHOES + 20, "{} allocations for {ECHOES} echoes", cost.count);
    assert!(cost.kept_bytes < 1024, "{} bytes are kept", cost.kept_bytes);
}

#[test]
fn a_header_that_declares_an_enormous_payload_allocates_next_to_nothing() {
    for declared in [1 << 62, u64::from(u32::MAX), (1 << 20) + 1] {
        let cost = allocations_during(&echo(), move |addr, begin, end| {
            let mut peer = RawPeer::connect(addr);
            echo_one(&mut peer);
            begin();
            peer.send_bytes(&Frame::binary("").declaring(declared).masked([1; 4]).header());
            peer.expect(&Frame::close(1009, ""));
            end();
        });
        eprintln!("a header that declares {declared} bytes costs {cost:?}");
        assert!(cost.peak_bytes < 4 << 10, "{cost:?}");
    }
}

#[test]
fn a_header_that_declares_as_much_as_is_allowed_allocates_no_more_than_one_read() {
    let server = Server::new().config(Config::server().max_message_size(1 << 40)).on_request(
        |req: Request| async move {
            let mut ws = req.accept().await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        },
    );
    let cost = allocations_during(&server, |addr, begin, end| {
        let mut peer = RawPeer::connect(addr);
        echo_one(&mut peer);
        begin();
        peer.send(&Frame::ping("before"));
        peer.expect(&Frame::pong("before"));
        peer.send_bytes(&Frame::binary("").declaring(1 << 40).masked([1; 4]).header());
        peer.send_bytes(&[0; 1000]);
        std::thread::sleep(Duration::from_millis(100));
        end();
    });
    eprintln!("the beginning of an allowed payload of 1 TiB costs {cost:?}");
    assert!(cost.peak_bytes <= 80 << 10, "{cost:?}");
}

#[test]
fn tasks_that_no_longer_wait_for_the_end_cost_nothing() {
    const TASKS: usize = 5000;
    let server = Server::new().on_request(|req: Request| async move {
        let mut ws = req.accept().await?;
        while let Some(message) = ws.recv().await? {
            let socket = ws.socket();
            // As a task does that works for a connection as long as there is one.
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = socket.closed() => {}
                    () = tokio::task::yield_now() => {}
                }
            });
            ws.send(message).await?;
        }
        Ok(())
    });
    let cost = allocations_during(&server, |addr, begin, end| {
        let mut peer = RawPeer::connect(addr);
        (0..100).for_each(|_| echo_one(&mut peer));
        begin();
        (0..TASKS).for_each(|_| echo_one(&mut peer));
        end();
    });
    assert!(cost.kept_bytes < 64 << 10, "{TASKS} tasks that have ended left {} bytes", cost.kept_bytes);
}

type Sockets = Arc<Mutex<Vec<Socket>>>;

/// Sends on every socket that it finds when it is dropped: with its task, when the runtime ends.
struct SendsWhenDropped(Sockets);

impl Drop for SendsWhenDropped {
    fn drop(&mut self) {
        for socket in self.0.lock().expect("nobody panics").iter() {
            let _ = socket.try_send("too late");
        }
    }
}

impl SendsWhenDropped {
    fn spawn(sockets: &Sockets) {
        let this = Self(Arc::clone(sockets));
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(this);
        });
    }
}

/// A runtime with two connections ends with something to write: `is_in_time`, or sent while its tasks are
/// dropped. tokio drops them by their numbers, in an order that depends on how many `others` there were.
fn end_a_runtime(is_in_time: bool, others: usize) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let sockets = Sockets::default();
    let server = Server::new().on_request({
        let sockets = Arc::clone(&sockets);
        move |req: Request| {
            let sockets = Arc::clone(&sockets);
            async move {
                let ws = req.accept().await?;
                sockets.lock().expect("nobody panics").push(ws.socket());
                ws.closed().await;
                Ok(())
            }
        }
    });
    let peers = runtime.block_on(async {
        let listener = server.bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        tokio::spawn(listener.serve());
        let mut peers = Vec::new();
        for number in 1..=2 {
            let mut peer = RawPeer::dial(addr);
            peer.send_bytes(&RawPeer::request_head(""));
            peers.push(peer);
            while sockets.lock().expect("nobody panics").len() < number {
                tokio::task::yield_now().await;
            }
            if !is_in_time && number == 1 {
                (0..others).for_each(|_| drop(tokio::spawn(async {})));
                SendsWhenDropped::spawn(&sockets);
            }
        }
        peers
    });
    if is_in_time {
        sockets.lock().expect("nobody panics")[0].try_send("in time").expect("it is open");
    }
    drop(runtime);
    sockets.lock().expect("nobody panics").clear();
    drop(peers);
}

#[test]
fn a_runtime_that_ends_with_something_to_write_leaves_nothing_behind() {
    for is_in_time in [true, false] {
        let end_some = || (0..16).for_each(|others| end_a_runtime(is_in_time, others));
        end_some();
        let ((), cost) = allocations::of(end_some);
        assert!(cost.kept_bytes < 2048, "in time: {is_in_time}; {} bytes are left", cost.kept_bytes);
    }
}
