//! `static-policy`: ordered rules in the configuration that map certificate fields, or a user name that was
//! proved, to a device and what it may do.

use std::sync::Arc;

use mqgate_identity::certificate::{DistinguishedName, GeneralName};
use mqgate_identity::hooks::{
    Acl, AclRule, Authentication, Authenticator, Authorization, Authorizer, ChainMember, ConnackReason,
    Connection, Effect, HookFuture, Identity, RetainMatch, Value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{METHOD, USER_NAME, attribute, denial, grant, is_device_id, ready, text};
use crate::config::check::topic_problem;
use crate::config::model::AllowDeny;

/// Settings of `static-policy`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StaticPolicyConfig {
    /// Tried in order; the first that matches decides. When none matches, the next member of the chain is asked.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What has to hold; everything that is named. Texts may hold `*` for any run of characters. At least one
    /// field of a certificate, or `user_name`.
    #[serde(rename = "match")]
    pub when: Match,
    /// `deny` refuses the client.
    pub effect: AllowDeny,
    /// Name of the device, with `${cn}`, `${ou}`, `${o}`, `${serial}`, `${fingerprint}`, `${san-dns}`, `${san-uri}`,
    /// `${san-email}`, `${user-name}`. A rule whose variable is absent, or does not make a good name, does not match.
    /// The default is `${cn}` where that is known, and `${user-name}` elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// The client id that must be used, with the same variables and `${device-id}`. Another one is refused; an empty one
    /// is replaced. Without it, any client id goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Tenant of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Rule set of `policy.acls`; instead of `publish` and `subscribe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
    /// Topic Filters it may publish to, with `${client-id}`, `${device-id}`, `${tenant}`.
    pub publish: Vec<String>,
    /// Topic Filters it may subscribe to. A rule without `acl`, `publish` and `subscribe` leaves that to the next
    /// member of the chain.
    pub subscribe: Vec<String>,
}

/// What a rule looks at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// Common name: the last one of the subject; or the one that a proxy has verified, where it is believed
    /// (`proxy_protocol.identity = "cn"`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cn: Option<String>,
    /// Any organizational unit of the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ou: Option<String>,
    /// Any organization of the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub o: Option<String>,
    /// Common name of the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_cn: Option<String>,
    /// Any DNS name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub san_dns: Option<String>,
    /// Any URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub san_uri: Option<String>,
    /// Any e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub san_email: Option<String>,
    /// Serial number, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SHA-256 of the certificate, 64 lower-case hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Name of the CA that the certificate leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// User name that an earlier member of the chain proved, by its password for instance. What a client merely
    /// claims never matches, so such a rule only says what the user may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Name of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

const CN: &str = "2.5.4.3";
const PROXIED_NAME: &str = "proxy.cn";
const OU: &str = "2.5.4.11";
const O: &str = "2.5.4.10";
const VARIABLES: [&str; 9] =
    ["cn", "ou", "o", "serial", "fingerprint", "san-dns", "san-uri", "san-email", "user-name"];

/// The chain member.
pub struct StaticPolicy {
    rules: Vec<Rule>,
}

/// A rule that matched, with its names filled in.
struct Matched<'a> {
    rule: &'a Rule,
    device_id: String,
    client_id: Option<String>,
}

impl StaticPolicy {
    pub fn member(name: &str, config: StaticPolicyConfig) -> ChainMember {
        let this = Arc::new(Self { rules: config.rules });
        ChainMember {
            name: name.into(),
            digest: None,
            authenticator: Some(this.clone()),
            enhanced_authenticator: None,
            registrar: None,
            authorizer: Some(this),
            auditor: None,
        }
    }

    fn rule_for(&self, on: &Connection, user: Option<&str>) -> Option<Matched<'_>> {
        let facts = Facts { on, user };
        self.rules.iter().find_map(|rule| {
            if !rule.when.holds(&facts) {
                return None;
            }
            if rule.effect == AllowDeny::Deny {
                return Some(Matched { rule, device_id: String::new(), client_id: None });
            }
            let named = on.certificate.is_some() || proxied_name(on).is_some();
            let usual = if named { "${cn}" } else { "${user-name}" };
            let device_id = facts.render(rule.device_id.as_deref().unwrap_or(usual), None)?;
            if !is_device_id(&device_id) {
                return None;
            }
            let client_id = match &rule.client_id {
                None => None,
                Some(template) => Some(facts.render(template, Some(&device_id))?),
            };
            Some(Matched { rule, device_id, client_id })
        })
    }
}

