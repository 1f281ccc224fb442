//! nats-server with JetStream.

use std::{
    io::Read,
    net::TcpStream,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::process::{Process, TemporaryDirectory, free_port};

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);

/// A server with a directory of its own, always on the same port.
#[derive(Debug)]
pub(crate) struct NatsServer {
    port: u16,
    directory: TemporaryDirectory,
    configuration: String,
    process: Mutex<Option<Process>>,
}

/// Starts a server; it is there when this returns.
pub(crate) fn nats_server() -> NatsServer {
    nats_server_with("")
}

/// The same with a configuration of its own.
pub(crate) fn nats_server_with(configuration: &str) -> NatsServer {
    // Somebody else may take the port first.
    for _ in 0..5 {
        let server = NatsServer {
            port: free_port(),
            directory: TemporaryDirectory::new("nats"),
            configuration: configuration.to_owned(),
            process: Mutex::default(),
        };
        if server.try_start() {
            return server;
        }
    }
    panic!("nats-server does not start")
}

impl NatsServer {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it again with what is in its directory.
    pub(crate) fn start(&self) {
        assert!(self.try_start(), "nats-server does not start again");
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&self) {
        *self.process() = None;
    }

    /// Takes away all that it has kept. It has to be killed before.
    pub(crate) fn forget(&self) {
        self.directory.clear();
    }

    /// Stops it in its tracks, or lets it go on: `STOP`, `CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        self.process().as_ref().expect("it runs").signal(signal);
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_start(&self) -> bool {
        let (port, directory) = (self.port.to_string(), self.directory.path().display().to_string());
        let configuration = self.directory.path().join("nats.conf").display().to_string();
        std::fs::write(&configuration, &self.configuration).expect("it can be written");
        let arguments = ["-c", &configuration, "-a", "127.0.0.1", "-p", &port, "-js", "-sd", &directory];
        // Another version than the system's.
        let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
        let mut process = Process::start(&program, "the package nats-server", &arguments);
        let until = Instant::now() + START;
        while Instant::now() < until && !process.has_ended() {
            if self.is_there() {
                *self.process() = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// It greets those who connect.
    fn is_there(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut greeting = [0; 4];
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        stream.read_exact(&mut greeting).is_ok() && greeting == *b"INFO"
    }
}
