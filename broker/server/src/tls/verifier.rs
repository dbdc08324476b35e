//! The verifier that rustls asks about a client's certificate.
//!
//! Pure: it judges a chain by today's trust set and clock and remembers its answer for the connection being
//! handled. It runs before the client has proved that it holds the key, and not at all when a session is
//! resumed: nothing may be registered or counted here.

use std::cell::RefCell;
use std::sync::Arc;

use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint};
use mqgate_identity::evaluation::{
    PathPolicy, Rejection, ValidatedPath, subject_public_key_info, verify_signature,
};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};

use crate::trust::TrustStore;

/// What the verifier found out, for the handshake that asked.
#[derive(Default)]
pub(crate) struct Findings {
    pub(super) leaf: Option<CertificateFacts>,
    /// Of what was sent, also where it cannot be read.
    pub(super) fingerprint: Option<CertificateFingerprint>,
    /// The server's certificate that was chosen.
    pub(super) shown: Option<CertificateFingerprint>,
    /// The chain judged, and by which generation of the trust set.
    pub(super) judged: Option<(u64, Result<ValidatedPath, Rejection>)>,
}

tokio::task_local! {
    /// Set around the handshake: rustls calls the verifier from inside it, on the same thread.
    pub(super) static FINDINGS: RefCell<Findings>;
}

pub(super) struct Verifier {
    pub(super) trust: Arc<TrustStore>,
    pub(super) hints: Arc<[DistinguishedName]>,
    pub(super) policy: PathPolicy,
    pub(super) mandatory: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("mandatory", &self.mandatory).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let trust = self.trust.current();
        let now = UnixSeconds(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let mut findings =
            Findings { fingerprint: Some(CertificateFingerprint::of(end_entity)), ..Findings::default() };
        let judged = match CertificateFacts::parse(end_entity) {
            Ok(leaf) => {
                let judged = trust.judge(&leaf, intermediates, &self.policy, now);
                findings.leaf = Some(leaf);
                judged
            }
            Err(error) => Err(Rejection::from(error)),
        };
        // Revocation is looked up last: the rest of the path holds in these cases.
        let leads_to_ca = match &judged {
            Ok(_) => true,
            Err(rejection) => matches!(rejection.reason, Reason::CrlUnknown | Reason::CrlStale),
        };
        if let Some(leaf) = findings.leaf.as_ref().filter(|_| leads_to_ca) {
            self.trust.notice(leaf);
        }
        let answer = match &judged {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(rejection) => Err(rustls::Error::InvalidCertificate(certificate_error(rejection))),
        };
        findings.judged = Some((trust.generation, judged));
        // Outside a handshake of ours (there is none) the findings would be lost, not the answer.
        let _ = FINDINGS.try_with(|cell| {
            let mut cell = cell.borrow_mut();
            findings.shown = cell.shown;
            *cell = findings;
        });
        answer
    }

    // The path was judged above; these two prove possession of the key, also for certificates of version 1,
    // which the library's own functions do not read.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = subject_public_key_info(cert).map_err(|_| bad_encoding())?;
        let algorithms = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == dss.scheme)
            .map(|(_, algorithms)| *algorithms)
            .unwrap_or_default();
        verify_signature(&key, algorithms, message, dss.signature())
            .map(|()| HandshakeSignatureValid::assertion())
            .map_err(|rejection| rustls::Error::InvalidCertificate(certificate_error(&rejection)))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = subject_public_key_info(cert).map_err(|_| bad_encoding())?;
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn bad_encoding() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::BadEncoding)
}

/// Picks the TLS alert: rustls has one for each of these.
fn certificate_error(rejection: &Rejection) -> CertificateError {
    match rejection.reason {
        Reason::CertMalformed | Reason::CertV1 | Reason::CertCaAsLeaf => CertificateError::BadEncoding,
        // As if the CA were not known: a list that is missing or too old proves nothing.
        Reason::CertUnknownCa | Reason::CrlUnknown | Reason::CrlStale => CertificateError::UnknownIssuer,
        Reason::CertExpired => CertificateError::Expired,
        Reason::CertNotYetValid => CertificateError::NotValidYet,
        Reason::CertRevoked | Reason::CertRevokedCrl => CertificateError::Revoked,
        Reason::CertPurpose => CertificateError::InvalidPurpose,
        Reason::CertSigAlg | Reason::CertBadSignature => CertificateError::BadSignature,
        // certificate_unknown: what is wrong has no alert of its own.
        _ => CertificateError::Other(OtherError(Arc::new(rejection.clone()))),
    }
}
