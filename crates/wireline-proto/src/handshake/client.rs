//! The client's side: the request, and which responses open a connection (section 4.1).

use http::{HeaderMap, Request, Response, StatusCode, header};

use super::{
    Negotiated, Role,
    accept::{accept_value, encode_key},
    extensions::extensions,
    fields::{Single, has_token, is_token, single},
};
use crate::{Deflate, DeflateParameters, deflate::NAME as PERMESSAGE_DEFLATE};

/// An opening handshake from the client's end.
///
/// ```
/// use wireline_proto::handshake::ClientHandshake;
///
/// let handshake = ClientHandshake::new(*b"the sample nonce", ["chat"])?;
/// let request = handshake.request("/room?id=1", "server.example.com")?;
/// assert_eq!(request.headers()["Sec-WebSocket-Key"], "dGhlIHNhbXBsZSBub25jZQ==");
///
/// let response = http::Response::builder()
///     .status(101)
///     .header("Upgrade", "websocket")
///     .header("Connection", "Upgrade")
///     .header("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
///     .header("Sec-WebSocket-Protocol", "chat")
///     .body(())?;
/// let negotiated = handshake.check(&response)?;
/// assert_eq!(negotiated.protocol(), Some("chat"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ClientHandshake {
    key: String,
    protocols: Vec<String>,
    deflate: Option<DeflateParameters>,
}

impl ClientHandshake {
    /// `nonce` is 16 bytes drawn from a random source for this handshake alone; `protocols` are the
    /// subprotocols to offer, the most wanted first.
    ///
    /// # Errors
    /// When a subprotocol is no token (RFC 9110 section 5.6.2) or is named twice.
    pub fn new<P: Into<String>>(
        nonce: [u8; 16],
        protocols: impl IntoIterator<Item = P>,
    ) -> Result<Self, InvalidProtocols> {
        let protocols: Vec<String> = protocols.into_iter().map(Into::into).collect();
        for (index, name) in protocols.iter().enumerate() {
            let repeated = protocols[..index].iter().any(|earlier| earlier.eq_ignore_ascii_case(name));
            if repeated || !is_token(name.as_bytes()) {
                return Err(InvalidProtocols { name: name.clone(), repeated });
            }
        }
        Ok(Self { key: encode_key(nonce), protocols, deflate: None })
    }

    /// Offers permessage-deflate too.
    #[must_use]
    pub fn offer_deflate(mut self, options: &Deflate) -> Self {
        self.deflate = Some(DeflateParameters::offer(options));
        self
    }

    /// The request to send for `target`, the path and query, on `host`, with the port where it is not
    /// the scheme's own.
    ///
    /// # Errors
    /// When `target` or `host` cannot stand in a request.
    pub fn request(&self, target: &str, host: &str) -> http::Result<Request<()>> {
        let request = Request::get(target)
            .header(header::HOST, host)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_KEY, &self.key);
        self.offer(request)
    }

    /// The request to send over HTTP/2 or HTTP/3 for `uri`, with scheme (`http` or `https`), authority and path:
    /// an extended CONNECT (RFC 8441 section 5, RFC 9220). Its `:protocol`, which is `websocket`, is for the one
    /// who sends it to add.
    ///
    /// # Errors
    /// When `uri` cannot stand in a request.
    pub fn extended_connect(&self, uri: &str) -> http::Result<Request<()>> {
        self.offer(Request::connect(uri))
    }

    fn offer(&self, request: http::request::Builder) -> http::Result<Request<()>> {
        let mut request = request.header(header::SEC_WEBSOCKET_VERSION, "13");
        if !self.protocols.is_empty() {
            request = request.header(header::SEC_WEBSOCKET_PROTOCOL, self.protocols.join(", "));
        }
        if let Some(offer) = &self.deflate {
            request = request.header(header::SEC_WEBSOCKET_EXTENSIONS, offer.offer_value());
        }
        request.body(())
    }

    /// Checks the response.
    ///
    /// # Errors
    /// The first rule of section 4.1 that it breaks. The connection must then be dropped.
    pub fn check<B>(&self, response: &Response<B>) -> Result<Negotiated, ResponseError> {
        let headers = response.headers();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ResponseError::Status(response.status()));
        }
        match single(headers, &header::UPGRADE) {
            Single::Value(value) if value.eq_ignore_ascii_case(b"websocket") => {}
            _ => return Err(ResponseError::Upgrade),
        }
        if !has_token(headers, &header::CONNECTION, "upgrade") {
            return Err(ResponseError::Connection);
        }
        match single(headers, &header::SEC_WEBSOCKET_ACCEPT) {
            Single::Value(value) if value == accept_value(self.key.as_bytes()).as_bytes() => {}
            _ => return Err(ResponseError::Accept),
        }
        self.agreed(headers)
    }

    /// Checks the response to an [extended CONNECT](Self::extended_connect): any 2xx opens the connection.
    ///
    /// # Errors
    /// The first rule of RFC 8441 section 5 that it breaks. The stream must then be reset.
    pub fn check_extended_connect<B>(&self, response: &Response<B>) -> Result<Negotiated, ResponseError> {
        if !response.status().is_success() {
            return Err(ResponseError::Status(response.status()));
        }
        self.agreed(response.headers())
    }

    fn agreed(&self, headers: &HeaderMap) -> Result<Negotiated, ResponseError> {
        let deflate = self.agreed_deflate(headers)?;
        Ok(Negotiated { role: Role::Client, protocol: self.selected_protocol(headers)?, deflate })
    }

    /// The only extension that the response can name, and what the server says about it.
    fn agreed_deflate(&self, headers: &HeaderMap) -> Result<Option<DeflateParameters>, ResponseError> {
        let mut agreed = None;
        for extension in extensions(headers) {
            let extension = extension.map_err(|_| ResponseError::MalformedExtensions)?;
            let Some(offer) = self.deflate.filter(|_| extension.name == PERMESSAGE_DEFLATE) else {
                return Err(ResponseError::Extension);
            };
            let response = DeflateParameters::parse_response(extension.parameters())
                .filter(|response| agreed.is_none() && offer.is_met_by(response))
                .ok_or(ResponseError::DeflateParameters)?;
            agreed = Some(response);
        }
        Ok(agreed)
    }

    /// The subprotocol of the response. As in browsers, a server must choose one if any was offered.
    fn selected_protocol(&self, headers: &HeaderMap) -> Result<Option<String>, ResponseError> {
        match single(headers, &header::SEC_WEBSOCKET_PROTOCOL) {
            Single::Missing if self.protocols.is_empty() => Ok(None),
            Single::Missing => Err(ResponseError::ProtocolMissing),
            Single::Value(name) if self.protocols.iter().any(|offer| offer.as_bytes() == name) => {
                Ok(Some(String::from_utf8_lossy(name).into_owned()))
            }
            _ => Err(ResponseError::ProtocolNotOffered),
        }
    }
}

