//! The registry's rules as one table.

use std::collections::BTreeMap;

use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::evaluation::PathPolicy;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{
    Force, NewDevice, OnTombstone, RevocationReason, RuleError, Transition, activate, add_ca,
    check_remove_ca, deactivate, delete, effective, register_new, revoke, set_ca_state,
};
use mqgate_identity::registry::{CaCertificate, CaState, DeviceCertificate, DeviceState, RegistrationSource};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use rcgen::date_time_ymd;

use crate::pki::{Authority, named};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

struct World {
    facts: CertificateFacts,
    ca: CaCertificate,
    record: DeviceCertificate,
}

fn new(facts: &CertificateFacts, ca: &CaCertificate) -> NewDevice<'static> {
    NewDevice {
        facts: Box::leak(Box::new(facts.clone())),
        ca_id: ca.id,
        device_id: "device-7".into(),
        tenant: Some("acme".into()),
        tags: vec!["meter".into()],
        client_id: Some("c-7".into()),
        attributes: BTreeMap::from([("site".into(), "north".into())]),
        state: DeviceState::Active,
        source: RegistrationSource::Api,
        on_tombstone: OnTombstone::Refuse,
    }
}

fn world() -> World {
    let root = Authority::root("root");
    let mut params = named("device-7");
    params.not_before = date_time_ymd(2023, 1, 1);
    params.not_after = date_time_ymd(2024, 1, 1);
    let facts = CertificateFacts::parse(&root.sign(params)).unwrap();
    let ca =
        add_ca(&CertificateFacts::parse(&root.der).unwrap(), "root", None, NOW).unwrap().record().clone();
    let record = register_new(new(&facts, &ca), None, Some(&ca), NOW).unwrap().record().clone();
    World { facts, ca, record }
}

fn in_state(record: &DeviceCertificate, state: DeviceState) -> DeviceCertificate {
    let revocation_reason = (state == DeviceState::Revoked).then(|| "keyCompromise".to_owned());
    DeviceCertificate { state, revocation_reason, ..record.clone() }
}

/// "to STATE", "unchanged", or the error.
fn outcome(result: &Result<Transition<DeviceCertificate>, RuleError>) -> String {
    match result {
        Ok(Transition::Unchanged(_)) => "unchanged".into(),
        Ok(Transition::Write(write)) => {
            assert_eq!(write.record.revision, write.expected.unwrap_or(0) + 1);
            assert_eq!(write.record.updated_at, UnixMillis(NOW.0 + 1));
            format!("to {:?}", write.record.state)
        }
        Err(error) => {
            let name = format!("{error:?}");
            assert!(error.to_string().len() > 20, "{error}");
            name.split(['(', ' ']).next().unwrap_or_default().to_owned()
        }
    }
}

