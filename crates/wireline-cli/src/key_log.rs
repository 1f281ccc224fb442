//! `SSLKEYLOGFILE`, which this program honours as browsers and curl do.

use std::env;

/// Whether the secrets of TLS connections are to be written to a file; says so to the user, who may not have
/// set it.
pub(crate) fn is_wanted() -> bool {
    let file = env::var_os("SSLKEYLOGFILE").filter(|file| !file.is_empty());
    if let Some(file) = &file {
        eprintln!("TLS secrets go to {} (SSLKEYLOGFILE): who has it can read all of this", file.display());
    }
    file.is_some()
}
