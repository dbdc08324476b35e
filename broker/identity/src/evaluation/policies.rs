//! Certificate policies along a path: RFC 5280, 6.1, from the trust anchor downwards, with the graph of RFC 9618 where
//! RFC 5280 has a tree that a client could make grow without end. To us any policy is acceptable; what CAs demand of
//! the certificates below them holds.

use std::collections::{BTreeMap, BTreeSet};

use super::Rejection;
use crate::certificate::{CertificateFacts, oid, only, tag, take_tagged, unsigned};
use crate::reason::Reason;

/// Content of the object identifier 2.5.29.32.0.
const ANY_POLICY: &[u8] = &[0x55, 0x1d, 0x20, 0x00];
/// What makes policies matter: without one of these on a path, every path is acceptable.
const DEMANDS: [&str; 3] = [oid::POLICY_CONSTRAINTS, oid::POLICY_MAPPINGS, oid::INHIBIT_ANY_POLICY];

/// Content of an object identifier.
type Policy<'a> = &'a [u8];
/// The policies that are valid at one depth of the path, each with those that the next certificate may name for it.
type Level<'a> = BTreeMap<Policy<'a>, BTreeSet<Policy<'a>>>;

/// What one certificate says.
#[derive(Debug, Default)]
struct Said<'a> {
    /// `None`: it has no certificate policies.
    policies: Option<Vec<Policy<'a>>>,
    /// Issuer's and subject's.
    mappings: Vec<(Policy<'a>, Policy<'a>)>,
    /// Certificates that may follow before each of these holds.
    require_explicit: Option<usize>,
    inhibit_mapping: Option<usize>,
    inhibit_any: Option<usize>,
}

/// The variables of RFC 5280, 6.1.2.
struct Walk<'a> {
    valid: Option<Level<'a>>,
    explicit: usize,
    mapping: usize,
    any: usize,
}

/// Whether the policies of a path to `anchor` hold. `path` goes from the certificate below the anchor down to the end
/// entity; each with whether it is self-issued.
pub(super) fn check<'a>(
    anchor: &'a CertificateFacts,
    path: impl ExactSizeIterator<Item = (&'a CertificateFacts, bool)> + Clone,
) -> Result<(), Rejection> {
    let demands = |facts: &CertificateFacts| DEMANDS.iter().any(|id| facts.extension(id).is_some());
    if !demands(anchor) && !path.clone().any(|(facts, _)| demands(facts)) {
        return Ok(());
    }
    let length = path.len();
    let mut walk = Walk {
        valid: Some(Level::from([(ANY_POLICY, BTreeSet::from([ANY_POLICY]))])),
        explicit: length + 1,
        mapping: length + 1,
        any: length + 1,
    };
    // By the operator's word: what an anchor demands holds from the first certificate on.
    walk.demand(&Said::read(anchor)?);
    for (at, (facts, is_self_issued)) in path.enumerate() {
        let said = Said::read(facts)?;
        let is_last = at + 1 == length;
        walk.enter(&said, walk.any > 0 || (!is_last && is_self_issued));
        if is_last {
            // 6.1.5 (a) and (b)
            walk.explicit = walk.explicit.saturating_sub(1);
            if said.require_explicit == Some(0) {
                walk.explicit = 0;
            }
        }
        // 6.1.3 (f)
        if walk.explicit == 0 && walk.valid.is_none() {
            return Err(Rejection::new(
                Reason::CertPolicy,
                format!(
                    "a CA above \"{}\" demands a certificate policy, and none is valid along the path",
                    facts.subject.display
                ),
            ));
        }
        if !is_last {
            walk.map(&said, facts)?;
            walk.leave(is_self_issued);
            walk.demand(&said);
        }
    }
    Ok(())
}

impl<'a> Walk<'a> {
    /// 6.1.3 (d) and (e).
    fn enter(&mut self, said: &Said<'a>, is_any_allowed: bool) {
        let Some((above, named)) = self.valid.take().zip(said.policies.as_ref()) else { return };
        let mut level = Level::new();
        for &policy in named.iter().filter(|&&policy| policy != ANY_POLICY) {
            if above.contains_key(ANY_POLICY) || above.values().any(|expected| expected.contains(policy)) {
                level.insert(policy, BTreeSet::from([policy]));
            }
        }
        if is_any_allowed && named.contains(&ANY_POLICY) {
            for &policy in above.values().flatten() {
                level.entry(policy).or_insert_with(|| BTreeSet::from([policy]));
            }
        }
        self.valid = Some(level).filter(|level| !level.is_empty());
    }

