//! What the rules forbid, each with a stable code and the words for the operator: why, and what to do instead.

use crate::certificate::CertificateFingerprint;
use crate::reason::Reason;
use crate::registry::{
    CaState, DeviceState, IdentifierError, MAX_CA_NAME_BYTES, MAX_REGISTRATION_CODES, PatternError,
};
use crate::time::{UnixMillis, UnixSeconds};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error(transparent)]
    DeviceId(#[from] IdentifierError),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("the certificate is revoked, which is final: issue a new certificate for the device")]
    Revoked,
    #[error(
        "the certificate was deleted and is remembered, so that it cannot come back by itself; register it \
         with the explicit wish to restore it, or issue a new one"
    )]
    Tombstoned,
    #[error("the certificate is registered already, for device \"{device_id}\"{bound}; deactivate and delete it first", bound = bound_to(.client_id))]
    Registered { device_id: String, client_id: Option<String> },
    #[error("the certificate expired ({not_after}): issue a new one")]
    Expired { not_after: UnixSeconds },
    #[error("the certificate's CA is {0}: add or activate the CA first")]
    Ca(CaCondition),
    #[error("the certificate waits for its activation: activate it, or reject it")]
    Pending,
    #[error("the certificate does not wait for its activation: revoke it instead")]
    NotPending,
    #[error("the certificate waits until {until}; it is forgotten then, and not before", until = .until.seconds())]
    StillPending { until: UnixMillis },
    #[error("the certificate is active: deactivate it first, or delete it with force")]
    Active,
    #[error("a new certificate cannot start as {}: use active, inactive, pending or revoked", .0.as_str())]
    StartState(DeviceState),
    #[error("removeFromCRL only lifts a certificateHold, and the certificate is not on hold")]
    NotOnHold,
    #[error("the certificate is not superseded by another")]
    NotSuperseded,
    #[error("certificate {by} took the place of this one: reinstate it if it is to be used again")]
    Superseded { by: CertificateFingerprint },
    #[error("only another certificate of the same device, which is active, can supersede one")]
    NotSuccessor,
    #[error("the certificate is not in quarantine")]
    NotQuarantined,
    #[error("only a certificate that is active or pending can be put into quarantine; this one is {}", .0.as_str())]
    CannotQuarantine(DeviceState),
    #[error("the certificate is not deleted: there is no tombstone to purge")]
    NotTombstoned,
    #[error(
        "the certificate was revoked before it was deleted: its tombstone stays until the certificate expires \
         ({not_after})"
    )]
    TombstoneKept { not_after: UnixSeconds },
    #[error(
        "certificate {existing} has the same issuer and serial number: the CA gave one number to two \
         certificates; have it issue one with another"
    )]
    DuplicateSerial { existing: CertificateFingerprint },
    #[error(
        "the key is that of certificate {existing}, which was revoked because the key is compromised; make a \
         new key for the device"
    )]
    KeyCompromised { existing: CertificateFingerprint },
    #[error(
        "certificates of CA \"{ca}\" are not registered by themselves (auto_registration = off): register it by hand"
    )]
    AutoRegistrationOff { ca: String },
    #[error(
        "CA \"{ca}\" has {limit} registered certificates, which is its limit: raise max_device_certs, or delete some"
    )]
    Quota { ca: String, limit: u64 },
    #[error("no subject pattern of CA \"{ca}\" fits \"{subject}\"")]
    SubjectNotAllowed { ca: String, subject: String },
    #[error("no alternative name pattern of CA \"{ca}\" fits \"{name}\"")]
    SanNotAllowed { ca: String, name: String },
    #[error(
        "the certificate is valid for {seconds} s, which is more than the {limit} s of CA \"{ca}\": issue a shorter one"
    )]
    LeafLifetime { ca: String, seconds: u64, limit: u64 },
    #[error("not a CA certificate: it is not marked CA:TRUE, or may not sign certificates")]
    NotACa,
    #[error(
        "related_device_certificates_exist: {0} certificates are registered under the CA; revoke and delete \
         them first, or say what becomes of them (cascade = revoke or orphan)"
    )]
    DevicesExist(u64),
    #[error("the CA is revoked, which is final: add a new CA")]
    CaRevoked,
    #[error("the CA is {}: deactivate or revoke it first", .0.as_str())]
    CaInUse(CaState),
    #[error("the CA expired ({not_after}): add a new one")]
    CaExpired { not_after: UnixSeconds },
    #[error("the CA waits for a proof that you hold its key: verify it with a registration code")]
    CaPending,
    #[error("the CA is {}: only one that is active or inactive can be replaced", .0.as_str())]
    CaNotReplaceable(CaState),
    #[error("the CA is retiring until {until}; end that with its transition", until = .until.seconds())]
    CaRetiring { until: UnixMillis },
    #[error("a CA is registered in namespace \"{0}\" already: one CA has one namespace")]
    CaNamespace(String),
    #[error("a CA name has 1 to {MAX_CA_NAME_BYTES} bytes of letters, digits, '-', '_' and '.'")]
    CaName,
    #[error(
        "the common name of the verification certificate is no registration code of this namespace; make one \
         and have the CA sign a certificate with it as its common name"
    )]
    CodeInvalid,
    #[error("the registration code expired at {at}: make a new one", at = .at.seconds())]
    CodeExpired { at: UnixMillis },
    #[error("the registration code was used for CA {ca} already, and is good for one: make a new one")]
    CodeUsed { ca: CertificateFingerprint },
    #[error("{MAX_REGISTRATION_CODES} registration codes wait to be used, which is the limit: delete some")]
    TooManyCodes,
    #[error("the verification certificate is not signed by the CA's key: {0}")]
    VerificationSignature(String),
    #[error("the verification certificate is not valid now: have the CA sign a new one")]
    VerificationTime,
    #[error(
        "the verification certificate names another issuer or another key than the CA's: it was made by a CA of \
         another certificate"
    )]
    PublicKeyMismatch,
}

