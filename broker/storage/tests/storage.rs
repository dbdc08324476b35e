//! The storage through its trait: compare-and-set, durability over `kill -9`, damage, quotas.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says where it fails")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mqgate_identity::registry::{
    DeviceCertificate, DeviceState, KvAnswer, KvEntry, KvError, KvOperation, KvQuota, KvRequest, Storage,
    StorageError,
};
use mqgate_identity::time::UnixMillis;
use mqgate_storage::{FjallStorage, StorageOptions};

use crate::common::{ca, copy_directory, device, fresh, id, open};

#[test]
fn records_are_compared_and_set() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let put = |record: &DeviceCertificate, expected| match storage.put_device_certificate(record, expected) {
        Ok(()) => "stored".to_owned(),
        Err(StorageError::Conflict { current }) => format!("conflict {current:?}"),
        Err(other) => panic!("{other}"),
    };
    let first = device(7, "a", DeviceState::Active, 1);
    let second = device(7, "a", DeviceState::Inactive, 2);
    assert_eq!(put(&second, Some(1)), "conflict None");
    assert_eq!(put(&device(7, "a", DeviceState::Active, 5), None), "conflict None");
    assert_eq!(put(&first, None), "stored");
    assert_eq!(put(&first, None), "conflict Some(1)");
    assert_eq!(put(&second, Some(1)), "stored");
    assert_eq!(put(&second, Some(1)), "conflict Some(2)");
    assert_eq!(put(&second, Some(2)), "conflict Some(2)");
    assert_eq!(storage.device_certificate(&id(7)).unwrap(), Some(second.clone()));
    assert_eq!(storage.device_certificate(&id(8)).unwrap(), None);

    storage.put_ca_certificate(&ca(1, "one", 1), None).unwrap();
    storage.put_ca_certificate(&ca(2, "two", 1), None).unwrap();
    assert!(matches!(
        storage.put_ca_certificate(&ca(1, "one", 1), None),
        Err(StorageError::Conflict { current: Some(1) })
    ));
    storage.put_ca_certificate(&ca(1, "uno", 2), Some(1)).unwrap();
    assert!(matches!(
        storage.remove_ca_certificate(&id(1), 1),
        Err(StorageError::Conflict { current: Some(2) })
    ));
    storage.remove_ca_certificate(&id(1), 2).unwrap();
    assert!(matches!(
        storage.remove_ca_certificate(&id(1), 2),
        Err(StorageError::Conflict { current: None })
    ));
    storage.put_setting("token", b"hash").unwrap();

    drop(storage);
    let storage = open(&path);
    assert_eq!(storage.device_certificate(&id(7)).unwrap(), Some(second));
    assert_eq!(storage.ca_certificates().unwrap(), [ca(2, "two", 1)]);
    assert_eq!(storage.setting("token").unwrap().as_deref(), Some(&b"hash"[..]));
    assert_eq!(storage.setting("toke").unwrap(), None);
}

#[test]
fn of_many_writers_one_wins() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    storage.put_device_certificate(&device(7, "a", DeviceState::Active, 1), None).unwrap();
    let next = device(7, "a", DeviceState::Inactive, 2);
    let winners = std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| storage.put_device_certificate(&next, Some(1)).is_ok())).collect();
        writers.into_iter().map(|writer| u32::from(writer.join().unwrap())).sum::<u32>()
    });
    assert_eq!(winners, 1);
    // Different records do not get in each other's way, and all count.
    std::thread::scope(|scope| {
        for number in 100..140 {
            let storage = &storage;
            scope.spawn(move || {
                storage.put_device_certificate(&device(number, "b", DeviceState::Active, 1), None).unwrap();
            });
        }
    });
    let counts = storage.device_certificate_counts().unwrap();
    assert_eq!(counts.get(&(id(1000), DeviceState::Active)), Some(&40));
    assert_eq!(storage.certificates_of_device("b").unwrap().len(), 40);
}

