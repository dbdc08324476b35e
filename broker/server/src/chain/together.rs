//! What several members of a chain come to together, where all of them are asked: never more than each of them says.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::hooks::{
    Acl, Attribute, ConflictPolicy, ConnackReason, Denial, Effect, FailureKind, Grant, GrantLimits,
    HookFailure, Identity, Registration, RegistrationDecision,
};

use super::Stop;

/// Longest name of an attribute, in bytes.
const LONGEST_NAME: usize = 128;

/// What the authorizers of a chain grant.
#[derive(Debug, Clone, PartialEq)]
pub struct Granting {
    /// Each of them has to allow; there is at least one.
    pub acls: Vec<GrantedAcl>,
    pub terms: Terms,
}

/// The topics that one member grants.
#[derive(Debug, Clone, PartialEq)]
pub struct GrantedAcl {
    pub by: Arc<str>,
    pub acl: Acl,
    /// What happens when no rule matches.
    pub otherwise: Effect,
}

/// What is granted beside topics.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    pub limits: GrantLimits,
    /// Replaces an empty client id.
    pub assigned_client_id: Option<String>,
    /// Ask again after this long.
    pub valid_for: Option<Duration>,
    pub attributes: Vec<Attribute>,
}

impl Granting {
    /// What one member grants, as it says it.
    pub(super) fn by(member: &Arc<str>, grant: Grant) -> Self {
        let Grant { acl, otherwise, limits, assigned_client_id, valid_for, cache: _, attributes } = grant;
        Self {
            acls: vec![GrantedAcl { by: Arc::clone(member), acl, otherwise }],
            terms: Terms { limits, assigned_client_id, valid_for, attributes },
        }
    }

    /// The names of those who granted.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.acls.iter().map(|acl| &*acl.by).collect();
        names.join(", ")
    }
}

/// Of the grants so far and one more: topics that all of them allow, the lower of every limit.
pub(super) fn grant(so_far: Option<Granting>, by: &Arc<str>, mut grant: Grant) -> Result<Granting, Stop> {
    grant.attributes = own(by, grant.attributes)?;
    // An empty one assigns nothing.
    grant.assigned_client_id = grant.assigned_client_id.filter(|id| !id.is_empty());
    let next = Granting::by(by, grant);
    let Some(mut all) = so_far else { return Ok(next) };
    let (known, terms) = (&mut all.terms, next.terms);
    if let (Some(one), Some(other)) = (&known.assigned_client_id, &terms.assigned_client_id)
        && one != other
    {
        return Err(disagree(by, format!("it assigns the client id {other:?}, and another member {one:?}")));
    }
    known.limits = least(known.limits, terms.limits);
    known.valid_for = lower(known.valid_for, terms.valid_for);
    known.assigned_client_id = known.assigned_client_id.take().or(terms.assigned_client_id);
    known.attributes.extend(terms.attributes);
    all.acls.extend(next.acls);
    Ok(all)
}

/// Of the identities so far and one more, which must be of the same device and tenant: the tags that all of them give.
pub(super) fn identity(
    so_far: Option<Identity>,
    by: &Arc<str>,
    mut next: Identity,
) -> Result<Identity, Stop> {
    next.attributes = own(by, next.attributes)?;
    let Some(mut all) = so_far else { return Ok(next) };
    if (&all.device_id, &all.tenant) != (&next.device_id, &next.tenant) {
        let (one, other) = (shown(&all), shown(&next));
        return Err(disagree(by, format!("it says {other}, and another member says {one}")));
    }
    all.tags.retain(|tag| next.tags.contains(tag));
    all.attributes.extend(next.attributes);
    Ok(all)
}

/// Of the registrations so far and one more: held when one holds it, and nobody's certificates give way unless all say how.
pub(super) fn registration(
    so_far: Option<RegistrationDecision>,
    by: &Arc<str>,
    next: RegistrationDecision,
) -> Result<RegistrationDecision, Stop> {
    let (known, was_held) = match so_far {
        None => (None, false),
        Some(decision) => match parts(decision) {
            Some((known, is_held)) => (Some(known), is_held),
            None => return Err(disagree(by, "another member does not register it".into())),
        },
    };
    let Some((mut next, is_held)) = parts(next) else {
        return Err(disagree(by, "it does not register it".into()));
    };
    next.attributes = own(by, next.attributes)?;
    let all = match known {
        None => Registration { identity: identity(None, by, next.identity)?, ..next },
        Some(mut all) => {
            if all.on_conflict != next.on_conflict {
                all.on_conflict = ConflictPolicy::Refuse;
            }
            all.identity = identity(Some(all.identity), by, next.identity)?;
            all.attributes.extend(next.attributes);
            all
        }
    };
    Ok(match was_held || is_held {
        true => RegistrationDecision::Hold(all),
        false => RegistrationDecision::Register(all),
    })
}

