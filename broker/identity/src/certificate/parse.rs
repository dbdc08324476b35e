//! DER to [`CertificateFacts`]. Reads, never judges: who signed a certificate is `evaluation`'s subject.

use sha2::{Digest, Sha256};

use super::der::{self, tag};
use super::name::{distinguished_name, general_names};
use super::structure::{Structure, take_extension};
use super::{CertificateError, CertificateFacts, CertificateFingerprint, Extension, KeyUsage, PublicKey};

/// DER bytes of one certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// Extensions of one certificate, and usages in its extended key usage.
pub const MAX_EXTENSIONS: usize = 64;
/// RFC 5280 allows 20; older CAs used more.
const MAX_SERIAL_BYTES: usize = 64;

pub(crate) mod oid {
    pub(crate) const KEY_USAGE: &str = "2.5.29.15";
    pub(crate) const SUBJECT_ALT_NAME: &str = "2.5.29.17";
    pub(crate) const BASIC_CONSTRAINTS: &str = "2.5.29.19";
    pub(crate) const NAME_CONSTRAINTS: &str = "2.5.29.30";
    pub(crate) const CRL_DISTRIBUTION_POINTS: &str = "2.5.29.31";
    pub(crate) const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
    pub(crate) const SUBJECT_KEY_IDENTIFIER: &str = "2.5.29.14";
    pub(crate) const AUTHORITY_KEY_IDENTIFIER: &str = "2.5.29.35";
    pub(crate) const CERTIFICATE_POLICIES: &str = "2.5.29.32";
    pub(crate) const POLICY_MAPPINGS: &str = "2.5.29.33";
    pub(crate) const POLICY_CONSTRAINTS: &str = "2.5.29.36";
    pub(crate) const INHIBIT_ANY_POLICY: &str = "2.5.29.54";
    pub(crate) const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
    pub(crate) const RSA_PSS: &str = "1.2.840.113549.1.1.10";
    pub(crate) const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
    pub(crate) const ED25519: &str = "1.3.101.112";
}

impl CertificateFacts {
    /// Reads one DER certificate, and nothing after it.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let structure = Structure::read(der)?;
        let mut facts = Self {
            certificate_fingerprint: CertificateFingerprint::of(der),
            version: structure.version,
            serial: serial(structure.serial)?,
            subject: distinguished_name(structure.subject)?,
            issuer: distinguished_name(structure.issuer)?,
            not_before: structure.not_before,
            not_after: structure.not_after,
            subject_alt_names: Vec::new(),
            key_usage: None,
            extended_key_usage: Vec::new(),
            is_ca: false,
            public_key: public_key(structure.key)?,
            extensions: Vec::new(),
            der: der.into(),
        };
        let mut rest = structure.extensions;
        while !rest.is_empty() {
            let extension = take_extension(&mut rest).ok_or(CertificateError::Malformed("the extensions"))?;
            facts.add_extension(extension.oid, extension.critical, extension.value)?;
        }
        Ok(facts)
    }

    fn add_extension(&mut self, oid: &[u8], critical: bool, value: &[u8]) -> Result<(), CertificateError> {
        let oid =
            der::object_identifier(oid).ok_or(CertificateError::Malformed("an extension's identifier"))?;
        if self.extensions.len() == MAX_EXTENSIONS {
            return Err(CertificateError::TooLarge("extensions", MAX_EXTENSIONS));
        }
        // RFC 5280, 4.2: at most one instance of each.
        if self.extensions.iter().any(|known| known.oid == oid) {
            return Err(CertificateError::Malformed("the extensions: one of them is there twice"));
        }
        match oid.as_str() {
            oid::SUBJECT_ALT_NAME => self.subject_alt_names = general_names(value)?,
            oid::KEY_USAGE => self.key_usage = Some(key_usage(value)?),
            oid::EXTENDED_KEY_USAGE => self.extended_key_usage = extended_key_usage(value)?,
            oid::BASIC_CONSTRAINTS => self.is_ca = basic_constraints(value)?.0,
            _ => {}
        }
        self.extensions.push(Extension { oid, critical, raw: value.to_vec() });
        Ok(())
    }

    pub(crate) fn extension(&self, oid: &str) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.oid == oid)
    }

    /// The basic constraints extension, if there is one: is it a CA, and how many CAs may be below it.
    pub(crate) fn basic_constraints(&self) -> Option<(bool, Option<u32>)> {
        basic_constraints(&self.extension(oid::BASIC_CONSTRAINTS)?.raw).ok()
    }
}

