//! Each check: a sound broker has no finding; one thing is spoilt, and there is this one; it is mended, and it is gone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::certificate::{CertificateFacts, CertificateFingerprint, to_pem};
use crate::evaluation::AnchorLint;
use crate::registry::{DeviceCertificate, DeviceState, RegistrationSource};
use crate::time::UnixSeconds;

/// 2026-11-22.
const NOW: UnixSeconds = UnixSeconds(1_795_305_600);
const DAYS: i64 = 86_400;

/// Of RSA keys: moduli in hexadecimal.
mod moduli {
    /// Two primes of 256 bits as the flawed library makes them: `k * M + (65537^a mod M)`.
    pub const ROCA: &str = include_str!("testdata/roca-512.hex");
    /// Modulo each small prime it is a power of 65537, but there is no one exponent for all.
    pub const NEARLY_ROCA: &str = include_str!("testdata/nearly-roca-512.hex");
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        length @ 0..0x80 => out.push(length as u8),
        length @ 0x80..0x100 => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn unsigned(digits: &[u8]) -> Vec<u8> {
    let mut content = digits.to_vec();
    if content.first().is_some_and(|first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    tlv(0x02, &content)
}

enum Key<'a> {
    P256,
    Rsa { modulus: &'a [u8], exponent: &'a [u8] },
}

const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];

/// A certificate that nobody signed.
fn der(key: &Key<'_>, signed_by: &[u8], organization: &str) -> Vec<u8> {
    let spki = match key {
        Key::P256 => {
            let kind = tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]);
            let curve = tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
            sequence(&[&sequence(&[&kind, &curve]), &tlv(0x03, &[[0, 4].as_slice(), &[9; 64]].concat())])
        }
        Key::Rsa { modulus, exponent } => {
            let kind = tlv(0x06, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]);
            let numbers = sequence(&[&unsigned(modulus), &unsigned(exponent)]);
            sequence(&[&sequence(&[&kind, &[5, 0]]), &tlv(0x03, &[[0].as_slice(), &numbers].concat())])
        }
    };
    let algorithm = sequence(&[&tlv(0x06, signed_by)]);
    let attribute = sequence(&[&tlv(0x06, &[0x55, 0x04, 0x0a]), &tlv(0x0c, organization.as_bytes())]);
    let name = sequence(&[&tlv(0x31, &attribute)]);
    let validity = sequence(&[&tlv(0x17, b"250101000000Z"), &tlv(0x17, b"351231235959Z")]);
    let tbs = sequence(&[&unsigned(&[7]), &algorithm, &name, &validity, &name, &spki]);
    sequence(&[&tbs, &algorithm, &tlv(0x03, &[0, 1, 2, 3])])
}

fn ca(name: &str) -> CaFacts {
    let facts = CertificateFacts::parse(&der(&Key::P256, ECDSA_SHA256, name)).expect("a certificate");
    CaFacts {
        name: name.to_owned(),
        source: CaSource::Registry,
        facts,
        lints: Vec::new(),
        active_devices: 1,
        connections: 0,
        has_list: true,
        revoked_by: None,
    }
}

fn device(number: u8) -> DeviceCertificate {
    let day = |days: i64| UnixMillis(((NOW.0 + days * DAYS) * 1000) as u64);
    DeviceCertificate { last_seen: Some(day(-1)), ..registered(number, day(-100)) }
}

fn registered(number: u8, at: UnixMillis) -> DeviceCertificate {
    let pem = to_pem(&der(&Key::P256, ECDSA_SHA256, "Devices"));
    record(number, at, pem)
}

fn record(number: u8, at: UnixMillis, pem: String) -> DeviceCertificate {
    DeviceCertificate {
        id: CertificateFingerprint([number; 32]),
        state: DeviceState::Active,
        device_id: format!("meter-{number}"),
        namespace: String::from("default"),
        trust_domain: String::from("default"),
        tenant: None,
        tags: Vec::new(),
        client_id: None,
        ca_id: CertificateFingerprint([0xca; 32]),
        issuer_key_id: String::new(),
        subject: format!("CN=meter-{number}"),
        issuer: String::from("CN=factory"),
        serial: format!("{number:02x}"),
        spki_sha256: format!("{number:064x}"),
        common_name: None,
        organizational_units: Vec::new(),
        subject_alt_names: Vec::new(),
        not_before: UnixSeconds(NOW.0 - 100 * DAYS),
        not_after: UnixSeconds(NOW.0 + 300 * DAYS),
        source: RegistrationSource::Api,
        registered_at: at,
        updated_at: at,
        last_seen: None,
        pending_until: None,
        superseded: None,
        quarantined: None,
        revocation_reason: None,
        revoked_at: None,
        deleted_at: None,
        attributes: std::collections::BTreeMap::new(),
        revision: 1,
        pem,
    }
}

