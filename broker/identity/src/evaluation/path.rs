//! Finds a path: RFC 5280, section 6, from the end entity upwards to a trust anchor, with backtracking, in
//! bounded work.
//!
//! Who signed a certificate decides who its issuer is; names and key identifiers only say where to look. A
//! candidate that breaks a rule is passed over, and the search goes on: what is answered in the end is the
//! obstacle nearest to a path.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::anchors::TrustAnchors;
use super::links::{Hint, Links};
use super::name_constraints::{Comparisons, NameConstraints, Names};
use super::policies;
use super::policy::PathPolicy;
use super::revocation::{self, Link};
use super::signature::check_signed_by;
use super::{PathLint, Rejection};
use crate::certificate::CertificateFacts;
use crate::reason::Reason;
use crate::time::UnixSeconds;

/// Signatures checked for one client. Many more than honest chains need: each is checked once, and only where
/// the names fit.
const MAX_SIGNATURE_CHECKS: usize = 64;
/// Certificates put on top of a path, tried for one client.
const MAX_STEPS: usize = 4_096;
/// Names compared with name constraints for one client.
const MAX_COMPARISONS: u32 = 100_000;

/// A path on which every rule holds.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Index of the anchor.
    pub anchor: usize,
    pub not_after: UnixSeconds,
    /// Intermediates, all of them.
    pub depth: usize,
    pub lints: Vec<PathLint>,
    /// SHA-256 of the key that signed the end entity's certificate.
    pub issuer_key: [u8; 32],
}

/// Finds a path for a client's certificate that holds now.
pub(super) fn find(
    end_entity: &CertificateFacts,
    intermediates: &[CertificateFacts],
    anchors: &TrustAnchors,
    policy: &PathPolicy,
    now: UnixSeconds,
) -> Result<Found, Rejection> {
    let leaf = Links::read(end_entity)?;
    let mut nodes = vec![Node { facts: end_entity, links: leaf, names: OnceCell::new() }];
    // What does not read as a certificate, or what a CA says that cannot be read, cannot be on a path.
    nodes.extend(intermediates.iter().filter_map(|facts| {
        let links = Links::read(facts).ok()?;
        Some(Node { facts, links, names: OnceCell::new() })
    }));
    let mut search = Search {
        nodes,
        anchors,
        policy,
        now,
        signatures: HashMap::new(),
        steps_left: MAX_STEPS,
        comparisons: Comparisons(MAX_COMPARISONS),
        is_spent: false,
    };
    let mut lints = Vec::new();
    search.check_time(end_entity, &mut lints)?;
    let mut path = Path { nodes: vec![0], depth: 0, not_after: end_entity.not_after, lints };
    search.issuer_of(&mut path)
}

struct Node<'a> {
    facts: &'a CertificateFacts,
    links: Links,
    /// Taken apart when something above constrains them.
    names: OnceCell<Names<'a>>,
}

/// From the end entity to where the search stands.
struct Path {
    nodes: Vec<usize>,
    /// Intermediates that are not self-issued.
    depth: usize,
    not_after: UnixSeconds,
    lints: Vec<PathLint>,
}

/// Who may have issued a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Issuer {
    Anchor(usize),
    Sent(usize),
}

struct Search<'a> {
    /// The end entity, then what the client sent besides.
    nodes: Vec<Node<'a>>,
    anchors: &'a TrustAnchors,
    policy: &'a PathPolicy,
    now: UnixSeconds,
    /// What is known of who signed what.
    signatures: HashMap<(usize, Issuer), Result<(), Rejection>>,
    steps_left: usize,
    comparisons: Comparisons,
    /// The work allowed is done: nothing more is tried.
    is_spent: bool,
}

