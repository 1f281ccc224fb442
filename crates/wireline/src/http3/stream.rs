//! A stream for one request: heads, bodies, and what an extended CONNECT makes of it, a stream of bytes.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use http_body::Frame;
use quinn::{RecvStream, SendStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

use super::{
    Code, Error, MAX_HEAD,
    connection::Handle,
    field_section::{decode_request, decode_response, encode_request, encode_response},
    frame::{self, FrameReader, Trailers, frame},
};

/// Bytes that one DATA frame takes at most: what waits to be written belongs to one frame.
const MAX_DATA: usize = 64 << 10;

/// How long the last bytes of a stream may take.
const LINGER: Duration = Duration::from_secs(10);

/// A stream for one request and its response (RFC 9114 section 4.1).
///
/// As a stream of bytes it is what RFC 9220 makes of it: its end is the stream's, and dropped before that, it
/// resets the stream.
pub(crate) struct RequestStream {
    receiver: Receiver,
    sender: Sender,
    /// Kept for as long as the stream is.
    _lease: Option<watch::Receiver<()>>,
}

/// The receiving side.
struct Receiver {
    handle: Arc<Handle>,
    frames: FrameReader,
    /// The end of the stream was seen, or an error.
    is_over: bool,
    /// The peer has ended its side well.
    is_at_end: bool,
}

/// The sending side.
struct Sender {
    send: SendStream,
    /// What is left of the frame at hand.
    unsent: Bytes,
    is_finished: bool,
    /// The peer has all of it, or will never have.
    is_delivered: bool,
    /// Waits for that.
    delivery: Option<Delivery>,
}

type Delivery = Pin<Box<dyn Future<Output = ()> + Send>>;

impl RequestStream {
    pub(super) fn new(handle: Arc<Handle>, send: SendStream, recv: RecvStream) -> Self {
        Self {
            receiver: Receiver { handle, frames: FrameReader::new(recv), is_over: false, is_at_end: false },
            sender: Sender {
                send,
                unsent: Bytes::new(),
                is_finished: false,
                is_delivered: false,
                delivery: None,
            },
            _lease: None,
        }
    }

    /// The stream's number on its connection.
    pub(crate) fn id(&self) -> u64 {
        self.sender.send.id().into()
    }

    /// Keeps this until the stream is dropped.
    pub(crate) fn set_lease(&mut self, lease: watch::Receiver<()>) {
        self._lease = Some(lease);
    }

    pub(crate) async fn read_request(&mut self) -> Result<Request<()>, Error> {
        let section = self.receiver.head().await?;
        decode_request(section).map_err(|error| self.receiver.blame(error))
    }

    /// The response's head; those that only inform are passed over.
    pub(crate) async fn read_response(&mut self) -> Result<Response<()>, Error> {
        loop {
            let section = self.receiver.head().await?;
            let response = decode_response(section).map_err(|error| self.receiver.blame(error))?;
            if !response.status().is_informational() {
                return Ok(response);
            }
        }
    }

    pub(crate) async fn send_request(&mut self, request: &Request<()>) -> Result<(), Error> {
        let head = frame(frame::HEADERS, &encode_request(request)?);
        self.sender.send(head).await
    }

    pub(crate) async fn send_head<B>(&mut self, response: &Response<B>) -> Result<(), Error> {
        let head = frame(frame::HEADERS, &encode_response(response)?);
        self.sender.send(head).await
    }

    /// Sends a whole response, and tells the client that nothing more of its request is wanted.
    pub(crate) async fn respond(&mut self, response: Response<Bytes>) -> Result<(), Error> {
        self.send_head(&response).await?;
        if !response.body().is_empty() {
            self.sender.send(frame(frame::DATA, response.body())).await?;
        }
        self.receiver.stop(Code::NO_ERROR);
        poll_fn(|cx| self.sender.poll_finish(cx)).await
    }

    /// Both sides end with this error.
    pub(crate) fn reset(&mut self, code: Code) {
        self.receiver.stop(code);
        self.sender.reset(code);
    }

    /// Is ready when the peer has given this stream up. What it sends meanwhile is kept.
    pub(crate) async fn given_up(&mut self) {
        let stopped = self.sender.send.stopped();
        tokio::select! {
            // A stream that has ended has not been given up.
            Ok(Some(_)) | Err(_) = self.receiver.frames.recv().received_reset() => {}
            Ok(Some(_)) | Err(_) = stopped => {}
            else => std::future::pending().await,
        }
    }

    /// The body alone, with the rest to answer by.
    pub(crate) fn body(&mut self) -> Body<'_> {
        Body { receiver: &mut self.receiver }
    }
}

