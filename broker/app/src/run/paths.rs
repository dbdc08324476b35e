//! From the configuration to the rules for clients' certificates.

use mqgate_identity::evaluation::{
    AbsentUsage, CaAsLeaf, PathDepth, PathPolicy, RevocationPolicy, RevocationScope, StaleLists, Strictness,
    UnknownStatus, UsageRule, V1Leaf,
};

use crate::config::{Config, model};

/// The rules of one listener. What cannot be is refused by `config::check` before; should it come here all the
/// same, the default holds, which is never the laxer one.
pub fn path_policy(config: &Config, listener: &model::Listener) -> PathPolicy {
    let defaults = PathPolicy::default();
    let is_allowed = |choice| matches!(choice, model::AllowDeny::Allow);
    let usages: Option<Vec<_>> =
        listener.extended_key_usage.iter().map(|usage| UsageRule::usage(usage).ok()).collect();
    PathPolicy {
        max_depth: PathDepth::new(listener.depth).unwrap_or(defaults.max_depth),
        v1_leaf: if is_allowed(listener.x509_v1_leaf) { V1Leaf::Allow } else { V1Leaf::Deny },
        usage: UsageRule {
            one_of: usages.unwrap_or(defaults.usage.one_of),
            absent: match is_allowed(listener.extended_key_usage_absent) {
                true => AbsentUsage::Allow,
                false => AbsentUsage::Deny,
            },
        },
        ca_as_leaf: if is_allowed(listener.ca_as_leaf) { CaAsLeaf::Allow } else { CaAsLeaf::Deny },
        strictness: if listener.x509_strict { Strictness::Strict } else { Strictness::Standard },
        min_rsa_bits: PathPolicy::rsa_bits(listener.min_rsa_bits).unwrap_or(defaults.min_rsa_bits),
        clock_skew: listener.clock_skew.0,
        expiry_skew: listener.expiry_skew.0,
        revocation: listener.crl_check.then(|| revocation(&config.crl)),
    }
}

fn revocation(crl: &model::Crl) -> RevocationPolicy {
    RevocationPolicy {
        stale: match crl.stale {
            model::StaleLists::FailClosed => StaleLists::FailClosed,
            model::StaleLists::FailOpen => StaleLists::FailOpen,
            model::StaleLists::Grace => StaleLists::Grace(crl.grace.0),
        },
        unknown: match crl.unknown {
            model::AllowDeny::Allow => UnknownStatus::Allow,
            model::AllowDeny::Deny => UnknownStatus::Deny,
        },
        scope: match crl.scope {
            model::CrlScope::Leaf => RevocationScope::Leaf,
            model::CrlScope::Chain => RevocationScope::Chain,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_those_of_the_evaluation() {
        let built = path_policy(&Config::default(), &model::Listener::default());
        assert_eq!(built, PathPolicy::default());
        let checking = model::Listener { crl_check: true, ..model::Listener::default() };
        let built = path_policy(&Config::default(), &checking);
        assert_eq!(built.revocation, Some(RevocationPolicy::default()));
    }
}
