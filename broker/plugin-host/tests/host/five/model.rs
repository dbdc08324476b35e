//! The policy of `plugins/cert-core/README.md` over the broker's own types: no component, no SDK, no ABI between.

#![expect(clippy::result_large_err, reason = "a refusal is what the broker makes of it")]

use mqgate_identity::certificate::{CertificateFacts, GeneralName};
use mqgate_identity::hooks::{
    Acl, AclRule, Attribute, Authentication, Authorization, ConnackReason, Connection, Denial, Effect, Grant,
    GrantLimits, Identity, RetainMatch, Value,
};

use super::certificates::{CN, O, OU, SERIAL_NUMBER};

pub fn authenticate(on: &Connection) -> Authentication {
    // What reaches a hook natively is verified.
    let Some(certificate) = &on.certificate else { return Authentication::Abstain };
    match identity(on, &certificate.leaf) {
        Ok(identity) => Authentication::Accept { identity, cache: None },
        Err(denial) => Authentication::Deny(denial),
    }
}

pub fn authorize(on: &Connection, device_id: &str) -> Authorization {
    let Some(certificate) = &on.certificate else { return Authorization::Abstain };
    match grant(on, &certificate.leaf, device_id) {
        Ok(grant) => Authorization::Allow(grant),
        Err(denial) => Authorization::Deny(denial),
    }
}

fn identity(on: &Connection, leaf: &CertificateFacts) -> Result<Identity, Denial> {
    if leaf.is_ca {
        return Err(refused("the certificate is that of a CA".to_owned()));
    }
    let mut named = None;
    for field in ["san.uri", "cn", "san.dns", "serial-number", "serial"] {
        if let Some(value) = value_of(field, leaf)? {
            named = Some((field, value));
            break;
        }
    }
    let (field, device_id) = named.expect("there is always a serial number");
    let tenant = value_of("o", leaf)?;
    session(on, &device_id)?;
    Ok(Identity {
        device_id,
        tenant,
        tags: vec![format!("x509-v{}", leaf.version)],
        attributes: vec![text("cert.source", field)],
    })
}

fn value_of(field: &str, leaf: &CertificateFacts) -> Result<Option<String>, Denial> {
    let unreadable = || refused(format!("{field} of the certificate is not plain text"));
    let checked = |text: Option<&str>| match text {
        Some(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        Some(_) | None => Err(unreadable()),
    };
    let subject = |oid: &str| -> Result<Vec<String>, Denial> {
        let of_kind = leaf.subject.attributes.iter().filter(|attribute| attribute.oid == oid);
        of_kind.map(|attribute| checked(attribute.text.as_deref())).collect()
    };
    let mut values = match field {
        "cn" => subject(CN)?,
        "serial-number" => subject(SERIAL_NUMBER)?,
        "o" => subject(O)?,
        "ou" => subject(OU)?,
        "serial" => vec![hex::encode(&leaf.serial)],
        _ => {
            let mut values = Vec::new();
            for name in &leaf.subject_alt_names {
                match name {
                    GeneralName::Malformed(..) => return Err(unreadable()),
                    GeneralName::Uri(uri) if field == "san.uri" => {
                        let uri = checked(Some(uri))?;
                        values.extend(uri.strip_prefix("urn:device:").map(str::to_owned));
                    }
                    GeneralName::Dns(dns) if field == "san.dns" => values.push(checked(Some(dns))?),
                    _ => {}
                }
            }
            values
        }
    };
    match values.len() {
        0 => return Ok(None),
        1 => {}
        several => return Err(refused(format!("the certificate has {several} values for {field}"))),
    }
    let value = values.remove(0);
    match unfit(&value) {
        None => Ok(Some(value)),
        Some(why) => Err(refused(format!("{field} of the certificate {why}"))),
    }
}

fn unfit(value: &str) -> Option<String> {
    const SPECIAL: [char; 4] = ['/', '+', '#', '$'];
    if value.is_empty() {
        Some("is empty".to_owned())
    } else if value.len() > 256 {
        Some("is longer than 256 bytes".to_owned())
    } else if let Some(at) = value.find(SPECIAL) {
        Some(format!("holds {}", char::from(value.as_bytes()[at])))
    } else if value.chars().any(is_invisible) {
        Some("holds a control or invisible character".to_owned())
    } else {
        None
    }
}

fn is_invisible(c: char) -> bool {
    const RANGES: [(u32, u32); 10] = [
        (0, 0x1f),
        (0x7f, 0x9f),
        (0xad, 0xad),
        (0x61c, 0x61c),
        (0x180e, 0x180e),
        (0x200b, 0x200f),
        (0x2028, 0x202e),
        (0x2060, 0x206f),
        (0xfeff, 0xfeff),
        (0xfff9, 0xfffb),
    ];
    RANGES.iter().any(|&(from, to)| (from..=to).contains(&u32::from(c)))
}

fn session(on: &Connection, device_id: &str) -> Result<(), Denial> {
    if let Some(why) = unfit(device_id) {
        return Err(refused(format!("the device id {why}")));
    }
    if device_id.contains(':') {
        return Err(refused("the device id holds :".to_owned()));
    }
    let client_id = &on.connect.client_id;
    if client_id.is_empty() || client_id == device_id || client_id.starts_with(&format!("{device_id}:")) {
        return Ok(());
    }
    let detail = "the client id does not belong to the device".to_owned();
    Err(Denial { reason: ConnackReason::ClientIdentifierNotValid, ..refused(detail) })
}

fn grant(on: &Connection, leaf: &CertificateFacts, device_id: &str) -> Result<Grant, Denial> {
    session(on, device_id)?;
    let rule = |publish: bool, filter: String| AclRule {
        effect: Effect::Allow,
        publish,
        subscribe: true,
        filter,
        qos: 0b111,
        retain: RetainMatch::Any,
    };
    let mut rules = vec![rule(true, "devices/${device-id}/#".to_owned())];
    rules.extend(value_of("ou", leaf)?.map(|group| rule(false, format!("groups/{group}/#"))));
    Ok(Grant {
        acl: Acl::Inline(rules),
        otherwise: Effect::Deny,
        limits: GrantLimits {
            maximum_qos: (on.connect.protocol_level == 3).then_some(1),
            subscriptions: Some(100),
            ..GrantLimits::default()
        },
        assigned_client_id: on.connect.client_id.is_empty().then(|| device_id.to_owned()),
        valid_for: None,
        cache: None,
        attributes: vec![text("policy.rule", "own-topics")],
    })
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.to_owned(), value: Value::Text(value.to_owned()) }
}

fn refused(detail: String) -> Denial {
    Denial {
        reason: ConnackReason::NotAuthorized,
        client_message: None,
        audit_detail: Some(detail),
        server_reference: None,
        cache: None,
        attributes: Vec::new(),
    }
}
