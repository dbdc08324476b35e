//! Registration, its guards, what records come to, registration codes, and restoring.

use std::collections::BTreeMap;

use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint};
use mqgate_identity::evaluation::PathPolicy;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{
    CaCondition, Cascade, Force, KnownCa, KnownDevices, NewCa, NewDevice, OnTombstone, PENDING_TTL_MILLIS,
    Proof, RuleError, TOMBSTONE_SKEW_SECONDS, Transition, activate, activate_ca, add_ca, bury_ca,
    check_auto_registration, check_code, check_delete_ca, check_remove_ca, check_verification, conditions,
    deactivate_ca, delete, effective, end_retirement, end_supersession, is_spent_tombstone, merge_ca,
    merge_device, new_code, purge, quarantine, register_ca, register_new, reject, retire_ca, revoke,
    revoke_ca, supersede, use_code,
};
use mqgate_identity::registry::{
    AutoRegistration, CaCertificate, CaSettings, CaState, Condition, DeviceCertificate, DeviceState,
    MAX_REGISTRATION_CODES, OnDeactivate, REGISTRATION_CODE_TTL_MILLIS, RegistrationCode, RegistrationSource,
    RevocationReason, VerifiedBy,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use rcgen::{DnType, SanType, date_time_ymd};

use crate::pki::{Authority, ca_params, named};
use crate::transitions;

pub const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const LATE: UnixMillis = UnixMillis(1_800_000_000_000);

struct World {
    root: Authority,
    facts: CertificateFacts,
    ca: CaCertificate,
    record: DeviceCertificate,
}

fn parse(der: &[u8]) -> CertificateFacts {
    CertificateFacts::parse(der).unwrap()
}

fn new(facts: &CertificateFacts, ca: &CaCertificate) -> NewDevice<'static> {
    NewDevice {
        facts: Box::leak(Box::new(facts.clone())),
        ca_id: ca.id,
        issuer_key: [9; 32],
        device_id: "device-7".into(),
        tenant: Some("acme".into()),
        tags: vec!["meter".into()],
        client_id: Some("c-7".into()),
        attributes: BTreeMap::from([("site".into(), "north".into())]),
        state: DeviceState::Active,
        source: RegistrationSource::Api,
        on_tombstone: OnTombstone::Refuse,
        pending_ttl_millis: PENDING_TTL_MILLIS,
    }
}

fn known(ca: &CaCertificate) -> KnownDevices<'_> {
    KnownDevices { ca: Some(ca), ..KnownDevices::default() }
}

fn written<R: Clone>(result: Result<Transition<R>, RuleError>) -> R {
    result.unwrap().write().map(|write| write.record).expect("something to write")
}

fn world() -> World {
    let root = Authority::root("root");
    let mut params = named("device-7");
    params.not_before = date_time_ymd(2023, 1, 1);
    params.not_after = date_time_ymd(2024, 1, 1);
    let facts = parse(&root.sign(params));
    let ca = written(add_ca(&parse(&root.der), "root", None, "admin:x", NOW));
    let record = written(register_new(new(&facts, &ca), &known(&ca), NOW));
    World { root, facts, ca, record }
}

fn in_state(record: &DeviceCertificate, state: DeviceState) -> DeviceCertificate {
    let revocation_reason = (state == DeviceState::Revoked).then(|| "keyCompromise".to_owned());
    DeviceCertificate { state, revocation_reason, ..record.clone() }
}

fn ca_in(ca: &CaCertificate, state: CaState) -> CaCertificate {
    CaCertificate { state, ..ca.clone() }
}

