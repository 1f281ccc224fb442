//! redis-server, or the server of Valkey that the variable `WIRELINE_REDIS_SERVER` names.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::process::{Process, TemporaryDirectory, free_port};

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);

/// What a server keeps when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// All that it has answered.
    Everything,
    Nothing,
}

/// A server with a directory of its own, always on the same port.
#[derive(Debug)]
pub(crate) struct RedisServer {
    port: u16,
    keeps: Keeps,
    directory: TemporaryDirectory,
    process: Mutex<Option<Process>>,
}

impl RedisServer {
    /// Starts a server; it is there when this returns.
    pub(crate) fn start(keeps: Keeps) -> Self {
        // Somebody else may take the port first.
        for _ in 0..5 {
            let directory = TemporaryDirectory::new("redis");
            let server = Self { port: free_port(), keeps, directory, process: Mutex::default() };
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server does not start")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&self) {
        *self.process() = None;
    }

    /// Starts it again with what it has kept.
    pub(crate) fn start_again(&self) {
        if self.keeps == Keeps::Nothing {
            self.directory.clear();
        }
        assert!(self.try_start(), "redis-server does not start again");
    }

    /// Stops it in its tracks, or lets it go on: `STOP`, `CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        self.process().as_ref().expect("it runs").signal(signal);
    }

    /// The first line of the answer to a command.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        self.try_command(words).expect("the server answers")
    }

    /// Has it follow another server, and waits until it has all that the other has.
    pub(crate) fn follow(&self, master: &Self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let last = format!("last:{}", NEXT.fetch_add(1, Ordering::Relaxed));
        assert_eq!(self.command(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]), "+OK");
        assert_eq!(master.command(&["SET", &last, "1", "PX", "60000"]), "+OK");
        let until = Instant::now() + START;
        while self.command(&["EXISTS", &last]) != ":1" {
            assert!(Instant::now() < until, "the replica does not catch up");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_command(&self, words: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("{}\r\n", words.join(" ")).as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    fn try_start(&self) -> bool {
        let program = std::env::var("WIRELINE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let (port, directory) = (self.port.to_string(), self.directory.path().display().to_string());
        let keeps = if self.keeps == Keeps::Everything { "yes" } else { "no" };
        let arguments = [
            ["--bind", "127.0.0.1"],
            ["--port", &port],
            ["--dir", &directory],
            ["--save", ""],
            ["--appendonly", keeps],
            ["--appendfsync", "always"],
            ["--repl-diskless-sync-delay", "0"],
        ];
        let mut process = Process::start(&program, "the package redis-server", arguments.as_flattened());
        let until = Instant::now() + START;
        while Instant::now() < until && !process.has_ended() {
            if self.try_command(&["PING"]).is_some_and(|answer| answer == "+PONG") {
                *self.process() = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}
