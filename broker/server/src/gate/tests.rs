mod explain;
mod live;
mod pipeline;
mod rotation;
mod together;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use mqgate_codec::{ConnectProperties, ProtocolVersion};
use mqgate_identity::hooks::{
    Acl, Attribute, Authentication, Authorization, ConflictPolicy, ConnackReason, FailureKind, Grant,
    Identity, Registration, RegistrationDecision, Value,
};
use mqgate_identity::registry::rules::RevocationReason;
use mqgate_identity::registry::{DeviceState, Storage};

use super::*;
use crate::audit::AuditSettings;
use crate::registry::{ManualRegistration, RegistrySettings};
use crate::testing::{
    FakeHook, MemoryStorage, TestCa, TestCertificate, denial, failure, grant, hooks, identity, member,
    metrics,
};
use crate::trust::TrustStore;

struct World {
    ca: TestCa,
    storage: Arc<MemoryStorage>,
    registry: Arc<Registry>,
    trust: Arc<TrustStore>,
    audit: Arc<AuditLog>,
    file: PathBuf,
    metrics: Arc<GateMetrics>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with_audit(AuditSettings::default()).await
    }

    async fn with_audit(settings: AuditSettings) -> Self {
        let ca = TestCa::new("devices");
        let storage = Arc::new(MemoryStorage::default());
        let trust = Arc::new(TrustStore::new(32));
        trust.configure(vec![ca.anchor()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let metrics = Arc::clone(&metrics().gate);
        let settings = AuditSettings { path: Some(file.clone()), ..settings };
        let audit = Arc::new(AuditLog::open(settings, Arc::clone(&metrics)).unwrap());
        let registry = Registry::open(
            Arc::clone(&storage) as _,
            Arc::clone(&trust),
            Arc::clone(&audit),
            Arc::clone(&metrics),
            RegistrySettings::default(),
        );
        let registry = registry.await.unwrap();
        Self { ca, storage, registry, trust, audit, file, metrics, _folder: folder }
    }

    fn gate(&self, members: Vec<Arc<mqgate_identity::hooks::ChainMember>>) -> Gate {
        let policy = |auth_mode, registration| ListenerPolicy {
            auth_mode,
            registration,
            send_reason_strings: true,
            ..ListenerPolicy::default()
        };
        let mutual = policy(AuthMode::Mutual, RegistrationMode::Auto);
        let strict = ListenerPolicy { needs_certificate: true, ..mutual };
        let listeners = [
            ("one_way", policy(AuthMode::OneWay, RegistrationMode::Auto)),
            ("mutual", mutual),
            ("strictly_mutual", strict),
            ("auto", policy(AuthMode::PerDevice, RegistrationMode::Auto)),
            ("manual", policy(AuthMode::PerDevice, RegistrationMode::Manual)),
            ("all", policy(AuthMode::OneWay, RegistrationMode::Auto)),
            ("all_auto", policy(AuthMode::PerDevice, RegistrationMode::Auto)),
            ("without_p0", policy(AuthMode::PerDevice, RegistrationMode::Auto)),
        ];
        Gate::new(
            hooks(members),
            Some(Arc::clone(&self.registry)),
            Arc::clone(&self.audit),
            Arc::clone(&self.metrics),
            GateSettings {
                listeners: listeners.map(|(name, policy)| (name.into(), policy)).into(),
                chains: together::chains(),
                pending_retry_after: 30,
                ..GateSettings::default()
            },
        )
    }

    /// Each from another address, so that refusals are written down one by one.
    fn accepted(&self, listener: &str, device: Option<&TestCertificate>) -> Accepted {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        Accepted {
            id: 7,
            listener: listener.into(),
            accepted_at: UnixMillis(1),
            transport: Transport::Tls,
            peer: Peer { address: [192, 0, 2, number].into(), port: 40000, via_proxy: None },
            tls: None,
            certificate: device.map(|device| device.proved(&self.ca)),
            attributes: Vec::new(),
            server_certificate: None,
        }
    }

    async fn register(&self, device: &TestCertificate, client_id: Option<&str>) {
        let request = ManualRegistration {
            pem: device.pem(),
            client_id: client_id.map(Into::into),
            ..ManualRegistration::default()
        };
        self.registry.register(request, "admin:test").await.unwrap();
    }

    /// The audit file, as far as it is the same in each run.
    fn audited(&self) -> String {
        self.audit.close();
        let mut out = String::new();
        for line in std::fs::read_to_string(&self.file).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            let plugins: Vec<_> = line["plugins"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|plugin| {
                    format!("{}/{}={}", plugin["name"], plugin["hook"], plugin["result"]).replace('"', "")
                })
                .collect();
            let (name, outcome, reason) = (text("name"), text("outcome"), text("reason"));
            writeln!(out, "{name} {outcome} {reason} {} {plugins:?}", text("device_id")).unwrap();
        }
        out
    }
}

