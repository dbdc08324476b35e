use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use mqgate_identity::hooks::HookSet;
use mqgate_protocol::limits::Limits;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::audit::AuditSettings;
use crate::broker::{Admitter, BrokerParts};
use crate::metrics::Metrics;
use crate::metrics::mqtt::MqttMetrics;
use crate::registry::Registry;
use crate::testing::{MemoryStorage, TestCa, hooks, metrics};
use crate::tls::{TlsSet, TlsSettings};
use crate::trust::TrustStore;

pub(super) struct World {
    pub(super) parts: ListenerParts,
    pub(super) metrics: Arc<Metrics>,
    hooks: Arc<ArcSwap<HookSet>>,
    pub(super) file: std::path::PathBuf,
    pub(super) shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let metrics = metrics();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let settings = AuditSettings { path: Some(file.clone()), ..AuditSettings::default() };
        let audit = Arc::new(AuditLog::open(settings, Arc::clone(&metrics.gate)).unwrap());
        let hooks = hooks(Vec::new());
        let broker = Broker::new(BrokerParts {
            admitter: Admitter::Rule(Box::new(|_, _| unreachable!("nobody gets as far as CONNECT"))),
            audit: Arc::clone(&audit),
            metrics: Arc::new(MqttMetrics::register(metrics.registry()).unwrap()),
            limits: Limits::default(),
            listener_limits: Default::default(),
        });
        let parts = ListenerParts {
            broker,
            metrics: Arc::clone(&metrics.gate),
            readiness: Arc::new(Readiness::new(Arc::clone(&hooks), Arc::clone(&audit), None)),
            audit,
        };
        Self { parts, metrics, hooks, file, shutdown: CancellationToken::new(), _folder: folder }
    }

    fn tls(&self) -> Arc<TlsServer> {
        self.tls_of().0
    }

    /// With a client that trusts it.
    pub(super) fn tls_of(&self) -> (Arc<TlsServer>, Arc<rustls::ClientConfig>) {
        let settings = TlsSettings {
            handshake_timeout: Duration::from_secs(5),
            client_auth: crate::tls::ClientAuth::None,
            ..TlsSettings::default()
        };
        let ca = TestCa::new("CA");
        let set = TlsSet::new(settings, ca.server().served(), Arc::new(TrustStore::new(1))).unwrap();
        (Arc::new(TlsServer::new(set)), client_of(&ca))
    }

    fn listener(&self, tls: Option<Arc<TlsServer>>) -> Listener {
        Listener::new(
            ListenerSettings::new("mqtts", SocketAddr::from(([127, 0, 0, 1], 0)), tls),
            self.parts.clone(),
        )
    }

    fn missing(&self, plugins: &[&str]) {
        let missing = plugins.iter().map(|name| ((*name).into(), "still compiling".to_owned())).collect();
        self.hooks.store(Arc::new(HookSet { missing, ..HookSet::default() }));
    }
}

fn client_of(ca: &TestCa) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(client)
}

pub(super) async fn open(address: &mut watch::Receiver<Option<ListenAddress>>) -> SocketAddr {
    address.wait_for(Option::is_some).await.unwrap().as_ref().and_then(ListenAddress::ip).unwrap()
}