#[test]
fn pages_index_and_counts() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    for number in 1..=5 {
        let device_id = if number % 2 == 0 { "even" } else { "odd" };
        storage.put_device_certificate(&device(number, device_id, DeviceState::Active, 1), None).unwrap();
    }
    let page = |after: Option<u64>, limit| -> Vec<u64> {
        let records = storage.device_certificates(after.map(id).as_ref(), limit).unwrap();
        records.iter().map(|record| u64::from_be_bytes(record.id.0[..8].try_into().unwrap())).collect()
    };
    assert_eq!(page(None, 2), [1, 2]);
    assert_eq!(page(Some(2), 2), [3, 4]);
    assert_eq!(page(Some(4), 2), [5]);
    assert_eq!(page(Some(5), 2), [] as [u64; 0]);
    assert_eq!(page(None, 0), [] as [u64; 0]);
    let of = |device_id| storage.certificates_of_device(device_id).unwrap().len();
    assert_eq!((of("odd"), of("even"), of("od"), of("")), (3, 2, 0, 0));

    let mut moved = device(1, "even", DeviceState::Revoked, 2);
    moved.ca_id = id(2000);
    storage.put_device_certificate(&moved, Some(1)).unwrap();
    assert_eq!((of("odd"), of("even")), (2, 3));
    let counts = storage.device_certificate_counts().unwrap();
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [((id(1000), DeviceState::Active), 4), ((id(2000), DeviceState::Revoked), 1)]
    );
}

#[test]
fn the_directory_is_private_and_used_once() {
    let (_directory, path) = fresh();
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let storage = open(&path);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let error = FjallStorage::open(&path, StorageOptions::default()).err().unwrap().to_string();
    assert!(error.contains("is another mqgate running? data_dir = "), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    drop(storage);
    drop(open(&path));
    let file = path.join("lock");
    let error = FjallStorage::open(&file, StorageOptions::default()).err().unwrap().to_string();
    assert!(error.contains("data_dir"), "{error}");
}

// Durability: this test binary runs itself, is killed while it writes, and what it said was stored must be there.

const CHILD: &str = "MQGATE_STORAGE_TEST_CHILD";

#[test]
fn child_that_writes_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let storage = open(Path::new(&path));
    let start = storage.device_certificates(None, usize::MAX).unwrap().len() as u64;
    for number in start.. {
        storage.put_device_certificate(&device(number, "d", DeviceState::Active, 1), None).unwrap();
        let what = KvRequest::Add { key: "n", delta: 1, expires: None };
        storage.kv("p", KvOperation { now: UnixMillis(0), quota: QUOTA, what }).unwrap();
        println!("stored {number}");
    }
}

#[test]
fn what_was_stored_survives_kill_9() {
    let (_directory, path) = fresh();
    for round in 1..=3_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut stored = output.lines().map_while(Result::ok).filter_map(|line| {
            // The test harness's own text may stand before the first one.
            line.rsplit_once("stored ").and_then(|(_, number)| number.parse::<u64>().ok())
        });
        let last = stored.by_ref().take(40).last().unwrap();
        child.kill().unwrap();
        // What it said between the last line read and its end counts as well.
        let last = stored.last().unwrap_or(last);
        child.wait().unwrap();

        let storage = open(&path);
        let records = storage.device_certificates(None, usize::MAX).unwrap();
        assert!(records.len() as u64 > last, "round {round}: {} records, {last} said", records.len());
        let counts = storage.device_certificate_counts().unwrap();
        assert_eq!(counts.get(&(id(1000), DeviceState::Active)), Some(&(records.len() as u64)));
        assert_eq!(storage.certificates_of_device("d").unwrap().len(), records.len());
        let what = KvRequest::Get { key: "n" };
        let KvAnswer::Entry(Some(entry)) =
            storage.kv("p", KvOperation { now: UnixMillis(0), quota: QUOTA, what }).unwrap()
        else {
            panic!("the counter is gone")
        };
        let counter: u64 = String::from_utf8(entry.value).unwrap().parse().unwrap();
        // A record without its counter is what the kill may leave, once per round.
        let records = records.len() as u64;
        assert!(counter > last - (round - 1) && counter <= records, "{counter} {last} {records}");
    }
}

