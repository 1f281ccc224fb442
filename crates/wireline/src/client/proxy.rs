//! Through a proxy to the host: HTTP's CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).

use std::{
    future::{Ready, ready},
    io,
    task::{Context, Poll},
};

use http::{HeaderValue, Method, Request, Uri, header, uri::Authority};
use hyper_util::{
    client::{
        legacy::connect::proxy::SocksV5,
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use tokio::time::Instant;
use tower_service::Service;
use url::Host;

use super::{
    dial::dial,
    exchange::{exchange, keep_body},
    refused_by_tls, secure,
    target::Target,
};
use crate::{ClientTls, ConnectError, tls::HttpVersions, transport::Transport};

/// Which proxy to go through.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum ProxyChoice {
    #[default]
    FromEnvironment,
    None,
    Given(String),
}

impl ProxyChoice {
    /// The proxy on the way to `target`, if there is one.
    pub(super) fn find(&self, target: &Target) -> Result<Option<Proxy>, ConnectError> {
        let intercept = match self {
            Self::None => None,
            Self::FromEnvironment if target.is_local() => None,
            Self::FromEnvironment => Matcher::from_env().intercept(&target.http_uri()?),
            Self::Given(url) => {
                let intercept = Matcher::builder().all(url.clone()).build().intercept(&target.http_uri()?);
                Some(
                    intercept.ok_or_else(|| ConnectError::Url {
                        url: url.clone(),
                        reason:
                            "a proxy is given as http://, https:// or socks5://, a host and perhaps a port"
                                .into(),
                    })?,
                )
            }
        };
        intercept.map(Proxy::new).transpose()
    }
}

/// A proxy, and how to speak to it.
#[derive(Debug)]
pub(super) struct Proxy {
    intercept: Intercept,
    kind: Kind,
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    /// HTTP over TLS.
    Https,
    /// The proxy resolves the host's name.
    Socks5,
}

impl Proxy {
    fn new(intercept: Intercept) -> Result<Self, ConnectError> {
        let uri = intercept.uri();
        let (kind, default_port) = match uri.scheme_str() {
            Some("http") => (Kind::Http, 80),
            Some("https") => (Kind::Https, 443),
            Some("socks5" | "socks5h") => (Kind::Socks5, 1080),
            _ => {
                let reason = "of proxies http, https and socks5 are spoken".to_owned();
                return Err(ConnectError::Url { url: uri.to_string(), reason });
            }
        };
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(default_port);
        Ok(Self { kind, host, port, intercept })
    }

    /// How it is called in errors: without user and password.
    fn name(&self) -> String {
        self.intercept.uri().to_string().trim_end_matches('/').to_owned()
    }

    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ConnectError {
        ConnectError::Proxy { proxy: self.name(), source: source.into() }
    }

    /// A byte stream to `target` through it. TLS to it is checked by `tls`, as that to the target is.
    pub(super) async fn tunnel(
        &self,
        target: &Target,
        tls: Option<&ClientTls>,
        deadline: Instant,
    ) -> Result<Transport, ConnectError> {
        let stream = dial(&self.host, self.port).await.map_err(|error| self.failed(error))?;
        let transport = Transport::Tcp(stream);
        match self.kind {
            Kind::Http => self.connect(transport, target, deadline).await,
            Kind::Https => {
                let secured = secure(transport, &self.host, tls, HttpVersions::Http1).await;
                let secured = secured.map_err(|error| self.failed(error))?;
                self.connect(secured.transport, target, deadline).await
            }
            Kind::Socks5 => self.greet(transport, target).await,
        }
    }

    /// HTTP's CONNECT.
    async fn connect(
        &self,
        transport: Transport,
        target: &Target,
        deadline: Instant,
    ) -> Result<Transport, ConnectError> {
        let authority = target.authority();
        let host = HeaderValue::try_from(authority.as_str()).map_err(|error| self.failed(error))?;
        let target = Uri::from(authority.parse::<Authority>().map_err(|error| self.failed(error))?);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = target;
        request.headers_mut().insert(header::HOST, host);
        if let Some(credentials) = self.intercept.basic_auth() {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, credentials.clone());
        }
        let response = exchange(transport, request)
            .await
            .map_err(|error| if self.kind == Kind::Https { refused_by_tls(error, &self.host) } else { error })
            .map_err(|error| self.failed(error))?;
        if !response.status().is_success() {
            let response = Box::new(keep_body(response, deadline).await);
            return Err(ConnectError::ProxyRejected { proxy: self.name(), response });
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.failed(error))?;
        // A server speaks when it is spoken to, so nothing has come behind the response.
        let (transport, early) = Transport::take_back(upgraded);
        if early.is_empty() {
            Ok(transport)
        } else {
            Err(self.failed("it sent something before it was asked"))
        }
    }

    async fn greet(&self, transport: Transport, target: &Target) -> Result<Transport, ConnectError> {
        let given = Given(Some(TokioIo::new(transport)));
        let mut socks = SocksV5::new(self.intercept.uri().clone(), given);
        if let Some((user, password)) = self.intercept.raw_auth() {
            socks = socks.with_auth(user.to_owned(), password.to_owned());
        }
        let greeted = socks.call(target.http_uri()?).await;
        greeted.map(TokioIo::into_inner).map_err(|error| self.failed(error))
    }
}

/// What hyper-util's SOCKS takes for a connector: the stream is there already.
struct Given(Option<TokioIo<Transport>>);

impl Service<Uri> for Given {
    type Response = TokioIo<Transport>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Transport>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

impl Target {
    /// Whether it is this machine, by its name.
    fn is_local(&self) -> bool {
        match self.url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    /// Host and port, the scheme's own too.
    fn authority(&self) -> String {
        format!("{}:{}", self.url.host_str().unwrap_or_default(), self.port)
    }

    /// What it is to those who know HTTP only.
    fn http_uri(&self) -> Result<Uri, ConnectError> {
        let scheme = if self.is_secure { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(self.authority()).path_and_query("/").build();
        uri.map_err(|error| ConnectError::Url { url: self.public_url(), reason: error.to_string() })
    }
}
