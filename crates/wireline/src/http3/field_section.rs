//! Heads as field sections (RFC 9114 section 4, RFC 9204), without a dynamic table.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::ext::Protocol;
use qpack::{DecoderError, HeaderField};

use super::{Code, Error, MAX_HEAD};

/// Fields in a head.
const MAX_FIELDS: usize = 128;

fn malformed(what: &'static str) -> Error {
    Error::Stream(Code::MESSAGE_ERROR, what)
}

/// A request's head. Of an extended CONNECT the `:protocol` is an extension, hyper's, as over HTTP/2.
pub(super) fn decode_request(section: Bytes) -> Result<Request<()>, Error> {
    let Head { mut pseudo, headers } = decode(section)?;
    let method = pseudo.take(b":method")?.ok_or(malformed("a request has a :method"))?;
    let method = Method::from_bytes(&method).map_err(|_| malformed("the :method is none"))?;
    let protocol = pseudo.take_text(b":protocol")?;
    let authority = pseudo.take_text(b":authority")?;
    let (scheme, path) = (pseudo.take_text(b":scheme")?, pseudo.take_text(b":path")?);
    pseudo.finish()?;
    let uri = target(&method, protocol.is_some(), scheme, authority, path, &headers)?;
    let mut request = Request::new(());
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(Protocol::from(&*protocol));
    }
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_3;
    *request.headers_mut() = headers;
    Ok(request)
}

/// What a request is for (sections 4.3.1 and 4.4, RFC 8441 section 4).
fn target(
    method: &Method,
    has_protocol: bool,
    scheme: Option<String>,
    authority: Option<String>,
    path: Option<String>,
    headers: &HeaderMap,
) -> Result<Uri, Error> {
    let is_connect = *method == Method::CONNECT;
    if has_protocol && !is_connect {
        return Err(malformed("a :protocol is for CONNECT only"));
    }
    let mut uri = http::uri::Parts::default();
    if let Some(authority) = authority {
        let host = headers.get(header::HOST);
        if host.is_some_and(|host| host.as_bytes() != authority.as_bytes()) {
            return Err(malformed("Host and :authority differ"));
        }
        uri.authority = Some(
            Authority::try_from(authority).map_err(|_| malformed("the :authority is no host and port"))?,
        );
    }
    if is_connect && !has_protocol {
        return match (scheme, path) {
            (None, None) if uri.authority.is_some() => {
                Uri::from_parts(uri).map_err(|_| malformed("CONNECT needs an :authority"))
            }
            _ => Err(malformed("CONNECT has an :authority, and neither :scheme nor :path")),
        };
    }
    let (Some(scheme), Some(path)) = (scheme, path) else {
        return Err(malformed("a request has a :scheme and a :path"));
    };
    if uri.authority.is_none() {
        let host = headers.get(header::HOST).ok_or(malformed("a request has an :authority or Host"))?;
        let host =
            Authority::try_from(host.as_bytes()).map_err(|_| malformed("the Host is no host and port"))?;
        uri.authority = Some(host);
    }
    uri.scheme = Some(Scheme::try_from(&*scheme).map_err(|_| malformed("the :scheme is none"))?);
    uri.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_| malformed("the :path is none"))?);
    Uri::from_parts(uri).map_err(|_| malformed("the target is no URI"))
}

/// A response's head.
pub(super) fn decode_response(section: Bytes) -> Result<Response<()>, Error> {
    let Head { mut pseudo, headers } = decode(section)?;
    let status = pseudo.take(b":status")?.ok_or(malformed("a response has a :status"))?;
    pseudo.finish()?;
    let status = StatusCode::from_bytes(&status).map_err(|_| malformed("the :status is none"))?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_3;
    *response.headers_mut() = headers;
    Ok(response)
}

pub(super) fn encode_request(request: &Request<()>) -> Result<Bytes, Error> {
    let uri = request.uri();
    let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().as_bytes());
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let path = uri.path_and_query().map(|path| path.as_str().as_bytes());
    let pseudo = [
        (":method", Some(request.method().as_str().as_bytes())),
        (":protocol", protocol),
        (":scheme", uri.scheme_str().map(str::as_bytes)),
        (":authority", authority),
        (":path", path),
    ];
    encode(pseudo.into_iter().filter_map(|(name, value)| Some((name, value?))), request.headers())
}

pub(super) fn encode_response<B>(response: &Response<B>) -> Result<Bytes, Error> {
    encode([(":status", response.status().as_str().as_bytes())].into_iter(), response.headers())
}