/// A plugin does not wait for the disk, and the disk has what it wrote all the same: soon, and when the storage closes.
#[test]
fn a_plugins_write_is_on_the_disk_without_another_one() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let add = |storage: &FjallStorage| {
        let what = KvRequest::Add { key: "n", delta: 1, expires: None };
        storage.kv("p", KvOperation { now: UnixMillis(0), quota: QUOTA, what }).unwrap();
    };
    // Says up to which write the disk is synchronised.
    let manifest = || std::fs::read(path.join("manifest")).unwrap();
    let before = manifest();
    add(&storage);
    let end = Instant::now() + Duration::from_secs(30);
    while manifest() == before {
        assert!(Instant::now() < end, "the write is not on the disk");
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = manifest();
    add(&storage);
    drop(storage);
    assert_ne!(manifest(), before, "closed without the last write");
}

/// Whatever is damaged, wherever: the storage says so, or everything is there. It never opens with less.
#[test]
fn damage_is_never_taken_for_absence() {
    let (directory, path) = fresh();
    let storage = open(&path);
    for number in 0..6 {
        storage.put_device_certificate(&device(number, "d", DeviceState::Active, 1), None).unwrap();
    }
    for number in 0..3 {
        storage.put_device_certificate(&device(number, "d", DeviceState::Revoked, 2), Some(1)).unwrap();
    }
    drop(storage);
    let intact = |storage: &FjallStorage| -> Result<bool, StorageError> {
        let states: Vec<_> =
            storage.device_certificates(None, 100)?.iter().map(|record| record.state).collect();
        let (revoked, active) = (DeviceState::Revoked, DeviceState::Active);
        Ok(states == [revoked, revoked, revoked, active, active, active]
            && storage.certificates_of_device("d")?.len() == 6
            && storage.device_certificate_counts()?.len() == 2)
    };
    let journal = std::fs::read_dir(path.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|file| file.extension().is_some_and(|extension| extension == "jnl"))
        .unwrap();
    let relative = journal.strip_prefix(&path).unwrap().to_owned();
    let original = std::fs::read(&journal).unwrap();
    let written = original.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let (mut noticed, mut harmless, mut by_manifest) = (0, 0, 0);
    let mut check = |name: &str, damaged: &[u8]| {
        let copy = directory.path().join("copy");
        copy_directory(&path, &copy);
        std::fs::write(copy.join(&relative), damaged).unwrap();
        match FjallStorage::open(&copy, StorageOptions::default()).and_then(|storage| intact(&storage)) {
            Ok(true) => harmless += 1,
            Ok(false) => panic!("{name}: opened with something missing"),
            Err(error) => {
                noticed += 1;
                by_manifest += u32::from(error.to_string().contains("writes are missing"));
            }
        }
        std::fs::remove_dir_all(&copy).unwrap();
    };
    for at in (0..written).step_by((written / 60).max(1)) {
        let mut damaged = original.clone();
        damaged[at] ^= 1 << (at % 8);
        check(&format!("bit flipped at {at}"), &damaged);
    }
    for at in (0..written).step_by((written / 10).max(1)) {
        check(&format!("cut at {at}"), &original[..at]);
    }
    // The engine itself would have opened these.
    assert!(by_manifest > 10, "{by_manifest} noticed by the manifest");
    assert!(noticed > 40, "{noticed} noticed, {harmless} harmless");

    for (name, text) in [("manifest", "is missing beside a database"), ("damaged", "the checksum is wrong")] {
        let copy = directory.path().join(name);
        copy_directory(&path, &copy);
        match name {
            "manifest" => std::fs::remove_file(copy.join("manifest")).unwrap(),
            _ => std::fs::write(copy.join("manifest"), [0; 8192]).unwrap(),
        }
        let error = FjallStorage::open(&copy, StorageOptions::default()).err().unwrap().to_string();
        assert!(error.contains(text), "{error}");
    }
    assert!(intact(&open(&path)).unwrap());
}

const QUOTA: KvQuota = KvQuota { bytes: 100, entries: 3, value_bytes: 50 };

struct Plugin<'a> {
    storage: &'a FjallStorage,
    name: &'a str,
    now: UnixMillis,
}

