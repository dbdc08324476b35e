//! What an unknown certificate gets past, and what follows from a known one being used: the edge cases of
//! docs/registry-edge-cases.md that the gate decides. Each test has the name of its case.

use mqgate_identity::registry::{
    AutoRegistration, CaSettings, DeviceCertificate, EventKind, RegistrationRate,
};
use mqgate_protocol::limits::Limits;

use super::*;
use crate::broker::{Admitter, Broker, BrokerParts};
use crate::clock::sanity::WhenWrong;
use crate::directory::ConnectionHandle;
use crate::metrics::mqtt::MqttMetrics;
use crate::provision::{ProvisionRates, Rate};
use crate::registry::{CaProof, CaRegistration};
use crate::sharing::{OnShared, SharingSettings};

/// Waits for what a task in the background does.
pub(super) async fn soon<T>(mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "it does not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What is registered after this is younger: ages are told by milliseconds.
pub(super) async fn later() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

pub(super) fn registers(device_id: &str) -> Arc<FakeHook> {
    registrar(Ok(RegistrationDecision::Register(registration(device_id, ConflictPolicy::AddCertificate))))
}

pub(super) fn holds(device_id: &str) -> Arc<FakeHook> {
    registrar(Ok(RegistrationDecision::Hold(registration(device_id, ConflictPolicy::AddCertificate))))
}

impl World {
    /// As [`World::gate`], with other settings.
    pub(super) fn gate_with(
        &self,
        hooks: &[&Arc<FakeHook>],
        change: impl FnOnce(&mut GateSettings),
    ) -> Arc<Gate> {
        let members = hooks.iter().enumerate().map(|(at, hook)| member(&format!("p{at}"), hook)).collect();
        let gate = self.gate(members);
        let mut settings = GateSettings::clone(&gate.settings.load());
        change(&mut settings);
        gate.configure(settings);
        Arc::new(gate)
    }

    pub(super) async fn says(&self, gate: &Gate, device: &TestCertificate, client_id: &str) -> String {
        said(&gate.admit(&self.accepted("auto", Some(device)), &connect(client_id)).await)
    }

    pub(super) async fn record(&self, device: &TestCertificate) -> Option<DeviceCertificate> {
        self.registry.device(device.id()).await.unwrap()
    }

    /// Registers a CA with these settings.
    pub(super) async fn registered_ca(&self, name: &str, settings: CaSettings) -> TestCa {
        let ca = TestCa::new(name);
        let request = CaRegistration {
            pem: ca.pem(),
            name: name.into(),
            proof: CaProof::Skip,
            settings,
            ..CaRegistration::default()
        };
        self.registry.register_ca(request, "admin:test").await.unwrap();
        ca
    }

    pub(super) fn comes_under(&self, ca: &TestCa, device: &TestCertificate) -> Accepted {
        Accepted { certificate: Some(device.proved(ca)), ..self.accepted("auto", None) }
    }

    pub(super) async fn events(&self) -> Vec<EventKind> {
        let page = self.registry.events(0, 1000).await.unwrap();
        page.events.into_iter().map(|event| event.kind).collect()
    }
}

#[tokio::test]
async fn a_pending_certificate_is_waited_for() {
    let world = World::new().await;
    let device = world.ca.device("device-7");
    let gate = world.gate_with(&[&holds("device-7"), &allow()], |settings| {
        settings.provision.park_timeout = Duration::from_secs(600);
    });
    let parked = world.metrics.provision.parked_on("auto");
    let comes = |number: usize| {
        let (gate, accepted) = (Arc::clone(&gate), world.accepted("auto", Some(&device)));
        tokio::spawn(async move { said(&gate.admit(&accepted, &connect(&format!("c{number}"))).await) })
    };
    let first = comes(0);
    soon(async || (parked.get() == 1).then_some(())).await;
    // A second connection of the same certificate finds it in the registry, and waits as well.
    let second = comes(1);
    soon(async || (parked.get() == 2).then_some(())).await;
    world.registry.activate(device.id(), "admin:test").await.unwrap();
    assert_eq!(first.await.unwrap(), "admitted c0 as device-7");
    assert_eq!(second.await.unwrap(), "admitted c1 as device-7");
    assert_eq!(parked.get(), 0);
    assert_eq!(world.storage.writes.load(Ordering::SeqCst), 2, "registered once, activated once");
}

#[tokio::test]
async fn a_pending_certificate_that_is_rejected_or_forgotten_is_waited_for_no_longer() {
    let world = World::new().await;
    let (rejected, closed) = (world.ca.device("rejected"), world.ca.device("closed"));
    let gate = |name: &str| {
        world.gate_with(&[&holds(name), &allow()], |settings| {
            settings.provision.park_timeout = Duration::from_secs(600);
        })
    };
    let parked = world.metrics.provision.parked_on("auto");
    for device in [&rejected, &closed] {
        let gate = gate("d");
        let (waits, accepted) = (Arc::clone(&gate), world.accepted("auto", Some(device)));
        let waits = tokio::spawn(async move { said(&waits.admit(&accepted, &connect("c")).await) });
        soon(async || (parked.get() == 1).then_some(())).await;
        if device.id() == rejected.id() {
            world.registry.reject(device.id(), "admin:test").await.unwrap();
            assert_eq!(waits.await.unwrap(), "refused cert_revoked 0x87");
        } else {
            // The broker stops.
            gate.provision().close();
            assert_eq!(waits.await.unwrap(), "refused cert_pending 0x87 retry-after 30");
        }
        assert_eq!(parked.get(), 0);
    }
}

#[tokio::test]
async fn who_waits_for_too_long_and_who_finds_no_place_is_told_to_come_again() {
    let world = World::new().await;
    let device = world.ca.device("device-7");
    let pending = "refused cert_pending 0x87 retry-after 30";
    let gate = world.gate_with(&[&holds("device-7"), &allow()], |settings| {
        settings.provision.park_timeout = Duration::from_millis(20);
    });
    assert_eq!(world.says(&gate, &device, "c").await, pending);
    assert_eq!(world.metrics.provision.waits("timeout"), 1);
    let gate = world.gate_with(&[&holds("device-7"), &allow()], |settings| {
        settings.provision.park_timeout = Duration::from_secs(600);
        settings.provision.max_parked = 1;
    });
    let (waits, accepted) = (Arc::clone(&gate), world.accepted("auto", Some(&device)));
    let waits = tokio::spawn(async move { said(&waits.admit(&accepted, &connect("c")).await) });
    let parked = world.metrics.provision.parked_on("auto");
    soon(async || (parked.get() == 1).then_some(())).await;
    assert_eq!(world.says(&gate, &device, "c").await, pending, "there is one place");
    assert_eq!(world.metrics.provision.not_parked_on("auto"), 1);
    world.registry.activate(device.id(), "admin:test").await.unwrap();
    assert_eq!(waits.await.unwrap(), "admitted c as device-7");
}

#[tokio::test]
async fn a_pending_certificate_that_comes_again_and_again_is_one_event_a_minute() {
    let world = World::new().await;
    let device = world.ca.device("device-7");
    let gate = world.gate_with(&[&holds("device-7"), &allow()], |_| {});
    for _ in 0..5 {
        world.says(&gate, &device, "c").await;
    }
    let pending = world.events().await.into_iter().filter(|kind| *kind == EventKind::CertPending).count();
    assert_eq!(pending, 1);
}

#[tokio::test]
async fn a_rate_that_is_used_up_refuses_before_anybody_is_asked_and_writes_nothing() {
    let world = World::new().await;
    let hook = registers("d");
    for (rates, bucket) in [
        (ProvisionRates { global: Rate::per_minute(1, 1), ..ProvisionRates::default() }, "global"),
        (ProvisionRates { ca: Rate::per_minute(1, 1), ..ProvisionRates::default() }, "ca"),
        (ProvisionRates { source: Rate::per_minute(1, 1), ..ProvisionRates::default() }, "source"),
    ] {
        let gate = world.gate_with(&[&hook, &allow()], |settings| settings.provision.rates = rates);
        let (first, second) = (world.ca.device("d"), world.ca.device("d"));
        let from = |device| {
            let mut accepted = world.accepted("auto", Some(device));
            accepted.peer.address = [198, 51, 100, 7].into();
            accepted
        };
        let admitted = said(&gate.admit(&from(&first), &connect("c")).await);
        assert_eq!(admitted, "admitted c as d", "{bucket}: at the limit");
        let asked = hook.asked.load(Ordering::SeqCst);
        let Admission::Refused(refusal) = gate.admit(&from(&second), &connect("c")).await else {
            panic!("{bucket}: one above the limit")
        };
        assert_eq!((refusal.reason, refusal.code.0), (Reason::ProvisionRateLimited, 0x9f), "{bucket}");
        assert!(refusal.retry_after.is_some_and(|seconds| (1..=60).contains(&seconds)), "{refusal:?}");
        assert_eq!(hook.asked.load(Ordering::SeqCst), asked, "{bucket}: no plugin is asked");
        assert!(world.record(&second).await.is_none(), "{bucket}: nothing is written of it");
        assert_eq!(world.metrics.provision.limited(bucket), 1);
        // Who is registered already takes no token.
        assert_eq!(said(&gate.admit(&from(&first), &connect("c")).await), "admitted c as d");
    }
}

#[tokio::test]
async fn a_ca_says_how_its_certificates_are_registered() {
    let world = World::new().await;
    let hook = registers("d");
    let gate = world.gate_with(&[&hook, &allow()], |_| {});
    let settings = |auto_registration| CaSettings { auto_registration, ..CaSettings::default() };
    let says = async |ca: &TestCa, device: &TestCertificate| {
        said(&gate.admit(&world.comes_under(ca, device), &connect("c")).await)
    };
    let off = world.registered_ca("off", settings(AutoRegistration::Off)).await;
    assert_eq!(says(&off, &off.device("x")).await, "refused cert_not_registered 0x87");
    let only = CaSettings { subject_patterns: vec!["CN=meter-*".into()], ..CaSettings::default() };
    let only = world.registered_ca("only", only).await;
    assert_eq!(says(&only, &only.device("pump-1")).await, "refused provision_denied 0x87");
    let short = CaSettings { max_leaf_lifetime_seconds: Some(86_400), ..CaSettings::default() };
    let short = world.registered_ca("short", short).await;
    assert_eq!(says(&short, &short.device("x")).await, "refused provision_denied 0x87");
    assert_eq!(hook.asked.load(Ordering::SeqCst), 0, "no plugin is asked about any of them");
    assert_eq!(says(&only, &only.device("meter-1")).await, "admitted c as d");
    // A plugin that says yes does not widen what the CA says.
    let pending = world.registered_ca("pending", settings(AutoRegistration::Pending)).await;
    let device = pending.device("x");
    assert_eq!(says(&pending, &device).await, "refused cert_pending 0x87 retry-after 30");
    assert_eq!(world.record(&device).await.unwrap().state, DeviceState::PendingActivation);
    // Its own rate goes before that of all CAs.
    let rate = Some(RegistrationRate { per_minute: 1, burst: 1 });
    let slow = CaSettings { registration_rate: rate, ..CaSettings::default() };
    let slow = world.registered_ca("slow", slow).await;
    assert_eq!(says(&slow, &slow.device("a")).await, "admitted c as d");
    let Admission::Refused(refusal) =
        gate.admit(&world.comes_under(&slow, &slow.device("b")), &connect("c")).await
    else {
        panic!("the second one is too fast")
    };
    assert_eq!(refusal.reason, Reason::ProvisionRateLimited);
    // One registrar of the chain may be named.
    let named = CaSettings { registrar: Some("nobody".into()), ..CaSettings::default() };
    let named = world.registered_ca("named", named).await;
    assert_eq!(says(&named, &named.device("x")).await, "refused cert_not_registered 0x87");
}

#[tokio::test]
async fn a_quota_holds_also_when_many_come_at_once() {
    let world = World::new().await;
    let gate = world.gate_with(&[&registers("d"), &allow()], |settings| {
        settings.provision.max_device_certs = Some(3);
    });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (gate, accepted) = (Arc::clone(&gate), world.accepted("auto", Some(&world.ca.device("d"))));
        tasks.spawn(async move { said(&gate.admit(&accepted, &connect("c")).await) });
    }
    let said = tasks.join_all().await;
    let admitted = said.iter().filter(|said| *said == "admitted c as d").count();
    assert!(said.iter().all(|said| said.starts_with("admitted") || said == "refused provision_quota 0x97"));
    // Those in flight count: it may be fewer than the quota, and never more.
    assert!((1..=3).contains(&admitted), "{said:?}");
    for _ in admitted..3 {
        assert_eq!(world.says(&gate, &world.ca.device("d"), "c").await, "admitted c as d");
    }
    assert_eq!(world.says(&gate, &world.ca.device("d"), "c").await, "refused provision_quota 0x97");
    assert_eq!(world.registry.devices(None, 99).await.unwrap().len(), 3);
}

