//! DER to [`CertificateFacts`]. Reads, never judges: who signed a certificate is `evaluation`'s subject.

use sha2::{Digest, Sha256};
use x509_parser::certificate::{X509Certificate, X509CertificateParser};
use x509_parser::extensions::BasicConstraints;
use x509_parser::nom::Parser as _;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as ParsedKey;

use super::der::{self, tag};
use super::name::{distinguished_name, general_names};
use super::{CertificateError, CertificateFacts, CertificateFingerprint, Extension, KeyUsage, PublicKey};
use crate::time::UnixSeconds;

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
    pub(crate) const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
    pub(crate) const RSA_PSS: &str = "1.2.840.113549.1.1.10";
    pub(crate) const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
    pub(crate) const ED25519: &str = "1.3.101.112";
}

impl CertificateFacts {
    /// Reads one DER certificate, and nothing after it.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let parsed = parse_structure(der)?;
        let tbs = &parsed.tbs_certificate;
        // "Version" counts from zero.
        let version = match tbs.version.0 {
            version @ 0..=2 => version as u8 + 1,
            _ => return Err(CertificateError::Malformed("the version")),
        };
        let mut facts = Self {
            certificate_fingerprint: CertificateFingerprint::of(der),
            version,
            serial: serial(tbs.raw_serial())?,
            subject: distinguished_name(tbs.subject.as_raw())?,
            issuer: distinguished_name(tbs.issuer.as_raw())?,
            not_before: UnixSeconds(tbs.validity.not_before.timestamp()),
            not_after: UnixSeconds(tbs.validity.not_after.timestamp()),
            subject_alt_names: Vec::new(),
            key_usage: None,
            extended_key_usage: Vec::new(),
            is_ca: false,
            public_key: public_key(&parsed)?,
            extensions: Vec::new(),
            der: der.into(),
        };
        if facts.not_before > facts.not_after {
            return Err(CertificateError::Malformed("the validity: it ends before it begins"));
        }
        for extension in tbs.extensions() {
            facts.add_extension(extension.oid.as_bytes(), extension.critical, extension.value)?;
        }
        if version < 3 && !facts.extensions.is_empty() {
            return Err(CertificateError::Malformed("the version: only version 3 has extensions"));
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
            oid::BASIC_CONSTRAINTS => self.is_ca = basic_constraints(value)?.ca,
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
        let constraints = basic_constraints(&self.extension(oid::BASIC_CONSTRAINTS)?.raw).ok()?;
        Some((constraints.ca, constraints.path_len_constraint))
    }
}

impl CertificateFingerprint {
    /// SHA-256 of the DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

/// The structure only: extensions are read by ourselves, so that a bad one is our error, not silence.
pub(crate) fn parse_structure(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(CertificateError::TooLarge("bytes", MAX_CERTIFICATE_BYTES));
    }
    // The library accepts forms that are not DER; the outer ones are refused here.
    der::only(der, tag::SEQUENCE).ok_or(CertificateError::Malformed("the DER encoding"))?;
    match X509CertificateParser::new().with_deep_parse_extensions(false).parse(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(CertificateError::Malformed("the DER encoding: bytes follow the certificate")),
        Err(_) => Err(CertificateError::Malformed("the structure of the certificate")),
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

fn public_key(parsed: &X509Certificate<'_>) -> Result<PublicKey, CertificateError> {
    const MALFORMED: CertificateError = CertificateError::Malformed("the public key");
    let spki = parsed.public_key();
    let algorithm_oid = der::object_identifier(spki.algorithm.algorithm.as_bytes()).ok_or(MALFORMED)?;
    let bits = match algorithm_oid.as_str() {
        oid::RSA_ENCRYPTION => match spki.parsed().map_err(|_| MALFORMED)? {
            ParsedKey::RSA(key) => significant_bits(key.modulus),
            _ => return Err(MALFORMED),
        },
        oid::EC_PUBLIC_KEY => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| {
                (parameters.tag().0 == u32::from(tag::OBJECT_IDENTIFIER))
                    .then(|| der::object_identifier(parameters.data))
                    .flatten()
            });
            match curve.as_deref() {
                Some("1.2.840.10045.3.1.7" | "1.3.132.0.10") => 256,
                Some("1.3.132.0.34") => 384,
                Some("1.3.132.0.35") => 521,
                _ => 0,
            }
        }
        oid::ED25519 => 256,
        _ => 0,
    };
    Ok(PublicKey { algorithm_oid, bits, spki_sha256: Sha256::digest(spki.raw).into() })
}

fn significant_bits(big_endian: &[u8]) -> u32 {
    let zeros = big_endian.iter().take_while(|&&byte| byte == 0).count();
    let digits = big_endian.get(zeros..).unwrap_or_default();
    digits.first().map_or(0, |first| digits.len() as u32 * 8 - first.leading_zeros())
}

fn basic_constraints(value: &[u8]) -> Result<BasicConstraints, CertificateError> {
    match BasicConstraints::from_der(value) {
        Ok(([], constraints)) => Ok(constraints),
        _ => Err(CertificateError::Malformed("the basic constraints")),
    }
}

/// RFC 5280, 4.2.1.3: a BIT STRING, bit 0 first.
fn key_usage(value: &[u8]) -> Result<KeyUsage, CertificateError> {
    const MALFORMED: CertificateError = CertificateError::Malformed("the key usage");
    let bits = der::only(value, tag::BIT_STRING).ok_or(MALFORMED)?.content;
    let (&unused, bytes) = bits.split_first().ok_or(MALFORMED)?;
    if unused > 7 || bytes.len() > 2 || (bytes.is_empty() && unused != 0) {
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
    Ok(usages)
}
