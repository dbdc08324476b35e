//! What ties a certificate to those above and below it: names in comparable form, key identifiers, its key,
//! its name constraints. Read once for a trust anchor, and once per handshake for what a client sends.

use std::sync::Arc;

use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::Rejection;
use super::name_constraints::NameConstraints;
use crate::certificate::{CanonicalName, CertificateFacts, Structure, oid, only, tag, take_tagged};
use crate::reason::Reason;

#[derive(Debug, Clone)]
pub(super) struct Links {
    pub subject: CanonicalName,
    pub issuer: CanonicalName,
    pub key: SubjectPublicKeyInfoDer<'static>,
    /// Subject key identifier.
    pub key_id: Option<Vec<u8>>,
    /// Of the issuer, by the authority key identifier.
    pub issuer_key_id: Option<Vec<u8>>,
    pub constraints: Option<Arc<NameConstraints>>,
}

impl Links {
    pub(super) fn read(facts: &CertificateFacts) -> Result<Self, Rejection> {
        let malformed = |what: &str| {
            Rejection::new(
                Reason::CertMalformed,
                format!("{what} of \"{}\" cannot be read", facts.subject.display),
            )
        };
        let structure = Structure::read(&facts.der)?;
        let name = |raw: &[u8]| CanonicalName::read(raw).ok_or_else(|| malformed("a name"));
        let key_id = match facts.extension(oid::SUBJECT_KEY_IDENTIFIER) {
            Some(extension) => {
                let id = only(&extension.raw, tag::OCTET_STRING)
                    .ok_or_else(|| malformed("the subject key identifier"))?;
                Some(id.content.to_vec())
            }
            None => None,
        };
        let issuer_key_id = match facts.extension(oid::AUTHORITY_KEY_IDENTIFIER) {
            Some(extension) => {
                authority_key_id(&extension.raw).ok_or_else(|| malformed("the authority key identifier"))?
            }
            None => None,
        };
        let constraints = match facts.extension(oid::NAME_CONSTRAINTS) {
            Some(extension) => Some(Arc::new(NameConstraints::read(&extension.raw)?)),
            None => None,
        };
        Ok(Self {
            subject: name(structure.subject)?,
            issuer: name(structure.issuer)?,
            key: SubjectPublicKeyInfoDer::from(structure.key.to_vec()),
            key_id,
            issuer_key_id,
            constraints,
        })
    }

    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether the key identifiers name `issuer`, another key, or nobody.
    pub(super) fn hint(&self, issuer: &Self) -> Hint {
        match (&self.issuer_key_id, &issuer.key_id) {
            (Some(wanted), Some(id)) if wanted == id => Hint::Meant,
            (Some(_), Some(_)) => Hint::NotMeant,
            _ => Hint::Unknown,
        }
    }
}

/// Whether an issuer is the one that a certificate's authority key identifier means. A hint for the order in
/// which issuers are tried: RFC 5280, 4.2.1.1, makes it a help in building paths, not a condition of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    Meant,
    Unknown,
    NotMeant,
}

/// Subject and authority key identifier of a certificate, where it has them and they can be read.
pub fn key_ids(facts: &CertificateFacts) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let subject = facts
        .extension(oid::SUBJECT_KEY_IDENTIFIER)
        .and_then(|extension| only(&extension.raw, tag::OCTET_STRING))
        .map(|id| id.content.to_vec());
    let authority = facts
        .extension(oid::AUTHORITY_KEY_IDENTIFIER)
        .and_then(|extension| authority_key_id(&extension.raw).flatten());
    (subject, authority)
}

/// The key identifier in an authority key identifier. Outer `None`: malformed.
pub(super) fn authority_key_id(value: &[u8]) -> Option<Option<Vec<u8>>> {
    let mut fields = only(value, tag::SEQUENCE)?.content;
    let id = take_tagged(&mut fields, 0x80).map(|id| id.content.to_vec());
    let issuer = take_tagged(&mut fields, 0xa1);
    let serial = take_tagged(&mut fields, 0x82);
    // Issuer and serial number come together.
    (fields.is_empty() && issuer.is_some() == serial.is_some()).then_some(id)
}
