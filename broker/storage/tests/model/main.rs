//! Random operations, connections, crashes and restarts: the rules over the real storage agree with a simple model
//! in memory, and nothing that was revoked is ever let in again.
//!
//! A run is made of its seed; `MQGATE_MODEL_SEED` and `MQGATE_MODEL_RUNS` repeat one or try more.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says where it fails")]

#[path = "../common/mod.rs"]
mod common;
mod simple;

use std::collections::{BTreeMap, BTreeSet};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::evaluation::PathPolicy;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{
    Force, KnownDevices, NewDevice, OnTombstone, RuleError, Transition, activate, activate_ca, add_ca,
    deactivate, deactivate_ca, delete, effective, end_supersession, lapse, purge, quarantine, register_new,
    reinstate, reject, release, revoke, revoke_ca, supersede,
};
use mqgate_identity::registry::{
    CaCertificate, CaState, DeviceCertificate, DeviceQuery, DeviceState, EventKind, NewEvent, RecordWrite,
    RegistrationSource, RegistryChanges, RevocationReason, Storage, StorageError,
};
use mqgate_identity::time::UnixMillis;
use mqgate_storage::{FjallStorage, restore};

use crate::common::{copy_directory, open};
use crate::simple::{
    CERTIFICATES, Ca, DEVICES, Expected, HOUR, Known, Model, OVERLAP, Op, PENDING_TTL, Pki, START, pki,
};

/// Xorshift: enough to choose by, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % limit as u64) as usize
    }

    fn one_in(&mut self, limit: usize) -> bool {
        self.below(limit) == 0
    }
}

struct World<'a> {
    pki: &'a Pki,
    model: Model,
    storage: Option<FjallStorage>,
    folder: tempfile::TempDir,
    generation: usize,
    backup: Option<usize>,
    /// Whatever happens, these are never let in.
    ever_revoked: BTreeSet<usize>,
    events: u64,
    let_in: usize,
}

impl<'a> World<'a> {
    fn new(pki: &'a Pki) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder.path().join("0"));
        for (number, facts) in pki.cas.iter().enumerate() {
            let name = format!("ca-{number}");
            let mut ca = add_ca(facts, &name, None, "admin:x", START).unwrap().record().clone();
            ca.trust_domain = name;
            storage.put_ca_certificate(&ca, None).unwrap();
        }
        let model = Model { certificates: BTreeMap::new(), cas: [Ca::Active; 2], now: START.0 };
        Self {
            pki,
            model,
            storage: Some(storage),
            folder,
            generation: 0,
            backup: None,
            ever_revoked: BTreeSet::new(),
            events: 0,
            let_in: 0,
        }
    }

    fn storage(&self) -> &FjallStorage {
        self.storage.as_ref().unwrap()
    }

    fn id(&self, number: usize) -> CertificateFingerprint {
        self.pki.certificates[number].0.certificate_fingerprint
    }

    fn record(&self, number: usize) -> Option<DeviceCertificate> {
        self.storage().device_certificate(&self.id(number)).unwrap()
    }

    fn ca(&self, number: usize) -> CaCertificate {
        let id = self.pki.cas[number].certificate_fingerprint;
        self.storage().ca_certificates().unwrap().into_iter().find(|ca| ca.id == id).unwrap()
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(self.model.now)
    }