#[tokio::test]
async fn only_so_many_certificates_wait_for_an_operator() {
    let world = World::new().await;
    let limited = |settings: &mut GateSettings| settings.provision.max_pending = Some(1);
    let gate = world.gate_with(&[&holds("d"), &allow()], limited);
    let pending = "refused cert_pending 0x87 retry-after 30";
    assert_eq!(world.says(&gate, &world.ca.device("a"), "c").await, pending);
    assert_eq!(world.says(&gate, &world.ca.device("b"), "c").await, "refused provision_quota 0x97");
    let at_once = world.gate_with(&[&registers("e"), &allow()], limited);
    assert_eq!(world.says(&at_once, &world.ca.device("c"), "c").await, "admitted c as e", "it does not wait");
}

#[tokio::test]
async fn a_denied_registration_writes_nothing_and_is_remembered() {
    let world = World::new().await;
    let denies = registrar(Ok(RegistrationDecision::Deny(denial(ConnackReason::NotAuthorized))));
    let gate = world.gate_with(&[&denies, &allow()], |settings| settings.provision.max_rejected = 2);
    let devices = [world.ca.device("a"), world.ca.device("b"), world.ca.device("c")];
    for device in [&devices[0], &devices[1], &devices[1], &devices[2]] {
        world.says(&gate, device, "c").await;
    }
    assert_eq!(world.storage.writes.load(Ordering::SeqCst), 0);
    assert_eq!(world.events().await, []);
    let remembered: Vec<_> = gate
        .provision()
        .rejections()
        .into_iter()
        .map(|entry| (entry.subject, entry.attempts, entry.reason, entry.by.unwrap()))
        .collect();
    let entry = |name: &str, attempts| (format!("CN={name}"), attempts, "provision_denied", "p0".to_owned());
    assert_eq!(remembered.len(), 2, "the first one made room");
    assert!(remembered.contains(&entry("b", 2)) && remembered.contains(&entry("c", 1)), "{remembered:?}");
    let again = world.gate_with(&[&registers("b"), &allow()], |_| {});
    world.says(&again, &devices[1], "c").await;
    assert!(world.record(&devices[1]).await.is_some(), "it was not barred by that");
}

