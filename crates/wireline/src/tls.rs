//! TLS through rustls, with its provider chosen here, so that none has to be installed at run time.

mod client;
mod client_stream;
mod failure;
mod peer_certificates;
mod pem;
mod server;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};

pub use self::{client::ClientTls, peer_certificates::PeerCertificates, server::ServerTls};
pub(crate) use self::{
    client::HttpVersions,
    client_stream::ClientStream,
    failure::{advice, alert, explain_reset, is_about_certificates},
};

/// The names of HTTP's versions in ALPN (RFC 9113 section 3.2, RFC 7301 section 6).
pub(crate) const HTTP_2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How the provider checks signatures.
fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}

/// ALPN's list of these names, the favourite first (RFC 7301 section 3.1).
fn protocol_names(names: &[&[u8]]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.to_vec()).collect()
}
