//! The client's side of the opening handshake (RFC 6455 section 4.1), as short as a load needs it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

use super::{fault::Fault, target::Target};

/// What section 1.3 has the server append to the key.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What browsers offer.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// The most bytes of response head that are read before giving up on it.
const MAX_RESPONSE_LEN: usize = 16 * 1024;

/// The request of one connection, and what the server must answer to it.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    key: String,
    offers_compression: bool,
    response: Vec<u8>,
}

impl Handshake {
    /// A handshake whose key is made of `nonce`.
    pub(super) fn new(nonce: u128, offers_compression: bool) -> Self {
        Self { key: STANDARD.encode(nonce.to_ne_bytes()), offers_compression, response: Vec::new() }
    }

    /// Whether compression was asked for, without which the server is not taken.
    pub(super) fn offers_compression(&self) -> bool {
        self.offers_compression
    }

    /// The request's bytes.
    pub(super) fn request(&self, target: &Target) -> Vec<u8> {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
            target.resource_name(),
            target.host_header(),
            self.key,
            if self.offers_compression { OFFER } else { "" }
        )
        .into_bytes()
    }

    /// Takes bytes of the response. Once the head is whole and right: how many of `bytes` belong to it.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let before = self.response.len();
        self.response.extend_from_slice(bytes);
        let Some(head_len) = head_len(&self.response) else {
            let too_long = self.response.len() > MAX_RESPONSE_LEN;
            return if too_long { Err(Fault::Refused("a head without end".to_owned())) } else { Ok(None) };
        };
        self.check(&String::from_utf8_lossy(&self.response[..head_len]))?;
        Ok(Some(head_len - before))
    }

    fn check(&self, head: &str) -> Result<(), Fault> {
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        if !status_line.starts_with("HTTP/1.1 101") {
            return Err(Fault::Refused(status_line.to_owned()));
        }
        let fields: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
        let field = |name: &str| fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let agreed = field("Sec-WebSocket-Extensions")
            .is_some_and(|(_, value)| value.trim_start().starts_with("permessage-deflate"));
        if agreed != self.offers_compression {
            let what = if agreed { "compression that was not asked for" } else { "no agreement to compress" };
            return Err(Fault::Refused(what.to_owned()));
        }
        let accept = field("Sec-WebSocket-Accept");
        if accept.is_none_or(|(_, value)| value.trim() != accept_value(&self.key)) {
            return Err(Fault::Refused("a Sec-WebSocket-Accept that is missing or wrong".to_owned()));
        }
        Ok(())
    }
}

/// Where the head ends, its empty line included.
fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|start| start + 4)
}

/// The `Sec-WebSocket-Accept` that answers `key`.
fn accept_value(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and response of section 1.3.
    fn example() -> (Handshake, &'static [u8]) {
        let handshake = Handshake { key: "dGhlIHNhbXBsZSBub25jZQ==".to_owned(), ..Handshake::default() };
        let response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        (handshake, response)
    }

    #[test]
    fn the_example_of_section_1_3_is_accepted() {
        let (mut handshake, response) = example();
        assert_eq!(handshake.receive(response), Ok(Some(response.len())));
    }

    #[test]
    fn frames_behind_a_response_in_pieces_are_left_alone() {
        let (mut handshake, response) = example();
        let (start, end) = response.split_at(40);
        assert_eq!(handshake.receive(start), Ok(None));
        let end = [end, b"\x81\x00"].concat();
        assert_eq!(handshake.receive(&end), Ok(Some(end.len() - 2)));
    }

    #[test]
    fn compression_is_taken_if_and_only_if_it_was_asked_for() {
        let with = |name: &str| {
            let (_, response) = example();
            let (head, _) = response.split_at(response.len() - 2);
            [head, name.as_bytes(), b"\r\n\r\n"].concat()
        };
        for (offers_compression, extension, is_taken) in [
            (true, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12", true),
            (true, "X: y", false),
            (false, "Sec-WebSocket-Extensions: permessage-deflate", false),
        ] {
            let (handshake, _) = example();
            let mut handshake = Handshake { offers_compression, ..handshake };
            assert_eq!(handshake.receive(&with(extension)).is_ok(), is_taken, "{extension}");
        }
    }

    #[test]
    fn other_answers_are_refused() {
        let (mut handshake, _) = example();
        let fault = handshake.receive(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err();
        assert_eq!(fault, Fault::Refused("HTTP/1.1 404 Not Found".to_owned()));
        let (mut handshake, _) = example();
        assert!(handshake.receive(b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: x\r\n\r\n").is_err());
        let (mut handshake, _) = example();
        assert!(handshake.receive(&[b'x'; MAX_RESPONSE_LEN + 1]).is_err());
    }
}
