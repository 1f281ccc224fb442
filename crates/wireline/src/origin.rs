//! Which web pages may open a connection: the defence against cross-site WebSocket hijacking.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, Uri, header};

use crate::response::text;

/// Browsers send the page's origin with every handshake, and send the user's cookies to any server that
/// a page names. A server must therefore look where the page came from. Programs that are no browsers
/// send no origin and are let through: they could send any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OriginRule {
    /// Pages of the host that was asked for, and of these origins.
    SameHostOr(Vec<String>),
    /// Pages of anyone.
    Any,
}

impl Default for OriginRule {
    fn default() -> Self {
        Self::SameHostOr(Vec::new())
    }
}

impl OriginRule {
    pub(crate) fn same_host_or<O: Into<String>>(origins: impl IntoIterator<Item = O>) -> Self {
        Self::SameHostOr(origins.into_iter().map(Into::into).collect())
    }

    /// The first of the origins that are let in which is none, so that it could never match.
    pub(crate) fn mistake(&self) -> Option<&str> {
        match self {
            Self::SameHostOr(origins) => {
                origins.iter().find(|origin| split(origin).is_none()).map(String::as_str)
            }
            Self::Any => None,
        }
    }

    /// The answer to a request from a page that is not let in.
    pub(crate) fn refusal(
        &self,
        headers: &HeaderMap,
        remote_addr: Option<SocketAddr>,
    ) -> Option<Response<Bytes>> {
        if self.allows(headers) {
            return None;
        }
        let origin = headers.get(header::ORIGIN);
        tracing::info!(?origin, ?remote_addr, "refused a WebSocket request: foreign origin");
        Some(text(StatusCode::FORBIDDEN, "pages of this origin may not connect here\n"))
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (origin, more) = (origins.next(), origins.next());
        let Some(origin) = origin else { return true };
        let Ok(origin) = origin.to_str() else { return *self == Self::Any };
        match self {
            Self::Any => true,
            _ if more.is_some() => false,
            Self::SameHostOr(others) => {
                let given = split(origin);
                given.is_some() && others.iter().any(|other| split(other) == given)
                    || is_same_host(origin, headers)
            }
        }
    }
}

/// Scheme, host and port; the port is the scheme's own where none is given, and none where it has none, as
/// that of an extension. `None` for `null` and for what is no origin.
fn split(origin: &str) -> Option<(String, String, Option<u16>)> {
    let uri: Uri = origin.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    if uri.path() != "/" || origin.ends_with('/') || authority.as_str().contains('@') {
        return None;
    }
    let port = uri.port_u16().or_else(|| default_port(scheme));
    Some((scheme.to_ascii_lowercase(), authority.host().to_ascii_lowercase(), port))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// Whether the origin's host and port are those of the Host header. The scheme may differ, since a proxy
/// in front may end TLS.
fn is_same_host(origin: &str, headers: &HeaderMap) -> bool {
    let Some((scheme, host, port @ Some(_))) = split(origin) else { return false };
    let asked = headers.get(header::HOST).and_then(|asked| asked.to_str().ok());
    let Some(asked) = asked.and_then(|asked| split(&format!("{scheme}://{asked}"))) else { return false };
    asked == (scheme, host, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &OriginRule, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        rule.allows(&headers)
    }

    #[test]
    fn same_host_lets_in_its_own_pages_and_programs() {
        for (host, origin) in [
            ("example.com", None),
            ("example.com", Some("https://example.com")),
            ("example.com", Some("http://EXAMPLE.com:80")),
            ("example.com:443", Some("https://example.com")),
            ("127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("[::1]:8080", Some("http://[::1]:8080")),
        ] {
            assert!(allows(&OriginRule::default(), host, origin), "{host} {origin:?}");
        }
    }

    #[test]
    fn same_host_keeps_others_out() {
        for origin in [
            "null",
            "",
            "http://evil",
            "https://example.com:8443",
            "https://example.com.evil",
            "https://evil-example.com",
            "https://evil.example.com",
            "https://example.com@evil",
            "https://example.com/",
            "example.com",
        ] {
            assert!(!allows(&OriginRule::default(), "example.com", Some(origin)), "{origin}");
        }
    }

    #[test]
    fn a_list_lets_in_what_is_on_it() {
        let list = OriginRule::SameHostOr(vec!["https://app.example".into()]);
        assert!(allows(&list, "api.example", Some("https://app.example")));
        assert!(allows(&list, "api.example", Some("https://app.example:443")));
        assert!(allows(&list, "api.example", None));
        for origin in ["http://app.example", "https://api.example:8443", "null", "https://app.example.evil"] {
            assert!(!allows(&list, "api.example", Some(origin)), "{origin}");
        }
        assert!(!allows(&OriginRule::SameHostOr(vec!["null".into()]), "a", Some("null")));
        let apps = ["chrome-extension://abc", "capacitor://localhost"];
        let list = OriginRule::SameHostOr(apps.map(Into::into).to_vec());
        for origin in apps {
            assert!(allows(&list, "api.example", Some(origin)), "{origin}");
            assert!(!allows(&OriginRule::default(), "localhost", Some(origin)), "{origin}");
        }
        for origin in ["chrome-extension://abcd", "moz-extension://abc", "capacitor://localhost:80"] {
            assert!(!allows(&list, "api.example", Some(origin)), "{origin}");
        }
        assert!(allows(&OriginRule::Any, "a", Some("null")));
    }

    #[test]
    fn two_origins_are_one_too_many() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "a".parse().unwrap());
        headers.append(header::ORIGIN, "http://a".parse().unwrap());
        headers.append(header::ORIGIN, "http://evil".parse().unwrap());
        assert!(!OriginRule::default().allows(&headers));
    }
}