/// Subprotocols that cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the subprotocol {name:?} {}", if *.repeated { "is named twice" } else { "is not a token" })]
pub struct InvalidProtocols {
    /// The first bad one.
    pub name: String,
    /// Whether it is bad for being there twice.
    pub repeated: bool,
}

/// Why a response does not open a WebSocket connection. The server's fault each time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// Another status than 101.
    #[error("the server answered {0} instead of 101 Switching Protocols")]
    Status(StatusCode),
    /// No `Upgrade: websocket`.
    #[error("the server's Upgrade header is not websocket")]
    Upgrade,
    /// No `Connection: Upgrade`.
    #[error("the server's Connection header does not name Upgrade")]
    Connection,
    /// A `Sec-WebSocket-Accept` that does not answer our key.
    #[error("the server's Sec-WebSocket-Accept does not answer the key that was sent")]
    Accept,
    /// An extension that was not offered.
    #[error("the server uses an extension that was not offered")]
    Extension,
    /// A `Sec-WebSocket-Extensions` header that has not the form of RFC 6455 section 9.1.
    #[error("the server's Sec-WebSocket-Extensions header is malformed")]
    MalformedExtensions,
    /// permessage-deflate with parameters that RFC 7692 section 7.1 does not allow, or that do not answer
    /// the offer, or twice.
    #[error("the server's parameters for permessage-deflate are invalid or do not answer the offer")]
    DeflateParameters,
    /// Subprotocols were offered and the server chose none.
    #[error("the server chose none of the offered subprotocols")]
    ProtocolMissing,
    /// A subprotocol that was not offered, or more than one.
    #[error("the server chose a subprotocol that was not offered")]
    ProtocolNotOffered,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(offers: &[&str], changes: &[(&str, &[&str])]) -> Result<Option<String>, ResponseError> {
        let mut builder = Response::builder().status(101);
        let example = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        for (name, value) in example {
            if !changes.iter().any(|(changed, _)| *changed == name) {
                builder = builder.header(name, value);
            }
        }
        for (name, values) in changes {
            for value in *values {
                builder = builder.header(*name, *value);
            }
        }
        let handshake = ClientHandshake::new(*b"the sample nonce", offers.iter().copied()).unwrap();
        handshake.check(&builder.body(()).unwrap()).map(|negotiated| negotiated.protocol)
    }

    #[test]
    fn a_good_response_opens_the_connection() {
        assert_eq!(check(&[], &[]), Ok(None));
        assert_eq!(check(&[], &[("connection", &["keep-alive, Upgrade"])]), Ok(None));
        assert_eq!(check(&["a", "b"], &[("sec-websocket-protocol", &["b"])]), Ok(Some("b".into())));
    }

    #[test]
    fn each_broken_rule_is_named() {
        use ResponseError as E;
        let long = "s".repeat(4096);
        for (change, error) in [
            (("upgrade", &[][..]), E::Upgrade),
            (("upgrade", &["h2c"]), E::Upgrade),
            (("connection", &["close"]), E::Connection),
            (("sec-websocket-accept", &[]), E::Accept),
            (("sec-websocket-accept", &["s3pPLMBiTxaQ9kYGzzhZRbK+xO="]), E::Accept),
            (("sec-websocket-accept", &["s3pPLMBiTxaQ9kYGzzhZRbK+xOo=="]), E::Accept),
            (("sec-websocket-accept", &[&long]), E::Accept),
            (("sec-websocket-extensions", &["permessage-deflate"]), E::Extension),
            (("sec-websocket-protocol", &["other"]), E::ProtocolNotOffered),
        ] {
            assert_eq!(check(&[], &[change]), Err(error), "{change:?}");
        }
        assert_eq!(check(&["a"], &[]), Err(E::ProtocolMissing));
        for chosen in [&["A"][..], &["a, b"], &["a", "a"], &[""]] {
            let change = ("sec-websocket-protocol", chosen);
            assert_eq!(check(&["a", "b"], &[change]), Err(E::ProtocolNotOffered), "{chosen:?}");
        }
    }

    #[test]
    fn subprotocols_that_cannot_be_offered_are_named() {
        for (offers, name, repeated) in [
            (&["a", "a"][..], "a", true),
            (&["a", "A"], "A", true),
            (&[""], "", false),
            (&["a b"], "a b", false),
            (&["a,b"], "a,b", false),
            (&["a\r\nb"], "a\r\nb", false),
        ] {
            let error = ClientHandshake::new([0; 16], offers.iter().copied()).unwrap_err();
            assert_eq!(error, InvalidProtocols { name: name.into(), repeated });
        }
    }
}
