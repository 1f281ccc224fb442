//! yawc, set as its own comparison sets it: large buffers, and a flush after 32 ready messages at most.

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use http_body_util::Empty;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use yawc::{CompressionLevel, OpCode, Options, UpgradeFut, WebSocket};

/// How many messages are answered before a flush.
const BATCH: usize = 32;

fn main() {
    wireline_bench::serve!(serve)
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) {
    if wireline_bench::behind("http2").is_some() {
        let mut http = http2::Builder::new(TokioExecutor::new());
        let connection =
            http.enable_connect_protocol().serve_connection(TokioIo::new(stream), service_fn(accept));
        let _ = connection.await;
        return;
    }
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(accept));
    let _ = connection.with_upgrades().await;
}

async fn accept(mut request: Request<Incoming>) -> yawc::Result<Response<Empty<Bytes>>> {
    let options = Options::default()
        .with_limits(wireline_bench::MAX_MESSAGE_SIZE, 2 * wireline_bench::MAX_MESSAGE_SIZE)
        .with_read_buffer_capacity(128 * 1024)
        .with_backpressure_boundary(64 * 1024)
        .with_no_delay()
        .with_utf8();
    let options = if wireline_bench::deflate::is_asked_for() {
        options
            .with_compression_level(CompressionLevel::new(wireline_bench::deflate::LEVEL.into()))
            .with_server_max_window_bits(wireline_bench::deflate::WINDOW_BITS)
            .with_client_max_window_bits(wireline_bench::deflate::WINDOW_BITS)
    } else {
        options
    };
    let (response, upgrade) = WebSocket::upgrade_with_options(&mut request, options)?;
    tokio::spawn(tokio::task::unconstrained(async move {
        let _ = echo(upgrade).await;
    }));
    Ok(response)
}

async fn echo(upgrade: UpgradeFut) -> yawc::Result<()> {
    let mut socket = upgrade.await?;
    while let Some(frame) = socket.next().await {
        let mut frame = frame;
        for _ in 0..BATCH {
            if matches!(frame.opcode(), OpCode::Text | OpCode::Binary) {
                socket.feed(frame).await?;
            }
            match socket.next().now_or_never() {
                Some(Some(next)) => frame = next,
                Some(None) | None => break,
            }
        }
        socket.flush().await?;
    }
    Ok(())
}
