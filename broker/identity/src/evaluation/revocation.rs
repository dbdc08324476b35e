//! Whether a certificate on a path has been revoked by its CA: RFC 5280, 6.3, with complete lists. Lists are
//! given, never fetched; what to do without one, or with one that is too old, is the policy's explicit choice.

use std::sync::Arc;
use std::time::Duration;

use super::links::Links;
use super::list::RevocationList;
use super::policy::PathPolicy;
use super::{PathLint, Rejection};
use crate::certificate::CertificateFacts;
use crate::reason::Reason;
use crate::time::UnixSeconds;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RevocationPolicy {
    /// A list past its `nextUpdate`.
    pub stale: StaleLists,
    /// A certificate that no list is about.
    pub unknown: UnknownStatus,
    pub scope: RevocationScope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum StaleLists {
    /// Proves nothing: refused.
    #[default]
    FailClosed,
    /// What it does not name is let in, however old it is.
    FailOpen,
    /// As `FailOpen`, for so long after `nextUpdate`.
    Grace(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum UnknownStatus {
    Allow,
    #[default]
    Deny,
}

/// Which certificates have to be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum RevocationScope {
    #[default]
    Leaf,
    /// The intermediates too. Trust anchors are removed, not revoked.
    Chain,
}

impl Default for RevocationPolicy {
    fn default() -> Self {
        Self { stale: StaleLists::FailClosed, unknown: UnknownStatus::Deny, scope: RevocationScope::Leaf }
    }
}

/// Lists in use. Whose they are is found out once for every CA that is known beforehand.
#[derive(Debug, Clone, Default)]
pub struct RevocationLists {
    lists: Vec<Listed>,
}

#[derive(Debug, Clone)]
struct Listed {
    list: Arc<RevocationList>,
    /// SHA-256 of the keys that were tried, and whether they made the list.
    keys: Vec<([u8; 32], bool)>,
}

impl RevocationLists {
    /// `cas`: those whose keys are tried now; the keys of others are tried with each client that sends them.
    pub fn new(lists: impl IntoIterator<Item = Arc<RevocationList>>, cas: &[&CertificateFacts]) -> Self {
        let lists = lists.into_iter().map(|list| {
            let mut keys: Vec<([u8; 32], bool)> = Vec::new();
            for facts in cas {
                let id = facts.public_key.spki_sha256;
                if keys.iter().any(|(known, _)| *known == id) {
                    continue;
                }
                if let Ok(links) = Links::read(facts)
                    && links.subject == list.issuer
                {
                    keys.push((id, list.is_signed_by(&links.key)));
                }
            }
            Listed { list, keys }
        });
        Self { lists: lists.collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &RevocationList> {
        self.lists.iter().map(|listed| &*listed.list)
    }

    /// Whether the key with this SHA-256 made a list of this set; `None`: it was not tried.
    pub fn is_made_by(&self, list: &RevocationList, key: &[u8; 32]) -> Option<bool> {
        let listed = self.lists.iter().find(|listed| Arc::ptr_eq(listed.list.der(), list.der()))?;
        listed.keys.iter().find(|(known, _)| known == key).map(|(_, is_theirs)| *is_theirs)
    }

    /// Lists that the issuer made and that are about the certificate: the newest of each scope.
    fn find(&self, link: &Link<'_>, now: UnixSeconds, skew: i64) -> Vec<&RevocationList> {
        let mut newest: Vec<&RevocationList> = Vec::new();
        for Listed { list, keys } in &self.lists {
            if !link.issuers.first().is_some_and(|(_, links)| links.subject == list.issuer)
                || !list.covers(link.facts)
                || list.this_update.0.saturating_sub(now.0) > skew
            {
                continue;
            }
            let rival = newest.iter().position(|known| known.is_about_the_same_as(list));
            if rival.is_some_and(|at| !list.is_newer_than(newest[at])) {
                continue;
            }
            let is_theirs = link.issuers.iter().any(|(issuer, links)| {
                let id = issuer.public_key.spki_sha256;
                // RFC 5280, 6.3.3 (f): a CA that has a key usage needs cRLSign.
                issuer.key_usage.is_none_or(|usage| usage.crl_sign)
                    && match keys.iter().find(|(known, _)| *known == id) {
                        Some((_, is_theirs)) => *is_theirs,
                        None => list.is_signed_by(&links.key),
                    }
            });
            match rival {
                _ if !is_theirs => {}
                Some(at) => newest[at] = list,
                None => newest.push(list),
            }
        }
        newest
    }
}

/// A certificate on the path.
pub(super) struct Link<'a> {
    pub facts: &'a CertificateFacts,
    /// The CA above it: the certificate whose key signed, then others of that name on the path, which are the same
    /// CA with other keys, old or new.
    pub issuers: Vec<(&'a CertificateFacts, &'a Links)>,
}

impl Link<'_> {
    fn issuer(&self) -> &str {
        self.issuers.first().map_or("", |(facts, _)| &facts.subject.display)
    }
}

/// `chain` begins with the end entity.
pub(super) fn check<'a>(
    policy: &RevocationPolicy,
    path: &PathPolicy,
    lists: &RevocationLists,
    chain: impl Iterator<Item = Link<'a>>,
    now: UnixSeconds,
    lints: &mut Vec<PathLint>,
) -> Result<(), Rejection> {
    let count = match policy.scope {
        RevocationScope::Leaf => 1,
        RevocationScope::Chain => usize::MAX,
    };
    for link in chain.take(count) {
        check_one(policy, path, lists, &link, now, lints)?;
    }
    Ok(())
}

fn check_one(
    policy: &RevocationPolicy,
    path: &PathPolicy,
    lists: &RevocationLists,
    link: &Link<'_>,
    now: UnixSeconds,
    lints: &mut Vec<PathLint>,
) -> Result<(), Rejection> {
    let (subject, issuer) = (&link.facts.subject.display, link.issuer());
    let lists = lists.find(link, now, path.clock_skew_seconds());
    // A list that is too old still tells of whom it names.
    if let Some(reason) = lists.iter().find_map(|list| list.reason_for(link.facts)) {
        return Err(Rejection::new(
            Reason::CertRevokedCrl,
            format!("\"{issuer}\" has revoked \"{subject}\" ({})", reason_text(reason)),
        ));
    }
    let lateness =
        |list: &RevocationList| list.next_update.map_or(i64::MAX, |next| now.0.saturating_sub(next.0));
    // Each of them is complete for the certificate: the freshest is enough.
    let Some(list) = lists.into_iter().min_by_key(|list| lateness(list)) else {
        return match policy.unknown {
            UnknownStatus::Allow => {
                lints.push(PathLint::NoRevocationList);
                Ok(())
            }
            UnknownStatus::Deny => Err(Rejection::new(
                Reason::CrlUnknown,
                format!(
                    "there is no revocation list of \"{issuer}\" that is about \"{subject}\", and \
                     crl.unknown = \"deny\" refuses"
                ),
            )),
        };
    };
    let late = lateness(list);
    let tolerated = match policy.stale {
        StaleLists::FailClosed => false,
        StaleLists::FailOpen => true,
        StaleLists::Grace(grace) => {
            list.next_update.is_some() && late <= i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)
        }
    };
    if late <= 0 {
        return Ok(());
    }
    if tolerated {
        lints.push(PathLint::StaleRevocationList);
        return Ok(());
    }
    let since = match list.next_update {
        Some(next) => format!("should have been replaced {late} s ago ({next})"),
        None => "does not say when it will be replaced (no nextUpdate)".to_owned(),
    };
    Err(Rejection::new(
        Reason::CrlStale,
        format!("the revocation list of \"{issuer}\" {since}, and crl.stale refuses it"),
    ))
}

/// RFC 5280, 5.3.1.
fn reason_text(code: u8) -> &'static str {
    match code {
        1 => "keyCompromise",
        2 => "cACompromise",
        3 => "affiliationChanged",
        4 => "superseded",
        5 => "cessationOfOperation",
        6 => "certificateHold",
        8 => "removeFromCRL",
        9 => "privilegeWithdrawn",
        10 => "aACompromise",
        _ => "unspecified",
    }
}
