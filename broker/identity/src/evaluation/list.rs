//! One certificate revocation list: RFC 5280, section 5, read strictly. Complete lists of the CA's own
//! certificates are understood; delta lists, indirect lists and lists of some reasons only are refused by name,
//! because half-understood they would let a revoked certificate in.

use std::sync::{Arc, OnceLock};

use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::links::authority_key_id;
use super::signature::{subject_public_key_info, verify_certificate_signature};
use crate::certificate::{
    CanonicalName, CertificateFacts, Structure, distinguished_name, integer, object_identifier, oid, only,
    tag, take, take_extension, take_tagged, time,
};
use crate::time::UnixSeconds;

/// Bytes of one list, unless configured otherwise.
pub const DEFAULT_MAX_LIST_BYTES: usize = 10 << 20;
/// Extensions of one list, and names of its distribution point.
const MAX_LIST_PARTS: usize = 64;
/// Keys that did not make a list, of which that is remembered.
const REMEMBERED_KEYS: usize = 4;

const CRL_NUMBER: &str = "2.5.29.20";
const REASON_CODE: &str = "2.5.29.21";
const INVALIDITY_DATE: &str = "2.5.29.24";
const DELTA_CRL_INDICATOR: &str = "2.5.29.27";
const ISSUING_DISTRIBUTION_POINT: &str = "2.5.29.28";
const CERTIFICATE_ISSUER: &str = "2.5.29.29";

/// A list that can be used. Who signed it is another question: [`RevocationList::is_signed_by`].
#[derive(Debug, Clone)]
pub struct RevocationList {
    der: Arc<[u8]>,
    pub(super) issuer: CanonicalName,
    issuer_display: String,
    issuer_raw: Vec<u8>,
    pub(super) issuer_key_id: Option<Vec<u8>>,
    pub this_update: UnixSeconds,
    /// RFC 5280 asks for it; a list without it is stale from the beginning.
    pub next_update: Option<UnixSeconds>,
    /// Big-endian.
    pub number: Option<Vec<u8>>,
    users: bool,
    cas: bool,
    /// Names of the distribution point that the list is of; of all if empty.
    points: Vec<PointName>,
    /// Sorted by serial number.
    entries: Vec<Entry>,
    tried: Tried,
}

/// A name of a distribution point, as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PointName {
    Directory(CanonicalName),
    /// DER of a GeneralName.
    Other(Vec<u8>),
}

/// Keys that the signature was checked with, as DER. A list is large, and the answer never another: it is worked out
/// once for each key.
#[derive(Debug, Clone, Default)]
struct Tried {
    maker: OnceLock<Box<[u8]>>,
    others: [OnceLock<Box<[u8]>>; REMEMBERED_KEYS],
}

/// Where a serial number lies in the list.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    length: u8,
    reason: u8,
}

/// A list that is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error("malformed revocation list: {0}")]
    Malformed(&'static str),
    #[error("the revocation list has {0} bytes, and at most {1} are accepted: raise `crl.max_size`")]
    TooLarge(usize, usize),
    #[error(
        "a delta revocation list says only what changed since another one: give the complete list of the CA"
    )]
    Delta,
    #[error(
        "an indirect revocation list speaks for other CAs than its issuer, which is not supported: give the list that the CA itself signs"
    )]
    Indirect,
    #[error("a revocation list of only some reasons leaves others out: give the complete list of the CA")]
    SomeReasons,
    #[error("a revocation list of attribute certificates says nothing of clients' certificates")]
    AttributeCertificates,
    #[error(
        "a critical extension of the revocation list is not known here, so nothing in it can be relied on"
    )]
    UnknownExtension,
}

