//! Reading header fields that the handshake depends on.

use http::{HeaderMap, HeaderName};

/// A field that must be there exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Single<'h> {
    Missing,
    Repeated,
    Value(&'h [u8]),
}

pub(super) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Single<'h> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Single::Missing,
        (Some(value), None) => Single::Value(value.as_bytes().trim_ascii()),
        (Some(_), Some(_)) => Single::Repeated,
    }
}

/// Whether a comma-separated field names `token`, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| items(value.as_bytes()))
        .any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// The items of a comma-separated field value.
pub(super) fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether this is a `token` of RFC 9110 section 5.6.2: what a subprotocol must be.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|byte| {
            matches!(byte,
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
        | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
        })
}
