//! The tables of `docs/registry.md`, made by asking the rules: every event in every state, of device certificates and
//! of CAs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::rules::{
    CaPatch, Cascade, DevicePatch, Force, RuleError, Transition, activate, activate_ca, change_ca,
    change_device, check_delete_ca, deactivate, deactivate_ca, delete, end_retirement, end_supersession,
    lapse, purge, quarantine, reinstate, reject, release, reparent, retire_ca, revoke, revoke_ca, supersede,
    verify_ca,
};
use mqgate_identity::registry::{
    CaCertificate, CaSettings, CaState, CaUsage, DeviceCertificate, DeviceState, OnDeactivate, Quarantine,
    RegistrationSource, RevocationReason, Supersession, VerifiedBy,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};

pub const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

const CA: CertificateFingerprint = CertificateFingerprint([0xca; 32]);
const OTHER_CA: CertificateFingerprint = CertificateFingerprint([0xcb; 32]);

/// What became of it: a state, nothing, or a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    To(String),
    Unchanged,
    Gone,
    /// Code and text.
    Refused(&'static str, String),
}

pub struct Cell {
    pub state: String,
    pub event: &'static str,
    pub outcome: Outcome,
}

pub fn ca(state: CaState) -> CaCertificate {
    CaCertificate {
        id: CA,
        name: "factory".into(),
        namespace: "default".into(),
        trust_domain: "default".into(),
        state,
        usage: CaUsage::ClientAuth,
        settings: CaSettings::default(),
        verified_by: match state {
            CaState::PendingActivation => None,
            _ => Some(VerifiedBy::Skipped { by: "admin:x".into() }),
        },
        tags: Vec::new(),
        subject: "CN=factory".into(),
        issuer: "CN=factory".into(),
        serial: "01".into(),
        spki_sha256: "00".repeat(32),
        subject_key_id: None,
        authority_key_id: None,
        key_algorithm: "1.2.840.10045.2.1".into(),
        key_bits: 256,
        is_self_issued: true,
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(2_000_000_000),
        retiring_until: (state == CaState::Retiring).then_some(UnixMillis(NOW.0 + 1000)),
        replaced_by: (state == CaState::Retiring).then_some(OTHER_CA),
        deactivated: (state == CaState::Inactive).then_some(OnDeactivate::BlockNewConnections),
        revocation_reason: (state == CaState::Revoked).then(|| "cACompromise".into()),
        created_at: UnixMillis(1),
        updated_at: UnixMillis(1),
        last_activated: None,
        last_deactivated: None,
        revision: 7,
        pem: String::new(),
    }
}

pub fn device(state: DeviceState) -> DeviceCertificate {
    DeviceCertificate {
        id: CertificateFingerprint([7; 32]),
        state,
        namespace: "default".into(),
        trust_domain: "default".into(),
        device_id: "meter-7".into(),
        tenant: None,
        tags: vec!["meter".into()],
        client_id: Some("c-7".into()),
        ca_id: CA,
        issuer_key_id: "11".repeat(32),
        subject: "CN=meter-7".into(),
        issuer: "CN=factory".into(),
        serial: "07".into(),
        spki_sha256: "22".repeat(32),
        common_name: Some("meter-7".into()),
        organizational_units: Vec::new(),
        subject_alt_names: Vec::new(),
        not_before: UnixSeconds(1_600_000_000),
        not_after: UnixSeconds(1_800_000_000),
        source: RegistrationSource::Api,
        registered_at: UnixMillis(1),
        updated_at: UnixMillis(1),
        last_seen: None,
        pending_until: (state == DeviceState::PendingActivation).then_some(UnixMillis(NOW.0 + 1000)),
        superseded: None,
        quarantined: None,
        revocation_reason: (state == DeviceState::Revoked).then(|| "superseded".into()),
        revoked_at: None,
        deleted_at: None,
        attributes: BTreeMap::from([("site".into(), "north".into())]),
        revision: 7,
        pem: "-----BEGIN CERTIFICATE-----\n".into(),
    }
}

