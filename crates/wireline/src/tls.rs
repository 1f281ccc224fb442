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
    client_stream::{Alert, ClientStream},
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

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ClientConnection, ServerConnection, pki_types::ServerName};

    use super::*;

    /// A certificate that vouches for itself, and its key, in PEM.
    fn self_signed() -> (String, String) {
        let made =
            generate_simple_self_signed(["localhost".to_owned()]).expect("the system has random bytes");
        let CertifiedKey { cert, signing_key } = made;
        (cert.pem(), signing_key.serialize_pem())
    }

    /// Shakes hands in memory; what protocol they agree on.
    fn agree(
        server: &Arc<rustls::ServerConfig>,
        client: &Arc<rustls::ClientConfig>,
    ) -> Result<Option<Vec<u8>>, rustls::Error> {
        let name = ServerName::try_from("localhost").expect("it is a name");
        let mut server = ServerConnection::new(Arc::clone(server))?;
        let mut client = ClientConnection::new(Arc::clone(client), name)?;
        while client.is_handshaking() || server.is_handshaking() {
            let (mut sent, mut answer) = (Vec::new(), Vec::new());
            client.write_tls(&mut sent).expect("there is room");
            server.read_tls(&mut &*sent).expect("there is room");
            server.process_new_packets()?;
            server.write_tls(&mut answer).expect("there is room");
            client.read_tls(&mut &*answer).expect("there is room");
            client.process_new_packets()?;
        }
        Ok(server.alpn_protocol().map(<[u8]>::to_vec))
    }

    #[test]
    fn a_configuration_for_another_protocol_has_its_alpn_and_sees_a_reload() {
        let [(cert, key), (new_cert, new_key)] = [self_signed(), self_signed()];
        let server = ServerTls::from_pem(cert.as_bytes(), key.as_bytes()).expect("they go together");
        let config = server.config(&[b"h3"]);
        let trusting = |cert: &str| ClientTls::with_ca_pem(cert.as_bytes()).expect("it is a certificate");
        let (old, new) = (trusting(&cert).config(&[b"h3"]), trusting(&new_cert).config(&[b"h3"]));
        assert_eq!(agree(&config, &old), Ok(Some(b"h3".to_vec())));
        agree(&config, &new).expect_err("it is not there yet");
        let replacement = ServerTls::from_pem(new_cert.as_bytes(), new_key.as_bytes());
        server.replace_with(&replacement.expect("they go together")).expect("it was read before");
        assert_eq!(agree(&config, &new), Ok(Some(b"h3".to_vec())));
        agree(&config, &old).expect_err("it is gone");
    }
}
