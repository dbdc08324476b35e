//! Which device a client certificate belongs to, and what it may do. `../README.md` is the specification; what reads
//! certificates strictly is the SDK's.

use mqgate_plugin_sdk::certificate::Field;
use mqgate_plugin_sdk::config::problem;
use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Authenticator, Authorizer, Plugin};
use mqgate_plugin_sdk::template::plain;
use mqgate_plugin_sdk::types::{
    Acl, AclRule, Actions, Attribute, Authenticated, Authentication, Authorization, ChainStatus,
    ClientCertificate, ConnackReason, Connection, Denial, Effect, Grant, HookError, Identity, InitError,
    Limits, PluginContext, QosLevels, RetainMatch,
};

/// Where a device id is looked for. A serial number every certificate has.
const NAMES: [Field; 5] = [Field::SanUri, Field::Cn, Field::SanDns, Field::SerialNumber, Field::Serial];
const URI_PREFIX: &str = "urn:device:";
/// Begins what a device appends to its id for another session.
const SEPARATOR: char = ':';

pub struct CertCore;

impl Plugin for CertCore {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&context.config) {
            Ok(settings) if settings.is_empty() => Ok(Self),
            Ok(_) | Err(_) => Err(problem("", "cert-core has no settings")),
        }
    }
}

impl Authenticator for CertCore {
    fn authenticate<H: Host>(&self, on: &Connection, _: &H) -> Result<Authentication, HookError> {
        let Some(certificate) = trusted(on) else { return Ok(Authentication::Abstain) };
        Ok(match identity(on, certificate) {
            Ok(identity) => Authentication::Accept(Authenticated { identity, cache: None }),
            Err(denial) => Authentication::Deny(denial),
        })
    }
}

impl Authorizer for CertCore {
    fn authorize<H: Host>(&self, on: &Connection, who: &Identity, _: &H) -> Result<Authorization, HookError> {
        let Some(certificate) = trusted(on) else { return Ok(Authorization::Abstain) };
        Ok(match grant(on, certificate, &who.device_id) {
            Ok(grant) => Authorization::Allow(grant),
            Err(denial) => Authorization::Deny(denial),
        })
    }
}

/// The certificate, if a trust anchor vouches for what it says.
fn trusted(on: &Connection) -> Option<&ClientCertificate> {
    on.certificate.as_ref().filter(|certificate| matches!(certificate.chain, ChainStatus::Verified(_)))
}

fn identity(on: &Connection, certificate: &ClientCertificate) -> Result<Identity, Denial> {
    if certificate.leaf.is_ca {
        return Err(refuse("the certificate is that of a CA"));
    }
    let (source, device_id) = device_id(certificate)?;
    let tenant = one_value(Field::O, certificate)?;
    check_session(on, &device_id)?;
    Ok(Identity {
        device_id,
        tenant,
        tags: vec![format!("x509-v{}", certificate.leaf.version)],
        attributes: vec![Attribute::text("cert.source", source.name())],
    })
}

/// The field that names the device, and its name. A field that cannot be used ends the search: a certificate must not
/// choose by which of its names it is known.
fn device_id(certificate: &ClientCertificate) -> Result<(Field, String), Denial> {
    for field in NAMES {
        if let Some(value) = one_value(field, certificate)? {
            return Ok((field, value));
        }
    }
    Err(refuse("the certificate names no device"))
}

/// The value of a field that must not be ambiguous, fit to be a name and a topic level.
fn one_value(field: Field, of: &ClientCertificate) -> Result<Option<String>, Denial> {
    let values = field.values(of).map_err(|error| refuse(error.to_string()))?;
    let mut counting: Vec<&str> = match field {
        Field::SanUri => values.iter().filter_map(|uri| uri.strip_prefix(URI_PREFIX)).collect(),
        _ => values.iter().map(AsRef::as_ref).collect(),
    };
    let Some(value) = counting.pop() else { return Ok(None) };
    if !counting.is_empty() {
        let several = counting.len() + 1;
        return Err(refuse(format!("the certificate has {several} values for {}", field.name())));
    }
    plain(value).map_err(|why| refuse(format!("{} of the certificate {why}", field.name())))?;
    Ok(Some(value.to_owned()))
}

