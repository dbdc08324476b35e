//! Certificate fields by name, as strict text only.
//!
//! A plugin decides on these and on nothing else: a value that did not decode strictly, or that holds a
//! control character, is an error to whoever looks at its field. It is neither skipped nor repaired, so a
//! forged name can neither match a rule nor slip past one.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};

use crate::types::{Certificate, ChainStatus, ClientCertificate, DistinguishedName, GeneralName};

/// A field that configuration can name: in matches, in templates, as a source of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    Cn,
    O,
    Ou,
    SerialNumber,
    SanUri,
    SanDns,
    SanEmail,
    IssuerCn,
    IssuerO,
    IssuerOu,
    IssuerDn,
    Serial,
    Fingerprint,
    SpkiFingerprint,
    Anchor,
    AnchorFingerprint,
}

/// Why a field has no usable value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldError {
    /// A value is no strict text.
    Malformed(Field),
    /// One value was wanted.
    Several(Field, usize),
}

const CN: &str = "2.5.4.3";
const SERIAL_NUMBER: &str = "2.5.4.5";
const O: &str = "2.5.4.10";
const OU: &str = "2.5.4.11";

impl Field {
    pub const ALL: [Self; 16] = [
        Self::Cn,
        Self::O,
        Self::Ou,
        Self::SerialNumber,
        Self::SanUri,
        Self::SanDns,
        Self::SanEmail,
        Self::IssuerCn,
        Self::IssuerO,
        Self::IssuerOu,
        Self::IssuerDn,
        Self::Serial,
        Self::Fingerprint,
        Self::SpkiFingerprint,
        Self::Anchor,
        Self::AnchorFingerprint,
    ];

    /// Its name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cn => "cn",
            Self::O => "o",
            Self::Ou => "ou",
            Self::SerialNumber => "serial-number",
            Self::SanUri => "san.uri",
            Self::SanDns => "san.dns",
            Self::SanEmail => "san.email",
            Self::IssuerCn => "issuer-cn",
            Self::IssuerO => "issuer-o",
            Self::IssuerOu => "issuer-ou",
            Self::IssuerDn => "issuer-dn",
            Self::Serial => "serial",
            Self::Fingerprint => "fingerprint",
            Self::SpkiFingerprint => "spki-fingerprint",
            Self::Anchor => "anchor",
            Self::AnchorFingerprint => "anchor-fingerprint",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// All values of the field, in certificate order; none is no error.
    pub fn values(self, of: &ClientCertificate) -> Result<Vec<Cow<'_, str>>, FieldError> {
        let leaf = &of.leaf;
        match self {
            Self::Cn => self.attribute(&leaf.subject, CN),
            Self::O => self.attribute(&leaf.subject, O),
            Self::Ou => self.attribute(&leaf.subject, OU),
            Self::SerialNumber => self.attribute(&leaf.subject, SERIAL_NUMBER),
            Self::IssuerCn => self.attribute(&leaf.issuer, CN),
            Self::IssuerO => self.attribute(&leaf.issuer, O),
            Self::IssuerOu => self.attribute(&leaf.issuer, OU),
            Self::IssuerDn => self.distinguished_name(&leaf.issuer),
            Self::SanUri => self.alt_names(leaf, |name| match name {
                GeneralName::Uri(uri) => Some(uri),
                _ => None,
            }),
            Self::SanDns => self.alt_names(leaf, |name| match name {
                GeneralName::Dns(dns) => Some(dns),
                _ => None,
            }),
            Self::SanEmail => self.alt_names(leaf, |name| match name {
                GeneralName::Email(email) => Some(email),
                _ => None,
            }),
            Self::Serial => Ok(vec![hex(&leaf.serial).into()]),
            Self::Fingerprint => Ok(vec![hex(&leaf.fingerprint_sha256).into()]),
            Self::SpkiFingerprint => Ok(vec![hex(&leaf.public_key.spki_sha256).into()]),
            Self::Anchor => Ok(anchor(of).map(|anchor| anchor.name.as_str().into()).into_iter().collect()),
            Self::AnchorFingerprint => {
                Ok(anchor(of).map(|anchor| hex(&anchor.fingerprint_sha256).into()).into_iter().collect())
            }
        }
    }

    /// The value of a field that must not be ambiguous.
    pub fn single(self, of: &ClientCertificate) -> Result<Option<Cow<'_, str>>, FieldError> {
        let mut values = self.values(of)?;
        match values.len() {
            0 | 1 => Ok(values.pop()),
            several => Err(FieldError::Several(self, several)),
        }
    }

    fn attribute<'a>(self, name: &'a DistinguishedName, oid: &str) -> Result<Vec<Cow<'a, str>>, FieldError> {
        name.attributes
            .iter()
            .filter(|attribute| is_oid(&attribute.oid, oid))
            .map(|attribute| attribute.text.as_deref().and_then(strict).ok_or(FieldError::Malformed(self)))
            .collect()
    }

    /// `CN=…,O=…`, the last attribute first, as RFC 4514 has it and as `openssl -nameopt RFC2253` prints.
    fn distinguished_name(self, name: &DistinguishedName) -> Result<Vec<Cow<'_, str>>, FieldError> {
        let mut parts = Vec::new();
        for attribute in name.attributes.iter().rev() {
            let text = attribute.text.as_deref().and_then(strict).ok_or(FieldError::Malformed(self))?;
            parts.push(format!("{}={}", attribute_name(&attribute.oid), escape(&text)));
        }
        Ok(if parts.is_empty() { Vec::new() } else { vec![parts.join(",").into()] })
    }

    /// A malformed name could be of any kind, so it spoils every kind.
    fn alt_names<'a>(
        self,
        leaf: &'a Certificate,
        pick: impl Fn(&'a GeneralName) -> Option<&'a String>,
    ) -> Result<Vec<Cow<'a, str>>, FieldError> {
        leaf.subject_alt_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::Malformed(_) => Some(Err(FieldError::Malformed(self))),
                name => pick(name).map(|text| strict(text).ok_or(FieldError::Malformed(self))),
            })
            .collect()
    }
}