    /// As the broker does it: read, ask the rules, write if nothing changed meanwhile.
    fn perform(&self, number: usize, op: Op) -> Result<bool, String> {
        let (facts, _, _, ca_number) = &self.pki.certificates[number];
        let ca = self.ca(*ca_number);
        let before = self.record(number);
        let now = self.now();
        let there = || before.as_ref().ok_or("not found");
        let text = |error: RuleError| error.to_string();
        let mut siblings = Vec::new();
        let transition = match op {
            Op::Register { state, source, on_tombstone, device } => {
                let every = || DeviceQuery { states: DeviceState::ALL.to_vec(), ..DeviceQuery::default() };
                let key = hex::encode(facts.public_key.spki_sha256);
                let query = DeviceQuery { spki_sha256: Some(key), ..every() };
                let mut same_key = self.storage().query_device_certificates(&query).unwrap().records;
                same_key.retain(|other| other.id != facts.certificate_fingerprint);
                let query = DeviceQuery { serial: Some(hex::encode(&facts.serial)), ..every() };
                let same_serial = self.storage().query_device_certificates(&query).unwrap().records;
                let issuer_key = self.pki.cas[*ca_number].public_key.spki_sha256;
                let same_serial = same_serial.into_iter().find(|other| {
                    other.id != facts.certificate_fingerprint
                        && other.issuer_key_id == hex::encode(issuer_key)
                });
                let new = NewDevice {
                    facts,
                    ca_id: ca.id,
                    issuer_key,
                    device_id: format!("device-{device}"),
                    tenant: None,
                    tags: Vec::new(),
                    client_id: None,
                    attributes: BTreeMap::new(),
                    state,
                    source,
                    on_tombstone,
                    pending_ttl_millis: PENDING_TTL,
                };
                let known = KnownDevices {
                    existing: before.as_ref(),
                    ca: Some(&ca),
                    same_key: &same_key,
                    // What the storage refuses by itself is left to it, half of the time.
                    same_serial: same_serial.filter(|_| device % 2 == 0).map(|other| other.id),
                };
                register_new(new, &known, now)
            }
            Op::Activate => activate(there()?, Some(&ca), now),
            Op::Deactivate => deactivate(there()?, now),
            Op::Reject => reject(there()?, now),
            Op::Revoke(reason) => {
                let record = there()?;
                if reason.is_compromise() {
                    let key = Some(record.spki_sha256.clone());
                    let query = DeviceQuery { spki_sha256: key, ..DeviceQuery::default() };
                    siblings = self.storage().query_device_certificates(&query).unwrap().records;
                    siblings.retain(|other| other.id != record.id);
                }
                revoke(record, reason, Some(&ca), now)
            }
            Op::Delete(force) => delete(there()?, force, now),
            Op::Lapse => return self.remove(there()?, lapse(there()?, now)),
            Op::Purge => return self.remove(there()?, purge(there()?, now)),
            Op::Supersede(by) => {
                let by = self.record(by).ok_or("no successor")?;
                supersede(there()?, &by, OVERLAP, now)
            }
            Op::EndOverlap => end_supersession(there()?, now),
            Op::Reinstate => reinstate(there()?, Some(&ca), now),
            Op::Quarantine => quarantine(there()?, "a clone", now),
            Op::Release => release(there()?, now),
        };
        let Transition::Write(write) = transition.map_err(text)? else { return Ok(false) };
        let mut changes = RegistryChanges::default();
        let mut add = |from: Option<DeviceState>, record: DeviceCertificate, expected| {
            changes.events.push(NewEvent::device(EventKind::CertChanged, from, &record, "admin:x", now));
            changes.writes.push(RecordWrite::Device { record: Box::new(record), expected });
        };
        if let (Op::Revoke(reason), false) = (op, siblings.is_empty()) {
            for sibling in siblings {
                if let Ok(Transition::Write(write)) = revoke(&sibling, reason, Some(&ca), now) {
                    add(Some(sibling.state), write.record, write.expected);
                }
            }
        }
        add(before.map(|before| before.state), write.record, write.expected);
        self.storage().commit(&changes).map(|_| true).map_err(|error| match error {
            StorageError::Unavailable(_) | StorageError::Corrupt(_) => panic!("{error}"),
            error => error.to_string(),
        })
    }

    fn remove(&self, record: &DeviceCertificate, allowed: Result<(), RuleError>) -> Result<bool, String> {
        allowed.map_err(|error| error.to_string())?;
        let event = NewEvent::device(EventKind::CertLapsed, None, record, "system", self.now());
        let write = RecordWrite::RemoveDevice { id: record.id, expected: record.revision };
        self.storage().commit(&RegistryChanges { writes: vec![write], events: vec![event] }).unwrap();
        Ok(true)
    }

