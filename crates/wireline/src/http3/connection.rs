//! A connection with its control streams (RFC 9114 section 6.2, RFC 9204 section 4.2).

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, Side};
use tokio::sync::watch;

use super::{
    Code, Error, MAX_HEAD, RequestStream,
    frame::{self, FrameReader, frame, parse_integer, put_integer},
};

/// Types of streams in one direction.
const CONTROL: u64 = 0x00;
const PUSH: u64 = 0x01;
const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u64 = 0x03;

/// Settings (RFC 9114 section 7.2.4.1, RFC 9220 section 5).
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;

/// Bytes of a SETTINGS or GOAWAY frame.
const MAX_CONTROL_FRAME: usize = 1024;

/// One HTTP/3 connection, which is closed when neither this nor any of its streams for requests is left.
#[derive(Clone)]
pub(crate) struct Connection {
    handle: Arc<Handle>,
    peer: watch::Receiver<Peer>,
}

/// A connection that may have ended.
pub(crate) struct WeakConnection {
    handle: Weak<Handle>,
    peer: watch::Receiver<Peer>,
}

/// What keeps a connection open.
pub(crate) struct Handle {
    quic: quinn::Connection,
    /// Must not end before the connection (section 6.2.1).
    control: tokio::sync::Mutex<SendStream>,
}

impl Handle {
    pub(super) fn close(&self, code: Code, why: &str) {
        self.quic.close(code.to_quic(), why.as_bytes());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close(Code::NO_ERROR, "");
    }
}

/// What the peer has said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    settings: Option<Settings>,
    /// It takes no new requests, or will send none.
    is_leaving: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Settings {
    enables_connect_protocol: bool,
}

impl Connection {
    /// Begins HTTP/3 on a QUIC connection. What the peer sends beside requests is taken in by a task that ends with
    /// the connection.
    pub(crate) async fn begin(quic: quinn::Connection) -> Result<Self, Error> {
        let lost = |error| Error::Quic(super::connection_lost(error));
        let mut control = quic.open_uni().await.map_err(lost)?;
        control.write_all(&greeting(quic.side())).await?;
        let (told, peer) = watch::channel(Peer { settings: None, is_leaving: false });
        tokio::spawn(Peers { quic: quic.clone(), told: Arc::new(told) }.take_in());
        let handle = Handle { quic, control: tokio::sync::Mutex::new(control) };
        Ok(Self { handle: Arc::new(handle), peer })
    }

    /// The next stream for a request; `None` when the connection is over.
    pub(crate) async fn accept(&self) -> Option<RequestStream> {
        let (send, recv) = self.handle.quic.accept_bi().await.ok()?;
        Some(RequestStream::new(Arc::clone(&self.handle), send, recv))
    }

    /// A stream for a request, if the peer allows another one now.
    pub(crate) async fn try_open(&self) -> Option<RequestStream> {
        if self.peer.borrow().is_leaving {
            return None;
        }
        let mut opening = std::pin::pin!(self.handle.quic.open_bi());
        let opened = poll_fn(|cx| match opening.as_mut().poll(cx) {
            Poll::Ready(Ok(streams)) => Poll::Ready(Some(streams)),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
        });
        let (send, recv) = opened.await?;
        Some(RequestStream::new(Arc::clone(&self.handle), send, recv))
    }

    /// Whether the peer takes extended CONNECT. Waits for its settings.
    pub(crate) async fn enables_connect_protocol(&self) -> Result<bool, Error> {
        let mut peer = self.peer.clone();
        let told = peer.wait_for(|peer| peer.settings.is_some()).await.map(|peer| peer.settings);
        match told {
            Ok(settings) => Ok(settings.is_some_and(|settings| settings.enables_connect_protocol)),
            Err(_) => Err(Error::Quic(super::connection_lost(self.handle.quic.closed().await))),
        }
    }

    /// Tells a client that no requests are taken from this stream's number on (section 5.2).
    pub(crate) async fn go_away(&self, first_rejected: u64) {
        let mut payload = BytesMut::new();
        put_integer(&mut payload, first_rejected);
        // Lost together with the connection.
        let _ = self.handle.control.lock().await.write_all(&frame(frame::GOAWAY, &payload)).await;
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.handle.quic.remote_address()
    }

    pub(crate) fn downgrade(&self) -> WeakConnection {
        WeakConnection { handle: Arc::downgrade(&self.handle), peer: self.peer.clone() }
    }

