//! Clients on which a plugin's calls break: for a while they are refused without a call, so that one that makes
//! a plugin loop or trap costs others nothing.
//!
//! A subject is a client id together with the certificate or, without one, the source it comes from: a device
//! that breaks a plugin under one client id is not kept from using another. A certificate under which several
//! client ids broke is a subject as a whole. Takes the time as an argument; knows nothing of plugins.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mqgate_identity::hooks::{Connection, FailureKind};
use mqgate_identity::source::source_of;

/// The longest a subject is refused without a call.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(600);
/// Subjects remembered at once; the one whose time is up first makes room.
const MOST_SUBJECTS: usize = 4_096;
/// Client ids of one certificate that may break a plugin before the certificate itself is held responsible.
const CLIENT_IDS_PER_CERTIFICATE: u32 = 5;

/// Who is behind a connection, whatever client id it uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    Certificate([u8; 32]),
    /// Where it comes from, as far as that tells one client from another.
    Source(IpAddr),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    party: Party,
    client_id: Option<String>,
}

impl Subject {
    pub(crate) fn of(on: &Connection) -> Self {
        let party = match &on.certificate {
            Some(certificate) => Party::Certificate(certificate.leaf.certificate_fingerprint.0),
            None => Party::Source(source_of(on.peer.address)),
        };
        Self { party, client_id: Some(on.connect.client_id.clone()) }
    }

    pub(crate) fn party(&self) -> &Party {
        &self.party
    }

    /// The certificate, whatever client id it is used with.
    fn certificate(&self) -> Option<Self> {
        match self.party {
            Party::Certificate(_) => Some(Self { party: self.party.clone(), client_id: None }),
            Party::Source(_) => None,
        }
    }
}

#[derive(Debug)]
struct Entry {
    kind: FailureKind,
    failures: u32,
    /// Until then nobody asks the plugin.
    until: Instant,
    /// From then on the entry says nothing any more.
    forgotten: Instant,
}

/// A refusal without a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Poisoned {
    /// How the last call ended.
    pub(crate) kind: FailureKind,
    pub(crate) failures: u32,
    pub(crate) wait: Duration,
}

#[derive(Debug)]
pub(crate) struct PoisonList {
    first_backoff: Duration,
    entries: HashMap<Subject, Entry>,
}