fn connect(client_id: &str) -> Connect {
    Connect {
        version: ProtocolVersion::V5,
        bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: client_id.into(),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn authenticator(answer: Result<Authentication, FailureKind>) -> Arc<FakeHook> {
    Arc::new(FakeHook { authentication: Some(answer.map_err(failure)), ..FakeHook::default() })
}

fn authorizer(answer: Result<Authorization, FailureKind>) -> Arc<FakeHook> {
    Arc::new(FakeHook { authorization: Some(answer.map_err(failure)), ..FakeHook::default() })
}

fn registrar(answer: Result<RegistrationDecision, FailureKind>) -> Arc<FakeHook> {
    Arc::new(FakeHook { registration: Some(answer.map_err(failure)), ..FakeHook::default() })
}

fn accept(device_id: &str) -> Result<Authentication, FailureKind> {
    Ok(Authentication::Accept { identity: identity(device_id), cache: None })
}

fn allow() -> Arc<FakeHook> {
    authorizer(Ok(Authorization::Allow(grant("devices/${device-id}/#"))))
}

fn registration(device_id: &str, on_conflict: ConflictPolicy) -> Registration {
    Registration { identity: identity(device_id), on_conflict, attributes: Vec::new() }
}

fn said(admission: &Admission) -> String {
    match admission {
        Admission::Admitted(permit) => format!("admitted {} as {}", permit.client_id, permit.device_id),
        Admission::Refused(refusal) => {
            let text = refusal.reason_string.as_deref().map(|text| format!(" {text:?}")).unwrap_or_default();
            let retry = refusal.retry_after.map(|retry| format!(" retry-after {retry}")).unwrap_or_default();
            format!("refused {} 0x{:02X}{text}{retry}", refusal.reason, refusal.code.0)
        }
    }
}

#[tokio::test]
async fn what_the_chains_say() {
    let world = World::new().await;
    let abstain = || authenticator(Ok(Authentication::Abstain));
    let deny = |reason| authenticator(Ok(Authentication::Deny(denial(reason))));
    let cases: Vec<(&str, Vec<Arc<FakeHook>>)> = vec![
        ("nobody there", vec![]),
        ("accept, allow", vec![authenticator(accept("d")), allow()]),
        ("abstain, accept, allow", vec![abstain(), authenticator(accept("d")), allow()]),
        ("all abstain", vec![abstain(), abstain(), allow()]),
        ("deny", vec![deny(ConnackReason::NotAuthorized), authenticator(accept("d")), allow()]),
        ("bad password", vec![deny(ConnackReason::BadUserNameOrPassword), allow()]),
        ("banned", vec![deny(ConnackReason::Banned), allow()]),
        ("accept before deny", vec![authenticator(accept("d")), deny(ConnackReason::Banned), allow()]),
        ("trap", vec![authenticator(Err(FailureKind::Trap)), authenticator(accept("d")), allow()]),
        ("deadline", vec![authenticator(Err(FailureKind::Deadline)), allow()]),
        ("overload", vec![authenticator(Err(FailureKind::Overload)), allow()]),
        ("nonsense", vec![authenticator(Err(FailureKind::Invalid)), allow()]),
        ("a device id with a level", vec![authenticator(accept("a/b")), allow()]),
        ("a device id that is a wildcard", vec![authenticator(accept("#")), allow()]),
        ("no device id", vec![authenticator(accept("")), allow()]),
        ("no authorizer", vec![authenticator(accept("d"))]),
        ("authorizer abstains", vec![authenticator(accept("d")), authorizer(Ok(Authorization::Abstain))]),
        (
            "authorizer denies",
            vec![
                authenticator(accept("d")),
                authorizer(Ok(Authorization::Deny(denial(ConnackReason::QuotaExceeded)))),
                allow(),
            ],
        ),
        ("authorizer fails", vec![authenticator(accept("d")), authorizer(Err(FailureKind::Memory)), allow()]),
        (
            "a grant that does not compile",
            vec![authenticator(accept("d")), authorizer(Ok(Authorization::Allow(grant("a/#/b"))))],
        ),
        (
            "a grant by a name that is not configured",
            vec![
                authenticator(accept("d")),
                authorizer(Ok(Authorization::Allow(Grant { acl: Acl::Named("x".into()), ..grant("#") }))),
            ],
        ),
    ];
    let mut table = String::new();
    for (name, chain) in cases {
        let members = chain.iter().enumerate().map(|(at, hook)| member(&format!("p{at}"), hook)).collect();
        let accepted = world.accepted("one_way", None);
        let admission = world.gate(members).admit(&accepted, &connect("c1")).await;
        writeln!(table, "{name}: {}", said(&admission)).unwrap();
    }
    insta::assert_snapshot!(table);
    insta::assert_snapshot!("what_the_chains_say_audited", world.audited());
}

#[tokio::test]
async fn no_plugin_is_shown_user_properties_without_end() {
    let world = World::new().await;
    let asked = async |count: usize| {
        let gate = world.gate(vec![member("p", &authenticator(accept("d"))), member("q", &allow())]);
        let mut connect = connect("c1");
        connect.properties.user_properties = vec![("n".into(), "v".into()); count];
        said(&gate.admit(&world.accepted("one_way", None), &connect).await)
    };
    assert_eq!(asked(1000).await, "admitted c1 as d");
    assert_eq!(asked(1001).await, "refused quota_exceeded 0x97");
    // Neither of them was asked.
    let last = world.audited().lines().last().map(str::to_owned).unwrap_or_default();
    assert!(last.contains("quota_exceeded") && last.ends_with("[]"), "{last}");
}

#[tokio::test]
async fn where_every_device_has_its_own_certificate() {
    let world = World::new().await;
    let claims = || authenticator(Ok(Authentication::Abstain));
    let mut table = String::new();
    let mut case =
        async |name: &str, listener: &str, hooks: Vec<Arc<FakeHook>>, device: Option<&TestCertificate>| {
            let members =
                hooks.iter().enumerate().map(|(at, hook)| member(&format!("p{at}"), hook)).collect();
            let gate = world.gate(members);
            let admission = gate.admit(&world.accepted(listener, device), &connect("c1")).await;
            writeln!(table, "{name}: {}", said(&admission)).unwrap();
        };
    let (new, pending, refused) =
        (world.ca.device("new"), world.ca.device("pending"), world.ca.device("refused"));
    let add = |name: &str| {
        registrar(Ok(RegistrationDecision::Register(registration(name, ConflictPolicy::AddCertificate))))
    };
    let hold = || registrar(Ok(RegistrationDecision::Hold(registration("pending", ConflictPolicy::Refuse))));
    let no = || registrar(Ok(RegistrationDecision::Deny(denial(ConnackReason::NotAuthorized))));

    case("no certificate", "auto", vec![claims(), allow()], None).await;
    case("unknown, manual", "manual", vec![add("new"), allow()], Some(&new)).await;
    case("unknown, no registrar", "auto", vec![allow()], Some(&new)).await;
    case(
        "unknown, registrar abstains",
        "auto",
        vec![registrar(Ok(RegistrationDecision::Abstain)), allow()],
        Some(&new),
    )
    .await;
    case("unknown, registrar traps", "auto", vec![registrar(Err(FailureKind::Trap)), allow()], Some(&new))
        .await;
    case("unknown, registrar denies", "auto", vec![no(), allow()], Some(&refused)).await;
    case("unknown, registered", "auto", vec![claims(), add("new"), allow()], Some(&new)).await;
    case("known now", "manual", vec![claims(), allow()], Some(&new)).await;
    case(
        "the registry's word on who it is",
        "manual",
        vec![authenticator(accept("other")), allow()],
        Some(&new),
    )
    .await;
    case("unknown, held", "auto", vec![hold(), allow()], Some(&pending)).await;
    case("pending", "auto", vec![hold(), allow()], Some(&pending)).await;
    world.registry.activate(pending.id(), "admin:test").await.unwrap();
    case("activated", "auto", vec![allow()], Some(&pending)).await;
    world.registry.deactivate(pending.id(), "admin:test").await.unwrap();
    case("deactivated", "auto", vec![allow()], Some(&pending)).await;
    world.registry.revoke(new.id(), RevocationReason::KeyCompromise, "admin:test").await.unwrap();
    case("revoked", "auto", vec![add("new"), allow()], Some(&new)).await;
    case("revoked, elsewhere", "mutual", vec![authenticator(accept("d")), allow()], Some(&new)).await;
    world.registry.delete(pending.id(), Default::default(), "admin:test").await.unwrap();
    case("deleted", "auto", vec![add("pending"), allow()], Some(&pending)).await;
    case("not registered, elsewhere", "mutual", vec![authenticator(accept("d")), allow()], Some(&refused))
        .await;
    world.storage.failing.store(true, Ordering::SeqCst);
    let unseen = world.ca.device("unseen");
    case("storage fails", "auto", vec![add("unseen"), allow()], Some(&unseen)).await;
    case("storage fails, elsewhere", "mutual", vec![authenticator(accept("d")), allow()], Some(&unseen))
        .await;
    world.storage.failing.store(false, Ordering::SeqCst);
    world.trust.configure(vec![TestCa::new("another").anchor()]).unwrap();
    case("CA gone meanwhile", "mutual", vec![authenticator(accept("d")), allow()], Some(&unseen)).await;
    case("no such listener", "nowhere", vec![authenticator(accept("d")), allow()], None).await;

    insta::assert_snapshot!(table);
    insta::assert_snapshot!("where_every_device_has_its_own_certificate_audited", world.audited());
}

/// A proxy's header that tells of no client, or a connection past the proxy, is no way round the certificate.
#[tokio::test]
async fn where_a_certificate_is_needed_nobody_comes_in_without() {
    let world = World::new().await;
    let gate = world.gate(vec![member("a", &authenticator(accept("d"))), member("b", &allow())]);
    let connect = connect("c");
    for (listener, admitted) in [("mutual", true), ("strictly_mutual", false)] {
        let admission = gate.admit(&world.accepted(listener, None), &connect).await;
        match admission {
            Admission::Admitted(_) => assert!(admitted, "{listener}"),
            Admission::Refused(refusal) => {
                assert_eq!((admitted, refusal.reason), (false, Reason::TlsNoPeerCert), "{listener}");
            }
        }
        let device = world.ca.device("with");
        let admission = gate.admit(&world.accepted(listener, Some(&device)), &connect).await;
        assert!(matches!(admission, Admission::Admitted(_)), "{listener}");
    }
}

#[tokio::test]
async fn no_plugin_is_asked_about_a_certificate_that_is_out() {
    let world = World::new().await;
    let device = world.ca.device("device-7");
    world.register(&device, None).await;
    world.registry.revoke(device.id(), RevocationReason::Unspecified, "admin:test").await.unwrap();
    let (who, may) = (authenticator(accept("device-7")), allow());
    let gate = world.gate(vec![member("a", &who), member("b", &may)]);
    for (listener, device) in [("auto", &device), ("manual", &world.ca.device("unknown"))] {
        let admission = gate.admit(&world.accepted(listener, Some(device)), &connect("c1")).await;
        assert!(matches!(admission, Admission::Refused(_)));
    }
    assert_eq!(who.asked.load(Ordering::SeqCst) + may.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn one_registration_for_many_connections_at_once() {
    let world = World::new().await;
    let device = world.ca.device("device-7");
    let registrar =
        registrar(Ok(RegistrationDecision::Register(registration("device-7", ConflictPolicy::Refuse))));
    let gate = Arc::new(world.gate(vec![member("r", &registrar), member("a", &allow())]));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (gate, accepted) = (Arc::clone(&gate), world.accepted("auto", Some(&device)));
        tasks.spawn(async move { said(&gate.admit(&accepted, &connect("c1")).await) });
    }
    for said in tasks.join_all().await {
        assert_eq!(said, "admitted c1 as device-7");
    }
    assert_eq!(registrar.asked.load(Ordering::SeqCst), 1);
    assert_eq!(world.storage.writes.load(Ordering::SeqCst), 1);
    let outcomes = &world.metrics.provision_attempts;
    assert_eq!(outcomes.with_label_values(&["devices", "registered"]).get(), 1);
    assert_eq!(
        world.metrics.device_certificates.with_label_values(&["default", "devices", "active"]).get(),
        1
    );
}

#[tokio::test]
async fn conflicts_between_certificates_of_one_device() {
    let world = World::new().await;
    let (old, new) = (world.ca.device("device-7"), world.ca.device("device-7"));
    world.register(&old, None).await;
    let gate = |policy| {
        let hook = registrar(Ok(RegistrationDecision::Register(registration("device-7", policy))));
        world.gate(vec![member("r", &hook), member("a", &allow())])
    };
    let new_comes = world.accepted("auto", Some(&new));
    let admission = gate(ConflictPolicy::Refuse).admit(&new_comes, &connect("c1")).await;
    assert_eq!(said(&admission), "refused provision_denied 0x87");

    let barred = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (seen, storage, id) = (Arc::clone(&barred), Arc::clone(&world.storage), new.id());
    world.registry.on_change(move |change| {
        if matches!(change, RegistryChange::DeviceBarred { .. }) {
            // Never both: what is replaced goes before what replaces it comes.
            assert_eq!(storage.device_certificate(&id).unwrap(), None);
            seen.lock().unwrap().push(change);
        }
    });
    let admission = gate(ConflictPolicy::ReplaceCertificates).admit(&new_comes, &connect("c1")).await;
    assert_eq!(said(&admission), "admitted c1 as device-7");
    let expected = RegistryChange::DeviceBarred { certificate: old.id(), reason: Reason::CertInactive };
    assert_eq!(*barred.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn two_certificates_of_a_device_at_the_same_time() {
    let world = World::new().await;
    let devices = [world.ca.device("device-7"), world.ca.device("device-7")];
    let refuse = registration("device-7", ConflictPolicy::Refuse);
    let hook = registrar(Ok(RegistrationDecision::Register(refuse)));
    let gate = world.gate(vec![member("r", &hook), member("a", &allow())]);
    let [one, two] = devices.each_ref().map(|device| world.accepted("auto", Some(device)));
    let packet = connect("c1");
    let (one, two) = tokio::join!(gate.admit(&one, &packet), gate.admit(&two, &packet));
    let mut both = [said(&one), said(&two)];
    both.sort();
    assert_eq!(both, ["admitted c1 as device-7", "refused provision_denied 0x87"]);
    assert_eq!(world.registry.devices(None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_replacement_at_the_same_time_leaves_one_certificate() {
    let world = World::new().await;
    let devices = [world.ca.device("device-7"), world.ca.device("device-7")];
    let replace = registration("device-7", ConflictPolicy::ReplaceCertificates);
    let hook = registrar(Ok(RegistrationDecision::Register(replace)));
    let gate = world.gate(vec![member("r", &hook), member("a", &allow())]);
    let [one, two] = devices.each_ref().map(|device| world.accepted("auto", Some(device)));
    let packet = connect("c1");
    tokio::join!(gate.admit(&one, &packet), gate.admit(&two, &packet));
    let all = world.registry.devices(None, 9).await.unwrap();
    let mut states: Vec<_> = all.iter().map(|record| record.state).collect();
    states.sort();
    assert_eq!(states, [DeviceState::Active, DeviceState::Inactive]);
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "it is what makes the storage slow")]
async fn a_replacement_that_nobody_waits_for_any_more_is_finished() {
    let world = World::new().await;
    let (old, new) = (world.ca.device("device-7"), world.ca.device("device-7"));
    world.register(&old, None).await;
    let replace = registration("device-7", ConflictPolicy::ReplaceCertificates);
    let hook = registrar(Ok(RegistrationDecision::Register(replace)));
    let gate = world.gate(vec![member("r", &hook), member("a", &allow())]);
    let comes = world.accepted("auto", Some(&new));
    let begun = world.storage.writes_begun.load(Ordering::SeqCst);
    let slow = world.storage.slow.lock().unwrap();
    let asked = tokio::spawn(async move { gate.admit(&comes, &connect("c1")).await });
    while world.storage.writes_begun.load(Ordering::SeqCst) == begun {
        tokio::task::yield_now().await;
    }
    asked.abort();
    drop(slow);
    assert!(asked.await.unwrap_err().is_cancelled());
    while world.registry.device(new.id()).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.registry.device(old.id()).await.unwrap().unwrap().state, DeviceState::Inactive);
}

#[tokio::test]
async fn client_ids() {
    let world = World::new().await;
    let (bound, free) = (world.ca.device("bound"), world.ca.device("free"));
    world.register(&bound, Some("pump-1")).await;
    world.register(&free, None).await;
    let assigning = authorizer(Ok(Authorization::Allow(Grant {
        assigned_client_id: Some("given".into()),
        ..grant("#")
    })));
    let assigning = world.gate(vec![member("a", &assigning)]);
    let plain = world.gate(vec![member("a", &allow())]);
    let cases = [
        (&plain, &bound, "pump-1", "admitted pump-1 as bound", false),
        (&plain, &bound, "pump-2", "refused clientid_mismatch 0x85", false),
        (&plain, &bound, "", "admitted pump-1 as bound", true),
        (&assigning, &bound, "", "admitted pump-1 as bound", true),
        (&assigning, &free, "", "admitted given as free", true),
        (&assigning, &free, "mine", "admitted mine as free", false),
    ];
    for (gate, device, sent, expected, assigned) in cases {
        let admission = gate.admit(&world.accepted("manual", Some(device)), &connect(sent)).await;
        assert_eq!(said(&admission), expected, "{sent:?}");
        if let Admission::Admitted(permit) = admission {
            assert_eq!(permit.assigned, assigned, "{sent:?}");
            assert_eq!(permit.certificate_fingerprint, Some(device.id()));
        }
    }
    let drawn = async || match plain.admit(&world.accepted("manual", Some(&free)), &connect("")).await {
        Admission::Admitted(permit) => permit.client_id.clone(),
        refused => panic!("{refused:?}"),
    };
    assert_ne!(drawn().await, drawn().await);
}

#[tokio::test]
async fn what_a_registrar_says_about_a_device_is_written_down() {
    let world = World::new().await;
    let device = world.ca.device("device-7");
    let attribute = |name: &str, value| Attribute { name: name.into(), value };
    let said = Registration {
        identity: Identity {
            tenant: Some("acme".into()),
            tags: vec!["meter".into(), "new".into()],
            attributes: vec![attribute("model", Value::Text("m1".into()))],
            ..identity("device-7")
        },
        attributes: vec![
            attribute("site.floor", Value::Integer(3)),
            attribute("roles", Value::Texts(vec!["a".into(), "b".into()])),
        ],
        ..registration("device-7", ConflictPolicy::Refuse)
    };
    let says = registrar(Ok(RegistrationDecision::Register(said)));
    let gate = world.gate(vec![member("r", &says), member("a", &allow())]);
    let admission = gate.admit(&world.accepted("auto", Some(&device)), &connect("c1")).await;
    assert!(matches!(admission, Admission::Admitted(_)), "{admission:?}");
    let record = world.registry.device(device.id()).await.unwrap().unwrap();
    assert_eq!((record.tenant.as_deref(), record.tags.join(" ")), (Some("acme"), "meter new".to_owned()));
    let attributes: Vec<_> =
        record.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(attributes, ["model=m1", "roles=a,b", "site.floor=3"]);
}

#[tokio::test]
async fn a_required_plugin_that_is_missing_shuts_the_gate() {
    let world = World::new().await;
    let gate = world.gate(vec![member("p0", &authenticator(accept("d"))), member("p1", &allow())]);
    let mut set = HookSet::clone(&gate.hooks().load());
    set.missing.push(("acl".into(), "does not compile".into()));
    gate.hooks().store(Arc::new(set));
    let admission = gate.admit(&world.accepted("one_way", None), &connect("c1")).await;
    assert_eq!(said(&admission), "refused plugin_unavailable 0x88");
}

#[tokio::test]
async fn what_cannot_be_written_down_does_not_happen() {
    let world = World::with_audit(AuditSettings { queue: 0, ..AuditSettings::default() }).await;
    let gate = world.gate(vec![member("p0", &authenticator(accept("d"))), member("p1", &allow())]);
    let admission = gate.admit(&world.accepted("one_way", None), &connect("c1")).await;
    assert_eq!(said(&admission), "refused audit_unavailable 0x88");
    assert!(world.metrics.audit_dropped.with_label_values(&["file", "queue_full"]).get() > 0);
}

#[tokio::test]
async fn asking_again_about_a_live_session() {
    let world = World::new().await;
    let device = world.ca.device("device-7");
    world.register(&device, None).await;
    let accepted = world.accepted("manual", Some(&device));
    let gate = world.gate(vec![member("a", &allow())]);
    let Admission::Admitted(permit) = gate.admit(&accepted, &connect("")).await else { panic!("refused") };
    let again = async |members| {
        gate.hooks().store(hooks(members).load_full());
        match gate.reauthorize(&accepted, &connect(""), &permit).await {
            Reauthorization::Kept => "kept".to_owned(),
            Reauthorization::Replaced(next) => {
                assert_eq!((&next.client_id, next.assigned), (&permit.client_id, true));
                "replaced".to_owned()
            }
            Reauthorization::Withdrawn(refusal) => format!("withdrawn {}", refusal.reason),
        }
    };
    assert_eq!(again(vec![member("a", &allow())]).await, "replaced");
    assert_eq!(again(vec![member("a", &authorizer(Err(FailureKind::Trap)))]).await, "kept");
    let deny = authorizer(Ok(Authorization::Deny(denial(ConnackReason::NotAuthorized))));
    assert_eq!(again(vec![member("a", &deny)]).await, "withdrawn plugin_denied");
    assert_eq!(again(vec![]).await, "withdrawn all_abstained");
    world.registry.revoke(device.id(), RevocationReason::Unspecified, "admin:test").await.unwrap();
    assert_eq!(again(vec![member("a", &allow())]).await, "withdrawn cert_revoked");
    let audited = world.audited();
    let said: Vec<_> = audited.lines().filter(|line| line.starts_with("connection.re")).collect();
    assert_eq!(
        said,
        [
            "connection.reauthorized success ok device-7 [\"a/authorizer=allow\"]",
            "connection.reauthorized error plugin_unavailable device-7 [\"a/authorizer=trap\"]",
            "connection.refused failure plugin_denied device-7 [\"a/authorizer=deny\"]",
            "connection.refused failure all_abstained device-7 []",
            "connection.refused failure cert_revoked device-7 []",
        ]
    );
}

#[tokio::test]
async fn a_grant_that_ran_out_is_not_kept_for_ever() {
    let world = World::new().await;
    let accepted = world.accepted("one_way", None);
    let valid_for = Some(Duration::from_secs(60));
    let may = authorizer(Ok(Authorization::Allow(Grant { valid_for, ..grant("#") })));
    let gate = world.gate(vec![member("w", &authenticator(accept("d"))), member("a", &may)]);
    let Admission::Admitted(mut permit) = gate.admit(&accepted, &connect("c")).await else {
        panic!("refused")
    };
    let fails = authorizer(Err(FailureKind::Trap));
    gate.hooks()
        .store(hooks(vec![member("w", &authenticator(accept("d"))), member("a", &fails)]).load_full());
    let now = clock::now().0;
    let minutes = |minutes: u64| Some(UnixMillis(now - minutes * 60_000));
    for (granted_at, valid_for, kept) in [
        (minutes(0), valid_for, true),
        (minutes(60), valid_for, true),
        (minutes(62), valid_for, false),
        (minutes(62), None, true),
    ] {
        (permit.granted_at, permit.valid_for) = (granted_at, valid_for);
        match gate.reauthorize(&accepted, &connect("c"), &permit).await {
            Reauthorization::Kept => assert!(kept, "{granted_at:?}"),
            Reauthorization::Withdrawn(refusal) => {
                assert!(!kept, "{granted_at:?}");
                assert_eq!(refusal.reason, Reason::PluginUnavailable);
            }
            Reauthorization::Replaced(_) => panic!("replaced"),
        }
    }
}

#[test]
fn every_reason_has_its_code() {
    let mut table = String::new();
    for reason in Reason::ALL {
        writeln!(table, "{reason}: 0x{:02X}", connack_code(*reason).0).unwrap();
    }
    insta::assert_snapshot!(table);
}
