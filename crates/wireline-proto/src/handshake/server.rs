//! The server's side: which requests may become a connection, and the answer to them (section 4.2).

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{self, HeaderName},
};

use super::{
    Negotiated, Role,
    accept::{accept_value, is_key},
    extensions::extensions,
    fields::{Single, has_token, is_token, items, single},
};
use crate::{Deflate, DeflateParameters, deflate::NAME as PERMESSAGE_DEFLATE};

/// A request for a WebSocket that passed every check of RFC 6455 section 4.2.1. It waits for the
/// application's word.
///
/// ```
/// use wireline_proto::handshake::UpgradeRequest;
///
/// let request = http::Request::get("/chat")
///     .header("Host", "server.example.com")
///     .header("Upgrade", "websocket")
///     .header("Connection", "Upgrade")
///     .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
///     .header("Sec-WebSocket-Protocol", "chat, superchat")
///     .header("Sec-WebSocket-Version", "13")
///     .body(())?;
///
/// let upgrade = UpgradeRequest::check(&request)?;
/// assert_eq!(upgrade.protocols(), ["chat", "superchat"]);
/// let (response, negotiated) = upgrade.accept(Some("chat"))?;
/// assert_eq!(response.headers()["Sec-WebSocket-Accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// assert_eq!(negotiated.protocol(), Some("chat"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct UpgradeRequest {
    /// `None` for an extended CONNECT, which has no key to answer.
    accept: Option<String>,
    protocols: Vec<String>,
    /// The client's favourite among its valid offers of permessage-deflate.
    deflate_offer: Option<DeflateParameters>,
    /// The answer to it.
    deflate: Option<DeflateParameters>,
}

impl UpgradeRequest {
    /// Checks the Host header, which every HTTP/1.1 request must have once (RFC 9112 section 3.2).
    ///
    /// # Errors
    /// When it is missing, repeated, or no host.
    pub fn check_host<B>(request: &Request<B>) -> Result<(), RequestError> {
        check_host(request.headers())
    }

    /// Whether a request asks for a WebSocket at all. One that does not is plain HTTP's, be it with an
    /// `Upgrade` to something else, which a server may ignore (RFC 9110 section 7.8).
    #[must_use]
    pub fn is_upgrade<B>(request: &Request<B>) -> bool {
        has_token(request.headers(), &header::UPGRADE, "websocket")
            || request.headers().contains_key(header::SEC_WEBSOCKET_KEY)
            || request.headers().contains_key(header::SEC_WEBSOCKET_VERSION)
    }

