//! Cookies: those that a request brings, and those that an acceptance sets (RFC 6265).

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode_str;

/// The cookies of a request, in its order. What is no pair of name and value is left out.
pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let lines = headers.get_all(header::COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| {
        let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        Some((trim(name), decode(trim(value)))).filter(|(name, _)| !name.is_empty())
    })
}

/// Takes off HTTP's white space, and no other: a page of a sibling domain may not set `__Host-a`, but may
/// set that name with a wider space before it.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Takes off quotes and percent-encoding; a value whose encoding is broken stays as it came.
fn decode(value: &str) -> Cow<'_, str> {
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    percent_decode_str(value).decode_utf8().unwrap_or(Cow::Borrowed(value))
}

/// A cookie that [`Accept::cookie`](crate::Accept::cookie) sets, for the browser to send along with its
/// next requests, the ones for a WebSocket included.
///
/// ```
/// use std::time::Duration;
/// use wireline::{SameSite, SetCookie};
///
/// let cookie = SetCookie::new("session", "31d4d96e407aad42")
///     .path("/")
///     .max_age(Duration::from_secs(3600))
///     .secure()
///     .http_only()
///     .same_site(SameSite::Strict);
/// assert_eq!(
///     cookie.to_string(),
///     "session=31d4d96e407aad42; Path=/; Max-Age=3600; Secure; HttpOnly; SameSite=Strict"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it is set by `Accept::cookie`"]
pub struct SetCookie {
    name: String,
    value: String,
    path: Option<String>,
    domain: Option<String>,
    max_age: Option<Duration>,
    is_secure: bool,
    is_http_only: bool,
    same_site: Option<SameSite>,
}

/// Whether a browser sends a cookie with requests that pages of other sites make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SameSite {
    /// Never.
    Strict,
    /// Only when the user follows a link there; what browsers do unless told otherwise.
    Lax,
    /// Always; the cookie must be [`secure`](SetCookie::secure) too, or it cannot be sent.
    None,
}

impl SetCookie {
    /// A cookie for the host that was asked, kept until the browser ends. Name and value are sent as they
    /// are, and checked by [`Accept::cookie`](crate::Accept::cookie): letters, digits and most
    /// punctuation, but no space, comma, semicolon, quote, backslash or control character. A name that
    /// begins with `__Secure-` asks for [`secure`](Self::secure), and with `__Host-` for the
    /// [`path`](Self::path) `/` and no [`domain`](Self::domain) besides: no browser would keep it otherwise.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
            path: None,
            domain: None,
            max_age: None,
            is_secure: false,
            is_http_only: false,
            same_site: None,
        }
    }

    /// Sent only for this path and what lies below it.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Sent to this host and all below it; otherwise to the host that was asked alone.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Forgotten after this time, rounded up to whole seconds; zero takes a cookie back.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age);
        self
    }

    /// Sent over TLS only.
    pub fn secure(mut self) -> Self {
        self.is_secure = true;
        self
    }

    /// Kept from the page's scripts.
    pub fn http_only(mut self) -> Self {
        self.is_http_only = true;
        self
    }

    /// Whether it is sent with requests that pages of other sites make.
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = Some(same_site);
        self
    }

    /// Its name, and the value of its header; `None` if it cannot be sent.
    pub(crate) fn into_header(self) -> (String, Option<HeaderValue>) {
        let value = self.header_value();
        (self.name, value)
    }

    fn header_value(&self) -> Option<HeaderValue> {
        let has_name = !self.name.is_empty() && self.name.bytes().all(is_token_byte);
        let attributes = [&self.path, &self.domain].into_iter().flatten();
        let is_fit = has_name
            && self.value.bytes().all(is_cookie_byte)
            && attributes.flat_map(|attribute| attribute.bytes()).all(is_attribute_byte);
        HeaderValue::try_from(self.to_string()).ok().filter(|_| is_fit && self.is_kept())
    }

    /// Whether browsers keep it: its name may make a promise, and so may `SameSite=None`.
    fn is_kept(&self) -> bool {
        let promises = |prefix: &str| {
            self.name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let is_of_one_host = self.domain.is_none() && self.path.as_deref() == Some("/");
        let must_be_secure =
            self.same_site == Some(SameSite::None) || promises("__Secure-") || promises("__Host-");
        (self.is_secure || !must_be_secure) && (is_of_one_host || !promises("__Host-"))
    }
}

