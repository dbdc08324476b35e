//! Queries by every index against what reading every record comes to; what must be unique; the outbox; restoring.

#![allow(clippy::unwrap_used, reason = "a test says where it fails")]

mod common;

use std::collections::BTreeSet;

use mqgate_identity::evaluation::PathPolicy;
use mqgate_identity::registry::{
    CaState, Condition, Cursor, DeviceCertificate, DeviceQuery, DeviceState, Effective, EffectiveFilter,
    EventKind, MAX_SCANNED, NewEvent, QueryIndex, RecordWrite, RegistrationSource, RegistryChanges, Span,
    Storage, StorageError,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use mqgate_storage::{FjallStorage, RestoreReport, StorageOptions, restore};

use crate::common::{ca, device, fresh, id, open};

/// Records that differ in everything that can be asked for.
fn sample(number: u64) -> DeviceCertificate {
    let state = DeviceState::ALL[(number % 5) as usize];
    DeviceCertificate {
        ca_id: id(1000 + number % 3),
        client_id: number.is_multiple_of(4).then(|| format!("client-{}", number % 8)),
        common_name: (!number.is_multiple_of(7)).then(|| format!("cn-{}", number % 6)),
        organizational_units: (0..number % 3).map(|unit| format!("unit-{unit}")).collect(),
        subject_alt_names: vec![format!("dns:host-{}.example", number % 9), format!("uri:urn:Dev:{number}")],
        tags: number.is_multiple_of(2).then(|| "even".to_owned()).into_iter().collect(),
        tenant: (number % 5 == 1).then(|| "acme".to_owned()),
        source: RegistrationSource::ALL[(number % 3) as usize],
        not_after: UnixSeconds(1_000_000 * (number % 11) as i64 - 2_000_000),
        last_seen: number.is_multiple_of(3).then_some(UnixMillis(1000 * number)),
        spki_sha256: format!("{:064x}", number / 2),
        serial: format!("{:x}", number / 3),
        issuer_key_id: format!("{:064x}", number % 3),
        revocation_reason: (state == DeviceState::Revoked).then(|| "superseded".to_owned()),
        ..device(number, &format!("device-{}", number % 10), state, 1)
    }
}

const COUNT: u64 = 330;

fn filled() -> (tempfile::TempDir, FjallStorage) {
    let (directory, path) = fresh();
    let storage = open(&path);
    let writes = (0..COUNT)
        .map(|number| RecordWrite::Device { record: Box::new(sample(number)), expected: None })
        .collect();
    storage.commit(&RegistryChanges { writes, events: Vec::new() }).unwrap();
    (directory, storage)
}

/// Every page of a query.
fn all(storage: &FjallStorage, query: &DeviceQuery, limit: usize) -> (Vec<DeviceCertificate>, QueryIndex) {
    let mut query = DeviceQuery { limit, ..query.clone() };
    let mut records = Vec::new();
    loop {
        let page = storage.query_device_certificates(&query).unwrap();
        assert!(page.records.len() <= limit);
        records.extend(page.records);
        match page.next {
            // As it comes back from a client.
            Some(next) => query.cursor = Cursor::parse(&next.to_string()),
            None => return (records, page.index),
        }
    }
}

#[test]
fn whether_a_client_id_may_be_bound_is_known_without_looking() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let store = |number: u64, client_id: Option<&str>| {
        let record = device(number, "d", DeviceState::Active, 1);
        let record = DeviceCertificate { client_id: client_id.map(Into::into), ..record };
        let writes = vec![RecordWrite::Device { record: Box::new(record), expected: None }];
        storage.commit(&RegistryChanges { writes, events: Vec::new() }).unwrap();
    };
    store(1, None);
    assert!(!storage.may_bind_client_ids(), "none is");
    store(2, Some("c"));
    assert!(storage.may_bind_client_ids());
    drop(storage);
    assert!(open(&path).may_bind_client_ids(), "it is on the disk");
}