    /// Checks a request.
    ///
    /// # Errors
    /// The first rule that it breaks; [`RequestError::response`] is the answer to send.
    pub fn check<B>(request: &Request<B>) -> Result<Self, RequestError> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(RequestError::Method);
        }
        if request.version() < Version::HTTP_11 {
            return Err(RequestError::HttpVersion);
        }
        if !request.uri().path().starts_with('/') {
            return Err(RequestError::Target);
        }
        check_host(headers)?;
        if !has_token(headers, &header::UPGRADE, "websocket") {
            return Err(RequestError::Upgrade);
        }
        if !has_token(headers, &header::CONNECTION, "upgrade") {
            return Err(RequestError::Connection);
        }
        check_version(headers)?;
        let key = match single(headers, &header::SEC_WEBSOCKET_KEY) {
            Single::Value(key) if is_key(key) => key,
            Single::Repeated => return Err(RequestError::Repeated(header::SEC_WEBSOCKET_KEY)),
            _ => return Err(RequestError::Key),
        };
        check_no_body(headers)?;
        Ok(Self {
            accept: Some(accept_value(key)),
            protocols: offered_protocols(headers)?,
            deflate_offer: deflate_offer(headers)?,
            deflate: None,
        })
    }

    /// Checks an extended CONNECT over HTTP/2 or HTTP/3, whose `:protocol` is `websocket` (RFC 8441 section 5,
    /// RFC 9220). The authority and the path are those of the request's URI.
    ///
    /// # Errors
    /// The first rule that it breaks; [`RequestError::response`] is the answer to send.
    pub fn check_extended_connect<B>(request: &Request<B>) -> Result<Self, RequestError> {
        let headers = request.headers();
        if request.method() != Method::CONNECT {
            return Err(RequestError::Method);
        }
        if request.version() < Version::HTTP_2 {
            return Err(RequestError::HttpVersion);
        }
        let uri = request.uri();
        if uri.scheme().is_none() || !uri.path().starts_with('/') {
            return Err(RequestError::Target);
        }
        match uri.authority() {
            None => return Err(RequestError::HostMissing),
            Some(authority) if authority.as_str().contains('@') => return Err(RequestError::HostInvalid),
            Some(_) => {}
        }
        check_version(headers)?;
        check_no_body(headers)?;
        Ok(Self {
            accept: None,
            protocols: offered_protocols(headers)?,
            deflate_offer: deflate_offer(headers)?,
            deflate: None,
        })
    }

    /// The subprotocols that the client offers, in its order of preference.
    #[must_use]
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// Agrees to permessage-deflate as well, if the client offers it. Of several offers the first that is
    /// valid is met; one that is not is passed over.
    #[must_use]
    pub fn agree_to_deflate(mut self, options: &Deflate) -> Self {
        self.deflate = self.deflate_offer.map(|offer| offer.answer(options));
        self
    }

    /// Agrees to the connection, and to one of the offered subprotocols or to none: the response to
    /// send, and what it agrees on.
    ///
    /// # Errors
    /// When the client did not offer this subprotocol. Names are compared with case (section 4.2.2).
    pub fn accept(self, protocol: Option<&str>) -> Result<(Response<()>, Negotiated), ProtocolNotOffered> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        // An extended CONNECT is answered with 200, and without any of this.
        let is_upgrade = self.accept.is_some();
        if let Some(Ok(accept)) = self.accept.map(HeaderValue::try_from) {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = protocol {
            let value = HeaderValue::from_str(protocol).ok();
            let offered = self.protocols.iter().any(|offer| offer == protocol);
            let (true, Some(value)) = (offered, value) else {
                return Err(ProtocolNotOffered { wanted: protocol.to_owned(), offered: self.protocols });
            };
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        if let Some(Ok(value)) = self.deflate.map(|agreed| HeaderValue::try_from(agreed.to_string())) {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
        }
        if is_upgrade {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        let protocol = protocol.map(str::to_owned);
        let negotiated = Negotiated { role: Role::Server, protocol, deflate: self.deflate };
        Ok((response, negotiated))
    }
}

/// One `Host`, as RFC 9112 section 3.2 demands of every HTTP/1.1 request.
fn check_host(headers: &HeaderMap) -> Result<(), RequestError> {
    match single(headers, &header::HOST) {
        Single::Value(host) => match http::uri::Authority::try_from(host) {
            Ok(host) if !host.as_str().contains('@') => Ok(()),
            _ => Err(RequestError::HostInvalid),
        },
        Single::Missing => Err(RequestError::HostMissing),
        Single::Repeated => Err(RequestError::Repeated(header::HOST)),
    }
}

fn check_version(headers: &HeaderMap) -> Result<(), RequestError> {
    match single(headers, &header::SEC_WEBSOCKET_VERSION) {
        Single::Value(b"13") => Ok(()),
        Single::Repeated => Err(RequestError::Repeated(header::SEC_WEBSOCKET_VERSION)),
        _ => Err(RequestError::WebSocketVersion),
    }
}

/// The bytes of a body would be taken for frames.
fn check_no_body(headers: &HeaderMap) -> Result<(), RequestError> {
    let length = single(headers, &header::CONTENT_LENGTH);
    let empty = matches!(length, Single::Missing | Single::Value(b"0"));
    if empty && !headers.contains_key(header::TRANSFER_ENCODING) { Ok(()) } else { Err(RequestError::Body) }
}

fn offered_protocols(headers: &HeaderMap) -> Result<Vec<String>, RequestError> {
    let mut protocols = Vec::new();
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        // Empty list elements are to be ignored (RFC 9110 section 5.6.1.2).
        for item in items(value.as_bytes()).filter(|item| !item.is_empty()) {
            let name = std::str::from_utf8(item).ok().filter(|name| is_token(name.as_bytes()));
            let name = name.ok_or(RequestError::Protocols)?;
            if protocols.iter().any(|known| known == name) {
                return Err(RequestError::Protocols);
            }
            protocols.push(name.to_owned());
        }
    }
    Ok(protocols)
}

