//! HTTP/2 on a transport (RFC 9113), with WebSockets (RFC 8441).

use std::{future::poll_fn, io, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Response;
use http_body::Body;
use tokio::sync::watch;

use super::{
    Phase, Service,
    multiplexed::{self, Exchange, Lease, MAX_STREAMS, STREAM_WINDOW},
};
use crate::{
    error::BoxError,
    http2::{MAX_HEAD, Receiver, SEND_BUFFER, Tunnel, lost, silence},
    transport::Transport,
};

/// Bytes that a client may send on all of a connection's streams: enough for each of them, so that one whose
/// application does not read does not hold up the others.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// Serves requests until the connection is over, or those that came before the server began to close.
pub(super) async fn serve(
    transport: Transport,
    service: Service,
    mut phase: watch::Receiver<Phase>,
    timeout: Duration,
) -> io::Result<()> {
    let mut http = h2::server::Builder::new();
    http.enable_connect_protocol()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let greeted = tokio::time::timeout(timeout, http.handshake(transport)).await;
    let mut connection = greeted.map_err(|_| io::ErrorKind::TimedOut)?.map_err(lost)?;
    let (_under_way, lease) = watch::channel(());
    let silence = std::pin::pin!(silence(connection.ping_pong()));
    let first = std::pin::pin!(tokio::time::sleep(timeout));
    let (mut silence, mut first) = (silence, first);
    let (mut is_closing, mut has_begun) = (false, false);
    loop {
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Draining), if !is_closing => {
                is_closing = true;
                connection.graceful_shutdown();
            }
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted.map_err(lost)?;
                has_begun = true;
                let request = serve_request(request, respond, service.clone(), lease.clone(), timeout);
                tokio::spawn(request);
            }
            // Who asks for nothing is not waited for.
            () = first.as_mut(), if !has_begun => return Ok(()),
            () = silence.as_mut() => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

async fn serve_request(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    service: Service,
    lease: Lease,
    timeout: Duration,
) {
    let (mut head, body) = request.into_parts();
    if let Some(protocol) = head.extensions.remove::<h2::ext::Protocol>() {
        // As whoever else speaks HTTP here has it.
        head.extensions.insert(hyper::ext::Protocol::from(protocol.as_str()));
    }
    let exchange = Http2Exchange { respond, receiver: Receiver::new(body) };
    let request = http::Request::from_parts(head, ());
    if let Err(error) = multiplexed::serve(request, exchange, service, lease, timeout).await {
        tracing::debug!(%error, "a request over HTTP/2 ended early");
    }
}

struct Http2Exchange {
    respond: SendResponse<Bytes>,
    receiver: Receiver,
}

impl Exchange for Http2Exchange {
    type Error = h2::Error;

    fn body(&mut self) -> impl Body<Data = Bytes, Error: Into<BoxError>> + Send {
        &mut self.receiver
    }

    async fn given_up(&mut self) {
        // By a reset, or with the connection.
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    async fn accept(mut self, head: Response<()>, lease: Lease) -> Result<Transport, h2::Error> {
        let send = self.respond.send_response(head, false)?;
        Ok(Transport::Boxed(Box::new(Tunnel::new(send, self.receiver, lease))))
    }

    async fn respond(mut self, response: Response<Bytes>) -> Result<(), h2::Error> {
        let (head, body) = response.into_parts();
        let mut send = self.respond.send_response(Response::from_parts(head, ()), body.is_empty())?;
        if !body.is_empty() {
            send.send_data(body, true)?;
        }
        // Behind that h2 resets the stream without an error if the request goes on (RFC 9113 section 8.1).
        Ok(())
    }
}
