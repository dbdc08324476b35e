//! One question to an OCSP responder about a certificate, and whether an answer may be passed on as saying that it is
//! good: RFC 6960, in the profile of RFC 5019. Pure: does not know who asks, where, or what time it is.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::policy::KNOWN_EXTENSIONS;
use super::signature::{check_signed_by, subject_public_key_info, verify_certificate_signature};
use crate::certificate::{
    CanonicalName, CertificateFacts, Element, Structure, integer, object_identifier, only, tag, take,
    take_extension, take_tagged, time,
};
use crate::time::UnixSeconds;

const BASIC_RESPONSE: &str = "1.3.6.1.5.5.7.48.1.1";
const ACCESS_OCSP: &str = "1.3.6.1.5.5.7.48.1";
const OCSP_SIGNING: &str = "1.3.6.1.5.5.7.3.9";
const AUTHORITY_INFO_ACCESS: &str = "1.3.6.1.5.5.7.1.1";
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";
/// `status_request` among the features of TLS: RFC 7633 and RFC 6066.
const STATUS_REQUEST: &[u8] = &[5];
const SHA_1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
const SHA_256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const NULL: &[u8] = &[0x05, 0x00];
/// Certificates of responders looked at in one answer.
const MOST_RESPONDERS: usize = 4;
/// How far a responder's clock may be ahead of ours, in seconds.
const SKEW: i64 = 300;
/// How long an answer counts that does not say it, in seconds.
const UNSTATED: i64 = 3_600;

/// Asks for the state of one certificate.
#[derive(Debug, Clone)]
pub struct OcspQuestion {
    /// The certificate and its issuer, by each of the hashes that an answer may name them with.
    ids: [CertId; 2],
    serial: Vec<u8>,
    issuer: CertificateFacts,
    issuer_key: SubjectPublicKeyInfoDer<'static>,
    request: Vec<u8>,
}

#[derive(Debug, Clone)]
struct CertId {
    algorithm: &'static [u8],
    issuer_name: Vec<u8>,
    issuer_key: Vec<u8>,
}

/// An answer that says "good", and for how long it may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OcspGood {
    pub this_update: UnixSeconds,
    pub next_update: UnixSeconds,
}

/// Why there is no question, or why an answer is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OcspError {
    #[error("the certificate cannot be asked about: {0}")]
    Question(String),
    #[error("the answer cannot be read: {0}")]
    Malformed(&'static str),
    #[error("the responder says \"{0}\"")]
    Status(&'static str),
    #[error("the answer is not about this certificate")]
    OtherCertificate,
    #[error(
        "the answer is signed neither by the issuer of the certificate nor by a responder that the issuer named: {0}"
    )]
    Signature(String),
    #[error("the answer is of {0}, which is to come")]
    NotYet(UnixSeconds),
    #[error("the answer counted until {0}")]
    Expired(UnixSeconds),
    #[error("the certificate is REVOKED since {since}: replace it")]
    Revoked { since: UnixSeconds, this_update: UnixSeconds },
    #[error("the responder does not know the certificate")]
    Unknown,
}

impl OcspError {
    /// One word for counting.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Question(_) => "question",
            Self::Malformed(_) => "malformed",
            Self::Status(_) => "status",
            Self::OtherCertificate => "other_certificate",
            Self::Signature(_) => "signature",
            Self::NotYet(_) | Self::Expired(_) => "stale",
            Self::Revoked { .. } => "revoked",
            Self::Unknown => "unknown",
        }
    }
}

/// One SingleResponse.
struct Single<'a> {
    status: Element<'a>,
    this_update: UnixSeconds,
    next_update: Option<UnixSeconds>,
}

/// The parts of a BasicOCSPResponse.
struct Basic<'a> {
    /// What is signed: tag, length and content.
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    responder: Element<'a>,
    responses: &'a [u8],
    /// DER of certificates, one after the other.
    certificates: &'a [u8],
}

