//! Sends to many sockets with one call of the system, by io_uring.
#![allow(
    unsafe_code,
    reason = "one call hands the kernel pointers, and does not return before the kernel has done with them"
)]

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use io_uring::{IoUring, Probe, opcode, types};

/// What one call takes. Raised, it is memory of the kernel's, 96 bytes each.
pub(super) const MAX_WRITES: usize = 256;

/// What goes to one socket.
pub(super) struct Write<'w> {
    pub(super) socket: BorrowedFd<'w>,
    pub(super) bytes: IoSlice<'w>,
}

/// A queue to the kernel, where it has one.
pub(super) struct Ring(Option<IoUring>);

impl Ring {
    /// There is none where the kernel is too old (before 5.6), or who runs the machine or the container forbids it.
    pub(super) fn open() -> Self {
        let ring = try_open();
        if let Err(error) = &ring {
            tracing::debug!(%error, "no io_uring: each socket is written by itself");
        }
        Self(ring.ok())
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Sends once to each socket, in order, as much as it takes without waiting; to at most [`MAX_WRITES`]. What
    /// became of each: `WouldBlock` if it takes nothing now, or was not tried. A peer that is gone raises no signal.
    pub(super) fn send(&mut self, writes: &[Write<'_>]) -> Vec<io::Result<usize>> {
        let mut outcomes: Vec<_> = writes.iter().map(|_| Err(io::ErrorKind::WouldBlock.into())).collect();
        if let Some(ring) = &mut self.0
            && let Err(error) = send(ring, writes, &mut outcomes)
        {
            tracing::debug!(%error, "io_uring fails: each socket is written by itself");
            self.0 = None;
        }
        outcomes
    }
}

fn try_open() -> io::Result<IoUring> {
    let ring = IoUring::new(u32::try_from(MAX_WRITES).unwrap_or(u32::MAX))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if probe.is_supported(opcode::Send::CODE) { Ok(ring) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// After an error the ring must not be used any more: what the kernel has not taken is still in it.
fn send(ring: &mut IoUring, writes: &[Write<'_>], outcomes: &mut [io::Result<usize>]) -> io::Result<()> {
    let mut queued = 0;
    let mut queue = ring.submission();
    for (index, Write { socket, bytes }) in writes.iter().enumerate() {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), len)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build()
            .user_data(index as u64);
        // SAFETY: socket and bytes are borrowed until this function returns. That is when the kernel has told the
        // outcome of all that it took; what it did not take is given up with the ring.
        if unsafe { queue.push(&send) }.is_err() {
            break;
        }
        queued += 1;
    }
    drop(queue);
    let mut done = 0;
    while done < queued {
        let submitted = ring.submit_and_wait(queued - done);
        for completed in ring.completion() {
            done += 1;
            let index = usize::try_from(completed.user_data()).ok();
            if let Some(outcome) = index.and_then(|index| outcomes.get_mut(index)) {
                *outcome = usize::try_from(completed.result())
                    .map_err(|_| io::Error::from_raw_os_error(-completed.result()));
            }
        }
        if let Err(error) = submitted
            && error.kind() != io::ErrorKind::Interrupted
            && done + ring.submission().len() >= queued
        {
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::{fd::AsFd as _, unix::net::UnixStream},
    };

    use super::*;

    fn write<'w>(socket: &'w UnixStream, bytes: &'w [u8]) -> Write<'w> {
        Write { socket: socket.as_fd(), bytes: IoSlice::new(bytes) }
    }

    #[test]
    fn each_socket_gets_its_own_and_what_became_of_it_is_told() {
        let mut ring = Ring(Some(try_open().expect("this kernel has io_uring")));
        let pairs: Vec<_> = (0..MAX_WRITES).map(|_| UnixStream::pair().expect("a pair")).collect();
        let words: Vec<_> = (0..MAX_WRITES).map(|index| format!("to {index}")).collect();
        for _ in 0..3 {
            let writes: Vec<_> =
                pairs.iter().zip(&words).map(|((ours, _), word)| write(ours, word.as_bytes())).collect();
            let outcomes = ring.send(&writes);
            for (((_, theirs), word), outcome) in pairs.iter().zip(&words).zip(outcomes) {
                assert_eq!(outcome.expect("it was sent"), word.len());
                let mut received = vec![0; word.len()];
                (&*theirs).read_exact(&mut received).expect("it came");
                assert_eq!(received, word.as_bytes());
            }
        }
    }

    #[test]
    fn a_full_socket_and_one_whose_peer_is_gone_disturb_no_other() {
        let mut ring = Ring(Some(try_open().expect("this kernel has io_uring")));
        let [full, gone, well] = [(); 3].map(|()| UnixStream::pair().expect("a pair"));
        drop(gone.1);
        let bulk = vec![7; 8 << 20];
        let sent = ring.send(&[write(&full.0, &bulk)]).remove(0).expect("a part of it");
        assert!(sent < bulk.len(), "{sent}");
        let outcomes = ring.send(&[write(&full.0, b"more"), write(&gone.0, b"you"), write(&well.0, b"me")]);
        let [full, gone, well] = <[_; 3]>::try_from(outcomes).expect("one each");
        assert_eq!(full.expect_err("it is full").kind(), io::ErrorKind::WouldBlock);
        assert_eq!(gone.expect_err("nobody is there").kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(well.expect("it was sent"), 2);
    }

    #[test]
    fn without_a_ring_nothing_is_tried_and_what_is_too_much_is_not_either() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let writes: Vec<_> = (0..=MAX_WRITES).map(|_| write(&ours, b"x")).collect();
        let is_untried = |outcome: &io::Result<usize>| matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        assert!(Ring(None).send(&writes).iter().all(is_untried));
        let outcomes = Ring(Some(try_open().expect("this kernel has io_uring"))).send(&writes);
        assert_eq!(outcomes.iter().filter(|outcome| is_untried(outcome)).count(), 1);
    }
}
