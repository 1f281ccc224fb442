//! Where a server sends a client instead (RFC 9110 section 15.4).

use http::{HeaderMap, Response, StatusCode, header};
use tokio::time::Instant;
use url::Url;

use super::{Connect, target::Target};
use crate::{ConnectError, WebSocket};

impl Connect {
    /// Connects, by way of as many redirects as are allowed.
    pub(super) async fn open(mut self) -> Result<WebSocket, ConnectError> {
        let deadline = Instant::now() + self.handshake_timeout;
        loop {
            // A stream that was given leads to one place.
            let can_follow = self.redirects > 0 && self.stream.is_none();
            let next = can_follow.then(|| self.again());
            let error = match self.check()?.run().await {
                Err(ConnectError::Rejected(response)) => {
                    match next.and_then(|next| next.redirected(&response)) {
                        Some(next) => {
                            self = next;
                            self.handshake_timeout = deadline.saturating_duration_since(Instant::now());
                            continue;
                        }
                        None => ConnectError::Rejected(response),
                    }
                }
                outcome => return outcome,
            };
            return Err(error);
        }
    }

    /// The same to where `response` sends it; `None` if it is no redirect, or one that must not be followed:
    /// from `wss://` to `ws://`.
    fn redirected<B>(mut self, response: &Response<B>) -> Option<Self> {
        if !matches!(
            response.status(),
            StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
        ) {
            return None;
        }
        let before = Target::parse(&self.url).ok()?;
        let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
        let mut url = before.url.join(location).ok()?;
        url.set_fragment(None);
        let after = Target::parse(url.as_str()).ok()?;
        if before.is_secure && !after.is_secure {
            tracing::warn!(from = %before.public_url(), "a redirect from wss:// to ws:// is not followed");
            return None;
        }
        tracing::debug!(from = %before.public_url(), to = %after.public_url(), "redirected");
        if !is_same_host(&before.url, &after.url) {
            self.headers = without_credentials(self.headers);
        }
        self.url = url.into();
        self.redirects -= 1;
        Some(self)
    }
}

/// Whether what may be told to one may be told to the other.
fn is_same_host(one: &Url, other: &Url) -> bool {
    one.host() == other.host() && one.port_or_known_default() == other.port_or_known_default()
}

/// The headers that another host may see. Any that the application has set can be a secret, so it is only
/// those that are known not to be.
fn without_credentials(mut headers: HeaderMap) -> HeaderMap {
    let mut harmless = HeaderMap::new();
    for name in [header::ORIGIN, header::USER_AGENT, header::ACCEPT_LANGUAGE] {
        if let Some(value) = headers.remove(&name) {
            harmless.insert(name, value);
        }
    }
    harmless
}