impl RevocationList {
    /// Reads one list as DER, and nothing after it.
    pub fn parse(der: &[u8], max_bytes: usize) -> Result<Self, ListError> {
        use ListError::Malformed;
        if der.len() > max_bytes.min(u32::MAX as usize) {
            return Err(ListError::TooLarge(der.len(), max_bytes));
        }
        let (tbs, _, _) = signed_parts(der).ok_or(Malformed("its structure"))?;
        let mut fields = only(tbs, tag::SEQUENCE).ok_or(Malformed("its structure"))?.content;
        let is_version_2 = match take_tagged(&mut fields, tag::INTEGER).map(|version| version.content) {
            None => false,
            Some([1]) => true,
            Some(_) => return Err(Malformed("the version: 2 is expected")),
        };
        let _algorithm = take_tagged(&mut fields, tag::SEQUENCE).ok_or(Malformed("its structure"))?;
        let issuer = take_tagged(&mut fields, tag::SEQUENCE).ok_or(Malformed("the issuer"))?;
        let mut next_time = || {
            let mut ahead = fields;
            let read = time(&take(&mut ahead)?)?;
            fields = ahead;
            Some(read)
        };
        let this_update = next_time().ok_or(Malformed("the time of this update"))?;
        let next_update = next_time();
        let issuer_display = distinguished_name(issuer.raw).map_err(|_| Malformed("the issuer"))?.display;
        let issuer_raw = issuer.raw.to_vec();
        let issuer = CanonicalName::read(issuer.raw)
            .filter(|issuer| !issuer.is_empty())
            .ok_or(Malformed("the issuer"))?;
        let mut list = Self {
            der: der.into(),
            issuer,
            issuer_display,
            issuer_raw,
            issuer_key_id: None,
            this_update,
            next_update,
            number: None,
            users: true,
            cas: true,
            points: Vec::new(),
            entries: Vec::new(),
            tried: Tried::default(),
        };
        if let Some(entries) = take_tagged(&mut fields, tag::SEQUENCE) {
            list.entries = read_entries(der, entries.content, is_version_2)?;
        }
        if let Some(extensions) = take_tagged(&mut fields, 0xa0) {
            if !is_version_2 {
                return Err(Malformed("the version: only version 2 has extensions"));
            }
            let extensions = only(extensions.content, tag::SEQUENCE).ok_or(Malformed("the extensions"))?;
            list.read_extensions(extensions.content)?;
        }
        if !fields.is_empty() {
            return Err(Malformed("its structure"));
        }
        Ok(list)
    }

    fn read_extensions(&mut self, mut rest: &[u8]) -> Result<(), ListError> {
        const BROKEN: ListError = ListError::Malformed("an extension");
        let mut known: Vec<String> = Vec::new();
        while !rest.is_empty() {
            let extension = take_extension(&mut rest).ok_or(BROKEN)?;
            let id = object_identifier(extension.oid).ok_or(BROKEN)?;
            if known.len() == MAX_LIST_PARTS {
                return Err(ListError::Malformed("there are more than 64 extensions"));
            }
            if known.contains(&id) {
                return Err(ListError::Malformed("the extensions: one of them is there twice"));
            }
            match id.as_str() {
                CRL_NUMBER => {
                    let mut value = extension.value;
                    let number = integer(&mut value).filter(|_| value.is_empty()).ok_or(BROKEN)?;
                    self.number = Some(number.strip_prefix(&[0]).unwrap_or(number).to_vec());
                }
                oid::AUTHORITY_KEY_IDENTIFIER => {
                    self.issuer_key_id = authority_key_id(extension.value).ok_or(BROKEN)?;
                }
                DELTA_CRL_INDICATOR => return Err(ListError::Delta),
                ISSUING_DISTRIBUTION_POINT => self.read_distribution_point(extension.value)?,
                _ if extension.critical => return Err(ListError::UnknownExtension),
                _ => {}
            }
            known.push(id);
        }
        Ok(())
    }

    /// RFC 5280, 5.2.5.
    fn read_distribution_point(&mut self, value: &[u8]) -> Result<(), ListError> {
        const BROKEN: ListError = ListError::Malformed("the issuing distribution point");
        let mut fields = only(value, tag::SEQUENCE).ok_or(BROKEN)?.content;
        if let Some(point) = take_tagged(&mut fields, 0xa0) {
            self.points = point_names(point.content, &self.issuer).ok_or(BROKEN)?;
            if self.points.len() > MAX_LIST_PARTS {
                return Err(ListError::Malformed("its distribution point has more than 64 names"));
            }
        }
        let mut flag = |tag: u8| match take_tagged(&mut fields, tag).map(|flag| flag.content) {
            None | Some([0x00]) => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(BROKEN),
        };
        let (only_users, only_cas) = (flag(0x81)?, flag(0x82)?);
        if take_tagged(&mut fields, 0x83).is_some() {
            return Err(ListError::SomeReasons);
        }
        let mut flag = |tag: u8| match take_tagged(&mut fields, tag).map(|flag| flag.content) {
            None | Some([0x00]) => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(BROKEN),
        };
        let (is_indirect, only_attributes) = (flag(0x84)?, flag(0x85)?);
        if is_indirect {
            return Err(ListError::Indirect);
        }
        if only_attributes {
            return Err(ListError::AttributeCertificates);
        }
        if !fields.is_empty() || (only_users && only_cas) {
            return Err(BROKEN);
        }
        (self.users, self.cas) = (!only_cas, !only_users);
        Ok(())
    }

