use std::time::Duration;

use mqgate_identity::audit::AuditEvent;
use mqgate_identity::evaluation::{AbsentUsage, PathPolicy, UsageRule};
use mqgate_protocol::limits::Limits;

use super::*;
use crate::audit::AuditSettings;
use crate::broker::{Admitter, BrokerParts};
use crate::gate::Admission;
use crate::metrics::mqtt::MqttMetrics;
use crate::testing::{TestCa, TestCertificate, accepted, metrics};

struct World {
    live: Arc<Live>,
    trust: Arc<TrustStore>,
    registry: prometheus::Registry,
    file: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(settings: LiveSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let metrics = metrics();
        let settings_of_log = AuditSettings { path: Some(file.clone()), ..AuditSettings::default() };
        let audit = Arc::new(AuditLog::open(settings_of_log, Arc::clone(&metrics.gate)).unwrap());
        let broker = Broker::new(BrokerParts {
            admitter: Admitter::Rule(Box::new(|_, _| -> Admission { unreachable!("nobody connects") })),
            audit: Arc::clone(&audit),
            metrics: Arc::new(MqttMetrics::register(&prometheus::Registry::new()).unwrap()),
            limits: Limits::default(),
            listener_limits: Default::default(),
        });
        let registry = prometheus::Registry::new();
        let live = Live::new(broker, audit, &registry, settings).unwrap();
        let trust = Arc::new(TrustStore::new(8));
        live.judge_by(
            "main",
            Some(PathRules { trust: trust.listener("main"), policy: PathPolicy::default() }),
        );
        Self { live, trust, registry, file, _folder: folder }
    }

    fn connects(&self, id: u64, device: &TestCertificate, ca: &TestCa) -> Arc<ConnectionHandle> {
        let handle = Arc::new(ConnectionHandle::new(&accepted(id, "main", Some(device.proved(ca)))));
        self.live.broker.connections().enter(Arc::clone(&handle));
        handle
    }

    fn count(&self, trigger: &str, outcome: &str) -> f64 {
        self.value("mqgate_session_reevaluations_total", &[trigger, outcome], |metric| {
            metric.get_counter().get_value()
        })
    }

    fn value(&self, name: &str, labels: &[&str], read: impl Fn(&prometheus::proto::Metric) -> f64) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let found = family.get_metric().iter().find(|metric| {
            labels.iter().all(|wanted| metric.get_label().iter().any(|label| label.value() == *wanted))
        });
        read(found.unwrap())
    }
}

/// What a connection was told, once those who judge have had their turn.
async fn told(handle: &ConnectionHandle) -> Option<Reason> {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    handle.farewell().map(|farewell| farewell.reason)
}

#[tokio::test]
async fn a_revoked_certificate_ends_its_connections_and_no_others() {
    let world = World::new(LiveSettings::default());
    let ca = TestCa::new("a");
    let (device, other) = (ca.device("device"), ca.device("other"));
    let (first, second) = (world.connects(1, &device, &ca), world.connects(2, &device, &ca));
    let kept = world.connects(3, &other, &ca);
    let reason = Reason::CertRevoked;
    world.live.registry_changed(RegistryChange::DeviceBarred { certificate: device.id(), reason });
    let farewell = first.farewell().expect("it is told at once");
    assert_eq!((farewell.code, farewell.reason), (ReasonCode::NOT_AUTHORIZED, Reason::CertRevoked));
    assert_eq!(told(&second).await, Some(Reason::CertRevoked));
    assert_eq!(told(&kept).await, None);
    assert_eq!(world.count("cert", "disconnected"), 2.0);

    // Measured when the client is gone, and once.
    let measured = || {
        world.value("mqgate_revocation_disconnect_latency_seconds", &["cert"], |metric| {
            metric.get_histogram().get_sample_count() as f64
        })
    };
    assert_eq!(measured(), 0.0);
    first.dismissed();
    first.dismissed();
    assert_eq!(measured(), 1.0);
}