struct World {
    facts: Facts,
    devices: Vec<DeviceCertificate>,
    /// Of the first device.
    connections: usize,
    revoked_by: Option<&'static str>,
    now: UnixSeconds,
}

fn connection<'a>(number: u8, address: &str, client_id: &'a str, device_id: &'a str) -> ConnectionFacts<'a> {
    ConnectionFacts {
        certificate: Some(CertificateFingerprint([number; 32])),
        address: address.parse::<IpAddr>().expect("an address"),
        client_id: Some(client_id),
        device_id: Some(device_id),
    }
}

impl World {
    fn sound() -> Self {
        let mut connections = ConnectionsSeen::default();
        connections.add(connection(1, "192.0.2.1", "a", "meter-1"));
        // Twice from the same place, as after a broken connection.
        connections.add(connection(1, "192.0.2.1", "a", "meter-1"));
        connections.add(connection(2, "192.0.2.2", "b", "meter-2"));
        let listener = ListenerFacts {
            name: String::from("devices"),
            has_tls: true,
            asks_for_certificate: true,
            requires_certificate: true,
            checks_revocation: true,
            registers: true,
            ..ListenerFacts::default()
        };
        let loopback = ListenerFacts {
            name: String::from("inside"),
            is_local: true,
            shows_builtin: true,
            ..ListenerFacts::default()
        };
        let crl = CrlFacts {
            source: String::from("file:ca.crl"),
            issuer: String::from("CN=factory"),
            ca: Some(String::from("factory")),
            next_update: Some(UnixSeconds(NOW.0 + DAYS)),
            is_stale: false,
        };
        let capabilities = BTreeSet::from([String::from("kv")]);
        let facts = Facts {
            cas: vec![ca("factory")],
            crls: vec![crl],
            listeners: vec![listener, loopback],
            registrars: vec![RegistrarFacts {
                name: String::from("auto-register"),
                has_pattern: true,
                holds: false,
            }],
            rules: vec![RuleFacts {
                origin: String::from("policy.acls.devices.rules[0]"),
                filter: String::from("devices/${device-id}/#"),
                publish: true,
                subscribe: true,
            }],
            plugins: vec![PluginFacts {
                name: String::from("cert-acl"),
                is_signed: Some(true),
                accepted: capabilities.clone(),
                capabilities,
            }],
            audit: AuditFacts {
                sinks: vec![SinkFacts { name: String::from("siem"), problem: None, lag: 3 }],
                publishes: Some(Ok(())),
            },
            admin: Some(AdminFacts {
                bind: String::from("0.0.0.0:18083"),
                is_local: false,
                has_tls: true,
                asks_for_certificate: true,
            }),
            connections,
        };
        let devices = vec![device(1), device(2)];
        Self { facts, devices, connections: 1, revoked_by: None, now: NOW }
    }

    fn findings(&self) -> Vec<Finding> {
        let (thresholds, now) = (Thresholds::default(), UnixMillis(self.now.0 as u64 * 1000));
        let mut found = judge(&self.facts, &thresholds, now);
        let mut comparison = Comparison::default();
        self.devices.iter().for_each(|record| comparison.add(record));
        let compared = comparison.finish();
        for (number, record) in self.devices.iter().enumerate() {
            let first = number == 0;
            let device = DeviceFacts {
                record,
                connections: if first { self.connections } else { 0 },
                revoked_by: self.revoked_by.filter(|_| first),
            };
            found.extend(judge_device(&device, &compared, &thresholds, now));
        }
        found
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks: Vec<Check> = self.findings().into_iter().map(|finding| finding.check).collect();
        checks.sort_unstable();
        checks.dedup();
        checks
    }
}

fn ago(days: i64) -> UnixMillis {
    UnixMillis(((NOW.0 - days * DAYS) * 1000) as u64)
}

fn rsa_device(modulus: &[u8], exponent: &[u8]) -> String {
    to_pem(&der(&Key::Rsa { modulus, exponent }, ECDSA_SHA256, "Devices"))
}

