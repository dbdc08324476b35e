//! What a hook answered, checked: past here an answer cannot break a rule of the ABI. A refusal names the field.

use std::time::Duration;

use bytestring::ByteString;
use mqgate_codec::TopicFilter;
use mqgate_identity::hooks::{
    Acl, AclRule, Attribute, Authentication, Authorization, CacheHint, CacheScope, ConflictPolicy,
    ConnackReason, Denial, Effect, Grant, GrantLimits, Identity, Registration, RegistrationDecision,
    RetainMatch, Value,
};

use crate::bindings::exports::mqgate::plugin::{authenticator, authorizer, registrar};
use crate::bindings::mqgate::plugin::types;
use crate::instance::shorten;

const MAX_NAME: usize = 256;
const MAX_TAGS: usize = 64;
const MAX_TAG: usize = 128;
const MAX_TEXT: usize = 4096;
const MAX_ATTRIBUTES: usize = 64;
const MAX_ATTRIBUTE_NAME: usize = 128;
const MAX_ATTRIBUTE_BYTES: usize = 16 << 10;
const MAX_RULES: usize = 1000;
const MAX_FILTER: usize = 1024;
const PLACEHOLDERS: [&str; 3] = ["${client-id}", "${device-id}", "${tenant}"];

/// A rule of the ABI that the answer breaks.
type Checked<T> = Result<T, String>;

pub(crate) fn authentication(answer: authenticator::Authentication) -> Checked<Authentication> {
    Ok(match answer {
        authenticator::Authentication::Accept(accepted) => Authentication::Accept {
            identity: identity(accepted.identity)?,
            cache: accepted.cache.map(cache_hint),
        },
        authenticator::Authentication::Deny(refusal) => Authentication::Deny(denial(refusal)?),
        authenticator::Authentication::Abstain => Authentication::Abstain,
    })
}

pub(crate) fn registration_decision(
    answer: registrar::RegistrationDecision,
) -> Checked<RegistrationDecision> {
    Ok(match answer {
        registrar::RegistrationDecision::Register(wanted) => {
            RegistrationDecision::Register(registration(wanted)?)
        }
        registrar::RegistrationDecision::Hold(wanted) => RegistrationDecision::Hold(registration(wanted)?),
        registrar::RegistrationDecision::Deny(refusal) => RegistrationDecision::Deny(denial(refusal)?),
        registrar::RegistrationDecision::Abstain => RegistrationDecision::Abstain,
    })
}

pub(crate) fn authorization(answer: authorizer::Authorization) -> Checked<Authorization> {
    Ok(match answer {
        authorizer::Authorization::Allow(granted) => Authorization::Allow(grant(granted)?),
        authorizer::Authorization::Deny(refusal) => Authorization::Deny(denial(refusal)?),
        authorizer::Authorization::Abstain => Authorization::Abstain,
    })
}

pub(crate) fn identity(identity: types::Identity) -> Checked<Identity> {
    name("device-id", &identity.device_id)?;
    if let Some(tenant) = &identity.tenant {
        name("tenant", tenant)?;
    }
    if identity.tags.len() > MAX_TAGS {
        return Err(format!("{} tags; at most {MAX_TAGS} are allowed", identity.tags.len()));
    }
    for tag in &identity.tags {
        if tag.is_empty() || tag.len() > MAX_TAG || tag.chars().any(char::is_control) {
            return Err(format!(
                "the tag {} is not 1 to {MAX_TAG} bytes without control characters",
                shown(tag)
            ));
        }
    }
    Ok(Identity {
        device_id: identity.device_id,
        tenant: identity.tenant,
        tags: identity.tags,
        attributes: attributes(identity.attributes)?,
    })
}

/// The rule for what becomes part of a topic.
fn name(field: &str, value: &str) -> Checked<()> {
    let fine = (1..=MAX_NAME).contains(&value.len())
        && !value.contains(['/', '+', '#'])
        && !value.chars().any(char::is_control);
    if fine {
        return Ok(());
    }
    Err(format!(
        "the {field} {} is not 1 to {MAX_NAME} bytes without `/`, `+`, `#` and control characters",
        shown(value)
    ))
}

