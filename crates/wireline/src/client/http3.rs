//! The handshake over HTTP/3: an extended CONNECT (RFC 9220).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::{Request, Response};
use hyper::ext::Protocol;
use quinn::{ConnectionError, crypto::rustls::QuicClientConfig};

use super::{
    dial::{addresses, race},
    exchange::Rest,
    target::Target,
};
use crate::{
    ClientTls, ConnectError,
    http3::{self, Connection, RequestStream, connection_lost, transport_config},
};

/// Bytes that the server may send on one stream ahead of its application.
const STREAM_WINDOW: u32 = 1 << 20;

/// Streams of one connection that may wait for their applications without holding up the others.
const STREAMS: u32 = 100;

/// Opens a QUIC connection, to whichever of the host's addresses answers first.
pub(super) async fn connect(target: &Target, tls: &ClientTls, port: u16) -> Result<Connection, ConnectError> {
    let tls_failed = |source| ConnectError::Tls { host: target.host.clone(), source };
    let tls = QuicClientConfig::try_from(tls.http3_config())
        .map_err(|error| tls_failed(io::Error::other(error)))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    let mut transport = transport_config(STREAMS, STREAM_WINDOW);
    // A server opens none for requests (RFC 9114 section 6.1).
    transport.max_concurrent_bidi_streams(0_u32.into());
    config.transport_config(Arc::new(transport));
    let attempt = |address| attempt(address, target.host.clone(), config.clone());
    let quic = race(addresses(&target.host, port).await?, attempt).await.map_err(|source| {
        match of_tls(&source) {
            Some(source) => tls_failed(source),
            None => ConnectError::Tcp { address: format!("{}:{port} (UDP)", target.host), source },
        }
    })?;
    Connection::begin(quic).await.map_err(|error| failed(error, target))
}

async fn attempt(
    address: SocketAddr,
    host: String,
    config: quinn::ClientConfig,
) -> io::Result<quinn::Connection> {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    // Ends with its connection.
    let endpoint = quinn::Endpoint::client(any)?;
    let connecting = endpoint.connect_with(config, address, &host).map_err(io::Error::other)?;
    connecting.await.map_err(connection_lost)
}

/// What is behind a lost connection if it was TLS: its alerts are among the error codes of QUIC (RFC 9001 section
/// 4.8).
fn of_tls(error: &io::Error) -> Option<io::Error> {
    let alert = |code| u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok());
    match error.get_ref()?.downcast_ref::<ConnectionError>()? {
        ConnectionError::TransportError(failed) => {
            alert(failed.code).map(|_| io::Error::new(io::ErrorKind::InvalidData, failed.clone()))
        }
        ConnectionError::ConnectionClosed(closed) => {
            let alert = rustls::Error::AlertReceived(alert(closed.error_code)?.into());
            Some(io::Error::new(io::ErrorKind::InvalidData, alert))
        }
        _ => None,
    }
}

/// A stream for another WebSocket; `None` if the server does not take such, or not another one on this connection.
pub(super) async fn open(
    connection: &Connection,
    target: &Target,
) -> Result<Option<RequestStream>, ConnectError> {
    let takes_them = connection.enables_connect_protocol().await.map_err(|error| failed(error, target))?;
    Ok(if takes_them { connection.try_open().await } else { None })
}

/// Sends an extended CONNECT and gives the response's head.
pub(super) async fn exchange(
    mut stream: RequestStream,
    mut request: Request<()>,
    target: &Target,
) -> Result<Response<Rest>, ConnectError> {
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let exchanged = async {
        stream.send_request(&request).await?;
        stream.read_response().await
    };
    let response = exchanged.await.map_err(|error| failed(error, target))?;
    Ok(response.map(|()| Rest::Http3(Box::new(stream))))
}

/// A server looks at the client's certificate when to the client the handshake is over (RFC 8446 section 2).
fn failed(error: http3::Error, target: &Target) -> ConnectError {
    if let http3::Error::Quic(lost) = &error
        && let Some(source) = of_tls(lost)
    {
        return ConnectError::Tls { host: target.host.clone(), source };
    }
    ConnectError::Http(error.into())
}