    fn operate(&mut self, number: usize, op: Op) {
        let before = self.model.certificates.clone();
        let siblings: Vec<_> = match op {
            Op::Revoke(reason) if reason.is_compromise() => before
                .keys()
                .copied()
                .filter(|other| {
                    *other != number && self.pki.certificates[*other].1 == self.pki.certificates[number].1
                })
                .collect(),
            _ => Vec::new(),
        };
        let done = self.perform(number, op);
        let expected = self.model.apply(self.pki, number, op);
        let found = match &done {
            Ok(true) => Expected::Changed,
            Ok(false) => Expected::Unchanged,
            Err(_) => Expected::Refused,
        };
        assert_eq!(found, expected, "{op:?} of {number}: {done:?}; it was {:?}", before.get(&number));
        if expected == Expected::Changed {
            self.events += 1;
            for sibling in siblings {
                // Tombstones are left out of the question, and have no other answer.
                if before[&sibling].state != DeviceState::Tombstone
                    && self.model.apply(self.pki, sibling, op) == Expected::Changed
                {
                    self.events += 1;
                }
            }
        }
        let revoked = self.model.certificates.iter().filter(|(_, known)| known.revoked);
        self.ever_revoked.extend(revoked.map(|(number, _)| *number));
    }

    /// A client comes with a certificate, and registers itself if nobody knows it.
    fn connect(&mut self, number: usize, hold: bool) {
        let state = if hold { DeviceState::PendingActivation } else { DeviceState::Active };
        if self.record(number).is_none() {
            let device = number % DEVICES;
            let source = RegistrationSource::Jit;
            self.operate(number, Op::Register { state, source, on_tombstone: OnTombstone::Refuse, device });
        }
        let ca = self.ca(self.pki.certificates[number].3);
        let verdict = match self.record(number) {
            Some(record) => {
                effective(&record, Some(&ca), &PathPolicy::default(), self.now()).map_err(Reason::as_str)
            }
            None => Err("cert_not_registered"),
        };
        let expected = self.model.may_connect(self.pki, number);
        assert_eq!(verdict.is_ok(), expected, "{number}: {verdict:?}");
        assert!(
            verdict.is_err() || !self.ever_revoked.contains(&number),
            "{number} was revoked and is let in"
        );
        if verdict.is_ok() {
            self.let_in += 1;
            let seen = [(self.id(number), self.now())];
            self.storage().touch_device_certificates(&seen).unwrap();
            assert_eq!(self.record(number).unwrap().last_seen, Some(self.now()));
        }
    }

    fn change_ca(&mut self, number: usize, to: Ca) {
        let ca = self.ca(number);
        let now = self.now();
        let result = match to {
            Ca::Active => activate_ca(&ca, now),
            Ca::Inactive => deactivate_ca(&ca, None, now),
            Ca::Revoked => revoke_ca(&ca, RevocationReason::CaCompromise, now),
        };
        match result {
            Ok(Transition::Write(write)) => {
                self.storage().put_ca_certificate(&write.record, write.expected).unwrap();
                self.model.cas[number] = to;
            }
            Ok(Transition::Unchanged(_)) => assert_eq!(self.model.cas[number], to),
            Err(_) => assert_eq!(self.model.cas[number], Ca::Revoked),
        }
        let state = self.ca(number).state;
        assert_eq!(self.model.cas[number] == Ca::Revoked, state == CaState::Revoked);
    }

    /// The process ends properly, or its files are found as they were at some moment after the last answer.
    fn restart(&mut self, crash: bool) {
        let path = self.folder.path().join(self.generation.to_string());
        if crash {
            let next = self.folder.path().join((self.generation + 1).to_string());
            copy_directory(&path, &next);
            self.storage = None;
            std::fs::remove_dir_all(&path).unwrap();
            self.generation += 1;
            self.storage = Some(open(&next));
        } else {
            self.storage = None;
            self.storage = Some(open(&path));
        }
    }