impl PoisonList {
    /// With a `first_backoff` of zero nothing is remembered.
    pub(crate) fn new(first_backoff: Duration) -> Self {
        Self { first_backoff, entries: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether this subject has to wait.
    pub(crate) fn check(&self, subject: &Subject, now: Instant) -> Option<Poisoned> {
        if self.entries.is_empty() {
            return None;
        }
        let whole = subject.certificate().and_then(|certificate| self.entries.get(&certificate));
        [self.entries.get(subject), whole.filter(|entry| entry.failures >= CLIENT_IDS_PER_CERTIFICATE)]
            .into_iter()
            .flatten()
            .filter(|entry| entry.until > now)
            .max_by_key(|entry| entry.until)
            .map(|entry| Poisoned { kind: entry.kind, failures: entry.failures, wait: entry.until - now })
    }

    /// Remembers how a call ended.
    pub(crate) fn ended(&mut self, subject: Subject, failure: Option<FailureKind>, now: Instant) {
        match failure {
            // The guest's own doing: it computed without end, trapped, or ate its memory.
            Some(kind @ (FailureKind::Deadline | FailureKind::Trap | FailureKind::Memory)) => {
                if self.first_backoff.is_zero() {
                    return;
                }
                let certificate = subject.certificate();
                let failures = self.broke(subject, kind, 1, now);
                // One client id counts once, however often it comes back.
                if let Some(certificate) = certificate.filter(|_| failures == 1) {
                    self.broke(certificate, kind, CLIENT_IDS_PER_CERTIFICATE, now);
                }
            }
            Some(_) => {}
            None if self.entries.is_empty() => {}
            None => {
                if let Some(certificate) = subject.certificate() {
                    self.entries.remove(&certificate);
                }
                self.entries.remove(&subject);
            }
        }
    }

    /// `free` failures cost the first back-off only. Returns how many there are now.
    fn broke(&mut self, subject: Subject, kind: FailureKind, free: u32, now: Instant) -> u32 {
        self.entries.retain(|_, entry| entry.forgotten > now);
        if self.entries.len() >= MOST_SUBJECTS && !self.entries.contains_key(&subject) {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.until);
            if let Some(first) = first.map(|(subject, _)| subject.clone()) {
                self.entries.remove(&first);
            }
        }
        let failures = self.entries.get(&subject).map_or(1, |entry| entry.failures.saturating_add(1));
        let doublings = failures.saturating_sub(free).min(31);
        let backoff = self.first_backoff.saturating_mul(1 << doublings).min(LONGEST_BACKOFF);
        let entry =
            Entry { kind, failures, until: now + backoff, forgotten: now + backoff + LONGEST_BACKOFF };
        self.entries.insert(subject, entry);
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn device(number: u8, client_id: &str) -> Subject {
        Subject { party: Party::Certificate([number; 32]), client_id: Some(client_id.to_owned()) }
    }

    fn wait(list: &PoisonList, subject: &Subject, now: Instant) -> Option<Duration> {
        list.check(subject, now).map(|poisoned| poisoned.wait)
    }

    #[test]
    fn a_subject_waits_longer_with_each_failure_and_no_longer_than_the_limit() {
        let mut list = PoisonList::new(SECOND);
        let mut now = Instant::now();
        let subject = device(1, "meter");
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            assert_eq!(list.check(&subject, now), None);
            list.ended(subject.clone(), Some(FailureKind::Deadline), now);
            assert_eq!(wait(&list, &subject, now), Some(SECOND * expected));
            now += SECOND * expected;
        }
        list.ended(subject.clone(), None, now);
        list.ended(subject.clone(), Some(FailureKind::Trap), now);
        let poisoned = list.check(&subject, now).expect("it failed");
        assert_eq!(
            poisoned,
            Poisoned { kind: FailureKind::Trap, failures: 1, wait: SECOND },
            "a success clears"
        );
    }

    #[test]
    fn another_client_id_is_asked_until_the_certificate_broke_under_too_many() {
        let mut list = PoisonList::new(SECOND);
        let now = Instant::now();
        for number in 1..CLIENT_IDS_PER_CERTIFICATE {
            for _ in 0..3 {
                list.ended(device(1, &number.to_string()), Some(FailureKind::Deadline), now);
            }
            assert_eq!(list.check(&device(1, "next"), now), None, "after {number}");
        }
        list.ended(device(1, "last"), Some(FailureKind::Deadline), now);
        assert_eq!(wait(&list, &device(1, "next"), now), Some(SECOND));
        assert_eq!(list.check(&device(2, "next"), now), None, "another device is another subject");
    }

    #[test]
    fn an_address_is_not_held_responsible_for_its_clients() {
        let mut list = PoisonList::new(SECOND);
        let now = Instant::now();
        let behind_nat = |client_id: String| Subject {
            party: Party::Source([192, 0, 2, 1].into()),
            client_id: Some(client_id),
        };
        for number in 0..100 {
            list.ended(behind_nat(number.to_string()), Some(FailureKind::Deadline), now);
        }
        assert_eq!(list.check(&behind_nat(String::from("good")), now), None);
    }

    #[test]
    fn what_is_not_the_subjects_doing_does_not_count() {
        let mut list = PoisonList::new(SECOND);
        let now = Instant::now();
        for kind in
            [FailureKind::Overload, FailureKind::Unavailable, FailureKind::Invalid, FailureKind::Capability]
        {
            list.ended(device(1, "meter"), Some(kind), now);
        }
        assert_eq!(list.len(), 0);
        let mut off = PoisonList::new(Duration::ZERO);
        off.ended(device(1, "meter"), Some(FailureKind::Deadline), now);
        assert_eq!(off.len(), 0);
    }

    #[test]
    fn the_list_is_bounded_and_forgets() {
        let mut list = PoisonList::new(SECOND);
        let now = Instant::now();
        for number in 0..MOST_SUBJECTS + 10 {
            let subject =
                Subject { party: Party::Source([192, 0, 2, 1].into()), client_id: Some(number.to_string()) };
            list.ended(subject, Some(FailureKind::Deadline), now);
        }
        assert_eq!(list.len(), MOST_SUBJECTS);
        let later = now + LONGEST_BACKOFF + SECOND * 2;
        list.ended(device(1, "meter"), Some(FailureKind::Deadline), later);
        assert_eq!(list.len(), 2, "the device and its certificate");
    }
}
