mod names;
mod side_by_side;

use std::sync::Mutex;

use mqgate_identity::registry::rules::{CaPatch, Cascade, DevicePatch, Force, RevocationReason};
use mqgate_identity::registry::{CaSettings, CaState, EventKind, OnDeactivate, VerifiedBy};
use mqgate_identity::time::UnixSeconds;
use rcgen::ExtendedKeyUsagePurpose;

use super::*;
use crate::testing::{MemoryStorage, TestCa, TestCertificate, metrics};

struct World {
    storage: Arc<MemoryStorage>,
    trust: Arc<TrustStore>,
    metrics: Arc<GateMetrics>,
    registry: Arc<Registry>,
    changes: Arc<Mutex<Vec<RegistryChange>>>,
    audit: Arc<AuditLog>,
}

impl World {
    async fn new(configured: &[&TestCa]) -> Self {
        Self::over(Arc::default(), configured).await
    }

    async fn over(storage: Arc<MemoryStorage>, configured: &[&TestCa]) -> Self {
        let trust = Arc::new(TrustStore::new(2));
        trust.configure(configured.iter().map(|ca| ca.anchor()).collect()).unwrap();
        let audit = Arc::new(AuditLog::default());
        let metrics = Arc::clone(&metrics().gate);
        let registry = Registry::open(
            Arc::clone(&storage) as _,
            Arc::clone(&trust),
            Arc::clone(&audit),
            Arc::clone(&metrics),
            RegistrySettings::default(),
        );
        let registry = registry.await.unwrap();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&changes);
        registry.on_change(move |change| seen.lock().unwrap().push(change));
        Self { storage, trust, metrics, registry, changes, audit }
    }

    async fn register(&self, certificate: &TestCertificate) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let request = ManualRegistration { pem: certificate.pem(), ..ManualRegistration::default() };
        self.registry.register(request, "admin:test").await.map(|changed| changed.after)
    }

    /// Those that bar somebody.
    fn changes(&self) -> Vec<RegistryChange> {
        let mut changes = std::mem::take(&mut *self.changes.lock().unwrap());
        changes.retain(|change| !matches!(change, RegistryChange::DeviceChanged { .. }));
        changes
    }

    fn devices(&self, ca: &str, state: &str) -> i64 {
        self.metrics.device_certificates.with_label_values(&["default", ca, state]).get()
    }
}

#[tokio::test]
async fn the_life_of_a_device_certificate() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let device = ca.device("device-7");
    // Looked for before: the absence that is remembered then must not outlive the registration.
    assert!(world.registry.lookup(device.id()).await.unwrap().is_none());
    let record = world.register(&device).await.unwrap();
    assert_eq!((&*record.device_id, record.state), ("device-7", DeviceState::Active));
    assert_eq!(record.ca_id, ca.id());
    assert_eq!(world.registry.lookup(device.id()).await.unwrap().unwrap(), record);
    // Once more is no change.
    assert_eq!(world.register(&device).await.unwrap().revision, 1);
    assert_eq!(world.devices("devices", "active"), 1);
    assert!(world.changes().is_empty());

    let actor = "admin:test";
    world.registry.deactivate(device.id(), actor).await.unwrap();
    world.registry.activate(device.id(), actor).await.unwrap();
    let record = world.registry.revoke(device.id(), RevocationReason::KeyCompromise, actor).await.unwrap();
    assert_eq!(record.revocation_reason.as_deref(), Some("keyCompromise"));
    assert_eq!(world.registry.lookup(device.id()).await.unwrap().unwrap().state, DeviceState::Revoked);
    let barred = |reason| RegistryChange::DeviceBarred { certificate: device.id(), reason };
    assert_eq!(world.changes(), [barred(Reason::CertInactive), barred(Reason::CertRevoked)]);
    assert_eq!((world.devices("devices", "active"), world.devices("devices", "revoked")), (0, 1));

    let again = world.registry.activate(device.id(), actor).await.unwrap_err();
    assert!(matches!(again, RegistryError::Rule(RuleError::Revoked)), "{again}");
    let unknown = world.registry.revoke(ca.device("x").id(), RevocationReason::Unspecified, actor).await;
    assert!(matches!(unknown, Err(RegistryError::NotFound)));
}

