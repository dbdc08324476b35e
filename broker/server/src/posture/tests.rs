use std::sync::atomic::Ordering;

use mqgate_identity::posture::{ListenerFacts, PluginFacts, Resource};
use mqgate_identity::registry::rules::RevocationReason;

use super::*;
use crate::audit::AuditSettings;
use crate::broker::{Admitter, BrokerParts};
use crate::gate::{Admission, Refusal};
use crate::metrics::mqtt::MqttMetrics;
use crate::registry::{ManualRegistration, RegistrySettings};
use crate::testing::{MemoryStorage, TestCa, metrics};

struct World {
    posture: Arc<Posture>,
    registry: Arc<Registry>,
    storage: Arc<MemoryStorage>,
    trust: Arc<TrustStore>,
    audit: Arc<AuditLog>,
    known: Arc<Mutex<Facts>>,
    prometheus: prometheus::Registry,
    folder: tempfile::TempDir,
}

fn broker(audit: &Arc<AuditLog>) -> Arc<Broker> {
    let refuse = |_: &_, _: &_| {
        Admission::Refused(Refusal {
            reason: Reason::Other,
            code: mqgate_codec::ReasonCode::NOT_AUTHORIZED,
            reason_string: None,
            server_reference: None,
            retry_after: None,
        })
    };
    Broker::new(BrokerParts {
        admitter: Admitter::Rule(Box::new(refuse)),
        audit: Arc::clone(audit),
        metrics: Arc::new(MqttMetrics::register(&prometheus::Registry::new()).unwrap()),
        limits: mqgate_protocol::limits::Limits::default(),
        listener_limits: Default::default(),
    })
}

impl World {
    async fn new(ca: &TestCa) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = metrics();
        let settings =
            AuditSettings { path: Some(folder.path().join("audit.jsonl")), ..AuditSettings::default() };
        let audit = Arc::new(AuditLog::open(settings, Arc::clone(&metrics.gate)).unwrap());
        let trust = Arc::new(TrustStore::new(4));
        trust.configure(vec![ca.anchor()]).unwrap();
        let storage = Arc::new(MemoryStorage::default());
        let registry = Registry::open(
            Arc::clone(&storage) as _,
            Arc::clone(&trust),
            Arc::clone(&audit),
            Arc::clone(&metrics.gate),
            RegistrySettings::default(),
        );
        let registry = registry.await.unwrap();
        let known = Arc::new(Mutex::new(Facts::default()));
        known.lock().unwrap().audit.publishes = Some(Ok(()));
        let prometheus = prometheus::Registry::new();
        let mut world = Self {
            posture: Self::open(&registry, &storage, &trust, &audit, &known, &prometheus).await,
            registry,
            storage,
            trust,
            audit,
            known,
            prometheus,
            folder,
        };
        world.posture.configure(PostureSettings {
            disabled: BTreeSet::from([Check::CaNoCrl]),
            ..PostureSettings::default()
        });
        world.restart().await;
        world
    }

    async fn open(
        registry: &Arc<Registry>,
        storage: &Arc<MemoryStorage>,
        trust: &Arc<TrustStore>,
        audit: &Arc<AuditLog>,
        known: &Arc<Mutex<Facts>>,
        prometheus: &prometheus::Registry,
    ) -> Arc<Posture> {
        let known = Arc::clone(known);
        let parts = PostureParts {
            broker: broker(audit),
            registry: Arc::clone(registry),
            trust: Arc::clone(trust),
            audit: Arc::clone(audit),
            storage: Arc::clone(storage) as _,
            known: Box::new(move || known.lock().unwrap().clone()),
        };
        let settings =
            PostureSettings { disabled: BTreeSet::from([Check::CaNoCrl]), ..PostureSettings::default() };
        Posture::open(parts, settings, prometheus).await.unwrap()
    }

    async fn restart(&mut self) {
        self.prometheus = prometheus::Registry::new();
        let (registry, storage) = (&self.registry, &self.storage);
        self.posture =
            Self::open(registry, storage, &self.trust, &self.audit, &self.known, &self.prometheus).await;
    }

    fn found(&self) -> Vec<(Check, bool)> {
        let all = self.posture.findings(None, 100, |_, _| true);
        let mut found: Vec<_> =
            all.into_iter().map(|(kept, suppression)| (kept.check, suppression.is_some())).collect();
        found.sort_unstable();
        found
    }

    fn gauge(&self, check: Check) -> i64 {
        let labels = [check.as_str(), check.severity().as_str()];
        self.posture.findings.with_label_values(&labels).get()
    }

    /// Names and checks of the records so far.
    fn told(&self) -> Vec<(String, String)> {
        self.audit.close();
        let text = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        records
            .filter(|record| record["name"].as_str().is_some_and(|name| name.starts_with("finding.")))
            .map(|record| (word(&record["name"]), word(&record["fields"]["check"])))
            .collect()
    }
}

