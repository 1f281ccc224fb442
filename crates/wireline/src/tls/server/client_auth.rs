//! Whether a client has to prove who it is (RFC 8446 section 4.3.2), and who vouches for it.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::super::{algorithms, provider};
use crate::TlsError;

/// Who is asked for a certificate.
pub(super) enum ClientRule {
    Nobody,
    Everyone {
        verifier: Arc<dyn ClientCertVerifier>,
        authorities: Arc<RootCertStore>,
        /// Whether one may have none.
        is_optional: bool,
    },
}

impl ClientRule {
    pub(super) fn new(authorities: RootCertStore, is_optional: bool) -> Result<Self, TlsError> {
        let authorities = Arc::new(authorities);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities), provider())
            .build()
            .map_err(TlsError::setup)?;
        Ok(Self::Everyone { verifier, authorities, is_optional })
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nobody, Self::Nobody) => true,
            (
                Self::Everyone { authorities: ours, is_optional: our_option, .. },
                Self::Everyone { authorities: theirs, is_optional: their_option, .. },
            ) => ours.roots == theirs.roots && our_option == their_option,
            _ => false,
        }
    }
}

/// The rule in force, which can be replaced while rustls asks. It borrows the authorities' names for as long as
/// it has this, so rules that are out of force stay behind: as many as a reload has brought changes of them,
/// not as many as there were reloads.
pub(super) struct ClientAuth(Generation);

struct Generation {
    rule: ClientRule,
    next: OnceLock<Box<Self>>,
}

impl ClientAuth {
    pub(super) fn new(rule: ClientRule) -> Self {
        Self(Generation { rule, next: OnceLock::new() })
    }

    fn last(&self) -> &Generation {
        let mut last = &self.0;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    /// Puts a rule into force. Of two that come at once either counts, so its caller has a lock.
    pub(super) fn set(&self, rule: ClientRule) {
        let last = self.last();
        if !last.rule.is_same(&rule) {
            last.next.get_or_init(|| Box::new(Generation { rule, next: OnceLock::new() }));
        }
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.last().rule {
            ClientRule::Nobody => "Nobody",
            ClientRule::Everyone { is_optional: true, .. } => "Optional",
            ClientRule::Everyone { is_optional: false, .. } => "Required",
        })
    }
}

impl ClientCertVerifier for ClientAuth {
    fn offer_client_auth(&self) -> bool {
        matches!(self.last().rule, ClientRule::Everyone { .. })
    }

    fn client_auth_mandatory(&self) -> bool {
        matches!(self.last().rule, ClientRule::Everyone { is_optional: false, .. })
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match &self.last().rule {
            ClientRule::Nobody => &[],
            ClientRule::Everyone { verifier, .. } => verifier.root_hint_subjects(),
        }
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match &self.last().rule {
            ClientRule::Everyone { verifier, .. } => {
                verifier.verify_client_cert(certificate, intermediates, now)
            }
            // A reload came in between, and nobody vouches for anyone any more.
            ClientRule::Nobody => Err(rustls::CertificateError::UnknownIssuer.into()),
        }
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