impl OcspQuestion {
    /// `issuer` must have signed `certificate`; both are DER.
    pub fn new(certificate: &[u8], issuer: &[u8]) -> Result<Self, OcspError> {
        let unasked = |error: &dyn std::fmt::Display| OcspError::Question(error.to_string());
        let issuer_key = subject_public_key_info(issuer).map_err(|error| unasked(&error))?;
        check_signed_by(certificate, &issuer_key)
            .map_err(|_| OcspError::Question("it was not signed by the issuer given".to_owned()))?;
        let facts = CertificateFacts::parse(issuer).map_err(|error| unasked(&error))?;
        let own = Structure::read(certificate).map_err(|error| unasked(&error))?;
        let bits = key_bits(&issuer_key).ok_or_else(|| unasked(&"the issuer's key cannot be read"))?;
        let ids = [
            // Responders are only bound to know SHA-1 here: it names the issuer and proves nothing.
            CertId {
                algorithm: SHA_1,
                issuer_name: Sha1::digest(own.issuer).to_vec(),
                issuer_key: Sha1::digest(bits).to_vec(),
            },
            CertId {
                algorithm: SHA_256,
                issuer_name: Sha256::digest(own.issuer).to_vec(),
                issuer_key: Sha256::digest(bits).to_vec(),
            },
        ];
        let serial = own.serial.to_vec();
        let id = &ids[0];
        let algorithm = element(tag::SEQUENCE, &[&element(tag::OBJECT_IDENTIFIER, &[id.algorithm]), NULL]);
        let cert_id = element(
            tag::SEQUENCE,
            &[
                &algorithm,
                &element(tag::OCTET_STRING, &[&id.issuer_name]),
                &element(tag::OCTET_STRING, &[&id.issuer_key]),
                &element(tag::INTEGER, &[&serial]),
            ],
        );
        // Request, list of requests, TBSRequest, OCSPRequest.
        let request = (0..4).fold(cert_id, |inner, _| element(tag::SEQUENCE, &[&inner]));
        Ok(Self { ids, serial, issuer: facts, issuer_key, request })
    }

    /// DER of the request, without a nonce: the answer may come from a cache.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Whether `answer` is one, by somebody who may give it, about this certificate, that counts now and says "good".
    pub fn check(&self, answer: &[u8], now: UnixSeconds) -> Result<OcspGood, OcspError> {
        let basic = Basic::read(successful(answer)?).ok_or(OcspError::Malformed("its structure"))?;
        self.check_signature(&basic, now)?;
        let single = self.about_us(basic.responses)?;
        if single.this_update.0 > now.0.saturating_add(SKEW) {
            return Err(OcspError::NotYet(single.this_update));
        }
        let next_update =
            single.next_update.unwrap_or(UnixSeconds(single.this_update.0.saturating_add(UNSTATED)));
        if next_update <= now {
            return Err(OcspError::Expired(next_update));
        }
        match (single.status.tag, single.status.content) {
            (0x80, []) => Ok(OcspGood { this_update: single.this_update, next_update }),
            (0xa1, mut fields) => {
                let since = generalized_time(&mut fields).ok_or(OcspError::Malformed("its state"))?;
                Err(OcspError::Revoked { since, this_update: single.this_update })
            }
            (0x82, []) => Err(OcspError::Unknown),
            _ => Err(OcspError::Malformed("its state")),
        }
    }

