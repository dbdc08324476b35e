use mqgate_codec::QoS;
use mqgate_identity::hooks::{Effect, GrantLimits};
use mqgate_protocol::limits::Limits;
use mqgate_protocol::permit::{Granted, Permit};

use super::*;
use crate::audit::{AuditLog, AuditSettings};
use crate::broker::{Admitter, BrokerParts};
use crate::gate::Admission;
use crate::metrics::mqtt::MqttMetrics;
use crate::testing::{TestCa, TestCertificate, accepted, metrics};

struct World {
    ca: TestCa,
    device: TestCertificate,
    broker: Arc<Broker>,
    sharing: Arc<Sharing>,
    next: std::sync::atomic::AtomicU64,
}

impl World {
    fn new(settings: SharingSettings) -> Self {
        let metrics = metrics();
        let audit = Arc::new(AuditLog::open(AuditSettings::default(), Arc::clone(&metrics.gate)).unwrap());
        let broker = Broker::new(BrokerParts {
            admitter: Admitter::Rule(Box::new(|_, _| -> Admission { unreachable!("nobody connects") })),
            audit,
            metrics: Arc::new(MqttMetrics::register(&prometheus::Registry::new()).unwrap()),
            limits: Limits::default(),
            listener_limits: Default::default(),
        });
        let sharing = Sharing::new(&broker, &prometheus::Registry::new(), settings).unwrap();
        let ca = TestCa::new("devices");
        let device = ca.device("device-7");
        Self { device, ca, broker, sharing, next: 1.into() }
    }

    /// A client comes; what is found, and the connection if it stays.
    fn comes(&self, client_id: &str, address: &str) -> (Option<Finding>, Arc<ConnectionHandle>) {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut transport = accepted(id, "main", Some(self.device.proved(&self.ca)));
        transport.peer.address = address.parse().unwrap();
        let handle = Arc::new(ConnectionHandle::new(&transport));
        handle.hear(self.broker.now());
        self.broker.connections().enter(Arc::clone(&handle));
        let arrival = Arrival {
            connection_id: id,
            certificate: self.device.id(),
            device_id: "device-7",
            client_id,
            address: transport.peer.address,
            keep_alive: 60,
        };
        let finding = self.sharing.judge(arrival, "devices");
        if finding.as_ref().is_none_or(|finding| finding.action != OnShared::RejectNew) {
            // As a takeover does.
            for older in self.broker.connections().find(Mark::Certificate(self.device.id())) {
                if older.client_id() == Some(client_id) {
                    self.broker.connections().leave(older.connection_id);
                }
            }
            handle.permitted(&permit(client_id));
        } else {
            self.broker.connections().leave(id);
        }
        (finding, handle)
    }

    fn found(&self, client_id: &str, address: &str) -> Option<Evidence> {
        self.comes(client_id, address).0.map(|finding| finding.evidence)
    }
}

