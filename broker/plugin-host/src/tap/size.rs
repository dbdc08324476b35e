//! What a call takes in memory while it is kept, about. Everything that a client or a plugin may make long counts: whoever
//! keeps calls bounds them by it.

use mqgate_identity::certificate::ClientCertificate;
use mqgate_identity::hooks::{
    Acl, Attribute, Authentication, AuthenticationStep, Authorization, ConnectFacts, Connection, Denial,
    Identity, Registration, RegistrationDecision, Value,
};

use super::{Asked, Exchanged, HostCall, HttpAnswered, KnownDevice, Tapped, Told};

/// What a text in a list costs beside its bytes.
const EACH: usize = 32;
/// Of a certificate there are its bytes and, taken out of them, its facts.
const FACTS: usize = 4;

impl Tapped {
    pub(crate) fn size(&self) -> usize {
        let told = self.told.as_ref().map_or_else(|failure| failure.detail.len(), Told::size);
        self.asked.size() + told + self.heard.size()
    }
}

impl Asked {
    fn size(&self) -> usize {
        connection(&self.on)
            + self.who.as_ref().map_or(0, identity)
            + self.exchange.as_ref().map_or(0, Exchanged::size)
    }
}

impl Exchanged {
    fn size(&self) -> usize {
        self.method.len() + self.state.0.len() + self.data.as_ref().map_or(0, |data| data.0.len())
    }
}

impl Told {
    fn size(&self) -> usize {
        match self {
            Self::Authentication(Authentication::Accept { identity: who, .. }) => identity(who),
            Self::Step(AuthenticationStep::Accept { identity: who, data }) => identity(who) + bytes(data),
            Self::Step(AuthenticationStep::Continue { data, state }) => bytes(data) + state.0.len(),
            Self::Registration(RegistrationDecision::Register(what) | RegistrationDecision::Hold(what)) => {
                registration(what)
            }
            Self::Authorization(Authorization::Allow(grant)) => {
                let acl = match &grant.acl {
                    Acl::Inline(rules) => rules.iter().map(|rule| 2 * EACH + rule.filter.len()).sum(),
                    Acl::Named(name) => name.len(),
                };
                acl + text(&grant.assigned_client_id) + attributes(&grant.attributes)
            }
            Self::Authentication(Authentication::Deny(denied))
            | Self::Step(AuthenticationStep::Deny(denied))
            | Self::Registration(RegistrationDecision::Deny(denied))
            | Self::Authorization(Authorization::Deny(denied)) => denial(denied),
            Self::Authentication(Authentication::Abstain)
            | Self::Step(AuthenticationStep::Abstain)
            | Self::Registration(RegistrationDecision::Abstain)
            | Self::Authorization(Authorization::Abstain) => 0,
        }
    }
}

impl HostCall {
    pub(super) fn size(&self) -> usize {
        fn error<T>(told: &Result<T, String>) -> usize {
            told.as_ref().err().map_or(0, String::len)
        }
        2 * EACH
            + match self {
                Self::Get { key, found } => {
                    key.len()
                        + error(found)
                        + found.iter().flatten().map(|(value, _)| value.len()).sum::<usize>()
                }
                Self::Set { key, done } | Self::Delete { key, done } => key.len() + error(done),
                Self::Swap { key, version, .. } => key.len() + error(version),
                Self::Add { key, number, .. } => key.len() + error(number),
                Self::List { prefix, keys } => {
                    let listed = keys.iter().flatten().map(|key| EACH + key.len()).sum::<usize>();
                    prefix.len() + error(keys) + listed
                }
                Self::Device { by, found } => {
                    by.len() + error(found) + found.iter().flatten().map(KnownDevice::size).sum::<usize>()
                }
                Self::Count { tenant, tag, count } => text(tenant) + text(tag) + error(count),
                Self::Clock { .. } => 0,
                Self::Http { method, url, answer } => {
                    method.len() + url.len() + answer.iter().map(HttpAnswered::size).sum::<usize>()
                }
                Self::Random { bytes } => bytes.len(),
                Self::Log { line, .. } => line.len(),
            }
    }
}

impl KnownDevice {
    fn size(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| 2 * EACH + name.len() + value.len());
        self.device_id.len()
            + text(&self.tenant)
            + texts(&self.tags)
            + self.fingerprints.len() * size_of::<[u8; 32]>()
            + attributes.sum::<usize>()
    }
}

impl HttpAnswered {
    fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| 2 * EACH + name.len() + value.len());
        headers.sum::<usize>() + self.body.len()
    }
}

fn connection(on: &Connection) -> usize {
    let tls = on.tls.as_ref().map_or(0, |tls| text(&tls.server_name) + text(&tls.alpn));
    let certificate = on.certificate.as_deref().map_or(0, certificate);
    on.trace_id.len() + tls + certificate + connect(&on.connect) + attributes(&on.attributes)
}

fn certificate(of: &ClientCertificate) -> usize {
    FACTS * of.leaf.der.len() + of.intermediates.iter().map(|der| der.len()).sum::<usize>()
}

