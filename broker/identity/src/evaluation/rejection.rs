//! Why a chain was refused: one stable reason, and a sentence for the operator.

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
        intermediates: &[CertificateFacts],
        anchors: &TrustAnchors,
    ) -> Self {
        if self.reason != Reason::CertUnknownCa {
            return self;
        }
        let mut sent: Vec<_> = intermediates.iter().collect();
        let mut last = end_entity;
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
            webpki::Error::InvalidSignatureForPublicKey => {
                "a signature was not made by the key of its issuer".to_owned()
            }
            error => error.to_string(),
        };
        Self::new(reason_of(&error), detail)
    }
}

/// The library is asked about keys and signatures only.
fn reason_of(error: &webpki::Error) -> Reason {
    use webpki::Error as E;
    match error {
        E::InvalidSignatureForPublicKey => Reason::CertBadSignature,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Reason::CertSigAlg,
        E::BadDer | E::TrailingData(_) => Reason::CertMalformed,
        // webpki's enum is open: what it adds is a refusal all the same.
        _ => Reason::Other,
    }
}
