//! Requests of HTTP/2 and HTTP/3: many on one connection, each on a stream of its own.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Empty;
use tokio::sync::{oneshot, watch};

use super::Service;
use crate::{
    error::BoxError,
    request::extended_connect,
    response::status_response,
    transport::{Handover, Transport},
};

/// Streams of one connection at a time: WebSockets and requests.
pub(super) const MAX_STREAMS: u32 = 128;

/// Bytes that a client may send on one stream ahead of its application (RFC 9113 section 5.2, RFC 9000 section
/// 4.1).
pub(super) const STREAM_WINDOW: u32 = 64 << 10;

/// A request's stream, whose head was read and which is to be answered.
pub(super) trait Exchange: Send + Sized {
    type Error: Send;

    /// The request's body.
    fn body(&mut self) -> impl Body<Data = Bytes, Error: Into<BoxError>> + Send;

    /// Is ready when the client has given this stream up.
    fn given_up(&mut self) -> impl Future<Output = ()> + Send;

    /// Answers, and gives the byte stream that this has opened. It keeps `lease`.
    fn accept(
        self,
        head: Response<()>,
        lease: Lease,
    ) -> impl Future<Output = Result<Transport, Self::Error>> + Send;

    /// Answers, and ends the stream behind that.
    fn respond(self, response: Response<Bytes>) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Kept by each request, and by the WebSocket that becomes of it: when all are gone, a connection that takes no new
/// requests can end.
pub(super) type Lease = watch::Receiver<()>;

/// Answers one request.
pub(super) async fn serve<X: Exchange>(
    request: http::Request<()>,
    mut exchange: X,
    service: Service,
    lease: Lease,
    timeout: Duration,
) -> Result<(), X::Error> {
    let (taken, stream_taken) = oneshot::channel();
    let handover = Handover::Stream(stream_taken);
    let method = request.method().clone();
    let response = if extended_connect(&method, request.extensions()).is_some() {
        let request = request.map(|()| Empty::<Bytes>::new());
        tokio::select! {
            response = service.respond(request, handover) => response,
            () = exchange.given_up() => return Ok(()),
        }
    } else if method == Method::CONNECT {
        // This is no proxy.
        status_response(StatusCode::NOT_IMPLEMENTED)
    } else {
        let (head, ()) = request.into_parts();
        service.respond(http::Request::from_parts(head, exchange.body()), handover).await
    };
    let mut response = without_the_connections_headers(response);
    if response.status().is_success() && !taken.is_closed() {
        let transport = exchange.accept(response.map(drop), lease).await?;
        // A handler that did not wait for it has dropped it.
        let _ = taken.send(transport);
        return Ok(());
    }
    add_length(&mut response);
    if method == Method::HEAD {
        response.body_mut().clear();
    }
    // For which the client has as long as for its request.
    tokio::time::timeout(timeout, exchange.respond(response)).await.unwrap_or(Ok(()))
}

/// Leaves out what HTTP/1.1 says of its connection (RFC 9113 section 8.2.2, RFC 9114 section 4.2), and says when it
/// is (RFC 9110 section 6.6.1).
fn without_the_connections_headers(mut response: Response<Bytes>) -> Response<Bytes> {
    let headers = response.headers_mut();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    if let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        headers.entry(header::DATE).or_insert(now);
    }
    response
}

/// Says how long the body is, where there can be one (RFC 9110 section 8.6).
fn add_length(response: &mut Response<Bytes>) {
    let status = response.status();
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        let length = response.body().len();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
}
