//! Names of a certificate as text, as records keep them and as they are looked for.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::certificate::{CertificateFacts, GeneralName};

const COMMON_NAME: &str = "2.5.4.3";
const ORGANIZATIONAL_UNIT: &str = "2.5.4.11";

/// The last common name, which is the most specific, if it decodes strictly.
pub fn common_name(facts: &CertificateFacts) -> Option<String> {
    let attribute = facts.subject.attributes.iter().rfind(|attribute| attribute.oid == COMMON_NAME)?;
    attribute.text.clone()
}

pub fn organizational_units(facts: &CertificateFacts) -> Vec<String> {
    let units = facts.subject.attributes.iter().filter(|attribute| attribute.oid == ORGANIZATIONAL_UNIT);
    units.filter_map(|attribute| attribute.text.clone()).collect()
}

/// The alternative names that have a text: `dns:` (in lower case), `email:`, `uri:`, `ip:`, `id:`.
pub fn alternative_names(facts: &CertificateFacts) -> Vec<String> {
    facts.subject_alt_names.iter().filter_map(alternative_name).collect()
}

/// `None`: it has no text that could be compared.
pub(super) fn alternative_name(name: &GeneralName) -> Option<String> {
    Some(match name {
        GeneralName::Dns(text) => format!("dns:{}", text.to_ascii_lowercase()),
        GeneralName::Email(text) => format!("email:{text}"),
        GeneralName::Uri(text) => format!("uri:{text}"),
        GeneralName::Ip(bytes) => match (<[u8; 4]>::try_from(&**bytes), <[u8; 16]>::try_from(&**bytes)) {
            (Ok(four), _) => format!("ip:{}", Ipv4Addr::from(four)),
            (_, Ok(sixteen)) => format!("ip:{}", Ipv6Addr::from(sixteen)),
            _ => return None,
        },
        GeneralName::RegisteredId(oid) => format!("id:{oid}"),
        GeneralName::Directory(_) | GeneralName::Other(..) | GeneralName::Malformed(..) => return None,
    })
}