#[tokio::test]
async fn it_is_open_only_while_the_broker_is_ready() {
    let world = World::new();
    world.missing(&["acl"]);
    assert_eq!(
        world.parts.readiness.obstacles(),
        ["the required plugin \"acl\" is not live: still compiling"]
    );
    let listener = world.listener(None);
    let mut address = listener.address();
    let running = tokio::spawn(listener.run(world.shutdown.clone()));
    tokio::task::yield_now().await;
    assert_eq!(*address.borrow(), None);

    world.missing(&[]);
    let first = open(&mut address).await;
    assert_ne!(first.port(), 0);
    world.missing(&["acl"]);
    address.wait_for(Option::is_none).await.unwrap();
    assert!(TcpStream::connect(first).await.is_err());
    world.missing(&[]);
    assert_eq!(open(&mut address).await, first, "the port that was picked is kept");

    world.shutdown.cancel();
    running.await.unwrap().unwrap();
    assert!(TcpStream::connect(first).await.is_err());
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_with_its_name() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ListenerSettings::new("mqtts", taken.local_addr().unwrap(), None);
    let error = Listener::new(settings, world.parts.clone()).run(world.shutdown.clone()).await.unwrap_err();
    assert!(error.to_string().starts_with("listener \"mqtts\" cannot listen on 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn failed_handshakes_are_counted_and_written_down_without_a_storm() {
    let world = World::new();
    let listener = world.listener(Some(world.tls()));
    let mut address = listener.address();
    let running = tokio::spawn(listener.run(world.shutdown.clone()));
    let address = open(&mut address).await;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
            .await
            .unwrap();
        // An alert, and the end.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    world.shutdown.cancel();
    running.await.unwrap().unwrap();
    world.parts.audit.close();

    let gate = &world.metrics.gate;
    assert_eq!(gate.tls_handshake_failures.with_label_values(&["mqtts", "tls_protocol"]).get(), 3);
    assert_eq!(gate.tls_handshakes.with_label_values(&["mqtts", "failed"]).get(), 3);
    assert_eq!(gate.listener_accepted.with_label_values(&["mqtts"]).get(), 3);
    assert_eq!(gate.listener_connections.with_label_values(&["mqtts"]).get(), 0);
    assert_eq!(gate.listener_up.with_label_values(&["mqtts", "tls"]).get(), 0);
    let text = std::fs::read_to_string(&world.file).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["name"], "tls.handshake_failed");
    assert_eq!(lines[0]["listener"], "mqtts");
    assert!(lines[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(lines[1]["fields"]["count"], "2");
}

#[tokio::test]
async fn whoever_says_nothing_keeps_nobody_out() {
    let world = World::new();
    let ca = TestCa::new("CA");
    let server = ca.server();
    let settings = TlsSettings { client_auth: crate::tls::ClientAuth::None, ..TlsSettings::default() };
    let set = TlsSet::new(settings, server.served(), Arc::new(TrustStore::new(1))).unwrap();
    let tls = TlsServer::new(set);
    let mut settings =
        ListenerSettings::new("mqtts", SocketAddr::from(([127, 0, 0, 1], 0)), Some(Arc::new(tls)));
    settings.max_handshakes = 1;
    let listener = Listener::new(settings, world.parts.clone());
    let mut address = listener.address();
    let running = tokio::spawn(listener.run(world.shutdown.clone()));
    let address = open(&mut address).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let accepted = world.metrics.gate.listener_accepted.with_label_values(&["mqtts"]);
    while accepted.get() < 3 {
        tokio::task::yield_now().await;
    }

    let client = client_of(&ca);
    let stream = TcpStream::connect(address).await.unwrap();
    let connecting =
        tokio_rustls::TlsConnector::from(client).connect("localhost".try_into().unwrap(), stream);
    // Much less than the handshake timeout, after which the silent ones are gone in any case.
    let stream = tokio::time::timeout(Duration::from_secs(8), connecting).await;
    drop(stream.expect("the silent ones hold the places").unwrap());
    world.shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_has_no_place_waits() {
    let world = World::new();
    let mut settings =
        ListenerSettings::new("mqtts", SocketAddr::from(([127, 0, 0, 1], 0)), Some(world.tls()));
    settings.max_connections = 1;
    let listener = Listener::new(settings, world.parts.clone());
    let mut address = listener.address();
    let running = tokio::spawn(listener.run(world.shutdown.clone()));
    let address = open(&mut address).await;
    let first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    let accepted = world.metrics.gate.listener_accepted.with_label_values(&["mqtts"]);
    while accepted.get() < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(accepted.get(), 1);
    drop(first);
    tokio::io::AsyncWriteExt::write_all(&mut second, b"not TLS").await.unwrap();
    let _ = second.read_to_end(&mut Vec::new()).await;
    assert_eq!(accepted.get(), 2);
    world.shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn not_ready_for_each_cause() {
    let world = World::new();
    let storage = Arc::new(MemoryStorage::default());
    let registry = Registry::open(
        Arc::clone(&storage) as _,
        Arc::new(TrustStore::new(1)),
        Arc::clone(&world.parts.audit),
        Arc::clone(&world.metrics.gate),
        crate::registry::RegistrySettings::default(),
    );
    let registry = registry.await.unwrap();
    let readiness =
        Readiness::new(Arc::clone(&world.hooks), Arc::clone(&world.parts.audit), Some(Arc::clone(&registry)));
    assert!(readiness.obstacles().is_empty());
    storage.failing.store(true, Ordering::SeqCst);
    let _ = registry.devices(None, 1).await;
    world.parts.audit.close();
    world.missing(&["acl"]);
    let expected = [
        "the required plugin \"acl\" is not live: still compiling",
        "the audit log is closed",
        "the registry's storage is unavailable",
    ];
    assert_eq!(readiness.obstacles(), expected);
}

#[tokio::test]
async fn it_moves_and_stays_where_it_is_if_it_cannot() {
    let world = World::new();
    let listener = world.listener(None);
    let (mut address, control) = (listener.address(), listener.control());
    let running = tokio::spawn(listener.run(world.shutdown.clone()));
    let first = open(&mut address).await;
    let at = |address: SocketAddr| {
        let mut settings = ListenerSettings::clone(&control.settings());
        settings.address = ListenAddress::Ip(address);
        settings
    };
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = control.move_to(at(taken.local_addr().unwrap())).await.unwrap_err();
    assert_eq!(error.problem.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(open(&mut address).await, first);
    TcpStream::connect(first).await.unwrap();

    // The new address covers the old one, which is in its way.
    let everywhere = SocketAddr::from(([0, 0, 0, 0], first.port()));
    control.move_to(at(everywhere)).await.unwrap();
    let expected = Some(ListenAddress::Ip(everywhere));
    assert_eq!(*address.wait_for(|now| *now == expected).await.unwrap(), expected);
    TcpStream::connect(first).await.unwrap();

    control.retire();
    running.await.unwrap().unwrap();
    assert_eq!(*address.borrow(), None);
    assert!(TcpStream::connect(first).await.is_err());
    assert!(control.move_to(at(first)).await.is_err(), "it has ended");
}

#[tokio::test]
async fn places_are_added_and_taken_away() {
    let world = World::new();
    let listener = world.listener(None);
    let control = listener.control();
    let sized = |connections: usize| {
        let mut settings = ListenerSettings::clone(&control.settings());
        settings.max_connections = connections;
        control.configure(settings);
    };
    sized(3);
    let places = Arc::clone(&listener.inner.places);
    assert_eq!(places.available_permits(), 3);
    let taken = Arc::clone(&places).acquire_many_owned(3).await.unwrap();
    sized(1);
    tokio::task::yield_now().await;
    drop(taken);
    // The two that are too many go as soon as they are given back.
    while places.available_permits() != 1 {
        tokio::task::yield_now().await;
    }
    sized(5);
    assert_eq!(places.available_permits(), 5);
    let limit = world.metrics.gate.listener_connections_limit.with_label_values(&["mqtts"]);
    assert_eq!(limit.get(), 5);
}
