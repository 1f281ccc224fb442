//! The LZ77 sliding window (RFC 1951 section 2): what a later message may refer back to.

/// The last bytes of the messages that went through one direction's compression, as both ends know them.
///
/// It is all that context takeover keeps between messages. zlib's own contexts, which hold hash tables
/// beside a window, are primed from it at the start of a message and given back at its end.
#[derive(Debug)]
pub(super) struct Window {
    bytes: Vec<u8>,
    size: usize,
}

impl Window {
    /// An empty window of `2^bits` bytes. It takes memory as it fills.
    pub(super) fn new(bits: u8) -> Self {
        Self { bytes: Vec::new(), size: 1 << bits }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A message went by: its end pushes out what is oldest.
    pub(super) fn slide(&mut self, message: &[u8]) {
        let message = &message[message.len().saturating_sub(self.size)..];
        let needed = self.bytes.len() + message.len();
        self.bytes.drain(..needed.saturating_sub(self.size).min(self.bytes.len()));
        if self.bytes.capacity() < self.bytes.len() + message.len() {
            let room = needed.next_power_of_two().min(self.size);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(message);
    }
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
                prop_assert_eq!(window.bytes(), &all[all.len().saturating_sub(512)..]);
                prop_assert!(window.bytes.capacity() <= 512);
            }
        }
    }
}
