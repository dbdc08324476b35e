//! A listener's own certificate chain and key, from PEM, with errors that say which file and what to do.

use std::path::Path;
use std::sync::Arc;

use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::evaluation::subject_public_key_info;
use mqgate_identity::time::UnixSeconds;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Certificate chain and private key, known to belong together.
#[derive(Clone)]
pub struct ServerCertificate {
    pub(super) certified: Arc<CertifiedKey>,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    /// RFC 4514 rendering.
    pub subject: String,
}

/// Why a listener cannot use its certificate. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("{file}: {problem}")]
    Unreadable { file: String, problem: std::io::Error },
    #[error("{file}: no certificate in it: it must hold \"-----BEGIN CERTIFICATE-----\", the server's first")]
    NoCertificate { file: String },
    #[error("{file}: certificate {number} cannot be read: {problem}")]
    BadCertificate { file: String, number: usize, problem: String },
    #[error(
        "{file}: the certificates are in the wrong order: the server's own must come first, then the CAs that \
         signed it; the key belongs to certificate {number}"
    )]
    Order { file: String, number: usize },
    #[error("{key_file}: this key does not belong to the certificate in {certificate_file} (\"{subject}\")")]
    KeyMismatch { key_file: String, certificate_file: String, subject: String },
    #[error("{file}: no private key in it: it must hold \"-----BEGIN PRIVATE KEY-----\"")]
    NoKey { file: String },
    #[error(
        "{file}: the private key is encrypted, which is not supported: decrypt it with \
         `openssl pkey -in {file} -out server.key` and keep the file private"
    )]
    EncryptedKey { file: String },
    #[error("{file}: the private key cannot be used: {problem}")]
    BadKey { file: String, problem: String },
}

impl ServerCertificate {
    /// Reads both files.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, MaterialError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|problem| MaterialError::Unreadable { file: path.display().to_string(), problem })
        };
        let (chain, key) = (read(certificate_file)?, read(key_file)?);
        Self::from_pem(&chain, &key, &certificate_file.display().to_string(), &key_file.display().to_string())
    }

    /// Takes PEM text; the names are for errors.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        certificate_file: &str,
        key_file: &str,
    ) -> Result<Self, MaterialError> {
        let file = || certificate_file.to_owned();
        let bad = |number, problem: String| MaterialError::BadCertificate { file: file(), number, problem };
        let mut certificates = Vec::new();
        let mut keys = Vec::new();
        for (index, section) in CertificateDer::pem_slice_iter(chain).enumerate() {
            let der = section.map_err(|error| bad(index + 1, error.to_string()))?;
            keys.push(subject_public_key_info(&der).map_err(|error| bad(index + 1, error.to_string()))?);
            certificates.push(der);
        }
        let Some(leaf) = certificates.first() else {
            return Err(MaterialError::NoCertificate { file: file() });
        };
        let facts = CertificateFacts::parse(leaf).map_err(|error| bad(1, error.to_string()))?;

        let key = read_key(key, key_file)?;
        let signing = any_supported_type(&key).map_err(|error| MaterialError::BadKey {
            file: key_file.to_owned(),
            problem: error.to_string(),
        })?;
        // Compared here and not by the library, which does not read X.509 version 1.
        if let Some(public) = signing.public_key()
            && keys.first().is_some_and(|key| key.as_ref() != public.as_ref())
        {
            return Err(match keys.iter().position(|key| key.as_ref() == public.as_ref()) {
                Some(index) => MaterialError::Order { file: file(), number: index + 1 },
                None => MaterialError::KeyMismatch {
                    key_file: key_file.to_owned(),
                    certificate_file: file(),
                    subject: facts.subject.display,
                },
            });
        }
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(certificates, signing)),
            not_before: facts.not_before,
            not_after: facts.not_after,
            subject: facts.subject.display,
        })
    }
}

fn read_key(pem: &[u8], file: &str) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let text = String::from_utf8_lossy(pem);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(MaterialError::EncryptedKey { file: file.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => MaterialError::NoKey { file: file.to_owned() },
        error => MaterialError::BadKey { file: file.to_owned(), problem: error.to_string() },
    })
}
