//! The judgement of a client's chain once its key is proved, by our own handshake or by a proxy's.

use mqgate_identity::certificate::{CertificateFacts, ClientCertificate};
use mqgate_identity::evaluation::{PathPolicy, Rejection, ValidatedPath};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use rustls::pki_types::CertificateDer;

use super::ClientAuth;
use super::verifier::Findings;
use crate::trust::TrustStore;

/// By which rules a chain is judged.
pub(crate) struct ChainJudge<'a> {
    pub(crate) client_auth: ClientAuth,
    pub(crate) trust: &'a TrustStore,
    pub(crate) policy: &'a PathPolicy,
}

/// Who was turned away, as far as it could be read, and why.
pub(crate) type TurnedAway = (Option<Box<CertificateFacts>>, Rejection);

impl ChainJudge<'_> {
    /// `chain` begins with the client's own certificate; it is empty if there is none.
    pub(crate) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        findings: Findings,
        now: UnixMillis,
    ) -> Result<Option<ClientCertificate>, TurnedAway> {
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return match self.client_auth {
                ClientAuth::None | ClientAuth::Optional => Ok(None),
                ClientAuth::Required => {
                    let detail = "the session holds no client certificate".to_owned();
                    Err((None, Rejection { reason: Reason::TlsNoPeerCert, detail }))
                }
            };
        };
        let fresh = findings.leaf.filter(|leaf| *leaf.der == **end_entity);
        let was_fresh = fresh.is_some();
        let leaf = match fresh {
            Some(leaf) => leaf,
            None => CertificateFacts::parse(end_entity).map_err(|error| (None, Rejection::from(error)))?,
        };
        let trust = self.trust.current();
        let path: ValidatedPath = match findings.judged {
            Some((generation, Ok(path))) if was_fresh && generation == trust.generation => path,
            _ => {
                let judged = trust.judge(&leaf, intermediates, self.policy, now.seconds());
                match judged {
                    Ok(path) => path,
                    Err(rejection) => return Err((Some(Box::new(leaf)), rejection)),
                }
            }
        };
        for lint in &path.lints {
            tracing::debug!(
                certificate = %leaf.certificate_fingerprint,
                lint = lint.as_str(),
                "accepted with a remark"
            );
        }
        Ok(Some(ClientCertificate {
            leaf,
            intermediates: intermediates.iter().map(|der| std::sync::Arc::from(&**der)).collect(),
            anchor: path.anchor,
            issuer_key: path.issuer_key,
            not_after: path.not_after,
            judged_by: trust.judged_by(self.policy),
        }))
    }
}