fn queries() -> Vec<(DeviceQuery, QueryIndex)> {
    let plain = DeviceQuery::default;
    let filter = |wanted| EffectiveFilter {
        wanted,
        cas: vec![ca(1000, "one", 1), ca(1001, "two", 1)],
        policy: PathPolicy::default(),
        now: UnixMillis(1_500_000_000),
    };
    vec![
        (plain(), QueryIndex::Id),
        (DeviceQuery { states: vec![DeviceState::Tombstone], ..plain() }, QueryIndex::State),
        (
            DeviceQuery { states: vec![DeviceState::Revoked, DeviceState::Active], ..plain() },
            QueryIndex::State,
        ),
        (DeviceQuery { ca: Some(id(1001)), ..plain() }, QueryIndex::CaState),
        (
            DeviceQuery { ca: Some(id(1001)), states: vec![DeviceState::PendingActivation], ..plain() },
            QueryIndex::CaState,
        ),
        (DeviceQuery { ca: Some(id(5)), ..plain() }, QueryIndex::CaState),
        (DeviceQuery { common_name: Some("cn-3".into()), ..plain() }, QueryIndex::CommonName),
        (DeviceQuery { common_name: Some("CN-3".into()), ..plain() }, QueryIndex::CommonName),
        (DeviceQuery { san: Some("dns:HOST-4.example".into()), ..plain() }, QueryIndex::San),
        (DeviceQuery { san: Some("host-4.example".into()), ..plain() }, QueryIndex::San),
        (DeviceQuery { san: Some("urn:Dev:41".into()), ..plain() }, QueryIndex::San),
        (DeviceQuery { san: Some("urn:dev:41".into()), ..plain() }, QueryIndex::San),
        (
            DeviceQuery { organizational_unit: Some("unit-1".into()), ..plain() },
            QueryIndex::OrganizationalUnit,
        ),
        (DeviceQuery { device_id: Some("device-4".into()), ..plain() }, QueryIndex::Device),
        (DeviceQuery { device_id: Some("device-4\0".into()), ..plain() }, QueryIndex::Id),
        (DeviceQuery { client_id: Some("client-4".into()), ..plain() }, QueryIndex::ClientId),
        (DeviceQuery { serial: Some("00:1F".into()), ..plain() }, QueryIndex::Serial),
        (DeviceQuery { spki_sha256: Some(format!("{:064X}", 31)), ..plain() }, QueryIndex::Spki),
        (DeviceQuery { tag: Some("even".into()), ..plain() }, QueryIndex::Tag),
        (DeviceQuery { tenant: Some("acme".into()), ..plain() }, QueryIndex::Id),
        (DeviceQuery { source: Some(RegistrationSource::Import), ..plain() }, QueryIndex::Id),
        (
            DeviceQuery {
                not_after: Span { from: Some(UnixSeconds(-1_000_000)), until: Some(UnixSeconds(1_000_000)) },
                ..plain()
            },
            QueryIndex::NotAfter,
        ),
        (
            DeviceQuery { not_after: Span { from: None, until: Some(UnixSeconds(0)) }, ..plain() },
            QueryIndex::NotAfter,
        ),
        (
            DeviceQuery {
                not_after: Span { from: Some(UnixSeconds(9)), until: Some(UnixSeconds(3)) },
                ..plain()
            },
            QueryIndex::NotAfter,
        ),
        (
            DeviceQuery { last_seen: Span { from: Some(UnixMillis(30_000)), until: None }, ..plain() },
            QueryIndex::LastSeen,
        ),
        (DeviceQuery { effective: Some(filter(Effective::Ok)), ..plain() }, QueryIndex::Id),
        (DeviceQuery { effective: Some(filter(Effective::Barred)), ..plain() }, QueryIndex::Id),
        (
            DeviceQuery {
                effective: Some(filter(Effective::Condition(Condition::CaMissing))),
                states: vec![DeviceState::Active],
                ..plain()
            },
            QueryIndex::State,
        ),
        // The fewest keys win, whatever else is asked.
        (
            DeviceQuery {
                tag: Some("even".into()),
                ca: Some(id(1000)),
                serial: Some("14".into()),
                ..plain()
            },
            QueryIndex::Serial,
        ),
        (
            DeviceQuery {
                organizational_unit: Some("unit-0".into()),
                ca: Some(id(1000)),
                states: vec![DeviceState::Active],
                ..plain()
            },
            QueryIndex::CaState,
        ),
    ]
}