/// Every event of a device certificate, by name.
#[expect(clippy::type_complexity, reason = "a table")]
pub fn device_events()
-> Vec<(&'static str, Box<dyn Fn(&DeviceCertificate, Option<&CaCertificate>) -> Outcome>)> {
    let newer = || DeviceCertificate { id: CertificateFingerprint([8; 32]), ..device(DeviceState::Active) };
    let past = UnixMillis(NOW.0 - 1);
    let superseded = move |record: &DeviceCertificate| DeviceCertificate {
        superseded: Some(Supersession { by: CertificateFingerprint([8; 32]), at: past, ends_at: past }),
        ..record.clone()
    };
    let held = |record: &DeviceCertificate| match record.state {
        DeviceState::Inactive => DeviceCertificate {
            revocation_reason: Some(RevocationReason::CertificateHold.as_str().into()),
            ..record.clone()
        },
        _ => record.clone(),
    };
    let patch = DevicePatch { tags: Some(vec!["new".into()]), ..DevicePatch::default() };
    vec![
        ("activate", Box::new(|record, ca| of_device(record, activate(record, ca, NOW)))),
        (
            "activate, superseded",
            Box::new(move |record, ca| {
                let record = superseded(record);
                of_device(&record, activate(&record, ca, NOW))
            }),
        ),
        ("deactivate", Box::new(|record, _| of_device(record, deactivate(record, NOW)))),
        ("reject", Box::new(|record, _| of_device(record, reject(record, NOW)))),
        (
            "revoke",
            Box::new(|record, ca| of_device(record, revoke(record, RevocationReason::Unspecified, ca, NOW))),
        ),
        (
            "revoke, keyCompromise",
            Box::new(|record, ca| {
                of_device(record, revoke(record, RevocationReason::KeyCompromise, ca, NOW))
            }),
        ),
        (
            "revoke, certificateHold",
            Box::new(|record, ca| {
                of_device(record, revoke(record, RevocationReason::CertificateHold, ca, NOW))
            }),
        ),
        (
            "revoke, removeFromCRL",
            Box::new(|record, ca| {
                of_device(record, revoke(record, RevocationReason::RemoveFromCrl, ca, NOW))
            }),
        ),
        (
            "revoke, removeFromCRL, on hold",
            Box::new(move |record, ca| {
                let record = held(record);
                of_device(&record, revoke(&record, RevocationReason::RemoveFromCrl, ca, NOW))
            }),
        ),
        ("delete", Box::new(|record, _| of_device(record, delete(record, Force::No, NOW)))),
        ("delete, force", Box::new(|record, _| of_device(record, delete(record, Force::Yes, NOW)))),
        ("time to live is over", Box::new(|record, _| gone(lapse(record, UnixMillis(NOW.0 + 1000))))),
        ("time to live is not over", Box::new(|record, _| gone(lapse(record, NOW)))),
        ("purge", Box::new(|record, _| gone(purge(record, NOW)))),
        (
            "purge, was revoked",
            Box::new(|record, _| {
                let reason = Some("keyCompromise".to_owned());
                gone(purge(&DeviceCertificate { revocation_reason: reason, ..record.clone() }, NOW))
            }),
        ),
        (
            "successor is used",
            Box::new(move |record, _| of_device(record, supersede(record, &newer(), 600_000, NOW))),
        ),
        (
            "other device's certificate is used",
            Box::new(move |record, _| {
                let other = DeviceCertificate { device_id: "meter-8".into(), ..newer() };
                of_device(record, supersede(record, &other, 600_000, NOW))
            }),
        ),
        (
            "overlap is over",
            Box::new(move |record, _| {
                let record = superseded(record);
                of_device(&record, end_supersession(&record, NOW))
            }),
        ),
        (
            "overlap is over, not superseded",
            Box::new(|record, _| of_device(record, end_supersession(record, NOW))),
        ),
        ("reinstate", Box::new(|record, ca| of_device(record, reinstate(record, ca, NOW)))),
        (
            "reinstate, superseded",
            Box::new(move |record, ca| {
                let record = superseded(record);
                of_device(&record, reinstate(&record, ca, NOW))
            }),
        ),
        (
            "reinstate, superseded, on hold",
            Box::new(move |record, ca| {
                let record = superseded(&held(record));
                of_device(&record, reinstate(&record, ca, NOW))
            }),
        ),
        ("quarantine", Box::new(|record, _| of_device(record, quarantine(record, "a clone", NOW)))),
        ("release", Box::new(|record, _| of_device(record, release(record, NOW)))),
        (
            "release, in quarantine",
            Box::new(|record, _| {
                let quarantined = Some(Quarantine { at: NOW, why: "a clone".into() });
                let record = DeviceCertificate { quarantined, ..record.clone() };
                of_device(&record, release(&record, NOW))
            }),
        ),
        (
            "change binding or tags",
            Box::new(move |record, _| of_device(record, change_device(record, &patch, NOW))),
        ),
        ("CA is renewed", Box::new(|record, _| of_device(record, reparent(record, OTHER_CA, NOW)))),
    ]
}