fn registration(registration: registrar::Registration) -> Checked<Registration> {
    Ok(Registration {
        identity: identity(registration.identity)?,
        on_conflict: match registration.on_conflict {
            registrar::ConflictPolicy::Refuse => ConflictPolicy::Refuse,
            registrar::ConflictPolicy::AddCertificate => ConflictPolicy::AddCertificate,
            registrar::ConflictPolicy::ReplaceCertificates => ConflictPolicy::ReplaceCertificates,
        },
        attributes: attributes(registration.attributes)?,
    })
}

pub(crate) fn denial(denial: types::Denial) -> Checked<Denial> {
    Ok(Denial {
        reason: connack_reason(denial.reason),
        client_message: optional_text("client-message", denial.client_message)?,
        audit_detail: optional_text("audit-detail", denial.audit_detail)?,
        server_reference: optional_text("server-reference", denial.server_reference)?,
        cache: denial.cache.map(cache_hint),
        attributes: attributes(denial.attributes)?,
    })
}

fn grant(grant: authorizer::Grant) -> Checked<Grant> {
    if let Some(client_id) = &grant.assigned_client_id
        && (client_id.is_empty() || client_id.len() > MAX_NAME || client_id.chars().any(char::is_control))
    {
        return Err(format!(
            "the assigned-client-id {} is not 1 to {MAX_NAME} bytes without control characters",
            shown(client_id)
        ));
    }
    Ok(Grant {
        acl: acl(grant.acl)?,
        otherwise: effect(grant.otherwise),
        limits: limits(grant.limits)?,
        assigned_client_id: grant.assigned_client_id,
        valid_for: grant.valid_for.map(seconds),
        cache: grant.cache.map(cache_hint),
        attributes: attributes(grant.attributes)?,
    })
}

fn acl(acl: authorizer::Acl) -> Checked<Acl> {
    match acl {
        authorizer::Acl::Named(name) if name.is_empty() => {
            Err(String::from("the name of the access list is empty"))
        }
        authorizer::Acl::Named(name) => Ok(Acl::Named(text("name of the access list", name)?)),
        authorizer::Acl::Inline(rules) if rules.len() > MAX_RULES => {
            Err(format!("an access list of {} rules; at most {MAX_RULES} are allowed", rules.len()))
        }
        authorizer::Acl::Inline(rules) => rules
            .into_iter()
            .enumerate()
            .map(|(index, rule)| acl_rule(rule).map_err(|why| format!("rule {}: {why}", index + 1)))
            .collect::<Checked<_>>()
            .map(Acl::Inline),
    }
}

fn acl_rule(rule: authorizer::AclRule) -> Checked<AclRule> {
    check_filter(&rule.filter)?;
    let levels = [
        authorizer::QosLevels::AT_MOST_ONCE,
        authorizer::QosLevels::AT_LEAST_ONCE,
        authorizer::QosLevels::EXACTLY_ONCE,
    ];
    let qos = levels
        .into_iter()
        .enumerate()
        .filter(|(_, level)| rule.qos.contains(*level))
        .fold(0, |bits, (number, _)| bits | 1 << number);
    Ok(AclRule {
        effect: effect(rule.effect),
        publish: rule.actions.contains(authorizer::Actions::PUBLISH),
        subscribe: rule.actions.contains(authorizer::Actions::SUBSCRIBE),
        filter: rule.filter,
        qos,
        retain: match rule.retain {
            authorizer::RetainMatch::Any => RetainMatch::Any,
            authorizer::RetainMatch::OnlyRetained => RetainMatch::OnlyRetained,
            authorizer::RetainMatch::OnlyLive => RetainMatch::OnlyLive,
        },
    })
}

/// A filter with something in place of its placeholders. `None`: one is none that there is.
fn filled(filter: &str) -> Option<String> {
    let (mut filled, mut rest) = (String::with_capacity(filter.len()), filter);
    while let Some(at) = rest.find('$') {
        let (before, here) = rest.split_at(at);
        filled.push_str(before);
        let known = PLACEHOLDERS.iter().find_map(|placeholder| here.strip_prefix(placeholder));
        let (stands_for_it, after) = match known {
            Some(after) => ('x', after),
            None if here.starts_with("${") => return None,
            None => ('$', &here[1..]),
        };
        filled.push(stands_for_it);
        rest = after;
    }
    filled.push_str(rest);
    Some(filled)
}