/// As it stands in the header.
impl std::fmt::Display for SetCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.value)?;
        if let Some(path) = &self.path {
            write!(f, "; Path={path}")?;
        }
        if let Some(domain) = &self.domain {
            write!(f, "; Domain={domain}")?;
        }
        if let Some(max_age) = &self.max_age {
            let more = u64::from(max_age.subsec_nanos() > 0);
            write!(f, "; Max-Age={}", max_age.as_secs().saturating_add(more))?;
        }
        f.write_str(if self.is_secure { "; Secure" } else { "" })?;
        f.write_str(if self.is_http_only { "; HttpOnly" } else { "" })?;
        match self.same_site {
            Some(same_site) => write!(f, "; SameSite={same_site:?}"),
            None => Ok(()),
        }
    }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 6265 section 4.1.1: cookie-octet.
fn is_cookie_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}

/// RFC 6265 section 4.1.1: av-octet.
fn is_attribute_byte(byte: u8) -> bool {
    (byte == b' ' || byte.is_ascii_graphic()) && byte != b';'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&[u8]]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        cookies(&headers).map(|(name, value)| (name.to_owned(), value.into_owned())).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn cookies_are_read_and_a_broken_one_does_not_hide_the_others() {
        assert_eq!(
            read(&[b"a=1; b=2;c=\"3\"", b"d=x=y"]),
            pairs(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "x=y")])
        );
        assert_eq!(read(&[b"a=%E4%B8%96; b=caf%c3%a9"]), pairs(&[("a", "世"), ("b", "café")]));
        assert_eq!(
            read(&[b"a=%; b=%zz; c=%ff; d=1"]),
            pairs(&[("a", "%"), ("b", "%zz"), ("c", "%ff"), ("d", "1")])
        );
        assert_eq!(read(&[b"=x; ; nonsense; \xff=1; a=\xff; ok=1"]), pairs(&[("ok", "1")]));
        assert_eq!(read(&[b"\t a \t=\t 1 "]), pairs(&[("a", "1")]));
        assert_eq!(read(&[]), []);
    }

    #[test]
    fn a_space_that_is_none_of_http_s_does_not_make_another_name_of_a_cookies() {
        // A page of a sibling domain may set these, since their names have no prefix to a browser.
        for space in ["\u{2000}", "\u{a0}", "\u{3000}", "\u{85}"] {
            let line = format!("{space}__Host-a=evil; b={space}1");
            let (name, value) = (format!("{space}__Host-a"), format!("{space}1"));
            assert_eq!(read(&[line.as_bytes()]), pairs(&[(&name, "evil"), ("b", &value)]));
        }
    }

    #[test]
    fn what_no_browser_would_keep_cannot_be_sent() {
        let cookie = |name: &str| SetCookie::new(name, "1");
        for kept in [
            cookie("a").same_site(SameSite::None).secure(),
            cookie("__Secure-a").secure().domain("example.com"),
            cookie("__Host-a").secure().path("/"),
            cookie("__Hostess"),
        ] {
            assert!(kept.header_value().is_some(), "{kept}");
        }
        for dropped in [
            cookie("a").same_site(SameSite::None),
            cookie("__Secure-a").path("/"),
            cookie("__host-a").path("/"),
            cookie("__Host-a").secure(),
            cookie("__Host-a").secure().path("/a"),
            cookie("__HOST-a").secure().path("/").domain("example.com"),
        ] {
            assert!(dropped.header_value().is_none(), "{dropped}");
        }
    }

    #[test]
    fn less_than_a_second_is_not_zero_which_would_take_a_cookie_back() {
        for (millis, seconds) in [(0, "0"), (1, "1"), (999, "1"), (1000, "1"), (1001, "2")] {
            let cookie = SetCookie::new("a", "1").max_age(Duration::from_millis(millis));
            assert_eq!(cookie.to_string(), format!("a=1; Max-Age={seconds}"));
        }
    }

    #[test]
    fn what_would_break_out_of_the_header_cannot_be_sent() {
        assert!(SetCookie::new("a", "").header_value().is_some());
        assert!(SetCookie::new("a", "b=c&d%20/").path("/x y").domain("example.com").header_value().is_some());
        for evil in ["\r\nX: y", "\n", "\r", "\0", ";x", "é", "\x7f"] {
            let evil = format!("a{evil}");
            for cookie in [
                SetCookie::new(&evil, "1"),
                SetCookie::new("a", &evil),
                SetCookie::new("a", "1").path(&evil),
                SetCookie::new("a", "1").domain(&evil),
            ] {
                assert!(cookie.header_value().is_none(), "{cookie:?}");
            }
        }
        for (name, value) in
            [("", "1"), ("a b", "1"), ("a=b", "1"), ("a", "1 2"), ("a", "1,2"), ("a", "\"1\"")]
        {
            assert!(SetCookie::new(name, value).header_value().is_none(), "{name} {value}");
        }
    }
}
