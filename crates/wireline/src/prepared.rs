//! A message framed once, for any number of connections.

use std::sync::{Arc, Mutex, PoisonError};

use wireline_proto::{
    Compress, PreparedDeflate,
    deflate::{Compressor, CompressorSettings},
};

use crate::{Message, driver};

/// A message that is framed once and sent to any number of connections, which share its bytes.
///
/// A server's connections do; a client has to mask every frame anew (RFC 6455 section 5.3), so there this
/// saves nothing. Where compression was agreed on it is compressed once for each set of parameters, and
/// refers to no message before it. Cloning it is cheap.
///
/// ```no_run
/// use wireline::{Prepared, SendError, Socket};
///
/// /// Sends `text` to everyone, and gives up those who do not read.
/// fn publish(sockets: &mut Vec<Socket>, text: &str) {
///     let prepared = Prepared::new(text);
///     sockets.retain(|socket| match socket.try_send_prepared(&prepared) {
///         Ok(()) => true,
///         Err(SendError::Full { .. }) => {
///             socket.abort();
///             false
///         }
///         Err(_) => false,
///     });
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Prepared {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plain: wireline_proto::Prepared,
    /// For each set of parameters that was asked for; `None` where it makes nothing smaller.
    compressed: Mutex<Vec<(CompressorSettings, Option<PreparedDeflate>)>>,
}

impl Prepared {
    /// Frames a message.
    #[must_use]
    pub fn new(message: impl Into<Message>) -> Self {
        let message = message.into();
        let kind = match message {
            Message::Text(_) => wireline_proto::MessageKind::Text,
            Message::Binary(_) => wireline_proto::MessageKind::Binary,
        };
        let plain = wireline_proto::Prepared::new(kind, message.into_bytes());
        Self { shared: Arc::new(Shared { plain, compressed: Mutex::default() }) }
    }

    pub(crate) fn plain(&self) -> &wireline_proto::Prepared {
        &self.shared.plain
    }

    /// Its compressed form, made when it is first asked for; `None` if that is not smaller.
    pub(crate) fn compressed(&self, settings: CompressorSettings) -> Option<PreparedDeflate> {
        let mut compressed = self.shared.compressed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = compressed.iter().find(|(known, _)| *known == settings) {
            return known.clone();
        }
        let made = driver::with_compressor(settings, |compressor: &mut Compressor| {
            self.shared.plain.compress(compressor)
        });
        compressed.push((settings, made.clone()));
        made
    }

    /// How many times it was compressed: once for each set of parameters that connections asked for.
    #[must_use]
    pub fn compressions(&self) -> usize {
        self.shared.compressed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Bytes of payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.plain.payload().len()
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<M: Into<Message>> From<M> for Prepared {
    fn from(message: M) -> Self {
        Self::new(message)
    }
}

/// What the sending side of a connection takes.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(Message, Compress),
    Prepared(Prepared, Compress),
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Message(message, _) => message.len(),
            Self::Prepared(prepared, _) => prepared.len(),
        }
    }
}

impl From<Prepared> for Outgoing {
    fn from(prepared: Prepared) -> Self {
        Self::Prepared(prepared, Compress::default())
    }
}

impl<M: Into<Message>> From<M> for Outgoing {
    fn from(message: M) -> Self {
        Self::Message(message.into(), Compress::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_compressed_once_for_each_set_of_parameters() {
        let prepared = Prepared::new("the same words, ".repeat(100));
        let settings = CompressorSettings { level: 6, window_bits: 12, memory_level: 5 };
        let compressed = |settings| prepared.clone().compressed(settings).expect("it is smaller");
        let frame = compressed(settings).frame().clone();
        assert!(frame.len() < 100);
        assert_eq!(compressed(settings).frame().as_ptr(), frame.as_ptr());
        let other = CompressorSettings { window_bits: 10, ..settings };
        assert_ne!(compressed(other).frame().as_ptr(), frame.as_ptr());
        assert_eq!(prepared.compressions(), 2);
    }

    #[test]
    fn what_compression_makes_no_smaller_stays_as_it_is() {
        let settings = CompressorSettings { level: 6, window_bits: 12, memory_level: 5 };
        assert!(Prepared::new("short").compressed(settings).is_none());
    }
}
