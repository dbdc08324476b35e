//! Names in certificates: distinguished names with strictly decoded text, alternative names, and the
//! RFC 4514 rendering for logs. What a name means is not known here.

use std::fmt::Write as _;

use super::der::{self, Element, tag};
use super::{CertificateError, DistinguishedName, GeneralName, NameAttribute};

/// Attributes of one distinguished name.
pub const MAX_NAME_ATTRIBUTES: usize = 64;
/// Entries of the subject alternative name extension.
pub const MAX_SUBJECT_ALT_NAMES: usize = 256;
/// Length at which the rendering of a name is cut.
const MAX_DISPLAY_BYTES: usize = 1024;

/// Reads the DER of a whole `Name`.
pub(crate) fn distinguished_name(raw: &[u8]) -> Result<DistinguishedName, CertificateError> {
    const MALFORMED: CertificateError = CertificateError::Malformed("a distinguished name");
    let mut rdns = der::only(raw, tag::SEQUENCE).ok_or(MALFORMED)?.content;
    let mut attributes = Vec::new();
    let mut rendered = Vec::new();
    while !rdns.is_empty() {
        let mut rdn = der::take_tagged(&mut rdns, tag::SET).ok_or(MALFORMED)?.content;
        let mut display = String::new();
        if rdn.is_empty() {
            return Err(MALFORMED);
        }
        while !rdn.is_empty() {
            let mut pair = der::take_tagged(&mut rdn, tag::SEQUENCE).ok_or(MALFORMED)?.content;
            let oid = der::take_tagged(&mut pair, tag::OBJECT_IDENTIFIER)
                .and_then(|oid| der::object_identifier(oid.content))
                .ok_or(MALFORMED)?;
            let value = der::take(&mut pair).filter(|_| pair.is_empty()).ok_or(MALFORMED)?;
            let attribute = NameAttribute { oid, text: text(&value), raw: value.raw.to_vec() };
            if attributes.len() == MAX_NAME_ATTRIBUTES {
                return Err(CertificateError::TooLarge("attributes of a name", MAX_NAME_ATTRIBUTES));
            }
            if !display.is_empty() {
                display.push('+');
            }
            render(&attribute, &mut display);
            attributes.push(attribute);
        }
        rendered.push(display);
    }
    // RFC 4514, 2.1: the last RDN comes first.
    rendered.reverse();
    let display = truncated(rendered.join(","));
    Ok(DistinguishedName { display, attributes, raw: raw.to_vec() })
}

/// Reads the value of a subject alternative name extension. An entry that does not decode strictly is kept
/// as [`GeneralName::Malformed`]; only a broken list is an error.
pub(super) fn general_names(value: &[u8]) -> Result<Vec<GeneralName>, CertificateError> {
    const MALFORMED: CertificateError = CertificateError::Malformed("the subject alternative names");
    let mut entries = der::only(value, tag::SEQUENCE).ok_or(MALFORMED)?.content;
    let mut names = Vec::new();
    while !entries.is_empty() {
        let entry = der::take(&mut entries).ok_or(MALFORMED)?;
        if entry.tag & 0xc0 != 0x80 {
            return Err(MALFORMED);
        }
        if names.len() == MAX_SUBJECT_ALT_NAMES {
            return Err(CertificateError::TooLarge("subject alternative names", MAX_SUBJECT_ALT_NAMES));
        }
        let malformed = || GeneralName::Malformed(entry.tag & 0x1f, entry.content.to_vec());
        names.push(general_name(&entry).unwrap_or_else(malformed));
    }
    Ok(names)
}

fn general_name(entry: &Element<'_>) -> Option<GeneralName> {
    let ia5 = || ascii(entry.content).filter(|text| !text.is_empty());
    match entry.tag {
        0xa0 => {
            let mut parts = entry.content;
            let oid = der::take_tagged(&mut parts, tag::OBJECT_IDENTIFIER)?;
            let value = der::only(parts, 0xa0)?;
            let inner = der::take(&mut { value.content }).filter(|inner| inner.raw == value.content)?;
            Some(GeneralName::Other(der::object_identifier(oid.content)?, inner.raw.to_vec()))
        }
        0x81 => ia5().map(GeneralName::Email),
        0x82 => ia5().map(GeneralName::Dns),
        0x86 => ia5().map(GeneralName::Uri),
        0xa4 => {
            distinguished_name(entry.content).ok()?;
            Some(GeneralName::Directory(entry.content.to_vec()))
        }
        0x87 if matches!(entry.content.len(), 4 | 16) => Some(GeneralName::Ip(entry.content.to_vec())),
        0x88 => der::object_identifier(entry.content).map(GeneralName::RegisteredId),
        // x400Address and ediPartyName have no form a policy could use.
        _ => None,
    }
}

