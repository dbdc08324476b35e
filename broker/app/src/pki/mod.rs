//! A PKI in files, for those who have no other: CAs, certificates for servers and devices, signed requests,
//! revocation lists; and what is to be said of certificates that others made.
//!
//! Knows neither the command line nor the running broker.

mod authority;
mod builtin;
pub mod bulk;
pub mod crl;
mod demo;
mod files;
mod key;
pub mod lint;
mod names;
pub mod request;

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::KeyPair;

pub use self::authority::{Authority, Issued, Role, Template, root};
pub use self::builtin::builtin;
pub use self::demo::{Outcome, demo};
pub use self::files::{Existing, Secrecy, check_folder, create_folder, is_there, read, write, write_private};
pub use self::key::{KeyKind, read as read_key, to_pem as key_to_pem};
pub use self::names::{Subject, alternative_name, check_file_name};

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    pub fn new(dir: &Path, name: &str) -> Self {
        Self { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
    }

    /// Fails if one of the files is there.
    pub fn must_be_free(&self) -> Result<()> {
        match [&self.key, &self.certificate].into_iter().find(|path| path.symlink_metadata().is_ok()) {
            Some(path) => Err(is_there(path).into()),
            None => Ok(()),
        }
    }

    /// The key first: a certificate that is there has its key.
    pub fn write(
        &self,
        issued: &Issued,
        key: &KeyPair,
        password: Option<&str>,
        existing: Existing,
    ) -> Result<()> {
        if existing == Existing::Kept {
            self.must_be_free()?;
        }
        write(&self.key, key::to_pem(key, password)?.as_bytes(), Secrecy::Private, existing)?;
        write(&self.certificate, issued.pem.as_bytes(), Secrecy::Public, existing)
    }
}