/// Every event of a CA, by name.
#[expect(clippy::type_complexity, reason = "a table")]
pub fn ca_events() -> Vec<(&'static str, Box<dyn Fn(&CaCertificate) -> Outcome>)> {
    let code = || VerifiedBy::RegistrationCode;
    let skipped = || VerifiedBy::Skipped { by: "admin:y".into() };
    let patch = CaPatch { tags: Some(vec!["new".into()]), ..CaPatch::default() };
    let soon = Some(UnixMillis(NOW.0 + 1));
    vec![
        ("verify, with a code", Box::new(move |ca| of_ca(ca, verify_ca(ca, code(), NOW)))),
        ("verify, on somebody's word", Box::new(move |ca| of_ca(ca, verify_ca(ca, skipped(), NOW)))),
        ("activate", Box::new(|ca| of_ca(ca, activate_ca(ca, NOW)))),
        (
            "activate, expired",
            Box::new(|ca| {
                let ca = CaCertificate { not_after: UnixSeconds(1), ..ca.clone() };
                of_ca(&ca, activate_ca(&ca, NOW))
            }),
        ),
        ("deactivate", Box::new(|ca| of_ca(ca, deactivate_ca(ca, None, NOW)))),
        (
            "deactivate, disconnect",
            Box::new(|ca| of_ca(ca, deactivate_ca(ca, Some(OnDeactivate::Disconnect), NOW))),
        ),
        ("replace, with grace", Box::new(move |ca| of_ca(ca, retire_ca(ca, OTHER_CA, soon, NOW)))),
        ("replace, at once", Box::new(|ca| of_ca(ca, retire_ca(ca, OTHER_CA, None, NOW)))),
        ("grace is over", Box::new(|ca| of_ca(ca, end_retirement(ca, NOW)))),
        ("revoke", Box::new(|ca| of_ca(ca, revoke_ca(ca, RevocationReason::CaCompromise, NOW)))),
        ("change settings or tags", Box::new(move |ca| of_ca(ca, change_ca(ca, &patch, NOW)))),
        ("delete, no certificates", Box::new(|ca| gone(check_delete_ca(ca, 0, Cascade::Refuse)))),
        ("delete, certificates", Box::new(|ca| gone(check_delete_ca(ca, 3, Cascade::Refuse)))),
        ("delete, cascade = revoke", Box::new(|ca| gone(check_delete_ca(ca, 3, Cascade::Revoke)))),
        ("delete, cascade = orphan", Box::new(|ca| gone(check_delete_ca(ca, 3, Cascade::Orphan)))),
    ]
}

fn of_device(
    before: &DeviceCertificate,
    result: Result<Transition<DeviceCertificate>, RuleError>,
) -> Outcome {
    match result {
        Ok(Transition::Unchanged(record)) => {
            assert_eq!(record, *before);
            Outcome::Unchanged
        }
        Ok(Transition::Write(write)) => {
            let after = write.record;
            assert_eq!((write.expected, after.revision), (Some(before.revision), before.revision + 1));
            assert_eq!(after.updated_at, NOW);
            assert_eq!((after.id, &after.device_id), (before.id, &before.device_id));
            Outcome::To(match after.state {
                state if state != before.state => text(state),
                state if after.superseded != before.superseded => match after.superseded {
                    Some(_) => format!("{}, superseded", text(state)),
                    None => format!("{}, not superseded", text(state)),
                },
                state if after.quarantined.is_some() && before.quarantined.is_none() => {
                    format!("{}, in quarantine", text(state))
                }
                state => format!("{}, changed", text(state)),
            })
        }
        Err(error) => refused(&error),
    }
}