impl Matched<'_> {
    /// Why this connection is refused in spite of the match.
    fn refusal(&self, on: &Connection) -> Option<mqgate_identity::hooks::Denial> {
        if self.rule.effect == AllowDeny::Deny {
            return Some(denial(ConnackReason::NotAuthorized, "a deny rule matches"));
        }
        let sent = on.connect.client_id.as_str();
        match self.client_id.as_deref() {
            Some(bound) if !sent.is_empty() && sent != bound => Some(denial(
                ConnackReason::ClientIdentifierNotValid,
                format!("the rule binds this device to client id {bound:?}"),
            )),
            _ => None,
        }
    }
}

impl Authenticator for StaticPolicy {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication> {
        // Nobody proved a user name yet: rules about one say what a user may do, not who one is.
        let Some(matched) = self.rule_for(on, None) else { return ready(Authentication::Abstain) };
        if !matched.rule.when.names_certificate() && matched.rule.effect == AllowDeny::Allow {
            return ready(Authentication::Abstain);
        }
        ready(match matched.refusal(on) {
            Some(denial) => Authentication::Deny(denial),
            None => Authentication::Accept {
                identity: Identity {
                    device_id: matched.device_id,
                    tenant: matched.rule.tenant.clone(),
                    tags: Vec::new(),
                    attributes: vec![text(METHOD, "certificate")],
                },
                cache: None,
            },
        })
    }
}

impl Authorizer for StaticPolicy {
    fn authorize<'a>(&'a self, on: &'a Arc<Connection>, who: &'a Identity) -> HookFuture<'a, Authorization> {
        let Some(matched) = self.rule_for(on, attribute(who, USER_NAME)) else {
            return ready(Authorization::Abstain);
        };
        if let Some(denial) = matched.refusal(on) {
            return ready(Authorization::Deny(denial));
        }
        let rule = matched.rule;
        let acl = match &rule.acl {
            Some(name) => Acl::Named(name.clone()),
            None if rule.publish.is_empty() && rule.subscribe.is_empty() => {
                return ready(Authorization::Abstain);
            }
            None => Acl::Inline(rule.topics().collect()),
        };
        let mut grant = grant(acl, Effect::Deny);
        grant.assigned_client_id = matched.client_id;
        ready(Authorization::Allow(grant))
    }
}

impl Rule {
    fn topics(&self) -> impl Iterator<Item = AclRule> {
        let line = |filter: &String, publish: bool| AclRule {
            effect: Effect::Allow,
            publish,
            subscribe: !publish,
            filter: filter.clone(),
            qos: 0b111,
            retain: RetainMatch::Any,
        };
        let publish = self.publish.iter().map(move |filter| line(filter, true));
        publish.chain(self.subscribe.iter().map(move |filter| line(filter, false)))
    }

    /// What is wrong with it: the field and a description.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if !self.when.names_certificate() && self.when.user_name.is_none() {
            problems.push((
                String::new(),
                String::from("`match` must name a field of the certificate or `user_name`; for every certificate write cn = \"*\""),
            ));
        }
        if self.acl.is_some() && !(self.publish.is_empty() && self.subscribe.is_empty()) {
            problems
                .push((String::from("acl"), String::from("give either `acl` or `publish` and `subscribe`")));
        }
        for (field, list) in [("publish", &self.publish), ("subscribe", &self.subscribe)] {
            for (index, filter) in list.iter().enumerate() {
                problems.extend(topic_problem(filter).map(|what| (format!("{field}[{index}]"), what)));
            }
        }
        for (field, template) in [("device_id", &self.device_id), ("client_id", &self.client_id)] {
            let Some(template) = template else { continue };
            for variable in variables(template) {
                if !(VARIABLES.contains(&variable) || field == "client_id" && variable == "device-id") {
                    problems.push((field.to_owned(), format!("there is no variable `${{{variable}}}`")));
                }
            }
        }
        problems
    }
}

impl Match {
    fn certificate_fields(&self) -> [Option<&str>; 10] {
        let fields = [
            &self.cn,
            &self.ou,
            &self.o,
            &self.issuer_cn,
            &self.san_dns,
            &self.san_uri,
            &self.san_email,
            &self.serial,
            &self.fingerprint,
            &self.ca,
        ];
        fields.map(Option::as_deref)
    }

    fn names_certificate(&self) -> bool {
        self.certificate_fields().iter().any(Option::is_some)
    }

    fn holds(&self, facts: &Facts<'_>) -> bool {
        const NAMES: [&str; 10] =
            ["cn", "ou", "o", "issuer-cn", "san-dns", "san-uri", "san-email", "serial", "fingerprint", "ca"];
        let certificate = NAMES.iter().zip(self.certificate_fields()).all(|(name, pattern)| {
            pattern.is_none_or(|pattern| facts.values(name).iter().any(|value| glob(pattern, value)))
        });
        let user = self.user_name.as_deref();
        let user = user.is_none_or(|pattern| facts.user.is_some_and(|name| glob(pattern, name)));
        let listener = self.listener.as_deref().is_none_or(|pattern| glob(pattern, &facts.on.listener));
        certificate && user && listener
    }
}