fn connect(facts: &ConnectFacts) -> usize {
    let properties = facts.user_properties.iter().map(|(name, value)| 2 * EACH + name.len() + value.len());
    facts.client_id.len()
        + text(&facts.user_name)
        + facts.password.as_ref().map_or(0, |password| password.0.len())
        + facts.will.as_ref().map_or(0, |will| will.topic.len())
        + text(&facts.authentication_method)
        + properties.sum::<usize>()
}

fn identity(who: &Identity) -> usize {
    who.device_id.len() + text(&who.tenant) + texts(&who.tags) + attributes(&who.attributes)
}

fn registration(what: &Registration) -> usize {
    identity(&what.identity) + attributes(&what.attributes)
}

fn denial(denied: &Denial) -> usize {
    text(&denied.client_message)
        + text(&denied.audit_detail)
        + text(&denied.server_reference)
        + attributes(&denied.attributes)
}

fn attributes(all: &[Attribute]) -> usize {
    let value = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Integer(_) | Value::Boolean(_) => 0,
        Value::Blob(bytes) => bytes.len(),
        Value::Texts(all) => texts(all),
    };
    all.iter().map(|attribute| 2 * EACH + attribute.name.len() + value(&attribute.value)).sum()
}

fn texts(all: &[String]) -> usize {
    all.iter().map(|text| EACH + text.len()).sum()
}

fn text(text: &Option<String>) -> usize {
    text.as_ref().map_or(0, String::len)
}

fn bytes(bytes: &Option<Vec<u8>>) -> usize {
    bytes.as_ref().map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use mqgate_identity::hooks::{AclRule, ConnackReason, Effect, Grant, GrantLimits, RetainMatch, Secret};
    use mqgate_identity::time::UnixMillis;

    use super::*;

    const LONG: usize = 10_000;

    fn long() -> String {
        "x".repeat(LONG)
    }

    fn named(value: Value) -> Attribute {
        Attribute { name: String::from("n"), value }
    }

    fn who() -> Identity {
        Identity {
            device_id: long(),
            tenant: Some(long()),
            tags: vec![long(); 2],
            attributes: vec![named(Value::Blob(vec![0; LONG])), named(Value::Texts(vec![long()]))],
        }
    }

    /// Long parts, of each of which at least the bytes are counted.
    fn assert_counts(size: usize, parts: usize) {
        assert!((parts * LONG..(parts + 1) * LONG).contains(&size), "{size} for {parts} parts");
    }

    #[test]
    fn whatever_an_answer_says_counts() {
        let denied = || Denial {
            reason: ConnackReason::Banned,
            client_message: Some(long()),
            audit_detail: Some(long()),
            server_reference: Some(long()),
            cache: None,
            attributes: vec![named(Value::Text(long()))],
        };
        let rule = AclRule {
            effect: Effect::Allow,
            publish: true,
            subscribe: true,
            filter: long(),
            qos: 7,
            retain: RetainMatch::Any,
        };
        let grant = |acl| Grant {
            acl,
            otherwise: Effect::Deny,
            limits: GrantLimits::default(),
            assigned_client_id: Some(long()),
            valid_for: None,
            cache: None,
            attributes: Vec::new(),
        };
        for (told, parts) in [
            (Told::Authentication(Authentication::Accept { identity: who(), cache: None }), 6),
            (Told::Step(AuthenticationStep::Accept { identity: who(), data: Some(vec![0; LONG]) }), 7),
            (Told::Step(AuthenticationStep::Continue { data: None, state: Secret(vec![0; LONG]) }), 1),
            (Told::Authorization(Authorization::Deny(denied())), 4),
            (Told::Authorization(Authorization::Allow(grant(Acl::Inline(vec![rule; 3])))), 4),
            (Told::Authorization(Authorization::Allow(grant(Acl::Named(long())))), 2),
            (Told::Authorization(Authorization::Abstain), 0),
        ] {
            assert_counts(told.size(), parts);
        }
    }

    #[test]
    fn whatever_the_host_was_asked_and_said_counts() {
        let answer =
            HttpAnswered { status: 200, headers: vec![(long(), vec![0; LONG])], body: vec![0; LONG] };
        let device = KnownDevice {
            device_id: long(),
            tenant: None,
            status: "active",
            tags: vec![long()],
            fingerprints: Vec::new(),
            registered_at: UnixMillis(0),
            last_seen: None,
            attributes: vec![(long(), long())],
        };
        for (call, parts) in [
            (HostCall::Get { key: long(), found: Ok(Some((vec![0; LONG], 1))) }, 2),
            (HostCall::Get { key: long(), found: Err(long()) }, 2),
            (HostCall::Set { key: long(), done: Err(long()) }, 2),
            (HostCall::Swap { key: long(), expected: None, version: Err(long()) }, 2),
            (HostCall::Add { key: long(), delta: 1, number: Err(long()) }, 2),
            (HostCall::List { prefix: long(), keys: Ok(vec![long(); 2]) }, 3),
            (HostCall::Device { by: long(), found: Ok(Some(device)) }, 5),
            (HostCall::Count { tenant: Some(long()), tag: Some(long()), count: Ok(1) }, 2),
            (HostCall::Http { method: long(), url: long(), answer: Ok(answer) }, 5),
            (HostCall::Random { bytes: vec![0; LONG] }, 1),
            (HostCall::Log { level: "info", line: long() }, 1),
        ] {
            assert_counts(call.size(), parts);
        }
    }
}
