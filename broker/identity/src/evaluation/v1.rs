//! End entities of X.509 version 1: issuer name, signature and validity are all there is to check on them.
//!
//! Their issuer is a trust anchor, or a version 3 CA certificate that the client sent. Those above the end
//! entity are held to what webpki would ask of them; what it would have to interpret (name constraints) is
//! refused.

use std::rc::Rc;

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

use super::anchors::check_validity;
use super::signature::verify_certificate_signature;
use super::{Found, Obstacle, PathPolicy, Rejection, TrustAnchors};
use crate::certificate::{CertificateFacts, oid, only, parse_structure, tag, take, take_tagged};
use crate::reason::Reason;
use crate::time::UnixSeconds;

/// Signatures checked for one client.
const MAX_SIGNATURE_CHECKS: usize = 32;
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";

pub(super) fn judge(
    end_entity: &CertificateFacts,
    intermediates: &[CertificateDer<'_>],
    anchors: &TrustAnchors,
    policy: &PathPolicy,
    at: UnixSeconds,
) -> Result<Found, Obstacle> {
    check_validity(end_entity, at)?;
    let signed = Signed::read(&end_entity.der)?;
    signed.check_version1_form()?;
    let candidates = intermediates.iter().filter_map(|der| Candidate::read(der)).collect();
    let mut search = Search { candidates, anchors, policy, at, checks_left: MAX_SIGNATURE_CHECKS };
    search.issuer_of(end_entity, &signed, &mut Vec::new(), end_entity.not_after)
}

/// The three parts of a certificate.
struct Signed<'a> {
    tbs: &'a [u8],
    /// Content of the outer `AlgorithmIdentifier`.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(der: &'a [u8]) -> Result<Self, Rejection> {
        let parts = || {
            let mut parts = only(der, tag::SEQUENCE)?.content;
            let tbs = take_tagged(&mut parts, tag::SEQUENCE)?;
            let algorithm = take_tagged(&mut parts, tag::SEQUENCE)?;
            let signature = only(parts, tag::BIT_STRING)?.content.strip_prefix(&[0])?;
            // RFC 5280, 4.1.1.2: both algorithm fields are the same; only the inner one is signed.
            let mut fields = tbs.content;
            let _version = take_tagged(&mut fields, 0xa0);
            let _serial = take(&mut fields)?;
            let inner = take_tagged(&mut fields, tag::SEQUENCE)?;
            (inner.content == algorithm.content).then_some(Self {
                tbs: tbs.raw,
                algorithm: algorithm.content,
                signature,
            })
        };
        parts()
            .ok_or_else(|| Rejection::new(Reason::CertMalformed, "malformed certificate: its signed parts"))
    }

    /// Nothing follows the key: unique identifiers and extensions belong to later versions.
    fn check_version1_form(&self) -> Result<(), Rejection> {
        let fields_after_key = || {
            let mut fields = only(self.tbs, tag::SEQUENCE)?.content;
            let _version = take_tagged(&mut fields, 0xa0);
            // Serial, algorithm, issuer, validity, subject, key.
            for _ in 0..6 {
                take(&mut fields)?;
            }
            Some(fields)
        };
        match fields_after_key() {
            Some([]) => Ok(()),
            _ => Err(Rejection::new(
                Reason::CertMalformed,
                "malformed certificate: version 1 with fields of later versions",
            )),
        }
    }

    fn check_signed_by(&self, key: &SubjectPublicKeyInfoDer<'_>) -> Result<(), Rejection> {
        verify_certificate_signature(key, self.algorithm, self.tbs, self.signature)
    }
}

/// Whether the signature of a certificate, of any version, is by this key. Says nothing else of either.
pub fn check_signed_by(certificate: &[u8], key: &SubjectPublicKeyInfoDer<'_>) -> Result<(), Rejection> {
    Signed::read(certificate)?.check_signed_by(key)
}

/// A CA certificate that the client sent.
struct Candidate<'a> {
    facts: CertificateFacts,
    key: SubjectPublicKeyInfoDer<'static>,
    signed: Signed<'a>,
}

impl<'a> Candidate<'a> {
    /// What does not read as one cannot be on a path.
    fn read(der: &'a CertificateDer<'_>) -> Option<Rc<Self>> {
        let facts = CertificateFacts::parse(der).ok()?;
        let key = SubjectPublicKeyInfoDer::from(parse_structure(der).ok()?.public_key().raw.to_vec());
        Some(Rc::new(Self { facts, key, signed: Signed::read(der).ok()? }))
    }

