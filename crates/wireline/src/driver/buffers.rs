//! Buffers that the connections of a thread share, so that an idle connection owns none.

use std::cell::RefCell;

use super::inbox::Backlog;

/// What one read can bring.
const READ_BUFFER: usize = 64 << 10;

/// What a buffer holds at first: when one message goes to thousands of sockets, each has one for a moment.
const FRESH_BUFFER: usize = 512;

/// How many spare buffers a thread keeps. More than this are in use only when many peers do not read.
const SPARES: usize = 16;

/// A buffer that grew beyond this is given back to the system rather than kept.
const KEEP_UP_TO: usize = 128 << 10;

#[derive(Default)]
struct Spares {
    bytes: Vec<Vec<u8>>,
    #[expect(clippy::vec_box, reason = "the boxes themselves are lent, so that an inbox is a pointer")]
    backlogs: Vec<Box<Backlog>>,
}

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER].into_boxed_slice());
    static SPARE: RefCell<Spares> = RefCell::default();
}

/// Gives the thread's read buffer to `f`, which must not come back here.
#[inline]
pub(super) fn with_read_buffer<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    READ.with_borrow_mut(|buffer| f(buffer))
}

/// An empty buffer to encode into.
#[inline]
pub(crate) fn take_bytes() -> Vec<u8> {
    SPARE.with_borrow_mut(|spares| spares.bytes.pop()).unwrap_or_else(|| Vec::with_capacity(FRESH_BUFFER))
}

#[inline]
pub(crate) fn keep_bytes(mut buffer: Vec<u8>) {
    // A thread that ends has no spares any more.
    let _ = SPARE.try_with(|spares| {
        let mut spares = spares.borrow_mut();
        if spares.bytes.len() < SPARES && buffer.capacity() <= KEEP_UP_TO {
            buffer.clear();
            spares.bytes.push(buffer);
        }
    });
}

/// An empty place for what was read ahead.
pub(super) fn take_backlog() -> Box<Backlog> {
    SPARE.with_borrow_mut(|spares| spares.backlogs.pop()).unwrap_or_default()
}

pub(super) fn keep_backlog(backlog: Box<Backlog>) {
    // A thread that ends has no spares any more.
    let _ = SPARE.try_with(|spares| {
        let mut spares = spares.borrow_mut();
        if spares.backlogs.len() < SPARES && backlog.capacity() <= KEEP_UP_TO {
            spares.backlogs.push(backlog);
        }
    });
}
