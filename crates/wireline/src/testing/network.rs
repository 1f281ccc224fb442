//! Byte streams in memory, which can be slow, stall and break.

use std::{
    collections::VecDeque,
    fmt,
    future::Future as _,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU16, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::{Instant, Sleep, sleep_until},
};

use crate::{Config, Connect, Request, Server, WebSocket, server::LONGEST_TIMEOUT};

/// Bytes on their way in one direction. What is written beyond waits, as behind a full socket buffer.
const CAPACITY: usize = 64 << 10;

/// Where clients seem to come from: addresses for documentation (RFC 5737), ports that systems give out.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FIRST_PORT: u16 = 49152;
const PORTS: u16 = 16384;

/// A network in memory, which connects clients to servers. Its clones are the same network; faults are for
/// all connections on it. See [`testing`](crate::testing).
#[derive(Clone, Default)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    conditions: Mutex<Conditions>,
    next_client: AtomicU16,
}

#[derive(Default)]
struct Conditions {
    latency: Duration,
    is_stalled: bool,
    /// The directions of all connections.
    wires: Vec<Weak<Mutex<Wire>>>,
}

impl Network {
    /// A network without latency and faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client that is to be connected to `server`: set what else it needs, and await it. The URL's host and
    /// port are not looked at; with `wss://` it does TLS, which the server then has to expect. The server sees
    /// an address of 192.0.2.1, with another port for each of 16,384 connections.
    ///
    /// # Panics
    /// Outside a tokio runtime, on which the server's side is served.
    pub fn connect(&self, server: &Server, url: impl Into<String>) -> Connect {
        let (ours, theirs) = self.stream();
        let port = FIRST_PORT + self.shared.next_client.fetch_add(1, Ordering::Relaxed) % PORTS;
        let (server, from) = (server.clone(), SocketAddr::from((CLIENTS, port)));
        tokio::spawn(async move {
            if let Err(mistake) = server.serve_stream(theirs, Some(from)).await {
                tracing::error!(%mistake, "the server cannot serve");
            }
        });
        crate::connect(url).over(ours)
    }

    /// A client and a server, in this order, with these limits and timers. Compression is agreed on if both
    /// have it.
    ///
    /// # Panics
    /// Outside a tokio runtime; when the network stalls and the handshake times out.
    pub async fn pair(&self, client: Config, server: Config) -> (WebSocket, WebSocket) {
        let (accepted, server_end) = oneshot::channel();
        let accepted = Mutex::new(Some(accepted));
        let server = Server::new().config(server).on_request(move |req: Request| {
            let accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                let ws = req.accept().await?;
                if let Some(accepted) = accepted {
                    // Whoever asked for it may have given up.
                    let _ = accepted.send(ws);
                }
                Ok(())
            }
        });
        match self.connect(&server, "ws://test.example/").config(client).await {
            Ok(client) => (client, server_end.await.expect("what it accepted it hands on")),
            Err(error) => panic!("the network did not connect them: {error}"),
        }
    }

    /// From now on bytes take this long in each direction, a year at most: a Ping and its Pong twice that.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency.min(LONGEST_TIMEOUT);
    }

    /// Nothing arrives any more, either way, and nobody is told: a cable that is pulled. What is sent is kept.
    pub fn stall(&self) {
        self.lock().is_stalled = true;
    }

    /// Ends a [`stall`](Self::stall): what was kept arrives.
    pub fn resume(&self) {
        self.lock().is_stalled = false;
        self.for_each_wire(Wire::wake);
    }

    /// Breaks all connections that there are: both ends are told at once that the peer reset it, and what was
    /// on its way is lost. New ones can be made.
    pub fn reset(&self) {
        self.for_each_wire(Wire::reset);
    }

    fn lock(&self) -> MutexGuard<'_, Conditions> {
        self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn for_each_wire(&self, change: impl Fn(&mut Wire)) {
        let wires: Vec<_> = self.lock().wires.iter().filter_map(Weak::upgrade).collect();
        wires.iter().for_each(|wire| change(&mut lock(wire)));
    }

    /// Both ends of a new connection.
    fn stream(&self) -> (End, End) {
        let wires = [(); 2].map(|()| Arc::<Mutex<Wire>>::default());
        let mut conditions = self.lock();
        conditions.wires.retain(|wire| wire.strong_count() > 0);
        conditions.wires.extend(wires.iter().map(Arc::downgrade));
        drop(conditions);
        let [there, back] = wires;
        let end = |incoming: &Arc<_>, outgoing: &Arc<_>| End {
            network: self.clone(),
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            arrival: None,
            departure: None,
        };
        (end(&back, &there), end(&there, &back))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions = self.lock();
        f.debug_struct("Network")
            .field("latency", &conditions.latency)
            .field("is_stalled", &conditions.is_stalled)
            .finish_non_exhaustive()
    }
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One direction of a connection.
#[derive(Default)]
struct Wire {
    /// What is on its way, with the time at which it arrives.
    in_flight: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// When the writer shut its side.
    end: Option<Instant>,
    is_reset: bool,
    /// When the writer learns that nobody reads any more.
    reader_gone: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Wire {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    fn reset(&mut self) {
        self.is_reset = true;
        self.in_flight.clear();
        self.wake();
    }

    /// When the next bytes arrive, or the end.
    fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.front().map(|(arrival, _)| *arrival).or(self.end)
    }
}