/// Refusals that the tables of transitions do not have, each with what was tried.
pub fn refusals() -> Vec<(&'static str, RuleError)> {
    let World { root, facts, ca, record } = world();
    let mut all = Vec::new();
    let mut add = |what, error: Option<RuleError>| all.push((what, error.expect(what)));
    let register = |new: NewDevice<'_>, known: &KnownDevices<'_>| register_new(new, known, NOW).err();
    let with = |existing: Option<&DeviceCertificate>, ca: Option<&CaCertificate>| {
        register_new(
            new(&facts, &record_ca()),
            &KnownDevices { existing, ca, ..KnownDevices::default() },
            NOW,
        )
        .err()
    };
    fn record_ca() -> CaCertificate {
        transitions::ca(CaState::Active)
    }
    add(
        "a device id with a slash",
        register(NewDevice { device_id: "a/b".into(), ..new(&facts, &ca) }, &known(&ca)),
    );
    add(
        "starts deleted",
        register(NewDevice { state: DeviceState::Tombstone, ..new(&facts, &ca) }, &known(&ca)),
    );
    let other = NewDevice { device_id: "device-8".into(), ..new(&facts, &ca) };
    let there = KnownDevices { existing: Some(&record), ..known(&ca) };
    add("for another device", register(other, &there));
    let gone = in_state(&record, DeviceState::Tombstone);
    add("was deleted", with(Some(&gone), Some(&ca)));
    add("is revoked", with(Some(&in_state(&record, DeviceState::Revoked)), Some(&ca)));
    add("has no CA", with(None, None));
    for state in [CaState::PendingActivation, CaState::Revoked] {
        add("under a CA that verifies nothing", with(None, Some(&ca_in(&ca, state))));
    }
    for state in [CaState::Inactive, CaState::Retiring] {
        let jit = NewDevice { source: RegistrationSource::Jit, ..new(&facts, &ca) };
        add("by itself under a CA out of use", register(jit, &known(&ca_in(&ca, state))));
    }
    add("expired", register_new(new(&facts, &ca), &known(&ca), LATE).err());
    let serial = KnownDevices { same_serial: Some(CertificateFingerprint([3; 32])), ..known(&ca) };
    add("a serial number twice", register(new(&facts, &ca), &serial));
    let compromised =
        DeviceCertificate { id: CertificateFingerprint([4; 32]), ..in_state(&record, DeviceState::Revoked) };
    let same_key = [compromised];
    add(
        "a key that others know",
        register(new(&facts, &ca), &KnownDevices { same_key: &same_key, ..known(&ca) }),
    );

    let set = |settings: CaSettings| CaCertificate { settings, ..ca.clone() };
    let check =
        |settings: CaSettings, registered| check_auto_registration(&set(settings), &facts, registered).err();
    let off = AutoRegistration::Off;
    add("not by itself", check(CaSettings { auto_registration: off, ..CaSettings::default() }, 0));
    let subject = vec!["CN=pump-*".into()];
    add("another name", check(CaSettings { subject_patterns: subject, ..CaSettings::default() }, 0));
    let mut params = named("device-7");
    params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())];
    let named_facts = parse(&root.sign(params));
    let san = set(CaSettings { san_patterns: vec!["dns:*.other".into()], ..CaSettings::default() });
    add("another alternative name", check_auto_registration(&san, &named_facts, 0).err());
    let limit = Some(3600);
    add(
        "valid for too long",
        check(CaSettings { max_leaf_lifetime_seconds: limit, ..CaSettings::default() }, 0),
    );
    add("too many", check(CaSettings { max_device_certs: Some(5), ..CaSettings::default() }, 5));

    let register_as = |facts: &CertificateFacts, name: &str, settings: CaSettings, now| {
        let new = NewCa { name: name.into(), settings, ..new_ca(facts, Proof::Missing) };
        register_ca(new, &KnownCa::default(), now).err()
    };
    let root_facts = parse(&root.der);
    add("no CA at all", register_as(&facts, "leaf", CaSettings::default(), NOW));
    add("a bad name", register_as(&root_facts, "a b", CaSettings::default(), NOW));
    let odd = CaSettings { subject_patterns: vec!["meter".into()], ..CaSettings::default() };
    add("a bad pattern", register_as(&root_facts, "r", odd, NOW));
    let foreign = CaCertificate { namespace: "other".into(), ..ca.clone() };
    let elsewhere = KnownCa { existing: Some(&foreign), buried: None };
    add("in another namespace", register_ca(new_ca(&root_facts, Proof::Missing), &elsewhere, NOW).err());
    let expired = CaCertificate { state: CaState::Inactive, not_after: UnixSeconds(1), ..ca.clone() };
    add("an expired CA", activate_ca(&expired, NOW).err());
    add("a CA with certificates", check_remove_ca(3, Force::No).err());

    let code = code();
    add("no code", check_code(None, NOW).err());
    add("an old code", check_code(Some(&code), code.expires_at).err());
    add("a used code", check_code(Some(&use_code(&code, CertificateFingerprint([5; 32]), NOW)), NOW).err());
    let many = vec![code.clone(); MAX_REGISTRATION_CODES];
    add("too many codes", new_code([1; 32], 1, &many, "x", UnixMillis(0)).err());
    let verify = |der: &[u8], now| check_verification(&root_facts, &parse(der), now).err();
    add("signed by another CA", verify(&Authority::root("other").leaf(&code.code), NOW));
    let mut forged = root.leaf(&code.code);
    *forged.last_mut().unwrap() ^= 1;
    add("a signature that does not hold", verify(&forged, NOW));
    let mut params = named(&code.code);
    params.not_after = date_time_ymd(2020, 1, 1);
    add("an expired proof", verify(&root.sign(params), NOW));
    all
}