/// The registration, and whether it is to wait for an operator.
fn parts(decision: RegistrationDecision) -> Option<(Registration, bool)> {
    match decision {
        RegistrationDecision::Register(registration) => Some((registration, false)),
        RegistrationDecision::Hold(registration) => Some((registration, true)),
        RegistrationDecision::Deny(_) | RegistrationDecision::Abstain => None,
    }
}

/// Attributes under names that no other member's have.
fn own(by: &Arc<str>, attributes: Vec<Attribute>) -> Result<Vec<Attribute>, Stop> {
    let named = attributes.into_iter().map(|Attribute { name, value }| {
        let name = format!("{by}.{name}");
        if name.len() > LONGEST_NAME {
            let detail = format!("the attribute {name} has a name of more than {LONGEST_NAME} bytes");
            let failure = HookFailure { kind: FailureKind::Invalid, detail };
            return Err(Stop::Failed { by: Arc::clone(by), failure });
        }
        Ok(Attribute { name, value })
    });
    named.collect()
}

fn disagree(by: &Arc<str>, detail: String) -> Stop {
    let denial = Denial {
        reason: ConnackReason::NotAuthorized,
        client_message: None,
        audit_detail: Some(format!("members disagree: {detail}")),
        server_reference: None,
        cache: None,
        attributes: Vec::new(),
    };
    Stop::Denied { by: Arc::clone(by), denial: Box::new(denial) }
}

fn shown(identity: &Identity) -> String {
    match &identity.tenant {
        Some(tenant) => format!("device {:?} of {tenant:?}", identity.device_id),
        None => format!("device {:?}", identity.device_id),
    }
}

fn least(one: GrantLimits, other: GrantLimits) -> GrantLimits {
    // Nought is no limit there: a new one has to say what it means.
    let GrantLimits {
        maximum_qos,
        retain_available,
        maximum_packet_size,
        receive_maximum,
        topic_alias_maximum,
        session_expiry,
        keep_alive,
        subscriptions,
        publishes_per_second,
        publish_bytes_per_second,
    } = other;
    let limit = |limit: Option<u16>| limit.filter(|limit| *limit > 0);
    GrantLimits {
        maximum_qos: lower(one.maximum_qos, maximum_qos),
        // No is lower than yes.
        retain_available: lower(one.retain_available, retain_available),
        maximum_packet_size: lower(one.maximum_packet_size, maximum_packet_size),
        receive_maximum: lower(limit(one.receive_maximum), limit(receive_maximum)),
        topic_alias_maximum: lower(one.topic_alias_maximum, topic_alias_maximum),
        session_expiry: lower(one.session_expiry, session_expiry),
        keep_alive: lower(limit(one.keep_alive), limit(keep_alive)),
        subscriptions: lower(one.subscriptions, subscriptions),
        publishes_per_second: lower(one.publishes_per_second, publishes_per_second),
        publish_bytes_per_second: lower(one.publish_bytes_per_second, publish_bytes_per_second),
    }
}

