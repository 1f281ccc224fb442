//! Makes a key and a certificate for this machine's address that it signs itself, in the directory that the
//! command line names: `certificate.pem` and `key.pem`.

use std::{error::Error, fs, path::PathBuf};

use rcgen::{CertifiedKey, generate_simple_self_signed};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(std::env::args().nth(1).ok_or("the argument: a directory")?);
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("certificate.pem"), cert.pem())?;
    fs::write(directory.join("key.pem"), signing_key.serialize_pem())?;
    Ok(())
}