fn new_ca(facts: &CertificateFacts, proof: Proof) -> NewCa<'_> {
    NewCa {
        facts,
        name: "factory".into(),
        trust_domain: None,
        settings: CaSettings::default(),
        tags: Vec::new(),
        proof,
        inactive: false,
    }
}

fn code() -> RegistrationCode {
    new_code([0xab; 32], REGISTRATION_CODE_TTL_MILLIS, &[], "admin:x", NOW).unwrap()
}

#[test]
fn what_is_refused_is_explained() {
    for (what, error) in refusals() {
        let text = error.to_string();
        assert!(text.len() > 20 && !text.contains("  "), "{what}: {text}");
        let is_kept_out = error.reason() != Reason::Ok;
        assert!(is_kept_out, "{what}");
    }
}

#[test]
fn activation_has_guards() {
    let World { ca, record, .. } = world();
    let inactive = in_state(&record, DeviceState::Inactive);
    for (state, expected) in [
        (CaState::Active, None),
        (CaState::Inactive, None),
        (CaState::Retiring, None),
        (CaState::PendingActivation, Some(CaCondition::Pending)),
        (CaState::Revoked, Some(CaCondition::Revoked)),
    ] {
        let result = activate(&inactive, Some(&ca_in(&ca, state)), NOW);
        assert_eq!(result.err(), expected.map(RuleError::Ca), "{state:?}");
    }
    assert_eq!(activate(&inactive, None, NOW), Err(RuleError::Ca(CaCondition::Missing)));
    let error = activate(&inactive, Some(&ca), LATE).unwrap_err();
    assert!(matches!(error, RuleError::Expired { .. }), "{error}");
}

#[test]
fn a_hold_can_be_lifted_and_deleting_does_not_undo_a_revocation() {
    let World { facts, ca, record, .. } = world();
    let held = written(revoke(&record, RevocationReason::CertificateHold, Some(&ca), NOW));
    assert_eq!(
        (held.state, held.revocation_reason.as_deref()),
        (DeviceState::Inactive, Some("certificateHold"))
    );
    assert!(!held.is_revoked());
    let lifted = written(revoke(&held, RevocationReason::RemoveFromCrl, Some(&ca), NOW));
    assert_eq!((lifted.state, lifted.revocation_reason), (DeviceState::Active, None));

    let restore = || NewDevice { on_tombstone: OnTombstone::Restore, ..new(&facts, &ca) };
    // A hold is no revocation: a tombstone of one can be restored.
    for gone in [&record, &held] {
        let gone = written(delete(gone, Force::Yes, NOW));
        assert!(gone.pem.is_empty() && gone.attributes.is_empty() && gone.client_id.is_none());
        let there = KnownDevices { existing: Some(&gone), ..known(&ca) };
        assert_eq!(register_new(new(&facts, &ca), &there, NOW), Err(RuleError::Tombstoned));
        let back = register_new(restore(), &there, NOW).unwrap().write().unwrap();
        assert_eq!((back.expected, back.record.revision), (Some(gone.revision), gone.revision + 1));
    }

    let revoked = written(revoke(&record, RevocationReason::KeyCompromise, Some(&ca), NOW));
    assert_eq!(revoked.revoked_at, Some(NOW));
    let gone = written(delete(&revoked, Force::No, NOW));
    for existing in [&gone, &revoked] {
        let there = KnownDevices { existing: Some(existing), ..known(&ca) };
        assert_eq!(register_new(restore(), &there, NOW), Err(RuleError::Revoked));
        assert!(existing.is_key_compromised());
    }
}

