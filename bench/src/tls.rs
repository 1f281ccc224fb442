//! TLS for the servers that run on tokio: by rustls, set up as wireline's own.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The files of the certificate and its key that the command line names behind `tls`.
#[must_use]
pub fn files() -> Option<[String; 2]> {
    let files = crate::behind("tls")?;
    Some([files.first()?.clone(), files.get(1)?.clone()])
}

/// What proves the server's name, if it is to speak TLS.
///
/// # Panics
/// When the files are none of a certificate and its key.
#[must_use]
pub fn acceptor() -> Option<TlsAcceptor> {
    let [certificate, key] = files()?;
    let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they go together");
    Some(Arc::new(config).into())
}

/// As [`serve`](crate::serve), behind a TLS handshake.
pub fn serve<F, S>(acceptor: TlsAcceptor, serve: F)
where
    F: Fn(TlsStream<TcpStream>) -> S + Clone + Send + 'static,
    S: Future<Output = ()> + Send,
{
    crate::serve(move |stream| {
        let (accepting, serve) = (acceptor.accept(stream), serve.clone());
        async move {
            if let Ok(stream) = accepting.await {
                serve(stream).await;
            }
        }
    });
}