#[tokio::test]
async fn a_ca_that_is_being_replaced_registers_nobody() {
    let world = World::new().await;
    let gate = world.gate_with(&[&registers("d"), &allow()], |_| {});
    let known = world.ca.device("known");
    assert_eq!(world.says(&gate, &known, "c").await, "admitted c as d");
    let retiring = vec![world.ca.anchor().into()];
    world.trust.configure_bound(Vec::new(), retiring).unwrap();
    assert_eq!(world.says(&gate, &world.ca.device("new"), "c").await, "refused ca_inactive 0x87");
    assert_eq!(world.says(&gate, &known, "c").await, "admitted c as d", "who is registered is not concerned");
}

#[tokio::test]
async fn server_clock_wrong_nobody_registers_and_the_policy_says_who_gets_in() {
    let world = World::new().await;
    let (known, new) = (world.ca.device("known"), world.ca.device("new"));
    world.register(&known, None).await;
    let gate = world.gate_with(&[&registers("d"), &allow()], |_| {});
    let unborn = UnixMillis(u64::MAX);
    let (storage, metrics) = (Arc::clone(&world.storage), prometheus::Registry::new());
    let clock = ClockWatch::open(storage, Arc::clone(&world.audit), &metrics, unborn, true).unwrap();
    gate.reads(Arc::clone(&clock));
    assert_eq!(world.says(&gate, &new, "c").await, "refused clock_insane 0x88");
    assert!(world.record(&new).await.is_none());
    assert_eq!(world.says(&gate, &known, "c").await, "admitted c as known");
    clock.configure(WhenWrong::Deny);
    assert_eq!(world.says(&gate, &known, "c").await, "refused clock_insane 0x88");
}