#[test]
fn the_first_reason_stands_unless_the_key_is_out() {
    let record = transitions::device(DeviceState::Revoked);
    let reason = |result: Result<Transition<DeviceCertificate>, RuleError>| {
        result.unwrap().record().revocation_reason.clone().unwrap()
    };
    assert_eq!(reason(revoke(&record, RevocationReason::Unspecified, None, NOW)), "superseded");
    let worse = revoke(&record, RevocationReason::KeyCompromise, None, NOW);
    assert_eq!(reason(worse.clone()), "keyCompromise");
    let worse = written(worse);
    assert_eq!(reason(revoke(&worse, RevocationReason::Superseded, None, NOW)), "keyCompromise");
}

#[test]
fn tombstones_are_kept_as_long_as_they_are_needed() {
    let World { record, .. } = world();
    let at = |seconds: i64| UnixMillis((record.not_after.0 + seconds) as u64 * 1000);
    let gone = in_state(&record, DeviceState::Tombstone);
    assert!(!is_spent_tombstone(&gone, at(TOMBSTONE_SKEW_SECONDS)));
    assert!(is_spent_tombstone(&gone, at(TOMBSTONE_SKEW_SECONDS + 1)));
    assert_eq!(purge(&gone, NOW), Ok(()));
    let compromised = DeviceCertificate { revocation_reason: Some("keyCompromise".into()), ..gone };
    assert!(!is_spent_tombstone(&compromised, at(TOMBSTONE_SKEW_SECONDS + 1)), "its key is remembered");
    assert!(purge(&compromised, at(0)).is_err());
    assert_eq!(purge(&compromised, at(1)), Ok(()));
}

#[test]
fn registering() {
    let World { facts, ca, record, .. } = world();
    assert_eq!((record.revision, record.state), (1, DeviceState::Active));
    assert_eq!(record.id, facts.certificate_fingerprint);
    assert_eq!((&*record.subject, record.common_name.as_deref()), ("CN=device-7", Some("device-7")));
    assert_eq!((record.issuer_key_id.len(), record.spki_sha256.len()), (64, 64));
    assert!(record.pem.starts_with("-----BEGIN CERTIFICATE-----"));
    let there = KnownDevices { existing: Some(&record), ..known(&ca) };
    let again = register_new(new(&facts, &ca), &there, NOW);
    assert_eq!(again, Ok(Transition::Unchanged(record.clone())));
    let unbound = NewDevice { client_id: None, ..new(&facts, &ca) };
    let error = register_new(unbound, &there, NOW).unwrap_err();
    assert!(error.to_string().contains("c-7"), "{error}");

    let pending = NewDevice { state: DeviceState::PendingActivation, ..new(&facts, &ca) };
    let pending = written(register_new(pending, &known(&ca), NOW));
    assert_eq!(pending.pending_until, Some(UnixMillis(NOW.0 + PENDING_TTL_MILLIS)));
    let revoked = NewDevice { state: DeviceState::Revoked, ..new(&facts, &ca) };
    let revoked = written(register_new(revoked, &known(&ca), NOW));
    assert_eq!(revoked.revocation_reason.as_deref(), Some("unspecified"));
    assert_eq!(activate(&revoked, Some(&ca), NOW), Err(RuleError::Revoked));
    for state in [CaState::Inactive, CaState::Retiring] {
        let ca = ca_in(&ca, state);
        assert!(
            register_new(new(&facts, &ca), &known(&ca), NOW).is_ok(),
            "by hand, before {state:?} is in use"
        );
    }
}

