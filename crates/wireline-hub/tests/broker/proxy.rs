//! A way to a broker that can fall silent, become long, and lead to another one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A port of its own, behind which stands a server.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    port: u16,
    server: watch::Sender<u16>,
    /// Connections with numbers below are carried nothing.
    held: watch::Sender<u64>,
    /// The same for what the server says.
    answers_held: watch::Sender<u64>,
    /// How long it takes to carry anything, each way.
    latency: watch::Sender<Duration>,
    next: Arc<AtomicU64>,
}

impl Proxy {
    /// A way to the server at this port.
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let proxy = Self {
            port,
            server: watch::Sender::new(server),
            held: watch::Sender::new(0),
            answers_held: watch::Sender::new(0),
            latency: watch::Sender::new(Duration::ZERO),
            next: Arc::default(),
        };
        tokio::spawn(proxy.clone().run(listener));
        proxy
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Takes so long to carry anything, each way.
    pub(crate) fn delay(&self, latency: Duration) {
        self.latency.send_replace(latency);
    }

    /// Carries nothing, not even the end of a connection.
    pub(crate) fn silence(&self) {
        self.held.send_replace(u64::MAX);
        self.silence_answers();
    }

    /// Carries nothing from the server, but all to it.
    pub(crate) fn silence_answers(&self) {
        self.answers_held.send_replace(u64::MAX);
    }

    /// Carries nothing over the connections that there are.
    pub(crate) fn hold(&self) {
        let next = self.next.load(Ordering::SeqCst);
        self.held.send_replace(next);
        self.answers_held.send_replace(next);
    }

    /// Carries what was held, and all that comes.
    pub(crate) fn release(&self) {
        self.held.send_replace(0);
        self.answers_held.send_replace(0);
    }

    /// Leads to another server from now on; the connections that there are are cut, or stay as they are.
    pub(crate) fn lead_to(&self, server: u16, cuts: bool) {
        if cuts {
            self.server.send_replace(server);
        } else {
            self.server.send_if_modified(|leads_to| {
                *leads_to = server;
                false
            });
        }
    }

    async fn run(self, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let (server, held) = (self.server.subscribe(), self.held.subscribe());
            let answers_held = self.answers_held.subscribe();
            let (there, back) = (self.latency.subscribe(), self.latency.subscribe());
            let port = *self.server.borrow();
            let Ok(upstream) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = upstream.into_split();
            tokio::spawn(pump(number, from_client, to_server, server.clone(), held, there));
            tokio::spawn(pump(number, from_server, to_client, server, answers_held, back));
        }
    }
}

/// Carries bytes one way.
async fn pump(
    number: u64,
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut server: watch::Receiver<u16>,
    mut held: watch::Receiver<u64>,
    latency: watch::Receiver<Duration>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = server.changed() => return,
        };
        let latency = *latency.borrow();
        tokio::time::sleep(latency).await;
        // What was held is carried when it may be, as packets that are sent again are.
        let is_carried = held.wait_for(|held| *held <= number).await.is_ok();
        if read == 0 || !is_carried || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