#[tokio::test]
async fn client_ids_that_a_new_certificate_is_bound_to() {
    let world = World::new().await;
    let with_names = world.ca.issue("pump", rcgen::ExtendedKeyUsagePurpose::ClientAuth, |params| {
        let dns = rcgen::SanType::DnsName("Pump-1.Example".try_into().unwrap());
        params.subject_alt_names = vec![rcgen::SanType::IpAddress([192, 0, 2, 1].into()), dns];
    });
    let by_plugin = Registration {
        attributes: vec![Attribute { name: "client-id".into(), value: Value::Text("given".into()) }],
        ..registration("d", ConflictPolicy::AddCertificate)
    };
    let by_plugin = registrar(Ok(RegistrationDecision::Register(by_plugin)));
    let plain = registers("d");
    let plain_device = || world.ca.device("pump-7");
    let cases = [
        (BindClientId::None, &plain, plain_device(), "any", "admitted any as d", None),
        (BindClientId::CommonName, &plain, plain_device(), "pump-7", "admitted pump-7 as d", Some("pump-7")),
        (BindClientId::CommonName, &plain, plain_device(), "", "admitted pump-7 as d", Some("pump-7")),
        (
            BindClientId::AlternativeName,
            &plain,
            with_names,
            "",
            "admitted pump-1.example as d",
            Some("pump-1.example"),
        ),
        (BindClientId::AlternativeName, &plain, plain_device(), "x", "refused provision_denied 0x87", None),
        (BindClientId::FirstConnect, &plain, plain_device(), "mine", "admitted mine as d", Some("mine")),
        // A registrar's word goes before.
        (BindClientId::CommonName, &by_plugin, plain_device(), "given", "admitted given as d", Some("given")),
        (BindClientId::None, &by_plugin, plain_device(), "other", "refused clientid_mismatch 0x85", None),
    ];
    for (mode, hook, device, sent, expected, bound) in cases {
        let gate = world.gate_with(&[hook, &allow()], |settings| settings.bind_client_id = mode);
        assert_eq!(world.says(&gate, &device, sent).await, expected, "{mode:?}, {sent:?}");
        let record = world.record(&device).await;
        assert_eq!(record.is_some(), expected.starts_with("admitted"), "a refused one is not written");
        assert_eq!(record.as_ref().and_then(|record| record.client_id.as_deref()), bound, "{mode:?}");
        if let Some(record) = record {
            assert!(!record.attributes.contains_key("client-id"));
            world
                .registry
                .delete(record.id, mqgate_identity::registry::rules::Force::Yes, "t")
                .await
                .unwrap();
        }
    }
    // One that sends none is bound to the one that it is given.
    let gate = world.gate_with(&[&plain, &allow()], |settings| {
        settings.bind_client_id = BindClientId::FirstConnect;
    });
    let device = plain_device();
    let first = world.says(&gate, &device, "").await;
    assert!(first.starts_with("admitted mqgate-"), "{first}");
    assert_eq!(world.says(&gate, &device, "").await, first);
}