#[tokio::test]
async fn without_its_ca_a_connection_goes_unless_another_path_leads_to_a_ca_that_is_trusted() {
    let world = World::new(LiveSettings::default());
    let (ca, other) = (TestCa::new("a"), TestCa::new("b"));
    let renewed = ca.renewed("a-renewed");
    let anchors = |cas: &[&TestCa]| cas.iter().map(|ca| ca.anchor()).collect::<Vec<_>>();
    world.trust.configure(anchors(&[&ca, &renewed, &other])).unwrap();
    let under_a = world.connects(1, &ca.device("device"), &ca);
    let under_b = world.connects(2, &other.device("device"), &other);

    // The renewed CA has the same key and name: whoever came under the old one is under the new one now.
    world.trust.configure(anchors(&[&renewed, &other])).unwrap();
    world.live.ca_gone(ca.id());
    assert_eq!(told(&under_a).await, None);
    assert_eq!(under_a.anchor(), Some(renewed.id()));
    assert_eq!(world.count("ca", "kept"), 1.0);

    world.trust.configure(anchors(&[&other])).unwrap();
    world.live.ca_gone(renewed.id());
    assert_eq!(told(&under_a).await, Some(Reason::CaInactive));
    assert_eq!(told(&under_b).await, None);
    assert_eq!(world.count("ca", "disconnected"), 1.0);
}

/// Sessions of one certificate are judged together, unless they brought different intermediates.
#[tokio::test]
async fn connections_of_one_certificate_are_judged_by_what_each_brought() {
    let world = World::new(LiveSettings::default());
    let root = TestCa::new("root");
    let sub = root.below("sub");
    world.trust.configure(vec![root.anchor()]).unwrap();
    let device = sub.device("device");
    let connects = |id, intermediates: &[Arc<[u8]>]| {
        let mut certificate = ClientCertificate::clone(&device.proved(&root));
        certificate.intermediates = intermediates.to_vec();
        let handle = Arc::new(ConnectionHandle::new(&accepted(id, "main", Some(Arc::new(certificate)))));
        world.live.broker.connections().enter(Arc::clone(&handle));
        handle
    };
    let intermediate: Arc<[u8]> = sub.der().into();
    let complete = [connects(1, std::slice::from_ref(&intermediate)), connects(2, &[intermediate])];
    let alone = [connects(3, &[]), connects(4, &[])];
    let facts = device.facts();
    world.live.crl_arrived(&facts.issuer.raw, [facts.serial.as_slice()]);
    for handle in &complete {
        assert_eq!(told(handle).await, None);
    }
    for handle in &alone {
        assert_eq!(told(handle).await, Some(Reason::CertUnknownCa));
    }
    assert_eq!((world.count("crl", "kept"), world.count("crl", "disconnected")), (2.0, 2.0));
}

#[tokio::test]
async fn a_list_of_revoked_certificates_concerns_those_it_names() {
    let world = World::new(LiveSettings::default());
    let ca = TestCa::new("a");
    world.trust.configure(vec![ca.anchor()]).unwrap();
    let device = ca.device("device");
    let facts = device.facts();
    let handle = world.connects(1, &device, &ca);
    world.connects(2, &ca.device("other"), &ca);
    // Judged by a trust set that still trusts it, it stays: the list says who is asked, not what the answer is.
    world.live.crl_arrived(&facts.issuer.raw, [facts.serial.as_slice()]);
    assert_eq!(told(&handle).await, None);
    assert_eq!(world.count("crl", "kept"), 1.0);
    world.trust.configure(Vec::new()).unwrap();
    world.live.crl_arrived(&facts.issuer.raw, [&[1, 2, 3][..]]);
    assert_eq!(told(&handle).await, None);
    world.live.crl_arrived(&facts.issuer.raw, [facts.serial.as_slice()]);
    assert_eq!(told(&handle).await, Some(Reason::CertUnknownCa));
    world.live.issuer_changed(&facts.issuer.raw);
    told(&handle).await;
    assert_eq!(
        world.count("crl", "disconnected"),
        2.0,
        "the other one too, when all of the issuer's are asked"
    );
}

