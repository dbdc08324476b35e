//! What a person types as a name: subjects, alternative names, names of files.

use std::net::IpAddr;

use anyhow::{Context, Result};
use rcgen::{DistinguishedName, DnType, SanType};

use crate::exit::{Exit, Failure};

/// X.520 gives a common name, and a unit or an organization, so many characters.
const LONGEST_ATTRIBUTE: usize = 64;

/// The parts of a subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    pub country: Option<String>,
    pub organization: Option<String>,
    pub organizational_unit: Option<String>,
    pub common_name: Option<String>,
}

impl Subject {
    pub fn common(name: &str) -> Self {
        Self { common_name: Some(name.to_owned()), ..Self::default() }
    }

    /// From the largest to the smallest, as names are written in certificates.
    pub fn to_name(&self) -> Result<DistinguishedName> {
        let mut name = DistinguishedName::new();
        if let Some(country) = &self.country {
            let letters = country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase());
            if !letters {
                return Err(wrong(format!(
                    "country `{country}`: two capital letters are needed, as in `DE`"
                )));
            }
            let printable = country.as_str().try_into().context("a country is printable")?;
            name.push(DnType::CountryName, rcgen::DnValue::PrintableString(printable));
        }
        for (what, kind, value) in [
            ("organization", DnType::OrganizationName, &self.organization),
            ("organizational unit", DnType::OrganizationalUnitName, &self.organizational_unit),
            ("common name", DnType::CommonName, &self.common_name),
        ] {
            let Some(value) = value else { continue };
            check_attribute(what, value)?;
            name.push(kind, value.as_str());
        }
        Ok(name)
    }
}

fn wrong(message: String) -> anyhow::Error {
    Failure::new(Exit::Usage, message).into()
}

fn check_attribute(what: &str, value: &str) -> Result<()> {
    let count = value.chars().count();
    if count == 0 || count > LONGEST_ATTRIBUTE {
        return Err(wrong(format!("{what} `{value}`: 1 to {LONGEST_ATTRIBUTE} characters are allowed")));
    }
    if value.chars().any(char::is_control) {
        return Err(wrong(format!("{what} {value:?}: there is a control character in it")));
    }
    Ok(())
}

/// `broker.example`, `192.0.2.1`, `urn:dev:7`, `https://…`, `a@b.example`; or with `dns:`, `ip:`, `uri:` or
/// `email:` in front.
pub fn alternative_name(text: &str) -> Result<SanType> {
    let ascii = |text: &str| {
        text.try_into()
            .map_err(|_| wrong(format!("`{text}` is no alternative name: only ASCII is allowed there")))
    };
    let address = |text: &str| text.parse::<IpAddr>().map(SanType::IpAddress);
    if let Some((kind, rest)) = text.split_once(':') {
        match kind.to_ascii_lowercase().as_str() {
            "dns" => return dns_name(rest),
            "ip" => return address(rest).map_err(|_| wrong(format!("`{rest}` is no IP address"))),
            "uri" => return Ok(SanType::URI(ascii(rest)?)),
            "email" => return Ok(SanType::Rfc822Name(ascii(rest)?)),
            _ => {}
        }
    }
    if let Ok(address) = address(text) {
        return Ok(address);
    }
    if text.contains("://") || text.starts_with("urn:") {
        Ok(SanType::URI(ascii(text)?))
    } else if text.contains('@') {
        Ok(SanType::Rfc822Name(ascii(text)?))
    } else {
        dns_name(text)
    }
}

/// A host name, or one with `*` as its first label.
fn dns_name(text: &str) -> Result<SanType> {
    let host = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 253 || !host.split('.').all(label) {
        return Err(wrong(format!(
            "`{text}` is no DNS name: labels of letters, digits and `-`, with dots between them; `*` only as the \
             whole first label; other scripts in Punycode (xn--…)"
        )));
    }
    Ok(SanType::DnsName(text.try_into().context("a DNS name is ASCII")?))
}

/// What is made is called `{name}.pem` and `{name}.key`.
pub fn check_file_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 128 || name.starts_with(['.', '-']) || !name.chars().all(fits) {
        return Err(wrong(format!(
            "`{name}` cannot be the name of a file here: letters, digits, `-`, `_` and `.`; give a --name"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternative_names_are_told_apart() {
        let kind = |text: &str| match alternative_name(text).unwrap_or_else(|error| panic!("{error}")) {
            SanType::DnsName(_) => "dns",
            SanType::IpAddress(_) => "ip",
            SanType::URI(_) => "uri",
            SanType::Rfc822Name(_) => "email",
            _ => "other",
        };
        for (text, expected) in [
            ("broker.example", "dns"),
            ("*.broker.example", "dns"),
            ("dns:localhost", "dns"),
            ("192.0.2.1", "ip"),
            ("::1", "ip"),
            ("ip:2001:db8::1", "ip"),
            ("urn:dev:7", "uri"),
            ("spiffe://example/dev", "uri"),
            ("uri:x", "uri"),
            ("a@b.example", "email"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
        for text in ["", "a b", "*", "a.*.b", "ip:x", "bücher.example", "-a", "dns:1..2"] {
            assert!(alternative_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_have_their_limits() {
        let name = |subject: Subject| subject.to_name().is_ok();
        assert!(name(Subject::common(&"x".repeat(64))));
        assert!(!name(Subject::common(&"x".repeat(65))));
        assert!(!name(Subject::common("")));
        assert!(!name(Subject::common("a\0b")));
        assert!(name(Subject { country: Some(String::from("DE")), ..Subject::default() }));
        assert!(!name(Subject { country: Some(String::from("Germany")), ..Subject::default() }));
        for name in ["", ".x", "../x", "a/b", "-f", "ü"] {
            assert!(check_file_name(name).is_err(), "{name}");
        }
    }
}
