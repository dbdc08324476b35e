//! A DER writer that writes whatever it is told to, right or wrong, and certificates made with it.

use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};

pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..128 => out.push(short as u8),
        medium @ 128..256 => out.extend([0x81, medium as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u64> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
    let mut content = Vec::new();
    for arc in std::iter::once(arcs[0] * 40 + arcs[1]).chain(arcs[2..].iter().copied()) {
        let mut digits = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            digits.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        digits.reverse();
        content.extend(digits);
    }
    tlv(0x06, &content)
}

pub fn boolean(value: bool) -> Vec<u8> {
    tlv(0x01, &[if value { 0xff } else { 0 }])
}

pub fn integer(value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let from = bytes.iter().position(|&byte| byte != 0).unwrap_or(3);
    let mut content = bytes[from..].to_vec();
    if content[0] & 0x80 != 0 {
        content.insert(0, 0);
    }
    tlv(0x02, &content)
}

/// A name of one attribute per RDN: the last arc below 2.5.4, and UTF-8 text.
pub fn name(attributes: &[(&str, &str)]) -> Vec<u8> {
    name_of(0x0c, attributes)
}

pub fn name_of(string: u8, attributes: &[(&str, &str)]) -> Vec<u8> {
    let rdns: Vec<u8> = attributes
        .iter()
        .flat_map(|(kind, text)| tlv(0x31, &sequence(&[&oid(kind), &tlv(string, text.as_bytes())])))
        .collect();
    tlv(0x30, &rdns)
}

pub fn time(seconds: i64) -> Vec<u8> {
    let text = mqgate_identity::time::UnixSeconds(seconds).to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let year: u32 = digits[..4].parse().unwrap();
    match year {
        1950..2050 => tlv(0x17, format!("{}Z", &digits[2..]).as_bytes()),
        _ => tlv(0x18, format!("{digits}Z").as_bytes()),
    }
}

#[derive(Clone, Debug)]
pub struct Extension {
    pub oid: &'static str,
    /// Written as it stands; `None` leaves the field out.
    pub critical: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

pub fn extension(oid: &'static str, critical: bool, value: Vec<u8>) -> Extension {
    Extension { oid, critical: critical.then(|| boolean(true)), value }
}

/// A certificate before it is signed. Every field is written as it stands.
#[derive(Clone, Debug)]
pub struct Draft {
    pub version: Option<Vec<u8>>,
    pub serial: Vec<u8>,
    pub inner_algorithm: Vec<u8>,
    pub outer_algorithm: Vec<u8>,
    pub issuer: Vec<u8>,
    pub not_before: Vec<u8>,
    pub not_after: Vec<u8>,
    pub subject: Vec<u8>,
    pub key: usize,
    pub signer: usize,
    pub unique_ids: Vec<u8>,
    pub extensions: Vec<Extension>,
    /// Written instead of the list of extensions.
    pub raw_extensions: Option<Vec<u8>>,
    /// After the signature was made: a byte of it that changes.
    pub spoil: bool,
}

pub const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";

impl Draft {
    pub fn new(subject: Vec<u8>, key: usize, issuer: Vec<u8>, signer: usize, (from, to): (i64, i64)) -> Self {
        let algorithm = sequence(&[&oid(ECDSA_SHA256)]);
        Self {
            version: Some(tlv(0xa0, &integer(2))),
            serial: integer(0x1000 + key as u32),
            inner_algorithm: algorithm.clone(),
            outer_algorithm: algorithm,
            issuer,
            not_before: time(from),
            not_after: time(to),
            subject,
            key,
            signer,
            unique_ids: Vec::new(),
            extensions: Vec::new(),
            raw_extensions: None,
            spoil: false,
        }
    }

    pub fn with(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    pub fn sign(&self, keys: &[KeyPair]) -> Vec<u8> {
        let list: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|extension| {
                let critical = extension.critical.clone().unwrap_or_default();
                sequence(&[&oid(extension.oid), &critical, &tlv(0x04, &extension.value)])
            })
            .collect();
        let extensions = match &self.raw_extensions {
            Some(raw) => raw.clone(),
            None if list.is_empty() => Vec::new(),
            None => tlv(0xa3, &tlv(0x30, &list)),
        };
        let tbs = sequence(&[
            &self.version.clone().unwrap_or_default(),
            &self.serial,
            &self.inner_algorithm,
            &self.issuer,
            &sequence(&[&self.not_before, &self.not_after]),
            &self.subject,
            &keys[self.key].subject_public_key_info(),
            &self.unique_ids,
            &extensions,
        ]);
        let mut signature = vec![0];
        signature.extend(keys[self.signer].sign(&tbs).unwrap());
        if self.spoil {
            let last = signature.len() - 1;
            signature[last] ^= 1;
        }
        sequence(&[&tbs, &self.outer_algorithm, &tlv(0x03, &signature)])
    }
}