#[tokio::test]
async fn use_cert_as_clientid_and_another_client_id_with_override() {
    let world = World::new().await;
    let device = world.ca.device("device-7");
    world.register(&device, Some("bound")).await;
    let gate = world.gate_with(&[&allow()], |settings| {
        settings.on_client_id_mismatch = OnClientIdMismatch::Override;
    });
    let Admission::Admitted(permit) =
        gate.admit(&world.accepted("manual", Some(&device)), &connect("other")).await
    else {
        panic!("refused")
    };
    // It sent one, so that it is not assigned one: CONNACK tells it by a user property.
    assert_eq!((&*permit.client_id, permit.assigned), ("bound", false));
    let strict = world.gate_with(&[&allow()], |_| {});
    let refused = strict.admit(&world.accepted("manual", Some(&device)), &connect("other")).await;
    assert_eq!(said(&refused), "refused clientid_mismatch 0x85");
    soon(async || world.events().await.contains(&EventKind::CertBindingViolation).then_some(())).await;
}

#[tokio::test]
async fn cert_string_in_a_topic_template() {
    let world = World::new().await;
    let may = authorizer(Ok(Authorization::Allow(grant("devices/${client-id}/#"))));
    let gate = world.gate_with(&[&registers("d"), &may], |_| {});
    let device = world.ca.device("d");
    for client_id in ["a/b", "+", "#", "$SYS"] {
        let admission = gate.admit(&world.accepted("auto", Some(&device)), &connect(client_id)).await;
        let Admission::Admitted(permit) = admission else { panic!("{client_id:?}: {admission:?}") };
        for topic in ["devices/a/b/x", "devices/x/y", "devices/$SYS/x"] {
            let topic = mqgate_codec::TopicName::parse(topic.into()).unwrap();
            let may = permit.may_publish(&topic, mqgate_codec::QoS::AtMostOnce, false);
            assert!(!may, "{client_id:?} reaches {topic:?}");
        }
    }
    soon(async || world.events().await.contains(&EventKind::CertTopicInjection).then_some(())).await;
    // From the certificate itself: its common name is the client id.
    let gate = world.gate_with(&[&registers("d"), &may], |settings| {
        settings.bind_client_id = BindClientId::CommonName;
    });
    for name in ["a/b", "+", "#", "$SYS", "plain"] {
        let accepted = world.accepted("auto", Some(&world.ca.device(name)));
        let admission = gate.admit(&accepted, &connect("")).await;
        let Admission::Admitted(permit) = admission else { panic!("{name:?}: {admission:?}") };
        assert_eq!(&*permit.client_id, name);
        for topic in ["devices/a/b/x", "devices/x/y", "devices/$SYS/x", "devices/plain/x"] {
            let of_plain = name == "plain" && topic == "devices/plain/x";
            let topic = mqgate_codec::TopicName::parse(topic.into()).unwrap();
            let may = permit.may_publish(&topic, mqgate_codec::QoS::AtMostOnce, false);
            assert_eq!(may, of_plain, "{name:?} reaches {topic:?}");
        }
    }
    assert_eq!(world.says(&gate, &world.ca.device("a\0b"), "").await, "refused provision_denied 0x87");
}