    /// RFC 4514 rendering of who says to have issued it.
    pub fn issuer(&self) -> &str {
        &self.issuer_display
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn der(&self) -> &Arc<[u8]> {
        &self.der
    }

    /// RFC 5280, 5.3.1, if the certificate with this serial number is on the list; 0 is "unspecified".
    pub fn reason_of(&self, serial: &[u8]) -> Option<u8> {
        let serial = normal(serial);
        let found = self.entries.binary_search_by(|entry| normal(self.serial(entry)).cmp(serial));
        found.ok().and_then(|at| self.entries.get(at)).map(|entry| entry.reason)
    }

    /// The same for one certificate, by the whole number: 255 and -1 end in the same byte.
    pub(super) fn reason_for(&self, facts: &CertificateFacts) -> Option<u8> {
        let Ok(Structure { serial, .. }) = Structure::read(&facts.der) else {
            return self.reason_of(&facts.serial);
        };
        let first = self.entries.partition_point(|entry| normal(self.serial(entry)) < normal(serial));
        let mut alike =
            self.entries.iter().skip(first).take_while(|entry| normal(self.serial(entry)) == normal(serial));
        alike.find(|entry| self.serial(entry) == serial).map(|entry| entry.reason)
    }

    fn serial(&self, entry: &Entry) -> &[u8] {
        let start = entry.start as usize;
        self.der.get(start..start + usize::from(entry.length)).unwrap_or_default()
    }

    /// Whether the list speaks of certificates like this one: RFC 5280, 6.3.3 (b).
    pub(super) fn covers(&self, facts: &CertificateFacts) -> bool {
        let of_kind = if facts.is_ca { self.cas } else { self.users };
        of_kind
            && (self.points.is_empty()
                || distribution_points(facts).iter().any(|name| self.points.contains(name)))
    }

    /// DER of the issuer's name.
    pub fn issuer_raw(&self) -> &[u8] {
        &self.issuer_raw
    }

    /// Every serial number on it.
    pub fn serials(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|entry| normal(self.serial(entry)))
    }

    /// Whether the CA has the issuer's name.
    pub fn is_named_after(&self, ca: &CertificateFacts) -> bool {
        CanonicalName::read(&ca.subject.raw).is_some_and(|subject| subject == self.issuer)
    }

    /// Whether the CA has the issuer's name, may sign lists, and its key made this one.
    pub fn is_made_by(&self, ca: &CertificateFacts) -> bool {
        self.is_named_after(ca)
            && ca.key_usage.is_none_or(|usage| usage.crl_sign)
            && subject_public_key_info(&ca.der).is_ok_and(|key| self.is_signed_by(&key))
    }

    /// Whether this key made it.
    pub(super) fn is_signed_by(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        let is_it = |known: &OnceLock<Box<[u8]>>| known.get().is_some_and(|known| **known == **key);
        if is_it(&self.tried.maker) {
            return true;
        }
        if self.tried.others.iter().any(is_it) {
            return false;
        }
        let made = signed_parts(&self.der).is_some_and(|(tbs, algorithm, signature)| {
            verify_certificate_signature(key, algorithm, tbs, signature).is_ok()
        });
        let places = match made {
            true => std::slice::from_ref(&self.tried.maker),
            false => &self.tried.others,
        };
        // Where there is no place any more it is worked out again.
        let _ = places.iter().find(|place| place.set((**key).into()).is_ok());
        made
    }

    /// Whether the key of a CA is known to have made it: it was seen above a certificate that the list is about.
    pub fn is_proved(&self) -> bool {
        self.tried.maker.get().is_some()
    }

    /// Whether it was made by the same key as `other`, as far as that is known.
    pub fn is_made_as(&self, other: &Self) -> bool {
        let maker = other.tried.maker.get();
        maker.is_some_and(|key| self.is_signed_by(&SubjectPublicKeyInfoDer::from(&**key)))
    }

    /// Whether it was issued after `other`.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let number = |list: &Self| list.number.clone().map(|number| (number.len(), number));
        match (number(self), number(other)) {
            (Some(ours), Some(theirs)) if ours != theirs => ours > theirs,
            _ => self.this_update > other.this_update,
        }
    }

    /// Of the same CA's key and for the same certificates, as far as can be told without keys.
    pub fn replaces(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && self.issuer_key_id == other.issuer_key_id
            && self.is_about_the_same_as(other)
    }

    /// For the same certificates of one CA. RFC 5280, 5.2.3: numbers are counted for each such scope by itself.
    pub fn is_about_the_same_as(&self, other: &Self) -> bool {
        self.points == other.points && (self.users, self.cas) == (other.users, other.cas)
    }
}

/// A serial number as it is sorted and shown: a leading zero byte only says that the number is positive.
fn normal(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        serial => serial,
    }
}