fn encode<'h>(
    pseudo: impl Iterator<Item = (&'h str, &'h [u8])>,
    headers: &'h HeaderMap,
) -> Result<Bytes, Error> {
    let headers = headers.iter().filter(|(name, value)| !is_of_the_connection(name, value));
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let fields = pseudo.chain(headers).map(|(name, value)| HeaderField::new(name, value));
    let mut section = BytesMut::new();
    // Only an integer beyond all measure could not be encoded.
    qpack::encode_stateless(&mut section, fields).map_err(|_| Error::HeadTooLong)?;
    Ok(section.freeze())
}

/// The headers of HTTP/1.1 that speak of the connection (section 4.2).
fn is_of_the_connection(name: &HeaderName, value: &HeaderValue) -> bool {
    const KEEP_ALIVE: &str = "keep-alive";
    const PROXY_CONNECTION: &str = "proxy-connection";
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
        || (*name == header::TE && value != "trailers")
}

struct Head {
    pseudo: PseudoHeaders,
    headers: HeaderMap,
}

type Text = Cow<'static, [u8]>;

/// Pseudo-header fields, to be taken one by one.
struct PseudoHeaders(Vec<(Text, Text)>);

impl PseudoHeaders {
    fn take(&mut self, name: &[u8]) -> Result<Option<Text>, Error> {
        let Some(at) = self.0.iter().position(|(known, _)| **known == *name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        if self.0.iter().any(|(known, _)| **known == *name) {
            return Err(malformed("a pseudo-header field is repeated"));
        }
        Ok(Some(value))
    }

    fn take_text(&mut self, name: &[u8]) -> Result<Option<String>, Error> {
        let Some(value) = self.take(name)? else { return Ok(None) };
        let text = String::from_utf8(value.into_owned());
        text.map(Some).map_err(|_| malformed("a pseudo-header field is not UTF-8"))
    }

    /// All have been taken, if they were those that belong there.
    fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(malformed("a pseudo-header field that does not belong there"))
        }
    }
}

fn decode(mut section: Bytes) -> Result<Head, Error> {
    let decoded = qpack::decode_stateless(&mut section, MAX_HEAD.into()).map_err(|error| match error {
        DecoderError::HeaderTooLong(_) => Error::HeadTooLong,
        _ => Error::Connection(Code::QPACK_DECOMPRESSION_FAILED, "a field section cannot be decoded"),
    })?;
    let mut head = Head { pseudo: PseudoHeaders(Vec::new()), headers: HeaderMap::new() };
    if decoded.fields.len() > MAX_FIELDS {
        return Err(Error::HeadTooLong);
    }
    for field in decoded.fields {
        let (name, value) = field.into_inner();
        if name.starts_with(b":") {
            if !head.headers.is_empty() {
                return Err(malformed("a pseudo-header field behind a header field"));
            }
            head.pseudo.0.push((name, value));
            continue;
        }
        let name = HeaderName::from_lowercase(&name).map_err(|_| malformed("a field's name is none"))?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| malformed("a field's value is none"))?;
        if is_of_the_connection(&name, &value) {
            return Err(malformed("a field that speaks of the connection"));
        }
        head.headers.append(name, value);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> Request<()> {
        let uri = "https://h.example:444/chat?a=b";
        let request = Request::builder().method(Method::CONNECT).uri(uri).header("x-token", "1234");
        request.extension(Protocol::from_static("websocket")).body(()).expect("it is valid")
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let read = decode_request(encode_request(&request()).expect("it fits")).expect("it is valid");
        assert_eq!((read.method(), read.version()), (&Method::CONNECT, Version::HTTP_3));
        assert_eq!((read.uri(), read.headers()), (request().uri(), request().headers()));
        let protocol = read.extensions().get::<Protocol>().expect("it has one");
        assert_eq!(protocol.as_str(), "websocket");
    }

    #[test]
    fn what_http_1_1_says_of_the_connection_is_left_out() {
        let response =
            Response::builder().status(404).header("connection", "close").header("x", "1").body(());
        let section = encode_response(&response.expect("it is valid")).expect("it fits");
        let read = decode_response(section).expect("it is valid");
        assert_eq!((read.status(), read.headers().len()), (StatusCode::NOT_FOUND, 1));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_request(bytes.clone().into());
            let _ = decode_response(bytes.into());
        }

        #[test]
        fn no_change_of_a_byte_is_too_odd(at in 0_usize..60, to in any::<u8>()) {
            let mut section = encode_request(&request()).expect("it fits").to_vec();
            if let Some(byte) = section.get_mut(at) {
                *byte = to;
            }
            let _ = decode_request(section.into());
        }
    }
}