#[tokio::test]
async fn only_certificates_of_known_cas_are_registered() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let refused = [
        TestCa::new("strangers").device("x"),
        ca.expired("x"),
        // Not for clients.
        ca.server(),
    ];
    for certificate in refused {
        let error = world.register(&certificate).await.unwrap_err();
        assert!(matches!(error, RegistryError::NoPath(_)), "{error}");
    }
    let request = ManualRegistration { pem: "no PEM".into(), ..ManualRegistration::default() };
    assert!(matches!(world.registry.register(request, "admin").await, Err(RegistryError::Certificate(_))));
    // Version 1 is fine, as in the handshake.
    world.register(&ca.v1_device("old")).await.unwrap();
}

#[tokio::test]
async fn cas_come_and_go() {
    let (configured, added) = (TestCa::new("configured"), TestCa::new("added"));
    let world = World::new(&[&configured]).await;
    let actor = "admin:test";
    assert!(!world.registry.trusts(added.id()));
    world.registry.add_ca(&added.pem(), "added", actor).await.unwrap();
    assert!(world.registry.trusts(added.id()));
    let names: Vec<_> = world.registry.cas().into_iter().map(|ca| ca.name).collect();
    assert_eq!(names, ["added", "configured"]);
    assert_eq!(world.metrics.ca_certificates.with_label_values(&["default", "active"]).get(), 2);

    // Refused, and nothing changed.
    let third = TestCa::new("third");
    let errors = [
        (third.pem(), "third", "more than the limit of 2"),
        (third.pem(), "configured", "two CA certificates have the name"),
        (third.device("x").pem(), "x", "not a CA certificate"),
        (third.pem(), "no spaces", "a CA name has"),
        (format!("{}{}", third.pem(), added.pem()), "two", "add one CA at a time"),
    ];
    for (pem, name, expected) in errors {
        let error = world.registry.add_ca(&pem, name, actor).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(world.registry.cas().len(), 2);

    let device = added.device("device-7");
    world.register(&device).await.unwrap();
    let kept = world.registry.remove_ca(added.id(), Force::No, None, actor).await.unwrap_err();
    assert!(matches!(kept, RegistryError::Rule(RuleError::DevicesExist(1))), "{kept}");
    assert!(matches!(
        world.registry.remove_ca(configured.id(), Force::Yes, None, actor).await,
        Err(RegistryError::Configured)
    ));
    world.registry.remove_ca(added.id(), Force::Yes, None, actor).await.unwrap();
    assert!(!world.registry.trusts(added.id()));
    assert_eq!(world.changes(), [RegistryChange::CaRemoved { ca: added.id() }]);
    assert!(matches!(world.register(&device).await, Err(RegistryError::NoPath(_))));
}

#[tokio::test]
async fn what_is_stored_is_there_after_a_restart() {
    let ca = TestCa::new("added");
    let storage = Arc::new(MemoryStorage::default());
    let device = ca.device("device-7");
    {
        let world = World::over(Arc::clone(&storage), &[]).await;
        world.registry.add_ca(&ca.pem(), "added", "admin").await.unwrap();
        world.register(&device).await.unwrap();
    }
    let world = World::over(storage, &[]).await;
    assert!(world.registry.trusts(ca.id()));
    assert!(world.trust.current().contains(ca.id()));
    assert_eq!(world.registry.lookup(device.id()).await.unwrap().unwrap().device_id, "device-7");
    assert_eq!(world.devices("added", "active"), 1);
}

#[tokio::test]
async fn a_storage_that_fails_is_no_answer_and_is_tried_again() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let device = ca.device("device-7");
    world.storage.failing.store(true, Ordering::SeqCst);
    assert!(world.registry.lookup(device.id()).await.is_err());
    assert!(!world.registry.is_healthy());
    assert!(matches!(world.register(&device).await, Err(RegistryError::Storage(_))));
    world.storage.failing.store(false, Ordering::SeqCst);
    assert!(world.registry.lookup(device.id()).await.unwrap().is_none());
    assert!(world.registry.is_healthy());
}

