//! Checks of the registry's records: each by itself, and all of them compared.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::cas::seconds;
use super::facts::DeviceFacts;
use super::{Check, Finding, KeyWeakness, Severity, Thresholds, key_weakness};
use crate::certificate::certificates_from_pem;
use crate::registry::{DeviceCertificate, DeviceState};
use crate::time::UnixMillis;

/// Records that are compared with each other; further ones are not.
const MOST_COMPARED: usize = 2_000_000;

/// Takes up records to find what several of them have in common. 24 bytes for each.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Key, and whose.
    keys: Vec<(u64, u64)>,
    serials: Vec<u64>,
}

/// What several records have in common.
#[derive(Debug, Clone, Default)]
pub struct Compared {
    keys: HashSet<u64>,
    serials: HashSet<u64>,
    /// There were more records than are compared.
    pub is_partial: bool,
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn key_of(record: &DeviceCertificate) -> u64 {
    hash(&record.spki_sha256)
}

fn serial_of(record: &DeviceCertificate) -> u64 {
    hash((&record.issuer, &record.issuer_key_id, &record.serial))
}

/// Neither revoked nor deleted.
fn may_come_in(record: &DeviceCertificate) -> bool {
    !matches!(record.state, DeviceState::Revoked | DeviceState::Tombstone)
}

impl Comparison {
    pub fn add(&mut self, record: &DeviceCertificate) {
        if self.serials.len() >= MOST_COMPARED {
            return;
        }
        self.serials.push(serial_of(record));
        // A device that renews its certificate may keep its key.
        if may_come_in(record) {
            self.keys.push((key_of(record), hash((&record.namespace, record.device_key()))));
        }
    }

    pub fn finish(mut self) -> Compared {
        self.keys.sort_unstable();
        self.keys.dedup();
        self.serials.sort_unstable();
        let keys = self.keys.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[0].0);
        let serials = self.serials.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        Compared {
            keys: keys.collect(),
            serials: serials.collect(),
            is_partial: self.serials.len() >= MOST_COMPARED,
        }
    }
}

pub(super) fn judge(
    device: &DeviceFacts<'_>,
    compared: &Compared,
    thresholds: &Thresholds,
    now: UnixMillis,
    found: &mut Vec<Finding>,
) {
    let record = device.record;
    let id = record.id.to_hex();
    let name = &record.device_id;
    let mut finds = |check: Check, reason: String, severity: Option<Severity>, mitigation: Option<String>| {
        let finding = check.finds("certificate", id.as_str(), reason);
        let finding = severity.map_or(finding.clone(), |severity| finding.severe(severity));
        found.push(Finding { mitigation, ..finding });
    };
    let revoke = |reason: &str| Some(format!("mqgate cert revoke {id} --reason {reason}"));

    let barred = !matches!(record.state, DeviceState::Active);
    if barred && device.connections > 0 {
        let reason =
            format!("device \"{name}\" is not active and has {} live connections", device.connections);
        finds(
            Check::RevokedStillConnected,
            reason,
            None,
            Some(format!("mqgate bans add --fingerprint {id}")),
        );
    }
    if compared.serials.contains(&serial_of(record)) {
        let reason = format!(
            "device \"{name}\": another certificate of \"{}\" has the serial number {}; a revocation list cannot tell \
             them apart",
            record.issuer, record.serial
        );
        finds(Check::IssuerSerialReuse, reason, None, None);
    }
    if may_come_in(record) && compared.keys.contains(&key_of(record)) {
        let reason = format!("device \"{name}\": a certificate of another device has the same key");
        finds(Check::DeviceKeyReused, reason, None, revoke("keyCompromise"));
    }
    if record.state == DeviceState::PendingActivation {
        let since = now.0.saturating_sub(record.registered_at.0);
        if since >= millis(thresholds.pending) {
            let reason =
                format!("device \"{name}\" waits for its activation since {}", date(record.registered_at));
            finds(Check::PendingTooLong, reason, None, Some(format!("mqgate cert activate {id}")));
        }
    }
    if barred {
        return;
    }
    if let Some(list) = device.revoked_by {
        let reason = format!("device \"{name}\": the revocation list of \"{list}\" names it");
        finds(Check::CrlRevokedButActive, reason, None, revoke("unspecified"));
    }
    let left = record.not_after.0.saturating_sub(now.seconds().0);
    if left < 0 {
        let reason = format!("device \"{name}\": the certificate expired {}", record.not_after);
        finds(Check::DeviceCertExpiring, reason, Some(Severity::High), None);
    } else if left <= seconds(thresholds.device_expiring) {
        let reason = format!("device \"{name}\": the certificate expires {}", record.not_after);
        finds(Check::DeviceCertExpiring, reason, None, None);
    }
    let lifetime = record.not_after.0.saturating_sub(record.not_before.0);
    if lifetime > seconds(thresholds.device_lifetime) {
        let reason = format!("device \"{name}\": the certificate is valid for {} days", lifetime / 86_400);
        finds(Check::DeviceCertLongLived, reason, None, None);
    }
    let age = now.seconds().0.saturating_sub(record.not_before.0);
    if age > seconds(thresholds.device_age) {
        let reason = format!(
            "device \"{name}\": the certificate is {} days old; so is its key, at least",
            age / 86_400
        );
        finds(Check::DeviceCertAge, reason, None, None);
    }
    match record.last_seen {
        None if now.0.saturating_sub(record.registered_at.0) >= millis(thresholds.never_seen) => {
            let reason =
                format!("device \"{name}\" was registered {} and never came", date(record.registered_at));
            finds(Check::NeverSeen, reason, None, Some(format!("mqgate cert deactivate {id}")));
        }
        Some(seen) if now.0.saturating_sub(seen.0) >= millis(thresholds.dormant) => {
            let reason = format!("device \"{name}\" came last {}", date(seen));
            finds(Check::Dormant, reason, None, Some(format!("mqgate cert deactivate {id}")));
        }
        None | Some(_) => {}
    }
    if let Some(weakness) = weakness(record) {
        let severity =
            matches!(weakness, KeyWeakness::Roca | KeyWeakness::SmallFactor(_)).then_some(Severity::Critical);
        let reason = format!("device \"{name}\": {weakness}");
        finds(Check::DeviceCertWeakKey, reason, severity, revoke("keyCompromise"));
    }
}

/// A record whose certificate cannot be read has no weak key: it has none.
fn weakness(record: &DeviceCertificate) -> Option<KeyWeakness> {
    let der = certificates_from_pem(record.pem.as_bytes()).ok()?.into_iter().next()?;
    key_weakness(&der)
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn date(at: UnixMillis) -> String {
    at.seconds().to_string()
}
