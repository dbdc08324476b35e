//! A certificate as facts: parsed once, owned, typed. Mirrors the WIT interface `certificates`.

mod compare;
mod der;
mod name;
mod parse;
mod pem;
mod structure;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::compare::NameKey;
pub(crate) use self::compare::{CanonicalName, Subtree};
pub(crate) use self::der::{
    Element, integer, object_identifier, only, tag, take, take_tagged, time, unsigned,
};
pub use self::name::{MAX_NAME_ATTRIBUTES, MAX_SUBJECT_ALT_NAMES};
pub(crate) use self::name::{attribute_short_name, distinguished_name, is_attribute_name, is_deceptive};
pub(crate) use self::parse::oid;
pub use self::parse::{MAX_CERTIFICATE_BYTES, MAX_EXTENSIONS};
pub use self::pem::{certificates_from_pem, to_pem};
pub(crate) use self::structure::{Structure, take_extension};
use crate::reason::Reason;
use crate::time::UnixSeconds;

/// Bytes that are not a certificate, or one beyond our limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("malformed certificate: {0}")]
    Malformed(&'static str),
    #[error("the certificate has too many {0}: at most {1} are accepted")]
    TooLarge(&'static str, usize),
}

impl CertificateError {
    pub const fn reason(self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::CertMalformed,
            Self::TooLarge(..) => Reason::CertTooLarge,
        }
    }
}

/// SHA-256 over the DER of a certificate: its identity everywhere in mqgate. Shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateFingerprint(pub [u8; 32]);

/// One attribute of a distinguished name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAttribute {
    /// Dotted object identifier.
    pub oid: String,
    /// Only if the value is a string type that decodes strictly and holds no control character.
    pub text: Option<String>,
    /// DER of the value.
    pub raw: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistinguishedName {
    /// RFC 4514 rendering, for logs; nothing may be decided on it.
    pub display: String,
    /// In certificate order, multi-valued RDNs flattened.
    pub attributes: Vec<NameAttribute>,
    /// DER of the whole name.
    pub raw: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GeneralName {
    Dns(String),
    Email(String),
    Uri(String),
    /// 4 or 16 bytes.
    Ip(Vec<u8>),
    RegisteredId(String),
    /// DER of the name.
    Directory(Vec<u8>),
    /// Object identifier and DER of the value.
    Other(String, Vec<u8>),
    /// Its text did not decode strictly: tag number and content.
    Malformed(u8, Vec<u8>),
}

/// RFC 5280, 4.2.1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyUsage {
    pub digital_signature: bool,
    pub content_commitment: bool,
    pub key_encipherment: bool,
    pub data_encipherment: bool,
    pub key_agreement: bool,
    pub key_cert_sign: bool,
    pub crl_sign: bool,
    pub encipher_only: bool,
    pub decipher_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    pub oid: String,
    pub critical: bool,
    pub raw: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub algorithm_oid: String,
    /// Bits of the modulus or of the curve order; 0 if unknown.
    pub bits: u32,
    /// SHA-256 over the DER SubjectPublicKeyInfo: stable across renewals that keep the key.
    pub spki_sha256: [u8; 32],
}

/// Parsed, owned facts of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    pub certificate_fingerprint: CertificateFingerprint,
    /// X.509 version: 1, 2 or 3.
    pub version: u8,
    /// Big-endian, sign byte removed.
    pub serial: Vec<u8>,
    pub subject: DistinguishedName,
    pub issuer: DistinguishedName,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    pub subject_alt_names: Vec<GeneralName>,
    pub key_usage: Option<KeyUsage>,
    pub extended_key_usage: Vec<String>,
    pub is_ca: bool,
    pub public_key: PublicKey,
    /// Every extension, raw, those parsed above included.
    pub extensions: Vec<Extension>,
    pub der: Arc<[u8]>,
}

/// The certificate a client proved to hold the key of, and how it was judged.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    pub leaf: CertificateFacts,
    /// DER of the intermediates the client sent, in order.
    pub intermediates: Vec<Arc<[u8]>>,
    pub anchor: MatchedAnchor,
    /// SHA-256 of the public key that signed the leaf: the anchor's, or an intermediate's.
    pub issuer_key: [u8; 32],
    /// The earliest end of validity on the path, anchor included.
    pub not_after: UnixSeconds,
    /// Names the trust set and the rules that it was judged by.
    pub judged_by: u64,
}

/// The trust anchor that the validated path ends in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchedAnchor {
    /// Name given by the operator.
    pub name: Arc<str>,
    pub certificate_fingerprint: CertificateFingerprint,
}

impl CertificateFingerprint {
    pub fn to_hex(self) -> String {
        self.write_hex(&mut [0; 64]).to_owned()
    }

    /// The same, in memory of the caller.
    pub fn write_hex(self, digits: &mut [u8; 64]) -> &str {
        hex::encode_to_slice(self.0, digits).expect("two digits for each of 32 bytes");
        std::str::from_utf8(digits).expect("digits are ASCII")
    }

    /// Reads 64 hex digits of either case; colons between bytes are accepted, as OpenSSL prints them.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.replace(':', ""), &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl std::fmt::Display for CertificateFingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.write_hex(&mut [0; 64]))
    }
}

impl std::fmt::Debug for CertificateFingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for CertificateFingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.write_hex(&mut [0; 64]))
    }
}

impl<'de> Deserialize<'de> for CertificateFingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("a SHA-256 of 64 hex digits was expected"))
    }
}

impl schemars::JsonSchema for CertificateFingerprint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CertificateFingerprint".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}