impl Plugin<'_> {
    fn run(&self, what: KvRequest<'_>) -> Result<KvAnswer, KvError> {
        self.storage.kv(self.name, KvOperation { now: self.now, quota: QUOTA, what })
    }

    fn at(&self, now: u64) -> Self {
        Plugin { now: UnixMillis(now), ..*self }
    }

    fn get(&self, key: &str) -> Option<KvEntry> {
        match self.run(KvRequest::Get { key }).unwrap() {
            KvAnswer::Entry(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    fn value(&self, key: &str) -> Option<String> {
        self.get(key).map(|entry| String::from_utf8(entry.value).unwrap())
    }

    fn set(&self, key: &str, value: &str, expires: Option<u64>) -> Result<KvAnswer, KvError> {
        self.run(KvRequest::Set { key, value: value.as_bytes(), expires: expires.map(UnixMillis) })
    }

    fn swap(&self, key: &str, expected: Option<u64>, value: &str) -> Result<KvAnswer, KvError> {
        self.run(KvRequest::Swap { key, expected, value: value.as_bytes(), expires: None })
    }

    fn add(&self, key: &str, delta: i64, expires: Option<u64>) -> Result<KvAnswer, KvError> {
        self.run(KvRequest::Add { key, delta, expires: expires.map(UnixMillis) })
    }

    fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> (Vec<String>, Option<String>) {
        match self.run(KvRequest::List { prefix, cursor, limit }).unwrap() {
            KvAnswer::Page { keys, cursor } => (keys, cursor),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn plugins_keep_values_within_their_quota() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let plugin = Plugin { storage: &storage, name: "acl", now: UnixMillis(10) };
    assert_eq!(plugin.get("a"), None);
    assert_eq!(plugin.set("a", "1", None), Ok(KvAnswer::Done));
    assert_eq!(plugin.value("a").as_deref(), Some("1"));
    // Another plugin sees nothing of it.
    assert_eq!(Plugin { name: "ac", ..plugin }.get("a"), None);
    assert_eq!(Plugin { name: "acl2", ..plugin }.list("", None, 10).0, [] as [&str; 0]);
    assert!(matches!(Plugin { name: "a\0b", ..plugin }.set("a", "1", None), Err(KvError::Unavailable(_))));

    // Entries, exactly at the limit.
    plugin.set("b", "1", None).unwrap();
    plugin.set("c", "1", None).unwrap();
    assert_eq!(plugin.set("d", "1", None), Err(KvError::QuotaExceeded));
    assert_eq!(plugin.set("c", "2", None), Ok(KvAnswer::Done));
    assert_eq!(plugin.run(KvRequest::Delete { key: "b" }), Ok(KvAnswer::Done));
    assert_eq!(plugin.run(KvRequest::Delete { key: "b" }), Ok(KvAnswer::Done));
    // Bytes of keys and values: 2 + 2 are used.
    let (fits, too_much) = ("x".repeat(47), "x".repeat(48));
    assert_eq!(plugin.set("a", &fits, None), Ok(KvAnswer::Done));
    assert_eq!(plugin.set("bbbb", &too_much, None), Err(KvError::QuotaExceeded));
    assert_eq!(plugin.set("bbb", &fits, None), Ok(KvAnswer::Done));
    assert_eq!(plugin.value("c").as_deref(), Some("2"));
    // Sizes.
    assert_eq!(plugin.set("c", &"x".repeat(51), None), Err(KvError::TooLarge));
    assert_eq!(plugin.set(&"k".repeat(513), "", None), Err(KvError::TooLarge));
    // It is all there after opening again, the accounts included.
    drop(storage);
    let storage = open(&path);
    let plugin = Plugin { storage: &storage, name: "acl", now: UnixMillis(10) };
    assert_eq!(plugin.list("", None, 10).0, ["a", "bbb", "c"]);
    assert_eq!(plugin.set("d", "", None), Err(KvError::QuotaExceeded));
}

#[test]
fn plugins_swap_and_count() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let plugin = Plugin { storage: &storage, name: "p", now: UnixMillis(10) };
    let Ok(KvAnswer::Version(first)) = plugin.swap("k", None, "a") else { panic!() };
    assert_eq!(plugin.swap("k", None, "b"), Err(KvError::Conflict));
    assert_eq!(plugin.swap("k", Some(first + 1), "b"), Err(KvError::Conflict));
    let Ok(KvAnswer::Version(second)) = plugin.swap("k", Some(first), "b") else { panic!() };
    assert_eq!(plugin.get("k"), Some(KvEntry { value: b"b".to_vec(), version: second }));
    // A version does not come back with a new entry of the same key.
    plugin.run(KvRequest::Delete { key: "k" }).unwrap();
    assert_eq!(plugin.swap("k", Some(second), "c"), Err(KvError::Conflict));
    plugin.set("k", "c", None).unwrap();
    assert!(plugin.get("k").unwrap().version > second);

    assert_eq!(plugin.add("n", 5, None), Ok(KvAnswer::Number(5)));
    assert_eq!(plugin.add("n", -7, None), Ok(KvAnswer::Number(-2)));
    assert_eq!(plugin.value("n").as_deref(), Some("-2"));
    assert_eq!(plugin.add("n", i64::MIN, None), Ok(KvAnswer::Number(i64::MIN)));
    assert!(matches!(plugin.add("k", 1, None), Err(KvError::Unavailable(_))));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| plugin.add("shared", 1, None).unwrap());
        }
    });
    assert_eq!(plugin.value("shared").as_deref(), Some("8"));
}