#[test]
fn every_query_finds_what_reading_every_record_finds() {
    let (_directory, storage) = filled();
    let everything = storage.device_certificates(None, usize::MAX).unwrap();
    assert_eq!(everything.len() as u64, COUNT);
    let mut found_something = 0;
    for (query, expected) in queries() {
        let wanted: BTreeSet<_> =
            everything.iter().filter(|record| query.is_for(record)).map(|record| record.id).collect();
        found_something += usize::from(!wanted.is_empty());
        for limit in [1, 7, 1000] {
            let (records, index) = all(&storage, &query, limit);
            let found: BTreeSet<_> = records.iter().map(|record| record.id).collect();
            assert_eq!(found.len(), records.len(), "twice: {query:?}");
            assert_eq!(found, wanted, "{query:?}");
            assert_eq!(index, expected, "{query:?}");
            let full = everything.iter().filter(|record| found.contains(&record.id));
            assert!(full.clone().all(|record| records.contains(record)), "whole records: {query:?}");
        }
    }
    assert!(found_something > 22, "{found_something} queries that find something");
    // By time, where time is the index.
    let soon =
        DeviceQuery { not_after: Span { from: Some(UnixSeconds(0)), until: None }, ..DeviceQuery::default() };
    let (records, _) = all(&storage, &soon, 10);
    assert!(records.is_sorted_by_key(|record| record.not_after));
}

