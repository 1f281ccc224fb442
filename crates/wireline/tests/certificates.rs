//! Who proves what in TLS: clients with certificates, servers with several, new ones under a running server;
//! sessions that are resumed, secrets that are logged, and what either end says when it is refused.

use std::{
    future::{Future, IntoFuture as _},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, SignatureAlgorithm,
};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned, SupportedProtocolVersion,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use wireline::{
    ClientTls, Connect, ConnectError, PeerCertificates, Request, Server, ServerTls, TlsError, WebSocket,
    connect,
};
use wireline_testkit::{RawPeer, accept_value};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// Who vouches for others.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    /// One with a name of its own.
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("the system has random bytes");
        Self(CertifiedIssuer::self_signed(params, key).expect("it can be signed"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn vouch_for(&self, names: &[&str]) -> Identity {
        self.vouch_for_key(names, &PKCS_ECDSA_P256_SHA256)
    }

    fn vouch_for_key(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Identity {
        let key = KeyPair::generate_for(algorithm).expect("the system has random bytes");
        let names: Vec<_> = names.iter().copied().map(str::to_owned).collect();
        let params = CertificateParams::new(names).expect("they are names");
        let certificate = params.signed_by(&key, &self.0).expect("it can be signed");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// The server's side for `names`.
    fn server(&self, names: &[&str]) -> ServerTls {
        let Identity { certificate, key } = self.vouch_for(names);
        ServerTls::from_pem(certificate.as_bytes(), key.as_bytes()).expect("they go together")
    }

    /// The side of a client that trusts it.
    fn client(&self) -> ClientTls {
        ClientTls::with_ca_pem(self.pem().as_bytes()).expect("it is a certificate")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("it is a certificate");
        roots
    }
}

impl Identity {
    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("it is PEM")
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("it is PEM")
    }

    fn give_to(&self, tls: ClientTls) -> ClientTls {
        let given = tls.client_certificate_pem(self.certificate.as_bytes(), self.key.as_bytes());
        given.expect("they go together")
    }
}

/// Sends the client's chain, each certificate as a message, and then all that comes back.
fn mirror() -> Server {
    Server::new().on_request(|req: Request| async move {
        let chain = req.peer_certificates().to_vec();
        let mut ws = req.accept().await?;
        for certificate in chain {
            ws.send(certificate.to_vec()).await?;
        }
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    })
}

fn listen(server: &Server) -> SocketAddr {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    addr
}

/// How to ask for a connection, by each version of HTTP.
type Ask = fn(Connect) -> Connect;
const VERSIONS: [(&str, Ask); 3] =
    [("HTTP/1.1", |it| it), ("HTTP/2", Connect::http2), ("either", Connect::http_auto)];

async fn open(addr: SocketAddr, tls: ClientTls, ask: Ask) -> Result<WebSocket, ConnectError> {
    let connecting = connect(format!("wss://localhost:{}/", addr.port())).tls(tls);
    soon(ask(connecting).into_future()).await
}

async fn answers(ws: &mut WebSocket) {
    ws.send("still there?").await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("it is open"), Some("still there?".into()));
}

#[track_caller]
fn assert_says(error: &impl ToString, words: &[&str]) {
    let said = error.to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{said:?} should have {words:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_tells_the_certificate_of_a_client_in_full_and_in_a_resumed_session_too() {
    let authority = Authority::new();
    let me = authority.vouch_for(&["me.example"]);
    let server = authority.server(&["localhost"]).client_ca_pem(authority.pem().as_bytes());
    let addr = listen(&mirror().tls(server.expect("it is a certificate")));
    for (version, ask) in VERSIONS {
        let tls = me.give_to(authority.client());
        for attempt in ["a new session", "a resumed one"] {
            let mut ws = open(addr, tls.clone(), ask).await.expect(version);
            let told = soon(ws.recv()).await.expect("it is open").expect("it is open");
            assert!(told.as_bytes()[..] == me.der()[..], "{version}, {attempt}");
            answers(&mut ws).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_or_with_a_strangers_is_told_so_each_time() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.server(&["localhost"]).client_ca_pem(authority.pem().as_bytes());
    let addr = listen(&mirror().tls(server.expect("it is a certificate")));
    let nobody = authority.client();
    let foreigner = stranger.vouch_for(&["me.example"]).give_to(authority.client());
    for (version, ask) in VERSIONS {
        for _ in 0..20 {
            let error = open(addr, nobody.clone(), ask).await.expect_err(version);
            assert_says(&error, &["TLS with localhost", "CertificateRequired", "give one and its key"]);
            assert!(error.is_lasting(), "{error}");
            let error = open(addr, foreigner.clone(), ask).await.expect_err(version);
            assert_says(&error, &["TLS with localhost", "does not accept this client's certificate"]);
            assert!(error.is_lasting(), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_refused_can_say_all_that_it_wanted_before_it_hears_why() {
    let authority = Authority::new();
    let server = authority.server(&["localhost"]).client_ca_pem(authority.pem().as_bytes());
    let addr = listen(&mirror().tls(server.expect("it is a certificate")));
    let peer = tokio::task::spawn_blocking(move || {
        let config = client_config(&authority, &[&TLS13]).with_no_client_auth();
        let mut peer = raw_client(addr, &Arc::new(config), "localhost");
        while peer.conn.is_handshaking() {
            peer.conn.complete_io(&mut peer.sock).expect("to a client it looks well");
        }
        // A socket that was closed in between would answer the first of these with a reset.
        for _ in 0..3 {
            peer.conn.writer().write_all(&RawPeer::request_head("")).expect("there is room");
            peer.conn.write_tls(&mut peer.sock).expect("the server listens");
            std::thread::sleep(Duration::from_millis(50));
        }
        let refusal = peer.read(&mut [0; 1]).expect_err("it has no certificate");
        assert_says(&refusal, &["CertificateRequired"]);
    });
    soon(peer).await.expect("the peer is content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_optional_a_client_may_have_no_certificate_but_not_a_strangers() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let me = authority.vouch_for(&["me.example"]);
    let server = authority.server(&["localhost"]).optional_client_ca_pem(authority.pem().as_bytes());
    let addr = listen(&mirror().tls(server.expect("it is a certificate")));
    for (version, ask) in VERSIONS {
        let mut nobody = open(addr, authority.client(), ask).await.expect(version);
        answers(&mut nobody).await;
        let mut known = open(addr, me.give_to(authority.client()), ask).await.expect(version);
        let told = soon(known.recv()).await.expect("it is open").expect("it is open");
        assert!(told.as_bytes()[..] == me.der()[..], "{version}");
        let foreigner = stranger.vouch_for(&["me.example"]).give_to(authority.client());
        let error = open(addr, foreigner, ask).await.expect_err(version);
        assert!(matches!(error, ConnectError::Tls { .. }), "{version}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_request_has_the_clients_certificate_among_its_extensions() {
    let authority = Authority::new();
    let me = authority.vouch_for(&["me.example"]);
    let tls = authority.server(&["localhost"]).optional_client_ca_pem(authority.pem().as_bytes());
    let server = Server::new().tls(tls.expect("it is a certificate")).on_http(|request| async move {
        let chain = request.extensions().get::<PeerCertificates>().cloned();
        Response::new(chain.map_or(Bytes::from("none"), |chain| chain.as_slice()[0].clone()))
    });
    let addr = listen(&server);
    let known = client_config(&authority, &[&TLS13, &TLS12])
        .with_client_auth_cert(vec![me.der()], me.key())
        .expect("they go together");
    let nobody = client_config(&authority, &[&TLS13, &TLS12]).with_no_client_auth();
    let ask = move |config| {
        let mut peer = raw_client(addr, &Arc::new(config), "localhost");
        peer.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut response = Vec::new();
        peer.read_to_end(&mut response).expect("it ends");
        response
    };
    let [known, nobody] =
        soon(tokio::task::spawn_blocking(move || [ask(known), ask(nobody)])).await.expect("none");
    assert!(known.ends_with(&me.der()), "{} bytes", known.len());
    assert!(nobody.ends_with(b"\r\n\r\nnone"), "{}", String::from_utf8_lossy(&nobody));
}

/// A server of rustls alone whose handshakes fail with these words, and which then closes the socket at once.
fn curt_server(
    config: Arc<ServerConfig>,
    clients: usize,
    words: &'static str,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let server = std::thread::spawn(move || {
        for _ in 0..clients {
            let (mut stream, _) = listener.accept().expect("a client connects");
            let mut session = ServerConnection::new(Arc::clone(&config)).expect("it is set up");
            let failed = loop {
                match session.complete_io(&mut stream) {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_says(&failed, &[words]);
        }
    });
    (addr, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_servers_that_want_a_certificate_are_understood_in_either_version_of_tls() {
    const CLIENTS: usize = 60;
    let authority = Authority::new();
    let identity = authority.vouch_for(&["localhost"]);
    for version in [&TLS13, &TLS12] {
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("the provider has it")
            .with_client_cert_verifier(verifier.build().expect("there is an authority"))
            .with_single_cert(vec![identity.der()], identity.key());
        let mut config = config.expect("they go together");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (addr, server) = curt_server(Arc::new(config), CLIENTS, "no certificates");
        for client in 0..CLIENTS {
            let (_, ask) = VERSIONS[client % VERSIONS.len()];
            let error = open(addr, authority.client(), ask).await.expect_err("it has none");
            // In TLS 1.3 the server's reset can overtake its alert.
            assert_says(&error, &["TLS with localhost", "CertificateRequired", "give one and its key"]);
        }
        soon(tokio::task::spawn_blocking(|| server.join())).await.expect("none").expect("it is content");
    }
}

fn client_config(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    client_config_of(authority, versions, ring::default_provider())
}

fn client_config_of(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    provider: CryptoProvider,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("the provider has them")
        .with_root_certificates(authority.roots())
}

fn raw_client(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(name.to_owned()).expect("it is a name");
    let session = ClientConnection::new(Arc::clone(config), name).expect("it is set up");
    let stream = TcpStream::connect(addr).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket can be set up");
    StreamOwned::new(session, stream)
}

/// What a raw client learns of a server: how the handshake went, and the server's certificate.
fn visit(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> (HandshakeKind, CertificateDer<'static>) {
    let mut peer = raw_client(addr, config, name);
    peer.write_all(&RawPeer::request_head("")).expect("the server reads");
    // Tickets come before the response.
    read_head(&mut peer);
    let kind = peer.conn.handshake_kind().expect("it is over");
    let chain = peer.conn.peer_certificates().expect("it has one");
    (kind, chain[0].clone().into_owned())
}

fn read_head(peer: &mut impl std::io::Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        peer.read_exact(&mut byte).expect("a head comes");
        head.extend(byte);
    }
    String::from_utf8(head).expect("it is text")
}

/// What the client says to a server that is asked for `name`.
async fn asks_for(addr: SocketAddr, tls: &ClientTls, name: &str) -> Result<(), String> {
    let stream = tokio::net::TcpStream::connect(addr).await.expect("the server listens");
    let connecting = connect(format!("wss://{name}/")).tls(tls.clone()).over(stream);
    let mut ws = soon(connecting.into_future()).await.map_err(|error| error.to_string())?;
    answers(&mut ws).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let authority = Authority::new();
    let default = authority.server(&["first.example", "127.0.0.1"]);
    let tls = [&["a.example", "b.example"][..], &["*.b.example"], &["x.b.example"]].into_iter().fold(
        default,
        |tls, names| {
            let Identity { certificate, key } = authority.vouch_for(names);
            tls.and_pem(certificate.as_bytes(), key.as_bytes()).expect("they go together")
        },
    );
    let addr = listen(&mirror().tls(tls));
    let client = authority.client();
    // The client itself sees that the certificate is for the name.
    for name in
        ["first.example", "a.example", "b.example", "A.Example", "w.b.example", "x.b.example", "127.0.0.1"]
    {
        asks_for(addr, &client, name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["c.example", "v.w.b.example", "example", "localhost"] {
        let error = asks_for(addr, &client, name).await.expect_err("no certificate is for it");
        assert_says(&error, &["not valid for name", name, "first.example"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_certificates_for_one_name_a_client_gets_the_first_that_it_can_check() {
    static ECDSA: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
        all: &[webpki::ring::ECDSA_P256_SHA256],
        mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::ring::ECDSA_P256_SHA256])],
    };
    let authority = Authority::new();
    let modern = authority.vouch_for_key(&["localhost"], &PKCS_ED25519);
    let common = authority.vouch_for(&["localhost"]);
    let tls = ServerTls::from_pem(modern.certificate.as_bytes(), modern.key.as_bytes())
        .and_then(|tls| tls.and_pem(common.certificate.as_bytes(), common.key.as_bytes()));
    let addr = listen(&mirror().tls(tls.expect("they go together")));
    let (any, old) = tokio::task::spawn_blocking(move || {
        let any = client_config(&authority, &[&TLS13]).with_no_client_auth();
        let provider =
            CryptoProvider { signature_verification_algorithms: ECDSA, ..ring::default_provider() };
        let old = client_config_of(&authority, &[&TLS13], provider).with_no_client_auth();
        (visit(addr, &Arc::new(any), "localhost").1, visit(addr, &Arc::new(old), "localhost").1)
    })
    .await
    .expect("the peers are content");
    assert_eq!(any, modern.der());
    assert_eq!(old, common.der());
}

/// A directory for one test's files, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wireline-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("there is room");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).expect("there is room");
        path
    }

    fn write_identity(&self, identity: &Identity) -> (PathBuf, PathBuf) {
        (self.write("cert.pem", &identity.certificate), self.write("key.pem", &identity.key))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_is_for_new_handshakes_and_a_bad_one_changes_nothing() {
    let directory = Directory::new("reload");
    let (old, new) = (Authority::new(), Authority::new());
    let (cert, key) = directory.write_identity(&old.vouch_for(&["localhost"]));
    let tls = ServerTls::from_pem_files(&cert, &key).expect("they go together");
    let addr = listen(&mirror().tls(tls.clone()));
    let (old_client, new_client) = (old.client(), new.client());
    let mut connections = Vec::new();
    for (version, ask) in VERSIONS {
        connections.push(open(addr, old_client.clone(), ask).await.expect(version));
        open(addr, new_client.clone(), ask).await.expect_err("it is not there yet");
    }

    directory.write_identity(&new.vouch_for(&["localhost"]));
    tls.reload().expect("they go together");
    for (version, ask) in VERSIONS {
        connections.push(open(addr, new_client.clone(), ask).await.expect(version));
        // Not even the session of before is left.
        open(addr, old_client.clone(), ask).await.expect_err("it is gone");
    }

    let stranger = new.vouch_for(&["localhost"]);
    for (what, text, words) in [
        (&key, &*stranger.key, &["cert.pem", "key.pem", "another certificate's"][..]),
        (&key, "", &["key.pem", "no private key"]),
        (&cert, "-----BEGIN CERTIFICATE-----\n", &["cert.pem"]),
        (&cert, "", &["cert.pem", "no certificate"]),
    ] {
        std::fs::write(what, text).expect("there is room");
        assert_says(&tls.reload().expect_err("it cannot be used"), words);
        for (version, ask) in VERSIONS {
            open(addr, new_client.clone(), ask).await.expect(version);
        }
    }
    std::fs::remove_file(&cert).expect("it is there");
    assert_says(&tls.reload().expect_err("there is none"), &["cert.pem"]);
    for ws in &mut connections {
        answers(ws).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_who_vouches_for_clients_and_ends_the_sessions_of_before() {
    let directory = Directory::new("client-ca");
    let (authority, new) = (Authority::new(), Authority::new());
    let ca = directory.write("ca.pem", &authority.pem());
    let tls = authority.server(&["localhost"]).client_ca_file(&ca).expect("it is a certificate");
    let addr = listen(&mirror().tls(tls.clone()));
    let old_client = authority.vouch_for(&["me.example"]).give_to(authority.client());
    let new_client = new.vouch_for(&["me.example"]).give_to(authority.client());
    for _ in 0..3 {
        open(addr, old_client.clone(), |it| it).await.expect("it is known");
        open(addr, new_client.clone(), |it| it).await.expect_err("it is not known yet");
    }
    directory.write("ca.pem", &new.pem());
    tls.reload().expect("it is a certificate");
    for _ in 0..3 {
        open(addr, new_client.clone(), |it| it).await.expect("it is known now");
        let error = open(addr, old_client.clone(), |it| it).await.expect_err("it is not known any more");
        assert_says(&error, &["does not accept this client's certificate"]);
    }
    // And one that is built on from it goes its own way.
    let other = tls.clone().and_pem_files(directory.file("none"), directory.file("none"));
    assert_says(&other.expect_err("there is none"), &["none"]);
    open(addr, new_client, |it| it).await.expect("it is as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_do_not_come_from_files_can_be_replaced_too() {
    let (old, new) = (Authority::new(), Authority::new());
    let tls = old.server(&["localhost"]);
    let addr = listen(&mirror().tls(tls.clone()));
    let mut ws = open(addr, old.client(), |it| it).await.expect("it is trusted");
    let replacement = new.server(&["localhost"]).client_ca_pem(new.pem().as_bytes());
    tls.replace_with(&replacement.expect("it is a certificate")).expect("it can be used");
    tls.reload().expect("there is nothing to read");
    let error = open(addr, new.client(), |it| it).await.expect_err("it wants a certificate now");
    assert_says(&error, &["CertificateRequired"]);
    let me = new.vouch_for(&["me.example"]).give_to(new.client());
    open(addr, me, |it| it).await.expect("it has one");
    answers(&mut ws).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_resumes_the_sessions_of_who_comes_again_until_a_reload() {
    let authority = Authority::new();
    let tls = authority.server(&["localhost"]);
    let addr = listen(&mirror().tls(tls.clone()));
    tokio::task::spawn_blocking(move || {
        for version in [&TLS13, &TLS12] {
            let config = Arc::new(client_config(&authority, &[version]).with_no_client_auth());
            assert_eq!(visit(addr, &config, "localhost").0, HandshakeKind::Full);
            for _ in 0..3 {
                assert_eq!(visit(addr, &config, "localhost").0, HandshakeKind::Resumed, "{version:?}");
            }
            tls.reload().expect("there is nothing to read");
            assert_eq!(visit(addr, &config, "localhost").0, HandshakeKind::Full, "{version:?}");
            assert_eq!(visit(addr, &config, "localhost").0, HandshakeKind::Resumed, "{version:?}");
        }
    })
    .await
    .expect("the peers are content");
}

/// A server of rustls alone that agrees to WebSockets, and tells how each handshake went.
fn raw_server(config: ServerConfig) -> (SocketAddr, mpsc::Receiver<HandshakeKind>) {
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let (kinds, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let session = ServerConnection::new(Arc::clone(&config)).expect("it is set up");
            let mut peer = StreamOwned::new(session, stream.expect("a client connects"));
            let head = read_head(&mut peer);
            let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
            let accept = accept_value(key.expect("there is a key"));
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            peer.write_all(answer.as_bytes()).expect("the client reads");
            if kinds.send(peer.conn.handshake_kind().expect("it is over")).is_err() {
                return;
            }
        }
    });
    (addr, told)
}

fn raw_server_config(identity: &Identity, version: &'static SupportedProtocolVersion) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("the provider has it")
        .with_no_client_auth()
        .with_single_cert(vec![identity.der()], identity.key())
        .expect("they go together")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_resumes_its_sessions_whatever_versions_of_http_it_offers() {
    let authority = Authority::new();
    let identity = authority.vouch_for(&["localhost"]);
    for version in [&TLS13, &TLS12] {
        let (addr, kinds) = raw_server(raw_server_config(&identity, version));
        let tls = authority.client();
        for (ask, kind) in [
            (VERSIONS[0].1, HandshakeKind::Full),
            (VERSIONS[0].1, HandshakeKind::Resumed),
            (VERSIONS[2].1, HandshakeKind::Resumed),
            (VERSIONS[0].1, HandshakeKind::Resumed),
        ] {
            open(addr, tls.clone(), ask).await.expect("it is trusted");
            assert_eq!(kinds.recv().expect("it was served"), kind, "{version:?}");
        }
        open(addr, authority.client(), |it| it).await.expect("it is trusted");
        assert_eq!(kinds.recv().expect("it was served"), HandshakeKind::Full, "of another client");
        let me = authority.vouch_for(&["me.example"]).give_to(tls);
        open(addr, me, |it| it).await.expect("it is trusted");
        assert_eq!(
            kinds.recv().expect("it was served"),
            HandshakeKind::Full,
            "with a certificate of its own"
        );
    }
}

/// What a process of its own is to do, and where it connects to.
const CHILDS_TASK: &str = "WIRELINE_TEST_TASK";

/// Some things come from the environment, which a test must not change in its own process.
#[tokio::main(flavor = "current_thread")]
async fn run_the_task_of_a_child_process() {
    match &*std::env::var(CHILDS_TASK).expect("the parent names a task") {
        "key log" => log_keys(true).await,
        "no key log" => log_keys(false).await,
        url => {
            for _ in 0..3 {
                soon(connect(url).into_future()).await.expect("the system's roots are the test's");
            }
        }
    }
}

/// Both ends of a connection, with a key log or without.
async fn log_keys(is_wanted: bool) {
    let authority = Authority::new();
    let (mut server, mut client) = (authority.server(&["localhost"]), authority.client());
    if is_wanted {
        (server, client) = (server.key_log(), client.key_log());
    }
    let addr = listen(&mirror().tls(server));
    let mut ws = open(addr, client, |it| it).await.expect("it is trusted");
    answers(&mut ws).await;
}

#[test]
#[ignore = "what a child process of the tests below does"]
fn the_task_of_a_child_process() {
    run_the_task_of_a_child_process();
}

async fn run_in_a_process_of_its_own(task: &str, variable: &str, value: &Path) {
    let mut child = Command::new(std::env::current_exe().expect("this binary has a path"));
    child
        .args(["--ignored", "--exact", "the_task_of_a_child_process", "--nocapture"])
        .env_remove("SSL_CERT_DIR")
        .env(CHILDS_TASK, task)
        .env(variable, value);
    let ended = tokio::task::spawn_blocking(move || child.output());
    let output = soon(ended).await.expect("no panic").expect("this binary runs again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_given_nothing_read_the_roots_once_and_resume_each_others_sessions() {
    let directory = Directory::new("roots");
    let authority = Authority::new();
    let identity = authority.vouch_for(&["localhost"]);
    let (addr, kinds) = raw_server(raw_server_config(&identity, &TLS13));
    let roots = directory.write("roots.pem", &authority.pem());
    run_in_a_process_of_its_own(&format!("wss://localhost:{}/", addr.port()), "SSL_CERT_FILE", &roots).await;
    let kinds: Vec<_> = kinds.try_iter().collect();
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_logged_by_either_end_that_wants_it_and_by_no_other() {
    let directory = Directory::new("key-log");
    let log = directory.file("keys.log");
    run_in_a_process_of_its_own("no key log", "SSLKEYLOGFILE", &log).await;
    assert!(!log.exists(), "nobody asked for it");
    run_in_a_process_of_its_own("key log", "SSLKEYLOGFILE", &log).await;
    let logged = std::fs::read_to_string(&log).expect("it is there");
    // Both ends derive the same secret of the same connection.
    let secrets = logged.lines().filter(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 "));
    let secrets: Vec<_> = secrets.collect();
    assert!(secrets.len() == 2 && secrets[0] == secrets[1], "{logged}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_trusts_any_certificate_still_wants_its_key() {
    let authority = Authority::new();
    let addr = listen(&mirror().tls(authority.server(&["other.example"])));
    let error = open(addr, Authority::new().client(), |it| it).await.expect_err("nobody vouches for it");
    assert_says(&error, &["UnknownIssuer", "give a CA file"]);
    let anyone = ClientTls::dangerous_any_certificate().expect("TLS is there");
    for (version, ask) in VERSIONS {
        let mut ws = open(addr, anyone.clone(), ask).await.expect(version);
        answers(&mut ws).await;
    }
    let (identity, thief) = (authority.vouch_for(&["localhost"]), authority.vouch_for(&["localhost"]));
    let key = ring::sign::any_supported_type(&thief.key()).expect("it is a key");
    let stolen = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![identity.der()], key)));
    for version in [&TLS13, &TLS12] {
        let mut config = raw_server_config(&identity, version);
        config.cert_resolver = Arc::clone(&stolen) as _;
        let (addr, server) = curt_server(Arc::new(config), 1, "received fatal alert: DecryptError");
        let error = open(addr, anyone.clone(), |it| it).await.expect_err("it has not got the key");
        assert_says(&error, &["TLS with localhost", "BadSignature"]);
        soon(tokio::task::spawn_blocking(|| server.join())).await.expect("none").expect("it is content");
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let directory = Directory::new("named");
    let authority = Authority::new();
    let (one, other) = (authority.vouch_for(&["localhost"]), authority.vouch_for(&["localhost"]));
    let (cert, key) = directory.write_identity(&one);
    let other_key = directory.write("other.pem", &other.key);
    let empty = directory.write("empty.pem", "");
    let failed = [
        ServerTls::from_pem_files(&cert, &other_key).expect_err("it is another's"),
        ClientTls::with_ca_file(&cert)
            .and_then(|tls| tls.client_certificate_files(&cert, &other_key))
            .expect_err("it is another's"),
    ];
    for error in failed {
        assert_says(&error, &["cert.pem", "other.pem", "another certificate's"]);
        assert!(matches!(error, TlsError::KeyPair { .. }), "{error}");
    }
    let tls = ServerTls::from_pem_files(&cert, &key).expect("they go together");
    for (error, words) in [
        (ServerTls::from_pem_files(&empty, &key).expect_err("it is empty"), &["empty.pem", "no certificate"]),
        (
            ServerTls::from_pem_files(&cert, &empty).expect_err("it is empty"),
            &["empty.pem", "no private key"],
        ),
        (tls.clone().client_ca_file(&empty).expect_err("it is empty"), &["empty.pem", "no certificate"]),
        (tls.optional_client_ca_pem(b"").expect_err("it is empty"), &["client CA", "no certificate"]),
        (ClientTls::with_ca_pem(b"").expect_err("it is empty"), &["certificate", "no certificate"]),
    ] {
        assert_says(&error, words);
        assert!(matches!(error, TlsError::File { .. }), "{error}");
    }
    assert_says(&ServerTls::from_pem(b"", b"").expect_err("it is empty"), &["no certificate"]);
    let shown = format!("{:?}", authority.server(&["localhost", "a.example"]));
    assert_says(&shown, &["localhost", "a.example", "Nobody"]);
    assert!(!shown.contains("PRIVATE"), "{shown}");
}