    fn back_up(&mut self) {
        let from = self.folder.path().join(self.generation.to_string());
        let to = self.folder.path().join("backup");
        if to.exists() {
            std::fs::remove_dir_all(&to).unwrap();
        }
        copy_directory(&from, &to);
        self.backup = Some(self.generation);
    }

    /// Puts a backup back. What it brings is taken from the storage; what must not be is held against it.
    fn restore(&mut self) {
        if self.backup.is_none() {
            return;
        }
        let backup = open(&self.folder.path().join("backup"));
        let before = self.model.certificates.clone();
        restore(self.storage(), &backup, "admin:x", self.now()).unwrap();
        self.events = self.storage().events(u64::MAX, 0).unwrap().newest;
        for number in 0..CERTIFICATES {
            let Some(record) = self.record(number) else {
                assert!(!before.contains_key(&number), "{number} is gone");
                continue;
            };
            let of_backup = backup.device_certificate(&record.id).unwrap();
            let was = before.get(&number);
            // Whoever has a key that the backup knows to be compromised, too.
            let has_bad_key = record.state != DeviceState::Tombstone
                && (0..CERTIFICATES).any(|other| {
                    let is_same = self.pki.certificates[other].1 == self.pki.certificates[number].1;
                    let of_backup = is_same.then(|| backup.device_certificate(&self.id(other)).unwrap());
                    of_backup.flatten().is_some_and(|known| known.is_key_compromised())
                });
            let must_be = was.is_some_and(|known| known.revoked)
                || of_backup.as_ref().is_some_and(DeviceCertificate::is_revoked)
                || has_bad_key;
            assert_eq!(record.is_revoked(), must_be, "{number}: {was:?} {of_backup:?}");
            if was.is_some_and(|known| known.state == DeviceState::Tombstone) && !must_be {
                assert_eq!(record.state, DeviceState::Tombstone);
            }
            let known = Known {
                state: record.state,
                device: record.device_id.rsplit('-').next().unwrap().parse().unwrap(),
                revision: record.revision,
                held: record.revocation_reason.as_deref() == Some("certificateHold"),
                rejected: record.revocation_reason.as_deref() == Some("rejected"),
                revoked: record.is_revoked(),
                compromised: record.is_key_compromised(),
                quarantined: record.quarantined.is_some(),
                pending_until: record.pending_until.map_or(0, |until| until.0),
                superseded_until: record.superseded.map(|superseded| superseded.ends_at.0),
            };
            if known.revoked {
                self.ever_revoked.insert(number);
            }
            self.model.certificates.insert(number, known);
        }
    }

    /// Everything that is stored is what the model has, by whatever way it is looked for.
    fn compare(&self) {
        let storage = self.storage();
        let mut counts = BTreeMap::new();
        for number in 0..CERTIFICATES {
            let (record, known) = (self.record(number), self.model.certificates.get(&number));
            let stored = record.as_ref().map(|record| {
                let superseded = record.superseded.map(|superseded| superseded.ends_at.0);
                (record.state, record.revision, record.is_revoked(), record.is_key_compromised(), superseded)
            });
            let wanted = known.map(|known| {
                (known.state, known.revision, known.revoked, known.compromised, known.superseded_until)
            });
            assert_eq!(stored, wanted, "{number}");
            if let Some(record) = &record {
                *counts.entry((record.ca_id, record.state)).or_insert(0) += 1;
            }
        }
        assert_eq!(storage.device_certificate_counts().unwrap(), counts);
        for state in DeviceState::ALL {
            let query = DeviceQuery { states: vec![state], ..DeviceQuery::default() };
            let found = storage.query_device_certificates(&query).unwrap().records.len();
            let wanted = self.model.certificates.values().filter(|known| known.state == state).count();
            assert_eq!(found, wanted, "{state:?}");
        }
        let page = storage.events(0, usize::MAX).unwrap();
        assert_eq!((page.newest, page.events.len() as u64), (self.events, self.events), "one event for each");
    }
}