    /// The newest of what is said about the certificate.
    fn about_us<'a>(&self, mut responses: &'a [u8]) -> Result<Single<'a>, OcspError> {
        let mut newest: Option<Single<'a>> = None;
        while !responses.is_empty() {
            let (is_ours, single) = self
                .read_single(&mut responses)
                .ok_or(OcspError::Malformed("what it says of a certificate"))?;
            if is_ours && newest.as_ref().is_none_or(|known| known.this_update < single.this_update) {
                newest = Some(single);
            }
        }
        newest.ok_or(OcspError::OtherCertificate)
    }

    fn read_single<'a>(&self, responses: &mut &'a [u8]) -> Option<(bool, Single<'a>)> {
        let mut fields = take_tagged(responses, tag::SEQUENCE)?.content;
        let mut id = take_tagged(&mut fields, tag::SEQUENCE)?.content;
        let mut algorithm = take_tagged(&mut id, tag::SEQUENCE)?.content;
        let algorithm = take_tagged(&mut algorithm, tag::OBJECT_IDENTIFIER)?.content;
        let issuer_name = take_tagged(&mut id, tag::OCTET_STRING)?.content;
        let issuer_key = take_tagged(&mut id, tag::OCTET_STRING)?.content;
        let serial = integer(&mut id).filter(|_| id.is_empty())?;
        let is_ours = serial == self.serial
            && self.ids.iter().any(|known| {
                known.algorithm == algorithm
                    && known.issuer_name == issuer_name
                    && known.issuer_key == issuer_key
            });
        let status = take(&mut fields)?;
        let this_update = generalized_time(&mut fields)?;
        let next_update = match take_tagged(&mut fields, 0xa0) {
            Some(wrapped) => {
                let mut inner = wrapped.content;
                Some(generalized_time(&mut inner).filter(|_| inner.is_empty())?)
            }
            None => None,
        };
        no_critical_extension(&mut fields)?;
        fields.is_empty().then_some((is_ours, Single { status, this_update, next_update }))
    }

    /// RFC 6960, 4.2.2.2: by the issuer itself, or by a certificate that the issuer signed for this purpose. Whether
    /// that one is revoked is not asked: it would be asked of itself.
    fn check_signature(&self, basic: &Basic<'_>, now: UnixSeconds) -> Result<(), OcspError> {
        let by = |key: &SubjectPublicKeyInfoDer<'_>| {
            verify_certificate_signature(key, basic.algorithm, basic.signed, basic.signature)
                .map_err(|rejection| rejection.detail)
        };
        let mut problem = String::from("the certificate of the responder that it names is not with it");
        if is_responder(basic.responder, &self.issuer.subject.raw, &self.issuer_key) {
            match by(&self.issuer_key) {
                Ok(()) => return Ok(()),
                Err(why) => problem = why,
            }
        }
        let mut rest = basic.certificates;
        for _ in 0..MOST_RESPONDERS {
            let Some(certificate) = take_tagged(&mut rest, tag::SEQUENCE) else { break };
            match self.delegated(certificate.raw, basic.responder, now) {
                Ok(Some(key)) => match by(&key) {
                    Ok(()) => return Ok(()),
                    Err(why) => problem = why,
                },
                Ok(None) => {}
                Err(why) => problem = why,
            }
        }
        Err(OcspError::Signature(problem))
    }

    /// The key of a responder that the issuer lets speak for it; `None` if the answer names another.
    fn delegated(
        &self,
        der: &[u8],
        responder: Element<'_>,
        now: UnixSeconds,
    ) -> Result<Option<SubjectPublicKeyInfoDer<'static>>, String> {
        let facts = CertificateFacts::parse(der).map_err(|error| error.to_string())?;
        let key = subject_public_key_info(der).map_err(|error| error.to_string())?;
        if !is_responder(responder, &facts.subject.raw, &key) {
            return Ok(None);
        }
        let name = &facts.subject.display;
        let names = [&facts.issuer.raw, &self.issuer.subject.raw].map(|raw| CanonicalName::read(raw));
        if names[0].is_none() || names[0] != names[1] || check_signed_by(der, &self.issuer_key).is_err() {
            return Err(format!("\"{name}\" was not signed by the issuer"));
        }
        if !facts.extended_key_usage.iter().any(|usage| usage == OCSP_SIGNING) {
            return Err(format!("\"{name}\" may not sign answers (id-kp-OCSPSigning)"));
        }
        if facts.key_usage.is_some_and(|usage| !usage.digital_signature && !usage.content_commitment) {
            return Err(format!("the key of \"{name}\" may not sign (key usage)"));
        }
        let unknown = |id: &str| !KNOWN_EXTENSIONS.contains(&id);
        if facts.extensions.iter().any(|extension| extension.critical && unknown(&extension.oid)) {
            return Err(format!("a critical extension of \"{name}\" is not known here"));
        }
        if facts.not_before.0 > now.0.saturating_add(SKEW) || facts.not_after < now {
            return Err(format!("\"{name}\" is valid from {} to {}", facts.not_before, facts.not_after));
        }
        Ok(Some(key))
    }
}

impl<'a> Basic<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut parts = only(der, tag::SEQUENCE)?.content;
        let tbs = take_tagged(&mut parts, tag::SEQUENCE)?;
        let algorithm = take_tagged(&mut parts, tag::SEQUENCE)?.content;
        let signature = take_tagged(&mut parts, tag::BIT_STRING)?.content.strip_prefix(&[0])?;
        let certificates = match take_tagged(&mut parts, 0xa0) {
            Some(wrapped) => only(wrapped.content, tag::SEQUENCE)?.content,
            None => &[],
        };
        let mut fields = tbs.content;
        if let Some(version) = take_tagged(&mut fields, 0xa0) {
            // Version 1, which should not be written down.
            only(version.content, tag::INTEGER).filter(|number| number.content == [0])?;
        }
        let responder = take(&mut fields).filter(|choice| matches!(choice.tag, 0xa1 | 0xa2))?;
        generalized_time(&mut fields)?;
        let responses = take_tagged(&mut fields, tag::SEQUENCE)?.content;
        no_critical_extension(&mut fields)?;
        let is_whole = fields.is_empty() && parts.is_empty();
        is_whole.then_some(Self { signed: tbs.raw, algorithm, signature, responder, responses, certificates })
    }
}

