//! What programs send to each other, compressed: JSON of one length, whose compressed forms have one
//! length too, so that a frame is a function of its number.

use std::{collections::HashMap, fmt::Write as _};

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

use super::masks;

/// How many messages there are before they repeat themselves.
const COUNT: usize = 64;

/// What the client promises not to refer beyond: `2^12` bytes.
const WINDOW_BITS: i32 = 12;

/// The messages of a run.
#[derive(Debug)]
pub(super) struct Json {
    messages: Vec<Pair>,
}

/// A message, and what it is on the wire.
type Pair = (Vec<u8>, Vec<u8>);

impl Json {
    /// Messages of `len` bytes, or a little more if that is too few for an object.
    pub(super) fn new(len: usize) -> Self {
        let mut by_length: HashMap<usize, Vec<Pair>> = HashMap::new();
        loop {
            let message = object(len);
            let compressed = compress(&message);
            let alike = by_length.entry(compressed.len()).or_default();
            alike.push((message, compressed));
            if alike.len() == COUNT {
                return Self { messages: std::mem::take(alike) };
            }
        }
    }

    /// The message of this number.
    #[inline]
    pub(super) fn message(&self, sequence: u64) -> &[u8] {
        &self.messages[Self::index(sequence)].0
    }

    /// The same as it is sent.
    #[inline]
    pub(super) fn compressed(&self, sequence: u64) -> &[u8] {
        &self.messages[Self::index(sequence)].1
    }

    fn index(sequence: u64) -> usize {
        usize::try_from(sequence % COUNT as u64).unwrap_or(0)
    }
}

/// An object of `len` bytes with entries that differ from one to the next.
fn object(len: usize) -> Vec<u8> {
    let mut text = String::from(r#"{"type":"update","items":["#);
    let end = |text: &str| text.len() + r#"],"pad":""}"#.len();
    loop {
        let (random, more) = (masks::random(), masks::random());
        let mut item = if text.ends_with('[') { String::new() } else { String::from(",") };
        let _ = write!(
            item,
            r#"{{"id":{},"name":"user{}","price":{}.{:02},"active":{}}}"#,
            random % 100_000,
            random >> 32 & 0x3FF,
            more % 1000,
            more >> 32 & 0x3F,
            more & 1 << 63 == 0
        );
        if end(&text) + item.len() > len {
            break;
        }
        text.push_str(&item);
    }
    let pad = len.saturating_sub(end(&text));
    let _ = write!(text, r#"],"pad":"{}"}}"#, ".".repeat(pad));
    text.into_bytes()
}

/// What stands for `message` alone (RFC 7692 section 7.2.1).
fn compress(message: &[u8]) -> Vec<u8> {
    let mut deflate =
        Deflate::new_with_config(DeflateConfig { window_bits: -WINDOW_BITS, ..DeflateConfig::default() });
    let mut out = vec![0; message.len() + 64];
    deflate.compress(message, &mut out, DeflateFlush::SyncFlush).expect("there is room");
    let len = usize::try_from(deflate.total_out()).expect("it is short");
    out.truncate(len - 4);
    out
}

#[cfg(test)]
mod tests {
    use super::{super::inflate::Inflating, *};

    #[test]
    fn messages_differ_and_have_one_length_each_way() {
        for len in [300, 4096] {
            let json = Json::new(len);
            for sequence in 0..COUNT as u64 {
                let (message, compressed) = (json.message(sequence), json.compressed(sequence));
                assert_eq!(message.len(), len);
                assert_eq!(compressed.len(), json.compressed(0).len());
                assert!(compressed.len() < len);
                assert!(sequence == 0 || message != json.message(sequence - 1));
                let (mut inflating, mut back) = (Inflating::new(), Vec::new());
                let mut take = |bytes: &[u8]| {
                    back.extend_from_slice(bytes);
                    Ok(())
                };
                inflating.piece(compressed, &mut take).unwrap();
                inflating.end(&mut take).unwrap();
                assert_eq!(back, message);
            }
        }
    }
}