/// Every code there is.
pub const RULE_CODES: [&str; 45] = [
    "auto_registration_off",
    "bad_device_id",
    "bad_name",
    "bad_pattern",
    "bad_state",
    "ca_expired",
    "ca_in_use",
    "ca_inactive",
    "ca_missing",
    "ca_namespace",
    "ca_not_replaceable",
    "ca_pending",
    "ca_retiring",
    "ca_revoked",
    "cert_active",
    "cert_expired",
    "cert_not_in_use",
    "cert_not_on_hold",
    "cert_not_pending",
    "cert_not_quarantined",
    "cert_not_successor",
    "cert_not_superseded",
    "cert_not_tombstoned",
    "cert_pending",
    "cert_registered",
    "cert_revoked",
    "cert_still_pending",
    "cert_superseded",
    "cert_tombstoned",
    "duplicate_serial",
    "key_compromised",
    "leaf_lifetime",
    "not_a_ca",
    "provision_quota",
    "public_key_mismatch",
    "registration_code_expired",
    "registration_code_invalid",
    "registration_code_used",
    "related_device_certificates_exist",
    "san_not_allowed",
    "subject_not_allowed",
    "tombstone_kept",
    "too_many_registration_codes",
    "verification_expired",
    "verification_signature_invalid",
];

/// Why a certificate's CA does not carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CaCondition {
    Missing,
    Pending,
    Inactive,
    Retiring,
    Revoked,
}

impl CaCondition {
    pub const ALL: [Self; 5] = [Self::Missing, Self::Pending, Self::Inactive, Self::Retiring, Self::Revoked];
}

impl std::fmt::Display for CaCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "not in the registry",
            Self::Pending => "not verified",
            Self::Inactive => "not active",
            Self::Retiring => "retiring",
            Self::Revoked => "revoked",
        })
    }
}

