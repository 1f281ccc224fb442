//! What a WebSocket URL says (RFC 6455 section 3, and the browsers' parser).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::ConnectError;

/// Where to connect, and what to ask for there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// With user and password, if they were given.
    pub(super) url: Url,
    pub(super) is_secure: bool,
    /// A name or an address, without the brackets of IPv6.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host, and the port if it is not the scheme's own.
    pub(super) host_header: String,
    pub(super) path_and_query: String,
    /// User and password with a colon between, their percent-encoding undone.
    credentials: Option<Vec<u8>>,
}

impl Target {
    pub(super) fn parse(given: &str) -> Result<Self, ConnectError> {
        let error = |reason: &str| ConnectError::Url { url: given.to_owned(), reason: reason.to_owned() };
        let mut url = Url::parse(given).map_err(|why| error(&why.to_string()))?;
        let is_secure = match url.scheme() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return Err(error("the scheme must be ws or wss")),
        };
        url.set_scheme(if is_secure { "wss" } else { "ws" })
            .map_err(|()| error("the scheme cannot be used"))?;
        if url.fragment().is_some() {
            return Err(error("a WebSocket URL has no fragment"));
        }
        let credentials = (!url.username().is_empty() || url.password().is_some())
            .then(|| credentials(url.username(), url.password().unwrap_or_default()));
        let host = url.host_str().ok_or_else(|| error("it has no host"))?;
        let host_header = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Self {
            is_secure,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port_or_known_default().ok_or_else(|| error("it has no port"))?,
            host_header,
            path_and_query: format!("{}{query}", url.path()),
            credentials,
            url,
        })
    }

    /// The URL as it may be shown: without user and password.
    pub(super) fn public_url(&self) -> String {
        let mut url = self.url.clone();
        // What has a host can have both, and none of them.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        url.into()
    }

    /// User and password of the URL become Basic authentication.
    pub(super) fn authorize(&self, headers: &mut HeaderMap) {
        if let Some(credentials) = &self.credentials
            && let Ok(value) = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(credentials)))
        {
            headers.insert(header::AUTHORIZATION, value);
        }
    }
}

fn credentials(user: &str, password: &str) -> Vec<u8> {
    percent_decode_str(user).chain(*b":").chain(percent_decode_str(password)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_taken_to_their_last_byte() {
        for (given, taken) in [
            ("ws://us&er:p&ss+w%2Bo@h/", Some(&b"us&er:p&ss+w+o"[..])),
            ("ws://u%3Aser:%FF=@h/", Some(b"u:ser:\xFF=")),
            ("ws://user@h/", Some(b"user:")),
            ("ws://:pass@h/", Some(b":pass")),
            ("ws://h/", None),
        ] {
            assert_eq!(Target::parse(given).unwrap().credentials.as_deref(), taken, "{given}");
        }
    }

    #[test]
    fn urls_are_read_as_browsers_read_them() {
        for (given, url, host, port, header, path) in [
            ("ws://h", "ws://h/", "h", 80, "h", "/"),
            ("WS://H:80/", "ws://h/", "h", 80, "h", "/"),
            ("wss://h:443/a?b", "wss://h/a?b", "h", 443, "h", "/a?b"),
            ("http://h:8080/x y", "ws://h:8080/x%20y", "h", 8080, "h:8080", "/x%20y"),
            ("https://[::1]:9/?q", "wss://[::1]:9/?q", "::1", 9, "[::1]:9", "/?q"),
        ] {
            let target = Target::parse(given).unwrap();
            assert_eq!(
                (
                    target.url.as_str(),
                    &*target.host,
                    target.port,
                    &*target.host_header,
                    &*target.path_and_query
                ),
                (url, host, port, header, path)
            );
        }
    }

    #[test]
    fn what_is_no_websocket_url_is_told_why() {
        for given in [
            "",
            "/relative",
            "ftp://h/",
            "mailto:a@b",
            "about:blank",
            "ws://h/#",
            "ws://h/#a",
            "ws://foo bar/",
            "ws:",
        ] {
            let error = Target::parse(given).unwrap_err();
            assert!(matches!(&error, ConnectError::Url { url, .. } if url == given), "{given}: {error}");
        }
    }

    #[test]
    fn credentials_become_basic_authentication() {
        let target = Target::parse("ws://Aladdin:open%20sesame@h/").unwrap();
        let mut headers = HeaderMap::new();
        target.authorize(&mut headers);
        assert_eq!(headers["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(target.public_url(), "ws://h/");
        assert_eq!(target.url.as_str(), "ws://Aladdin:open%20sesame@h/");
    }
}