#[test]
fn a_renewal_with_the_same_key_inherits() {
    let World { facts, ca, record, .. } = world();
    let older = DeviceCertificate { id: CertificateFingerprint([1; 32]), ..record.clone() };
    let plain = || NewDevice {
        client_id: None,
        tags: Vec::new(),
        tenant: None,
        attributes: BTreeMap::from([("firmware".into(), "2".into())]),
        ..new(&facts, &ca)
    };
    let with = |older: &DeviceCertificate| {
        let same_key = [older.clone()];
        let known = KnownDevices { same_key: &same_key, ..known(&ca) };
        written(register_new(plain(), &known, NOW))
    };
    let renewed = with(&older);
    assert_eq!(renewed.client_id.as_deref(), Some("c-7"));
    assert_eq!((renewed.tags, renewed.tenant.as_deref()), (vec!["meter".to_owned()], Some("acme")));
    assert_eq!(renewed.attributes.len(), 2);
    for other in [
        DeviceCertificate { device_id: "device-8".into(), ..older.clone() },
        DeviceCertificate { trust_domain: "other".into(), ..older.clone() },
        DeviceCertificate { state: DeviceState::PendingActivation, ..older },
    ] {
        assert_eq!(with(&other).client_id, None, "nothing of {other:?}");
    }
}

#[test]
fn a_successor_takes_over_after_the_overlap() {
    let record = transitions::device(DeviceState::Active);
    let newer = DeviceCertificate { id: CertificateFingerprint([8; 32]), ..record.clone() };
    let both = written(supersede(&record, &newer, 600_000, NOW));
    let superseded = both.superseded.unwrap();
    assert_eq!((superseded.by, superseded.ends_at), (newer.id, UnixMillis(NOW.0 + 600_000)));
    let (ca, policy) = (transitions::ca(CaState::Active), PathPolicy::default());
    let judged = |record: &DeviceCertificate, now| effective(record, Some(&ca), &policy, now);
    assert_eq!(judged(&both, NOW), Ok(()));
    assert_eq!(
        judged(&both, superseded.ends_at),
        Err(Reason::CertSuperseded),
        "whoever writes it down later"
    );
    let early = end_supersession(&both, NOW).unwrap();
    assert_eq!(early, Transition::Unchanged(both.clone()));
    let over = written(end_supersession(&both, superseded.ends_at));
    assert_eq!(over.state, DeviceState::Inactive);
    assert_eq!(judged(&over, superseded.ends_at), Err(Reason::CertSuperseded));
}

#[test]
fn who_may_connect() {
    let World { ca, record, .. } = world();
    let policy = PathPolicy::default();
    let judged =
        |record: &DeviceCertificate, ca: Option<&CaCertificate>, now| effective(record, ca, &policy, now);
    for (state, expected) in [
        (DeviceState::Active, Ok(())),
        (DeviceState::PendingActivation, Err(Reason::CertPending)),
        (DeviceState::Inactive, Err(Reason::CertInactive)),
        (DeviceState::Revoked, Err(Reason::CertRevoked)),
        (DeviceState::Tombstone, Err(Reason::CertTombstoned)),
    ] {
        assert_eq!(judged(&in_state(&record, state), Some(&ca), NOW), expected);
    }
    assert_eq!(judged(&record, None, NOW), Err(Reason::CaInactive));
    let gentle = CaCertificate {
        state: CaState::Inactive,
        deactivated: Some(OnDeactivate::BlockNewRegistrations),
        ..ca.clone()
    };
    assert_eq!(judged(&record, Some(&gentle), NOW), Ok(()), "only new registrations are blocked");
    for (state, condition, expected) in [
        (CaState::Retiring, None, Ok(())),
        (CaState::Inactive, Some(Condition::CaInactive), Err(Reason::CaInactive)),
        (CaState::PendingActivation, Some(Condition::CaInactive), Err(Reason::CaInactive)),
        (CaState::Revoked, Some(Condition::CaRevoked), Err(Reason::CaInactive)),
    ] {
        let ca = ca_in(&ca, state);
        assert_eq!(judged(&record, Some(&ca), NOW), expected, "{state:?}");
        let found = conditions(&record, Some(&ca), &policy, NOW);
        assert_eq!(found, condition.into_iter().collect::<Vec<_>>(), "{state:?}");
    }
    for (now, expected) in [
        (record.not_before.0 - 300, Ok(())),
        (record.not_before.0 - 301, Err(Reason::CertNotYetValid)),
        (record.not_after.0, Ok(())),
        (record.not_after.0 + 1, Err(Reason::CertExpired)),
    ] {
        assert_eq!(judged(&record, Some(&ca), UnixMillis(now as u64 * 1000)), expected);
    }
    let quarantined = written(quarantine(&record, "a clone", NOW));
    assert_eq!(judged(&quarantined, Some(&ca), NOW), Err(Reason::CertQuarantined));
    let found = conditions(&quarantined, None, &policy, LATE);
    assert_eq!(found, [Condition::Expired, Condition::CaMissing, Condition::Quarantined]);
}

