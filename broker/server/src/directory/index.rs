//! Connections by what they depend on: a certificate, a CA, an issuer, a serial number, a listener, a moment.
//!
//! A change that bars somebody finds who it is here, without a look at everybody. Does not know what a change
//! is, nor whether a connection may stay: [`crate::live`] asks that.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};

use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, NameKey};
use mqgate_identity::time::UnixSeconds;
use tokio::sync::Notify;

use super::{ConnectionHandle, lock};

const SHARDS: usize = 64;

/// Something that connections depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark<'a> {
    /// The client's certificate.
    Certificate(CertificateFingerprint),
    /// The CA that the client's path ends in.
    Anchor(CertificateFingerprint),
    /// Who signed a certificate that the client sent, however the name was written.
    Issuer(NameKey),
    /// One certificate that the client sent: its issuer's name, and its serial number.
    Issued { issuer: NameKey, serial: &'a [u8] },
    /// Where it connected.
    Listener(&'a str),
    /// The server's certificate that it was shown.
    Server(CertificateFingerprint),
}

/// The connections of a broker by their marks.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[Mutex<HashMap<u64, Bucket>>]>,
    hasher: RandomState,
    /// When each connection has to be looked at again, the next first.
    due: Mutex<BTreeMap<(UnixSeconds, u64), Arc<ConnectionHandle>>>,
    /// The first moment of `due` is an earlier one now.
    pub(super) sooner: Notify,
}

/// Marks are hashed: two that have one hash share a bucket, so whoever is found is asked again what it is.
#[derive(Debug)]
enum Bucket {
    /// Most certificates have one connection.
    One(Arc<ConnectionHandle>),
    #[expect(clippy::box_collection, reason = "most places hold one: they are to be small")]
    Many(Box<HashMap<u64, Arc<ConnectionHandle>>>),
}

/// Where a connection stands in the index.
#[derive(Debug, Default)]
pub(super) struct Entered {
    marks: Vec<u64>,
    due: Option<UnixSeconds>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            due: Mutex::default(),
            sooner: Notify::new(),
        }
    }
}

impl Index {
    pub(super) fn enter(&self, handle: &Arc<ConnectionHandle>) {
        let mut marks: Vec<u64> = Vec::new();
        handle.each_mark(|mark| marks.push(self.hasher.hash_one(mark)));
        // Two certificates of one issuer are one mark.
        marks.sort_unstable();
        marks.dedup();
        for mark in &marks {
            let mut shard = lock(self.shard(*mark));
            match shard.get_mut(mark) {
                Some(bucket) => bucket.add(handle),
                None => drop(shard.insert(*mark, Bucket::One(Arc::clone(handle)))),
            }
        }
        let due = handle.certificate().map(|certificate| certificate.not_after);
        *lock(&handle.entered) = Entered { marks, due: None };
        self.set_due(handle, due);
    }

    pub(super) fn leave(&self, handle: &ConnectionHandle) {
        let entered = std::mem::take(&mut *lock(&handle.entered));
        for mark in entered.marks {
            let mut shard = lock(self.shard(mark));
            if shard.get_mut(&mark).is_some_and(|bucket| bucket.remove(handle.connection_id)) {
                shard.remove(&mark);
            }
        }
        if let Some(due) = entered.due {
            lock(&self.due).remove(&(due, handle.connection_id));
        }
    }

    /// Says when a connection has to be looked at again.
    pub(super) fn set_due(&self, handle: &Arc<ConnectionHandle>, at: Option<UnixSeconds>) {
        let mut entered = lock(&handle.entered);
        if entered.marks.is_empty() {
            return; // It has left.
        }
        let mut due = lock(&self.due);
        if let Some(before) = entered.due {
            due.remove(&(before, handle.connection_id));
        }
        entered.due = at;
        let Some(at) = at else { return };
        let is_first = due.first_key_value().is_none_or(|(first, _)| at < first.0);
        due.insert((at, handle.connection_id), Arc::clone(handle));
        drop(due);
        if is_first {
            self.sooner.notify_one();
        }
    }