#[test]
fn indexes_follow_every_change() {
    let (_directory, storage) = filled();
    let (mut number, mut removed) = (0, 0);
    for record in storage.device_certificates(None, usize::MAX).unwrap() {
        number += 1;
        match number % 4 {
            0 => {
                let write = RecordWrite::RemoveDevice { id: record.id, expected: 1 };
                storage.commit(&RegistryChanges::write(write)).unwrap();
                removed += 1;
            }
            1 => {
                let next = DeviceCertificate {
                    revision: 2,
                    state: DeviceState::Revoked,
                    revocation_reason: Some("superseded".into()),
                    device_id: format!("moved-{}", number % 3),
                    client_id: Some("client-4".into()),
                    common_name: Some("cn-3".into()),
                    tags: vec!["even".into(), "new".into()],
                    ca_id: id(1001),
                    last_seen: Some(UnixMillis(40_000 + number)),
                    ..record
                };
                storage.put_device_certificate(&next, Some(1)).unwrap();
            }
            2 => {
                let seen = [(record.id, UnixMillis(70_000 + number)), (id(999_999), UnixMillis(1))];
                storage.touch_device_certificates(&seen).unwrap();
                storage.touch_device_certificates(&[(record.id, UnixMillis(3))]).unwrap();
                let read = storage.device_certificate(&record.id).unwrap().unwrap();
                let later = record.last_seen.max(Some(UnixMillis(70_000 + number)));
                assert_eq!((read.last_seen, read.revision), (later, 1), "seen is no new revision");
            }
            _ => {}
        }
    }
    let everything = storage.device_certificates(None, usize::MAX).unwrap();
    assert_eq!(everything.len(), COUNT as usize - removed);
    assert_eq!(storage.device_certificate(&id(999_999)).unwrap(), None);
    for (query, _) in queries() {
        let wanted: BTreeSet<_> =
            everything.iter().filter(|record| query.is_for(record)).map(|record| record.id).collect();
        let (records, _) = all(&storage, &query, 50);
        let found: BTreeSet<_> = records.iter().map(|record| record.id).collect();
        assert_eq!(found, wanted, "{query:?}");
    }
    let mut counted = std::collections::BTreeMap::new();
    for record in &everything {
        *counted.entry((record.ca_id, record.state)).or_insert(0) += 1;
    }
    assert_eq!(storage.device_certificate_counts().unwrap(), counted);
    let ids: BTreeSet<_> = everything.iter().map(|record| record.device_id.clone()).collect();
    let (mut listed, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = storage.device_ids(after.as_deref(), 3).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        listed.extend(page);
    }
    assert_eq!(listed, ids.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_cursor_of_something_else_is_refused() {
    let (_directory, storage) = filled();
    let by_tag = DeviceQuery { tag: Some("even".into()), limit: 3, ..DeviceQuery::default() };
    let next = storage.query_device_certificates(&by_tag).unwrap().next.unwrap();
    for (query, cursor) in [
        (DeviceQuery { tag: Some("odd".into()), ..by_tag.clone() }, next.clone()),
        (DeviceQuery::default(), next.clone()),
        (by_tag.clone(), Cursor::new(Vec::new())),
        (by_tag.clone(), Cursor::new(vec![next.as_bytes()[0]])),
        (by_tag.clone(), Cursor::new([next.as_bytes(), &[0xff; 64]].concat()[..20].to_vec())),
        (by_tag.clone(), Cursor::new(vec![0xff; 2000])),
    ] {
        let result = storage.query_device_certificates(&DeviceQuery { cursor: Some(cursor), ..query });
        match result {
            Err(StorageError::BadCursor) => {}
            // One cut short is still a place in the index.
            Ok(page) => assert!(page.records.iter().all(|record| record.tags == ["even"])),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(Cursor::parse("no hex"), None);
    assert_eq!(Cursor::parse(&"00".repeat(3000)), None);
}

#[test]
fn a_page_reads_so_many_records_and_no_more() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let count = MAX_SCANNED as u64 + 10;
    let writes = (0..count)
        .map(|number| {
            let mut record = device(number, "d", DeviceState::Active, 1);
            record.tenant = (number == count - 1).then(|| "last".to_owned());
            RecordWrite::Device { record: Box::new(record), expected: None }
        })
        .collect();
    storage.commit(&RegistryChanges { writes, events: Vec::new() }).unwrap();
    let query = DeviceQuery { tenant: Some("last".into()), ..DeviceQuery::default() };
    let first = storage.query_device_certificates(&query).unwrap();
    assert!(first.records.is_empty() && first.next.is_some(), "the limit of one page");
    let second = storage.query_device_certificates(&DeviceQuery { cursor: first.next, ..query }).unwrap();
    assert_eq!((second.records.len(), second.next), (1, None));
}

fn refused(result: Result<u64, StorageError>) -> String {
    match result.unwrap_err() {
        StorageError::DuplicateSerial { existing } => format!("serial {}", existing.0[7]),
        StorageError::KeyCompromised { existing } => format!("key {}", existing.0[7]),
        other => panic!("{other}"),
    }
}

#[test]
fn one_issuer_gives_a_serial_number_once() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let put = |record: &DeviceCertificate, expected| {
        storage.commit(&RegistryChanges::write(RecordWrite::Device {
            record: Box::new(record.clone()),
            expected,
        }))
    };
    let first = device(1, "a", DeviceState::Active, 1);
    let same = DeviceCertificate { serial: "0001".into(), ..device(2, "b", DeviceState::Active, 1) };
    put(&first, None).unwrap();
    assert_eq!(refused(put(&same, None)), "serial 1", "leading zeros do not make it another");
    assert_eq!(storage.device_certificate(&id(2)).unwrap(), None);
    let elsewhere = DeviceCertificate { issuer: "CN=other".into(), ..same.clone() };
    put(&elsewhere, None).unwrap();
    // A tombstone remembers it; what is forgotten does not.
    let gone = DeviceCertificate { state: DeviceState::Tombstone, revision: 2, ..first };
    put(&gone, Some(1)).unwrap();
    let third = DeviceCertificate { serial: "1".into(), ..device(3, "b", DeviceState::Active, 1) };
    assert_eq!(refused(put(&third, None)), "serial 1");
    storage.commit(&RegistryChanges::write(RecordWrite::RemoveDevice { id: id(1), expected: 2 })).unwrap();
    put(&third, None).unwrap();
    // Two of one step, too: neither is written.
    let twice = [4, 5].map(|number| RecordWrite::Device {
        record: Box::new(DeviceCertificate {
            serial: "77".into(),
            ..device(number, "c", DeviceState::Active, 1)
        }),
        expected: None,
    });
    let changes = RegistryChanges { writes: twice.to_vec(), events: Vec::new() };
    assert_eq!(refused(storage.commit(&changes)), "serial 4");
    assert_eq!(storage.device_certificate(&id(4)).unwrap(), None);
}

#[test]
fn a_compromised_key_does_not_come_back() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let put = |record: &DeviceCertificate, expected| {
        storage.commit(&RegistryChanges::write(RecordWrite::Device {
            record: Box::new(record.clone()),
            expected,
        }))
    };
    let key =
        |number, state| DeviceCertificate { spki_sha256: "ab".repeat(32), ..device(number, "a", state, 1) };
    let revoked = DeviceCertificate {
        revocation_reason: Some("keyCompromise".into()),
        revision: 2,
        ..key(1, DeviceState::Revoked)
    };
    put(&key(1, DeviceState::Active), None).unwrap();
    put(&key(2, DeviceState::Inactive), None).unwrap();
    put(&revoked, Some(1)).unwrap();
    for state in [DeviceState::Active, DeviceState::PendingActivation, DeviceState::Inactive] {
        assert_eq!(refused(put(&key(3, state), None)), "key 1", "{state:?}");
    }
    let upper = DeviceCertificate { spki_sha256: "AB".repeat(32), ..key(3, DeviceState::Active) };
    assert_eq!(refused(put(&upper, None)), "key 1");
    let activated = DeviceCertificate { revision: 2, ..key(2, DeviceState::Active) };
    assert_eq!(refused(put(&activated, Some(1))), "key 1");
    put(&DeviceCertificate { revision: 2, ..key(2, DeviceState::Revoked) }, Some(1)).unwrap();
    let buried = DeviceCertificate { state: DeviceState::Tombstone, revision: 3, ..revoked };
    put(&buried, Some(2)).unwrap();
    drop(storage);
    let storage = open(&path);
    let put = |record: &DeviceCertificate| {
        let write = RecordWrite::Device { record: Box::new(record.clone()), expected: None };
        storage.commit(&RegistryChanges::write(write))
    };
    assert_eq!(refused(put(&key(3, DeviceState::Active))), "key 1", "deleted, after a restart");
    storage.commit(&RegistryChanges::write(RecordWrite::RemoveDevice { id: id(1), expected: 3 })).unwrap();
    put(&key(3, DeviceState::Active)).unwrap();
}

fn event(number: u64) -> NewEvent {
    let record = device(number, "a", DeviceState::Active, 1);
    NewEvent::device(EventKind::CertRegistered, None, &record, "admin:x", UnixMillis(number))
}

#[test]
fn events_are_written_with_the_change_and_the_newest_are_kept() {
    let (_directory, path) = fresh();
    let options = StorageOptions { outbox_events: 10, ..StorageOptions::default() };
    let storage = FjallStorage::open(&path, options).unwrap();
    let page = storage.events(0, 100).unwrap();
    assert_eq!((page.events.len(), page.oldest, page.newest), (0, 1, 0));
    let put = |number, expected| {
        let record = Box::new(device(number, "a", DeviceState::Active, 1));
        let writes = vec![RecordWrite::Device { record, expected }];
        storage.commit(&RegistryChanges { writes, events: vec![event(number)] })
    };
    for number in 1..=25 {
        assert_eq!(put(number, None).unwrap(), number);
    }
    assert!(put(1, None).is_err());
    assert!(put(1, Some(9)).is_err());
    let page = storage.events(0, 100).unwrap();
    assert_eq!((page.oldest, page.newest), (16, 25), "what was refused has no event; ten are kept");
    let numbers: Vec<_> = page.events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (16..=25).collect::<Vec<_>>());
    let page = storage.events(20, 2).unwrap();
    assert_eq!(page.events.iter().map(|event| event.at.0).collect::<Vec<_>>(), [21, 22]);
    assert!(storage.events(25, 100).unwrap().events.is_empty());
    assert!(storage.events(u64::MAX, 100).unwrap().events.is_empty());
    // Events alone, as of what was only seen.
    let many = RegistryChanges { writes: Vec::new(), events: (30..35).map(event).collect() };
    assert_eq!(storage.commit(&many).unwrap(), 30);
    drop(storage);
    let storage = FjallStorage::open(&path, StorageOptions { outbox_events: 3, ..options }).unwrap();
    let page = storage.events(0, 100).unwrap();
    assert_eq!((page.oldest, page.newest, page.events.len()), (21, 30, 10));
    for _ in 0..3 {
        storage.commit(&RegistryChanges { writes: Vec::new(), events: vec![event(9)] }).unwrap();
    }
    let page = storage.events(0, 100).unwrap();
    assert_eq!((page.oldest, page.newest), (31, 33), "a lower limit is reached bit by bit");
}

