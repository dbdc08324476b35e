//! The parts of a certificate as they stand in its DER: RFC 5280, 4.1, read strictly. What an extension means,
//! and whether anything here is acceptable, is not known here.

use super::der::{self, tag};
use super::{CertificateError, MAX_CERTIFICATE_BYTES};
use crate::time::UnixSeconds;

/// One certificate, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Structure<'a> {
    /// What is signed: tag, length and content.
    pub tbs: &'a [u8],
    /// Content of the `AlgorithmIdentifier`; the inner and the outer one are the same.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
    /// 1, 2 or 3.
    pub version: u8,
    /// Content of the INTEGER.
    pub serial: &'a [u8],
    pub issuer: &'a [u8],
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    /// Each end of the validity has the type that RFC 5280 asks for in its year.
    pub has_proper_times: bool,
    pub subject: &'a [u8],
    /// The SubjectPublicKeyInfo, as DER.
    pub key: &'a [u8],
    pub has_unique_ids: bool,
    /// Content of the SEQUENCE of extensions; empty if there is none.
    pub extensions: &'a [u8],
}

/// One extension, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawExtension<'a> {
    /// Content of the object identifier.
    pub oid: &'a [u8],
    pub critical: bool,
    /// "Not critical" is written down although it is the default, which DER does not allow.
    pub spells_default: bool,
    pub value: &'a [u8],
}

const fn malformed(what: &'static str) -> CertificateError {
    CertificateError::Malformed(what)
}

impl<'a> Structure<'a> {
    /// Reads one certificate, and nothing after it.
    pub(crate) fn read(der: &'a [u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLarge("bytes", MAX_CERTIFICATE_BYTES));
        }
        let mut parts = der::only(der, tag::SEQUENCE).ok_or(malformed("the DER encoding"))?.content;
        let broken = malformed("the structure of the certificate");
        let tbs = der::take_tagged(&mut parts, tag::SEQUENCE).ok_or(broken)?;
        let algorithm = der::take_tagged(&mut parts, tag::SEQUENCE).ok_or(broken)?;
        let signature = der::only(parts, tag::BIT_STRING).ok_or(broken)?;
        let signature = signature.content.strip_prefix(&[0]).ok_or(malformed("the signature"))?;

        let mut fields = tbs.content;
        let version = version(&mut fields)?;
        let serial = der::integer(&mut fields).ok_or(malformed("the serial number"))?;
        let inner = der::take_tagged(&mut fields, tag::SEQUENCE).ok_or(broken)?;
        // RFC 5280, 4.1.1.2: both are the same; only the inner one is signed.
        if inner.content != algorithm.content {
            return Err(malformed("the signature algorithms: the two fields differ"));
        }
        let issuer = der::take_tagged(&mut fields, tag::SEQUENCE).ok_or(broken)?;
        let validity = der::take_tagged(&mut fields, tag::SEQUENCE).ok_or(broken)?;
        let (not_before, not_after, has_proper_times) = read_validity(validity.content)?;
        let subject = der::take_tagged(&mut fields, tag::SEQUENCE).ok_or(broken)?;
        let key = der::take_tagged(&mut fields, tag::SEQUENCE).ok_or(malformed("the public key"))?;
        let issuer_id = der::take_tagged(&mut fields, 0x81);
        let subject_id = der::take_tagged(&mut fields, 0x82);
        let wrapped = der::take_tagged(&mut fields, 0xa3);
        if !fields.is_empty() {
            return Err(broken);
        }
        let has_unique_ids = issuer_id.is_some() || subject_id.is_some();
        if has_unique_ids && version < 2 {
            return Err(malformed("the version: only versions 2 and 3 have unique identifiers"));
        }
        let extensions = match wrapped {
            None => &[][..],
            Some(_) if version < 3 => {
                return Err(malformed("the version: only version 3 has extensions"));
            }
            // RFC 5280, 4.1: SIZE (1..MAX)
            Some(wrapped) => {
                der::only(wrapped.content, tag::SEQUENCE)
                    .filter(|list| !list.content.is_empty())
                    .ok_or(malformed("the extensions"))?
                    .content
            }
        };
        Ok(Self {
            tbs: tbs.raw,
            algorithm: algorithm.content,
            signature,
            version,
            serial,
            issuer: issuer.raw,
            not_before,
            not_after,
            has_proper_times,
            subject: subject.raw,
            key: key.raw,
            has_unique_ids,
            extensions,
        })
    }
}

/// Takes the next extension off a list of them.
pub(crate) fn take_extension<'a>(list: &mut &'a [u8]) -> Option<RawExtension<'a>> {
    let mut fields = der::take_tagged(list, tag::SEQUENCE)?.content;
    let oid = der::take_tagged(&mut fields, tag::OBJECT_IDENTIFIER)?.content;
    let critical = match der::take_tagged(&mut fields, tag::BOOLEAN) {
        Some(critical) => Some(der::boolean(critical.content)?),
        None => None,
    };
    let value = der::only(fields, tag::OCTET_STRING)?.content;
    Some(RawExtension {
        oid,
        critical: critical.unwrap_or(false),
        spells_default: critical == Some(false),
        value,
    })
}

/// "Version" counts from zero and, being the default, version 1 is not written down.
fn version(fields: &mut &[u8]) -> Result<u8, CertificateError> {
    let Some(wrapped) = der::take_tagged(fields, 0xa0) else { return Ok(1) };
    match der::only(wrapped.content, tag::INTEGER).map(|number| number.content) {
        Some([1]) => Ok(2),
        Some([2]) => Ok(3),
        _ => Err(malformed("the version")),
    }
}

fn read_validity(mut content: &[u8]) -> Result<(UnixSeconds, UnixSeconds, bool), CertificateError> {
    /// From here on, UTCTime cannot be used, and before, GeneralizedTime must not: RFC 5280, 4.1.2.5.
    const YEAR_2050: i64 = 2_524_608_000;
    const BROKEN: CertificateError = malformed("the validity");
    let mut is_proper = true;
    let mut next = || {
        let element = der::take(&mut content)?;
        let time = der::time(&element)?;
        is_proper &= (element.tag == tag::GENERALIZED_TIME) == (time.0 >= YEAR_2050);
        Some((time, content.is_empty()))
    };
    let (not_before, _) = next().ok_or(BROKEN)?;
    let (not_after, is_last) = next().ok_or(BROKEN)?;
    if !is_last {
        return Err(BROKEN);
    }
    if not_before > not_after {
        return Err(malformed("the validity: it ends before it begins"));
    }
    Ok((not_before, not_after, is_proper))
}