    /// A connection's path ends in another CA from now on.
    pub(super) fn moved(
        &self,
        handle: &Arc<ConnectionHandle>,
        from: CertificateFingerprint,
        to: CertificateFingerprint,
    ) {
        let (from, to) = (self.hasher.hash_one(Mark::Anchor(from)), self.hasher.hash_one(Mark::Anchor(to)));
        let mut entered = lock(&handle.entered);
        let Some(place) = entered.marks.iter_mut().find(|mark| **mark == from) else { return };
        *place = to;
        {
            let mut shard = lock(self.shard(from));
            if shard.get_mut(&from).is_some_and(|bucket| bucket.remove(handle.connection_id)) {
                shard.remove(&from);
            }
        }
        let mut shard = lock(self.shard(to));
        match shard.get_mut(&to) {
            Some(bucket) => bucket.add(handle),
            None => drop(shard.insert(to, Bucket::One(Arc::clone(handle)))),
        }
    }

    pub(super) fn find(&self, mark: Mark<'_>, most: usize) -> Vec<Arc<ConnectionHandle>> {
        let hash = self.hasher.hash_one(mark);
        let mut found = match lock(self.shard(hash)).get(&hash) {
            None => Vec::new(),
            Some(Bucket::One(handle)) => vec![Arc::clone(handle)],
            Some(Bucket::Many(handles)) => handles.values().take(most).cloned().collect(),
        };
        found.retain(|handle| handle.has(mark));
        found
    }

    /// Takes out who is due by `now`.
    pub(super) fn take_due(&self, now: UnixSeconds) -> Vec<Arc<ConnectionHandle>> {
        let mut due = lock(&self.due);
        let mut later = due.split_off(&(UnixSeconds(now.0.saturating_add(1)), 0));
        std::mem::swap(&mut *due, &mut later);
        // What is in `later` now is what is due. Entries say themselves when they are due next.
        later.into_values().collect()
    }

    pub(super) fn next_due(&self) -> Option<UnixSeconds> {
        lock(&self.due).first_key_value().map(|((at, _), _)| *at)
    }

    fn shard(&self, hash: u64) -> &Mutex<HashMap<u64, Bucket>> {
        &self.shards[(hash % SHARDS as u64) as usize]
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty()) && lock(&self.due).is_empty()
    }
}

impl Bucket {
    fn add(&mut self, handle: &Arc<ConnectionHandle>) {
        let id = handle.connection_id;
        match self {
            Self::One(one) => {
                let both = [(one.connection_id, Arc::clone(one)), (id, Arc::clone(handle))];
                *self = Self::Many(Box::new(both.into_iter().collect()));
            }
            Self::Many(handles) => drop(handles.insert(id, Arc::clone(handle))),
        }
    }

    /// Whether nobody is left.
    fn remove(&mut self, connection_id: u64) -> bool {
        match self {
            Self::One(one) => one.connection_id == connection_id,
            Self::Many(handles) => {
                handles.remove(&connection_id);
                handles.is_empty()
            }
        }
    }
}