/// One end of a connection.
struct End {
    network: Network,
    incoming: Arc<Mutex<Wire>>,
    outgoing: Arc<Mutex<Wire>>,
    /// Waits for what is on its way.
    arrival: Option<Pin<Box<Sleep>>>,
    /// Waits for the news that nobody reads any more.
    departure: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut wire = lock(&this.incoming);
        if wire.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        wire.reader = Some(cx.waker().clone());
        // Not before, so that who ends the stall sees who waits.
        let is_stalled = this.network.lock().is_stalled;
        let arrival = wire.next_arrival().filter(|_| !is_stalled);
        let Some(arrival) = arrival else { return Poll::Pending };
        if arrival > Instant::now() {
            let mut sleep = Box::pin(sleep_until(arrival));
            let is_there = sleep.as_mut().poll(cx);
            this.arrival = Some(sleep);
            ready!(is_there);
        }
        let Some((_, bytes)) = wire.in_flight.front_mut() else { return Poll::Ready(Ok(())) };
        let count = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..count]);
        bytes.advance(count);
        if bytes.is_empty() {
            wire.in_flight.pop_front();
        }
        wire.bytes -= count;
        if let Some(writer) = wire.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = &mut *self;
        let mut wire = lock(&this.outgoing);
        wire.writer = Some(cx.waker().clone());
        let (latency, is_stalled) = {
            let conditions = this.network.lock();
            (conditions.latency, conditions.is_stalled)
        };
        let gone = wire.reader_gone.filter(|_| !is_stalled);
        if wire.is_reset || gone.is_some_and(|gone| gone <= Instant::now()) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if wire.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = buf.len().min(CAPACITY - wire.bytes);
        if count == 0 {
            if let Some(gone) = gone {
                let mut sleep = Box::pin(sleep_until(gone));
                if sleep.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                this.departure = Some(sleep);
            }
            return Poll::Pending;
        }
        wire.in_flight.push_back((Instant::now() + latency, Bytes::copy_from_slice(&buf[..count])));
        wire.bytes += count;
        if let Some(reader) = wire.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_down();
        Poll::Ready(Ok(()))
    }
}

impl End {
    fn shut_down(&self) {
        let latency = self.network.lock().latency;
        let mut wire = lock(&self.outgoing);
        wire.end.get_or_insert(Instant::now() + latency);
        if let Some(reader) = wire.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.shut_down();
        let latency = self.network.lock().latency;
        let mut wire = lock(&self.incoming);
        wire.reader_gone = Some(Instant::now() + latency);
        wire.wake();
    }
}
