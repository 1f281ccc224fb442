//! Who a client has proved to be.

use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;

/// The certificate chain that a client has proved itself with: each certificate in DER, the client's own first
/// (RFC 8446 section 4.4.2). A server that asks for none has none, and a client may have none where they are
/// [optional](crate::ServerTls::optional_client_ca_file).
///
/// [`Request::peer_certificates`](crate::Request::peer_certificates) gives it. A plain request has it among its
/// extensions:
///
/// ```no_run
/// use bytes::Bytes;
/// use http::{Response, StatusCode};
/// use wireline::{PeerCertificates, Server, ServerTls};
///
/// # async fn example(administrator: Bytes) -> wireline::Result<()> {
/// let tls = ServerTls::from_pem_files("cert.pem", "key.pem")?.client_ca_file("our-ca.pem")?;
/// Server::new()
///     .tls(tls)
///     .on_http(move |request| {
///         let chain = request.extensions().get::<PeerCertificates>().cloned();
///         let is_known = chain.is_some_and(|chain| chain.as_slice().first() == Some(&administrator));
///         async move {
///             let mut response = Response::new(Bytes::new());
///             *response.status_mut() = if is_known { StatusCode::OK } else { StatusCode::FORBIDDEN };
///             response
///         }
///     })
///     .listen("0.0.0.0:443")
///     .await
/// # }
/// ```
///
/// In somebody else's HTTP server, whoever does TLS there can put one into a request's extensions before
/// [`upgrade`](crate::upgrade()) or a [`Service`](crate::Service) gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificates(Arc<[Bytes]>);

impl PeerCertificates {
    /// A chain that somebody has checked: certificates in DER, the client's own first.
    pub fn new(chain: impl IntoIterator<Item = Bytes>) -> Self {
        Self(chain.into_iter().collect())
    }

    /// The certificates in DER, the client's own first.
    #[must_use]
    pub fn as_slice(&self) -> &[Bytes] {
        &self.0
    }

    /// What rustls has checked.
    pub(crate) fn checked(chain: &[CertificateDer<'_>]) -> Self {
        Self::new(chain.iter().map(|certificate| Bytes::copy_from_slice(certificate)))
    }
}
