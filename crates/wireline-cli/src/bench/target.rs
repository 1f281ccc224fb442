//! The server under load: where it is, and what the opening handshake calls it.

use std::{
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::Path,
    time::Duration,
};

use url::Url;

use super::tls::Trust;

/// How long one address may take to answer before it counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A `ws` or `wss` URL, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    url: String,
    is_secure: bool,
    host: String,
    port: u16,
    resource_name: String,
    trust: Option<Trust>,
}

impl Target {
    /// Takes a URL apart; what it says when it cannot is for the terminal.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("{text} is no URL: {error}"))?;
        let is_secure = match url.scheme() {
            "ws" => false,
            "wss" => true,
            other => return Err(format!("the load speaks ws:// and wss://, not {other}://")),
        };
        if url.fragment().is_some() {
            return Err("a WebSocket URL has no fragment".to_owned());
        }
        let host = url.host_str().ok_or("the URL names no host")?.to_owned();
        let port = url.port().unwrap_or(default_port(is_secure));
        let resource_name = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self { url: text.to_owned(), is_secure, host, port, resource_name, trust: None })
    }

    /// The same, with the certificates in the PEM file `ca` to vouch for a `wss` server.
    pub(super) fn trusting(mut self, ca: Option<&Path>) -> Result<Self, String> {
        self.trust = match (self.is_secure, ca) {
            (false, None) => None,
            (true, Some(ca)) => Some(Trust::new(ca, self.address_or_name())?),
            (true, None) => return Err("wss:// needs --ca: the load trusts no certificates but those".into()),
            (false, Some(_)) => return Err("--ca is for wss://".into()),
        };
        Ok(self)
    }

    /// Whom connections trust, if they speak TLS.
    pub(super) fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// The first of the host's addresses that takes a connection.
    pub(super) fn resolve(&self) -> Result<SocketAddr, String> {
        let addresses = (self.address_or_name(), self.port).to_socket_addrs();
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
        let is_default = self.port == default_port(self.is_secure);
        if is_default { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// The host without the brackets that a URL puts around an address of IPv6.
    fn address_or_name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

const fn default_port(is_secure: bool) -> u16 {
    if is_secure { 443 } else { 80 }
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
        assert_eq!(Target::parse("wss://example.com:443").unwrap().host_header(), "example.com");
        assert_eq!(Target::parse("wss://example.com:80").unwrap().host_header(), "example.com:80");
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["http://localhost", "localhost:80", "ws://localhost/#top", ""] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn certificates_go_with_wss_and_with_nothing_else() {
        let trusting = |url: &str, ca: Option<&str>| {
            Target::parse(url).unwrap().trusting(ca.map(Path::new)).map(|target| target.trust.is_some())
        };
        assert_eq!(trusting("ws://localhost", None), Ok(false));
        assert!(trusting("ws://localhost", Some("ca.pem")).unwrap_err().contains("--ca"));
        assert!(trusting("wss://localhost", None).unwrap_err().contains("--ca"));
        assert!(trusting("wss://localhost", Some("no/such/file")).unwrap_err().contains("no/such/file"));
    }

    #[test]
    fn a_port_nobody_listens_on_is_unreachable() {
        let error = Target::parse("ws://127.0.0.1:1/").unwrap().resolve().unwrap_err();
        assert!(error.contains("cannot reach ws://127.0.0.1:1/"), "{error}");
    }
}
