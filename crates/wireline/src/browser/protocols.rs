//! The constructor's second argument.

/// Subprotocols to offer, the favourite first: one, or several.
///
/// ```
/// use wireline::browser::Protocols;
///
/// let one: Protocols = "chat".into();
/// let several: Protocols = ["chat.v2", "chat"].into();
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protocols(pub(super) Vec<String>);

impl From<&str> for Protocols {
    fn from(one: &str) -> Self {
        Self(vec![one.to_owned()])
    }
}

impl From<String> for Protocols {
    fn from(one: String) -> Self {
        Self(vec![one])
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Protocols {
    fn from(several: [S; N]) -> Self {
        several.into_iter().collect()
    }
}

impl<S: Into<String>> From<Vec<S>> for Protocols {
    fn from(several: Vec<S>) -> Self {
        several.into_iter().collect()
    }
}

impl<S: AsRef<str>> From<&[S]> for Protocols {
    fn from(several: &[S]) -> Self {
        several.iter().map(AsRef::as_ref).collect()
    }
}

impl<S: Into<String>> FromIterator<S> for Protocols {
    fn from_iter<I: IntoIterator<Item = S>>(several: I) -> Self {
        Self(several.into_iter().map(Into::into).collect())
    }
}
