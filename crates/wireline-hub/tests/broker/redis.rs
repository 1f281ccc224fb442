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
    /// The port that speaks TLS, and the certificate for it.
    tls: Option<(u16, String)>,
    directory: TemporaryDirectory,
    process: Mutex<Option<Process>>,
}

impl RedisServer {
    /// Starts a server; it is there when this returns.
    pub(crate) fn start(keeps: Keeps) -> Self {
        Self::start_with(keeps, false)
    }

    /// The same, with a port that speaks TLS under a certificate of its own.
    pub(crate) fn start_encrypted() -> Self {
        Self::start_with(Keeps::Nothing, true)
    }

    fn start_with(keeps: Keeps, is_encrypted: bool) -> Self {
        // Somebody else may take the port first.
        for _ in 0..5 {
            let directory = TemporaryDirectory::new("redis");
            let tls = is_encrypted.then(|| (free_port(), certify(&directory)));
            let server = Self { port: free_port(), keeps, tls, directory, process: Mutex::default() };
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

    /// Where it speaks TLS, and its certificate.
    pub(crate) fn encrypted(&self) -> (String, String) {
        let (port, certificate) = self.tls.as_ref().expect("it speaks TLS");
        (format!("rediss://127.0.0.1:{port}/"), certificate.clone())
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
        assert_eq!(self.command(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]), "+OK");
        let until = Instant::now() + START;
        while !self.has_all_of(master) {
            assert!(Instant::now() < until, "the replica does not catch up");
        }
    }

    /// Whether it has all that its master has, or gets it soon.
    pub(crate) fn has_all_of(&self, master: &Self) -> bool {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let last = format!("last:{}", NEXT.fetch_add(1, Ordering::Relaxed));
        assert_eq!(master.command(&["SET", &last, "1", "PX", "60000"]), "+OK");
        (0..20).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            self.command(&["EXISTS", &last]) == ":1"
        })
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
        let mut arguments = arguments.as_flattened().to_vec();
        let (tls_port, certificate, key);
        if let Some((port, _)) = &self.tls {
            tls_port = port.to_string();
            certificate = format!("{directory}/certificate.pem");
            key = format!("{directory}/key.pem");
            arguments.extend([
                "--tls-port",
                &tls_port,
                "--tls-cert-file",
                &certificate,
                "--tls-key-file",
                &key,
            ]);
            arguments.extend(["--tls-ca-cert-file", &certificate, "--tls-auth-clients", "no"]);
        }
        let mut process = Process::start(&program(), "the package redis-server", &arguments);
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

/// Puts a certificate for this machine and its key into a directory.
fn certify(directory: &TemporaryDirectory) -> String {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = certified.cert.pem();
    std::fs::write(directory.path().join("certificate.pem"), &certificate).expect("a file");
    let key = certified.signing_key.serialize_pem();
    std::fs::write(directory.path().join("key.pem"), key).expect("a file");
    certificate
}

fn program() -> String {
    std::env::var("WIRELINE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// Three Sentinels that watch a server and its replicas as the service `cache`: two of them have to agree that it is
/// gone, within half a second.
#[derive(Debug)]
pub(crate) struct Sentinels {
    ports: Vec<u16>,
    _processes: Vec<(Process, TemporaryDirectory)>,
}

impl Sentinels {
    pub(crate) fn start(master: &RedisServer) -> Self {
        let (mut ports, mut processes) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (port, directory) = (free_port(), TemporaryDirectory::new("sentinel"));
            let file = directory.path().join("sentinel.conf");
            let settings = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor cache 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds cache 500\nsentinel failover-timeout cache 3000\n",
                directory.path().display(),
                master.port
            );
            std::fs::write(&file, settings).expect("a file");
            let arguments = [&*file.display().to_string(), "--sentinel"];
            processes.push((Process::start(&program(), "the package redis-server", &arguments), directory));
            ports.push(port);
        }
        let sentinels = Self { ports, _processes: processes };
        // They know of each other, and of the replica.
        sentinels.wait_until("num-other-sentinels", "2");
        sentinels.wait_until("num-slaves", "1");
        sentinels
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/cache", hosts.join(","))
    }

    fn wait_until(&self, fact: &str, wanted: &str) {
        let until = Instant::now() + START;
        for port in &self.ports {
            while fact_of(*port, fact).as_deref() != Some(wanted) {
                assert!(Instant::now() < until, "{fact} does not become {wanted}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// What a Sentinel knows of the service.
fn fact_of(port: u16, fact: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"SENTINEL MASTER cache\r\n").ok()?;
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.find(|line| line == fact)?;
    // The value's length, and the value.
    lines.nth(1)
}
