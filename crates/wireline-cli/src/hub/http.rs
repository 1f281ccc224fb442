//! What a hub says over plain HTTP: publishing, who and what is there, and how it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use wireline::{Message, Utf8Bytes};
use wireline_hub::{BackplaneError, Hub, HubStats, PublicationId, PublishError, Topic};

use crate::page;

/// How long a count of the hub is told again: whoever asks, it is not walked more often.
const COUNT_LIFETIME: Duration = Duration::from_millis(250);

/// Answers requests that ask for no WebSocket.
pub(super) struct Desk {
    hub: Hub,
    /// Who knows it may publish, and ask for what is not everybody's business.
    key: Option<String>,
    /// The server is for this machine alone.
    is_local: bool,
    is_leaving: Arc<AtomicBool>,
    /// When the hub was last counted, and what came of it.
    counted: Mutex<Option<(Instant, HubStats)>>,
}

impl Desk {
    pub(super) fn new(hub: Hub, key: Option<String>, is_local: bool, is_leaving: Arc<AtomicBool>) -> Self {
        Self { hub, key, is_local, is_leaving, counted: Mutex::default() }
    }

    pub(super) async fn respond(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let (path, method) = (request.uri().path(), request.method());
        let allowed = match path {
            "/publish" => &[Method::POST][..],
            "/topics" | "/presence" | "/stats" | "/health" | "/ready" => &[Method::GET, Method::HEAD],
            _ => return page::respond_for_hub(request),
        };
        if !allowed.contains(method) {
            let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "another method is wanted here");
            let allow = if path == "/publish" { "POST" } else { "GET, HEAD" };
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
            return response;
        }
        match path {
            "/health" => answer(StatusCode::OK, &json!({"healthy": true})),
            "/ready" => self.ready(),
            "/stats" => self.stats().await,
            _ if !self.is_let_in(request) => self.refuse(),
            "/publish" => self.publish(request).await,
            "/topics" => self.topics().await,
            _ => self.presence(request.uri()).await,
        }
    }

    /// Whether a load balancer should send clients here.
    fn ready(&self) -> Response<Bytes> {
        let (is_leaving, is_ready) = (self.is_leaving.load(Ordering::Relaxed), self.hub.is_ready());
        let status = if is_ready && !is_leaving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(status, &json!({"leaving": is_leaving, "backplane": is_ready}))
    }

    async fn stats(&self) -> Response<Bytes> {
        let mut counted = self.counted.lock().await;
        let stats = match *counted {
            Some((at, stats)) if at.elapsed() < COUNT_LIFETIME => stats,
            _ => {
                let stats = self.hub.stats().await;
                *counted = Some((Instant::now(), stats));
                stats
            }
        };
        drop(counted);
        let told = json!({
            "connections": stats.connections,
            "topics": stats.topics,
            "publications": stats.publications,
            "deliveries": stats.deliveries,
            "lagging": stats.lagging,
            "queued": stats.queued,
        });
        answer(StatusCode::OK, &told)
    }

    async fn topics(&self) -> Response<Bytes> {
        let topics = self.hub.topics().await.into_iter();
        let topics: Vec<Value> = topics
            .filter(|(topic, _)| !topic.starts_with('$'))
            .map(|(topic, subscribers)| json!({"topic": &*topic, "subscribers": subscribers}))
            .collect();
        answer(StatusCode::OK, &json!({"topics": topics}))
    }

    async fn presence(&self, uri: &Uri) -> Response<Bytes> {
        let Some(topic) = parameter(uri, "topic").and_then(|name| Topic::new(name).ok()) else {
            return failure(StatusCode::BAD_REQUEST, "say which: /presence?topic=NAME");
        };
        match self.hub.presence(&topic).await {
            Ok(members) => {
                let members: Vec<&str> = members.iter().map(wireline_hub::Member::name).collect();
                answer(StatusCode::OK, &json!({"topic": &*topic, "members": members}))
            }
            Err(error) => unavailable(&error),
        }
    }

    /// The body is the message: bytes if it says to be `application/octet-stream`, else text.
    async fn publish(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let Some(topic) = parameter(request.uri(), "topic") else {
            return failure(StatusCode::BAD_REQUEST, "say where: /publish?topic=NAME");
        };
        let is_binary = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"application/octet-stream"));
        let body = request.body().clone();
        let message = match Utf8Bytes::try_from(body.clone()) {
            _ if is_binary => Message::from(body),
            Ok(text) => text.into(),
            Err(_) => {
                let why = "the body is not UTF-8; send bytes as application/octet-stream";
                return failure(StatusCode::BAD_REQUEST, why);
            }
        };
        let Ok(topic) = Topic::new(topic) else {
            return failure(StatusCode::BAD_REQUEST, &wireline_hub::InvalidTopic.to_string());
        };
        if topic.starts_with('$') {
            return failure(StatusCode::FORBIDDEN, "topics that begin with $ are the hub's own");
        }
        let mut publish = self.hub.publish(topic, message);
        if let Some(key) = parameter(request.uri(), "key") {
            if key.len() > PublicationId::MAX_KEY_LEN {
                let why = format!("the key has more than {} bytes", PublicationId::MAX_KEY_LEN);
                return failure(StatusCode::BAD_REQUEST, &why);
            }
            publish = publish.key(&key);
        }
        match publish.await {
            Ok(position) => answer(StatusCode::OK, &json!({"pos": position.to_string()})),
            Err(PublishError::Backplane(error @ BackplaneError::TooLarge { .. })) => {
                failure(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string())
            }
            Err(PublishError::Backplane(error)) => unavailable(&error),
            Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }

    fn is_let_in(&self, request: &Request<Bytes>) -> bool {
        let Some(key) = &self.key else { return self.is_local && is_from_this_machine(request) };
        let said =
            request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        said.strip_prefix(b"Bearer ").is_some_and(|said| is_same(said, key.as_bytes()))
    }

    fn refuse(&self) -> Response<Bytes> {
        if self.key.is_none() {
            let why =
                "this needs a key: start the server with --hub-key, and say `Authorization: Bearer KEY`";
            return failure(StatusCode::FORBIDDEN, why);
        }
        let mut response =
            failure(StatusCode::UNAUTHORIZED, "say `Authorization: Bearer KEY` with the server's key");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        response
    }
}

/// What proxies add.
const PASSED_ON: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];

/// Whether it is not a page of somebody else's that asks, by its own name or, if its name leads here, by ours.
fn is_from_this_machine(request: &Request<Bytes>) -> bool {
    // A proxy asks for somebody else.
    if PASSED_ON.iter().any(|name| request.headers().contains_key(*name)) {
        return false;
    }
    let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(host) = text(header::HOST).or_else(|| request.uri().authority().map(|host| host.as_str()))
    else {
        return false;
    };
    let is_own_name = host.parse::<http::uri::Authority>().is_ok_and(|host| {
        let host = host.host().trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    });
    let origin = text(header::ORIGIN);
    is_own_name && origin.is_none_or(|origin| origin.split_once("://").is_some_and(|(_, asks)| asks == host))
}

/// In a time that tells nothing of where they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

fn parameter(uri: &Uri, wanted: &str) -> Option<String> {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .find(|(name, _)| name == wanted)
        .map(|(_, value)| value.into_owned())
}

fn answer(status: StatusCode, told: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{told}\n")));
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn failure(status: StatusCode, why: &str) -> Response<Bytes> {
    answer(status, &json!({"error": why}))
}

fn unavailable(error: &BackplaneError) -> Response<Bytes> {
    let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
