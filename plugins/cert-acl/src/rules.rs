//! Which rule applies to a certificate, and the access list it becomes.

use std::borrow::Cow;

use mqgate_plugin_sdk::access::{self, Line};
use mqgate_plugin_sdk::select::Criteria;
use mqgate_plugin_sdk::template::ExpandError;
use mqgate_plugin_sdk::types::{
    Acl, AclRule, Attribute, ClientCertificate, Connection, Denial, Effect, Grant, Limits,
};

use crate::config::Config;
use crate::identity::{Refusal, field_of, refuse};

pub struct Rule {
    pub name: String,
    pub criteria: Criteria,
    /// Clients of this rule are turned away.
    pub refuse: bool,
    /// Refusals before permissions.
    pub lines: Vec<Line>,
    pub limits: Limits,
}

/// A rule applies unless it needs a value that this client does not have.
enum Outcome {
    Applies(Vec<AclRule>),
    Absent,
}

impl Config {
    /// The grant of the first rule that applies; without one the client is refused.
    pub fn grant(
        &self,
        on: &Connection,
        certificate: &ClientCertificate,
        device_id: &str,
    ) -> Result<Grant, Denial> {
        for rule in &self.rules {
            if !rule.criteria.hold(certificate).map_err(|error| refuse(error.to_string()))? {
                continue;
            }
            if rule.refuse {
                return Err(refuse(format!("refused by {:?}", rule.name)));
            }
            if let Outcome::Applies(lines) = rule.access_list(on)? {
                return Ok(Grant {
                    acl: Acl::Inline(lines),
                    otherwise: Effect::Deny,
                    limits: rule.limits,
                    assigned_client_id: self.assigned_client_id(on, device_id),
                    valid_for: None,
                    cache: None,
                    attributes: vec![Attribute::text("policy.rule", &rule.name)],
                });
            }
        }
        Err(refuse("no rule applies to the certificate"))
    }
}

impl Rule {
    fn access_list(&self, on: &Connection) -> Result<Outcome, Denial> {
        let mut lines = Vec::with_capacity(self.lines.len());
        for line in &self.lines {
            let filter = line.filter.expand(|name| match name {
                "username" => Ok(on.connect.user_name.as_deref().map(Cow::Borrowed)),
                name => field_of(on, name).map_err(Stop::Refused),
            });
            match filter {
                Ok(filter) => lines.push(access::rule(line.effect, line.actions, filter)),
                Err(Stop::Absent) => return Ok(Outcome::Absent),
                Err(Stop::Refused(refusal)) => return Err(refusal.0),
            }
        }
        Ok(Outcome::Applies(lines))
    }
}

/// Why a line cannot be filled in.
enum Stop {
    Absent,
    Refused(Refusal),
}