fn permit(client_id: &str) -> Permit {
    let permit = Permit::granted_by(&Granted {
        client_id: client_id.into(),
        assigned: false,
        device_id: "device-7",
        tenant: None,
        certificate_fingerprint: None,
        rules: &[],
        otherwise: Effect::Deny,
        limits: GrantLimits { maximum_qos: Some(QoS::AtLeastOnce as u8), ..GrantLimits::default() },
        valid_for: None,
        generation: 1,
    });
    permit.unwrap()
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

const HOME: &str = "192.0.2.1";
const AWAY: &str = "198.51.100.1";

#[tokio::test(start_paused = true)]
async fn same_cert_two_devices_different_client_ids() {
    let world = World::new(SharingSettings::default());
    assert_eq!(world.found("a", HOME), None, "one client id is allowed");
    let (finding, _) = world.comes("b", AWAY);
    let finding = finding.expect("two are one too many");
    let Evidence::ClientIds { ids, allowed } = &finding.evidence else { panic!("{finding:?}") };
    assert_eq!((ids.iter().map(String::as_str).collect::<Vec<_>>(), *allowed), (vec!["a", "b"], 1));
    assert!(finding.is_news && finding.action == OnShared::Alert);
    // From one address, too: both are connected.
    let (finding, _) = world.comes("c", HOME);
    assert!(!finding.expect("three are too many").is_news, "it was told a moment ago");
    pass(61).await;
    // All of them are still alive by their keep-alives, so it is told again.
    assert!(world.comes("c", HOME).0.expect("they are still there").is_news);
}

#[tokio::test(start_paused = true)]
async fn as_many_client_ids_as_are_allowed() {
    let world = World::new(SharingSettings { max_client_ids: 2, ..SharingSettings::default() });
    assert_eq!(world.found("a", HOME), None);
    assert_eq!(world.found("b", AWAY), None, "at the limit");
    assert!(world.found("c", AWAY).is_some(), "one above it");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_draws_a_new_client_id_each_time_is_one_device() {
    let world = World::new(SharingSettings::default());
    for number in 0..20 {
        let (finding, handle) = world.comes(&format!("random-{number}"), HOME);
        assert_eq!(finding, None, "{number}");
        world.broker.connections().leave(handle.connection_id);
        pass(1).await;
    }
    // From another address within the window it may be another device.
    assert!(world.found("elsewhere", AWAY).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_silent_for_too_long_is_not_a_second_device() {
    let world = World::new(SharingSettings::default());
    assert_eq!(world.found("a", HOME), None);
    // One and a half keep-alives later nobody knows whether it still lives.
    pass(91).await;
    assert_eq!(world.found("b", HOME), None);
}

#[tokio::test(start_paused = true)]
async fn same_cert_two_devices_same_client_id() {
    let world = World::new(SharingSettings::default());
    assert_eq!(world.found("a", HOME), None);
    for (number, address) in [AWAY, HOME, AWAY].into_iter().enumerate() {
        pass(5).await;
        assert_eq!(world.found("a", address), None, "takeover {number}: not more than three");
    }
    pass(5).await;
    let found = world.found("a", HOME).expect("the fourth takeover within a minute");
    let Evidence::Takeovers { count: 4, addresses } = found else { panic!("{found:?}") };
    assert_eq!(addresses.len(), 2);
    pass(61).await;
    assert_eq!(world.found("a", AWAY), None, "a minute later it begins again");
}

#[tokio::test(start_paused = true)]
async fn takeovers_from_one_address_are_a_client_that_reconnects() {
    let world = World::new(SharingSettings::default());
    for _ in 0..20 {
        assert_eq!(world.found("a", HOME), None);
        pass(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn roaming_is_not_sharing() {
    let world = World::new(SharingSettings::default());
    // From network to network, and never back.
    for number in 1..20 {
        assert_eq!(world.found("a", &format!("203.0.113.{number}")), None, "{number}");
        pass(2).await;
    }
    // Back and forth, but each time long after the older connection fell silent.
    let world = World::new(SharingSettings {
        takeover_window: Duration::from_secs(3600),
        ..SharingSettings::default()
    });
    for address in [HOME, AWAY, HOME, AWAY, HOME, AWAY] {
        assert_eq!(world.found("a", address), None);
        pass(95).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_not_remembered() {
    let settings = SharingSettings { policy: OnShared::RejectNew, ..SharingSettings::default() };
    let world = World::new(settings);
    let (_, first) = world.comes("a", HOME);
    for _ in 0..3 {
        assert!(world.found("b", AWAY).is_some());
    }
    world.broker.connections().leave(first.connection_id);
    pass(61).await;
    assert_eq!(world.found("b", AWAY), None, "the first has gone: it is free");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_certificates_are_watched() {
    let world = World::new(SharingSettings { watched: 1, ..SharingSettings::default() });
    assert_eq!(world.found("a", HOME), None);
    let other = world.ca.device("other");
    let arrival = |client_id| Arrival {
        connection_id: 99,
        certificate: other.id(),
        device_id: "other",
        client_id,
        address: HOME.parse().unwrap(),
        keep_alive: 60,
    };
    assert_eq!(world.sharing.judge(arrival("x"), "devices"), None);
    assert_eq!(lock(&world.sharing.seen).len(), 1);
    assert_eq!(world.sharing.watched.get(), 1);
    pass(61).await;
    world.sharing.sweep();
    assert_eq!((lock(&world.sharing.seen).len(), world.sharing.watched.get()), (0, 0));
    assert_eq!(world.sharing.judge(arrival("x"), "devices"), None);
    assert_eq!(world.sharing.watched.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn kick_old_names_who_has_to_go() {
    let world = World::new(SharingSettings { policy: OnShared::KickOld, ..SharingSettings::default() });
    let (_, old) = world.comes("a", HOME);
    let (finding, new) = world.comes("b", AWAY);
    assert_eq!(finding.unwrap().action, OnShared::KickOld);
    let arrival = Arrival {
        connection_id: new.connection_id,
        certificate: world.device.id(),
        device_id: "device-7",
        client_id: "b",
        address: AWAY.parse().unwrap(),
        keep_alive: 60,
    };
    let others: Vec<_> = world.sharing.others(arrival).iter().map(|other| other.connection_id).collect();
    assert_eq!(others, [old.connection_id]);
}