/// The first valid offer of permessage-deflate. Other extensions are none of ours.
fn deflate_offer(headers: &HeaderMap) -> Result<Option<DeflateParameters>, RequestError> {
    let mut first = None;
    for extension in extensions(headers) {
        let extension = extension.map_err(|_| RequestError::Extensions)?;
        if first.is_none() && extension.name == PERMESSAGE_DEFLATE {
            first = DeflateParameters::parse_offer(extension.parameters());
        }
    }
    Ok(first)
}

/// Why a request cannot become a WebSocket connection. The client's fault each time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Not a GET.
    #[error("a WebSocket is asked for with GET")]
    Method,
    /// A request target without a path: an authority alone, or `*` (RFC 9112 section 3.2).
    #[error("a WebSocket is asked for by its path")]
    Target,
    /// Below HTTP/1.1.
    #[error("a WebSocket needs HTTP/1.1")]
    HttpVersion,
    /// No Host header.
    #[error("the Host header is missing")]
    HostMissing,
    /// A Host header that is no host.
    #[error("the Host header is not a host and port")]
    HostInvalid,
    /// A header that must stand alone came more than once.
    #[error("the header {0} came more than once")]
    Repeated(HeaderName),
    /// No `Upgrade: websocket`.
    #[error("the Upgrade header does not name websocket")]
    Upgrade,
    /// No `Connection: Upgrade`.
    #[error("the Connection header does not name Upgrade")]
    Connection,
    /// Another `Sec-WebSocket-Version` than 13, or none.
    #[error("the WebSocket version is not 13, the only one spoken here")]
    WebSocketVersion,
    /// No `Sec-WebSocket-Key`, or not 16 bytes in base64.
    #[error("the Sec-WebSocket-Key is missing or not 16 bytes in base64")]
    Key,
    /// The request announces a body.
    #[error("a request for a WebSocket has no body")]
    Body,
    /// `Sec-WebSocket-Protocol` has an item that is no token, or one twice.
    #[error("the Sec-WebSocket-Protocol header is malformed or names a subprotocol twice")]
    Protocols,
    /// `Sec-WebSocket-Extensions` has not the form of RFC 6455 section 9.1.
    #[error("the Sec-WebSocket-Extensions header is malformed")]
    Extensions,
}