#[test]
fn backup_restore_of_an_old_registry_undoes_no_revocation() {
    let (_directory, path) = fresh();
    let (_other, backup_path) = fresh();
    let (storage, backup) = (open(&path), open(&backup_path));
    let old =
        |number, state| DeviceCertificate { tenant: Some("old".into()), ..device(number, "a", state, 1) };
    for number in 1..=4 {
        let state = if number == 4 { DeviceState::Revoked } else { DeviceState::Active };
        backup.put_device_certificate(&old(number, state), None).unwrap();
    }
    backup.put_device_certificate(&device(5, "a", DeviceState::Active, 1), None).unwrap();
    let revoked_ca = mqgate_identity::registry::CaCertificate {
        state: CaState::Revoked,
        revocation_reason: Some("cACompromise".into()),
        ..ca(1000, "factory", 1)
    };
    backup.put_ca_certificate(&ca(1000, "factory", 1), None).unwrap();
    storage.put_ca_certificate(&revoked_ca, None).unwrap();
    // Since the backup: 1 was revoked, 2 deleted, 4 is active here by whatever way, 5 has its serial number taken.
    for (number, state) in [(1, DeviceState::Revoked), (2, DeviceState::Tombstone), (4, DeviceState::Active)]
    {
        let reason = (state == DeviceState::Revoked).then(|| "keyCompromise".to_owned());
        let record = DeviceCertificate { revocation_reason: reason, ..device(number, "a", state, 1) };
        storage.put_device_certificate(&record, None).unwrap();
    }
    let taken = DeviceCertificate { serial: "5".into(), ..device(6, "a", DeviceState::Active, 1) };
    storage.put_device_certificate(&taken, None).unwrap();

    let report = restore(&storage, &backup, "admin:x", UnixMillis(9)).unwrap();
    assert_eq!(report, RestoreReport { added: 1, changed: 1, kept: 3, refused: 1 });
    let state = |number| storage.device_certificate(&id(number)).unwrap().map(|record| record.state);
    assert_eq!(state(1), Some(DeviceState::Revoked));
    assert_eq!(state(2), Some(DeviceState::Tombstone));
    assert_eq!(state(3), Some(DeviceState::Active));
    assert_eq!(state(4), Some(DeviceState::Revoked), "what the backup knows of a revocation counts");
    assert_eq!(state(5), None);
    assert_eq!(storage.ca_certificates().unwrap()[0].state, CaState::Revoked);
    let kinds: Vec<_> =
        storage.events(0, 100).unwrap().events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["certs.registered", "certs.revoked"]);
    let again = restore(&storage, &backup, "admin:x", UnixMillis(10)).unwrap();
    assert_eq!((again.added, again.changed), (0, 0));
}