impl From<ExpandError> for Stop {
    fn from(error: ExpandError) -> Self {
        match error {
            ExpandError::Absent(_) => Self::Absent,
            ExpandError::Unsafe { .. } => Self::Refused(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;
    use mqgate_plugin_sdk::types::{Actions, NameAttribute};

    use super::*;

    /// What `config` grants to `certificate`, one line each, or the audit detail of the refusal.
    fn granted(config: &str, certificate: ClientCertificate) -> Result<Vec<String>, String> {
        let config = Config::read(&testing::context(config)).ok().unwrap();
        let mut on = testing::connection(Some(certificate.clone()));
        on.connect.user_name = Some("user".into());
        let grant = config.grant(&on, &certificate, "d").map_err(|denial| denial.audit_detail.unwrap())?;
        assert_eq!(grant.otherwise, Effect::Deny);
        let Acl::Inline(lines) = grant.acl else { panic!("a named list") };
        let show = |line: &AclRule| {
            let action = if line.actions == Actions::PUBLISH { "publish" } else { "subscribe" };
            format!("{:?} {action} {}", line.effect, line.filter)
        };
        Ok(lines.iter().map(show).collect())
    }

    const CONFIG: &str = r##"{"require-username-matches": "user", "rules": [
        {"name": "banned", "match": {"ou": "banned"}, "refuse": true},
        {"match": {"ou": "meters", "issuer-cn": "Test CA"},
         "allow-publish": ["data/${o}/${device-id}/#"],
         "deny-publish": ["data/${o}/${device-id}/secret"],
         "allow-subscribe": ["users/${username}/#"]},
        {"match": {"cn": {"pattern": "gateway-[0-9]+"}}, "allow-subscribe": ["#"]}
    ]}"##;

    #[test]
    fn the_first_rule_that_applies_decides() {
        let meter =
            testing::certificate(&[("cn", "gateway-1"), ("ou", "x"), ("ou", "meters"), ("o", "acme")]);
        assert_eq!(
            granted(CONFIG, meter).unwrap(),
            [
                "Effect::Deny publish data/acme/${device-id}/secret",
                "Effect::Allow publish data/acme/${device-id}/#",
                "Effect::Allow subscribe users/user/#",
            ]
        );
        let gateway = testing::certificate(&[("cn", "gateway-1")]);
        assert_eq!(granted(CONFIG, gateway).unwrap(), ["Effect::Allow subscribe #"]);
        // A value the rule needs is not there: the next rule.
        let nameless = testing::certificate(&[("cn", "gateway-1"), ("ou", "meters")]);
        assert_eq!(granted(CONFIG, nameless).unwrap(), ["Effect::Allow subscribe #"]);
    }

    #[test]
    fn whoever_no_rule_knows_is_refused() {
        let nobody = testing::certificate(&[("cn", "xgateway-1")]);
        assert_eq!(granted(CONFIG, nobody).unwrap_err(), "no rule applies to the certificate");
        let other_ca = |mut certificate: ClientCertificate| {
            certificate.leaf.issuer = testing::name(&[("cn", "Other CA")]);
            certificate
        };
        let meter = testing::certificate(&[("cn", "m"), ("ou", "meters"), ("o", "acme")]);
        assert!(granted(CONFIG, other_ca(meter)).is_err());
        assert!(granted(r#"{"rules": []}"#, testing::certificate(&[("cn", "d")])).is_err());
        let banned = testing::certificate(&[("cn", "gateway-1"), ("ou", "banned")]);
        assert_eq!(granted(CONFIG, banned).unwrap_err(), "refused by \"banned\"");
    }

    #[test]
    fn a_hostile_value_is_refused_and_never_put_into_a_topic() {
        for hostile in ["#", "+", "a/b", "$SYS", "${client-id}", "", "a\0"] {
            let certificate = testing::certificate(&[("cn", "gateway-1"), ("ou", "meters"), ("o", hostile)]);
            let refused = granted(CONFIG, certificate);
            assert!(refused.is_err(), "{hostile:?} was granted {refused:?}");
        }
    }

    #[test]
    fn an_unreadable_field_does_not_lead_past_a_refusal() {
        let mut certificate = testing::certificate(&[("cn", "gateway-1")]);
        let opaque = NameAttribute { oid: "2.5.4.11".into(), text: None, raw: b"banned".to_vec() };
        certificate.leaf.subject.attributes.push(opaque);
        assert_eq!(granted(CONFIG, certificate).unwrap_err(), "ou of the certificate is not plain text");
    }

    #[test]
    fn limits_and_the_rule_name_reach_the_grant() {
        let config = r#"{"rules": [{"name": "slow", "limits": {"publishes-per-second": 5}}]}"#;
        let config = Config::read(&testing::context(config)).ok().unwrap();
        let on = testing::connection(Some(testing::certificate(&[("cn", "d")])));
        let grant = config.grant(&on, on.certificate.as_ref().unwrap(), "d").unwrap();
        assert_eq!(grant.limits.publishes_per_second, Some(5));
        assert_eq!(grant.attributes, [Attribute::text("policy.rule", "slow")]);
    }
}
