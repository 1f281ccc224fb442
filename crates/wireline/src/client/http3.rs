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
    let of_tls = |source| ConnectError::Tls { host: target.host.clone(), source };
    let tls =
        QuicClientConfig::try_from(tls.http3_config()).map_err(|error| of_tls(io::Error::other(error)))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    let mut transport = transport_config(STREAMS, STREAM_WINDOW);
    // A server opens none for requests (RFC 9114 section 6.1).
    transport.max_concurrent_bidi_streams(0_u32.into());
    config.transport_config(Arc::new(transport));
    let attempt = |address| attempt(address, target.host.clone(), config.clone());
    let quic = race(addresses(&target.host, port).await?, attempt).await.map_err(|source| {
        if is_of_tls(&source) {
            of_tls(source)
        } else {
            ConnectError::Tcp { address: format!("{}:{port} (UDP)", target.host), source }
        }
    })?;
    Connection::begin(quic).await.map_err(failed)
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

/// Whether a connection failed for TLS: its alerts are among the error codes of QUIC (RFC 9001 section 4.8).
fn is_of_tls(error: &io::Error) -> bool {
    let lost = error.get_ref().and_then(|error| error.downcast_ref::<ConnectionError>());
    let code = match lost {
        Some(ConnectionError::TransportError(error)) => error.code,
        Some(ConnectionError::ConnectionClosed(closed)) => closed.error_code,
        _ => return false,
    };
    (0x100..0x200).contains(&u64::from(code))
}

/// A stream for another WebSocket; `None` if the server does not take such, or not another one on this connection.
pub(super) async fn open(connection: &Connection) -> Result<Option<RequestStream>, ConnectError> {
    let takes_them = connection.enables_connect_protocol().await.map_err(failed)?;
    Ok(if takes_them { connection.try_open().await } else { None })
}

/// Sends an extended CONNECT and gives the response's head.
pub(super) async fn exchange(
    mut stream: RequestStream,
    mut request: Request<()>,
) -> Result<Response<Rest>, ConnectError> {
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    stream.send_request(&request).await.map_err(failed)?;
    let response = stream.read_response().await.map_err(failed)?;
    Ok(response.map(|()| Rest::Http3(Box::new(stream))))
}

fn failed(error: http3::Error) -> ConnectError {
    ConnectError::Http(error.into())
}
