//! Lists as files: DER, or PEM with one or several.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use mqgate_identity::evaluation::{ListError, RevocationList};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;

/// What tells that a file is another one than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    List(#[from] ListError),
    #[error("neither DER nor PEM: there is no BEGIN X509 CRL in it")]
    NotPem,
}

/// Every list in `bytes`. A text without any is an error: it is no list of nobody.
pub(super) fn parse(bytes: &[u8], max_bytes: usize) -> Result<Vec<Arc<RevocationList>>, SourceError> {
    if bytes.first() == Some(&0x30) {
        return Ok(vec![Arc::new(RevocationList::parse(bytes, max_bytes)?)]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(bytes)
        .map(|der| {
            let der = der.map_err(|_| SourceError::NotPem)?;
            Ok(Arc::new(RevocationList::parse(&der, max_bytes)?))
        })
        .collect::<Result<Vec<_>, SourceError>>()?;
    if lists.is_empty() {
        return Err(SourceError::NotPem);
    }
    Ok(lists)
}

/// Base64 makes a third more of it.
pub(super) fn read(path: &Path, max_bytes: usize) -> Result<Vec<Arc<RevocationList>>, SourceError> {
    let length = std::fs::metadata(path)?.len();
    if length > (max_bytes as u64).saturating_mul(2) {
        return Err(ListError::TooLarge(usize::try_from(length).unwrap_or(usize::MAX), max_bytes).into());
    }
    parse(&std::fs::read(path)?, max_bytes)
}

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { length: metadata.len(), modified: metadata.modified().ok() })
}

/// The files of a folder that look like lists, by name.
pub(super) fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if ["crl", "pem", "der"].iter().any(|known| known.eq_ignore_ascii_case(ending)) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