/// The responder that a certificate names: the first with an `http` address.
pub fn ocsp_responder(certificate: &CertificateFacts) -> Option<String> {
    let mut list = only(&certificate.extension(AUTHORITY_INFO_ACCESS)?.raw, tag::SEQUENCE)?.content;
    while !list.is_empty() {
        let mut fields = take_tagged(&mut list, tag::SEQUENCE)?.content;
        let method = take_tagged(&mut fields, tag::OBJECT_IDENTIFIER)?.content;
        let place = take(&mut fields).filter(|_| fields.is_empty())?;
        let Ok(url) = std::str::from_utf8(place.content) else { continue };
        let is_http = url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
        if object_identifier(method).as_deref() == Some(ACCESS_OCSP)
            && place.tag == 0x86
            && is_http
            && url.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Some(url.to_owned());
        }
    }
    None
}

/// Whether a certificate demands that its state is sent along: RFC 7633 ("must staple").
pub fn must_staple(certificate: &CertificateFacts) -> bool {
    let features = || {
        let mut list = only(&certificate.extension(TLS_FEATURE)?.raw, tag::SEQUENCE)?.content;
        let mut features = Vec::new();
        while !list.is_empty() {
            features.push(integer(&mut list)?);
        }
        Some(features)
    };
    features().unwrap_or_default().contains(&STATUS_REQUEST)
}

/// The BasicOCSPResponse in an answer.
fn successful(answer: &[u8]) -> Result<&[u8], OcspError> {
    const BROKEN: OcspError = OcspError::Malformed("it is no OCSP response");
    let mut fields = only(answer, tag::SEQUENCE).ok_or(BROKEN)?.content;
    let status = take_tagged(&mut fields, tag::ENUMERATED).ok_or(BROKEN)?;
    match status.content {
        [0] => {}
        [1] => return Err(OcspError::Status("malformedRequest")),
        [2] => return Err(OcspError::Status("internalError")),
        [3] => return Err(OcspError::Status("tryLater")),
        [5] => return Err(OcspError::Status("sigRequired")),
        [6] => return Err(OcspError::Status("unauthorized")),
        _ => return Err(OcspError::Malformed("its status")),
    }
    let wrapped = only(fields, 0xa0).ok_or(OcspError::Malformed("it is empty"))?;
    let mut fields = only(wrapped.content, tag::SEQUENCE).ok_or(BROKEN)?.content;
    let kind = take_tagged(&mut fields, tag::OBJECT_IDENTIFIER).ok_or(BROKEN)?;
    if object_identifier(kind.content).as_deref() != Some(BASIC_RESPONSE) {
        return Err(OcspError::Malformed("it is of an unknown type"));
    }
    Ok(only(fields, tag::OCTET_STRING).ok_or(BROKEN)?.content)
}

/// Whether an answer's ResponderID means this one.
fn is_responder(id: Element<'_>, subject: &[u8], key: &SubjectPublicKeyInfoDer<'_>) -> bool {
    if id.tag == 0xa1 {
        let names = [id.content, subject].map(CanonicalName::read);
        return names[0].is_some() && names[0] == names[1];
    }
    let hash = only(id.content, tag::OCTET_STRING).map(|hash| hash.content);
    key_bits(key).is_some_and(|bits| hash == Some(&*Sha1::digest(bits)))
}

/// The subjectPublicKey, without the count of unused bits.
fn key_bits<'a>(key: &'a SubjectPublicKeyInfoDer<'_>) -> Option<&'a [u8]> {
    let mut fields = only(key.as_ref(), tag::SEQUENCE)?.content;
    let _algorithm = take_tagged(&mut fields, tag::SEQUENCE)?;
    only(fields, tag::BIT_STRING)?.content.strip_prefix(&[0])
}

fn generalized_time(fields: &mut &[u8]) -> Option<UnixSeconds> {
    time(&take_tagged(fields, tag::GENERALIZED_TIME)?)
}

/// Takes the extensions at the end of a structure. `None`: not readable, or one that must be understood is not.
fn no_critical_extension(fields: &mut &[u8]) -> Option<()> {
    let Some(wrapped) = take_tagged(fields, 0xa1) else { return Some(()) };
    let mut list = only(wrapped.content, tag::SEQUENCE)?.content;
    while !list.is_empty() {
        take_extension(&mut list).filter(|extension| !extension.critical)?;
    }
    Some(())
}

/// Writes one element.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut der = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length @ ..=0x7f) => der.push(length),
        _ => {
            let digits = content.len().to_be_bytes();
            let digits = &digits[content.len().leading_zeros() as usize / 8..];
            der.push(0x80 | digits.len() as u8);
            der.extend(digits);
        }
    }
    der.extend(content);
    der
}