#[tokio::test]
async fn findings_come_and_go_with_what_they_are_about() {
    let ca = TestCa::new("devices");
    let mut world = World::new(&ca).await;
    assert_eq!(world.posture.check_now().await.appeared, 0);
    assert_eq!(world.found(), []);
    let plain = ListenerFacts { name: String::from("plain"), ..ListenerFacts::default() };
    world.known.lock().unwrap().listeners.push(plain);
    let round = world.posture.check_now().await;
    assert_eq!((round.appeared, round.disappeared, round.complete), (1, 0, true));
    assert_eq!(world.found(), [(Check::ListenerWithoutTls, false)]);
    assert_eq!(world.gauge(Check::ListenerWithoutTls), 1);

    let (kept, _) = world.posture.findings(None, 1, |_, _| true).remove(0);
    assert_eq!(kept.resource, Resource { kind: "listener".into(), id: "plain".into() });
    world.posture.suppress(&kept.id, "behind a VPN", None, "admin:test").await.unwrap();
    assert_eq!(world.gauge(Check::ListenerWithoutTls), 0);
    // First seen and suppression outlive the broker.
    world.restart().await;
    assert_eq!(world.posture.check_now().await.appeared, 0);
    assert_eq!(world.found(), [(Check::ListenerWithoutTls, true)]);
    let (again, _) = world.posture.finding(&kept.id).unwrap();
    assert_eq!(again.first_seen, kept.first_seen);
    world.posture.unsuppress(&kept.id, "admin:test").await.unwrap();
    assert_eq!(world.gauge(Check::ListenerWithoutTls), 1);

    world.known.lock().unwrap().listeners.clear();
    assert_eq!(world.posture.check_now().await.disappeared, 1);
    assert_eq!((world.found(), world.gauge(Check::ListenerWithoutTls)), (Vec::new(), 0));
    let check = String::from("LISTENER_WITHOUT_TLS");
    assert_eq!(
        world.told(),
        [("finding.appeared".into(), check.clone()), ("finding.disappeared".into(), check)]
    );
}

#[tokio::test]
async fn records_and_lists_are_looked_at() {
    let ca = TestCa::new("devices");
    let world = World::new(&ca).await;
    let device = ca.device("meter-7");
    let request = ManualRegistration { pem: device.pem(), ..ManualRegistration::default() };
    world.registry.register(request, "admin:test").await.unwrap();
    // rcgen's certificates are valid for two thousand years, and began fifty years ago.
    let always = [(Check::DeviceCertLongLived, false), (Check::DeviceCertAge, false)];
    assert_eq!(world.posture.check_now().await.records, 1);
    assert_eq!(world.found(), always);
    let list =
        mqgate_identity::evaluation::RevocationList::parse(&ca.crl(1, 2099, &[&device]), 1 << 20).unwrap();
    world.trust.revoke(vec![Arc::new(list)]).unwrap();
    world.posture.check_now().await;
    assert_eq!(world.found(), [always[0], always[1], (Check::CrlRevokedButActive, false)]);
    world.registry.revoke(device.id(), RevocationReason::KeyCompromise, "admin:test").await.unwrap();
    world.posture.check_now().await;
    assert_eq!(world.found(), []);
    let stale = mqgate_identity::evaluation::RevocationList::parse(&ca.crl(2, 2025, &[]), 1 << 20).unwrap();
    world.trust.revoke(vec![Arc::new(stale)]).unwrap();
    world.posture.check_now().await;
    assert_eq!(world.found(), [(Check::CrlStale, false)]);
}

#[tokio::test]
async fn a_component_that_may_do_more_is_found_until_somebody_agrees() {
    let world = World::new(&TestCa::new("devices")).await;
    let may = |names: &[&str]| {
        let capabilities = names.iter().map(|name| (*name).to_owned()).collect();
        let plugin = PluginFacts { name: String::from("acl"), capabilities, ..PluginFacts::default() };
        world.known.lock().unwrap().plugins = vec![plugin];
    };
    may(&["kv"]);
    world.posture.check_now().await;
    may(&["kv", "registry.read"]);
    world.posture.check_now().await;
    assert_eq!(world.found(), [(Check::PluginCapabilityGrew, false)]);
    let unknown = world.posture.accept("other", "admin:test").await;
    assert!(matches!(unknown, Err(PostureError::NoPlugin)));
    world.posture.accept("acl", "admin:test").await.unwrap();
    world.posture.check_now().await;
    assert_eq!(world.found(), []);
}

#[tokio::test]
async fn a_registry_that_cannot_be_read_ends_no_finding() {
    let ca = TestCa::new("devices");
    let world = World::new(&ca).await;
    let request = ManualRegistration { pem: ca.device("meter-7").pem(), ..ManualRegistration::default() };
    world.registry.register(request, "admin:test").await.unwrap();
    world.posture.check_now().await;
    let before = world.found();
    assert!(!before.is_empty());
    world.storage.failing.store(true, Ordering::SeqCst);
    let round = world.posture.check_now().await;
    assert!(!round.complete);
    assert_eq!(world.found(), before);
    world.storage.failing.store(false, Ordering::SeqCst);
    assert!(world.posture.check_now().await.complete);
}
