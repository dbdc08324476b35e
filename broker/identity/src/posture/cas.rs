//! Checks of CAs and revocation lists.

use std::time::Duration;

use super::facts::{CaFacts, CaSource, Facts};
use super::{Check, Finding, Severity, Thresholds, key_weakness};
use crate::evaluation::AnchorLint;
use crate::time::{UnixMillis, UnixSeconds};

/// The worse half of "soon".
const VERY_SOON: i64 = 14 * 86_400;

/// Organizations that sign for everybody, as their certificates name them. Not complete: it is a hint.
const PUBLIC: [&str; 22] = [
    "amazon",
    "apple inc.",
    "buypass as-983163327",
    "certum",
    "cloudflare, inc.",
    "comodo ca limited",
    "digicert inc",
    "digicert, inc.",
    "d-trust gmbh",
    "entrust, inc.",
    "globalsign nv-sa",
    "godaddy.com, inc.",
    "google trust services",
    "google trust services llc",
    "identrust",
    "internet security research group",
    "let's encrypt",
    "microsoft corporation",
    "sectigo limited",
    "ssl corporation",
    "starfield technologies, inc.",
    "the usertrust network",
];

const ORGANIZATION: &str = "2.5.4.10";

pub(super) fn judge(facts: &Facts, thresholds: &Thresholds, now: UnixMillis, found: &mut Vec<Finding>) {
    let checked = facts.listeners.iter().any(|listener| listener.checks_revocation);
    for ca in &facts.cas {
        one(ca, checked, thresholds, now.seconds(), found);
    }
    for crl in facts.crls.iter().filter(|crl| crl.is_stale) {
        let since = crl.next_update.map_or_else(
            || String::from("it does not say when the next one is due"),
            |due| format!("the next one was due {due}"),
        );
        let of = crl.ca.as_deref().unwrap_or(&crl.issuer);
        found.push(
            Check::CrlStale
                .finds("crl", &*crl.source, format!("the revocation list of \"{of}\" is stale: {since}"))
                .severe(if checked { Severity::High } else { Severity::Medium })
                .helped_by("mqgate crl refresh"),
        );
    }
}

fn one(ca: &CaFacts, checked: bool, thresholds: &Thresholds, now: UnixSeconds, found: &mut Vec<Finding>) {
    let id = ca.facts.certificate_fingerprint.to_hex();
    let finds = |check: Check, reason: String| check.finds("ca", id.as_str(), reason);
    let name = &ca.name;
    let ends = ca.facts.not_after;
    // One that goes anyway need not be replaced.
    let stays = ca.source != CaSource::Transition;
    if ends < now {
        let (devices, connections) = (ca.active_devices, ca.connections);
        if devices > 0 || connections > 0 {
            found.push(
                finds(
                    Check::CaExpiredInUse,
                    format!(
                        "the CA \"{name}\" expired {ends}; active device certificates under it: {devices}, live \
                         connections: {connections}"
                    ),
                )
                .helped_by(replace(ca)),
            );
        }
    } else if stays && ends.0.saturating_sub(now.0) <= seconds(thresholds.ca_expiring) {
        let severity = match ends.0.saturating_sub(now.0) {
            ..=VERY_SOON => Severity::High,
            _ => Severity::Medium,
        };
        let reason =
            format!("the CA \"{name}\" expires {ends}, and nobody of its certificates comes in then");
        found.push(finds(Check::CaExpiring, reason).severe(severity).helped_by(replace(ca)));
    }
    let lint = |wanted: &[AnchorLint]| {
        ca.lints.iter().find(|(lint, _)| wanted.contains(lint)).map(|(_, detail)| detail.as_str())
    };
    let weakness = key_weakness(&ca.facts.der).map(|weakness| weakness.to_string());
    let weakness =
        weakness.or_else(|| lint(&[AnchorLint::WeakKey, AnchorLint::WeakSignature]).map(str::to_owned));
    if let Some(weakness) = weakness {
        let reason = format!("the CA \"{name}\" is weak: {weakness}");
        found.push(finds(Check::CaWeakKey, reason).helped_by(replace(ca)));
    }
    if !ca.has_list && stays {
        let reason =
            format!("there is no revocation list of the CA \"{name}\": what it has revoked is not known");
        let severity = if checked { Severity::Medium } else { Severity::Low };
        found.push(finds(Check::CaNoCrl, reason).severe(severity));
    }
    if let Some(by) = &ca.revoked_by {
        let reason = format!("\"{by}\" has revoked the CA \"{name}\", and it still lets clients in");
        found.push(finds(Check::CaRevokedButActive, reason).helped_by(remove(ca)));
    }
    let public = organizations(ca).find(|name| PUBLIC.contains(&name.to_lowercase().as_str()));
    if let Some(organization) = public {
        let reason = format!(
            "the CA \"{name}\" is of \"{organization}\", which signs for everybody: whoever has a certificate of it is \
             let in as far as certificates go"
        );
        found.push(finds(Check::CaPublicOrServerChain, reason).helped_by(remove(ca)));
    } else if let Some(detail) = lint(&[AnchorLint::ServerChain]) {
        found.push(finds(Check::CaPublicOrServerChain, format!("the CA \"{name}\": {detail}")));
    }
}

fn organizations(ca: &CaFacts) -> impl Iterator<Item = &str> {
    let attributes = ca.facts.subject.attributes.iter().filter(|attribute| attribute.oid == ORGANIZATION);
    attributes.filter_map(|attribute| attribute.text.as_deref())
}

fn replace(ca: &CaFacts) -> String {
    match ca.source {
        CaSource::Configuration => String::from("put its successor into `cacertfile`, then: mqgate reload"),
        CaSource::Registry | CaSource::Transition => format!("mqgate ca replace {} NEW.pem", ca.name),
    }
}

fn remove(ca: &CaFacts) -> String {
    match ca.source {
        CaSource::Configuration => String::from("take it out of `cacertfile`, then: mqgate reload"),
        CaSource::Registry | CaSource::Transition => format!("mqgate ca remove {}", ca.name),
    }
}

pub(super) fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}