#[test]
fn certificate_authorities() {
    let World { root, ca, .. } = world();
    let facts = parse(&root.der);
    let pending = written(register_ca(new_ca(&facts, Proof::Missing), &KnownCa::default(), NOW));
    assert_eq!((pending.state, &pending.verified_by), (CaState::PendingActivation, &None));
    assert_eq!(pending.trust_domain, pending.id.to_hex(), "a trust domain of its own");
    assert!(!pending.carries_connections() && !pending.carries_registrations());
    let existing = KnownCa { existing: Some(&pending), buried: None };
    let proof = || Proof::Given(VerifiedBy::RegistrationCode);
    let verified = written(register_ca(new_ca(&facts, proof()), &existing, NOW));
    assert_eq!((verified.state, verified.verified_by), (CaState::Active, Some(VerifiedBy::RegistrationCode)));
    let again = register_ca(new_ca(&facts, Proof::Missing), &existing, NOW);
    assert_eq!(again, Ok(Transition::Unchanged(pending.clone())));
    let inactive = NewCa { inactive: true, ..new_ca(&facts, proof()) };
    let inactive = written(register_ca(inactive, &KnownCa::default(), NOW));
    assert_eq!(inactive.state, CaState::Inactive);

    let off = written(deactivate_ca(&ca, None, NOW));
    assert_eq!((off.state, off.deactivated), (CaState::Inactive, Some(OnDeactivate::BlockNewConnections)));
    assert_eq!(written(activate_ca(&off, NOW)).deactivated, None);
    let until = Some(UnixMillis(NOW.0 + 1));
    let retiring = written(retire_ca(&ca, pending.id, until, NOW));
    assert_eq!((retiring.state, retiring.replaced_by), (CaState::Retiring, Some(pending.id)));
    assert!(retiring.carries_connections() && !retiring.carries_registrations());
    assert_eq!(written(end_retirement(&retiring, NOW)).state, CaState::Inactive);
    let revoked = written(revoke_ca(&retiring, RevocationReason::CaCompromise, NOW));
    assert_eq!((revoked.state, revoked.retiring_until), (CaState::Revoked, None));
    for buried in [Some(bury_ca(&revoked, NOW)), Some(bury_ca(&off, NOW)), None] {
        let expected = buried.as_ref().is_some_and(|buried| buried.revocation_reason.is_some());
        let known = KnownCa { existing: None, buried: buried.as_ref() };
        let result = register_ca(new_ca(&facts, proof()), &known, NOW);
        assert_eq!(
            result.err(),
            expected.then_some(RuleError::CaRevoked),
            "revoked once is revoked for good"
        );
    }
    assert_eq!(check_remove_ca(0, Force::No), Ok(()));
    assert_eq!(check_remove_ca(3, Force::Yes), Ok(()));
    let error = check_delete_ca(&off, 3, Cascade::Refuse).unwrap_err().to_string();
    assert!(error.starts_with("related_device_certificates_exist: 3 "), "{error}");
}