impl Receiver {
    /// Ends the connection or the stream, if the peer broke the rules.
    fn blame(&mut self, error: Error) -> Error {
        match &error {
            Error::Connection(code, what) => self.handle.close(*code, what),
            Error::Stream(code, _) => self.stop(*code),
            Error::HeadTooLong | Error::Quic(_) => {}
        }
        self.is_over |= !matches!(error, Error::HeadTooLong);
        error
    }

    fn stop(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_over, true) {
            // What has ended by now need not be stopped.
            let _ = self.frames.recv().stop(code.to_quic());
        }
    }

    /// The field section of the next head.
    async fn head(&mut self) -> Result<Bytes, Error> {
        let head = async {
            match poll_fn(|cx| self.frames.poll_known(cx)).await? {
                Some(frame::HEADERS) => self.frames.payload(MAX_HEAD as usize, Error::HeadTooLong).await,
                Some(_) => Err(Error::Connection(Code::FRAME_UNEXPECTED, "DATA comes before the head")),
                None => Err(Error::Stream(Code::REQUEST_INCOMPLETE, "the stream ends without a head")),
            }
        };
        let head = head.await;
        head.map_err(|error| self.blame(error))
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        trailers: Trailers,
    ) -> Poll<Result<Option<Bytes>, Error>> {
        if self.is_over {
            return Poll::Ready(Ok(None));
        }
        let data = ready!(self.frames.poll_data(cx, most, trailers));
        self.is_at_end = matches!(data, Ok(None));
        self.is_over = self.is_at_end;
        Poll::Ready(data.map_err(|error| self.blame(error)))
    }
}

impl Sender {
    async fn send(&mut self, frame: Bytes) -> Result<(), Error> {
        self.unsent = frame;
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Is ready when QUIC has all of the frame at hand.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.unsent.is_empty() {
            let mut chunks = [self.unsent.clone()];
            let written = ready!(pin!(self.send.write_chunks(&mut chunks)).poll(cx))?;
            self.unsent.advance(written.bytes);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the stream, and is ready when the peer has all of it: nobody else would send it again if this
    /// process, or the connection, ended.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_send(cx))?;
        if !std::mem::replace(&mut self.is_finished, true) {
            // It has ended already, or the peer does not want the rest.
            let _ = self.send.finish();
        }
        if self.is_delivered {
            return Poll::Ready(Ok(()));
        }
        let send = &self.send;
        let delivery = self.delivery.get_or_insert_with(|| {
            let delivered = send.stopped();
            Box::pin(async move { drop(delivered.await) })
        });
        ready!(delivery.as_mut().poll(cx));
        self.is_delivered = true;
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_finished, true) {
            let _ = self.send.reset(code.to_quic());
        }
    }
}

impl AsyncRead for RequestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let data = self.receiver.poll_data(cx, buf.remaining(), Trailers::Forbidden);
        if let Some(bytes) = ready!(data)? {
            buf.put_slice(&bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RequestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sender = &mut self.sender;
        ready!(sender.poll_send(cx))?;
        let count = buf.len().min(MAX_DATA);
        if count > 0 {
            sender.unsent = frame(frame::DATA, &buf[..count]);
            // What QUIC does not take now, it does when more is written, or flushed.
            if let Poll::Ready(Err(error)) = sender.poll_send(cx) {
                return Poll::Ready(Err(error.into()));
            }
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.poll_send(cx).map_err(Into::into)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.poll_finish(cx).map_err(Into::into)
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        let is_whole = self.receiver.is_at_end && self.sender.unsent.is_empty();
        if !is_whole && !self.sender.is_finished {
            // As TCP's reset (RFC 9220 section 3).
            return self.reset(Code::REQUEST_CANCELLED);
        }
        self.receiver.stop(Code::NO_ERROR);
        // What the peer has not got yet is sent in the background, as the system does it for TCP.
        self.sender.is_finished = true;
        let _ = self.sender.send.finish();
        let (delivered, handle) = (self.sender.send.stopped(), Arc::clone(&self.receiver.handle));
        if !self.sender.is_delivered
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(LINGER, delivered).await;
                drop(handle);
            });
        }
    }
}

impl http_body::Body for RequestStream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.receiver.poll_frame(cx)
    }
}

impl Receiver {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let data = ready!(self.poll_data(cx, MAX_DATA, Trailers::Allowed));
        Poll::Ready(data.map(|bytes| bytes.map(Frame::data)).map_err(Into::into).transpose())
    }
}

/// The body of a request.
pub(crate) struct Body<'s> {
    receiver: &'s mut Receiver,
}

impl http_body::Body for Body<'_> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.receiver.poll_frame(cx)
    }
}