#[tokio::test]
async fn last_seen_is_written_now_and_then() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let device = ca.device("device-7");
    world.register(&device).await.unwrap();
    for _ in 0..3 {
        world.registry.seen(device.id());
        world.registry.write_seen().await;
    }
    let record = world.registry.device(device.id()).await.unwrap().unwrap();
    assert!(record.last_seen.is_some());
    assert_eq!(record.revision, 1, "being seen is no new revision");
    // A write by somebody else in between is not overwritten.
    world.registry.revoke(device.id(), RevocationReason::Unspecified, "admin").await.unwrap();
    world.registry.seen(device.id());
    world.registry.write_seen().await;
    let record = world.registry.device(device.id()).await.unwrap().unwrap();
    assert_eq!((record.state, record.revision), (DeviceState::Revoked, 2));
}

#[tokio::test]
async fn lookups_are_answered_from_memory() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let device = ca.device("device-7");
    world.register(&device).await.unwrap();
    let unknown = ca.device("unknown").id();
    world.registry.lookup(unknown).await.unwrap();
    world.storage.failing.store(true, Ordering::SeqCst);
    assert!(world.registry.lookup(device.id()).await.unwrap().is_some());
    assert!(world.registry.lookup(unknown).await.unwrap().is_none());
    let count = |result| world.metrics.registry_lookups.with_label_values(&[result]).get();
    assert_eq!((count("hit"), count("negative_hit"), count("miss")), (1, 1, 1));
}

#[tokio::test]
async fn a_closed_audit_log_lets_nobody_in_and_still_bars() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let device = ca.device("device-7");
    world.register(&device).await.unwrap();
    world.audit.close();
    assert!(matches!(world.register(&ca.device("new")).await, Err(RegistryError::Audit(_))));
    let told = world.registry.revoke(device.id(), RevocationReason::Unspecified, "admin").await;
    assert!(
        matches!(told, Err(RegistryError::Audit(_))),
        "the operator has to hear that it is not written down"
    );
    assert_eq!(world.registry.lookup(device.id()).await.unwrap().unwrap().state, DeviceState::Revoked);
    assert_eq!(world.changes().len(), 1);
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "it is what makes the storage slow")]
async fn a_change_that_nobody_waits_for_any_more_is_finished() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let device = ca.device("device-7");
    world.register(&device).await.unwrap();
    let begun = world.storage.writes_begun.load(Ordering::SeqCst);
    let asked = {
        let slow = world.storage.slow.lock().unwrap();
        let (registry, id) = (Arc::clone(&world.registry), device.id());
        let asked = tokio::spawn(async move {
            registry.revoke(id, RevocationReason::Unspecified, "admin").await.map(drop)
        });
        while world.storage.writes_begun.load(Ordering::SeqCst) == begun {
            tokio::task::yield_now().await;
        }
        asked.abort();
        drop(slow);
        asked
    };
    assert!(asked.await.unwrap_err().is_cancelled());
    while world.changes().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.registry.lookup(device.id()).await.unwrap().unwrap().state, DeviceState::Revoked);
}

/// Keeps in memory what a ledger would.
#[derive(Default)]
struct Keeper {
    running: Mutex<Vec<String>>,
    fails: AtomicBool,
}