#[test]
fn entries_of_plugins_expire() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let plugin = Plugin { storage: &storage, name: "p", now: UnixMillis(10) };
    plugin.set("a", "1", Some(20)).unwrap();
    plugin.set("b", "1", Some(30)).unwrap();
    plugin.add("n", 1, Some(20)).unwrap();
    assert!(plugin.at(19).get("a").is_some());
    assert_eq!(plugin.at(20).get("a"), None);
    assert_eq!(plugin.at(20).list("", None, 10).0, ["b"]);
    // A counter's end does not move, and after it counting begins anew.
    assert_eq!(plugin.at(19).add("n", 1, Some(99)), Ok(KvAnswer::Number(2)));
    assert_eq!(plugin.at(20).add("n", 1, Some(40)), Ok(KvAnswer::Number(1)));
    // What has expired makes room.
    assert_eq!(plugin.at(19).set("c", "1", None), Err(KvError::QuotaExceeded));
    assert_eq!(plugin.at(20).set("c", "1", None), Ok(KvAnswer::Done));
    assert_eq!(plugin.at(20).swap("a", None, "x"), Err(KvError::QuotaExceeded));

    assert_eq!(storage.sweep_expired(UnixMillis(29), 10).unwrap(), 0);
    assert_eq!(storage.sweep_expired(UnixMillis(50), 1).unwrap(), 1);
    assert_eq!(storage.sweep_expired(UnixMillis(50), 10).unwrap(), 1);
    assert_eq!(storage.sweep_expired(UnixMillis(50), 10).unwrap(), 0);
    assert_eq!(plugin.at(0).list("", None, 10).0, ["c"]);
    // A new end replaces the old one.
    plugin.set("a", "1", Some(60)).unwrap();
    plugin.set("a", "2", None).unwrap();
    assert_eq!(storage.sweep_expired(UnixMillis(70), 10).unwrap(), 0);
    assert_eq!(plugin.at(70).value("a").as_deref(), Some("2"));
}

#[test]
fn plugins_list_in_pages() {
    let (_directory, path) = fresh();
    let storage = open(&path);
    let plugin = Plugin { storage: &storage, name: "p", now: UnixMillis(10) };
    for key in ["ab", "a", "b"] {
        plugin.set(key, "", None).unwrap();
    }
    let page = |prefix, cursor, limit| plugin.list(prefix, cursor, limit);
    assert_eq!(page("", None, 2), (vec!["a".into(), "ab".into()], Some("ab".into())));
    assert_eq!(page("", Some("ab"), 2), (vec!["b".into()], None));
    assert_eq!(page("a", None, 2), (vec!["a".into(), "ab".into()], None));
    assert_eq!(page("a", Some("a"), 2), (vec!["ab".into()], None));
    assert_eq!(page("b", Some("a"), 0), (vec!["b".into()], None));
    assert_eq!(page("a", Some("zzz"), 2), (vec![], None));
}