/// Edge case: the registry was lost, and devices registered themselves before the backup was put back.
#[test]
fn backup_restore_over_a_registry_that_was_lost_and_begun_anew() {
    let (_directory, path) = fresh();
    let (_other, backup_path) = fresh();
    let (storage, backup) = (open(&path), open(&backup_path));
    let old = |number, state, reason: Option<&str>| DeviceCertificate {
        revocation_reason: reason.map(str::to_owned),
        ..device(number, "a", state, 1)
    };
    let key = || "ab".repeat(32);
    for record in [
        old(1, DeviceState::Tombstone, None),
        DeviceCertificate { spki_sha256: key(), ..old(2, DeviceState::Revoked, Some("keyCompromise")) },
        old(3, DeviceState::Revoked, Some("superseded")),
        old(4, DeviceState::Tombstone, None),
    ] {
        backup.put_device_certificate(&record, None).unwrap();
    }
    // All of them came back since, and one with the key that is known to be compromised.
    let new = |number| DeviceCertificate {
        registered_at: UnixMillis(100),
        updated_at: UnixMillis(100),
        ..device(number, "a", DeviceState::Active, 1)
    };
    for record in [
        new(1),
        new(3),
        DeviceCertificate { source: RegistrationSource::Api, ..new(4) },
        DeviceCertificate { spki_sha256: key(), ..new(5) },
        new(6),
    ] {
        storage.put_device_certificate(&record, None).unwrap();
    }
    let report = restore(&storage, &backup, "admin:x", UnixMillis(200)).unwrap();
    assert_eq!(report, RestoreReport { added: 1, changed: 3, kept: 1, refused: 0 });
    let record = |number| storage.device_certificate(&id(number)).unwrap().unwrap();
    assert_eq!(record(1).state, DeviceState::Tombstone, "it registered itself past its tombstone");
    assert_eq!(record(3).state, DeviceState::Revoked);
    assert_eq!(record(4).state, DeviceState::Active, "an operator registered it");
    assert_eq!((record(5).state, record(5).is_key_compromised()), (DeviceState::Revoked, true));
    assert_eq!(record(6).state, DeviceState::Active);
    let another = DeviceCertificate { spki_sha256: key(), ..new(7) };
    let write = RecordWrite::Device { record: Box::new(another), expected: None };
    assert_eq!(refused(storage.commit(&RegistryChanges::write(write))), "key 2");
    let kinds: Vec<_> =
        storage.events(0, 100).unwrap().events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["certs.deleted", "certs.registered", "certs.revoked", "certs.revoked"]);
    let again = restore(&storage, &backup, "admin:x", UnixMillis(300)).unwrap();
    assert_eq!(again, RestoreReport { added: 0, changed: 0, kept: 4, refused: 0 });
}