impl RequestError {
    /// The status that tells the client.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade | Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The whole answer: status, the headers that go with it, and the reason in words.
    #[must_use]
    pub fn response(&self) -> Response<String> {
        let mut response = Response::new(format!("{self}\n"));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        match self {
            Self::Method => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            Self::Upgrade | Self::WebSocketVersion => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade, close"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        response
    }
}

/// The application chose a subprotocol that the client did not offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client did not offer the subprotocol {wanted:?}; it offered {offered:?}")]
pub struct ProtocolNotOffered {
    /// What was to be accepted.
    pub wanted: String,
    /// What could have been.
    pub offered: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example request of section 1.2, with some of its header lines replaced.
    fn request(changes: &[(&str, &[&str])]) -> Request<()> {
        let mut builder = Request::get("/chat");
        let example = [
            ("host", "server.example.com"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
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
        builder.body(()).unwrap()
    }

    fn check(changes: &[(&str, &[&str])]) -> Result<Vec<String>, RequestError> {
        UpgradeRequest::check(&request(changes)).map(|upgrade| upgrade.protocols)
    }

    #[test]
    fn what_a_client_may_vary_is_accepted() {
        for changes in [
            &[("upgrade", &["WebSocket"][..])][..],
            &[("upgrade", &["h2c, websocket"])],
            &[("connection", &["keep-alive, upgrade"])],
            &[("connection", &["keep-alive", "Upgrade"])],
            &[("sec-websocket-version", &[" 13 "])],
            &[("content-length", &["0"])],
            &[("sec-websocket-extensions", &["constructor"])],
            &[("cookie", &["%"])],
        ] {
            assert_eq!(check(changes), Ok(vec![]), "{changes:?}");
        }
        let offers = ["a, , B", "c"];
        assert_eq!(
            check(&[("sec-websocket-protocol", &offers)]),
            Ok(vec!["a".into(), "B".into(), "c".into()])
        );
    }

    #[test]
    fn each_broken_rule_has_its_answer() {
        use RequestError as E;
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        for (changes, error, status) in [
            (("host", &[][..]), E::HostMissing, 400),
            (("host", &["a", "a"]), E::Repeated(header::HOST), 400),
            (("upgrade", &[]), E::Upgrade, 426),
            (("upgrade", &["foo"]), E::Upgrade, 426),
            (("connection", &["keep-alive"]), E::Connection, 400),
            (("sec-websocket-version", &["8"]), E::WebSocketVersion, 426),
            (("sec-websocket-version", &[]), E::WebSocketVersion, 426),
            (("sec-websocket-version", &["13", "13"]), E::Repeated(header::SEC_WEBSOCKET_VERSION), 400),
            (("sec-websocket-key", &[]), E::Key, 400),
            (("sec-websocket-key", &["abc"]), E::Key, 400),
            (("sec-websocket-key", &[key, key]), E::Repeated(header::SEC_WEBSOCKET_KEY), 400),
            (("content-length", &["1"]), E::Body, 400),
            (("content-length", &["0", "0"]), E::Body, 400),
            (("transfer-encoding", &["chunked"]), E::Body, 400),
            (("host", &["a b"]), E::HostInvalid, 400),
            (("host", &["a@b"]), E::HostInvalid, 400),
            (("host", &[""]), E::HostInvalid, 400),
            (("sec-websocket-protocol", &["a", "a"]), E::Protocols, 400),
            (("sec-websocket-protocol", &["a b"]), E::Protocols, 400),
        ] {
            assert_eq!(check(&[changes]), Err(error.clone()), "{changes:?}");
            assert_eq!(error.status(), status);
        }
    }

    #[test]
    fn a_wrong_version_is_told_the_right_one() {
        let response = RequestError::WebSocketVersion.response();
        assert_eq!(response.headers()["Sec-WebSocket-Version"], "13");
    }

    #[test]
    fn other_methods_and_old_http_are_refused() {
        let mut post = request(&[]);
        *post.method_mut() = Method::POST;
        assert_eq!(UpgradeRequest::check(&post).unwrap_err(), RequestError::Method);
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(UpgradeRequest::check(&old).unwrap_err(), RequestError::HttpVersion);
    }

    #[test]
    fn a_target_has_a_path() {
        for (target, is_right) in
            [("/", true), ("http://example.com/chat", true), ("example.com", false), ("*", false)]
        {
            let mut targeted = request(&[]);
            *targeted.uri_mut() = target.parse().unwrap();
            let checked = UpgradeRequest::check(&targeted).map(drop);
            assert_eq!(checked, if is_right { Ok(()) } else { Err(RequestError::Target) }, "{target}");
        }
    }

    #[test]
    fn only_an_offered_subprotocol_can_be_accepted() {
        let upgrade = UpgradeRequest::check(&request(&[("sec-websocket-protocol", &["chat"])])).unwrap();
        for wanted in ["Chat", "other", "", "cha\r\nt"] {
            let error = upgrade.clone().accept(Some(wanted)).unwrap_err();
            assert_eq!(error.wanted, wanted);
        }
        let (response, negotiated) = upgrade.clone().accept(Some("chat")).unwrap();
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "chat");
        assert_eq!(negotiated.protocol(), Some("chat"));
        let (response, negotiated) = upgrade.accept(None).unwrap();
        assert!(!response.headers().contains_key("Sec-WebSocket-Protocol"));
        assert_eq!(negotiated.protocol(), None);
    }
}