impl ConnectionHandle {
    /// Everything this connection depends on.
    fn each_mark(&self, mut take: impl FnMut(Mark<'_>)) {
        take(Mark::Listener(&self.listener));
        if let Some(server) = self.server_certificate {
            take(Mark::Server(server));
        }
        let Some(certificate) = &self.certificate else { return };
        take(Mark::Certificate(certificate.leaf.certificate_fingerprint));
        if let Some(anchor) = self.anchor() {
            take(Mark::Anchor(anchor));
        }
        let mut take_issued = |facts: &CertificateFacts| {
            let (issuer, serial) = (NameKey::of(&facts.issuer.raw), facts.serial.as_slice());
            take(Mark::Issuer(issuer));
            take(Mark::Issued { issuer, serial });
        };
        take_issued(&certificate.leaf);
        for intermediate in &certificate.intermediates {
            // One that cannot be read is on nobody's path.
            if let Ok(facts) = CertificateFacts::parse(intermediate) {
                take_issued(&facts);
            }
        }
    }

    fn has(&self, wanted: Mark<'_>) -> bool {
        match wanted {
            Mark::Certificate(id) => self.certificate_fingerprint == Some(id),
            Mark::Anchor(id) => self.anchor() == Some(id),
            Mark::Listener(name) => &*self.listener == name,
            Mark::Server(id) => self.server_certificate == Some(id),
            Mark::Issuer(_) | Mark::Issued { .. } => {
                let mut found = false;
                self.each_mark(|mark| found |= mark == wanted);
                found
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Connections;
    use crate::testing::{TestCa, accepted};

    #[test]
    fn a_connection_is_found_by_all_it_depends_on_and_by_nothing_after_it_left() {
        let (ca, other) = (TestCa::new("a"), TestCa::new("b"));
        let connections = Connections::default();
        let mut handles = Vec::new();
        for id in 1..=3 {
            let device = ca.device(&format!("device-{id}"));
            let handle = Arc::new(ConnectionHandle::new(&accepted(id, "main", Some(device.proved(&ca)))));
            connections.enter(Arc::clone(&handle));
            handles.push((device, handle));
        }
        let plain = Arc::new(ConnectionHandle::new(&accepted(9, "plain", None)));
        connections.enter(Arc::clone(&plain));

        let ids = |mark: Mark<'_>| -> Vec<u64> {
            let mut ids: Vec<_> = connections.find(mark).iter().map(|handle| handle.connection_id).collect();
            ids.sort_unstable();
            ids
        };
        let facts = handles[1].0.facts();
        assert_eq!(ids(Mark::Anchor(ca.id())), [1, 2, 3]);
        assert_eq!(ids(Mark::Anchor(other.id())), [0; 0]);
        assert_eq!(ids(Mark::Certificate(facts.certificate_fingerprint)), [2]);
        assert_eq!(ids(Mark::Issuer(NameKey::of(&facts.issuer.raw))), [1, 2, 3]);
        assert_eq!(ids(Mark::Issued { issuer: NameKey::of(&facts.issuer.raw), serial: &facts.serial }), [2]);
        // The same name, written as another string type: UTF8String and PrintableString.
        let position = facts.issuer.raw.iter().rposition(|byte| *byte == 0x0c).unwrap();
        let mut otherwise = facts.issuer.raw.clone();
        otherwise[position] = 0x13;
        assert_eq!(ids(Mark::Issued { issuer: NameKey::of(&otherwise), serial: &facts.serial }), [2]);
        assert_eq!(ids(Mark::Listener("main")), [1, 2, 3]);
        assert_eq!(ids(Mark::Listener("plain")), [9]);

        handles[0].1.set_anchor(other.id());
        connections.index.moved(&handles[0].1, ca.id(), other.id());
        assert_eq!(ids(Mark::Anchor(ca.id())), [2, 3]);
        assert_eq!(ids(Mark::Anchor(other.id())), [1]);

        for id in [1, 2, 3, 9] {
            connections.leave(id);
        }
        assert!(connections.index.is_empty());
    }

    #[test]
    fn who_is_due_comes_in_order_and_once() {
        let ca = TestCa::new("a");
        let connections = Connections::default();
        let device = ca.device("device");
        let mut due = Vec::new();
        for id in 1..=3 {
            let handle = Arc::new(ConnectionHandle::new(&accepted(id, "main", Some(device.proved(&ca)))));
            connections.enter(Arc::clone(&handle));
            connections.set_due(&handle, Some(UnixSeconds(100 + id as i64)));
            due.push(handle);
        }
        assert_eq!(connections.next_due(), Some(UnixSeconds(101)));
        let ids: Vec<_> =
            connections.take_due(UnixSeconds(102)).iter().map(|handle| handle.connection_id).collect();
        assert_eq!(ids, [1, 2]);
        assert!(connections.take_due(UnixSeconds(102)).is_empty());
        // One that is looked at again later is due again.
        connections.set_due(&due[0], Some(UnixSeconds(110)));
        connections.leave(3);
        assert_eq!(connections.next_due(), Some(UnixSeconds(110)));
        connections.leave(1);
        connections.leave(2);
        assert!(connections.index.is_empty());
        // A connection that has left is not put back.
        connections.set_due(&due[0], Some(UnixSeconds(120)));
        assert_eq!(connections.next_due(), None);
    }
}
