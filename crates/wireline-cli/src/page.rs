//! The page that a browser gets at `/`: three files, embedded.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

/// Nothing but the page's own files, and WebSockets.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src ws: wss: 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Answers a plain HTTP request.
pub(crate) fn respond(request: &Request<Bytes>) -> Response<Bytes> {
    give(
        request,
        match request.uri().path() {
            "/" => Some((HTML, include_str!("../page/index.html"))),
            "/style.css" => Some((CSS, include_str!("../page/style.css"))),
            "/app.js" => Some((JAVASCRIPT, include_str!("../page/app.js"))),
            _ => None,
        },
    )
}

/// The same where topics are served: with a chat.
pub(crate) fn respond_for_hub(request: &Request<Bytes>) -> Response<Bytes> {
    give(
        request,
        match request.uri().path() {
            "/" => Some((HTML, include_str!("../page/hub.html"))),
            "/style.css" => Some((CSS, include_str!("../page/style.css"))),
            "/hub.css" => Some((CSS, include_str!("../page/hub.css"))),
            "/hub.js" => Some((JAVASCRIPT, include_str!("../page/hub.js"))),
            "/wireline-hub.js" => Some((JAVASCRIPT, wireline_hub::JAVASCRIPT_CLIENT)),
            _ => None,
        },
    )
}

/// A file of the page.
fn give(request: &Request<Bytes>, file: Option<(&'static str, &'static str)>) -> Response<Bytes> {
    let Some((kind, body)) = file else {
        return plain(StatusCode::NOT_FOUND, "nothing lives here; the page is at /\n");
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn plain(status: StatusCode, body: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(method: Method, path: &str) -> Response<Bytes> {
        respond(&Request::builder().method(method).uri(path).body(Bytes::new()).unwrap())
    }

    #[test]
    fn the_page_and_its_files_are_served_and_nothing_else() {
        for (path, kind) in [("/", "text/html"), ("/style.css", "text/css"), ("/app.js", "text/javascript")] {
            let response = get(Method::GET, path);
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.headers()["content-type"].to_str().unwrap().starts_with(kind));
        }
        assert_eq!(get(Method::GET, "/favicon.ico").status(), StatusCode::NOT_FOUND);
        assert_eq!(get(Method::POST, "/").status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(get(Method::POST, "/nothing").status(), StatusCode::NOT_FOUND);
    }
}