#[test]
fn a_ca_is_proved_with_a_registration_code() {
    let World { root, .. } = world();
    let (facts, code) = (parse(&root.der), code());
    assert_eq!(code.code.len(), 64, "it fits into a common name");
    assert_eq!(code.expires_at.0 - code.created_at.0, 24 * 60 * 60 * 1000);
    let found = check_verification(&facts, &parse(&root.leaf(&code.code)), NOW).unwrap();
    assert_eq!(found, code.code);
    assert_eq!(check_code(Some(&code), NOW), Ok(()));
    assert_eq!(check_code(Some(&code), UnixMillis(code.expires_at.0 - 1)), Ok(()));
    // The last common name counts, as everywhere.
    let mut params = named("decoy");
    params.distinguished_name.push(DnType::OrganizationName, "acme");
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), code.code.as_str());
    let two = parse(&root.sign(params));
    assert_eq!(check_verification(&facts, &two, NOW).as_deref(), Ok(&*code.code));
    // A re-keyed CA of the same name did not sign it.
    let rekeyed = parse(&Authority::root_from(ca_params("root")).der);
    let error = check_verification(&rekeyed, &parse(&root.leaf(&code.code)), NOW).unwrap_err();
    assert!(matches!(error, RuleError::PublicKeyMismatch | RuleError::VerificationSignature(_)), "{error}");
    let used = use_code(&code, facts.certificate_fingerprint, NOW);
    assert_eq!((used.revision, used.used.unwrap().ca), (2, facts.certificate_fingerprint));
}

#[test]
fn what_registers_itself_has_to_fit_the_settings_of_its_ca() {
    let World { root, facts, ca, .. } = world();
    let check = |settings: CaSettings, facts: &CertificateFacts, registered| {
        check_auto_registration(&CaCertificate { settings, ..ca.clone() }, facts, registered)
            .map_err(|error| error.code())
    };
    let plain = CaSettings::default;
    assert_eq!(check(plain(), &facts, 1_000_000), Ok(AutoRegistration::Active));
    let held = CaSettings { auto_registration: AutoRegistration::Pending, ..plain() };
    assert_eq!(check(held, &facts, 0), Ok(AutoRegistration::Pending));
    let quota = |limit| CaSettings { max_device_certs: Some(limit), ..plain() };
    assert_eq!(check(quota(5), &facts, 4), Ok(AutoRegistration::Active));
    assert_eq!(check(quota(5), &facts, 5), Err("provision_quota"));
    assert_eq!(check(quota(0), &facts, 0), Err("provision_quota"));
    let lifetime = |seconds| CaSettings { max_leaf_lifetime_seconds: Some(seconds), ..plain() };
    let year = 365 * 24 * 60 * 60 + 1;
    assert_eq!(check(lifetime(year), &facts, 0), Ok(AutoRegistration::Active));
    assert_eq!(check(lifetime(year - 1), &facts, 0), Err("leaf_lifetime"));

    let subject = |patterns: &[&str]| CaSettings {
        subject_patterns: patterns.iter().map(|text| (*text).to_owned()).collect(),
        ..plain()
    };
    for (patterns, fits) in [
        (&["CN=device-*"][..], true),
        (&["CN=pump-*", "cn=device-7"], true),
        (&["2.5.4.3=*7"], true),
        (&["O=*"], false),
        (&["CN=device"], false),
    ] {
        assert_eq!(check(subject(patterns), &facts, 0).is_ok(), fits, "{patterns:?}");
    }
    let mut params = named("x");
    params.subject_alt_names = vec![
        SanType::DnsName("A.Meters.example".try_into().unwrap()),
        SanType::URI("urn:dev:7".try_into().unwrap()),
    ];
    let with_names = parse(&root.sign(params));
    let san = |patterns: &[&str]| CaSettings {
        san_patterns: patterns.iter().map(|text| (*text).to_owned()).collect(),
        ..plain()
    };
    for (patterns, fits) in [
        (&["dns:*.meters.EXAMPLE", "uri:urn:dev:*"][..], true),
        (&["dns:*"], false),
        (&["dns:*.example", "uri:urn:x:*"], false),
        (&["email:*", "ip:*"], false),
    ] {
        assert_eq!(check(san(patterns), &with_names, 0).is_ok(), fits, "{patterns:?}");
    }
}

