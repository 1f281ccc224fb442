//! The opening handshake as bytes; which of them open a connection, `wireline-proto` says.

use http::Response;
use wireline_proto::{Deflate, handshake::ClientHandshake};

use super::{fault::Fault, masks, target::Target};

/// The most bytes of response head that are read before giving up on it.
const MAX_RESPONSE_LEN: usize = 16 * 1024;

/// The request of one connection, and what the server must answer to it.
#[derive(Debug)]
pub(super) struct Handshake {
    handshake: ClientHandshake,
    request: Vec<u8>,
    offers_compression: bool,
}

impl Handshake {
    /// A handshake of its own, with a key of its own.
    pub(super) fn new(target: &Target, offers_compression: bool) -> Result<Self, Fault> {
        let nonce = u128::from(masks::random()) << 64 | u128::from(masks::random());
        Self::with_nonce(nonce.to_ne_bytes(), target, offers_compression)
    }

    fn with_nonce(nonce: [u8; 16], target: &Target, offers_compression: bool) -> Result<Self, Fault> {
        let mut handshake =
            ClientHandshake::new(nonce, [""; 0]).map_err(|error| Fault::Request(error.to_string()))?;
        if offers_compression {
            handshake = handshake.offer_deflate(&Deflate::client());
        }
        let head = handshake
            .request(target.resource_name(), &target.host_header())
            .map_err(|error| Fault::Request(error.to_string()))?;
        let mut request = format!("GET {} HTTP/1.1\r\n", head.uri()).into_bytes();
        for (name, value) in head.headers() {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                request.extend_from_slice(part);
            }
        }
        request.extend_from_slice(b"\r\n");
        Ok(Self { handshake, request, offers_compression })
    }

    /// Whether compression was asked for, without which the server is not taken.
    pub(super) fn offers_compression(&self) -> bool {
        self.offers_compression
    }

    /// The request's bytes.
    pub(super) fn request(&self) -> &[u8] {
        &self.request
    }

    /// Takes all that has come of the response. Once its head is whole and right: how long that is.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            let is_too_long = bytes.len() > MAX_RESPONSE_LEN;
            return if is_too_long { Err(Fault::Refused("a head without end".to_owned())) } else { Ok(None) };
        };
        let head = String::from_utf8_lossy(&bytes[..end]);
        let response =
            parse(&head).ok_or_else(|| Fault::Refused(format!("{:?} is no HTTP/1.1", first_line(&head))))?;
        let negotiated =
            self.handshake.check(&response).map_err(|error| Fault::Refused(error.to_string()))?;
        if self.offers_compression && negotiated.deflate().is_none() {
            return Err(Fault::Refused("no agreement to compress".to_owned()));
        }
        Ok(Some(end + 4))
    }
}

fn first_line(head: &str) -> &str {
    head.lines().next().unwrap_or_default()
}

/// A response's head without its empty line.
fn parse(head: &str) -> Option<Response<()>> {
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let fields = lines.filter_map(|line| line.split_once(':'));
    let response = Response::builder().status(status);
    fields.fold(response, |response, (name, value)| response.header(name, value.trim())).body(()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and response of section 1.3.
    fn example(offers_compression: bool) -> (Handshake, &'static [u8]) {
        let target = Target::parse("ws://server.example.com/chat?room=1").unwrap();
        let handshake = Handshake::with_nonce(*b"the sample nonce", &target, offers_compression).unwrap();
        let response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        (handshake, response)
    }

    #[test]
    fn a_request_is_one_of_http_1_1() {
        let (handshake, _) = example(false);
        let request = String::from_utf8(handshake.request().to_vec()).unwrap();
        assert!(
            request.starts_with("GET /chat?room=1 HTTP/1.1\r\nhost: server.example.com\r\n"),
            "{request}"
        );
        assert!(request.ends_with("sec-websocket-version: 13\r\n\r\n"), "{request}");
    }

    #[test]
    fn the_example_of_section_1_3_is_accepted() {
        let (handshake, response) = example(false);
        assert_eq!(handshake.check(response), Ok(Some(response.len())));
    }

    #[test]
    fn a_response_is_checked_when_it_is_whole_and_frames_behind_it_are_left_alone() {
        let (handshake, response) = example(false);
        assert_eq!(handshake.check(&response[..response.len() - 1]), Ok(None));
        assert_eq!(handshake.check(&[response, b"\x81\x00"].concat()), Ok(Some(response.len())));
    }

    #[test]
    fn compression_is_taken_if_and_only_if_it_was_asked_for() {
        for (offers_compression, extension, is_taken) in [
            (true, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12", true),
            (true, "X: y", false),
            (false, "Sec-WebSocket-Extensions: permessage-deflate", false),
        ] {
            let (handshake, response) = example(offers_compression);
            let head = &response[..response.len() - 2];
            let response = [head, extension.as_bytes(), b"\r\n\r\n"].concat();
            assert_eq!(handshake.check(&response).is_ok(), is_taken, "{extension}");
        }
    }

    #[test]
    fn other_responses_are_refused() {
        let refusal = |response: &[u8]| match example(false).0.check(response) {
            Err(Fault::Refused(what)) => what,
            other => panic!("{other:?}"),
        };
        assert!(refusal(b"HTTP/1.1 400 Bad Request\r\n\r\n").contains("400"));
        assert!(refusal(b"HTTP/1.1 101 S\r\nupgrade: websocket\r\n\r\n").contains("Connection"));
        assert_eq!(refusal(b"SSH-2.0-x\r\n\r\n"), "\"SSH-2.0-x\" is no HTTP/1.1");
        assert!(refusal(&[b'x'; MAX_RESPONSE_LEN + 1]).contains("without end"));
    }
}