fn run(pki: &Pki, seed: u64, steps: usize) -> usize {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World::new(pki);
    for _ in 0..steps {
        let number = dice.below(CERTIFICATES);
        let device = if dice.one_in(10) { dice.below(DEVICES) } else { number % DEVICES };
        let reasons = RevocationReason::ALL;
        match dice.below(40) {
            0..4 => {
                let states = [
                    DeviceState::Active,
                    DeviceState::Inactive,
                    DeviceState::PendingActivation,
                    DeviceState::Revoked,
                ];
                // Revoked from the start is rare, or soon nothing else is left.
                let among = if dice.one_in(8) { 4 } else { 3 };
                let state = states[dice.below(among)];
                let on_tombstone = if dice.one_in(2) { OnTombstone::Restore } else { OnTombstone::Refuse };
                let source = RegistrationSource::Api;
                world.operate(number, Op::Register { state, source, on_tombstone, device });
            }
            4..8 => world.operate(number, Op::Activate),
            8..10 => world.operate(number, Op::Deactivate),
            10 => world.operate(number, Op::Reject),
            11 => world.operate(number, Op::Revoke(reasons[dice.below(reasons.len())])),
            12 => world.operate(number, Op::Revoke(RevocationReason::CertificateHold)),
            13 => world.operate(number, Op::Revoke(RevocationReason::RemoveFromCrl)),
            14 => world.operate(number, Op::Delete(if dice.one_in(2) { Force::Yes } else { Force::No })),
            15 => world.operate(number, Op::Lapse),
            16 => world.operate(number, Op::Purge),
            17..20 => {
                let by = dice.below(CERTIFICATES);
                world.operate(number, Op::Supersede(by));
            }
            20 => world.operate(number, Op::EndOverlap),
            21 => world.operate(number, Op::Reinstate),
            22 => world.operate(number, Op::Quarantine),
            23 => world.operate(number, Op::Release),
            24 => {
                let to = [Ca::Active, Ca::Active, Ca::Inactive][dice.below(3)];
                world.change_ca(dice.below(2), to);
            }
            25 if dice.one_in(20) => world.change_ca(dice.below(2), Ca::Revoked),
            26 => {
                let hours = if dice.one_in(4) { 48 } else { 3 };
                world.model.now += dice.below(hours * HOUR as usize) as u64;
            }
            27 if dice.one_in(6) => world.restart(dice.one_in(2)),
            28 if dice.one_in(6) => world.back_up(),
            29 if dice.one_in(6) => world.restore(),
            30 => world.compare(),
            _ => {
                let hold = dice.one_in(3);
                world.connect(number, hold);
            }
        }
    }
    world.restart(true);
    world.compare();
    for number in 0..CERTIFICATES {
        world.connect(number, false);
    }
    world.let_in
}

fn runs(count: u64, steps: usize) {
    let pki = pki();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("MQGATE_MODEL_SEED");
    let count = number("MQGATE_MODEL_RUNS").unwrap_or(if first.is_some() { 1 } else { count });
    let first = first.unwrap_or(1);
    let mut let_in = 0;
    for seed in first..first + count {
        // Seen only if the run fails.
        eprintln!("MQGATE_MODEL_SEED={seed}");
        let_in += run(&pki, seed, steps);
    }
    assert!(let_in as u64 > 5 * count, "{let_in} connections: the test has to let some in");
}

#[test]
fn the_registry_does_what_a_simple_model_says() {
    runs(3, 250);
}

#[test]
#[ignore = "full: a hundred long runs"]
fn the_registry_does_what_a_simple_model_says_at_length() {
    runs(100, 1_500);
}