#[test]
fn revocation_wins_when_a_backup_is_restored() {
    let later = UnixMillis(NOW.0 + 10);
    let states = DeviceState::ALL;
    for current_state in states {
        for backup_state in states {
            for (backup_at, backup_reason) in [(1, "superseded"), (100, "keyCompromise")] {
                let current =
                    DeviceCertificate { updated_at: UnixMillis(50), ..transitions::device(current_state) };
                let mut backup = transitions::device(backup_state);
                backup.updated_at = UnixMillis(backup_at);
                backup.tags = vec!["from the backup".into()];
                if backup_state == DeviceState::Revoked {
                    backup.revocation_reason = Some(backup_reason.into());
                }
                let merged = merge_device(Some(&current), &backup, later);
                let record = merged.record();
                let what = format!("{current_state:?} here, {backup_state:?} in the backup: {record:?}");
                let is_revoked = current.is_revoked() || backup.is_revoked();
                assert_eq!(record.is_revoked(), is_revoked, "{what}");
                if current_state == DeviceState::Tombstone && !is_revoked {
                    assert_eq!(record.state, DeviceState::Tombstone, "{what}");
                }
                let compromised = current.is_key_compromised() || backup.is_key_compromised();
                assert_eq!(record.is_key_compromised(), compromised, "{what}");
                if let Transition::Write(write) = &merged {
                    assert_eq!((write.expected, record.revision), (Some(7), 8), "{what}");
                }
                // Once more changes nothing.
                let again = merge_device(Some(record), &backup, UnixMillis(NOW.0 + 20));
                let is_final = record.state == DeviceState::Revoked || record.state == DeviceState::Tombstone;
                if is_final {
                    assert_eq!(again.record().state, record.state, "{what}");
                }
            }
        }
    }
    // Nobody registers himself past a tombstone; an operator may take one back.
    let buried = transitions::device(DeviceState::Tombstone);
    for (source, expected) in [
        (RegistrationSource::Jit, DeviceState::Tombstone),
        (RegistrationSource::Api, DeviceState::Active),
        (RegistrationSource::Import, DeviceState::Active),
    ] {
        let at = UnixMillis(50);
        let current =
            DeviceCertificate { source, updated_at: at, ..transitions::device(DeviceState::Active) };
        assert_eq!(merge_device(Some(&current), &buried, later).record().state, expected, "{source:?}");
    }
    let backup = transitions::device(DeviceState::Active);
    let Transition::Write(write) = merge_device(None, &backup, later) else { panic!("it is put back") };
    assert_eq!((write.expected, write.record.revision), (None, 1));
}

#[test]
fn a_revoked_ca_does_not_come_back_with_a_backup() {
    let later = UnixMillis(NOW.0 + 10);
    let active = CaCertificate { updated_at: UnixMillis(100), ..transitions::ca(CaState::Active) };
    let revoked = transitions::ca(CaState::Revoked);
    for (current, backup) in [(&active, &revoked), (&revoked, &active)] {
        let merged = merge_ca(Some(current), None, backup, later).unwrap();
        assert_eq!(merged.record().state, CaState::Revoked);
    }
    assert_eq!(merge_ca(None, Some(&bury_ca(&revoked, NOW)), &active, later), None);
    let back = merge_ca(None, None, &active, later).unwrap();
    assert_eq!((back.record().state, back.record().revision), (CaState::Active, 1));
}

#[test]
fn a_rejected_certificate_says_so() {
    let pending = transitions::device(DeviceState::PendingActivation);
    let rejected = written(reject(&pending, NOW));
    assert_eq!(rejected.revocation_reason.as_deref(), Some("rejected"));
    assert_eq!(reject(&rejected, NOW), Ok(Transition::Unchanged(rejected.clone())));
    assert!(!rejected.is_key_compromised());
}

#[test]
fn revocation_reasons_are_those_of_the_rfc() {
    for reason in RevocationReason::ALL {
        assert_eq!(RevocationReason::parse(reason.as_str()), Some(reason));
        assert_eq!(RevocationReason::parse(&reason.as_str().to_lowercase()), Some(reason));
    }
    assert_eq!(RevocationReason::parse("because"), None);
}