#[tokio::test(start_paused = true)]
async fn expiry_while_connected_ends_the_connection_or_is_noted() {
    for (on_expiry, expected) in
        [(OnExpiry::Disconnect, Some(Reason::CertExpired)), (OnExpiry::Warn, None), (OnExpiry::Ignore, None)]
    {
        let world = World::new(LiveSettings { on_expiry, ..LiveSettings::default() });
        let ca = TestCa::new("a");
        world.trust.configure(vec![ca.anchor()]).unwrap();
        // As if it had expired since it came.
        let handle = world.connects(1, &ca.expired("device"), &ca);
        let end = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&world.live).housekeeping(end.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(told(&handle).await, expected, "{on_expiry:?}");
        end.cancel();
        task.await.unwrap();
        world.live.audit.close();
        let noted = std::fs::read_to_string(&world.file).unwrap().contains("certificate.expired");
        assert_eq!(noted, on_expiry == OnExpiry::Warn, "{on_expiry:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_barred_may_be_sent_away_a_few_at_a_time() {
    let world = World::new(LiveSettings { drain_rate: 2, ..LiveSettings::default() });
    let ca = TestCa::new("a");
    let handles: Vec<_> =
        (1..=6).map(|id| world.connects(id, &ca.device(&format!("device-{id}")), &ca)).collect();
    let gone = || handles.iter().filter(|handle| handle.farewell().is_some()).count();
    world.live.ca_gone(ca.id());
    told(&handles[0]).await;
    assert_eq!(gone(), 1);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(gone(), 3);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(gone(), 6);
}

#[tokio::test]
async fn whoever_was_judged_before_a_change_is_judged_again_at_the_gate() {
    let world = World::new(LiveSettings::default());
    let ca = TestCa::new("a");
    world.trust.configure(vec![ca.anchor()]).unwrap();
    let mut certificate = ClientCertificate::clone(&ca.device("device").proved(&ca));
    let trust = world.trust.listener("main");
    let lax = PathPolicy::default();
    certificate.judged_by = trust.current().judged_by(&lax);
    // Judged by rules that were others, it is judged again.
    let unheld = PathPolicy {
        usage: UsageRule { one_of: vec!["1.2.3".into()], absent: AbsentUsage::Deny },
        ..PathPolicy::default()
    };
    world.live.judge_by("main", Some(PathRules { trust: Arc::clone(&trust), policy: unheld }));
    assert_eq!(world.live.anchor_now(1, "main", &certificate).unwrap_err().reason, Reason::CertPurpose);
    world.live.judge_by("main", Some(PathRules { trust, policy: lax }));
    assert_eq!(world.live.anchor_now(1, "main", &certificate), Ok(ca.id()));
    world.trust.configure(Vec::new()).unwrap();
    let refused = world.live.anchor_now(1, "main", &certificate).unwrap_err();
    assert_eq!(refused.reason, Reason::CertUnknownCa);
    // A listener that takes no certificates takes none that came before.
    world.live.judge_by("main", None);
    assert_eq!(world.live.anchor_now(1, "main", &certificate).unwrap_err().reason, Reason::CaInactive);
}

#[tokio::test]
async fn whoever_has_another_path_at_the_gate_goes_with_the_ca_of_that_path() {
    let world = World::new(LiveSettings::default());
    let ca = TestCa::new("a");
    let renewed = ca.renewed("a-renewed");
    // The handshake was under the old one, which was gone before CONNECT came.
    world.trust.configure(vec![renewed.anchor()]).unwrap();
    let device = ca.device("device");
    let handle = world.connects(1, &device, &ca);
    let anchor = world.live.anchor_now(1, "main", handle.certificate().unwrap());
    assert_eq!(anchor, Ok(renewed.id()));
    world.trust.configure(Vec::new()).unwrap();
    world.live.ca_gone(renewed.id());
    assert_eq!(told(&handle).await, Some(Reason::CaInactive));
}

/// The registry's own events name what the log needs.
#[test]
fn an_event_says_who_it_is_about() {
    let ca = TestCa::new("a");
    let device = ca.device("device");
    let handle = ConnectionHandle::new(&accepted(7, "main", Some(device.proved(&ca))));
    let rejection = Rejection { reason: Reason::CertExpired, detail: "expired".into() };
    let event: AuditEvent = about(&handle, &rejection);
    assert_eq!((event.connection_id, event.certificate_fingerprint), (Some(7), Some(device.id())));
}
