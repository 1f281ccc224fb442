//! A request and its response, over HTTP/1.1, and what comes of it, over any version.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::http2;
use crate::{ConnectError, transport::Transport};

/// Bytes of a refusal's body that are kept.
const MAX_BODY: usize = 64 << 10;

/// Header lines of a response, and bytes of its whole head.
const MAX_HEADERS: usize = 128;
const MAX_HEAD: usize = 64 << 10;

/// Sends a request over HTTP/1.1 and gives the response's head.
pub(super) async fn exchange(
    transport: Transport,
    request: Request<()>,
) -> Result<Response<Incoming>, ConnectError> {
    let failed = |error: hyper::Error| ConnectError::Http(error.into());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(failed)?;
    // Ends with the upgrade, or with the response's body when that is dropped.
    let connection = tokio::spawn(connection.with_upgrades());
    let response = match sender.send_request(request.map(|()| Empty::<Bytes>::new())).await {
        Ok(response) => response,
        // The connection failed before it had the request: it knows why.
        Err(error) if error.is_canceled() => {
            return Err(failed(connection.await.ok().and_then(Result::err).unwrap_or(error)));
        }
        Err(error) => return Err(failed(error)),
    };
    // hyper's own limit lets through what comes in one read.
    let head: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head > MAX_HEAD {
        return Err(ConnectError::Http("the head of the response is too long".into()));
    }
    Ok(response)
}

/// A refusal with the beginning of its body: what came by the deadline.
pub(super) async fn keep_body<B>(response: Response<B>, deadline: Instant) -> Response<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (head, mut body) = response.into_parts();
    let mut kept = BytesMut::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(deadline, body.frame()).await {
        let Ok(data) = frame.into_data() else { continue };
        let room = MAX_BODY - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() >= room {
            break;
        }
    }
    Response::from_parts(head, kept.freeze())
}

/// What comes behind a response's head: a refusal's body, or the WebSocket.
pub(super) enum Rest {
    Http1(Incoming),
    Http2(Box<http2::Stream>),
    #[cfg(feature = "http3")]
    Http3(Box<crate::http3::RequestStream>),
}

impl Rest {
    /// The byte stream under the WebSocket, and the bytes that came behind the head.
    pub(super) async fn into_transport(response: Response<Self>) -> Result<(Transport, Bytes), hyper::Error> {
        let (head, rest) = response.into_parts();
        match rest {
            Self::Http1(body) => {
                Ok(Transport::take_back(hyper::upgrade::on(Response::from_parts(head, body)).await?))
            }
            Self::Http2(stream) => Ok((Transport::Boxed(stream), Bytes::new())),
            #[cfg(feature = "http3")]
            Self::Http3(stream) => Ok((Transport::Boxed(stream), Bytes::new())),
        }
    }
}

impl Body for Rest {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(io::Error::other),
            Self::Http2(stream) => Pin::new(stream).poll_frame(cx),
            #[cfg(feature = "http3")]
            Self::Http3(stream) => Pin::new(stream).poll_frame(cx),
        }
    }
}
