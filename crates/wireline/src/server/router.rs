//! Which handler a request is for: by its path, then by the subprotocols on offer.

use std::fmt;

use percent_encoding::percent_decode_str;

use super::OnRequest;
use crate::{SetupError, request::Matched};

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
            .insert(&pattern, place)
            .map_err(|error| SetupError::route(&pattern, &error.to_string()))?;
        self.patterns.push(Pattern { pattern, routes: Vec::new() });
        Ok(place)
    }

    /// The handler for a path and the subprotocols on offer, the favourite first.
    pub(super) fn find(&self, path: &str, offered: &[String]) -> Option<(&OnRequest, Matched)> {
        self.find_route(path, offered).or_else(|| Some((self.rest.as_ref()?, Matched::default())))
    }

    fn find_route(&self, path: &str, offered: &[String]) -> Option<(&OnRequest, Matched)> {
        let found = self.places.at(path).ok()?;
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

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.patterns.iter().map(|pattern| &pattern.pattern)).finish()
    }
}