/// Whether this device may open a session with this client id.
fn check_session(on: &Connection, device_id: &str) -> Result<(), Denial> {
    plain(device_id).map_err(|why| refuse(format!("the device id {why}")))?;
    // Otherwise `a` could take the sessions of `a:b`.
    if device_id.contains(SEPARATOR) {
        return Err(refuse("the device id holds :"));
    }
    let client_id = on.connect.client_id.as_str();
    let fits = client_id.is_empty()
        || client_id
            .strip_prefix(device_id)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(SEPARATOR));
    if fits {
        return Ok(());
    }
    let detail = "the client id does not belong to the device";
    Err(Denial::new(ConnackReason::ClientIdentifierNotValid, detail))
}

fn grant(on: &Connection, certificate: &ClientCertificate, device_id: &str) -> Result<Grant, Denial> {
    check_session(on, device_id)?;
    let mut rules = vec![allow(Actions::PUBLISH | Actions::SUBSCRIBE, "devices/${device-id}/#".to_owned())];
    if let Some(group) = one_value(Field::Ou, certificate)? {
        rules.push(allow(Actions::SUBSCRIBE, format!("groups/{group}/#")));
    }
    let is_old = on.connect.protocol_level == 3;
    Ok(Grant {
        acl: Acl::Inline(rules),
        otherwise: Effect::Deny,
        limits: Limits { maximum_qos: is_old.then_some(1), subscriptions: Some(100), ..Limits::UNCHANGED },
        assigned_client_id: on.connect.client_id.is_empty().then(|| device_id.to_owned()),
        valid_for: None,
        cache: None,
        attributes: vec![Attribute::text("policy.rule", "own-topics")],
    })
}

fn allow(actions: Actions, filter: String) -> AclRule {
    AclRule { effect: Effect::Allow, actions, filter, qos: QosLevels::all(), retain: RetainMatch::Any }
}

fn refuse(detail: impl Into<String>) -> Denial {
    Denial::new(ConnackReason::NotAuthorized, detail)
}

export_plugin!(CertCore: authenticator, authorizer);

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing::{self, MemoryHost};
    use mqgate_plugin_sdk::types::GeneralName;

    use super::*;

    /// `accept ID by FIELD`, the detail of the refusal, or `abstain`.
    fn says(certificate: ClientCertificate, client_id: &str) -> String {
        let mut on = testing::connection(Some(certificate));
        on.connect.client_id = client_id.to_owned();
        match CertCore.authenticate(&on, &MemoryHost::default()) {
            Ok(Authentication::Accept(Authenticated { identity, .. })) => {
                let by = format!("{:?}", identity.attributes[0].value);
                format!("accept {} by {by}", identity.device_id)
            }
            Ok(Authentication::Deny(denial)) => denial.audit_detail.unwrap_or_default(),
            Ok(Authentication::Abstain) => "abstain".to_owned(),
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn the_first_field_that_has_a_value_decides() {
        let mut certificate = testing::certificate(&[("cn", "by-name")]);
        certificate.leaf.subject_alt_names = vec![GeneralName::Uri("https://x".into())];
        assert_eq!(says(certificate.clone(), ""), "accept by-name by Value::Text(\"cn\")");
        certificate.leaf.subject_alt_names.push(GeneralName::Uri("urn:device:a/b".into()));
        assert_eq!(says(certificate, ""), "san.uri of the certificate holds /");
        let mut nameless = testing::certificate(&[]);
        nameless.leaf.serial = vec![0x0a, 0xff];
        assert_eq!(says(nameless, "0aff:2"), "accept 0aff by Value::Text(\"serial\")");
    }

    #[test]
    fn an_unverified_certificate_says_nothing() {
        let mut forged = testing::certificate(&[("cn", "d")]);
        forged.chain = ChainStatus::Unverified("unknown issuer".into());
        assert_eq!(says(forged.clone(), "d"), "abstain");
        let on = testing::connection(Some(forged));
        let who = Identity::new("d");
        assert_eq!(CertCore.authorize(&on, &who, &MemoryHost::default()), Ok(Authorization::Abstain));
    }

    #[test]
    fn a_device_has_its_own_sessions() {
        let named = |name: &str| testing::certificate(&[("cn", name)]);
        assert_eq!(says(named("a"), "ab"), "the client id does not belong to the device");
        assert_eq!(says(named("a:b"), "a:b"), "the device id holds :");
        assert!(says(named("a"), "a:b").starts_with("accept a"));
    }

    #[test]
    fn there_are_no_settings() {
        let host = MemoryHost::default();
        assert!(CertCore::init(&testing::context(" { } "), &host).is_ok());
        for wrong in ["", "[]", "null", r#"{"a": 1}"#, "{}x"] {
            assert!(CertCore::init(&testing::context(wrong), &host).is_err(), "{wrong}");
        }
    }
}
