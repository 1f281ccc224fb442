//! Which certificate a client gets: by the name that it asks for.

use std::{collections::HashMap, fmt, sync::Arc};

use rustls::{SignatureScheme, sign::CertifiedKey};
use webpki::EndEntityCert;

/// A server's certificates, in the order in which they were given.
pub(super) struct Certificates {
    all: Vec<Arc<CertifiedKey>>,
    /// By the DNS names in their subjectAltName, in lower case; those with a wildcard as they are written.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Certificates {
    pub(super) fn new(all: Vec<Arc<CertifiedKey>>) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for key in &all {
            for name in names(key) {
                by_name.entry(name).or_default().push(Arc::clone(key));
            }
        }
        Self { all, by_name }
    }

    /// Of those for `name`, or of all if there is none, the first that the client can check; the first if it
    /// can check none, which rustls then says.
    pub(super) fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let candidates = name.and_then(|name| self.with_name(name)).unwrap_or(&self.all);
        let checkable = candidates.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        checkable.or(candidates.first()).cloned()
    }

    fn with_name(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| {
            // A wildcard stands for one whole label, the first (RFC 9525 section 6.3).
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|key| names(key))).finish()
    }
}

/// The DNS names that a certificate is for. They only choose among one's own certificates: whether one is good
/// for a name is the client's to find out.
fn names(key: &CertifiedKey) -> Vec<String> {
    let parsed = key.cert.first().and_then(|certificate| EndEntityCert::try_from(certificate).ok());
    let Some(parsed) = parsed else { return Vec::new() };
    let mut names: Vec<_> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
    names.sort();
    names.dedup();
    names
}
