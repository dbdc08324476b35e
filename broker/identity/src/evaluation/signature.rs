//! Signatures by a bare public key: those on certificates and revocation lists, and those over TLS handshakes.
//! The library does the cryptography and says which algorithms there are; none of them uses SHA-1 or MD5.

use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;

use super::Rejection;
use crate::certificate::{CertificateError, Structure};
use crate::reason::Reason;

/// The public key of a certificate of any version, as DER.
pub fn subject_public_key_info(
    certificate: &[u8],
) -> Result<SubjectPublicKeyInfoDer<'static>, CertificateError> {
    Ok(SubjectPublicKeyInfoDer::from(Structure::read(certificate)?.key.to_vec()))
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

/// Whether the signature of a certificate, of any version, is by this key. Says nothing else of either.
pub fn check_signed_by(certificate: &[u8], key: &SubjectPublicKeyInfoDer<'_>) -> Result<(), Rejection> {
    let parts = Structure::read(certificate)?;
    verify_certificate_signature(key, parts.algorithm, parts.tbs, parts.signature)
}