/// A filter must be one whatever its placeholders stand for; their values hold no separator and no wildcard.
fn check_filter(filter: &str) -> Checked<()> {
    if filter.len() > MAX_FILTER {
        return Err(format!("a filter of {} bytes; at most {MAX_FILTER} are allowed", filter.len()));
    }
    let filled = filled(filter)
        .ok_or_else(|| format!("the filter {} holds a placeholder that there is not", shown(filter)))?;
    let parsed = TopicFilter::parse(ByteString::from(filled))
        .map_err(|error| format!("the filter {} {error}", shown(filter)))?;
    if parsed.share_name().is_some() {
        return Err(format!("the filter {} names a shared subscription; write it without", shown(filter)));
    }
    Ok(())
}

fn limits(limits: authorizer::Limits) -> Checked<GrantLimits> {
    if limits.maximum_qos.is_some_and(|qos| qos > 2) {
        return Err(String::from("limits.maximum-qos is above 2"));
    }
    if limits.receive_maximum == Some(0) {
        return Err(String::from("limits.receive-maximum is 0"));
    }
    if limits.maximum_packet_size == Some(0) {
        return Err(String::from("limits.maximum-packet-size is 0"));
    }
    Ok(GrantLimits {
        maximum_qos: limits.maximum_qos,
        retain_available: limits.retain_available,
        maximum_packet_size: limits.maximum_packet_size,
        receive_maximum: limits.receive_maximum,
        topic_alias_maximum: limits.topic_alias_maximum,
        session_expiry: limits.session_expiry,
        keep_alive: limits.keep_alive,
        subscriptions: limits.subscriptions,
        publishes_per_second: limits.publishes_per_second,
        publish_bytes_per_second: limits.publish_bytes_per_second,
    })
}

fn effect(effect: authorizer::Effect) -> Effect {
    match effect {
        authorizer::Effect::Allow => Effect::Allow,
        authorizer::Effect::Deny => Effect::Deny,
    }
}

fn cache_hint(hint: types::CacheHint) -> CacheHint {
    CacheHint {
        scope: match hint.scope {
            types::CacheScope::Connection => CacheScope::Connection,
            types::CacheScope::Certificate => CacheScope::Certificate,
            types::CacheScope::Identity => CacheScope::Identity,
        },
        ttl: seconds(hint.ttl),
    }
}

fn connack_reason(reason: types::ConnackReason) -> ConnackReason {
    match reason {
        types::ConnackReason::UnspecifiedError => ConnackReason::UnspecifiedError,
        types::ConnackReason::ImplementationSpecificError => ConnackReason::ImplementationSpecificError,
        types::ConnackReason::ClientIdentifierNotValid => ConnackReason::ClientIdentifierNotValid,
        types::ConnackReason::BadUserNameOrPassword => ConnackReason::BadUserNameOrPassword,
        types::ConnackReason::NotAuthorized => ConnackReason::NotAuthorized,
        types::ConnackReason::ServerUnavailable => ConnackReason::ServerUnavailable,
        types::ConnackReason::ServerBusy => ConnackReason::ServerBusy,
        types::ConnackReason::Banned => ConnackReason::Banned,
        types::ConnackReason::BadAuthenticationMethod => ConnackReason::BadAuthenticationMethod,
        types::ConnackReason::QuotaExceeded => ConnackReason::QuotaExceeded,
        types::ConnackReason::UseAnotherServer => ConnackReason::UseAnotherServer,
        types::ConnackReason::ServerMoved => ConnackReason::ServerMoved,
        types::ConnackReason::ConnectionRateExceeded => ConnackReason::ConnectionRateExceeded,
    }
}

