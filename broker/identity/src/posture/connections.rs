//! Checks of who is connected.

use super::facts::ConnectionsSeen;
use super::{Check, Finding};

pub(super) fn judge(seen: &ConnectionsSeen, found: &mut Vec<Finding>) {
    for (certificate, addresses) in seen.certificates() {
        let id = certificate.to_hex();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let reason = format!(
            "live connections from {}: the key is in several places, or the device behind several addresses",
            addresses.join(", ")
        );
        found.push(
            Check::CertShared
                .finds("certificate", &*id, reason)
                .helped_by(format!("mqgate cert revoke {id} --reason keyCompromise")),
        );
    }
    for (client_id, devices) in seen.client_ids() {
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        let reason = format!("the devices {} use it at the same time", devices.join(", "));
        found.push(Check::ConflictingClientIds.finds("client_id", client_id, reason));
    }
}