impl RuleError {
    /// For programs: stable.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::DeviceId(_) => "bad_device_id",
            Self::Pattern(_) => "bad_pattern",
            Self::Revoked => "cert_revoked",
            Self::Tombstoned => "cert_tombstoned",
            Self::Registered { .. } => "cert_registered",
            Self::Expired { .. } => "cert_expired",
            Self::Ca(CaCondition::Missing) => "ca_missing",
            Self::Ca(CaCondition::Inactive) => "ca_inactive",
            Self::Ca(CaCondition::Pending) | Self::CaPending => "ca_pending",
            Self::Ca(CaCondition::Retiring) | Self::CaRetiring { .. } => "ca_retiring",
            Self::Ca(CaCondition::Revoked) | Self::CaRevoked => "ca_revoked",
            Self::Pending => "cert_pending",
            Self::NotPending => "cert_not_pending",
            Self::StillPending { .. } => "cert_still_pending",
            Self::Active => "cert_active",
            Self::StartState(_) => "bad_state",
            Self::NotOnHold => "cert_not_on_hold",
            Self::NotSuperseded => "cert_not_superseded",
            Self::Superseded { .. } => "cert_superseded",
            Self::NotSuccessor => "cert_not_successor",
            Self::NotQuarantined => "cert_not_quarantined",
            Self::CannotQuarantine(_) => "cert_not_in_use",
            Self::NotTombstoned => "cert_not_tombstoned",
            Self::TombstoneKept { .. } => "tombstone_kept",
            Self::DuplicateSerial { .. } => "duplicate_serial",
            Self::KeyCompromised { .. } => "key_compromised",
            Self::AutoRegistrationOff { .. } => "auto_registration_off",
            Self::Quota { .. } => "provision_quota",
            Self::SubjectNotAllowed { .. } => "subject_not_allowed",
            Self::SanNotAllowed { .. } => "san_not_allowed",
            Self::LeafLifetime { .. } => "leaf_lifetime",
            Self::NotACa => "not_a_ca",
            Self::DevicesExist(_) => "related_device_certificates_exist",
            Self::CaInUse(_) => "ca_in_use",
            Self::CaExpired { .. } => "ca_expired",
            Self::CaNotReplaceable(_) => "ca_not_replaceable",
            Self::CaNamespace(_) => "ca_namespace",
            Self::CaName => "bad_name",
            Self::CodeInvalid => "registration_code_invalid",
            Self::CodeExpired { .. } => "registration_code_expired",
            Self::CodeUsed { .. } => "registration_code_used",
            Self::TooManyCodes => "too_many_registration_codes",
            Self::VerificationSignature(_) => "verification_signature_invalid",
            Self::VerificationTime => "verification_expired",
            Self::PublicKeyMismatch => "public_key_mismatch",
        }
    }

    /// Whether what was sent is wrong in itself, rather than at odds with what is there.
    pub const fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Self::DeviceId(_)
                | Self::Pattern(_)
                | Self::StartState(_)
                | Self::NotACa
                | Self::CaName
                | Self::CodeInvalid
                | Self::VerificationSignature(_)
                | Self::VerificationTime
                | Self::PublicKeyMismatch
        )
    }

    /// What a client hears whose certificate is being registered.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Revoked => Reason::CertRevoked,
            Self::KeyCompromised { .. } => Reason::KeyCompromised,
            Self::Tombstoned => Reason::CertTombstoned,
            Self::Expired { .. } => Reason::CertExpired,
            Self::Pending => Reason::CertPending,
            Self::Superseded { .. } => Reason::CertSuperseded,
            Self::Ca(_) => Reason::CaInactive,
            Self::AutoRegistrationOff { .. } => Reason::CertNotRegistered,
            Self::Quota { .. } => Reason::ProvisionQuota,
            Self::DeviceId(_)
            | Self::Pattern(_)
            | Self::Registered { .. }
            | Self::NotPending
            | Self::StillPending { .. }
            | Self::Active
            | Self::StartState(_)
            | Self::NotOnHold
            | Self::NotSuperseded
            | Self::NotSuccessor
            | Self::NotQuarantined
            | Self::CannotQuarantine(_)
            | Self::NotTombstoned
            | Self::TombstoneKept { .. }
            | Self::DuplicateSerial { .. }
            | Self::SubjectNotAllowed { .. }
            | Self::SanNotAllowed { .. }
            | Self::LeafLifetime { .. }
            | Self::NotACa
            | Self::DevicesExist(_)
            | Self::CaRevoked
            | Self::CaInUse(_)
            | Self::CaExpired { .. }
            | Self::CaPending
            | Self::CaNotReplaceable(_)
            | Self::CaRetiring { .. }
            | Self::CaNamespace(_)
            | Self::CaName
            | Self::CodeInvalid
            | Self::CodeExpired { .. }
            | Self::CodeUsed { .. }
            | Self::TooManyCodes
            | Self::VerificationSignature(_)
            | Self::VerificationTime
            | Self::PublicKeyMismatch => Reason::ProvisionDenied,
        }
    }
}

fn bound_to(client_id: &Option<String>) -> String {
    client_id.as_ref().map(|id| format!(" bound to client id \"{id}\"")).unwrap_or_default()
}