#[tokio::test]
async fn same_cert_on_two_listeners_is_one_record() {
    let world = World::new().await;
    let gate = world.gate_with(&[&registers("d"), &allow()], |_| {});
    let device = world.ca.device("d");
    assert_eq!(world.says(&gate, &device, "c").await, "admitted c as d");
    let elsewhere = gate.admit(&world.accepted("manual", Some(&device)), &connect("c")).await;
    assert_eq!(said(&elsewhere), "admitted c as d");
    assert_eq!(world.registry.devices(None, 9).await.unwrap().len(), 1);
}

/// What one place of this broker has registered is known at all others at once, also where it was asked for in vain.
#[tokio::test]
async fn registered_here_and_connecting_elsewhere_at_once() {
    let world = World::new().await;
    let gate = world.gate_with(&[&registers("d"), &allow()], |_| {});
    let (by_itself, by_hand) = (world.ca.device("d"), world.ca.device("e"));
    let elsewhere =
        async |device| said(&gate.admit(&world.accepted("manual", Some(device)), &connect("c")).await);
    for device in [&by_itself, &by_hand] {
        assert_eq!(elsewhere(device).await, "refused cert_not_registered 0x87");
    }
    assert_eq!(world.says(&gate, &by_itself, "c").await, "admitted c as d");
    assert_eq!(elsewhere(&by_itself).await, "admitted c as d");
    world.register(&by_hand, None).await;
    assert_eq!(elsewhere(&by_hand).await, "admitted c as e");
}

/// What is left of a partition where there is one node: its storage does not answer.
#[tokio::test]
async fn cut_off_from_the_storage_nobody_registers() {
    let world = World::new().await;
    let gate = world.gate_with(&[&registers("d"), &allow()], |_| {});
    let (known, revoked, new) = (world.ca.device("known"), world.ca.device("revoked"), world.ca.device("d"));
    world.register(&known, Some("k")).await;
    world.register(&revoked, Some("r")).await;
    let unbound = world.ca.device("unbound");
    world.register(&unbound, None).await;
    assert_eq!(world.says(&gate, &known, "k").await, "admitted k as known");
    assert_eq!(world.says(&gate, &unbound, "u").await, "admitted u as unbound");
    world.registry.revoke(revoked.id(), RevocationReason::Unspecified, "admin:test").await.unwrap();
    world.storage.failing.store(true, Ordering::SeqCst);
    assert_eq!(world.says(&gate, &new, "c").await, "refused registry_unavailable 0x88");
    // What is remembered counts: who was let in is, who was revoked is not.
    assert_eq!(world.says(&gate, &known, "k").await, "admitted k as known");
    assert_eq!(world.says(&gate, &revoked, "r").await, "refused cert_revoked 0x87");
    // Whose client id it is cannot be asked.
    assert_eq!(world.says(&gate, &unbound, "u").await, "refused registry_unavailable 0x88");
    world.storage.failing.store(false, Ordering::SeqCst);
    assert!(world.record(&new).await.is_none(), "nothing is registered afterwards either");
    assert_eq!(world.says(&gate, &new, "c").await, "admitted c as d");
}