fn of_ca(before: &CaCertificate, result: Result<Transition<CaCertificate>, RuleError>) -> Outcome {
    match result {
        Ok(Transition::Unchanged(record)) => {
            assert_eq!(record, *before);
            Outcome::Unchanged
        }
        Ok(Transition::Write(write)) => {
            let after = write.record;
            assert_eq!((write.expected, after.revision), (Some(before.revision), before.revision + 1));
            assert_eq!(after.updated_at, NOW);
            Outcome::To(match after.state {
                state if state != before.state => text(state),
                state => format!("{}, changed", text(state)),
            })
        }
        Err(error) => refused(&error),
    }
}

fn gone(result: Result<(), RuleError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Gone,
        Err(error) => refused(&error),
    }
}

pub fn refused(error: &RuleError) -> Outcome {
    let text = error.to_string();
    assert!(text.len() > 20, "{text}");
    Outcome::Refused(error.code(), text)
}

/// As in JSON.
fn text(state: impl std::fmt::Debug) -> String {
    let mut out = String::new();
    for (at, c) in format!("{state:?}").char_indices() {
        if c.is_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

pub fn device_cells() -> Vec<Cell> {
    let carried = ca(CaState::Active);
    let mut cells = Vec::new();
    for (event, rule) in device_events() {
        for state in DeviceState::ALL {
            let outcome = rule(&device(state), Some(&carried));
            cells.push(Cell { state: text(state), event, outcome });
        }
    }
    cells
}

pub fn ca_cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (event, rule) in ca_events() {
        for state in CaState::ALL {
            cells.push(Cell { state: text(state), event, outcome: rule(&ca(state)) });
        }
    }
    cells
}

/// Codes that are in the table, each with the text that it first came with.
pub fn codes(cells: &[Cell]) -> BTreeMap<&'static str, String> {
    let mut codes = BTreeMap::new();
    for cell in cells {
        if let Outcome::Refused(code, text) = &cell.outcome {
            codes.entry(*code).or_insert_with(|| text.clone());
        }
    }
    codes
}

/// Every code with its text.
pub fn codes_markdown(codes: &BTreeMap<&'static str, String>) -> String {
    let mut out = String::from("| code | text |\n|---|---|\n");
    for (code, text) in codes {
        let is_id = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let words = text.split(' ').map(|word| {
            let plain = word.trim_matches([':', ',', ';']);
            if is_id(plain) { word.replace(plain, "ID") } else { word.to_owned() }
        });
        let _ = writeln!(out, "| `{code}` | {} |", words.collect::<Vec<_>>().join(" "));
    }
    out
}

/// One row for each event, one column for each state.
pub fn markdown(cells: &[Cell]) -> String {
    let mut states: Vec<&str> = Vec::new();
    let mut events: Vec<&str> = Vec::new();
    for cell in cells {
        if !states.contains(&&*cell.state) {
            states.push(&cell.state);
        }
        if !events.contains(&cell.event) {
            events.push(cell.event);
        }
    }
    let mut out = format!("| event | {} |\n", states.join(" | "));
    out.push_str(&"|---".repeat(states.len() + 1));
    out.push_str("|\n");
    for event in events {
        let row: Vec<String> = cells
            .iter()
            .filter(|cell| cell.event == event)
            .map(|cell| match &cell.outcome {
                Outcome::To(state) => format!("**{state}**"),
                Outcome::Unchanged => "no change".into(),
                Outcome::Gone => "**gone**".into(),
                Outcome::Refused(code, _) => format!("`{code}`"),
            })
            .collect();
        let _ = writeln!(out, "| {event} | {} |", row.join(" | "));
    }
    out
}