/// The text of an attribute's value, if its type decodes strictly and nothing in it could mislead a reader.
pub(super) fn text(value: &Element<'_>) -> Option<String> {
    let text = match value.tag {
        // UTF8String
        0x0c => String::from_utf8(value.content.to_vec()).ok()?,
        // NumericString
        0x12 => ascii(value.content).filter(|text| text.bytes().all(|b| b.is_ascii_digit() || b == b' '))?,
        // PrintableString
        0x13 => ascii(value.content)
            .filter(|text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b)))?,
        // IA5String, VisibleString
        0x16 | 0x1a => ascii(value.content)?,
        // UniversalString
        0x1c => code_points::<4>(value.content)?,
        // BMPString: the basic plane only, so a surrogate is an error.
        0x1e => code_points::<2>(value.content)?,
        // TeletexString and others have no one decoding.
        _ => return None,
    };
    (!text.chars().any(is_deceptive)).then_some(text)
}

fn ascii(bytes: &[u8]) -> Option<String> {
    bytes
        .iter()
        .all(|byte| (0x20..0x7f).contains(byte))
        .then(|| bytes.iter().copied().map(char::from).collect())
}

fn code_points<const WIDTH: usize>(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<WIDTH>();
    if !rest.is_empty() {
        return None;
    }
    units
        .iter()
        .map(|unit| char::from_u32(unit.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte))))
        .collect()
}

/// Control characters, and those that reorder, hide or break a line of text.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// RFC 4514, 2.3 and 2.4.
fn render(attribute: &NameAttribute, out: &mut String) {
    match (attribute_short_name(&attribute.oid), &attribute.text) {
        (Some(name), Some(text)) => {
            out.push_str(name);
            out.push('=');
            let last = text.chars().count().saturating_sub(1);
            for (at, c) in text.chars().enumerate() {
                let escape = match c {
                    '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => true,
                    '#' => at == 0,
                    ' ' => at == 0 || at == last,
                    _ => false,
                };
                if escape {
                    out.push('\\');
                }
                out.push(c);
            }
        }
        (name, _) => {
            out.push_str(name.unwrap_or(&attribute.oid));
            out.push_str("=#");
            for byte in attribute.raw.iter().take(MAX_DISPLAY_BYTES) {
                let _ = write!(out, "{byte:02X}");
            }
        }
    }
}

fn truncated(mut text: String) -> String {
    if text.len() > MAX_DISPLAY_BYTES {
        text.truncate(text.floor_char_boundary(MAX_DISPLAY_BYTES));
        text.push('…');
    }
    text
}

/// RFC 4514, section 3, and the attributes that device certificates use besides.
const SHORT_NAMES: [(&str, &str); 16] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "givenName"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// What an attribute is called for short.
pub(crate) fn attribute_short_name(oid: &str) -> Option<&'static str> {
    SHORT_NAMES.iter().find(|known| known.0 == oid).map(|known| known.1)
}