/// What rules and templates can ask about a connection.
struct Facts<'a> {
    on: &'a Connection,
    /// Only if it was proved.
    user: Option<&'a str>,
}

impl Facts<'_> {
    fn values(&self, name: &str) -> Vec<String> {
        if name == "user-name" {
            return self.user.map(str::to_owned).into_iter().collect();
        }
        let Some(certificate) = &self.on.certificate else {
            // The listener is configured to believe its proxies a name.
            return proxied_name(self.on).filter(|_| name == "cn").map(str::to_owned).into_iter().collect();
        };
        let leaf = &certificate.leaf;
        let names = |pick: fn(&GeneralName) -> Option<&String>| {
            leaf.subject_alt_names.iter().filter_map(pick).cloned().collect()
        };
        match name {
            "cn" => common_name(&leaf.subject).into_iter().collect(),
            "issuer-cn" => common_name(&leaf.issuer).into_iter().collect(),
            "ou" => texts(&leaf.subject, OU),
            "o" => texts(&leaf.subject, O),
            "serial" => vec![hex::encode(&leaf.serial)],
            "fingerprint" => vec![leaf.certificate_fingerprint.to_hex()],
            "ca" => vec![certificate.anchor.name.to_string()],
            "san-dns" => names(|name| if let GeneralName::Dns(text) = name { Some(text) } else { None }),
            "san-uri" => names(|name| if let GeneralName::Uri(text) = name { Some(text) } else { None }),
            "san-email" => names(|name| if let GeneralName::Email(text) = name { Some(text) } else { None }),
            _ => Vec::new(),
        }
    }

    /// Fills a template in; `None` if a variable has no value, or more than one.
    fn render(&self, template: &str, device_id: Option<&str>) -> Option<String> {
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find("${") {
            let end = at + rest[at..].find('}')?;
            text.push_str(&rest[..at]);
            let variable = &rest[at + 2..end];
            if variable == "device-id" {
                text.push_str(device_id?);
            } else {
                let [value] = <[String; 1]>::try_from(self.values(variable)).ok()?;
                text.push_str(&value);
            }
            rest = &rest[end + 1..];
        }
        text.push_str(rest);
        Some(text)
    }
}

/// The common name of a certificate that a proxy has verified.
fn proxied_name(on: &Connection) -> Option<&str> {
    on.attributes.iter().find_map(|attribute| match &attribute.value {
        Value::Text(name) if attribute.name == PROXIED_NAME => Some(name.as_str()),
        _ => None,
    })
}

fn variables(template: &str) -> impl Iterator<Item = &str> {
    template.split("${").skip(1).map(|piece| piece.split('}').next().unwrap_or(piece))
}

fn texts(name: &DistinguishedName, oid: &str) -> Vec<String> {
    name.attributes.iter().filter(|part| part.oid == oid).filter_map(|part| part.text.clone()).collect()
}

/// The last common name; none if that one is not clean text.
fn common_name(name: &DistinguishedName) -> Option<String> {
    name.attributes.iter().rev().find(|part| part.oid == CN)?.text.clone()
}