    /// RFC 5280, 6.1.4, with `below` CA certificates between it and the end entity.
    fn check(&self, below: usize, policy: &PathPolicy, at: UnixSeconds) -> Result<(), Obstacle> {
        let facts = &self.facts;
        let refuse = |reason, what: &str| {
            Err(Rejection::new(reason, format!("\"{}\" {what}", facts.subject.display)).into())
        };
        check_validity(facts, at)?;
        match (facts.version, facts.basic_constraints()) {
            (3, Some((true, Some(limit)))) if below > limit as usize => {
                return refuse(Reason::CertDepth, "allows fewer CAs below it (pathLenConstraint)");
            }
            (3, Some((true, _))) => {}
            (3, _) => return refuse(Reason::CertPurpose, "is not a CA certificate"),
            _ => return refuse(Reason::CertV1, "is an intermediate of X.509 version 1"),
        }
        let usages = &facts.extended_key_usage;
        if !usages.is_empty() && !usages.iter().any(|usage| usage == CLIENT_AUTH) {
            return refuse(Reason::CertPurpose, "may not issue for client authentication");
        }
        if facts.extension(oid::EXTENDED_KEY_USAGE).is_some() && usages.is_empty() {
            return refuse(Reason::CertMalformed, "has an empty extended key usage");
        }
        for extension in &facts.extensions {
            match extension.oid.as_str() {
                oid::NAME_CONSTRAINTS => {
                    return refuse(
                        Reason::CertNameConstraint,
                        "has name constraints, which cannot be applied to a version 1 certificate",
                    );
                }
                oid::KEY_USAGE
                | oid::SUBJECT_ALT_NAME
                | oid::BASIC_CONSTRAINTS
                | oid::CRL_DISTRIBUTION_POINTS
                | oid::EXTENDED_KEY_USAGE => {}
                _ if extension.critical => {
                    return refuse(Reason::CertMalformed, "has a critical extension that is not known here");
                }
                _ => {}
            }
        }
        Ok(policy.check_ca(facts)?)
    }
}

struct Search<'a> {
    candidates: Vec<Rc<Candidate<'a>>>,
    anchors: &'a TrustAnchors,
    policy: &'a PathPolicy,
    at: UnixSeconds,
    checks_left: usize,
}

impl Search<'_> {
    /// Finds who issued `child`, up to an anchor. `used`: the candidates below. The obstacle answered is the
    /// one nearest to a path.
    fn issuer_of(
        &mut self,
        child: &CertificateFacts,
        signed: &Signed<'_>,
        used: &mut Vec<usize>,
        not_after: UnixSeconds,
    ) -> Result<Found, Obstacle> {
        let mut nearest: Obstacle =
            Rejection::new(Reason::CertUnknownCa, "no path leads to a trust anchor").into();
        let anchors = self.anchors;
        for (anchor, loaded) in anchors.loaded().iter().enumerate() {
            if loaded.facts.subject.raw != child.issuer.raw {
                continue;
            }
            let found = self.check_signature(signed, &loaded.key).and_then(|()| {
                let anchor_not_after = anchors.check(anchor, used.len(), self.policy, self.at)?;
                if loaded.facts.extension(oid::NAME_CONSTRAINTS).is_some() {
                    return Err(Rejection::new(
                        Reason::CertNameConstraint,
                        "the trust anchor has name constraints, which cannot be applied to a version 1 certificate",
                    )
                    .into());
                }
                Ok(Found { anchor, not_after: not_after.min(anchor_not_after), depth: used.len() })
            });
            match found {
                Ok(found) => return Ok(found),
                Err(obstacle) => nearest = nearer(nearest, obstacle),
            }
        }
        for at in 0..self.candidates.len() {
            let candidate = self.candidates[at].clone();
            if used.contains(&at) || candidate.facts.subject.raw != child.issuer.raw {
                continue;
            }
            let found = candidate
                .check(used.len(), self.policy, self.at)
                .and_then(|()| Ok(self.policy.check_depth(used.len() + 1)?))
                .and_then(|()| self.check_signature(signed, &candidate.key))
                .and_then(|()| {
                    used.push(at);
                    let not_after = not_after.min(candidate.facts.not_after);
                    let found = self.issuer_of(&candidate.facts, &candidate.signed, used, not_after);
                    used.pop();
                    found
                });
            match found {
                Ok(found) => return Ok(found),
                Err(obstacle) => nearest = nearer(nearest, obstacle),
            }
        }
        Err(nearest)
    }

    fn check_signature(
        &mut self,
        signed: &Signed<'_>,
        key: &SubjectPublicKeyInfoDer<'_>,
    ) -> Result<(), Obstacle> {
        self.checks_left = self.checks_left.checked_sub(1).ok_or_else(|| {
            Rejection::new(Reason::CertTooLarge, "there are too many possible paths through the chain")
        })?;
        Ok(signed.check_signed_by(key)?)
    }
}

/// The one of two obstacles that says more.
fn nearer(a: Obstacle, b: Obstacle) -> Obstacle {
    fn rank(obstacle: &Obstacle) -> u8 {
        match obstacle {
            Obstacle::Rejected(rejection) => match rejection.reason {
                Reason::CertUnknownCa => 0,
                Reason::CertBadSignature | Reason::CertSigAlg => 1,
                _ => 2,
            },
            Obstacle::NotYetValid { .. } | Obstacle::Expired { .. } => 3,
        }
    }
    if rank(&b) > rank(&a) { b } else { a }
}
