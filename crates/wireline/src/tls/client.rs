//! A client's side: whom it trusts, and who it is itself.

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, KeyLogFile, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};

use super::{
    HTTP_1_1, HTTP_2, algorithms,
    pem::{KeyPair, Source},
    protocol_names, provider,
};
use crate::TlsError;

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

/// Which certificates a client trusts, and the certificate that it has itself. TLS 1.3 and 1.2 (RFC 8446, RFC
/// 5246).
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let tls = wireline::ClientTls::with_ca_file("our-ca.pem")?;
/// let ws = wireline::connect("wss://internal.example/").tls(tls).await?;
/// # Ok(())
/// # }
/// ```
///
/// A client that is given none trusts the system's roots, as they were when the first such client of the
/// process connected. A long-lived program for which they may change makes a new
/// [`with_system_roots`](Self::with_system_roots) now and then.
///
/// # Sessions
///
/// A server's session is resumed when the same `ClientTls`, or a clone of it, connects to that name again (RFC
/// 8446 section 2.2): that saves the certificates on the wire and the work of checking them. Sessions with 256
/// servers are kept, in memory. So make one, and give its clones to all connections. No early data (0-RTT) is
/// sent.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// The sessions over QUIC, whose tickets are no use over TCP.
    #[cfg(feature = "http3")]
    quic_sessions: Resumption,
}

impl ClientTls {
    /// Trusts the system's roots, which are read now.
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
        Self::trusting(roots)
    }

    /// What a client has that is given none: one for the whole process, so that its sessions are resumed.
    pub(crate) fn shared() -> Result<&'static Self, TlsError> {
        static SHARED: OnceLock<ClientTls> = OnceLock::new();
        match SHARED.get() {
            Some(tls) => Ok(tls),
            // A system without roots may have some at the next attempt, so that an error is not kept.
            None => Self::with_system_roots().map(|tls| SHARED.get_or_init(|| tls)),
        }
    }

    /// Trusts the certificates in a PEM file, and no others.
    ///
    /// # Errors
    /// When the file cannot be read, is not PEM, or has no certificate.
    pub fn with_ca_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::trusting(Source::file(path.as_ref()).roots()?)
    }

    /// Trusts the certificates in PEM text, and no others.
    ///
    /// # Errors
    /// As [`with_ca_file`](Self::with_ca_file).
    pub fn with_ca_pem(pem: &[u8]) -> Result<Self, TlsError> {
        Self::trusting(Source::text("certificate", pem).roots()?)
    }

    /// Trusts everyone: any certificate, for any name, expired or not. Whoever is on the way can then be the
    /// server, read all that is sent and change it. It is for trying something out on a network of one's own;
    /// [`with_ca_file`](Self::with_ca_file) with the server's own certificate, if that is self-signed, is as
    /// easy and safe.
    ///
    /// # Errors
    /// When TLS cannot be set up at all.
    pub fn dangerous_any_certificate() -> Result<Self, TlsError> {
        Self::verified_by(Arc::new(AnyCertificate))
    }

    fn trusting(roots: RootCertStore) -> Result<Self, TlsError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        Self::verified_by(verifier.map_err(TlsError::setup)?)
    }

    fn verified_by(verifier: Arc<dyn ServerCertVerifier>) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = protocol_names(&[HTTP_1_1]);
        Ok(Self::of(config))
    }

    /// Proves itself with this certificate chain, the client's own first, and its private key, from PEM files,
    /// to servers that ask for a certificate (RFC 8446 section 4.3.2), whatever authorities they name. The key
    /// is PKCS #8, PKCS #1 or SEC 1, and not encrypted.
    ///
    /// ```no_run
    /// # async fn example() -> wireline::Result<()> {
    /// let tls = wireline::ClientTls::with_system_roots()?.client_certificate_files("me.pem", "me.key")?;
    /// let ws = wireline::connect("wss://example.com/").tls(tls).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A server of TLS 1.3 says only after the handshake that it does not accept it, or wants one where there
    /// is none: that is [`ConnectError::Tls`](crate::ConnectError::Tls), too.
    ///
    /// # Errors
    /// When a file cannot be read or is not PEM, or the key is not the certificate's.
    pub fn client_certificate_files(
        self,
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        self.with_key_pair(&KeyPair::files(cert.as_ref(), key.as_ref()))
    }

    /// As [`client_certificate_files`](Self::client_certificate_files), from PEM text.
    ///
    /// # Errors
    /// As [`client_certificate_files`](Self::client_certificate_files).
    pub fn client_certificate_pem(self, cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        self.with_key_pair(&KeyPair::text(cert, key))
    }

    fn with_key_pair(self, key_pair: &KeyPair) -> Result<Self, TlsError> {
        let mut config = ClientConfig::clone(&self.config);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key_pair.load()?));
        // Those who know it without its certificate, or with another, are not to be reminded.
        config.resumption = Resumption::default();
        Ok(Self::of(config))
    }

    /// Writes the secrets of each connection to the file that the environment variable `SSLKEYLOGFILE` names: see
    /// [`ServerTls::key_log`](crate::ServerTls::key_log). Off by default.
    #[must_use]
    pub fn key_log(mut self) -> Self {
        Arc::make_mut(&mut self.config).key_log = Arc::new(KeyLogFile::new());
        self
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

    fn of(config: ClientConfig) -> Self {
        Self {
            config: Arc::new(config),
            #[cfg(feature = "http3")]
            quic_sessions: Resumption::default(),
        }
    }

    /// For QUIC.
    #[cfg(feature = "http3")]
    pub(crate) fn http3_config(&self) -> ClientConfig {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocol_names(&[crate::http3::ALPN]);
        config.resumption = self.quic_sessions.clone();
        config
    }

    /// Whether it is the same one, not whether it trusts the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// The same for other protocols on top, by their names in ALPN. All that is large in it is shared, and so
    /// are the sessions.
    pub(crate) fn config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocol_names(alpn);
        Arc::new(config)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// Takes every certificate. The server still has to have its key, without which there would be no keys to
/// encrypt by.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