/// `*` stands for any run of characters, everything else for itself.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = tail.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::samples::{Sample, now};

    fn member(rules: &str) -> ChainMember {
        let config: StaticPolicyConfig = toml::from_str(rules).expect("rules");
        let problems: Vec<_> = config.rules.iter().flat_map(Rule::problems).collect();
        assert_eq!(problems, []);
        StaticPolicy::member("policy", config)
    }

    /// What the member says about a connection, in one line.
    fn asked(member: &ChainMember, sample: Sample) -> String {
        let on = sample.connection();
        let authentication = now(member.authenticator.as_ref().expect("an authenticator").authenticate(&on));
        let identity = match authentication.expect("an answer") {
            Authentication::Accept { identity, .. } => identity,
            Authentication::Deny(denial) => return format!("deny {:?}", denial.reason),
            Authentication::Abstain => return String::from("abstain"),
        };
        let device = identity.device_id.clone();
        match now(member.authorizer.as_ref().expect("an authorizer").authorize(&on, &identity))
            .expect("an answer")
        {
            Authorization::Allow(grant) => match grant.acl {
                Acl::Named(name) => format!("{device} acl={name}"),
                Acl::Inline(rules) => {
                    format!("{device} rules={} assigned={:?}", rules.len(), grant.assigned_client_id)
                }
            },
            Authorization::Deny(denial) => format!("{device} deny {:?}", denial.reason),
            Authorization::Abstain => format!("{device} abstain"),
        }
    }

    fn cn(name: &str) -> Sample {
        Sample::on("main")
            .certificate(&[("2.5.4.11", Some("meters")), (CN, Some(name))], &["a.example", "b.example"])
    }

    const RULES: &str = r#"
        [[rules]]
        match = { cn = "stolen-*" }
        effect = "deny"
        [[rules]]
        match = { cn = "meter-*", ou = "meters", issuer_cn = "Demo CA" }
        client_id = "m:${device-id}"
        publish = ["up/${device-id}/#"]
        subscribe = ["down/${device-id}/#", "all"]
        [[rules]]
        match = { san_dns = "b.*", serial = "0aff" }
        device_id = "dev-${serial}"
        acl = "plain"
    "#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let member = member(RULES);
        for (sample, answer) in [
            (cn("stolen-7"), "deny NotAuthorized"),
            (cn("meter-7").client("m:meter-7"), "meter-7 rules=3 assigned=Some(\"m:meter-7\")"),
            (cn("meter-7"), "meter-7 rules=3 assigned=Some(\"m:meter-7\")"),
            (cn("meter-7").client("other"), "deny ClientIdentifierNotValid"),
            (cn("pump").client("x"), "dev-0aff acl=plain"),
            // A name that could reach into other topics does not match the second rule.
            (cn("meter-/#"), "dev-0aff acl=plain"),
            (Sample::on("main").client("meter-7"), "abstain"),
            // The text of the last common name is not clean: the earlier one does not count.
            (Sample::on("main").certificate(&[(CN, Some("meter-1")), (CN, None)], &[]), "abstain"),
        ] {
            assert_eq!(asked(&member, sample), answer);
        }
    }

    #[test]
    fn a_claimed_user_name_opens_nothing() {
        let member = member("[[rules]]\nmatch = { user_name = \"admin\" }\npublish = [\"#\"]\n");
        assert_eq!(asked(&member, Sample::on("main").user("admin", "x")), "abstain");
        let on = Sample::on("main").user("admin", "x").connection();
        let mut who = Identity { device_id: "admin".into(), tenant: None, tags: vec![], attributes: vec![] };
        let authorizer = member.authorizer.as_ref().expect("an authorizer");
        assert_eq!(now(authorizer.authorize(&on, &who)), Ok(Authorization::Abstain));
        who.attributes.push(text(USER_NAME, "admin"));
        assert!(matches!(now(authorizer.authorize(&on, &who)), Ok(Authorization::Allow(_))));
    }

    #[test]
    fn a_variable_with_two_values_is_no_name() {
        let member =
            member("[[rules]]\nmatch = { cn = \"*\" }\ndevice_id = \"${san-dns}\"\npublish = [\"#\"]\n");
        assert_eq!(asked(&member, cn("x")), "abstain");
    }

    #[test]
    fn bad_rules_are_named() {
        for (rule, field) in [
            ("match = {}", ""),
            ("match = { listener = \"main\" }", ""),
            ("match = { cn = \"*\" }\nacl = \"a\"\npublish = [\"b\"]", "acl"),
            ("match = { cn = \"*\" }\npublish = [\"a/#/b\"]", "publish[0]"),
            ("match = { cn = \"*\" }\nsubscribe = [\"a\", \"${user}\"]", "subscribe[1]"),
            ("match = { cn = \"*\" }\ndevice_id = \"${nobody}\"", "device_id"),
        ] {
            let rule: Rule = toml::from_str(rule).expect(rule);
            let problems = rule.problems();
            assert_eq!(
                problems.iter().map(|(field, _)| field.as_str()).collect::<Vec<_>>(),
                [field],
                "{rule:?}"
            );
        }
    }

    #[test]
    fn stars_match_runs() {
        for (pattern, text, holds) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcd", false),
            ("*-x-*", "1-x-2", true),
            ("ab*ba", "aba", false),
            ("abc", "abc", true),
            ("a*b*c", "a-b-b-c", true),
        ] {
            assert_eq!(glob(pattern, text), holds, "{pattern} {text}");
        }
    }

    #[test]
    fn a_name_that_a_proxy_tells_is_a_name_where_the_listener_believes_it() {
        let member = member("[[rules]]\nmatch = { cn = \"meter-*\" }\nacl = \"meters\"");
        let behind = || Sample::on("proxied").via_proxy();
        assert_eq!(asked(&member, behind()), "abstain");
        assert_eq!(asked(&member, behind().proxied_name("meter-7")), "meter-7 acl=meters");
        assert_eq!(asked(&member, behind().proxied_name("pump")), "abstain");
        assert_eq!(
            asked(&member, cn("pump").proxied_name("meter-7")),
            "abstain",
            "a certificate goes before it"
        );
    }
}
