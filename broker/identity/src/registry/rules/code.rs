//! Registration codes, and the proof that somebody holds a CA's key: a certificate that the CA signed, whose
//! common name is the code.

use super::RuleError;
use crate::certificate::{CertificateFacts, CertificateFingerprint};
use crate::evaluation::{check_signed_by, key_ids, subject_public_key_info};
use crate::reason::Reason;
use crate::registry::{
    CodeUse, DEFAULT_NAMESPACE, MAX_REGISTRATION_CODES, REGISTRATION_CODE_BYTES, RegistrationCode,
    common_name,
};
use crate::time::UnixMillis;

/// A code out of random bytes. `known`: the codes there are.
pub fn new_code(
    random: [u8; REGISTRATION_CODE_BYTES],
    ttl_millis: u64,
    known: &[RegistrationCode],
    by: &str,
    now: UnixMillis,
) -> Result<RegistrationCode, RuleError> {
    let waiting = known.iter().filter(|code| code.used.is_none() && now < code.expires_at).count();
    if waiting >= MAX_REGISTRATION_CODES {
        return Err(RuleError::TooManyCodes);
    }
    Ok(RegistrationCode {
        code: hex::encode(random),
        namespace: DEFAULT_NAMESPACE.to_owned(),
        created_at: now,
        expires_at: UnixMillis(now.0.saturating_add(ttl_millis)),
        created_by: by.to_owned(),
        used: None,
        revision: 1,
    })
}

/// Checks that the key of `ca` signed the verification certificate, and that it is valid now; answers the code in
/// it. The signature is the proof: what the certificate says of its issuer is only looked at to say what is wrong.
pub fn check_verification(
    ca: &CertificateFacts,
    verification: &CertificateFacts,
    now: UnixMillis,
) -> Result<String, RuleError> {
    let key = subject_public_key_info(&ca.der)
        .map_err(|error| RuleError::VerificationSignature(error.to_string()))?;
    if let Err(rejection) = check_signed_by(&verification.der, &key) {
        let names_another_key = match (key_ids(verification).1, key_ids(ca).0) {
            (Some(meant), Some(own)) => meant != own,
            _ => false,
        };
        let is_other_ca = names_another_key || verification.issuer.raw != ca.subject.raw;
        return Err(match is_other_ca && rejection.reason != Reason::CertSigAlg {
            true => RuleError::PublicKeyMismatch,
            false => RuleError::VerificationSignature(rejection.to_string()),
        });
    }
    let seconds = now.seconds();
    if seconds < verification.not_before || seconds > verification.not_after {
        return Err(RuleError::VerificationTime);
    }
    common_name(verification).ok_or(RuleError::CodeInvalid)
}

/// Checks the code that a verification certificate has. `known`: the record under it.
pub fn check_code(known: Option<&RegistrationCode>, now: UnixMillis) -> Result<(), RuleError> {
    match known {
        None => Err(RuleError::CodeInvalid),
        Some(code) if code.namespace != DEFAULT_NAMESPACE => Err(RuleError::CodeInvalid),
        Some(RegistrationCode { used: Some(used), .. }) => Err(RuleError::CodeUsed { ca: used.ca }),
        Some(code) if code.expires_at <= now => Err(RuleError::CodeExpired { at: code.expires_at }),
        Some(_) => Ok(()),
    }
}

/// The record of a code that is used up.
pub fn use_code(code: &RegistrationCode, ca: CertificateFingerprint, now: UnixMillis) -> RegistrationCode {
    RegistrationCode { used: Some(CodeUse { at: now, ca }), revision: code.revision + 1, ..code.clone() }
}
