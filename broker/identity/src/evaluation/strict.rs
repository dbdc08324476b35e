//! The form that RFC 5280 asks of those who make certificates, where a path proves the same without it. Only
//! looked at under `Strictness::Strict`: many devices' certificates fall short of it.

use super::Rejection;
use super::links::authority_key_id;
use super::name_constraints::NameConstraints;
use super::policy::{Place, Strictness};
use crate::certificate::{CertificateFacts, Structure, oid, take_extension};
use crate::reason::Reason;

pub(super) fn check(strictness: Strictness, facts: &CertificateFacts, place: Place) -> Result<(), Rejection> {
    match strictness {
        Strictness::Standard => Ok(()),
        Strictness::Strict => match problem(facts, place) {
            None => Ok(()),
            Some((what, clause)) => Err(Rejection::new(
                Reason::CertMalformed,
                format!(
                    "\"{}\" {what} (RFC 5280, {clause}), which x509_strict refuses",
                    facts.subject.display
                ),
            )),
        },
    }
}

fn problem(facts: &CertificateFacts, place: Place) -> Option<(&'static str, &'static str)> {
    let has = |id| facts.extension(id).is_some();
    let is_critical = |id| facts.extension(id).map(|extension| extension.critical);
    let structure = Structure::read(&facts.der).ok()?;
    if structure.version != 3 {
        return Some(("is not of X.509 version 3", "4.1.2.1"));
    }
    if structure.has_unique_ids {
        return Some(("has unique identifiers", "4.1.2.8"));
    }
    if !structure.has_proper_times {
        return Some(("writes a date in the type of another year", "4.1.2.5"));
    }
    if matches!(structure.serial, [0] | [0x80..=0xff, ..]) || structure.serial.len() > 20 {
        return Some(("has a serial number that is not positive, or longer than 20 bytes", "4.1.2.2"));
    }
    let mut rest = structure.extensions;
    while let Some(extension) = take_extension(&mut rest) {
        if extension.spells_default {
            return Some(("has an extension that spells out a default value", "4.1 (DER)"));
        }
    }
    if is_critical(oid::NAME_CONSTRAINTS) == Some(false) {
        return Some(("has name constraints that are not critical", "4.2.1.10"));
    }
    let constraints = facts.extension(oid::NAME_CONSTRAINTS).map(|known| NameConstraints::read(&known.raw));
    if constraints.is_some_and(|read| read.is_ok_and(|constraints| constraints.has_leading_dot())) {
        return Some(("has a constraint of DNS names that begins with a dot", "4.2.1.10"));
    }
    if [oid::POLICY_CONSTRAINTS, oid::INHIBIT_ANY_POLICY].iter().any(|id| is_critical(id) == Some(false)) {
        return Some(("has policy constraints that are not critical", "4.2.1.11 and 4.2.1.14"));
    }
    let is_self_issued = facts.subject.raw == facts.issuer.raw;
    // Nothing above an anchor is looked for.
    let is_top = place == Place::Anchor && is_self_issued;
    let issuer_key = facts.extension(oid::AUTHORITY_KEY_IDENTIFIER).map(|known| authority_key_id(&known.raw));
    match issuer_key {
        None if !is_top => return Some(("has no authority key identifier", "4.2.1.1")),
        Some(Some(None)) => return Some(("has an authority key identifier without the key's", "4.2.1.1")),
        _ => {}
    }
    let signs = facts.key_usage.is_some_and(|usage| usage.key_cert_sign);
    match facts.basic_constraints() {
        Some((true, limit)) => {
            if is_critical(oid::BASIC_CONSTRAINTS) == Some(false) {
                return Some(("has basic constraints that are not critical", "4.2.1.9"));
            }
            if !has(oid::SUBJECT_KEY_IDENTIFIER) {
                return Some(("is a CA without a subject key identifier", "4.2.1.2"));
            }
            if !signs && limit.is_some() {
                return Some(("limits the path without signing certificates", "4.2.1.9"));
            }
            if facts.key_usage.is_none() {
                return Some(("is a CA without a key usage", "4.2.1.3"));
            }
        }
        Some((false, Some(_))) => return Some(("limits the path but is no CA", "4.2.1.9")),
        Some((false, None)) | None => {
            if place != Place::EndEntity {
                return Some(("signs certificates but does not say that it is a CA", "4.2.1.9"));
            }
            if signs {
                return Some(("may sign certificates but is no CA", "4.2.1.9"));
            }
            if has(oid::NAME_CONSTRAINTS) {
                return Some(("has name constraints but is no CA", "4.2.1.10"));
            }
        }
    }
    if facts.subject.attributes.is_empty() && is_critical(oid::SUBJECT_ALT_NAME) != Some(true) {
        return Some(("has no subject, and no alternative names that are critical", "4.1.2.6"));
    }
    None
}