/// Does what the check is there to find. Without a default: a new check has to be thought about.
fn spoil(world: &mut World, check: Check) {
    match check {
        Check::CaExpiring => world.facts.cas[0].facts.not_after = UnixSeconds(NOW.0 + 30 * DAYS),
        Check::CaExpiredInUse => world.facts.cas[0].facts.not_after = UnixSeconds(NOW.0 - 1),
        Check::CaWeakKey => {
            world.facts.cas[0].lints.push((AnchorLint::WeakKey, String::from("the RSA key has 1024 bits")));
        }
        Check::CaNoCrl => world.facts.cas[0].has_list = false,
        Check::CrlStale => world.facts.crls[0].is_stale = true,
        Check::CaRevokedButActive => world.facts.cas[0].revoked_by = Some(String::from("CN=root")),
        Check::CaPublicOrServerChain => world.facts.cas[0] = ca("Let's Encrypt"),
        Check::DeviceCertExpiring => world.devices[0].not_after = UnixSeconds(NOW.0 + 20 * DAYS),
        Check::DeviceCertLongLived => world.devices[0].not_after = UnixSeconds(NOW.0 + 20 * 365 * DAYS),
        Check::DeviceCertAge => world.devices[0].not_before = UnixSeconds(NOW.0 - 4 * 365 * DAYS),
        Check::DeviceCertWeakKey => {
            let modulus = hex::decode(moduli::ROCA.trim()).expect("hexadecimal digits");
            world.devices[0].pem = rsa_device(&modulus, &[1, 0, 1]);
        }
        Check::DeviceKeyReused => world.devices[0].spki_sha256 = world.devices[1].spki_sha256.clone(),
        Check::IssuerSerialReuse => world.devices[0].serial = world.devices[1].serial.clone(),
        Check::CertShared => {
            world.facts.connections.add(connection(1, "198.51.100.7", "a", "meter-1"));
        }
        Check::ConflictingClientIds => {
            world.facts.connections.add(connection(3, "192.0.2.3", "a", "meter-3"));
        }
        Check::RevokedStillConnected => world.devices[0].state = DeviceState::Revoked,
        Check::CrlRevokedButActive => world.revoked_by = Some("CN=factory"),
        Check::PendingTooLong => {
            world.devices[1].state = DeviceState::PendingActivation;
            world.devices[1].registered_at = ago(8);
        }
        Check::NeverSeen => world.devices[0].last_seen = None,
        Check::Dormant => world.devices[0].last_seen = Some(ago(181)),
        Check::AutoRegistrationWithoutPattern => world.facts.registrars[0].has_pattern = false,
        Check::ListenerWithoutTls => {
            world.facts.listeners[1].is_local = false;
            world.facts.listeners[1].shows_builtin = false;
        }
        Check::OptionalClientCert => world.facts.listeners[0].requires_certificate = false,
        Check::DefaultCertInUse => world.facts.listeners[0].shows_builtin = true,
        Check::RuleTooBroad => world.facts.rules[0].filter = String::from("#"),
        Check::PluginUnsigned => world.facts.plugins[0].is_signed = Some(false),
        Check::PluginCapabilityGrew => {
            world.facts.plugins[0].capabilities.insert(String::from("registry.read"));
        }
        Check::AuditSinkDown => {
            world.facts.audit.sinks[0].problem = Some(String::from("connection refused"));
        }
        Check::AuditNoExternalCheckpoint => world.facts.audit.publishes = None,
        Check::AdminWithoutMfa => {
            if let Some(admin) = &mut world.facts.admin {
                admin.asks_for_certificate = false;
            }
        }
    }
}

#[test]
fn each_finding_appears_with_its_cause_and_disappears_with_it() {
    for check in Check::ALL.iter().copied() {
        let mut world = World::sound();
        assert_eq!(world.checks(), [], "a sound broker, before {check:?}");
        spoil(&mut world, check);
        assert_eq!(world.checks(), [check]);
        for finding in world.findings() {
            assert!(!finding.reason.is_empty() && !finding.resource.id.is_empty(), "{finding:?}");
        }
        assert_eq!(World::sound().checks(), [], "mended, after {check:?}");
    }
}

#[test]
fn names_and_catalogue_agree() {
    for check in Check::ALL {
        assert_eq!(Check::from_name(check.as_str()), Some(*check));
        assert!(!check.about().is_empty());
    }
    assert_eq!(Check::from_name("ca_expiring"), Some(Check::CaExpiring));
    assert_eq!(Check::from_name("NOTHING"), None);
}

