//! Certificates as PEM text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::CertificateError;

/// RFC 7468 text of one certificate.
pub fn to_pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = String::with_capacity(base64.len() + base64.len() / 64 + 64);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: every index is a boundary.
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// The DER of every certificate in `text`, in order. Other kinds of section are passed over; a text without
/// any certificate is an error.
pub fn certificates_from_pem(text: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    let certificates: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(text)
        .map(|section| section.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::Malformed("the PEM encoding"))?;
    if certificates.is_empty() {
        return Err(CertificateError::Malformed("the PEM text: there is no BEGIN CERTIFICATE in it"));
    }
    Ok(certificates)
}