impl Retirement for Keeper {
    fn begin(
        &self,
        old: &crate::retirement::Old<'_>,
        grace: Option<Duration>,
        _actor: &str,
    ) -> Result<crate::retirement::Begun, RetirementError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(RetirementError::Unavailable(String::from("the disk is full")));
        }
        let stays = grace != Some(Duration::ZERO);
        let mut running = self.running.lock().unwrap();
        running.clear();
        running.extend(stays.then(|| old.pem.to_owned()));
        let retiring =
            stays.then(|| crate::retirement::Retiring { id: String::from("t"), ends_at: UnixMillis(1) });
        Ok(crate::retirement::Begun { retiring, note: 0 })
    }

    fn take_back(&self, _begun: crate::retirement::Begun) {
        self.running.lock().unwrap().clear();
    }

    fn swap(&self, change: &mut crate::retirement::Swap<'_>) -> Result<(), TrustError> {
        let running = self.running.lock().unwrap();
        let anchors = running.iter().map(|pem| {
            let der = mqgate_identity::certificate::certificates_from_pem(pem.as_bytes()).unwrap().remove(0);
            mqgate_identity::evaluation::Anchor { name: "old".into(), der: der.into() }.into()
        });
        change(anchors.collect())
    }

    fn finish(&self, _begun: crate::retirement::Begun) {}
}

#[tokio::test]
async fn a_ca_that_is_replaced_is_trusted_beside_its_successor_as_long_as_somebody_keeps_it() {
    let (first, second, third) = (TestCa::new("first"), TestCa::new("second"), TestCa::new("third"));
    let world = World::new(&[]).await;
    let keeper = Arc::new(Keeper::default());
    let retirement: Arc<dyn Retirement> = Arc::clone(&keeper) as _;
    world.registry.retires_with(&retirement);
    let actor = "admin:test";
    world.registry.add_ca(&first.pem(), "factory", actor).await.unwrap();

    // What cannot be written down is not done.
    keeper.fails.store(true, Ordering::SeqCst);
    let refused = world.registry.replace_ca(first.id(), &second.pem(), None, None, actor).await;
    assert!(matches!(refused, Err(RegistryError::Retirement(_))), "{refused:?}");
    assert!(world.registry.trusts(first.id()) && !world.registry.trusts(second.id()));
    keeper.fails.store(false, Ordering::SeqCst);

    let replaced = world.registry.replace_ca(first.id(), &second.pem(), None, None, actor).await.unwrap();
    assert_eq!(replaced.new.map(|new| new.name).as_deref(), Some("factory"), "the name is the new one's");
    assert!(replaced.retiring.is_some());
    assert!(world.registry.trusts(first.id()) && world.registry.trusts(second.id()));
    assert!(world.registry.is_retiring(first.id()) && !world.registry.is_retiring(second.id()));
    assert!(world.changes().is_empty(), "nobody has to go yet");
    let state = |ca: &TestCa| world.registry.ca(ca.id()).map(|ca| ca.state);
    assert_eq!((state(&first), state(&second)), (Some(CaState::Retiring), Some(CaState::Active)));
    let old = world.storage.ca_certificates().unwrap().into_iter().find(|ca| ca.id == first.id()).unwrap();
    assert_eq!(old.replaced_by, Some(second.id()));
    assert_eq!(old.name, format!("factory-{}", &first.id().to_hex()[..8]), "the other name is the new one's");
    for refused in [
        world.registry.remove_ca(first.id(), Force::Yes, None, actor).await.map(drop),
        world.registry.delete_ca(first.id(), Cascade::Orphan, actor).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(
            matches!(error, RegistryError::Retiring | RegistryError::Rule(RuleError::CaInUse(_))),
            "{error}"
        );
    }

    let now = Some(Duration::ZERO);
    let replaced =
        world.registry.replace_ca(second.id(), &third.pem(), Some("new"), now, actor).await.unwrap();
    assert!(replaced.retiring.is_none());
    assert!(!world.registry.trusts(second.id()) && world.registry.trusts(third.id()));
    assert_eq!(world.changes(), [RegistryChange::CaRemoved { ca: second.id() }]);
    assert_eq!((state(&second), state(&third)), (Some(CaState::Inactive), Some(CaState::Active)));
    // What the ledger ended is out of use from the next round on.
    keeper.running.lock().unwrap().clear();
    world.trust.retire(Vec::new()).unwrap();
    world.registry.end_retirements().await;
    assert_eq!(state(&first), Some(CaState::Inactive));
    let same = world.registry.replace_ca(third.id(), &third.pem(), None, now, actor).await;
    assert!(matches!(same, Err(RegistryError::SameCa)), "{same:?}");
}

