//! TLS through rustls, with its provider chosen here, so that none has to be installed at run time.

use std::{fmt, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::TlsError;

/// The names of HTTP's versions in ALPN (RFC 9113 section 3.2, RFC 7301 section 6).
pub(crate) const HTTP_2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a server proves its name with.
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let tls = wireline::ServerTls::from_pem_files("cert.pem", "key.pem")?;
/// wireline::Server::new().tls(tls).listen("0.0.0.0:443").await
/// # }
/// ```
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// A certificate chain, the server's own first, and its private key, from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or is not PEM, or the key is not the certificate's.
    pub fn from_pem_files(cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::new(read_certificates(cert.as_ref())?, read_key(key.as_ref())?)
    }

    /// As [`from_pem_files`](Self::from_pem_files), from PEM text.
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files).
    pub fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let certs = parse_certificates("certificate", CertificateDer::pem_slice_iter(cert))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| file_error("key", &error))?;
        Self::new(certs, key)
    }

    fn new(certs: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certs, key)?;
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1_1.to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// For connections with these protocols.
    #[cfg(feature = "http3")]
    pub(crate) fn config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.config).into()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Which versions of HTTP a client speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum HttpVersions {
    #[default]
    Http1,
    Http2,
    #[cfg(feature = "http3")]
    Http3,
    /// What the server chooses.
    Auto,
}

/// Which certificates a client trusts. By default those that the system does.
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let tls = wireline::ClientTls::with_ca_file("our-ca.pem")?;
/// let ws = wireline::connect("wss://internal.example/").tls(tls).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// Trusts the system's roots.
    ///
    /// # Errors
    /// When the system has none.
    pub fn with_system_roots() -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a system root certificate could not be read");
        }
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
        Self::new(roots)
    }

    /// Trusts the certificates in a PEM file, and no others.
    ///
    /// # Errors
    /// When the file cannot be read, is not PEM, or has no certificate.
    pub fn with_ca_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::with_certificates(read_certificates(path.as_ref())?)
    }

    /// Trusts the certificates in PEM text, and no others.
    ///
    /// # Errors
    /// As [`with_ca_file`](Self::with_ca_file).
    pub fn with_ca_pem(pem: &[u8]) -> Result<Self, TlsError> {
        Self::with_certificates(parse_certificates("certificate", CertificateDer::pem_slice_iter(pem))?)
    }

    fn with_certificates(certs: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for cert in certs {
            roots.add(cert)?;
        }
        Self::new(roots)
    }

    fn new(roots: RootCertStore) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// Whether it is the same one, not whether it trusts the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// For a connection that offers these versions of HTTP.
    pub(crate) fn connector(&self, versions: HttpVersions) -> tokio_rustls::TlsConnector {
        match versions {
            HttpVersions::Http1 => Arc::clone(&self.config),
            HttpVersions::Http2 => self.config(&[HTTP_2]),
            #[cfg(feature = "http3")]
            HttpVersions::Http3 => self.config(&[crate::http3::ALPN]),
            HttpVersions::Auto => self.config(&[HTTP_2, HTTP_1_1]),
        }
        .into()
    }

    /// For a connection that offers these protocols.
    pub(crate) fn config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

type PemError = rustls::pki_types::pem::Error;

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let name = path.display().to_string();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| file_error(&name, &error))?;
    parse_certificates(&name, found)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| file_error(&path.display().to_string(), &error))
}

fn parse_certificates(
    name: &str,
    found: impl Iterator<Item = Result<CertificateDer<'static>, PemError>>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| file_error(name, &error))?;
    if certs.is_empty() {
        return Err(TlsError::File { path: name.into(), reason: "no certificate in it".into() });
    }
    Ok(certs)
}

fn file_error(name: &str, error: &PemError) -> TlsError {
    TlsError::File { path: name.into(), reason: error.to_string() }
}