    /// 6.1.4 (a) and (b).
    fn map(&mut self, said: &Said<'a>, facts: &CertificateFacts) -> Result<(), Rejection> {
        let mut mapped: Level<'a> = Level::new();
        for &(issuers, subjects) in &said.mappings {
            if issuers == ANY_POLICY || subjects == ANY_POLICY {
                return Err(Rejection::new(
                    Reason::CertPolicy,
                    format!("\"{}\" maps a policy to or from any-policy", facts.subject.display),
                ));
            }
            mapped.entry(issuers).or_default().insert(subjects);
        }
        let Some(level) = &mut self.valid else { return Ok(()) };
        for (policy, subjects) in mapped {
            if self.mapping == 0 {
                level.remove(policy);
            } else if level.contains_key(policy) || level.contains_key(ANY_POLICY) {
                level.insert(policy, subjects);
            }
        }
        if level.is_empty() {
            self.valid = None;
        }
        Ok(())
    }

    /// 6.1.4 (h).
    fn leave(&mut self, is_self_issued: bool) {
        if !is_self_issued {
            for left in [&mut self.explicit, &mut self.mapping, &mut self.any] {
                *left = left.saturating_sub(1);
            }
        }
    }

    /// 6.1.4 (i) and (j).
    fn demand(&mut self, said: &Said<'_>) {
        for (left, asked) in [
            (&mut self.explicit, said.require_explicit),
            (&mut self.mapping, said.inhibit_mapping),
            (&mut self.any, said.inhibit_any),
        ] {
            *left = asked.unwrap_or(*left).min(*left);
        }
    }
}

impl<'a> Said<'a> {
    fn read(facts: &'a CertificateFacts) -> Result<Self, Rejection> {
        let mut said = Self::default();
        let mut read = |id: &str, what: &str, read: fn(&mut Self, &'a [u8]) -> Option<()>| {
            let Some(extension) = facts.extension(id) else { return Ok(()) };
            read(&mut said, &extension.raw).ok_or_else(|| {
                Rejection::new(
                    Reason::CertMalformed,
                    format!("{what} of \"{}\" cannot be read", facts.subject.display),
                )
            })
        };
        read(oid::CERTIFICATE_POLICIES, "the certificate policies", Self::read_policies)?;
        read(oid::POLICY_MAPPINGS, "the policy mappings", Self::read_mappings)?;
        read(oid::POLICY_CONSTRAINTS, "the policy constraints", Self::read_constraints)?;
        read(oid::INHIBIT_ANY_POLICY, "the inhibition of any-policy", Self::read_inhibition)?;
        Ok(said)
    }

    /// RFC 5280, 4.2.1.4: at least one, and none twice.
    fn read_policies(&mut self, der: &'a [u8]) -> Option<()> {
        let mut list = only(der, tag::SEQUENCE)?.content;
        let mut policies = Vec::new();
        while !list.is_empty() {
            let mut fields = take_tagged(&mut list, tag::SEQUENCE)?.content;
            policies.push(policy(&mut fields)?);
            // What qualifies a policy is for people.
            if !fields.is_empty() {
                only(fields, tag::SEQUENCE)?;
            }
        }
        let distinct: BTreeSet<_> = policies.iter().collect();
        let is_well_formed = !policies.is_empty() && distinct.len() == policies.len();
        is_well_formed.then(|| self.policies = Some(policies))
    }

    /// RFC 5280, 4.2.1.5.
    fn read_mappings(&mut self, der: &'a [u8]) -> Option<()> {
        let mut list = only(der, tag::SEQUENCE)?.content;
        while !list.is_empty() {
            let mut pair = take_tagged(&mut list, tag::SEQUENCE)?.content;
            let mapping = (policy(&mut pair)?, policy(&mut pair)?);
            pair.is_empty().then(|| self.mappings.push(mapping))?;
        }
        (!self.mappings.is_empty()).then_some(())
    }

    /// RFC 5280, 4.2.1.11: one of the two, or both.
    fn read_constraints(&mut self, der: &'a [u8]) -> Option<()> {
        let mut fields = only(der, tag::SEQUENCE)?.content;
        for (tag, number) in [(0x80, &mut self.require_explicit), (0x81, &mut self.inhibit_mapping)] {
            if let Some(element) = take_tagged(&mut fields, tag) {
                *number = Some(certificates(element.content)?);
            }
        }
        let is_said = self.require_explicit.is_some() || self.inhibit_mapping.is_some();
        (fields.is_empty() && is_said).then_some(())
    }

    /// RFC 5280, 4.2.1.14.
    fn read_inhibition(&mut self, der: &'a [u8]) -> Option<()> {
        self.inhibit_any = Some(certificates(only(der, tag::INTEGER)?.content)?);
        Some(())
    }
}

fn policy<'a>(fields: &mut &'a [u8]) -> Option<Policy<'a>> {
    let content = take_tagged(fields, tag::OBJECT_IDENTIFIER)?.content;
    // The last digit of an arc has its first bit clear.
    content.last().is_some_and(|last| last & 0x80 == 0).then_some(content)
}

fn certificates(content: &[u8]) -> Option<usize> {
    usize::try_from(unsigned(content)?).ok()
}
