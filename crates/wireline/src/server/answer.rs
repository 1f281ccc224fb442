//! The answer to one request, whatever HTTP connection it came on.

use std::{future::poll_fn, net::SocketAddr, pin::pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use wireline_proto::handshake::{RequestError, UpgradeRequest};

use super::{OnHttp, Options};
use crate::{
    error::BoxError,
    events::poll_catching,
    registry::Registry,
    request::{Unanswered, WEBSOCKET, extended_connect, settle_host},
    response::{shutting_down, status_response},
    transport::Handover,
};

/// Bytes of a request's target, and of one header line with name and value.
const MAX_LINE: usize = 8 << 10;

/// Bytes of a plain request's body.
const MAX_BODY: usize = 64 << 10;

/// The body of a request, as an HTTP server has it.
pub(super) trait PlainBody: http_body::Body<Error: Into<BoxError>> {}

impl<B: http_body::Body<Error: Into<BoxError>>> PlainBody for B {}

/// The answer to one request. For a WebSocket it is the handler's.
pub(super) async fn answer<B: PlainBody>(
    mut request: http::Request<B>,
    handover: Handover,
    options: &Options,
    registry: &Arc<Registry>,
    remote_addr: Option<SocketAddr>,
) -> Response<Bytes> {
    if request.version() >= http::Version::HTTP_2 {
        // There the authority stands in a field of its own (RFC 9113 section 8.3.1).
        settle_host(&mut request);
    }
    if let Some(status) = over_limit(&request) {
        status_response(status)
    } else if let Some(protocol) = extended_connect(request.method(), request.extensions()) {
        if protocol != WEBSOCKET {
            // RFC 9220 section 3.
            return status_response(StatusCode::NOT_IMPLEMENTED);
        }
        let checked = UpgradeRequest::check_extended_connect(&request);
        upgrade(request, checked, handover, options, registry, remote_addr).await
    } else if UpgradeRequest::is_upgrade(&request) {
        let checked = UpgradeRequest::check(&request);
        upgrade(request, checked, handover, options, registry, remote_addr).await
    } else {
        plain(request, options).await
    }
}

/// The status for a head that is too long in one of its parts.
fn over_limit<B>(request: &http::Request<B>) -> Option<StatusCode> {
    let target = request.uri();
    let target_len = target.path_and_query().map_or(0, |target| target.as_str().len())
        + target.authority().map_or(0, |authority| authority.as_str().len());
    if target_len > MAX_LINE {
        return Some(StatusCode::URI_TOO_LONG);
    }
    let longest = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).max();
    (longest > Some(MAX_LINE)).then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
}

async fn upgrade<B>(
    mut request: http::Request<B>,
    checked: Result<UpgradeRequest, RequestError>,
    handover: Handover,
    options: &Options,
    registry: &Arc<Registry>,
    remote_addr: Option<SocketAddr>,
) -> Response<Bytes> {
    let checked = match checked {
        Ok(checked) => checked,
        Err(error) => {
            tracing::info!(%error, ?remote_addr, "refused a WebSocket request: {}", error.status());
            return error.response().map(Bytes::from);
        }
    };
    settle_host(&mut request);
    if let Some(refusal) = options.origins.refusal(request.headers(), remote_addr) {
        return refusal;
    }
    let Some((on_request, matched)) = options.router.find(request.uri().path(), checked.protocols()) else {
        return status_response(StatusCode::NOT_FOUND);
    };
    let Some(registration) = registry.register() else {
        return shutting_down();
    };
    let peer = remote_addr.map(|addr| addr.ip().to_canonical());
    let client_ip = match &options.trusted_proxies {
        Some(proxies) => proxies.client_ip(peer, request.headers()),
        None => peer,
    };
    let unanswered = Unanswered {
        head: request.into_parts().0,
        upgrade: checked,
        matched,
        handover,
        registration: Some(registration),
        config: Arc::clone(&options.config),
        events: Arc::clone(&options.events),
        remote_addr,
        client_ip,
    };
    unanswered.put_to(|request, seat| on_request(request, seat)).await
}

/// A request that does not ask for a WebSocket.
async fn plain<B: PlainBody>(request: http::Request<B>, options: &Options) -> Response<Bytes> {
    if request.version() >= http::Version::HTTP_11
        && let Err(error) = UpgradeRequest::check_host(&request)
    {
        return error.response().map(Bytes::from);
    }
    let Some(on_http) = &options.on_http else {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return status_response(StatusCode::NOT_FOUND);
        }
        let mut response = status_response(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    };
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(options.handshake_timeout, Limited::new(body, MAX_BODY).collect());
    let Ok(body) = body.await else { return status_response(StatusCode::REQUEST_TIMEOUT) };
    match body {
        Ok(body) => call(on_http, http::Request::from_parts(head, body.to_bytes())).await,
        Err(error) if error.is::<LengthLimitError>() => status_response(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => status_response(StatusCode::BAD_REQUEST),
    }
}

/// What the application answers. Its panic is its client's 500, and nobody else's.
async fn call(on_http: &OnHttp, request: http::Request<Bytes>) -> Response<Bytes> {
    let mut answering = pin!(async { on_http(request).await });
    poll_fn(|cx| poll_catching(answering.as_mut(), cx)).await.unwrap_or_else(|_| {
        tracing::error!("a handler of plain requests panicked");
        status_response(StatusCode::INTERNAL_SERVER_ERROR)
    })
}
