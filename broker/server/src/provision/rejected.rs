//! The last certificates that proved their key, led to a trusted CA, and were not registered all the same: for who
//! looks into why. In memory and bounded; a certificate that comes again is one entry with a count.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use mqgate_identity::certificate::{CertificateFingerprint, to_pem};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use serde::Serialize;

use crate::directory::lock;
use crate::gate::Accepted;

/// One certificate that was not registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// SHA-256 of the DER.
    pub id: CertificateFingerprint,
    pub subject: String,
    pub issuer: String,
    /// Hex, big-endian.
    pub serial: String,
    pub not_after: UnixSeconds,
    /// Name of the CA that its path ends in.
    pub ca: String,
    /// Stable text of the last refusal.
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The plugin that refused it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub listener: String,
    pub peer_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    pub first_at: UnixMillis,
    pub last_at: UnixMillis,
    pub attempts: u64,
    pub pem: String,
}

/// Longest detail kept, in bytes.
const LONGEST_DETAIL: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Ring {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<CertificateFingerprint, Rejected>,
    /// In the order in which they were first rejected.
    order: VecDeque<CertificateFingerprint>,
}

impl Ring {
    /// Notes a rejection; the oldest certificate is forgotten when there are more than `capacity`.
    pub(super) fn note(
        &self,
        capacity: usize,
        accepted: &Accepted,
        reason: Reason,
        (by, detail): (Option<&str>, Option<&str>),
        now: UnixMillis,
    ) {
        let Some(certificate) = accepted.certificate.as_deref().filter(|_| capacity > 0) else { return };
        let id = certificate.leaf.certificate_fingerprint;
        let mut state = lock(&self.state);
        if let Some(known) = state.entries.get_mut(&id) {
            known.attempts += 1;
            known.last_at = now;
            known.reason = reason.as_str();
            known.by = by.map(str::to_owned);
            known.detail = detail.map(clipped);
            known.peer_address = accepted.peer.address.to_string();
            known.listener = accepted.listener.to_string();
            return;
        }
        while state.order.len() >= capacity {
            let Some(oldest) = state.order.pop_front() else { break };
            state.entries.remove(&oldest);
        }
        let leaf = &certificate.leaf;
        let entry = Rejected {
            id,
            subject: leaf.subject.display.clone(),
            issuer: leaf.issuer.display.clone(),
            serial: hex::encode(&leaf.serial),
            not_after: leaf.not_after,
            ca: certificate.anchor.name.to_string(),
            reason: reason.as_str(),
            detail: detail.map(clipped),
            by: by.map(str::to_owned),
            listener: accepted.listener.to_string(),
            peer_address: accepted.peer.address.to_string(),
            server_name: accepted.tls.as_ref().and_then(|tls| tls.server_name.clone()),
            first_at: now,
            last_at: now,
            attempts: 1,
            pem: to_pem(&leaf.der),
        };
        state.order.push_back(id);
        state.entries.insert(id, entry);
    }

    /// It was registered after all.
    pub(super) fn forget(&self, id: &CertificateFingerprint) {
        let mut state = lock(&self.state);
        if state.entries.remove(id).is_some() {
            state.order.retain(|known| known != id);
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).entries.len()
    }

    /// All of them, the one that came last first.
    pub(super) fn list(&self) -> Vec<Rejected> {
        let mut all: Vec<_> = lock(&self.state).entries.values().cloned().collect();
        all.sort_by_key(|entry| std::cmp::Reverse((entry.last_at, entry.id)));
        all
    }
}

fn clipped(text: &str) -> String {
    let mut end = text.len().min(LONGEST_DETAIL);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestCa, accepted};

    #[test]
    fn it_holds_so_many_and_counts_who_comes_again() {
        let (ring, ca) = (Ring::default(), TestCa::new("devices"));
        let devices = [ca.device("a"), ca.device("b"), ca.device("c")];
        let note = |number: usize, at: u64| {
            let comes = accepted(1, "main", Some(devices[number].proved(&ca)));
            let why = (Some("plugin"), Some("too young"));
            ring.note(2, &comes, Reason::ProvisionDenied, why, UnixMillis(at));
        };
        note(0, 1);
        note(1, 2);
        note(0, 3);
        let seen = |ring: &Ring| -> Vec<_> {
            ring.list().into_iter().map(|entry| (entry.subject, entry.attempts)).collect()
        };
        assert_eq!(seen(&ring), [("CN=a".to_owned(), 2), ("CN=b".to_owned(), 1)]);
        note(2, 4);
        assert_eq!(seen(&ring), [("CN=c".to_owned(), 1), ("CN=b".to_owned(), 1)], "the oldest made room");
        ring.forget(&devices[1].id());
        ring.forget(&devices[0].id());
        assert_eq!(ring.list().len(), 1);
        assert_eq!(lock(&ring.state).order.len(), 1);
        assert!(ring.list()[0].pem.starts_with("-----BEGIN CERTIFICATE-----"));
        // A plain connection has nothing to keep.
        ring.note(2, &accepted(1, "main", None), Reason::ProvisionDenied, (None, None), UnixMillis(5));
        assert_eq!(ring.list().len(), 1);
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(clipped(&"ä".repeat(400)).len(), LONGEST_DETAIL);
        assert_eq!(clipped("short"), "short");
    }
}