#[test]
fn all_transitions() {
    let World { ca, record, .. } = world();
    let later = UnixMillis(NOW.0 + 1);
    let mut table = String::new();
    for state in [
        DeviceState::PendingActivation,
        DeviceState::Active,
        DeviceState::Inactive,
        DeviceState::Revoked,
        DeviceState::Tombstone,
    ] {
        let record = in_state(&record, state);
        let cells = [
            outcome(&activate(&record, Some(&ca), later)),
            outcome(&deactivate(&record, later)),
            outcome(&revoke(&record, RevocationReason::KeyCompromise, Some(&ca), later)),
            outcome(&revoke(&record, RevocationReason::CertificateHold, Some(&ca), later)),
            outcome(&revoke(&record, RevocationReason::RemoveFromCrl, Some(&ca), later)),
            outcome(&delete(&record, Force::No, later)),
            outcome(&delete(&record, Force::Yes, later)),
        ];
        table.push_str(&format!("{state:?}: {}\n", cells.join(" | ")));
    }
    // activate | deactivate | revoke | hold | removeFromCRL | delete | delete with force
    insta::assert_snapshot!(table, @r"
    PendingActivation: to Active | Pending | to Revoked | Pending | NotOnHold | to Tombstone | to Tombstone
    Active: unchanged | to Inactive | to Revoked | to Inactive | NotOnHold | Active | to Tombstone
    Inactive: to Active | unchanged | to Revoked | to Inactive | NotOnHold | to Tombstone | to Tombstone
    Revoked: Revoked | Revoked | unchanged | unchanged | Revoked | to Tombstone | to Tombstone
    Tombstone: Tombstoned | Tombstoned | Tombstoned | Tombstoned | Tombstoned | unchanged | unchanged
    ");
}

#[test]
fn activation_has_guards() {
    let World { ca, record, .. } = world();
    let inactive = in_state(&record, DeviceState::Inactive);
    for (state, text) in [(CaState::Inactive, "not active"), (CaState::Revoked, "revoked")] {
        let ca = CaCertificate { state, ..ca.clone() };
        assert!(activate(&inactive, Some(&ca), NOW).unwrap_err().to_string().contains(text));
    }
    assert!(activate(&inactive, None, NOW).unwrap_err().to_string().contains("not in the registry"));
    let error = activate(&inactive, Some(&ca), UnixMillis(1_800_000_000_000)).unwrap_err();
    assert!(matches!(error, RuleError::Expired { .. }), "{error}");
}

#[test]
fn a_hold_can_be_lifted_and_deleting_does_not_undo_a_revocation() {
    let World { facts, ca, record } = world();
    let held = revoke(&record, RevocationReason::CertificateHold, Some(&ca), NOW).unwrap().record().clone();
    assert_eq!(
        (held.state, held.revocation_reason.as_deref()),
        (DeviceState::Inactive, Some("certificateHold"))
    );
    let lifted = revoke(&held, RevocationReason::RemoveFromCrl, Some(&ca), NOW).unwrap().record().clone();
    assert_eq!((lifted.state, lifted.revocation_reason), (DeviceState::Active, None));

    let restore = || NewDevice { on_tombstone: OnTombstone::Restore, ..new(&facts, &ca) };
    let gone = delete(&record, Force::Yes, NOW).unwrap().record().clone();
    assert!(gone.pem.is_empty() && gone.attributes.is_empty() && gone.client_id.is_none());
    assert_eq!(register_new(new(&facts, &ca), Some(&gone), Some(&ca), NOW), Err(RuleError::Tombstoned));
    let Transition::Write(back) = register_new(restore(), Some(&gone), Some(&ca), NOW).unwrap() else {
        panic!("nothing to write")
    };
    assert_eq!((back.expected, back.record.revision), (Some(gone.revision), gone.revision + 1));

    let revoked = revoke(&record, RevocationReason::KeyCompromise, Some(&ca), NOW).unwrap().record().clone();
    let gone = delete(&revoked, Force::No, NOW).unwrap().record().clone();
    assert_eq!(register_new(restore(), Some(&gone), Some(&ca), NOW), Err(RuleError::Revoked));
    assert_eq!(register_new(restore(), Some(&revoked), Some(&ca), NOW), Err(RuleError::Revoked));
}

#[test]
fn registering() {
    let World { facts, ca, record } = world();
    assert_eq!((record.revision, record.state), (1, DeviceState::Active));
    assert_eq!(record.id, facts.certificate_fingerprint);
    assert_eq!(record.subject, "CN=device-7");
    assert!(record.pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(record.spki_sha256.len(), 64);
    let again = register_new(new(&facts, &ca), Some(&record), Some(&ca), NOW);
    assert_eq!(again, Ok(Transition::Unchanged(record.clone())));
    for other in [
        NewDevice { device_id: "device-8".into(), ..new(&facts, &ca) },
        NewDevice { client_id: None, ..new(&facts, &ca) },
    ] {
        let error = register_new(other, Some(&record), Some(&ca), NOW).unwrap_err();
        assert!(error.to_string().contains("device-7"), "{error}");
    }
    let bad_id = NewDevice { device_id: "a/b".into(), ..new(&facts, &ca) };
    assert!(matches!(register_new(bad_id, None, Some(&ca), NOW), Err(RuleError::DeviceId(_))));
    for state in [DeviceState::Revoked, DeviceState::Tombstone] {
        let odd = NewDevice { state, ..new(&facts, &ca) };
        assert_eq!(register_new(odd, None, Some(&ca), NOW), Err(RuleError::StartState(state)));
    }
    assert!(matches!(register_new(new(&facts, &ca), None, None, NOW), Err(RuleError::Ca(_))));
    let late = UnixMillis(1_800_000_000_000);
    assert!(matches!(register_new(new(&facts, &ca), None, Some(&ca), late), Err(RuleError::Expired { .. })));
}

#[test]
fn who_may_connect() {
    let World { ca, record, .. } = world();
    let policy = PathPolicy::default();
    let now = NOW.seconds();
    let ca_in = |state| CaCertificate { state, ..ca.clone() };
    for (state, expected) in [
        (DeviceState::Active, Ok(())),
        (DeviceState::PendingActivation, Err(Reason::CertPending)),
        (DeviceState::Inactive, Err(Reason::CertInactive)),
        (DeviceState::Revoked, Err(Reason::CertRevoked)),
        (DeviceState::Tombstone, Err(Reason::CertTombstoned)),
    ] {
        assert_eq!(effective(&in_state(&record, state), Some(&ca), &policy, now), expected);
    }
    assert_eq!(effective(&record, None, &policy, now), Err(Reason::CaInactive));
    assert_eq!(effective(&record, Some(&ca_in(CaState::Inactive)), &policy, now), Err(Reason::CaInactive));
    assert_eq!(effective(&record, Some(&ca_in(CaState::Revoked)), &policy, now), Err(Reason::CaInactive));
    for (now, expected) in [
        (record.not_before.0 - 300, Ok(())),
        (record.not_before.0 - 301, Err(Reason::CertNotYetValid)),
        (record.not_after.0, Ok(())),
        (record.not_after.0 + 1, Err(Reason::CertExpired)),
    ] {
        assert_eq!(effective(&record, Some(&ca), &policy, UnixSeconds(now)), expected);
    }
}

#[test]
fn certificate_authorities() {
    let World { facts, ca, .. } = world();
    assert_eq!(add_ca(&facts, "leaf", None, NOW), Err(RuleError::NotACa));
    let root = CertificateFacts::parse(&Authority::root("r").der).unwrap();
    for name in ["", "a b", "a/b", &"x".repeat(65)] {
        assert_eq!(add_ca(&root, name, None, NOW), Err(RuleError::CaName), "{name}");
    }
    assert_eq!(add_ca(&root, "r", Some(&ca), NOW), Ok(Transition::Unchanged(ca.clone())));
    let inactive = set_ca_state(&ca, CaState::Inactive, NOW).unwrap().record().clone();
    assert_eq!((inactive.state, inactive.revision), (CaState::Inactive, 2));
    assert_eq!(set_ca_state(&inactive, CaState::Active, NOW).unwrap().record().state, CaState::Active);
    let revoked = set_ca_state(&inactive, CaState::Revoked, NOW).unwrap().record().clone();
    assert_eq!(set_ca_state(&revoked, CaState::Active, NOW), Err(RuleError::CaRevoked));
    assert_eq!(add_ca(&root, "r", Some(&revoked), NOW), Err(RuleError::CaRevoked));
    assert_eq!(check_remove_ca(0, Force::No), Ok(()));
    assert_eq!(check_remove_ca(3, Force::Yes), Ok(()));
    let error = check_remove_ca(3, Force::No).unwrap_err().to_string();
    assert!(error.starts_with("related_device_certificates_exist: 3 "), "{error}");
}

#[test]
fn revocation_reasons_are_those_of_the_rfc() {
    for reason in RevocationReason::ALL {
        assert_eq!(RevocationReason::parse(reason.as_str()), Some(reason));
        assert_eq!(RevocationReason::parse(&reason.as_str().to_lowercase()), Some(reason));
    }
    assert_eq!(RevocationReason::parse("because"), None);
}