#[tokio::test]
async fn clients_of_a_removed_ca_are_looked_at_also_where_the_configuration_has_it_elsewhere() {
    let ca = TestCa::new("both");
    let world = World::new(&[]).await;
    let on_one = crate::trust::BoundAnchor { anchor: ca.anchor(), listeners: Some(vec!["one".into()]) };
    world.trust.configure_bound(vec![on_one], Vec::new()).unwrap();
    world.registry.add_ca(&ca.pem(), "registered", "admin:test").await.unwrap();
    let other = world.trust.listener("other");
    assert!(other.current().contains(ca.id()));
    world.registry.remove_ca(ca.id(), Force::No, None, "admin:test").await.unwrap();
    assert!(world.registry.trusts(ca.id()) && !other.current().contains(ca.id()));
    assert_eq!(world.changes(), [RegistryChange::CaRemoved { ca: ca.id() }]);
}

/// A certificate whose common name is a registration code.
fn proof(ca: &TestCa, code: &str) -> String {
    ca.device(code).pem()
}

fn registration(ca: &TestCa, name: &str, proof: CaProof) -> CaRegistration {
    CaRegistration { pem: ca.pem(), name: name.into(), proof, ..CaRegistration::default() }
}

#[tokio::test]
async fn a_ca_is_trusted_once_somebody_proved_to_hold_its_key() {
    let world = World::new(&[]).await;
    let (ca, other, actor) = (TestCa::new("factory"), TestCa::new("other"), "admin:test");
    let pending =
        world.registry.register_ca(registration(&ca, "factory", CaProof::None), actor).await.unwrap();
    assert_eq!((pending.state, pending.is_new()), (CaState::PendingActivation, true));
    assert!(!world.registry.trusts(ca.id()));
    assert!(matches!(world.register(&ca.device("d")).await, Err(RegistryError::NoPath(_))));

    let code = world.registry.create_registration_code(None, actor).await.unwrap();
    for (pem, expected) in [
        (proof(&ca, "no code"), "registration_code_invalid"),
        (proof(&other, &code.code), "public_key_mismatch"),
        (
            ca.issue(&code.code, ExtendedKeyUsagePurpose::ClientAuth, |params| {
                params.not_after = rcgen::date_time_ymd(2020, 1, 1);
            })
            .pem(),
            "verification_expired",
        ),
    ] {
        let error = world.registry.verify_ca(ca.id(), &pem, actor).await.unwrap_err();
        assert_eq!(error.code(), expected, "{error}");
    }
    let tried = Ask::by(actor).dry_run(DryRun::Yes);
    let tried = world.registry.verify_ca(ca.id(), &proof(&ca, &code.code), tried).await.unwrap();
    assert_eq!(tried.state, CaState::Active);
    assert!(!world.registry.trusts(ca.id()), "only tried");
    let verified = world.registry.verify_ca(ca.id(), &proof(&ca, &code.code), actor).await.unwrap();
    assert_eq!(verified.verified_by, Some(VerifiedBy::RegistrationCode));
    assert!(world.registry.trusts(ca.id()));
    // Used once, for one.
    let again = registration(&other, "other", CaProof::Certificate(proof(&other, &code.code)));
    assert_eq!(world.registry.register_ca(again, actor).await.unwrap_err().code(), "registration_code_used");
    let short = world.registry.create_registration_code(Some(Duration::ZERO), actor).await.unwrap();
    let late = registration(&other, "other", CaProof::Certificate(proof(&other, &short.code)));
    assert_eq!(
        world.registry.register_ca(late, actor).await.unwrap_err().code(),
        "registration_code_expired"
    );
    let code = world.registry.create_registration_code(None, actor).await.unwrap();
    world.registry.delete_registration_code(&code.code, actor).await.unwrap();
    let void = registration(&other, "other", CaProof::Certificate(proof(&other, &code.code)));
    assert_eq!(
        world.registry.register_ca(void, actor).await.unwrap_err().code(),
        "registration_code_invalid"
    );
    let kinds: Vec<_> =
        world.registry.events(0, 9).await.unwrap().events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::CaRegistered, EventKind::CaVerified]);
}

