//! Why a chain was refused: one stable reason, and a sentence for the operator.

use rustls_pki_types::CertificateDer;

use super::TrustAnchors;
use crate::certificate::{CertificateError, CertificateFacts};
use crate::reason::Reason;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Rejection {
    pub reason: Reason,
    /// For the operator and the audit record; never sent to the client.
    pub detail: String,
}

impl Rejection {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// Says, when no anchor was reached, where the chain broke off.
    pub(super) fn with_hint(
        mut self,
        end_entity: &CertificateFacts,
        intermediates: &[CertificateDer<'_>],
        anchors: &TrustAnchors,
    ) -> Self {
        if self.reason != Reason::CertUnknownCa {
            return self;
        }
        let mut sent: Vec<_> =
            intermediates.iter().filter_map(|der| CertificateFacts::parse(der).ok()).collect();
        let mut last = end_entity.clone();
        while let Some(at) = sent.iter().position(|facts| facts.subject.raw == last.issuer.raw) {
            last = sent.swap_remove(at);
        }
        let issuer = &last.issuer.display;
        self.detail = if anchors.has_subject(&last.issuer.raw) {
            self.detail
        } else if last.issuer.raw == last.subject.raw {
            format!("the chain ends in the self-signed certificate \"{issuer}\", which is not a trust anchor")
        } else {
            format!(
                "missing_intermediate: no CA certificate \"{issuer}\" was sent by the client or is a trust \
                 anchor (the client must send its intermediates, or its CA must be added)"
            )
        };
        self
    }
}

impl From<CertificateError> for Rejection {
    fn from(error: CertificateError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

impl From<webpki::Error> for Rejection {
    fn from(error: webpki::Error) -> Self {
        let detail = match &error {
            webpki::Error::UnknownIssuer => "no path leads to a trust anchor".to_owned(),
            webpki::Error::InvalidSignatureForPublicKey => {
                "a signature on the path was not made by the key of its issuer".to_owned()
            }
            webpki::Error::UnsupportedSignatureAlgorithmContext(_) => {
                "a certificate on the path is signed with an algorithm that is not accepted (SHA-1, for \
                 example)"
                    .to_owned()
            }
            webpki::Error::RequiredEkuNotFoundContext(_) => {
                "the extended key usage does not allow client authentication (clientAuth)".to_owned()
            }
            webpki::Error::MaximumPathDepthExceeded => {
                "there are too many intermediates on the path".to_owned()
            }
            webpki::Error::UnsupportedCriticalExtension => {
                "a critical extension on the path is not known here".to_owned()
            }
            error => error.to_string(),
        };
        Self::new(reason_of(&error), detail)
    }
}

/// The reason for each of webpki's errors.
// The variants without context are deprecated and not produced any more, but a caller could still make one.
#[allow(deprecated)]
pub fn reason_of(error: &webpki::Error) -> Reason {
    use webpki::Error as E;
    match error {
        E::BadDer
        | E::BadDerTime
        | E::ExtensionValueInvalid
        | E::InvalidCertValidity
        | E::InvalidCrlNumber
        | E::InvalidSerialNumber
        | E::MalformedDnsIdentifier
        | E::MalformedExtensions
        | E::SignatureAlgorithmMismatch
        | E::TrailingData(_)
        | E::UnsupportedCriticalExtension
        | E::UnsupportedNameType => Reason::CertMalformed,

        E::UnsupportedCertVersion => Reason::CertV1,
        E::CaUsedAsEndEntity => Reason::CertCaAsLeaf,
        E::MaximumPathDepthExceeded | E::PathLenConstraintViolated => Reason::CertDepth,
        E::CertExpired { .. } => Reason::CertExpired,
        E::CertNotValidYet { .. } => Reason::CertNotYetValid,

        E::EndEntityUsedAsCa
        | E::CertNotValidForName(_)
        | E::RequiredEkuNotFound
        | E::RequiredEkuNotFoundContext(_) => Reason::CertPurpose,

        E::InvalidNetworkMaskConstraint | E::MalformedNameConstraint | E::NameConstraintViolation => {
            Reason::CertNameConstraint
        }

        E::MaximumNameConstraintComparisonsExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumSignatureChecksExceeded => Reason::CertTooLarge,

        E::InvalidSignatureForPublicKey => Reason::CertBadSignature,

        E::UnsupportedSignatureAlgorithm
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKey
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Reason::CertSigAlg,

        E::CertRevoked => Reason::CertRevoked,

        // Revocation lists that prove nothing: as if the CA were not known.
        E::UnknownIssuer
        | E::CertDistrusted
        | E::CrlExpired { .. }
        | E::InvalidCrlSignatureForPublicKey
        | E::IssuerNotCrlSigner
        | E::UnknownRevocationStatus
        | E::UnsupportedCrlIssuingDistributionPoint
        | E::UnsupportedCrlVersion
        | E::UnsupportedDeltaCrl
        | E::UnsupportedIndirectCrl
        | E::UnsupportedRevocationReason
        | E::UnsupportedRevocationReasonsPartitioning
        | E::UnsupportedCrlSignatureAlgorithm
        | E::UnsupportedCrlSignatureAlgorithmContext(_)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKey
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => Reason::CertUnknownCa,

        // webpki's enum is open: what it adds is a refusal all the same.
        _ => Reason::Other,
    }
}
