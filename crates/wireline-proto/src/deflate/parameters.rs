//! The four parameters (RFC 7692 section 7.1), and how two ends come to agree on them.

use std::fmt;

use super::Deflate;

/// The extension's name in `Sec-WebSocket-Extensions`.
pub(crate) const NAME: &str = "permessage-deflate";

/// What the largest window has, and what stands for no limit.
const MAX_WINDOW_BITS: u8 = 15;

/// What both ends agreed on. It is displayed as it stands in the server's response:
///
/// ```
/// use wireline_proto::DeflateParameters;
///
/// let agreed = DeflateParameters { server_max_window_bits: Some(10), ..Default::default() };
/// assert_eq!(agreed.to_string(), "permessage-deflate; server_max_window_bits=10");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeflateParameters {
    /// The server's messages do not refer to earlier ones (section 7.1.1.1).
    pub server_no_context_takeover: bool,
    /// The client's messages do not refer to earlier ones (section 7.1.1.2).
    pub client_no_context_takeover: bool,
    /// How far back the server's messages refer: `2^bits` bytes, 8 to 15; 15 if it is not there
    /// (section 7.1.2.1).
    pub server_max_window_bits: Option<u8>,
    /// How far back the client's messages refer, likewise (section 7.1.2.2). In an offer, where it can
    /// stand without a value, that is 15.
    pub client_max_window_bits: Option<u8>,
}

/// What was agreed on for the messages that one end sends.
pub(super) struct Direction {
    pub(super) context_takeover: bool,
    pub(super) window_bits: u8,
}

impl DeflateParameters {
    /// Reads the parameters of an offer; `None` declines it. A name that RFC 7692 does not have, one that
    /// comes twice, and a value that is none of its own decline it (section 7.1).
    pub(crate) fn parse_offer<'p>(
        parameters: impl IntoIterator<Item = (&'p str, Option<&'p str>)>,
    ) -> Option<Self> {
        Self::parse(parameters, true)
    }

    /// Reads the parameters of a response, likewise; `None` fails the connection.
    pub(crate) fn parse_response<'p>(
        parameters: impl IntoIterator<Item = (&'p str, Option<&'p str>)>,
    ) -> Option<Self> {
        Self::parse(parameters, false)
    }

    fn parse<'p>(
        parameters: impl IntoIterator<Item = (&'p str, Option<&'p str>)>,
        is_offer: bool,
    ) -> Option<Self> {
        let mut parsed = Self::default();
        for (name, value) in parameters {
            match (name, value) {
                ("server_no_context_takeover", None) if !parsed.server_no_context_takeover => {
                    parsed.server_no_context_takeover = true;
                }
                ("client_no_context_takeover", None) if !parsed.client_no_context_takeover => {
                    parsed.client_no_context_takeover = true;
                }
                ("server_max_window_bits", Some(bits)) if parsed.server_max_window_bits.is_none() => {
                    parsed.server_max_window_bits = Some(parse_window_bits(bits)?);
                }
                ("client_max_window_bits", Some(bits)) if parsed.client_max_window_bits.is_none() => {
                    parsed.client_max_window_bits = Some(parse_window_bits(bits)?);
                }
                ("client_max_window_bits", None) if is_offer && parsed.client_max_window_bits.is_none() => {
                    parsed.client_max_window_bits = Some(MAX_WINDOW_BITS);
                }
                _ => return None,
            }
        }
        Some(parsed)
    }

    /// The server's response to this offer.
    ///
    /// Any valid offer can be met: a window of 8 bits too, which zlib lacks (see [`Compressor`]). What the
    /// client did not mention is not answered, except that the server may always renounce context
    /// takeover, for itself or for the client.
    ///
    /// [`Compressor`]: super::Compressor
    pub(crate) fn answer(&self, options: &Deflate) -> Self {
        Self {
            server_no_context_takeover: self.server_no_context_takeover || !options.send_context_takeover,
            client_no_context_takeover: self.client_no_context_takeover || !options.receive_context_takeover,
            server_max_window_bits: self
                .server_max_window_bits
                .map(|bits| bits.min(options.send_window_bits)),
            client_max_window_bits: self
                .client_max_window_bits
                .map(|bits| bits.min(options.receive_window_bits)),
        }
    }

    /// What a client offers.
    pub(crate) fn offer(options: &Deflate) -> Self {
        let limit = options.receive_window_bits;
        Self {
            server_no_context_takeover: !options.receive_context_takeover,
            client_no_context_takeover: !options.send_context_takeover,
            server_max_window_bits: (limit < MAX_WINDOW_BITS).then_some(limit),
            client_max_window_bits: Some(MAX_WINDOW_BITS),
        }
    }

    /// The offer as it stands in the request.
    pub(crate) fn offer_value(&self) -> String {
        let rest = Self { client_max_window_bits: None, ..*self };
        // Without a value: the server may ask for any window.
        let allowed = self.client_max_window_bits.map_or("", |_| "; client_max_window_bits");
        format!("{rest}{allowed}")
    }

    /// Whether a response with these parameters answers this offer: what was demanded is promised, and no
    /// more is asked for than was allowed.
    pub(crate) fn is_met_by(&self, response: &Self) -> bool {
        let (offered, answered) = (self.server_max_window_bits, response.server_max_window_bits);
        (response.server_no_context_takeover || !self.server_no_context_takeover)
            && offered.is_none_or(|limit| answered.is_some_and(|bits| bits <= limit))
            && (self.client_max_window_bits.is_some() || response.client_max_window_bits.is_none())
    }

    /// What this end sends, and what it receives.
    pub(super) fn directions(&self, is_client: bool) -> (Direction, Direction) {
        let server = Direction {
            context_takeover: !self.server_no_context_takeover,
            window_bits: self.server_max_window_bits.unwrap_or(MAX_WINDOW_BITS),
        };
        let client = Direction {
            context_takeover: !self.client_no_context_takeover,
            window_bits: self.client_max_window_bits.unwrap_or(MAX_WINDOW_BITS),
        };
        if is_client { (client, server) } else { (server, client) }
    }
}

/// A decimal integer from 8 to 15 without leading zeros (section 7.1.2).
fn parse_window_bits(value: &str) -> Option<u8> {
    match value.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

impl fmt::Display for DeflateParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        if self.server_no_context_takeover {
            f.write_str("; server_no_context_takeover")?;
        }
        if self.client_no_context_takeover {
            f.write_str("; client_no_context_takeover")?;
        }
        if let Some(bits) = self.server_max_window_bits {
            write!(f, "; server_max_window_bits={bits}")?;
        }
        if let Some(bits) = self.client_max_window_bits {
            write!(f, "; client_max_window_bits={bits}")?;
        }
        Ok(())
    }
}
