//! A server's side: its certificates by name, whom it asks for one, sessions that go on, and all that read again
//! under a running server.

mod certificates;
mod client_auth;

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use rustls::{
    KeyLogFile, ServerConfig,
    crypto::ring::Ticketer,
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};

use self::{
    certificates::Certificates,
    client_auth::{ClientAuth, ClientRule},
};
use super::{
    HTTP_1_1, HTTP_2,
    pem::{KeyPair, Source},
    protocol_names, provider,
};
use crate::TlsError;

/// What a server proves its names with, and what it asks of its clients. TLS 1.3 and 1.2 (RFC 8446, RFC 5246).
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let tls = wireline::ServerTls::from_pem_files("cert.pem", "key.pem")?;
/// wireline::Server::new().tls(tls).listen("0.0.0.0:443").await
/// # }
/// ```
///
/// # Several names
///
/// With more than one certificate the client's SNI (RFC 6066 section 3) chooses, by the DNS names in the
/// certificates' subjectAltName: the name itself first, then one with `*` for its first label (RFC 9525 section
/// 6.3). Of several certificates for a name, the first counts whose kind of key the client can check, so that
/// an RSA certificate can stand behind an ECDSA one. A client without SNI (one that asks for an address has
/// none), or with a name that no certificate is for, gets the first certificate that it can check, as of nginx:
/// it is the client that then finds the name to be wrong.
///
/// ```no_run
/// # fn example() -> Result<(), wireline::TlsError> {
/// let tls = wireline::ServerTls::from_pem_files("example.com.pem", "example.com.key")?
///     .and_pem_files("example.org.pem", "example.org.key")?;
/// # Ok(())
/// # }
/// ```
///
/// # Client certificates
///
/// ```no_run
/// use wireline::{Request, Server, ServerTls};
///
/// # async fn example() -> wireline::Result<()> {
/// let tls = ServerTls::from_pem_files("cert.pem", "key.pem")?.client_ca_file("our-ca.pem")?;
/// Server::new()
///     .tls(tls)
///     .on_request(|req: Request| async move {
///         let certificate = req.peer_certificates()[0].clone();
///         println!("a certificate of {} bytes", certificate.len());
///         req.accept().run().await
///     })
///     .listen("0.0.0.0:443")
///     .await
/// # }
/// ```
///
/// # New certificates under a running server
///
/// Clones are one and the same, so that one can be kept to [`reload`](Self::reload) by. What is built on from
/// one, with [`and_pem_files`](Self::and_pem_files) and the like, is another.
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let tls = wireline::ServerTls::from_pem_files("cert.pem", "key.pem")?;
/// let server = wireline::Server::new().tls(tls.clone());
/// tokio::spawn(async move {
///     let mut day = tokio::time::interval(std::time::Duration::from_secs(24 * 60 * 60));
///     loop {
///         day.tick().await;
///         if let Err(error) = tls.reload() {
///             eprintln!("the old certificate stays: {error}");
///         }
///     }
/// });
/// server.listen("0.0.0.0:443").await
/// # }
/// ```
///
/// # Sessions
///
/// A client that comes again can resume its session (RFC 8446 section 2.2, in TLS 1.2 RFC 5077) by a ticket, of
/// which the server keeps nothing but the keys: new ones every six hours, good for twelve. No early data
/// (0-RTT) is taken. The client's certificate comes with the session and is not checked again: one that has
/// expired meanwhile is good until the ticket is not.
#[derive(Clone)]
pub struct ServerTls {
    credentials: Arc<Credentials>,
    client_auth: Arc<ClientAuth>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// A certificate chain, the server's own first, and its private key, from PEM files. The key is PKCS #8,
    /// PKCS #1 or SEC 1, and not encrypted.
    ///
    /// # Errors
    /// When a file cannot be read or is not PEM, or the key is not the certificate's.
    pub fn from_pem_files(cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::build(Setup::new(KeyPair::files(cert.as_ref(), key.as_ref())))
    }