#[test]
fn how_bad_it_is_depends_on_how_near_it_is() {
    let severity = |spoil: &dyn Fn(&mut World)| {
        let mut world = World::sound();
        spoil(&mut world);
        world.findings().into_iter().map(|finding| (finding.check, finding.severity)).collect::<Vec<_>>()
    };
    assert_eq!(
        severity(&|world| world.facts.cas[0].facts.not_after = UnixSeconds(NOW.0 + 10 * DAYS)),
        [(Check::CaExpiring, Severity::High)]
    );
    assert_eq!(
        severity(&|world| world.devices[0].not_after = UnixSeconds(NOW.0 - 1)),
        [(Check::DeviceCertExpiring, Severity::High)]
    );
    assert_eq!(
        severity(&|world| world.facts.admin.as_mut().expect("there is one").asks_for_certificate = false),
        [(Check::AdminWithoutMfa, Severity::High)]
    );
}

#[test]
fn who_is_not_let_in_has_no_findings_of_those_who_are() {
    let mut world = World::sound();
    world.connections = 0;
    for state in [DeviceState::Inactive, DeviceState::Revoked, DeviceState::Tombstone] {
        world.devices[0] = DeviceCertificate {
            state,
            not_after: UnixSeconds(NOW.0 - 1),
            last_seen: None,
            pem: String::from("none"),
            ..device(1)
        };
        assert_eq!(world.checks(), [], "{state:?}");
    }
    // A device that renews its certificate may keep its key.
    world.devices[0] = DeviceCertificate {
        device_id: String::from("meter-2"),
        spki_sha256: world.devices[1].spki_sha256.clone(),
        ..device(1)
    };
    assert_eq!(world.checks(), []);
}

#[test]
fn weak_keys_are_known_by_their_numbers() {
    let modulus = |text: &str| hex::decode(text.trim()).expect("hexadecimal digits");
    let of = |modulus: &[u8], exponent: &[u8]| {
        key_weakness(&der(&Key::Rsa { modulus, exponent }, ECDSA_SHA256, "x"))
    };
    assert_eq!(of(&modulus(moduli::ROCA), &[1, 0, 1]), Some(KeyWeakness::Roca));
    assert_eq!(of(&modulus(moduli::NEARLY_ROCA), &[1, 0, 1]), Some(KeyWeakness::Short(512)));
    // One that is no product of anything small: all ones but for the end.
    let mut large = vec![0xff; 256];
    large[255] = 0x1f;
    let factor = of(&large, &[1, 0, 1]);
    assert!(!matches!(factor, Some(KeyWeakness::Roca | KeyWeakness::Short(_))), "{factor:?}");
    let even = [modulus(moduli::NEARLY_ROCA), vec![2]].concat();
    assert_eq!(of(&even, &[1, 0, 1]), Some(KeyWeakness::SmallFactor(2)));
    assert_eq!(of(&[35], &[3]), Some(KeyWeakness::SmallFactor(5)));
    assert_eq!(of(&modulus(moduli::NEARLY_ROCA), &[1]), Some(KeyWeakness::Exponent));
    assert_eq!(key_weakness(&der(&Key::P256, ECDSA_SHA256, "x")), None);
    assert_eq!(key_weakness(&der(&Key::P256, ECDSA_SHA1, "x")), Some(KeyWeakness::Digest("SHA-1")));
    assert_eq!(key_weakness(b"no certificate"), None);
}

#[test]
fn thresholds_are_the_moment_at_which_it_begins() {
    let thresholds = Thresholds { pending: Duration::from_secs(60), ..Thresholds::default() };
    let mut record = device(1);
    record.state = DeviceState::PendingActivation;
    record.registered_at = UnixMillis(NOW.0 as u64 * 1000);
    let found = |seconds: i64| {
        let facts = DeviceFacts { record: &record, connections: 0, revoked_by: None };
        let now = UnixMillis((NOW.0 + seconds) as u64 * 1000);
        judge_device(&facts, &Compared::default(), &thresholds, now).len()
    };
    assert_eq!((found(59), found(60)), (0, 1));
}

/// The page has every check as it is.
#[test]
fn the_page_is_up_to_date() {
    let page = include_str!("../../../../docs/posture.md");
    for check in Check::ALL {
        let row = format!("| `{}` | {} | {} |", check.as_str(), check.severity().as_str(), check.about());
        assert!(page.contains(&row), "docs/posture.md lacks: {row}");
    }
}
