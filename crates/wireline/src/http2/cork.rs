//! What one turn of an HTTP/2 connection writes, in one piece: h2 writes each frame of more than a few hundred bytes by
//! itself, and a system call costs more than all the rest of a short message.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    driver::buffers::{keep_bytes, take_bytes},
    transport::Transport,
};

/// Bytes that wait for the end of a turn. What is more goes on its way at once.
const WAITING_AT_MOST: usize = 64 << 10;

/// A transport for h2, and what keeps back what is written to it. Until [`Cork::begin`] it keeps back nothing.
pub(crate) fn cork(transport: Transport) -> (Corked, Cork) {
    let state = State { transport, waiting: Vec::new(), written: 0, is_corked: false, is_unflushed: false };
    let state = Arc::new(Mutex::new(state));
    (Corked(Arc::clone(&state)), Cork(state))
}

/// The transport as h2 has it.
pub(crate) struct Corked(Arc<Mutex<State>>);

/// Lets go what h2 has written. It and the transport belong to one task: the lock is never waited for.
pub(crate) struct Cork(Arc<Mutex<State>>);

struct State {
    transport: Transport,
    waiting: Vec<u8>,
    /// How much of that the transport has.
    written: usize,
    is_corked: bool,
    /// Whether something was written since the transport was flushed.
    is_unflushed: bool,
}

impl Cork {
    /// From now on what is written waits for the [release](Self::poll_release), which each turn has to end with.
    pub(crate) fn begin(&self) {
        lock(&self.0).is_corked = true;
    }

    /// Writes what waits. Pending, it wakes the task when the transport takes more.
    pub(crate) fn poll_release(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_release(cx)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_unflushed {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_waiting(cx))?;
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        self.is_unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_write_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let waiting = &self.waiting[self.written..];
            let count = ready!(Pin::new(&mut self.transport).poll_write(cx, waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        if self.written > 0 {
            self.written = 0;
            keep_bytes(std::mem::take(&mut self.waiting));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.is_unflushed = true;
        let len = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if !self.is_corked || self.waiting.len() + len > WAITING_AT_MOST {
            ready!(self.poll_write_waiting(cx))?;
            if !self.is_corked || len > WAITING_AT_MOST {
                return Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
            }
        }
        if self.waiting.capacity() == 0 {
            self.waiting = take_bytes();
        }
        bufs.iter().for_each(|buf| self.waiting.extend_from_slice(buf));
        Poll::Ready(Ok(len))
    }
}

impl AsyncRead for Corked {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).transport).poll_read(cx, buf)
    }
}

impl AsyncWrite for Corked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if state.is_corked { Poll::Ready(Ok(())) } else { state.poll_release(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        ready!(state.poll_release(cx))?;
        Pin::new(&mut state.transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// What a transport was given: each write, and how often it was flushed.
    #[derive(Default)]
    struct Record {
        writes: Vec<Vec<u8>>,
        flushes: usize,
        is_shut: bool,
        /// Bytes that it takes before it is full.
        room: usize,
    }

    #[derive(Clone)]
    struct Recorder(Arc<Mutex<Record>>);

    impl Recorder {
        fn with_room(room: usize) -> Self {
            Self(Arc::new(Mutex::new(Record { room, ..Record::default() })))
        }

        fn record(&self) -> MutexGuard<'_, Record> {
            self.0.lock().unwrap()
        }

        fn corked(&self) -> (Corked, Cork) {
            let (corked, cork) = cork(Transport::Boxed(Box::new(self.clone())));
            cork.begin();
            (corked, cork)
        }
    }

    impl AsyncRead for Recorder {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Recorder {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let mut record = self.record();
            let count = record.room.min(buf.len());
            if count == 0 {
                return Poll::Pending;
            }
            record.room -= count;
            record.writes.push(buf[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.record().flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.record().is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(corked: &mut Corked, bytes: &[u8]) -> Option<usize> {
        match Pin::new(corked).poll_write(&mut cx(), bytes) {
            Poll::Ready(count) => Some(count.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn what_a_turn_writes_goes_as_one_write_when_the_turn_ends() {
        let recorder = Recorder::with_room(usize::MAX);
        let (mut corked, cork) = recorder.corked();
        let frames = [IoSlice::new(b"head "), IoSlice::new(b"payload ")];
        assert!(matches!(Pin::new(&mut corked).poll_write_vectored(&mut cx(), &frames), Poll::Ready(Ok(13))));
        assert!(Pin::new(&mut corked).poll_flush(&mut cx()).is_ready());
        assert_eq!(write(&mut corked, b"again"), Some(5));
        assert!(recorder.record().writes.is_empty(), "it waits for the turn's end");
        assert!(cork.poll_release(&mut cx()).is_ready());
        assert_eq!(recorder.record().writes, [b"head payload again"]);
        assert!(cork.poll_release(&mut cx()).is_ready());
        assert_eq!(recorder.record().flushes, 1, "nothing new, nothing to flush");
    }

    #[test]
    fn the_handshake_before_the_first_turn_is_not_kept_back() {
        let recorder = Recorder::with_room(usize::MAX);
        let (mut corked, _cork) = cork(Transport::Boxed(Box::new(recorder.clone())));
        assert_eq!(write(&mut corked, b"settings"), Some(8));
        assert_eq!(recorder.record().writes, [b"settings"]);
        assert!(Pin::new(&mut corked).poll_flush(&mut cx()).is_ready());
        assert_eq!(recorder.record().flushes, 1);
    }

    #[test]
    fn the_end_comes_behind_what_waits() {
        let recorder = Recorder::with_room(usize::MAX);
        let (mut corked, _cork) = recorder.corked();
        assert_eq!(write(&mut corked, b"goodbye"), Some(7));
        assert!(Pin::new(&mut corked).poll_shutdown(&mut cx()).is_ready());
        assert_eq!(recorder.record().writes, [b"goodbye"]);
        assert!(recorder.record().is_shut);
    }

    #[test]
    fn a_peer_that_does_not_read_holds_up_the_writer() {
        let recorder = Recorder::with_room(0);
        let (mut corked, cork) = recorder.corked();
        let frame = [7; 16 << 10];
        let taken = (0..100).take_while(|_| write(&mut corked, &frame).is_some()).count();
        assert_eq!(taken, WAITING_AT_MOST / frame.len(), "no more than that waits");
        assert!(cork.poll_release(&mut cx()).is_pending());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_moved_however_much_the_transport_takes(
            frames in prop::collection::vec((0..100_000_usize, any::<bool>(), 0..80_000_usize), 1..12),
        ) {
            let recorder = Recorder::with_room(0);
            let (mut corked, cork) = recorder.corked();
            let mut written = Vec::new();
            for (number, (len, is_turn_over, room)) in frames.into_iter().enumerate() {
                recorder.record().room += room;
                let frame: Vec<u8> = (0..len).map(|place| (place + number).to_le_bytes()[0]).collect();
                if let Some(count) = write(&mut corked, &frame) {
                    written.extend_from_slice(&frame[..count]);
                }
                if is_turn_over {
                    let _ = cork.poll_release(&mut cx());
                }
            }
            recorder.record().room = usize::MAX;
            prop_assert!(cork.poll_release(&mut cx()).is_ready());
            prop_assert_eq!(recorder.record().writes.concat(), written);
        }
    }
}