impl Search<'_> {
    fn issuer_of(&mut self, path: &mut Path) -> Result<Found, Rejection> {
        let child = *path.nodes.last().unwrap_or(&0);
        let mut nearest = Rejection::new(Reason::CertUnknownCa, "no path leads to a trust anchor");
        for (issuer, hint) in self.candidates(child, path) {
            self.steps_left = self.steps_left.saturating_sub(1);
            if self.steps_left == 0 {
                self.is_spent = true;
            }
            if self.is_spent {
                break;
            }
            let found = match self.check_signature(child, issuer) {
                Err(_) if hint == Hint::NotMeant => continue,
                Err(rejection) => Err(rejection),
                Ok(()) => match issuer {
                    Issuer::Anchor(anchor) => self.arrive(path, anchor),
                    Issuer::Sent(at) => self.climb(path, at),
                },
            };
            match found {
                Ok(found) => return Ok(found),
                Err(rejection) => nearest = nearer(nearest, rejection),
            }
        }
        if self.is_spent {
            return Err(Rejection::new(
                Reason::CertTooLarge,
                "there are too many possible paths through the chain",
            ));
        }
        Err(nearest)
    }

    /// Who has the name that `child` calls its issuer: anchors first, and those first whose key identifier fits.
    fn candidates(&self, child: usize, path: &Path) -> Vec<(Issuer, Hint)> {
        let links = &self.nodes[child].links;
        let anchors = self.anchors.loaded().iter().enumerate();
        let anchors = anchors.map(|(at, anchor)| (Issuer::Anchor(at), &anchor.links));
        let is_new = |at: usize| {
            let node = &self.nodes[at];
            // RFC 5280, 6.1: a certificate is not on a path twice; and the same CA need not be.
            path.nodes.iter().map(|&on| &self.nodes[on]).all(|on| {
                on.facts.certificate_fingerprint != node.facts.certificate_fingerprint
                    && !(on.links.subject == node.links.subject
                        && on.facts.public_key.spki_sha256 == node.facts.public_key.spki_sha256)
            })
        };
        let sent = (1..self.nodes.len())
            .filter(|&at| is_new(at))
            .map(|at| (Issuer::Sent(at), &self.nodes[at].links));
        let mut candidates: Vec<_> = anchors
            .chain(sent)
            .filter(|(_, issuer)| issuer.subject == links.issuer)
            .map(|(at, issuer)| (at, links.hint(issuer)))
            .collect();
        candidates.sort_by_key(|&(_, hint)| hint);
        candidates
    }

    /// Puts a CA that the client sent on top of the path, and goes on from there.
    fn climb(&mut self, path: &mut Path, at: usize) -> Result<Found, Rejection> {
        let facts = self.nodes[at].facts;
        let counts = !self.nodes[at].links.is_self_issued();
        let lints = path.lints.len();
        self.check_ca(path, at).inspect_err(|_| path.lints.truncate(lints))?;
        let not_after = path.not_after;
        path.not_after = not_after.min(facts.not_after);
        path.nodes.push(at);
        path.depth += usize::from(counts);
        let found = self.issuer_of(path);
        path.depth -= usize::from(counts);
        path.nodes.pop();
        path.not_after = not_after;
        path.lints.truncate(lints);
        found
    }

    fn check_ca(&mut self, path: &mut Path, at: usize) -> Result<(), Rejection> {
        let facts = self.nodes[at].facts;
        self.check_time(facts, &mut path.lints)?;
        self.policy.check_intermediate(facts)?;
        check_path_length(facts, path.depth)?;
        self.policy.check_depth(path.depth + usize::from(!self.nodes[at].links.is_self_issued()))?;
        let constraints = self.nodes[at].links.constraints.clone();
        self.check_names(path, constraints.as_deref())
    }

    /// Ends the path in an anchor.
    fn arrive(&mut self, path: &mut Path, anchor: usize) -> Result<Found, Rejection> {
        let loaded = &self.anchors.loaded()[anchor];
        let mut lints = path.lints.clone();
        self.check_time(&loaded.facts, &mut lints)?;
        self.policy.check_anchor(&loaded.facts)?;
        check_path_length(&loaded.facts, path.depth)?;
        self.check_names(path, loaded.links.constraints.as_deref())?;
        let down = path.nodes.iter().rev().map(|&at| &self.nodes[at]);
        policies::check(&loaded.facts, down.map(|node| (node.facts, node.links.is_self_issued())))?;
        self.check_revocation(path, anchor, &mut lints)?;
        let issuer = path.nodes.get(1).map_or(&loaded.facts, |&at| self.nodes[at].facts);
        Ok(Found {
            anchor,
            issuer_key: issuer.public_key.spki_sha256,
            not_after: path.not_after.min(loaded.facts.not_after),
            depth: path.nodes.len() - 1,
            lints,
        })
    }

    /// RFC 5280, 6.1.3 (b) and (c): for all below the CA, but not for its own further certificates.
    fn check_names(&mut self, path: &Path, constraints: Option<&NameConstraints>) -> Result<(), Rejection> {
        let Some(constraints) = constraints else { return Ok(()) };
        for (place, &at) in path.nodes.iter().enumerate() {
            let node = &self.nodes[at];
            if place > 0 && node.links.is_self_issued() {
                continue;
            }
            let names = node.names.get_or_init(|| Names::of(node.facts));
            let checked = constraints.check(names, &node.facts.subject.display, &mut self.comparisons);
            self.is_spent |= self.comparisons.0 == 0;
            checked?;
        }
        Ok(())
    }

    fn check_revocation(
        &self,
        path: &Path,
        anchor: usize,
        lints: &mut Vec<PathLint>,
    ) -> Result<(), Rejection> {
        let Some(policy) = &self.policy.revocation else { return Ok(()) };
        let anchor = &self.anchors.loaded()[anchor];
        let mut above: Vec<_> =
            path.nodes.iter().skip(1).map(|&at| (self.nodes[at].facts, &self.nodes[at].links)).collect();
        above.push((&anchor.facts, &anchor.links));
        let chain = path.nodes.iter().enumerate().map(|(place, &at)| {
            let Node { facts, links, .. } = &self.nodes[at];
            let named = above.iter().skip(place).filter(|(_, ca)| ca.subject == links.issuer);
            Link { facts, issuers: named.copied().collect() }
        });
        revocation::check(policy, self.policy, self.anchors.lists(), chain, self.now, lints)
    }

    fn check_signature(&mut self, child: usize, issuer: Issuer) -> Result<(), Rejection> {
        if let Some(known) = self.signatures.get(&(child, issuer)) {
            return known.clone();
        }
        if self.signatures.len() >= MAX_SIGNATURE_CHECKS {
            self.is_spent = true;
            return Err(Rejection::new(Reason::CertTooLarge, "there are too many signatures to check"));
        }
        let key = match issuer {
            Issuer::Anchor(at) => &self.anchors.loaded()[at].links.key,
            Issuer::Sent(at) => &self.nodes[at].links.key,
        };
        let facts = self.nodes[child].facts;
        let checked = check_signed_by(&facts.der, key);
        self.signatures.insert((child, issuer), checked.clone());
        checked
    }

    /// Within its validity, or not further from it than the policy tolerates.
    fn check_time(&self, facts: &CertificateFacts, lints: &mut Vec<PathLint>) -> Result<(), Rejection> {
        let (now, subject) = (self.now.0, &facts.subject.display);
        let early = facts.not_before.0.saturating_sub(now);
        if early > 0 {
            let skew = self.policy.clock_skew_seconds();
            if early > skew {
                return Err(Rejection::new(
                    Reason::CertNotYetValid,
                    format!(
                        "\"{subject}\" is not valid for another {early} s (not before {}; tolerated: {skew} s)",
                        facts.not_before
                    ),
                ));
            }
            note(lints, PathLint::NotYetValidWithinSkew);
        }
        let late = now.saturating_sub(facts.not_after.0);
        if late > 0 {
            let skew = self.policy.expiry_skew_seconds();
            if late > skew {
                return Err(Rejection::new(
                    Reason::CertExpired,
                    format!(
                        "\"{subject}\" expired {late} s ago (not after {}; tolerated: {skew} s)",
                        facts.not_after
                    ),
                ));
            }
            note(lints, PathLint::ExpiredWithinSkew);
        }
        Ok(())
    }
}

fn note(lints: &mut Vec<PathLint>, lint: PathLint) {
    if !lints.contains(&lint) {
        lints.push(lint);
    }
}

/// RFC 5280, 4.2.1.9, with `below` CAs that count between it and the end entity.
fn check_path_length(facts: &CertificateFacts, below: usize) -> Result<(), Rejection> {
    match facts.basic_constraints() {
        Some((true, Some(limit))) if below > limit as usize => Err(Rejection::new(
            Reason::CertDepth,
            format!(
                "{below} intermediates below \"{}\", whose pathLenConstraint is {limit}",
                facts.subject.display
            ),
        )),
        _ => Ok(()),
    }
}

/// The one of two obstacles that says more.
fn nearer(a: Rejection, b: Rejection) -> Rejection {
    fn rank(rejection: &Rejection) -> u8 {
        match rejection.reason {
            Reason::CertUnknownCa => 0,
            Reason::CertBadSignature => 1,
            Reason::CertExpired | Reason::CertNotYetValid => 3,
            Reason::CertRevokedCrl => 4,
            _ => 2,
        }
    }
    if rank(&b) > rank(&a) { b } else { a }
}
