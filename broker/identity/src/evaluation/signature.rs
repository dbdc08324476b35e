//! Signatures by a bare public key: for version 1 certificates, which webpki does not read, and for the TLS
//! handshakes of their holders.

use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;

use super::Rejection;
use crate::certificate::{CertificateError, parse_structure};
use crate::reason::Reason;

/// The public key of a certificate of any version, as DER.
pub fn subject_public_key_info(
    certificate: &[u8],
) -> Result<SubjectPublicKeyInfoDer<'static>, CertificateError> {
    Ok(SubjectPublicKeyInfoDer::from(parse_structure(certificate)?.public_key().raw.to_vec()))
}

/// Checks a signature over `message` with the first of `algorithms` that fits the key. (TLS 1.2 names only
/// the hash and the kind of key, so that several algorithms may stand behind one scheme.)
pub fn verify_signature(
    key: &SubjectPublicKeyInfoDer<'_>,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    message: &[u8],
    signature: &[u8],
) -> Result<(), Rejection> {
    let key = RawPublicKeyEntity::try_from(key)?;
    for algorithm in algorithms {
        match key.verify_signature(*algorithm, message, signature) {
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            verdict => return verdict.map_err(Rejection::from),
        }
    }
    Err(Rejection::new(
        Reason::CertSigAlg,
        "the signature's algorithm is not accepted, or does not fit the key it should be by",
    ))
}

/// As [`verify_signature`], for an algorithm named by the content of an `AlgorithmIdentifier`.
pub fn verify_certificate_signature(
    key: &SubjectPublicKeyInfoDer<'_>,
    algorithm_identifier: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), Rejection> {
    let algorithms: Vec<_> = webpki::ALL_VERIFICATION_ALGS
        .iter()
        .copied()
        .filter(|algorithm| algorithm.signature_alg_id().as_ref() == algorithm_identifier)
        .collect();
    verify_signature(key, &algorithms, message, signature)
}