#[tokio::test]
async fn a_ca_goes_out_of_use_as_far_as_it_is_told_to() {
    let world = World::new(&[]).await;
    let (ca, actor) = (TestCa::new("factory"), "admin:test");
    world.registry.add_ca(&ca.pem(), "factory", actor).await.unwrap();
    let device = ca.device("device-7");
    let record = world.register(&device).await.unwrap();
    for (mode, trusted, effective, gone) in [
        (OnDeactivate::BlockNewRegistrations, true, Ok(()), false),
        (OnDeactivate::BlockNewConnections, false, Err(Reason::CaInactive), false),
        (OnDeactivate::Disconnect, false, Err(Reason::CaInactive), true),
    ] {
        let off = world.registry.deactivate_ca(ca.id(), Some(mode), actor).await.unwrap();
        assert_eq!((off.state, off.deactivated), (CaState::Inactive, Some(mode)));
        assert_eq!(world.registry.trusts(ca.id()), trusted, "{mode:?}");
        assert_eq!(world.registry.effective(&record), effective, "{mode:?}");
        assert_eq!(!world.changes().is_empty(), gone, "{mode:?}");
        // By hand certificates can be registered before it is in use again.
        world.register(&ca.device("later")).await.unwrap();
    }
    let stale = Ask::by(actor).expecting(Some(1));
    let conflict = world.registry.activate_ca(ca.id(), stale).await.unwrap_err();
    assert_eq!(conflict.code(), "revision_conflict");
    world.registry.activate_ca(ca.id(), actor).await.unwrap();
    assert!(world.registry.trusts(ca.id()));
    let patch = CaPatch {
        name: Some("renamed".into()),
        settings: Some(CaSettings { max_device_certs: Some(3), ..CaSettings::default() }),
        ..CaPatch::default()
    };
    let changed = world.registry.change_ca(ca.id(), &patch, actor).await.unwrap();
    assert_eq!((&*changed.name, changed.settings.max_device_certs), ("renamed", Some(3)));

    world.registry.revoke_ca(ca.id(), RevocationReason::CaCompromise, actor).await.unwrap();
    assert!(!world.registry.trusts(ca.id()));
    assert_eq!(world.changes(), [RegistryChange::CaRemoved { ca: ca.id() }]);
    assert_eq!(world.registry.activate_ca(ca.id(), actor).await.unwrap_err().code(), "ca_revoked");
    let kept = world.registry.delete_ca(ca.id(), Cascade::Refuse, actor).await.unwrap_err();
    assert_eq!(kept.code(), "related_device_certificates_exist");
    world.registry.delete_ca(ca.id(), Cascade::Revoke, actor).await.unwrap();
    let record = world.registry.device(device.id()).await.unwrap().unwrap();
    assert_eq!(record.revocation_reason.as_deref(), Some("cessationOfOperation"));
    assert!(world.registry.ca(ca.id()).is_none());
    let back = world.registry.add_ca(&ca.pem(), "factory", actor).await.unwrap_err();
    assert_eq!(back.code(), "ca_revoked", "deleting does not undo it");
}

