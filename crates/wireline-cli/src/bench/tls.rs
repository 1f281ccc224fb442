//! TLS 1.3 between a connection's socket and its frames.
//!
//! Every server gets the same cipher suite, the one that RFC 8446 section 9.1 has all of them know: what they
//! would choose differs, and a comparison is to be one of servers.

use std::{
    io::{self, BufRead as _, IoSlice, Write},
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::TLS13,
};

use super::fault::Fault;

/// What every connection speaks, for the report.
pub(super) const VERSION: &str = "TLS 1.3, TLS_AES_128_GCM_SHA256";

/// Whom the load trusts, and who the server must prove to be.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl Trust {
    /// Trusts the certificates in the PEM file `ca`, and no others, to vouch for `host`.
    pub(super) fn new(ca: &Path, host: &str) -> Result<Self, String> {
        let failed = |error: &dyn ToString| format!("{}: {}", ca.display(), error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| failed(&error))? {
            let certificate = certificate.map_err(|error| failed(&error))?;
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
        let provider = CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
            ..ring::default_provider()
        };
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
        Ok(Self { config: config.into(), server })
    }
}

/// One connection's keys, and what of its records is on the way.
#[derive(Debug)]
pub(super) struct Session {
    connection: ClientConnection,
}

impl Session {
    /// A session whose handshake begins with the first write.
    pub(super) fn new(trust: &Trust) -> Result<Self, Fault> {
        let connection = ClientConnection::new(Arc::clone(&trust.config), trust.server.clone())?;
        Ok(Self { connection })
    }

    /// Gives what `records`, cut anywhere, say to `take`, in pieces.
    pub(super) fn open(
        &mut self,
        mut records: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        // After the server's close_notify nothing is read any more.
        while !records.is_empty() && self.connection.read_tls(&mut records)? > 0 {
            self.connection.process_new_packets()?;
            let mut reader = self.connection.reader();
            loop {
                let taken = match reader.fill_buf() {
                    Ok([]) => return Ok(()),
                    Ok(bytes) => {
                        take(bytes)?;
                        bytes.len()
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                reader.consume(taken);
            }
        }
        Ok(())
    }

    /// Sends `pieces` in records over `socket`; returns how many bytes of them it took, all of them unless the
    /// socket is full.
    pub(super) fn write(
        &mut self,
        socket: &mut impl Write,
        mut pieces: &mut [IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut taken = 0;
        while self.flush(socket)? && !pieces.is_empty() {
            let count = self.connection.writer().write_vectored(pieces)?;
            if count == 0 {
                break; // What can be kept until the handshake is through has a limit.
            }
            taken += count;
            IoSlice::advance_slices(&mut pieces, count);
        }
        if taken == 0 && !pieces.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Sends what is on the way; false if the socket is full.
    pub(super) fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::SocketAddr, path::PathBuf, thread, time::Duration};

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use wireline::{Config, Request, Server, ServerTls};

    use super::super::{
        load::{Load, Work},
        payload::Payload,
        target::Target,
    };
    use super::*;

    /// An echo server with a certificate for this machine's address, which it wrote to a file.
    fn serve(name: &str) -> (SocketAddr, PathBuf) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
        let ca = std::env::temp_dir().join(format!("wireline-load-{name}-{}.pem", std::process::id()));
        fs::write(&ca, cert.pem()).unwrap();
        let tls = ServerTls::from_pem(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes()).unwrap();
        let server = Server::new().tls(tls).config(Config::server().max_message_size(16 << 20));
        let server = server.on_request(|req: Request| async move {
            let mut ws = req.accept().await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { server.bind("127.0.0.1:0") }).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || runtime.block_on(listener.serve()));
        (address, ca)
    }

    fn load(address: SocketAddr, ca: &Path, payload: Payload) -> Load {
        let target = Target::parse(&format!("wss://{address}/")).unwrap().trusting(Some(ca)).unwrap();
        Load::new(target, address, Work::Echo { in_flight: 3 }, payload).unwrap()
    }

    #[test]
    fn messages_of_all_sizes_come_back_unchanged() {
        let (address, ca) = serve("sizes");
        for len_bytes in [0, 20, 16_384, 1_000_000] {
            let mut load = load(address, &ca, Payload::text(len_bytes));
            load.open(3).unwrap();
            load.begin();
            load.work_until(std::time::Instant::now() + Duration::from_millis(200)).unwrap();
            let unanswered = load.drain().unwrap();
            load.close_all().unwrap();
            assert_eq!((unanswered, &load.tally.first_fault), (0, &None), "{len_bytes} bytes");
            assert!(
                load.tally.messages >= 9 && load.tally.closed == 3,
                "{len_bytes} bytes: {:?}",
                load.tally
            );
        }
        fs::remove_file(ca).unwrap();
    }

    #[test]
    fn a_server_whose_certificate_is_not_trusted_is_refused() {
        let (address, ca) = serve("server");
        let (_, other_ca) = serve("other");
        let error = load(address, &other_ca, Payload::text(20)).open(1).unwrap_err();
        assert!(error.contains("TLS failed"), "{error}");
        fs::remove_file(ca).unwrap();
        fs::remove_file(other_ca).unwrap();
    }
}