/// What is signed, the content of the AlgorithmIdentifier, and the signature.
fn signed_parts(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut parts = only(der, tag::SEQUENCE)?.content;
    let tbs = take_tagged(&mut parts, tag::SEQUENCE)?;
    let algorithm = take_tagged(&mut parts, tag::SEQUENCE)?;
    let signature = only(parts, tag::BIT_STRING)?.content.strip_prefix(&[0])?;
    // RFC 5280, 5.1.1.2: both fields are the same.
    let mut fields = tbs.content;
    let _version = take_tagged(&mut fields, tag::INTEGER);
    let inner = take_tagged(&mut fields, tag::SEQUENCE)?;
    (inner.content == algorithm.content).then_some((tbs.raw, algorithm.content, signature))
}

fn read_entries(der: &[u8], mut rest: &[u8], is_version_2: bool) -> Result<Vec<Entry>, ListError> {
    const BROKEN: ListError = ListError::Malformed("an entry");
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let mut fields = take_tagged(&mut rest, tag::SEQUENCE).ok_or(BROKEN)?.content;
        let serial = integer(&mut fields).ok_or(BROKEN)?;
        take(&mut fields).and_then(|date| time(&date)).ok_or(BROKEN)?;
        let mut reason = 0;
        if let Some(extensions) = take_tagged(&mut fields, tag::SEQUENCE) {
            if !is_version_2 {
                return Err(ListError::Malformed("the version: only version 2 has extensions"));
            }
            reason = read_entry_extensions(extensions.content)?;
        }
        if !fields.is_empty() {
            return Err(BROKEN);
        }
        let length = u8::try_from(serial.len()).map_err(|_| BROKEN)?;
        // The serial number is a part of the list.
        let start = (serial.as_ptr() as usize).wrapping_sub(der.as_ptr() as usize);
        entries.push(Entry { start: u32::try_from(start).map_err(|_| BROKEN)?, length, reason });
    }
    let serial = |entry: &Entry| {
        let start = entry.start as usize;
        normal(der.get(start..start + usize::from(entry.length)).unwrap_or_default())
    };
    entries.sort_by(|a, b| serial(a).cmp(serial(b)));
    Ok(entries)
}

fn read_entry_extensions(mut rest: &[u8]) -> Result<u8, ListError> {
    const BROKEN: ListError = ListError::Malformed("an entry's extension");
    let mut reason = 0;
    while !rest.is_empty() {
        let extension = take_extension(&mut rest).ok_or(BROKEN)?;
        match object_identifier(extension.oid).ok_or(BROKEN)?.as_str() {
            REASON_CODE => {
                let Some([code]) = only(extension.value, tag::ENUMERATED).map(|code| code.content) else {
                    return Err(BROKEN);
                };
                reason = *code;
            }
            CERTIFICATE_ISSUER => return Err(ListError::Indirect),
            INVALIDITY_DATE => {}
            _ if extension.critical => return Err(ListError::UnknownExtension),
            _ => {}
        }
    }
    Ok(reason)
}

/// The names in a DistributionPointName, which is the full ones or one relative to the issuer.
fn point_names(mut choice: &[u8], issuer: &CanonicalName) -> Option<Vec<PointName>> {
    let name = take(&mut choice).filter(|_| choice.is_empty())?;
    let mut rest = match name.tag {
        0xa0 => name.content,
        0xa1 => return Some(vec![PointName::Directory(issuer.below(name.content)?)]),
        _ => return None,
    };
    let mut names = Vec::new();
    while !rest.is_empty() {
        let name = take(&mut rest)?;
        let directory = (name.tag == 0xa4).then(|| CanonicalName::read(name.content)).flatten();
        names.push(directory.map_or_else(|| PointName::Other(name.raw.to_vec()), PointName::Directory));
    }
    (!names.is_empty()).then_some(names)
}

/// The names of a certificate's distribution points that are of its own CA and for all reasons.
fn distribution_points(facts: &CertificateFacts) -> Vec<PointName> {
    let points = || {
        let mut list = only(&facts.extension(oid::CRL_DISTRIBUTION_POINTS)?.raw, tag::SEQUENCE)?.content;
        let issuer = CanonicalName::read(&facts.issuer.raw)?;
        let mut names = Vec::new();
        while !list.is_empty() {
            let mut fields = take_tagged(&mut list, tag::SEQUENCE)?.content;
            let point = take_tagged(&mut fields, 0xa0);
            if let Some(point) = point.filter(|_| fields.is_empty()) {
                names.extend(point_names(point.content, &issuer)?);
            }
        }
        Some(names)
    };
    points().unwrap_or_default()
}

/// The `http` URLs at which a certificate's CA says that its revocation list can be fetched.
pub fn distribution_urls(facts: &CertificateFacts) -> Vec<String> {
    let url = |name: &PointName| {
        let PointName::Other(name) = name else { return None };
        let text = std::str::from_utf8(only(name, 0x86)?.content).ok()?;
        let fits = text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| text.to_owned())
    };
    distribution_points(facts).iter().filter_map(url).collect()
}