fn attributes(attributes: Vec<types::Attribute>) -> Checked<Vec<Attribute>> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(format!("{} attributes; at most {MAX_ATTRIBUTES} are allowed", attributes.len()));
    }
    let mut bytes = 0;
    let mut checked = Vec::with_capacity(attributes.len());
    for types::Attribute { name, value } in attributes {
        let fine = (1..=MAX_ATTRIBUTE_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
        if !fine {
            return Err(format!(
                "the attribute name {} is not 1 to {MAX_ATTRIBUTE_NAME} of a-z, 0-9, `.`, `-` and `_`",
                shown(&name)
            ));
        }
        let value = match value {
            types::Value::Text(text) => Value::Text(text),
            types::Value::Integer(number) => Value::Integer(number),
            types::Value::Boolean(value) => Value::Boolean(value),
            types::Value::Blob(bytes) => Value::Blob(bytes),
            types::Value::Texts(texts) => Value::Texts(texts),
        };
        bytes += match &value {
            Value::Text(text) => text.len(),
            Value::Integer(_) | Value::Boolean(_) => 8,
            Value::Blob(bytes) => bytes.len(),
            // Each text costs something, so that a million empty ones are too many.
            Value::Texts(texts) => texts.iter().map(|text| text.len() + 8).sum(),
        };
        if bytes > MAX_ATTRIBUTE_BYTES {
            return Err(format!("the values of attributes are over {MAX_ATTRIBUTE_BYTES} bytes together"));
        }
        checked.push(Attribute { name, value });
    }
    Ok(checked)
}

fn optional_text(field: &str, value: Option<String>) -> Checked<Option<String>> {
    value.map(|value| text(field, value)).transpose()
}