/// Who says nothing sets no limit.
fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use mqgate_identity::hooks::{CacheHint, CacheScope, Value};

    use super::*;
    use crate::testing;

    fn attribute(name: &str) -> Attribute {
        Attribute { name: name.into(), value: Value::Boolean(true) }
    }

    fn names(attributes: &[Attribute]) -> Vec<&str> {
        attributes.iter().map(|attribute| attribute.name.as_str()).collect()
    }

    fn who(device_id: &str, tenant: Option<&str>, tags: &[&str]) -> Identity {
        Identity {
            tenant: tenant.map(Into::into),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            attributes: vec![attribute("seen")],
            ..testing::identity(device_id)
        }
    }

    fn all<T, U>(
        parts: Vec<T>,
        mut step: impl FnMut(Option<U>, &Arc<str>, T) -> Result<U, Stop>,
    ) -> Result<Option<U>, String> {
        let mut so_far = None;
        for (at, part) in parts.into_iter().enumerate() {
            let by: Arc<str> = format!("p{at}").into();
            so_far = Some(step(so_far, &by, part).map_err(|stop| match stop {
                Stop::Denied { by, denial } => format!("{by} denied: {:?}", denial.audit_detail),
                Stop::Failed { by, failure } => format!("{by} failed: {}", failure.detail),
            })?);
        }
        Ok(so_far)
    }

    #[test]
    fn identities_agree_or_nobody_is_let_in() {
        let same = vec![who("d", Some("t"), &["a", "b"]), who("d", Some("t"), &["b", "c"])];
        let agreed = all(same, identity).unwrap().unwrap();
        assert_eq!((agreed.device_id.as_str(), agreed.tenant.as_deref()), ("d", Some("t")));
        assert_eq!(agreed.tags, ["b"]);
        assert_eq!(names(&agreed.attributes), ["p0.seen", "p1.seen"]);
        for (one, other) in [
            (who("d", None, &[]), who("e", None, &[])),
            (who("d", Some("t"), &[]), who("d", None, &[])),
            (who("d", Some("t"), &[]), who("d", Some("u"), &[])),
        ] {
            let said = all(vec![one, other], identity).unwrap_err();
            assert!(said.starts_with("p1 denied") && said.contains("disagree"), "{said}");
        }
        let mut long = who("d", None, &[]);
        long.attributes = vec![attribute(&"n".repeat(126))];
        assert!(all(vec![long], identity).unwrap_err().contains("more than 128 bytes"));
    }

    #[test]
    fn of_every_limit_the_lowest_counts() {
        let hint = Some(CacheHint { scope: CacheScope::Identity, ttl: Duration::from_secs(60) });
        let one = Grant {
            limits: GrantLimits {
                maximum_qos: Some(2),
                retain_available: Some(false),
                maximum_packet_size: Some(100),
                receive_maximum: Some(0),
                topic_alias_maximum: Some(0),
                session_expiry: Some(u32::MAX),
                keep_alive: Some(0),
                subscriptions: None,
                publishes_per_second: Some(5),
                publish_bytes_per_second: Some(7),
            },
            valid_for: Some(Duration::from_secs(60)),
            assigned_client_id: Some(String::new()),
            cache: hint,
            attributes: vec![attribute("x")],
            ..testing::grant("a/#")
        };
        let other = Grant {
            limits: GrantLimits {
                maximum_qos: Some(1),
                retain_available: Some(true),
                maximum_packet_size: Some(200),
                receive_maximum: Some(9),
                topic_alias_maximum: Some(3),
                session_expiry: Some(10),
                keep_alive: Some(30),
                subscriptions: Some(4),
                publishes_per_second: None,
                publish_bytes_per_second: Some(6),
            },
            valid_for: Some(Duration::from_secs(30)),
            assigned_client_id: Some("c".into()),
            attributes: vec![attribute("x")],
            ..testing::grant("b/#")
        };
        let expected = GrantLimits {
            maximum_qos: Some(1),
            retain_available: Some(false),
            maximum_packet_size: Some(100),
            receive_maximum: Some(9),
            topic_alias_maximum: Some(0),
            session_expiry: Some(10),
            keep_alive: Some(30),
            subscriptions: Some(4),
            publishes_per_second: Some(5),
            publish_bytes_per_second: Some(6),
        };
        for parts in [vec![one.clone(), other.clone()], vec![other.clone(), one]] {
            let Granting { acls, terms } = all(parts, grant).unwrap().unwrap();
            assert_eq!((acls.len(), terms.limits), (2, expected));
            assert_eq!(terms.valid_for, Some(Duration::from_secs(30)));
            assert_eq!(terms.assigned_client_id.as_deref(), Some("c"));
            assert_eq!(names(&terms.attributes), ["p0.x", "p1.x"]);
        }
        let third = Grant { assigned_client_id: Some("d".into()), ..testing::grant("#") };
        let said = all(vec![other, third], grant).unwrap_err();
        assert!(said.starts_with("p1 denied") && said.contains("assigns the client id"), "{said}");
    }

    #[test]
    fn a_registration_is_as_strict_as_the_strictest() {
        let registration_of = |device_id: &str, on_conflict| Registration {
            identity: testing::identity(device_id),
            on_conflict,
            attributes: vec![attribute("batch")],
        };
        let add = || registration_of("d", ConflictPolicy::AddCertificate);
        let replace = || registration_of("d", ConflictPolicy::ReplaceCertificates);
        let (register, hold) = (RegistrationDecision::Register, RegistrationDecision::Hold);
        for (parts, is_held, on_conflict) in [
            (vec![register(add()), register(add())], false, ConflictPolicy::AddCertificate),
            (vec![register(add()), hold(add()), register(add())], true, ConflictPolicy::AddCertificate),
            (vec![hold(replace()), register(replace())], true, ConflictPolicy::ReplaceCertificates),
            (vec![register(add()), register(replace())], false, ConflictPolicy::Refuse),
        ] {
            let count = parts.len();
            let (all, held) = parts_of(all(parts, registration));
            assert_eq!((held, all.on_conflict), (is_held, on_conflict));
            assert_eq!(all.attributes.len(), count);
            assert_eq!(names(&all.attributes)[0], "p0.batch");
        }
        let other = registration_of("e", ConflictPolicy::AddCertificate);
        assert!(all(vec![register(add()), register(other)], registration).unwrap_err().contains("disagree"));
    }

    fn parts_of(decision: Result<Option<RegistrationDecision>, String>) -> (Registration, bool) {
        parts(decision.unwrap().unwrap()).unwrap()
    }
}
