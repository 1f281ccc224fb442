//! HTTP/2 on a transport (RFC 9113), with WebSockets (RFC 8441).

use std::{future::poll_fn, io, task::Poll, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::Response;
use http_body::Body;
use tokio::sync::watch;

use super::{
    Phase, Service,
    multiplexed::{self, Exchange, Lease, MAX_STREAMS, Place, Places, STREAM_WINDOW},
};
use crate::{
    error::BoxError,
    http2::{Cork, Corked, MAX_HEAD, Receiver, SEND_BUFFER, Tunnel, cork, lost, silence},
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
    let mut http = server::Builder::new();
    http.enable_connect_protocol()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let (transport, cork) = cork(transport);
    let greeted = tokio::time::timeout(timeout, http.handshake(transport)).await;
    let mut connection = greeted.map_err(|_| io::ErrorKind::TimedOut)?.map_err(lost)?;
    cork.begin();
    let (_under_way, lease) = watch::channel(());
    let places = Places::new();
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
            accepted = accept(&mut connection, &cork) => {
                let Some((request, mut respond)) = accepted? else { return Ok(()) };
                has_begun = true;
                let Some(place) = places.take() else {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    continue;
                };
                let kept = (lease.clone(), place);
                tokio::spawn(serve_request(request, respond, service.clone(), kept, timeout));
            }
            // Who asks for nothing is not waited for.
            () = first.as_mut(), if !has_begun => return Ok(()),
            () = silence.as_mut() => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// The next request, if there will be one. What the connection has to say goes at the end of each turn.
async fn accept(
    connection: &mut server::Connection<Corked, Bytes>,
    cork: &Cork,
) -> io::Result<Option<(http::Request<RecvStream>, SendResponse<Bytes>)>> {
    poll_fn(|cx| {
        let accepted = connection.poll_accept(cx).map(Option::transpose);
        match cork.poll_release(cx) {
            Poll::Ready(Err(error)) if accepted.is_pending() => Poll::Ready(Err(error)),
            _ => accepted.map_err(lost),
        }
    })
    .await
}

async fn serve_request(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    service: Service,
    kept: (Lease, Place),
    timeout: Duration,
) {
    let (mut head, body) = request.into_parts();
    if let Some(protocol) = head.extensions.remove::<h2::ext::Protocol>() {
        // As whoever else speaks HTTP here has it.
        head.extensions.insert(hyper::ext::Protocol::from(protocol.as_str()));
    }
    let exchange = Http2Exchange { respond, receiver: Receiver::new(body) };
    let request = http::Request::from_parts(head, ());
    if let Err(error) = multiplexed::serve(request, exchange, service, kept, timeout).await {
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
        let (head, mut body) = response.into_parts();
        let mut send = self.respond.send_response(Response::from_parts(head, ()), body.is_empty())?;
        while !body.is_empty() {
            send.reserve_capacity(body.len());
            // What was told as new is there until it is used.
            let mut capacity = send.capacity();
            while capacity == 0 {
                capacity = match poll_fn(|cx| send.poll_capacity(cx)).await {
                    Some(capacity) => capacity?,
                    // The client does not want it any more.
                    None => return Ok(()),
                };
            }
            let chunk = body.split_to(capacity.min(body.len()));
            send.send_data(chunk, body.is_empty())?;
        }
        // Behind that h2 resets the stream without an error if the request goes on (RFC 9113 section 8.1).
        Ok(())
    }
}