/// The trust anchor, if the chain leads to one.
pub fn anchor(of: &ClientCertificate) -> Option<&crate::types::TrustAnchor> {
    match &of.chain {
        ChainStatus::Verified(anchor) => Some(anchor),
        ChainStatus::Unverified(_) => None,
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Object identifiers of the same kind of thing differ at their ends.
fn is_oid(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().rev().eq(other.bytes().rev())
}

/// The broker promises this; a plugin that decides on text checks it once more.
fn strict(text: &str) -> Option<Cow<'_, str>> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    (text.bytes().all(is_plain) || !text.chars().any(char::is_control)).then_some(Cow::Borrowed(text))
}

fn attribute_name(oid: &str) -> &str {
    match oid {
        CN => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        O => "O",
        OU => "OU",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        SERIAL_NUMBER => "serialNumber",
        "1.2.840.113549.1.9.1" => "emailAddress",
        oid => oid,
    }
}

/// RFC 4514, 2.4.
fn escape(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut escaped = String::with_capacity(text.len());
    for (index, c) in text.chars().enumerate() {
        let special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (c == ' ' && (index == 0 || index == last))
            || (c == '#' && index == 0);
        if special {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|field| field.name()).collect();
            D::Error::custom(format!(
                "there is no certificate field {name:?}; there are {}",
                names.join(", ")
            ))
        })
    }
}

impl FieldError {
    pub fn field(&self) -> Field {
        match self {
            Self::Malformed(field) | Self::Several(field, _) => *field,
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(field) => write!(f, "{} of the certificate is not plain text", field.name()),
            Self::Several(field, count) => {
                write!(f, "the certificate has {count} values for {}", field.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::types::NameAttribute;

    #[test]
    fn fields_are_found_by_name() {
        for field in Field::ALL {
            assert_eq!(Field::parse(field.name()), Some(field));
        }
        assert_eq!(Field::parse("CN"), None);
    }

    #[test]
    fn every_kind_of_field_is_read() {
        let mut certificate = testing::certificate(&[("cn", "meter-7"), ("ou", "a"), ("ou", "b")]);
        certificate.leaf.serial = vec![0x0a, 0xff];
        certificate.leaf.subject_alt_names = vec![
            GeneralName::Uri("urn:x".into()),
            GeneralName::Dns("d.example".into()),
            GeneralName::Email("e@x".into()),
        ];
        let values = |field: Field| field.values(&certificate).unwrap().join("|");
        assert_eq!(values(Field::Cn), "meter-7");
        assert_eq!(values(Field::Ou), "a|b");
        assert_eq!(values(Field::SanUri), "urn:x");
        assert_eq!(values(Field::SanDns), "d.example");
        assert_eq!(values(Field::SanEmail), "e@x");
        assert_eq!(values(Field::Serial), "0aff");
        assert_eq!(values(Field::IssuerDn), "CN=Test CA,O=Test");
        assert_eq!(values(Field::Anchor), "test-ca");
        assert_eq!(values(Field::SerialNumber), "");
        assert_eq!(Field::Ou.single(&certificate), Err(FieldError::Several(Field::Ou, 2)));
    }

    #[test]
    fn an_unverified_chain_has_no_anchor() {
        let mut certificate = testing::certificate(&[]);
        certificate.chain = ChainStatus::Unverified("unknown issuer".into());
        assert_eq!(Field::Anchor.values(&certificate), Ok(vec![]));
        assert_eq!(Field::AnchorFingerprint.values(&certificate), Ok(vec![]));
    }

    #[test]
    fn text_that_is_not_strict_spoils_its_field() {
        let mut certificate = testing::certificate(&[("cn", "good")]);
        let opaque = NameAttribute { oid: CN.into(), text: None, raw: vec![0x0c, 1, 0xff] };
        certificate.leaf.subject.attributes.push(opaque);
        assert_eq!(Field::Cn.values(&certificate), Err(FieldError::Malformed(Field::Cn)));
        assert_eq!(Field::Ou.values(&certificate), Ok(vec![]));

        let certificate = testing::certificate(&[("cn", "a\0b")]);
        assert_eq!(Field::Cn.values(&certificate), Err(FieldError::Malformed(Field::Cn)));

        let mut certificate = testing::certificate(&[]);
        certificate.leaf.subject_alt_names =
            vec![GeneralName::Uri("urn:x".into()), GeneralName::Malformed((2, vec![0xff]))];
        assert_eq!(Field::SanUri.values(&certificate), Err(FieldError::Malformed(Field::SanUri)));
    }

    #[test]
    fn a_name_cannot_forge_its_neighbours() {
        let mut certificate = testing::certificate(&[]);
        certificate.leaf.issuer = testing::name(&[("cn", "x,O=Test")]);
        assert_eq!(Field::IssuerDn.values(&certificate).unwrap(), ["CN=x\\,O=Test"]);
    }
}
