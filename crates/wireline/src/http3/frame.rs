//! Frames (RFC 9114 section 7), and the integers that they are made of (RFC 9000 section 16).

use std::{
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use quinn::RecvStream;

use super::{Code, Error};

pub(super) const DATA: u64 = 0x00;
pub(super) const HEADERS: u64 = 0x01;
pub(super) const CANCEL_PUSH: u64 = 0x03;
pub(super) const SETTINGS: u64 = 0x04;
pub(super) const PUSH_PROMISE: u64 = 0x05;
pub(super) const GOAWAY: u64 = 0x07;
pub(super) const MAX_PUSH_ID: u64 = 0x0d;

/// The longest header of a frame: its type and its length.
const MAX_HEADER: usize = 16;

/// Bytes to take from QUIC at once.
const MAX_CHUNK: usize = 64 << 10;

/// Frames that mean nothing which one poll skips before it gives way.
const SKIPPED_AT_ONCE: u32 = 1024;

/// An integer at the beginning of `bytes`, and how many of them it takes; `None` if it is not all there.
pub(super) fn parse_integer(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1 << (first >> 6);
    let rest = bytes.get(1..len)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, len))
}

/// Writes an integer below 2^62, as short as it can be.
pub(super) fn put_integer(buffer: &mut impl BufMut, value: u64) {
    match value {
        0..0x40 => buffer.put_uint(value, 1),
        0x40..0x4000 => buffer.put_uint(value | 0x4000, 2),
        0x4000..0x4000_0000 => buffer.put_uint(value | 0x8000_0000, 4),
        _ => buffer.put_uint(value | 0xc000_0000_0000_0000, 8),
    }
}

/// A whole frame.
pub(super) fn frame(kind: u64, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(MAX_HEADER + payload.len());
    put_integer(&mut frame, kind);
    put_integer(&mut frame, payload.len() as u64);
    frame.put_slice(payload);
    frame.freeze()
}

/// The frames that must not come on a stream for a request, and those of HTTP/2 that have no place in HTTP/3
/// (section 7.2.8).
fn is_forbidden(kind: u64) -> bool {
    matches!(kind, CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID)
        || is_reserved_for_http2(kind)
}

pub(super) fn is_reserved_for_http2(kind: u64) -> bool {
    matches!(kind, 0x02 | 0x06 | 0x08 | 0x09)
}

/// The receiving side of a stream, as frames.
pub(super) struct FrameReader {
    recv: RecvStream,
    /// What was read and not looked at yet.
    chunk: Bytes,
    /// The header of the next frame, as far as it is read.
    header: Header,
    /// What is left of the payload of the frame at hand.
    left: u64,
}

#[derive(Default)]
struct Header {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl Header {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// Type and length, if both are there: which is at the latest when the array is full.
    fn parse(&self) -> Option<(u64, u64)> {
        let bytes = &self.bytes[..self.len];
        let (kind, len) = parse_integer(bytes)?;
        let (length, _) = parse_integer(&bytes[len..])?;
        Some((kind, length))
    }
}

impl FrameReader {
    pub(super) fn new(recv: RecvStream) -> Self {
        Self { recv, chunk: Bytes::new(), header: Header::default(), left: 0 }
    }

    pub(super) fn recv(&mut self) -> &mut RecvStream {
        &mut self.recv
    }