/// Whether an attribute is called this for short, in any case.
pub(crate) fn is_attribute_name(name: &str) -> bool {
    SHORT_NAMES.iter().any(|known| known.1.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 0x80);
        [&[tag, content.len() as u8][..], content].concat()
    }

    /// A name of one RDN per pair; the object identifier is below 2.5.4.
    fn name(pairs: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let rdns: Vec<u8> = pairs
            .iter()
            .flat_map(|&(arc, value_tag, value)| {
                let pair = [element(0x06, &[0x55, 0x04, arc]), element(value_tag, value)].concat();
                element(0x31, &element(0x30, &pair))
            })
            .collect();
        element(0x30, &rdns)
    }

    #[test]
    fn text_decodes_strictly_or_not_at_all() {
        for (value_tag, value, expected) in [
            (0x0c, &b"device-7"[..], Some("device-7")),
            (0x0c, "Gerät 7".as_bytes(), Some("Gerät 7")),
            (0x0c, b"\xff", None),
            (0x0c, b"a\0b", None),
            (0x0c, b"a\nb", None),
            (0x0c, "a\u{85}b".as_bytes(), None),
            (0x0c, "a\u{202e}b".as_bytes(), None),
            (0x13, b"EMQX", Some("EMQX")),
            (0x13, b"a_b", None),
            (0x13, b"a\xe9", None),
            (0x12, b"12 3", Some("12 3")),
            (0x12, b"12a", None),
            (0x16, b"a@b", Some("a@b")),
            (0x16, b"\x80", None),
            (0x14, b"plain", None),
            (0x1e, b"\x00a\x00b", Some("ab")),
            (0x1e, b"\x00a\x00", None),
            (0x1e, b"\xd8\x00\xdc\x00", None),
            (0x1c, b"\x00\x01\xf6\x00", Some("😀")),
            (0x1c, b"\x00\x11\x00\x00", None),
            (0x04, b"abc", None),
            (0x2c, b"\x0c\x01a", None),
        ] {
            let parsed = distinguished_name(&name(&[(3, value_tag, value)])).unwrap();
            assert_eq!(parsed.attributes[0].text.as_deref(), expected, "{value_tag:#x} {value:02x?}");
            assert_eq!(parsed.attributes[0].raw, element(value_tag, value));
        }
    }

    #[test]
    fn rendering_follows_rfc_4514() {
        for (pairs, expected) in [
            (
                &[(6, 0x13, &b"CN"[..]), (10, 0x0c, b"EMQX"), (3, 0x0c, b"client")][..],
                "CN=client,O=EMQX,C=CN",
            ),
            (&[(3, 0x0c, b"a,CN=admin")], "CN=a\\,CN\\=admin"),
            (&[(3, 0x0c, b" #x ")], "CN=\\ #x\\ "),
            (&[(3, 0x0c, b"#x")], "CN=\\#x"),
            (&[(3, 0x0c, b"\"+;<>\\")], "CN=\\\"\\+\\;\\<\\>\\\\"),
            (&[(3, 0x0c, b" ")], "CN=\\ "),
            (&[(3, 0x0c, b"a\0")], "CN=#0C026100"),
            (&[(99, 0x0c, b"a")], "2.5.4.99=#0C0161"),
            (&[], ""),
        ] {
            assert_eq!(distinguished_name(&name(pairs)).unwrap().display, expected);
        }
        let long = "x".repeat(100);
        let many: Vec<_> = (0..60).map(|_| (3, 0x0c, long.as_bytes())).collect();
        let rdns: Vec<u8> = many.iter().flat_map(|&pair| name(&[pair])[2..].to_vec()).collect();
        let raw = [&[0x30, 0x82, (rdns.len() >> 8) as u8, rdns.len() as u8][..], &rdns].concat();
        assert!(distinguished_name(&raw).unwrap().display.len() < MAX_DISPLAY_BYTES + 8);
    }

    #[test]
    fn alternative_names_of_every_kind() {
        let directory = name(&[(3, 0x0c, b"x")]);
        let other = [element(0x06, &[0x2a, 0x03]), element(0xa0, &element(0x0c, b"upn"))].concat();
        let value = element(
            0x30,
            &[
                element(0x82, b"a.example"),
                element(0x81, b"a@example"),
                element(0x86, b"urn:dev:7"),
                element(0x87, &[127, 0, 0, 1]),
                element(0x88, &[0x2a, 0x03]),
                element(0xa4, &directory),
                element(0xa0, &other),
                element(0x82, b"a\0b"),
                element(0x87, &[1, 2, 3]),
                element(0xa5, b""),
            ]
            .concat(),
        );
        assert_eq!(
            general_names(&value).unwrap(),
            [
                GeneralName::Dns("a.example".into()),
                GeneralName::Email("a@example".into()),
                GeneralName::Uri("urn:dev:7".into()),
                GeneralName::Ip(vec![127, 0, 0, 1]),
                GeneralName::RegisteredId("1.2.3".into()),
                GeneralName::Directory(directory),
                GeneralName::Other("1.2.3".into(), element(0x0c, b"upn")),
                GeneralName::Malformed(2, b"a\0b".to_vec()),
                GeneralName::Malformed(7, vec![1, 2, 3]),
                GeneralName::Malformed(5, vec![]),
            ]
        );
        assert!(general_names(&element(0x30, &element(0x0c, b"x"))).is_err());
        assert!(general_names(b"\x30\x05\x82\x01").is_err());
    }
}
