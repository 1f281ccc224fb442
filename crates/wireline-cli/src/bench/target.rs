//! The server under load: where it is, and what the opening handshake calls it.

use std::{
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use url::Url;

/// How long one address may take to answer before it counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A `ws` URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    url: String,
    host: String,
    port: u16,
    resource_name: String,
}

impl Target {
    /// Takes a URL apart; what it says when it cannot is for the terminal.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("{text} is no URL: {error}"))?;
        if url.scheme() != "ws" {
            return Err(format!("the load speaks ws:// only, not {}://", url.scheme()));
        }
        if url.fragment().is_some() {
            return Err("a WebSocket URL has no fragment".to_owned());
        }
        let host = url.host_str().ok_or("the URL names no host")?.to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let resource_name = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self { url: text.to_owned(), host, port, resource_name })
    }

    /// The first of the host's addresses that takes a connection.
    pub(super) fn resolve(&self) -> Result<SocketAddr, String> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = (host, self.port).to_socket_addrs();
        let addresses = addresses.map_err(|error| format!("cannot resolve {}: {error}", self.host))?;
        let mut last_error = "the name has no address".to_owned();
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(_) => return Ok(address),
                Err(error) => last_error = error.to_string(),
            }
        }
        Err(format!("cannot reach {}: {last_error}", self.url))
    }

    /// The URL as it was given.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// What the request line asks for.
    pub(super) fn resource_name(&self) -> &str {
        &self.resource_name
    }

    /// The value of the `Host` header.
    pub(super) fn host_header(&self) -> String {
        if self.port == 80 { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("ws://localhost:9001/chat?room=1").unwrap();
        assert_eq!(target.resource_name(), "/chat?room=1");
        assert_eq!(target.host_header(), "localhost:9001");
        assert_eq!(Target::parse("ws://example.com").unwrap().resource_name(), "/");
        assert_eq!(Target::parse("ws://example.com").unwrap().host_header(), "example.com");
        assert_eq!(Target::parse("ws://[::1]:8080/").unwrap().host_header(), "[::1]:8080");
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["http://localhost", "wss://localhost", "localhost:80", "ws://localhost/#top", ""] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_port_nobody_listens_on_is_unreachable() {
        let error = Target::parse("ws://127.0.0.1:1/").unwrap().resolve().unwrap_err();
        assert!(error.contains("cannot reach ws://127.0.0.1:1/"), "{error}");
    }
}
