//! What went wrong in TLS, whose fault it is, and what to do.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// The transport's error in what HTTP made of it.
fn of_transport<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

pub(super) fn in_io(error: &io::Error) -> Option<&rustls::Error> {
    let wrapped: &(dyn Error + 'static) = error.get_ref()?;
    wrapped.downcast_ref()
}

/// The alert with which the peer ended TLS (RFC 8446 section 6.2), if that is why HTTP failed.
pub(crate) fn alert(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let found = in_io(of_transport(error)?)?;
    matches!(found, rustls::Error::AlertReceived(_))
        .then(|| io::Error::new(io::ErrorKind::InvalidData, found.clone()))
}

/// A reset in the place of an answer, which may be all that comes of an alert.
#[derive(Debug, thiserror::Error)]
#[error("{0}. A server may refuse so a client that has not got the certificate that it wants")]
struct Reset(#[source] Box<dyn Error + Send + Sync>);

/// Says of a reset what may be behind it.
pub(crate) fn explain_reset(error: Box<dyn Error + Send + Sync>) -> Box<dyn Error + Send + Sync> {
    let is_reset = of_transport(&*error).is_some_and(|error| {
        matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    });
    if is_reset { Box::new(Reset(error)) } else { error }
}

/// Whether a certificate is at fault, at this end or the other: it will be so again.
pub(crate) fn is_about_certificates(error: &io::Error) -> bool {
    match in_io(error) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => true,
        Some(rustls::Error::AlertReceived(alert)) => refuses_certificate(*alert),
        _ => false,
    }
}

/// Whether the peer says by it that it has not got the certificate that it wants.
fn refuses_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::NoCertificate
    )
}

/// What a client can do about it: to be put behind the error, empty where that says enough.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match in_io(error) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ". The authority that has signed it is not trusted here: give a CA file if it should be"
        }
        Some(rustls::Error::AlertReceived(alert)) => advice_on(*alert),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            ". The server does not speak TLS on this port"
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            ". The server hung up: perhaps it does not speak TLS on this port"
        }
        _ => "",
    }
}

fn advice_on(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            ". The server lets in only clients that have a certificate: give one and its key"
        }
        // What some servers say to a client without a certificate in TLS 1.2 (RFC 5246 section 7.4.6).
        AlertDescription::HandshakeFailure => {
            ". The server wants a client certificate, or shares no version, cipher or signature with this end"
        }
        AlertDescription::UnrecognisedName => ". The server has no certificate for this name",
        AlertDescription::NoApplicationProtocol => ". The server does not speak this version of HTTP",
        alert if refuses_certificate(alert) => ". The server does not accept this client's certificate",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alerted(alert: AlertDescription) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert))
    }

    #[test]
    fn an_alert_is_found_however_deep_it_is_wrapped() {
        #[derive(Debug, thiserror::Error)]
        #[error("somebody's")]
        struct Wrapped(#[source] io::Error);

        let found = alert(&Wrapped(alerted(AlertDescription::CertificateRequired))).expect("it is there");
        assert!(is_about_certificates(&found), "{found}");
        assert!(advice(&found).contains("certificate"));
        assert!(alert(&Wrapped(io::ErrorKind::ConnectionReset.into())).is_none());
    }

    #[test]
    fn of_a_reset_and_nothing_else_it_is_said_what_may_be_behind_it() {
        let explain = |kind: io::ErrorKind| explain_reset(Box::new(io::Error::from(kind))).to_string();
        assert!(explain(io::ErrorKind::ConnectionReset).contains("the certificate that it wants"));
        assert!(!explain(io::ErrorKind::UnexpectedEof).contains("certificate"));
    }

    #[test]
    fn only_alerts_about_certificates_will_come_again() {
        assert!(is_about_certificates(&alerted(AlertDescription::UnknownCA)));
        assert!(!is_about_certificates(&alerted(AlertDescription::InternalError)));
        assert!(!is_about_certificates(&io::ErrorKind::UnexpectedEof.into()));
    }
}