impl CertificateFingerprint {
    /// SHA-256 of the DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

fn serial(raw: &[u8]) -> Result<Vec<u8>, CertificateError> {
    if raw.len() > MAX_SERIAL_BYTES {
        return Err(CertificateError::TooLarge("bytes of the serial number", MAX_SERIAL_BYTES));
    }
    match raw {
        [] => Err(CertificateError::Malformed("the serial number")),
        [0, rest @ ..] if !rest.is_empty() => Ok(rest.to_vec()),
        _ => Ok(raw.to_vec()),
    }
}

/// The algorithm and size of a key, from the DER of its SubjectPublicKeyInfo.
fn public_key(key: &[u8]) -> Result<PublicKey, CertificateError> {
    let parts = || {
        let mut parts = der::only(key, tag::SEQUENCE)?.content;
        let mut algorithm = der::take_tagged(&mut parts, tag::SEQUENCE)?.content;
        let bits = der::only(parts, tag::BIT_STRING)?.content.strip_prefix(&[0])?;
        let oid = der::object_identifier(der::take_tagged(&mut algorithm, tag::OBJECT_IDENTIFIER)?.content)?;
        let size = match oid.as_str() {
            oid::RSA_ENCRYPTION => {
                let mut numbers = der::only(bits, tag::SEQUENCE)?.content;
                let modulus = der::integer(&mut numbers)?;
                let _exponent = der::integer(&mut numbers)?;
                numbers.is_empty().then_some(())?;
                significant_bits(modulus)
            }
            oid::EC_PUBLIC_KEY => {
                // RFC 5480, 2.1.1: a curve has a name; one that is spelled out is of no use to anybody here.
                let curve = der::only(algorithm, tag::OBJECT_IDENTIFIER)
                    .and_then(|curve| der::object_identifier(curve.content));
                match curve.as_deref() {
                    Some("1.2.840.10045.3.1.7") => 256,
                    Some("1.3.132.0.34") => 384,
                    Some("1.3.132.0.35") => 521,
                    _ => 0,
                }
            }
            oid::ED25519 => 256,
            _ => 0,
        };
        Some((oid, size))
    };
    let (algorithm_oid, bits) = parts().ok_or(CertificateError::Malformed("the public key"))?;
    Ok(PublicKey { algorithm_oid, bits, spki_sha256: Sha256::digest(key).into() })
}

fn significant_bits(big_endian: &[u8]) -> u32 {
    let zeros = big_endian.iter().take_while(|&&byte| byte == 0).count();
    let digits = big_endian.get(zeros..).unwrap_or_default();
    digits.first().map_or(0, |first| digits.len() as u32 * 8 - first.leading_zeros())
}

/// RFC 5280, 4.2.1.9: is it a CA, and how many CAs may be below it.
fn basic_constraints(value: &[u8]) -> Result<(bool, Option<u32>), CertificateError> {
    let parts = || {
        let mut fields = der::only(value, tag::SEQUENCE)?.content;
        let is_ca = match der::take_tagged(&mut fields, tag::BOOLEAN) {
            Some(flag) => der::boolean(flag.content)?,
            None => false,
        };
        let limit = match der::take_tagged(&mut fields, tag::INTEGER) {
            Some(limit) => Some(der::unsigned(limit.content)?),
            None => None,
        };
        fields.is_empty().then_some((is_ca, limit))
    };
    parts().ok_or(CertificateError::Malformed("the basic constraints"))
}

/// RFC 5280, 4.2.1.3: a BIT STRING, bit 0 first.
fn key_usage(value: &[u8]) -> Result<KeyUsage, CertificateError> {
    const MALFORMED: CertificateError = CertificateError::Malformed("the key usage");
    let bits = der::only(value, tag::BIT_STRING).ok_or(MALFORMED)?.content;
    let (&unused, bytes) = bits.split_first().ok_or(MALFORMED)?;
    let spare = bytes.last().map_or(0, |last| last & !(0xff_u8 << unused.min(7)));
    // X.690, 11.2.1: unused bits are zero.
    if unused > 7 || bytes.len() > 2 || (bytes.is_empty() && unused != 0) || spare != 0 {
        return Err(MALFORMED);
    }
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0);
    Ok(KeyUsage {
        digital_signature: bit(0),
        content_commitment: bit(1),
        key_encipherment: bit(2),
        data_encipherment: bit(3),
        key_agreement: bit(4),
        key_cert_sign: bit(5),
        crl_sign: bit(6),
        encipher_only: bit(7),
        decipher_only: bit(8),
    })
}

fn extended_key_usage(value: &[u8]) -> Result<Vec<String>, CertificateError> {
    const MALFORMED: CertificateError = CertificateError::Malformed("the extended key usage");
    let mut oids = der::only(value, tag::SEQUENCE).ok_or(MALFORMED)?.content;
    let mut usages = Vec::new();
    while !oids.is_empty() {
        let oid = der::take_tagged(&mut oids, tag::OBJECT_IDENTIFIER).ok_or(MALFORMED)?;
        if usages.len() == MAX_EXTENSIONS {
            return Err(CertificateError::TooLarge("extended key usages", MAX_EXTENSIONS));
        }
        usages.push(der::object_identifier(oid.content).ok_or(MALFORMED)?);
    }
    // RFC 5280, 4.2.1.12: SIZE (1..MAX)
    if usages.is_empty() {
        return Err(MALFORMED);
    }
    Ok(usages)
}
