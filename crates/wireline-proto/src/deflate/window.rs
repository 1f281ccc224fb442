//! The LZ77 sliding window (RFC 1951 section 2): what a later message may refer back to.

/// The last bytes of the messages that went through one direction's compression, as both ends know them.
///
/// It is all that context takeover keeps between messages. zlib's own contexts, which hold hash tables
/// beside a window, are primed from it at the start of a message and given back at its end.
#[derive(Debug)]
pub(super) struct Window {
    /// A ring once it is full, so that what stays need not move.
    bytes: Vec<u8>,
    size: usize,
    /// Where the oldest byte of a full ring stands, and the next one goes.
    oldest: usize,
}

impl Window {
    /// An empty window of `2^bits` bytes. It takes memory as it fills.
    pub(super) fn new(bits: u8) -> Self {
        Self { bytes: Vec::new(), size: 1 << bits, oldest: 0 }
    }

    /// What it holds, oldest first.
    pub(super) fn parts(&self) -> [&[u8]; 2] {
        let (newer, older) = self.bytes.split_at(self.oldest);
        [older, newer]
    }

    /// A message went by: its end pushes out what is oldest.
    pub(super) fn slide(&mut self, message: &[u8]) {
        let message = &message[message.len().saturating_sub(self.size)..];
        let (first, rest) = message.split_at(message.len().min(self.size - self.bytes.len()));
        self.append(first);
        self.replace_oldest(rest);
    }

    fn append(&mut self, bytes: &[u8]) {
        let needed = self.bytes.len() + bytes.len();
        if self.bytes.capacity() < needed {
            let room = needed.next_power_of_two().min(self.size);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn replace_oldest(&mut self, bytes: &[u8]) {
        let (to_end, from_start) = bytes.split_at(bytes.len().min(self.bytes.len() - self.oldest));
        self.bytes[self.oldest..][..to_end.len()].copy_from_slice(to_end);
        self.bytes[..from_start.len()].copy_from_slice(from_start);
        self.oldest = (self.oldest + bytes.len()) % self.size;
    }
}

/// The last `len` bytes of `parts`, or all of them if there are fewer.
pub(super) fn end_of<'p>([older, newer]: [&'p [u8]; 2], len: usize) -> [&'p [u8]; 2] {
    let last = |part: &'p [u8], len: usize| &part[part.len().saturating_sub(len)..];
    [last(older, len.saturating_sub(newer.len())), last(newer, len)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn holds_the_end_of_everything(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..12),
        ) {
            let mut window = Window::new(9);
            let mut all = Vec::new();
            for message in messages {
                window.slide(&message);
                all.extend(message);
                prop_assert_eq!(window.parts().concat(), &all[all.len().saturating_sub(512)..]);
                prop_assert!(window.bytes.capacity() <= 512);
            }
        }
    }
}