    /// As [`from_pem_files`](Self::from_pem_files), from PEM text.
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files).
    pub fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::build(Setup::new(KeyPair::text(cert, key)))
    }

    /// Has another certificate chain with its key, for [other names](Self#several-names) or another kind of key.
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files).
    pub fn and_pem_files(self, cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        self.changed(|setup| setup.key_pairs.push(KeyPair::files(cert.as_ref(), key.as_ref())))
    }

    /// As [`and_pem_files`](Self::and_pem_files), from PEM text.
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files).
    pub fn and_pem(self, cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        self.changed(|setup| setup.key_pairs.push(KeyPair::text(cert, key)))
    }

    /// Lets in only clients with a certificate that an authority in this PEM file vouches for (RFC 8446 section
    /// 4.3.2), for the use of client authentication if it names uses (RFC 5280 section 4.2.1.12).
    /// [`Request::peer_certificates`](crate::Request::peer_certificates) gives it. Others are refused in the TLS
    /// handshake. Lists of revoked certificates (CRLs) are not asked. Of this and its like the last call counts.
    ///
    /// # Errors
    /// When the file cannot be read, is not PEM, or has no certificate.
    pub fn client_ca_file(self, path: impl AsRef<Path>) -> Result<Self, TlsError> {
        self.changed(|setup| setup.client_ca = Some((Source::file(path.as_ref()), false)))
    }

    /// As [`client_ca_file`](Self::client_ca_file), from PEM text.
    ///
    /// # Errors
    /// As [`client_ca_file`](Self::client_ca_file).
    pub fn client_ca_pem(self, pem: &[u8]) -> Result<Self, TlsError> {
        self.changed(|setup| setup.client_ca = Some((Source::text("client CA", pem), false)))
    }

    /// Asks clients for a certificate, and lets in those that have none, too: the handler decides. One that the
    /// authorities in this PEM file do not vouch for is refused in the TLS handshake all the same.
    ///
    /// # Errors
    /// As [`client_ca_file`](Self::client_ca_file).
    pub fn optional_client_ca_file(self, path: impl AsRef<Path>) -> Result<Self, TlsError> {
        self.changed(|setup| setup.client_ca = Some((Source::file(path.as_ref()), true)))
    }

    /// As [`optional_client_ca_file`](Self::optional_client_ca_file), from PEM text.
    ///
    /// # Errors
    /// As [`client_ca_file`](Self::client_ca_file).
    pub fn optional_client_ca_pem(self, pem: &[u8]) -> Result<Self, TlsError> {
        self.changed(|setup| setup.client_ca = Some((Source::text("client CA", pem), true)))
    }

    /// Writes the secrets of each connection to the file that the environment variable `SSLKEYLOGFILE` names,
    /// for a program such as Wireshark to read the traffic by (RFC 9850). It is for debugging: who has that
    /// file reads everything. The variable is looked at now; without it, nothing is written, and a file that
    /// cannot be written is only logged. Off by default.
    #[must_use]
    pub fn key_log(self) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.key_log = Arc::new(KeyLogFile::new());
        Self { config: Arc::new(config), ..self }
    }

    /// Reads its files again: certificates, keys, client CAs. What was given as text stays as it is. Handshakes
    /// from now on are by what was read, on all listeners that have a clone of this; connections go on as they
    /// are. No session from before is resumed, so that what was withdrawn is gone; only a handshake that is under
    /// way at that moment can still be by what was before, and its session with it.
    ///
    /// It reads files without giving way to other tasks: microseconds on most disks.
    ///
    /// # Errors
    /// As when it was made, and then all is as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let setup = self.credentials.setup();
        self.install(&setup)
    }

    /// Takes over the certificates and client CAs of `other`, for which what [`reload`](Self::reload) says
    /// holds: for certificates that do not come from files.
    ///
    /// # Errors
    /// As when `other` was made, since its files are read again. Then all is as it was.
    pub fn replace_with(&self, other: &Self) -> Result<(), TlsError> {
        let others = other.credentials.setup().clone();
        let mut setup = self.credentials.setup();
        self.install(&others)?;
        *setup = others;
        Ok(())
    }

    fn install(&self, setup: &Setup) -> Result<(), TlsError> {
        let (loaded, rule) = setup.load()?;
        self.client_auth.set(rule);
        self.credentials.set(loaded);
        Ok(())
    }

    fn changed(self, change: impl FnOnce(&mut Setup)) -> Result<Self, TlsError> {
        let mut setup = self.credentials.setup().clone();
        change(&mut setup);
        let key_log = Arc::clone(&self.config.key_log);
        let mut changed = Self::build(setup)?;
        Arc::make_mut(&mut changed.config).key_log = key_log;
        Ok(changed)
    }

    fn build(setup: Setup) -> Result<Self, TlsError> {
        let (loaded, rule) = setup.load()?;
        let credentials =
            Arc::new(Credentials { setup: Mutex::new(setup), loaded: RwLock::new(Arc::new(loaded)) });
        let client_auth = Arc::new(ClientAuth::new(rule));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::setup)?
            .with_client_cert_verifier(Arc::clone(&client_auth) as _)
            .with_cert_resolver(Arc::clone(&credentials) as _);
        config.ticketer = Arc::clone(&credentials) as _;
        // Tickets do without: nothing is kept for a client that never comes back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let plain = Self { credentials, client_auth, config: Arc::new(config) };
        let config = plain.config(&[HTTP_2, HTTP_1_1]);
        Ok(Self { config, ..plain })
    }

    /// For connections of TCP and the like: HTTP/2 and 1.1.
    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.config).into()
    }

    /// The same for other protocols on top, by their names in ALPN. It shares certificates, client CAs and
    /// ticket keys, so that a reload is one for all.
    pub(crate) fn config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = protocol_names(alpn);
        Arc::new(config)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("certificates", &self.credentials.loaded().certificates)
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

/// Where all of it stands.
#[derive(Clone)]
struct Setup {
    /// At least one.
    key_pairs: Vec<KeyPair>,
    /// With whether clients may have no certificate.
    client_ca: Option<(Source, bool)>,
}

impl Setup {
    fn new(key_pair: KeyPair) -> Self {
        Self { key_pairs: vec![key_pair], client_ca: None }
    }

    fn load(&self) -> Result<(Loaded, ClientRule), TlsError> {
        let keys = self.key_pairs.iter().map(KeyPair::load).collect::<Result<_, _>>()?;
        let tickets = Ticketer::new().map_err(TlsError::setup)?;
        let rule = match &self.client_ca {
            Some((authorities, is_optional)) => ClientRule::new(authorities.roots()?, *is_optional)?,
            None => ClientRule::Nobody,
        };
        Ok((Loaded { certificates: Certificates::new(keys), tickets }, rule))
    }
}

/// What a server proves its names with, and the keys of its tickets. rustls asks for both here at each
/// handshake, so that whoever has a configuration has what was read last.
struct Credentials {
    /// Locked as long as it is being read, so that the last one to read is the last one to be heard.
    setup: Mutex<Setup>,
    loaded: RwLock<Arc<Loaded>>,
}

struct Loaded {
    certificates: Certificates,
    tickets: Arc<dyn ProducesTickets>,
}

impl Credentials {
    fn setup(&self) -> MutexGuard<'_, Setup> {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, loaded: Loaded) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.loaded().certificates.choose(hello.server_name(), hello.signature_schemes())
    }
}

impl ProducesTickets for Credentials {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.loaded().tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.loaded().tickets.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.loaded().tickets.decrypt(cipher)
    }
}