#[tokio::test]
async fn a_revoked_ca_is_not_valid_for_the_rest_of_its_retirement() {
    let (first, second) = (TestCa::new("first"), TestCa::new("second"));
    let world = World::new(&[]).await;
    let keeper: Arc<dyn Retirement> = Arc::new(Keeper::default());
    world.registry.retires_with(&keeper);
    let actor = "admin:test";
    world.registry.add_ca(&first.pem(), "factory", actor).await.unwrap();
    world.registry.replace_ca(first.id(), &second.pem(), None, None, actor).await.unwrap();
    assert!(world.registry.trusts(first.id()));
    world.registry.revoke_ca(first.id(), RevocationReason::KeyCompromise, actor).await.unwrap();
    assert!(!world.registry.trusts(first.id()) && world.registry.trusts(second.id()));
}

#[tokio::test]
async fn a_compromised_key_takes_every_certificate_with_it() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let first = ca.device("device-7");
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "device-7");
    let key = || rcgen::KeyPair::try_from(first.key.serialize_der()).unwrap();
    let mut next = |serial: u64| {
        params.serial_number = Some(rcgen::SerialNumber::from(serial));
        ca.certify(&params, key())
    };
    let (second, third) = (next(2), next(3));
    let bound = ManualRegistration {
        pem: first.pem(),
        client_id: Some("c-7".into()),
        tags: vec!["meter".into()],
        ..ManualRegistration::default()
    };
    world.registry.register(bound, "admin:test").await.unwrap();
    let renewed = world.register(&second).await.unwrap();
    assert_eq!((renewed.client_id.as_deref(), renewed.tags.len()), (Some("c-7"), 1), "a renewal inherits");
    let reason = RevocationReason::KeyCompromise;
    world.registry.revoke(second.id(), reason, "admin:test").await.unwrap();
    for certificate in [&first, &second] {
        let record = world.registry.lookup(certificate.id()).await.unwrap().unwrap();
        assert_eq!(record.state, DeviceState::Revoked);
    }
    assert_eq!(world.changes().len(), 2);
    assert_eq!(world.register(&third).await.unwrap_err().code(), "key_compromised");
    let events = world.registry.events(0, 9).await.unwrap().events;
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    let (registered, renewed, revoked) =
        (EventKind::CertRegistered, EventKind::CertRenewed, EventKind::CertRevoked);
    assert_eq!(kinds, [registered, renewed, revoked, revoked]);
    assert_eq!(*world.registry.watch_events().borrow(), 4);
}

#[tokio::test]
async fn many_are_registered_in_one_step_and_each_gets_its_answer() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let certificates: Vec<_> = (0..4).map(|number| ca.device(&format!("device-{number}"))).collect();
    let request = |pem: String| ManualRegistration { pem, ..ManualRegistration::default() };
    let requests = || -> Vec<_> {
        let mut pems: Vec<_> = certificates.iter().map(TestCertificate::pem).collect();
        pems.insert(2, "no PEM".into());
        pems.push(TestCa::new("strangers").device("x").pem());
        pems.into_iter().map(request).collect()
    };
    let told = |answers: &[Result<ChangedDevice, RegistryError>]| -> String {
        let word = |answer: &Result<ChangedDevice, RegistryError>| match answer {
            Ok(changed) if changed.is_new() => "new",
            Ok(_) => "there",
            Err(error) => error.code(),
        };
        answers.iter().map(word).collect::<Vec<_>>().join(" ")
    };
    let tried = world.registry.register_many(requests(), Ask::by("admin").dry_run(DryRun::Yes)).await;
    assert_eq!(told(&tried), "new new bad_certificate new new cert_unknown_ca");
    let before = world.storage.writes.load(Ordering::SeqCst);
    let done = world.registry.register_many(requests(), "admin").await;
    assert_eq!(told(&done), told(&tried));
    assert_eq!(world.storage.writes.load(Ordering::SeqCst), before + 1, "one step");
    assert_eq!(world.devices("devices", "active"), 4);
    let again = world.registry.register_many(requests(), "admin").await;
    assert_eq!(told(&again), "there there bad_certificate there there cert_unknown_ca");
    let new = ca.device("twice");
    let twice = vec![request(new.pem()), request(new.pem())];
    assert_eq!(told(&world.registry.register_many(twice, "admin").await), "new there");
}

