//! Which handler a request is for: by its path, then by the subprotocols on offer.

use std::{borrow::Cow, fmt};

use percent_encoding::{percent_decode_str, percent_encode_byte};

use super::OnRequest;
use crate::{SetupError, cookie::is_token_byte, request::Matched};

/// The routes of a server, and what is to become of other requests.
#[derive(Clone, Default)]
pub(super) struct Router {
    /// Each pattern's place among `patterns`.
    places: matchit::Router<usize>,
    patterns: Vec<Pattern>,
    rest: Option<OnRequest>,
}

#[derive(Clone)]
struct Pattern {
    pattern: String,
    routes: Vec<Route>,
}

#[derive(Clone)]
struct Route {
    /// `None` takes any offer, and none.
    protocol: Option<String>,
    on_request: OnRequest,
}

impl Router {
    /// Whether every request would be answered with 404.
    pub(super) fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.rest.is_none()
    }

    /// What to do with requests that no route takes.
    pub(super) fn set_rest(&mut self, on_request: OnRequest) {
        self.rest = Some(on_request);
    }

    pub(super) fn add(
        &mut self,
        pattern: String,
        protocol: Option<String>,
        on_request: OnRequest,
    ) -> Result<(), SetupError> {
        let known = self.patterns.iter().position(|known| known.pattern == pattern);
        let place = match known {
            Some(place) => place,
            None => self.add_pattern(pattern)?,
        };
        let Pattern { pattern, routes } = &mut self.patterns[place];
        if protocol.as_ref().is_some_and(|name| name.is_empty() || !name.bytes().all(is_token_byte)) {
            return Err(SetupError::route(pattern, "its subprotocol is no token"));
        }
        if routes.iter().any(|known| known.protocol == protocol) {
            return Err(SetupError::route(pattern, "it is there already"));
        }
        routes.push(Route { protocol, on_request });
        Ok(())
    }

    fn add_pattern(&mut self, pattern: String) -> Result<usize, SetupError> {
        if !pattern.starts_with('/') {
            return Err(SetupError::route(&pattern, "a path begins with /"));
        }
        let place = self.patterns.len();
        self.places
            .insert(normalized_pattern(&pattern), place)
            .map_err(|error| SetupError::route(&pattern, &error.to_string()))?;
        self.patterns.push(Pattern { pattern, routes: Vec::new() });
        Ok(place)
    }

    /// The handler for a path and the subprotocols on offer, the favourite first.
    pub(super) fn find(&self, path: &str, offered: &[String]) -> Option<(&OnRequest, Matched)> {
        self.find_route(path, offered).or_else(|| Some((self.rest.as_ref()?, Matched::default())))
    }

    fn find_route(&self, path: &str, offered: &[String]) -> Option<(&OnRequest, Matched)> {
        let path = normalized(path);
        let found = self.places.at(&path).ok()?;
        let routes = &self.patterns[*found.value].routes;
        let route_of = |protocol: Option<&String>| routes.iter().find(|r| r.protocol.as_ref() == protocol);
        let route = offered.iter().find_map(|offer| route_of(Some(offer))).or_else(|| route_of(None))?;
        let params = found.params.iter().map(|(name, value)| (name.to_owned(), decode(value))).collect();
        Some((&route.on_request, Matched { protocol: route.protocol.clone(), params }))
    }
}

/// Undoes percent-encoding; what is then no text stays as it is.
fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Into::into)
}

/// A path as all its spellings are compared (RFC 3986 section 6.2.2): percent-encoded, in capitals, where it
/// must be and nowhere else.
fn normalized(path: &str) -> Cow<'_, str> {
    if path.bytes().all(is_plain) {
        return path.into();
    }
    let (mut normalized, mut rest) = (String::new(), path.as_bytes());
    while let [first, behind @ ..] = rest {
        let (byte, is_plain, behind) = match percent_encoded(rest) {
            Some((byte, behind)) => (byte, is_unreserved(byte), behind),
            None => (*first, is_plain(*first), behind),
        };
        if is_plain {
            normalized.push(char::from(byte));
        } else {
            normalized.push_str(percent_encode_byte(byte));
        }
        rest = behind;
    }
    normalized.into()
}

/// The same for a pattern, whose names in braces stay as they are.
fn normalized_pattern(pattern: &str) -> String {
    let mut is_name = false;
    let part = |part| {
        let text = if is_name { Cow::Borrowed(part) } else { normalized(part) };
        is_name = part.ends_with('{');
        text
    };
    pattern.split_inclusive(['{', '}']).map(part).collect()
}

/// The byte that is written as `%` and two digits, and what stands behind it.
fn percent_encoded(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, behind @ ..] = text else { return None };
    let [high, low] = [high, low].map(|digit| char::from(*digit).to_digit(16));
    Some((u8::try_from(high? << 4 | low?).ok()?, behind))
}

/// What stands for itself, encoded or not: RFC 3986 section 2.3, and the braces of patterns.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~{}".contains(&byte)
}

/// What is not encoded in a path, as browsers see it.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"%\"<>^`".contains(&byte)
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.patterns.iter().map(|pattern| &pattern.pattern)).finish()
    }
}