fn text(field: &str, value: String) -> Checked<String> {
    if value.len() > MAX_TEXT {
        return Err(format!("the {field} has {} bytes; at most {MAX_TEXT} are allowed", value.len()));
    }
    // U+0000 may stand in no UTF-8 string of MQTT. [MQTT-1.5.4-2]
    if value.contains('\0') {
        return Err(format!("the {field} holds U+0000"));
    }
    Ok(value)
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

/// A plugin's text inside a message: quoted, escaped, short.
fn shown(text: &str) -> String {
    format!("{:?}", shorten(text.to_owned(), 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(device_id: &str) -> types::Identity {
        types::Identity {
            device_id: device_id.to_owned(),
            tenant: None,
            tags: Vec::new(),
            attributes: Vec::new(),
        }
    }

    #[test]
    fn a_device_id_fits_into_a_topic_level() {
        for good in ["a", "meter 7", "ü", &"x".repeat(256)] {
            assert!(identity(who(good)).is_ok(), "{good:?}");
        }
        for bad in ["", "a/b", "+", "a#", "a\nb", "a\u{7f}", "a\u{85}", &"x".repeat(257)] {
            assert!(identity(who(bad)).is_err(), "{bad:?}");
            let tenant = types::Identity { tenant: Some(bad.to_owned()), ..who("a") };
            assert!(identity(tenant).is_err(), "tenant {bad:?}");
        }
        assert!(identity(types::Identity { tags: vec![String::from("t"); 64], ..who("a") }).is_ok());
        assert!(identity(types::Identity { tags: vec![String::from("t"); 65], ..who("a") }).is_err());
        assert!(identity(types::Identity { tags: vec![String::new()], ..who("a") }).is_err());
    }

    #[test]
    fn filters_are_valid_whatever_their_placeholders_stand_for() {
        let long = format!("a/{}", "b".repeat(MAX_FILTER));
        let good = [
            "#",
            "+/a",
            "devices/${device-id}/#",
            "x${client-id}y/${tenant}",
            "$SYS/#",
            "a//b",
            "${device-id}",
        ];
        for filter in good {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        let bad = [
            "",
            "#/x",
            "a/+b",
            "a#",
            "${client-id}#",
            "+${client-id}",
            "${clientid}",
            "${",
            "a/${client-id",
            "$share/g/a",
            "a\0",
            &long,
            // A placeholder that only comes to be by replacing another.
            "${cli${tenant}ent-id}",
        ];
        for filter in bad {
            assert!(check_filter(filter).is_err(), "{filter}");
        }
    }

    fn rule(filter: &str) -> authorizer::AclRule {
        authorizer::AclRule {
            effect: authorizer::Effect::Allow,
            actions: authorizer::Actions::PUBLISH,
            filter: filter.to_owned(),
            qos: authorizer::QosLevels::AT_MOST_ONCE | authorizer::QosLevels::EXACTLY_ONCE,
            retain: authorizer::RetainMatch::OnlyLive,
        }
    }

    fn allow(rules: Vec<authorizer::AclRule>) -> authorizer::Grant {
        authorizer::Grant {
            acl: authorizer::Acl::Inline(rules),
            otherwise: authorizer::Effect::Deny,
            limits: authorizer::Limits {
                maximum_qos: None,
                retain_available: None,
                maximum_packet_size: None,
                receive_maximum: None,
                topic_alias_maximum: None,
                session_expiry: None,
                keep_alive: None,
                subscriptions: None,
                publishes_per_second: None,
                publish_bytes_per_second: None,
            },
            assigned_client_id: None,
            valid_for: Some(90),
            cache: None,
            attributes: Vec::new(),
        }
    }

    #[test]
    fn a_grant_keeps_what_it_says() {
        let Ok(granted) = grant(allow(vec![rule("a/#")])) else { panic!("refused") };
        let expected = AclRule {
            effect: Effect::Allow,
            publish: true,
            subscribe: false,
            filter: String::from("a/#"),
            qos: 0b101,
            retain: RetainMatch::OnlyLive,
        };
        assert_eq!(granted.acl, Acl::Inline(vec![expected]));
        assert_eq!(granted.otherwise, Effect::Deny);
        assert_eq!(granted.valid_for, Some(Duration::from_secs(90)));
    }

    #[test]
    fn a_grant_is_bounded() {
        assert!(grant(allow(vec![rule("a"); MAX_RULES])).is_ok());
        assert!(grant(allow(vec![rule("a"); MAX_RULES + 1])).is_err());
        let broken = |change: fn(&mut authorizer::Grant)| {
            let mut granted = allow(Vec::new());
            change(&mut granted);
            grant(granted).is_err()
        };
        assert!(broken(|grant| grant.limits.maximum_qos = Some(3)));
        assert!(broken(|grant| grant.limits.receive_maximum = Some(0)));
        assert!(broken(|grant| grant.limits.maximum_packet_size = Some(0)));
        assert!(broken(|grant| grant.assigned_client_id = Some(String::new())));
        assert!(broken(|grant| grant.assigned_client_id = Some("x".repeat(257))));
        assert!(broken(|grant| grant.acl = authorizer::Acl::Named(String::new())));
    }

    #[test]
    fn attributes_are_bounded_in_number_name_and_size() {
        let one = |name: &str, value| vec![types::Attribute { name: name.to_owned(), value }];
        assert!(attributes(one("tls.ja4", types::Value::Integer(1))).is_ok());
        for name in ["", "A", "a b", "ä", &"a".repeat(129)] {
            assert!(attributes(one(name, types::Value::Integer(1))).is_err(), "{name:?}");
        }
        let many = |count| {
            (0..count)
                .map(|_| types::Attribute { name: String::from("n"), value: types::Value::Boolean(true) })
                .collect()
        };
        assert!(attributes(many(64)).is_ok());
        assert!(attributes(many(65)).is_err());
        assert!(attributes(one("n", types::Value::Blob(vec![0; MAX_ATTRIBUTE_BYTES]))).is_ok());
        assert!(attributes(one("n", types::Value::Blob(vec![0; MAX_ATTRIBUTE_BYTES + 1]))).is_err());
        assert!(attributes(one("n", types::Value::Texts(vec![String::new(); 100_000]))).is_err());
    }

    #[test]
    fn a_denial_carries_no_novel() {
        let refusal = |message: String| types::Denial {
            reason: types::ConnackReason::Banned,
            client_message: Some(message),
            audit_detail: None,
            server_reference: None,
            cache: None,
            attributes: Vec::new(),
        };
        assert_eq!(
            denial(refusal(String::from("no"))).map(|denial| denial.reason),
            Ok(ConnackReason::Banned)
        );
        assert!(denial(refusal("x".repeat(MAX_TEXT + 1))).is_err());
        assert!(denial(refusal(String::from("a\0"))).is_err());
    }
}