    pub(crate) fn close(&self, code: Code) {
        self.handle.close(code, "");
    }
}

impl WeakConnection {
    pub(crate) fn upgrade(&self) -> Option<Connection> {
        Some(Connection { handle: self.handle.upgrade()?, peer: self.peer.clone() })
    }

    /// Whether it has ended, or takes no new requests.
    pub(crate) fn is_gone(&self) -> bool {
        let is_lost = |handle: &Arc<Handle>| handle.quic.close_reason().is_some();
        self.peer.borrow().is_leaving || self.handle.upgrade().as_ref().is_none_or(is_lost)
    }
}

/// The beginning of the control stream. Neither of QPACK's streams is needed without its dynamic table
/// (RFC 9204 section 4.2).
fn greeting(side: Side) -> Bytes {
    let mut settings = BytesMut::new();
    put_integer(&mut settings, MAX_FIELD_SECTION_SIZE);
    put_integer(&mut settings, MAX_HEAD.into());
    if side.is_server() {
        put_integer(&mut settings, ENABLE_CONNECT_PROTOCOL);
        put_integer(&mut settings, 1);
    }
    let mut greeting = BytesMut::new();
    put_integer(&mut greeting, CONTROL);
    greeting.extend_from_slice(&frame(frame::SETTINGS, &settings));
    greeting.freeze()
}

/// Takes in the streams that the peer opens beside those for requests.
#[derive(Clone)]
struct Peers {
    quic: quinn::Connection,
    told: Arc<watch::Sender<Peer>>,
}

/// The types of streams that have come of which there is one.
type Seen = Mutex<Vec<u64>>;

impl Peers {
    async fn take_in(self) {
        let seen = Arc::new(Mutex::default());
        while let Ok(recv) = self.quic.accept_uni().await {
            let (peers, seen) = (self.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                if let Err(Error::Connection(code, what)) = peers.take_in_stream(recv, &seen).await {
                    peers.quic.close(code.to_quic(), what.as_bytes());
                }
            });
        }
    }

    async fn take_in_stream(&self, recv: RecvStream, seen: &Seen) -> Result<(), Error> {
        let mut frames = FrameReader::new(recv);
        // A stream that ends before its type is none.
        let Some(kind) = poll_fn(|cx| frames.poll_integer(cx)).await? else { return Ok(()) };
        if matches!(kind, CONTROL | QPACK_ENCODER | QPACK_DECODER) {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.contains(&kind) {
                let what = "a second stream where one belongs";
                return Err(Error::Connection(Code::STREAM_CREATION_ERROR, what));
            }
            seen.push(kind);
        }
        let ended = match kind {
            CONTROL => self.take_in_control(&mut frames).await,
            QPACK_ENCODER => take_in_encoder(&mut frames).await,
            QPACK_DECODER => take_in_decoder(&mut frames).await,
            // A server pushes only what it was given numbers for (section 4.6), a client never.
            PUSH if self.quic.side().is_client() => {
                return Err(Error::Connection(Code::ID_ERROR, "nobody asked for a push"));
            }
            PUSH => return Err(Error::Connection(Code::STREAM_CREATION_ERROR, "a client does not push")),
            _ => {
                // Nobody knows what it means (section 6.2.3).
                let _ = frames.recv().stop(Code::STREAM_CREATION_ERROR.to_quic());
                return Ok(());
            }
        };
        match ended {
            // Whether it ended or was reset.
            Ok(()) | Err(Error::Quic(_)) if self.quic.close_reason().is_none() => {
                let what = "a stream that must stay has ended";
                Err(Error::Connection(Code::CLOSED_CRITICAL_STREAM, what))
            }
            ended => ended,
        }
    }

    /// The peer's control stream, until it ends.
    async fn take_in_control(&self, frames: &mut FrameReader) -> Result<(), Error> {
        let unexpected = |what| Err(Error::Connection(Code::FRAME_UNEXPECTED, what));
        let too_long = || Error::Connection(Code::EXCESSIVE_LOAD, "a control frame is too long");
        while let Some((kind, _)) = poll_fn(|cx| frames.poll_header(cx)).await? {
            let is_first = self.told.borrow().settings.is_none();
            match kind {
                frame::SETTINGS if is_first => {
                    let settings = parse_settings(&frames.payload(MAX_CONTROL_FRAME, too_long()).await?)?;
                    self.told.send_modify(|peer| peer.settings = Some(settings));
                }
                _ if is_first => {
                    let what = "the control stream does not begin with SETTINGS";
                    return Err(Error::Connection(Code::MISSING_SETTINGS, what));
                }
                frame::GOAWAY => {
                    frames.payload(MAX_CONTROL_FRAME, too_long()).await?;
                    self.told.send_modify(|peer| peer.is_leaving = true);
                }
                frame::SETTINGS => return unexpected("SETTINGS come once"),
                frame::DATA | frame::HEADERS | frame::PUSH_PROMISE => {
                    return unexpected("a frame that does not belong on the control stream");
                }
                frame::MAX_PUSH_ID if self.quic.side().is_client() => {
                    return unexpected("a server sends no MAX_PUSH_ID");
                }
                _ if frame::is_reserved_for_http2(kind) => return unexpected("a frame of HTTP/2"),
                // Nothing is pushed, and what nobody knows means nothing.
                _ => frames.skip().await?,
            }
        }
        Ok(())
    }
}