    /// Whether there is something to look at; not at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        while self.chunk.is_empty() {
            match ready!(pin!(self.recv.read_chunk(MAX_CHUNK, true)).poll(cx))? {
                Some(chunk) => self.chunk = chunk.bytes,
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// An integer that stands alone, such as a stream's type; `None` if the stream ends instead.
    pub(super) fn poll_integer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, Error>> {
        loop {
            if let Some((value, _)) = parse_integer(&self.header.bytes[..self.header.len]) {
                self.header = Header::default();
                return Poll::Ready(Ok(Some(value)));
            }
            if !ready!(self.poll_fill(cx))? {
                return Poll::Ready(Ok(None));
            }
            self.header.push(self.chunk.get_u8());
        }
    }

    /// The type and length of the next frame, whatever it is; `None` at the end of the stream.
    pub(super) fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<(u64, u64)>, Error>> {
        debug_assert_eq!(self.left, 0, "the frame before is read");
        loop {
            if let Some((kind, length)) = self.header.parse() {
                self.header = Header::default();
                self.left = length;
                return Poll::Ready(Ok(Some((kind, length))));
            }
            if !ready!(self.poll_fill(cx))? {
                return Poll::Ready(if self.header.len == 0 { Ok(None) } else { Err(CUT_SHORT) });
            }
            self.header.push(self.chunk.get_u8());
        }
    }

    /// The next bytes of the payload of the frame at hand, `most` at most; `None` at its end.
    fn poll_payload(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<Option<Bytes>, Error>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        if !ready!(self.poll_fill(cx))? {
            return Poll::Ready(Err(CUT_SHORT));
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = self.chunk.split_to(self.chunk.len().min(left).min(most));
        self.left -= bytes.len() as u64;
        Poll::Ready(Ok(Some(bytes)))
    }

    /// The whole payload of the frame at hand; an error if it is longer than `most`.
    pub(super) async fn payload(&mut self, most: usize, too_long: Error) -> Result<Bytes, Error> {
        if self.left > most as u64 {
            return Err(too_long);
        }
        let mut payload = BytesMut::new();
        while let Some(bytes) = std::future::poll_fn(|cx| self.poll_payload(cx, most)).await? {
            payload.extend_from_slice(&bytes);
        }
        Ok(payload.freeze())
    }

    /// Reads on to the end of the frame at hand.
    pub(super) async fn skip(&mut self) -> Result<(), Error> {
        while std::future::poll_fn(|cx| self.poll_payload(cx, MAX_CHUNK)).await?.is_some() {}
        Ok(())
    }

    /// The next bytes of a stream without frames; `None` at its end.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        let is_there = ready!(self.poll_fill(cx))?;
        Poll::Ready(Ok(is_there.then(|| std::mem::take(&mut self.chunk))))
    }

    /// The next frame of a stream for a request that has a meaning there; the others are skipped, whatever
    /// their length (section 9).
    pub(super) fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, Error>> {
        for _ in 0..SKIPPED_AT_ONCE {
            // What is left is of a frame that is skipped.
            while ready!(self.poll_payload(cx, MAX_CHUNK))?.is_some() {}
            let Some((kind, length)) = ready!(self.poll_header(cx))? else { return Poll::Ready(Ok(None)) };
            match kind {
                DATA if length == 0 => {}
                DATA | HEADERS => return Poll::Ready(Ok(Some(kind))),
                _ if is_forbidden(kind) => {
                    let what = "a frame that does not belong on a request's stream";
                    return Poll::Ready(Err(Error::Connection(Code::FRAME_UNEXPECTED, what)));
                }
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The next bytes of the stream's DATA, `most` at most; `None` at its end. `trailers`: whether HEADERS may come behind them.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        trailers: Trailers,
    ) -> Poll<Result<Option<Bytes>, Error>> {
        if let Some(bytes) = ready!(self.poll_payload(cx, most))? {
            return Poll::Ready(Ok(Some(bytes)));
        }
        match ready!(self.poll_known(cx))? {
            Some(DATA) => self.poll_payload(cx, most),
            Some(_) if trailers == Trailers::Forbidden => {
                // Section 4.4.
                let what = "a head in the midst of a tunnel";
                Poll::Ready(Err(Error::Connection(Code::FRAME_UNEXPECTED, what)))
            }
            // Nobody looks at trailers.
            Some(_) | None => Poll::Ready(Ok(None)),
        }
    }
}

/// Whether a second head may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trailers {
    Allowed,
    Forbidden,
}

/// Section 7.1.
const CUT_SHORT: Error = Error::Connection(Code::FRAME_ERROR, "the stream ends within a frame");

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9000 appendix A.1.
    #[test]
    fn integers_are_those_of_the_rfc() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(parse_integer(bytes), Some((value, bytes.len())));
            let mut written = BytesMut::new();
            put_integer(&mut written, value);
            assert_eq!(written, bytes);
            assert_eq!(parse_integer(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(parse_integer(&[0x40, 0x25]), Some((37, 2)));
    }

    #[test]
    fn integers_are_as_short_as_they_can_be() {
        for (value, len) in
            [(0, 1), (63, 1), (64, 2), (16383, 2), (16384, 4), ((1 << 30) - 1, 4), (1 << 30, 8)]
        {
            let mut written = BytesMut::new();
            put_integer(&mut written, value);
            assert_eq!(written.len(), len);
            assert_eq!(parse_integer(&written), Some((value, len)));
        }
    }

    #[test]
    fn a_header_needs_no_more_than_its_bytes() {
        let mut longest = Header::default();
        for byte in [[0xff; 8], [0xc0, 0, 0, 0, 0, 0, 0, 9]].concat() {
            assert_eq!(longest.parse(), None);
            longest.push(byte);
        }
        assert_eq!(longest.parse(), Some(((1 << 62) - 1, 9)));
    }
}