#[tokio::test]
async fn what_is_only_tried_changes_nothing() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let device = ca.device("device-7");
    let tried = Ask::by("admin:test").dry_run(DryRun::Yes);
    let request = || ManualRegistration { pem: device.pem(), ..ManualRegistration::default() };
    assert!(world.registry.register(request(), tried).await.unwrap().is_new());
    assert!(world.registry.device(device.id()).await.unwrap().is_none());
    world.register(&device).await.unwrap();
    let changed = world.registry.deactivate(device.id(), tried).await.unwrap();
    let states = (changed.before.as_ref().map(|before| before.state), changed.after.state);
    assert_eq!(states, (Some(DeviceState::Active), DeviceState::Inactive));
    let stale = Ask::by("admin:test").expecting(Some(7));
    assert_eq!(world.registry.deactivate(device.id(), stale).await.unwrap_err().code(), "revision_conflict");
    let record = world.registry.device(device.id()).await.unwrap().unwrap();
    assert_eq!((record.state, record.revision), (DeviceState::Active, 1));
    assert!(world.changes().is_empty());
}

#[tokio::test]
async fn quarantine_bars_and_what_is_changed_is_known_at_once() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let (device, actor) = (ca.device("device-7"), "admin:test");
    world.register(&device).await.unwrap();
    let quarantined = world.registry.quarantine(device.id(), "two at once", actor).await.unwrap();
    assert_eq!(world.registry.effective(&quarantined), Err(Reason::CertQuarantined));
    let barred = RegistryChange::DeviceBarred { certificate: device.id(), reason: Reason::CertQuarantined };
    assert_eq!(world.changes(), [barred]);
    let released = world.registry.release(device.id(), actor).await.unwrap();
    assert_eq!(world.registry.effective(&released), Ok(()));
    let patch = DevicePatch { client_id: Some(Some("c-7".into())), ..DevicePatch::default() };
    world.registry.change_device(device.id(), &patch, actor).await.unwrap();
    let known = world.registry.lookup(device.id()).await.unwrap().unwrap();
    assert_eq!(known.client_id.as_deref(), Some("c-7"));
    assert!(world.changes().is_empty());
    world.registry.delete(device.id(), Force::Yes, actor).await.unwrap();
    world.registry.purge(device.id(), actor).await.unwrap();
    assert!(world.registry.lookup(device.id()).await.unwrap().is_none());
    assert_eq!(world.devices("devices", "tombstone"), 0);
    world.register(&device).await.unwrap();
}

#[tokio::test]
async fn tombstones_go_when_their_certificates_have_long_expired() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let now = clock::now().seconds().0;
    let ends: [i64; 5] = [now - 86_400 - 60, now - 60, now - 200_000, now - 300_000, now + 60];
    let mut ids = Vec::new();
    for (number, end) in ends.into_iter().enumerate() {
        let device = ca.device(&format!("device-{number}"));
        let record = world.register(&device).await.unwrap();
        if number == 3 {
            world.registry.revoke(device.id(), RevocationReason::KeyCompromise, "admin").await.unwrap();
        }
        world.registry.delete(device.id(), Force::Yes, "admin").await.unwrap();
        // As if it had been issued so.
        let mut stored = world.storage.device_certificate(&record.id).unwrap().unwrap();
        stored.not_after = UnixSeconds(end);
        stored.revision += 1;
        world.storage.put_device_certificate(&stored, Some(stored.revision - 1)).unwrap();
        ids.push(device.id());
    }
    let mut gone = 0;
    for _ in 0..4 {
        gone += world.registry.sweep_tombstones().await.unwrap();
    }
    assert_eq!(gone, 2);
    let left: Vec<bool> =
        ids.iter().map(|id| world.storage.device_certificate(id).unwrap().is_some()).collect();
    assert_eq!(left, [false, true, false, true, true], "not a day yet; a key to remember; not expired");
    assert_eq!(world.devices("devices", "tombstone"), 3);
}
