//! Certificates and keys in PEM (RFC 7468), from files or text.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    InconsistentKeys, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
    sign::CertifiedKey,
};

use super::provider;
use crate::TlsError;

/// Where something in PEM stands, to be read now and perhaps again. A key must not get into a log, so that this
/// has no `Debug`.
#[derive(Clone)]
pub(super) enum Source {
    File(PathBuf),
    Text {
        /// What it is called in errors.
        name: &'static str,
        pem: Arc<[u8]>,
    },
}

impl Source {
    pub(super) fn file(path: &Path) -> Self {
        Self::File(path.to_owned())
    }

    pub(super) fn text(name: &'static str, pem: &[u8]) -> Self {
        Self::Text { name, pem: pem.into() }
    }

    /// All certificates in it; none is an error.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found: Result<Vec<_>, _> = match self {
            Self::File(path) => CertificateDer::pem_file_iter(path).and_then(Iterator::collect),
            Self::Text { pem, .. } => CertificateDer::pem_slice_iter(pem).collect(),
        };
        let found = found.map_err(|error| self.unreadable(&error))?;
        if found.is_empty() {
            return Err(self.error("no certificate in it"));
        }
        Ok(found)
    }

    /// The certificates in it, as authorities that are trusted.
    pub(super) fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| {
                self.error(&format!("a certificate in it is none to be trusted: {error}"))
            })?;
        }
        Ok(roots)
    }

    /// The first private key in it.
    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let found = match self {
            Self::File(path) => PrivateKeyDer::from_pem_file(path),
            Self::Text { pem, .. } => PrivateKeyDer::from_pem_slice(pem),
        };
        found.map_err(|error| match error {
            // An encrypted key is none that is looked for.
            PemError::NoItemsFound => {
                self.error("no private key in it (PKCS #8, PKCS #1 or SEC 1, without a passphrase)")
            }
            error => self.unreadable(&error),
        })
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Text { name, .. } => (*name).to_owned(),
        }
    }

    fn unreadable(&self, error: &PemError) -> TlsError {
        self.error(&error.to_string())
    }

    fn error(&self, reason: &str) -> TlsError {
        TlsError::File { path: self.name(), reason: reason.to_owned() }
    }
}

/// Where a certificate chain and its key stand.
#[derive(Clone)]
pub(super) struct KeyPair {
    certificate: Source,
    key: Source,
}

impl KeyPair {
    pub(super) fn files(certificate: &Path, key: &Path) -> Self {
        Self { certificate: Source::file(certificate), key: Source::file(key) }
    }

    pub(super) fn text(certificate: &[u8], key: &[u8]) -> Self {
        Self { certificate: Source::text("certificate", certificate), key: Source::text("key", key) }
    }

    /// Reads both, and sees that they go together.
    pub(super) fn load(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let chain = self.certificate.certificates()?;
        let loaded = CertifiedKey::from_der(chain, self.key.key()?, &provider());
        loaded.map(Arc::new).map_err(|error| TlsError::KeyPair {
            certificate: self.certificate.name(),
            key: self.key.name(),
            reason: match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    "the key is another certificate's".to_owned()
                }
                error => error.to_string(),
            },
        })
    }
}