/// A broker that knows who is connected, so that copies are found.
fn watched(world: &World, gate: &Arc<Gate>, policy: OnShared) -> Arc<Broker> {
    let broker = Broker::new(BrokerParts {
        admitter: Admitter::Gate(Arc::clone(gate)),
        audit: Arc::clone(&world.audit),
        metrics: Arc::new(MqttMetrics::register(&prometheus::Registry::new()).unwrap()),
        limits: Limits::default(),
        listener_limits: HashMap::new(),
    });
    let settings = SharingSettings { policy, ..SharingSettings::default() };
    gate.finds_shared_by(Sharing::new(&broker, &prometheus::Registry::new(), settings).unwrap());
    broker
}

#[tokio::test]
async fn same_cert_two_devices_different_client_ids_where_one_is_bound() {
    let world = World::new().await;
    let gate = world.gate_with(&[&allow()], |_| {});
    let _broker = watched(&world, &gate, OnShared::Alert);
    let device = world.ca.device("d");
    world.register(&device, Some("a")).await;
    assert_eq!(world.says(&gate, &device, "a").await, "admitted a as d");
    assert_eq!(world.says(&gate, &device, "b").await, "refused clientid_mismatch 0x85");
    soon(async || world.events().await.contains(&EventKind::CertBindingViolation).then_some(())).await;
    assert!(!world.events().await.contains(&EventKind::CertSharedDetected), "the other never got so far");
}

#[tokio::test]
async fn same_cert_two_devices_different_client_ids() {
    for (policy, second, third, state) in [
        (OnShared::Alert, "admitted b as d", "admitted c as d", DeviceState::Active),
        (
            OnShared::RejectNew,
            "refused clone_detected 0x87",
            "refused clone_detected 0x87",
            DeviceState::Active,
        ),
        (OnShared::KickOld, "admitted b as d", "admitted c as d", DeviceState::Active),
        (
            OnShared::Quarantine,
            "refused cert_quarantined 0x87",
            "refused cert_quarantined 0x87",
            DeviceState::Active,
        ),
    ] {
        let world = World::new().await;
        let gate = world.gate_with(&[&registers("d"), &allow()], |_| {});
        let broker = watched(&world, &gate, policy);
        let device = world.ca.device("d");
        let mut handles = Vec::new();
        let mut comes = async |client_id: &str| {
            let mut accepted = world.accepted("auto", Some(&device));
            accepted.id = broker.next_connection_id();
            let handle = Arc::new(ConnectionHandle::new(&accepted));
            handle.hear(broker.now());
            broker.connections().enter(Arc::clone(&handle));
            let admission = gate.admit(&accepted, &connect(client_id)).await;
            match &admission {
                Admission::Admitted(permit) => handle.permitted(permit),
                Admission::Refused(_) => broker.connections().leave(accepted.id),
            }
            handles.push(handle);
            said(&admission)
        };
        assert_eq!(comes("a").await, "admitted a as d");
        assert_eq!(comes("b").await, second, "{policy:?}");
        assert_eq!(comes("c").await, third, "{policy:?}");
        let told = handles[0].farewell().map(|farewell| (farewell.code.0, farewell.reason));
        let expected = (policy == OnShared::KickOld).then_some((0x8e, Reason::CloneDetected));
        assert_eq!(told, expected, "{policy:?}");
        let record = world.record(&device).await.unwrap();
        assert_eq!(record.state, state);
        assert_eq!(record.quarantined.is_some(), policy == OnShared::Quarantine);
        soon(async || world.events().await.contains(&EventKind::CertSharedDetected).then_some(())).await;
    }
}