fn parse_settings(payload: &[u8]) -> Result<Settings, Error> {
    let wrong = |what| Error::Connection(Code::SETTINGS_ERROR, what);
    let mut integers = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let cut = Error::Connection(Code::FRAME_ERROR, "SETTINGS end within a setting");
        let (value, len) = parse_integer(rest).ok_or(cut)?;
        integers.push(value);
        rest = &rest[len..];
    }
    let (pairs, []) = integers.as_chunks::<2>() else {
        return Err(Error::Connection(Code::FRAME_ERROR, "SETTINGS end within a setting"));
    };
    let mut settings = Settings::default();
    for (at, [identifier, value]) in pairs.iter().enumerate() {
        if pairs[..at].iter().any(|[earlier, _]| earlier == identifier) {
            return Err(wrong("a setting comes twice"));
        }
        match (*identifier, *value) {
            // Those of HTTP/2 (section 7.2.4.1).
            (0x00 | 0x02..=0x05, _) => return Err(wrong("a setting of HTTP/2")),
            (ENABLE_CONNECT_PROTOCOL, value @ 0..=1) => settings.enables_connect_protocol = value == 1,
            (ENABLE_CONNECT_PROTOCOL, _) => return Err(wrong("a setting is neither 0 nor 1")),
            _ => {}
        }
    }
    Ok(settings)
}

/// QPACK's instructions for a dynamic table, of which this end allows none: only its size may be set, to 0.
async fn take_in_encoder(frames: &mut FrameReader) -> Result<(), Error> {
    const SET_CAPACITY_TO_0: u8 = 0x20;
    while let Some(bytes) = poll_fn(|cx| frames.poll_bytes(cx)).await? {
        if bytes.iter().any(|byte| *byte != SET_CAPACITY_TO_0) {
            let what = "an instruction for a dynamic table, which is not there";
            return Err(Error::Connection(Code::QPACK_ENCODER_STREAM_ERROR, what));
        }
    }
    Ok(())
}

/// What a decoder says of a dynamic table means nothing without one.
async fn take_in_decoder(frames: &mut FrameReader) -> Result<(), Error> {
    while poll_fn(|cx| frames.poll_bytes(cx)).await?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_one_by_one() {
        let code = |payload: &[u8]| match parse_settings(payload) {
            Ok(settings) => Ok(settings.enables_connect_protocol),
            Err(Error::Connection(code, _)) => Err(code),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(code(&[]), Ok(false));
        assert_eq!(code(&[0x08, 1]), Ok(true));
        assert_eq!(code(&[0x06, 0x40, 0x40, 0x08, 0, 0x21, 5]), Ok(false));
        assert_eq!(code(&[0x08, 2]), Err(Code::SETTINGS_ERROR));
        assert_eq!(code(&[0x08, 1, 0x08, 1]), Err(Code::SETTINGS_ERROR));
        assert_eq!(code(&[0x02, 0]), Err(Code::SETTINGS_ERROR));
        assert_eq!(code(&[0x08]), Err(Code::FRAME_ERROR));
        assert_eq!(code(&[0x08, 0x40]), Err(Code::FRAME_ERROR));
    }

    #[test]
    fn only_a_server_takes_extended_connect() {
        let settings =
            |side| parse_settings(&greeting(side)[3..]).expect("it is valid").enables_connect_protocol;
        assert!(settings(Side::Server));
        assert!(!settings(Side::Client));
    }
}
