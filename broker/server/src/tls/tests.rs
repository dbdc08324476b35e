use std::sync::Arc;

use crate::trust::TrustStore;

use mqgate_identity::reason::Reason;
use rustls::client::{ClientConfig, Resumption as ClientResumption};
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;

use super::material::Pem;
use super::*;
use crate::testing::{TestCa, TestCertificate};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);
pub(super) static PLACES: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(16);

pub(super) struct World {
    server_ca: TestCa,
    device_ca: TestCa,
    trust: Arc<TrustStore>,
}

impl World {
    pub(super) fn new() -> Self {
        let world = Self {
            server_ca: TestCa::new("server CA"),
            device_ca: TestCa::new("devices"),
            trust: Arc::new(TrustStore::new(32)),
        };
        world.trust.configure(vec![world.device_ca.anchor()]).unwrap();
        world
    }

    pub(super) fn server(&self, settings: TlsSettings) -> TlsServer {
        TlsServer::new(self.set(settings, vec![self.bound("localhost")]).unwrap())
    }

    pub(super) fn set(
        &self,
        settings: TlsSettings,
        bound: Vec<BoundCertificate>,
    ) -> Result<TlsSet, TlsError> {
        TlsSet::new(settings, CertificateSet::new(bound), Arc::clone(&self.trust))
    }

    /// A certificate of ours for a server name, as a bundle called like it.
    pub(super) fn bound(&self, name: &str) -> BoundCertificate {
        let certificate = self.server_ca.server_named(&[name]);
        let certificate = read(&certificate.pem(), &certificate.key.serialize_pem(), None).unwrap();
        let source = CertificateSource::Bundle { namespace: "global".into(), name: name.into() };
        BoundCertificate::new(source, certificate)
    }

    /// For clients that take any certificate of the server CA, whatever name is in it.
    pub(super) fn anybody(&self) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
        Arc::new(Anybody(rustls::crypto::aws_lc_rs::default_provider()))
    }

    pub(super) fn client(&self, version: TlsVersion, device: Option<&TestCertificate>) -> Arc<ClientConfig> {
        let version = match version {
            TlsVersion::V1_2 => &TLS12,
            TlsVersion::V1_3 => &TLS13,
        };
        let mut roots = RootCertStore::empty();
        roots.add(self.server_ca.der().into()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match device {
            None => builder.with_no_client_auth(),
            Some(device) => {
                let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&device.private_key()).unwrap();
                let certified = CertifiedKey::new(device.chain(), key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.resumption = ClientResumption::in_memory_sessions(16);
        Arc::new(config)
    }
}

#[derive(Debug)]
struct Anybody(CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn read(
    chain: &str,
    key: &str,
    password: Option<&str>,
) -> Result<ServerCertificate, MaterialError> {
    let pem = Pem {
        chain: chain.as_bytes(),
        key: key.as_bytes(),
        password,
        chain_name: "s.crt",
        key_name: "s.key",
    };
    ServerCertificate::from_pem(pem, crate::clock::now().seconds())
}

/// What both sides see; a connection that stands carries one byte each way, so that tickets arrive.
pub(super) async fn connect(
    server: &TlsServer,
    client: &Arc<ClientConfig>,
) -> (Result<Handshaken<DuplexStream>, HandshakeFailure>, Result<(), std::io::Error>) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let client = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, far).await?;
        stream.write_all(b"?").await?;
        stream.read_exact(&mut [0]).await?;
        stream.shutdown().await
    };
    let server = async {
        let mut handshaken = server.accept(near, PATIENCE, &PLACES).await?;
        // A client that does not like us is not the server's failure.
        let _ = handshaken.stream.read(&mut [0]).await;
        let _ = handshaken.stream.write_all(b"!").await;
        let _ = handshaken.stream.flush().await;
        Ok(handshaken)
    };
    tokio::join!(server, client)
}

pub(super) fn alert(error: std::io::Error) -> AlertDescription {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("no alert but {other:?} ({error})"),
    }
}

fn resuming() -> TlsSettings {
    TlsSettings { resumption: Resumption::Tickets, ..TlsSettings::default() }
}

pub(super) const BOTH: [TlsVersion; 2] = [TlsVersion::V1_2, TlsVersion::V1_3];

#[tokio::test]
async fn a_device_is_known_after_the_handshake() {
    let world = World::new();
    let server = world.server(TlsSettings::default());
    for version in BOTH {
        for device in [world.device_ca.device("device-7"), world.device_ca.v1_device("device-7")] {
            let (handshaken, client) = connect(&server, &world.client(version, Some(&device))).await;
            client.unwrap();
            let handshaken = handshaken.unwrap();
            let certificate = handshaken.certificate.unwrap();
            assert_eq!(certificate.leaf.certificate_fingerprint, device.id());
            assert_eq!(&*certificate.anchor.name, "devices");
            assert_eq!(certificate.anchor.certificate_fingerprint, world.device_ca.id());
            assert_eq!(handshaken.session.server_name.as_deref(), Some("localhost"));
            assert!(!handshaken.session.resumed);
        }
    }
}

#[tokio::test]
async fn a_bad_certificate_is_refused_with_its_own_reason_and_alert() {
    let world = World::new();
    let stranger = TestCa::new("strangers");
    // Says that it is of our CA; signed by another of the same name.
    let impostor = TestCa::new("devices");
    let mut thief = world.device_ca.device("victim");
    thief.key = rcgen::KeyPair::generate().unwrap();
    let mut v1_thief = world.device_ca.v1_device("victim");
    v1_thief.key = rcgen::KeyPair::generate().unwrap();
    let cases = [
        (stranger.device("x"), Reason::CertUnknownCa, AlertDescription::UnknownCA),
        (stranger.v1_device("x"), Reason::CertUnknownCa, AlertDescription::UnknownCA),
        (impostor.v1_device("x"), Reason::CertBadSignature, AlertDescription::DecryptError),
        (world.device_ca.expired("x"), Reason::CertExpired, AlertDescription::CertificateExpired),
        (world.device_ca.server(), Reason::CertPurpose, AlertDescription::UnsupportedCertificate),
        (thief, Reason::CertBadSignature, AlertDescription::DecryptError),
        (v1_thief, Reason::CertBadSignature, AlertDescription::DecryptError),
    ];
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let server = world.server(TlsSettings { client_auth, ..TlsSettings::default() });
        for version in BOTH {
            for (device, reason, expected) in &cases {
                let (handshaken, client) = connect(&server, &world.client(version, Some(device))).await;
                let failure = handshaken.err().unwrap();
                assert_eq!(failure.reason, *reason, "{version:?} {}", failure.detail);
                assert_eq!(failure.certificate_fingerprint, Some(device.id()));
                assert_eq!(failure.server_name.as_deref(), Some("localhost"));
                assert!(failure.subject.is_some());
                assert_eq!(alert(client.unwrap_err()), *expected, "{version:?} {reason}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_without_a_certificate() {
    let world = World::new();
    for version in BOTH {
        let client = world.client(version, None);
        for (client_auth, welcome) in
            [(ClientAuth::None, true), (ClientAuth::Optional, true), (ClientAuth::Required, false)]
        {
            let server = world.server(TlsSettings { client_auth, ..TlsSettings::default() });
            let (handshaken, heard) = connect(&server, &client).await;
            match handshaken {
                Ok(handshaken) => assert!(welcome && handshaken.certificate.is_none()),
                Err(failure) => {
                    assert!(!welcome);
                    assert_eq!(failure.reason, Reason::TlsNoPeerCert);
                    // As for TLS 1.3: 1.2 has no alert for it, and rustls sends this one there, too.
                    assert_eq!(alert(heard.unwrap_err()), AlertDescription::CertificateRequired);
                }
            }
        }
        // One-way: a certificate is not even asked for.
        let server = world.server(TlsSettings { client_auth: ClientAuth::None, ..TlsSettings::default() });
        let device = world.device_ca.device("device-7");
        let (handshaken, _) = connect(&server, &world.client(version, Some(&device))).await;
        assert!(handshaken.unwrap().certificate.is_none());
    }
}

#[tokio::test]
async fn a_resumed_session_is_judged_again() {
    for version in BOTH {
        for device in 0..2 {
            let world = World::new();
            let server = world.server(resuming());
            let device = match device {
                0 => world.device_ca.device("device-7"),
                _ => world.device_ca.v1_device("device-7"),
            };
            let client = world.client(version, Some(&device));
            connect(&server, &client).await.0.unwrap();

            let (resumed, heard) = connect(&server, &client).await;
            heard.unwrap();
            let resumed = resumed.unwrap();
            assert!(resumed.session.resumed, "{version:?}");
            assert_eq!(resumed.certificate.unwrap().leaf.certificate_fingerprint, device.id());

            // The CA goes. Should the tickets outlive it, the session is resumed, and still refused.
            let config = server.current().config().unwrap();
            world.trust.configure(vec![TestCa::new("another").anchor()]).unwrap();
            let trust = world.trust.current().generation;
            server.current().pretend(trust, config);
            let (refused, heard) = connect(&server, &client).await;
            let failure = refused.err().unwrap();
            assert!(failure.resumed, "{version:?}: the verifier was asked, this test shows nothing");
            assert_eq!(failure.reason, Reason::CertUnknownCa);
            assert_eq!(failure.certificate_fingerprint, Some(device.id()));
            heard.unwrap_err();
        }
    }
}

#[tokio::test]
async fn ticket_keys_end_with_the_trust_set() {
    let world = World::new();
    let server = world.server(resuming());
    let device = world.device_ca.device("device-7");
    for version in BOTH {
        let client = world.client(version, Some(&device));
        connect(&server, &client).await.0.unwrap();
        world.trust.register(vec![TestCa::new("one more").anchor()]).unwrap();
        let (handshaken, _) = connect(&server, &client).await;
        assert!(!handshaken.unwrap().session.resumed);
        world.trust.register(Vec::new()).unwrap();
        world.trust.configure(Vec::new()).unwrap();
        let (refused, _) = connect(&server, &client).await;
        assert_eq!(refused.err().unwrap().reason, Reason::CertUnknownCa);
        world.trust.configure(vec![world.device_ca.anchor()]).unwrap();
    }
}

#[tokio::test]
async fn ticket_keys_are_of_one_listener() {
    let world = World::new();
    let (one, other) = (world.server(resuming()), world.server(resuming()));
    let device = world.device_ca.device("device-7");
    for version in BOTH {
        let client = world.client(version, Some(&device));
        for (server, resumed) in [(&one, false), (&one, true), (&other, false), (&other, true)] {
            let (handshaken, _) = connect(server, &client).await;
            assert_eq!(handshaken.unwrap().session.resumed, resumed, "{version:?}");
        }
    }
}

/// Data of a first flight would come before the key was proved, and could be sent twice.
#[tokio::test]
async fn no_early_data_0_rtt() {
    let world = World::new();
    let server = world.server(resuming());
    let device = world.device_ca.device("device-7");
    let mut config = ClientConfig::clone(&world.client(TlsVersion::V1_3, Some(&device)));
    config.enable_early_data = true;
    let config = Arc::new(config);
    connect(&server, &config).await.0.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut next = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
    assert!(next.early_data().is_none(), "the ticket allows none");
    assert!(connect(&server, &config).await.0.unwrap().session.resumed, "there was a ticket");
}

#[tokio::test]
async fn without_resumption_every_handshake_is_full() {
    let world = World::new();
    let server = world.server(TlsSettings { resumption: Resumption::Off, ..TlsSettings::default() });
    let device = world.device_ca.device("device-7");
    for version in BOTH {
        let client = world.client(version, Some(&device));
        for _ in 0..2 {
            let (handshaken, _) = connect(&server, &client).await;
            assert!(!handshaken.unwrap().session.resumed);
        }
    }
}

#[tokio::test]
async fn versions_that_do_not_meet() {
    let world = World::new();
    let device = world.device_ca.device("device-7");
    for version in BOTH {
        let server = world.server(TlsSettings {
            min_version: version,
            max_version: version,
            ..TlsSettings::default()
        });
        for other in BOTH {
            let (handshaken, client) = connect(&server, &world.client(other, Some(&device))).await;
            if version == other {
                client.unwrap();
                handshaken.unwrap();
            } else {
                let failure = handshaken.err().unwrap();
                assert_eq!(failure.reason, Reason::TlsVersionUnsupported, "{}", failure.detail);
            }
        }
    }
    let backwards = TlsSettings {
        min_version: TlsVersion::V1_3,
        max_version: TlsVersion::V1_2,
        ..TlsSettings::default()
    };
    assert_eq!(world.set(backwards, vec![world.bound("localhost")]).err(), Some(TlsError::Versions));
}

#[tokio::test]
async fn alpn_is_optional_for_the_client() {
    let world = World::new();
    let server = world.server(TlsSettings::default());
    let device = world.device_ca.device("device-7");
    for (offered, chosen) in [(vec![], None), (vec![b"mqtt".to_vec()], Some("mqtt"))] {
        let mut client = ClientConfig::clone(&world.client(TlsVersion::V1_3, Some(&device)));
        client.alpn_protocols = offered;
        let (handshaken, _) = connect(&server, &Arc::new(client)).await;
        assert_eq!(handshaken.unwrap().session.alpn.as_deref(), chosen);
    }
}

#[tokio::test]
async fn a_silent_client_and_one_that_talks_something_else() {
    let world = World::new();
    let server = world.server(TlsSettings::default());
    let (near, far) = tokio::io::duplex(1024);
    let failure = server.accept(near, Duration::from_millis(20), &PLACES).await.err().unwrap();
    assert_eq!(failure.reason, Reason::TlsHandshakeTimeout);
    drop(far);

    let (near, mut far) = tokio::io::duplex(1024);
    far.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").await.unwrap();
    let failure = server.accept(near, PATIENCE, &PLACES).await.err().unwrap();
    assert_eq!(failure.reason, Reason::TlsProtocol);

    let (near, far) = tokio::io::duplex(1024);
    drop(far);
    let failure = server.accept(near, PATIENCE, &PLACES).await.err().unwrap();
    assert_eq!(failure.reason, Reason::TlsProtocol);
}

#[test]
fn modes_and_the_keys_of_other_brokers() {
    use AuthMode::{Mutual, OneWay, PerDevice};
    use Verify::{None as NoVerify, Peer};
    let cases = [
        (OneWay, None, None, Ok(ClientAuth::None)),
        (OneWay, Some(NoVerify), Some(false), Ok(ClientAuth::None)),
        // The example of other brokers' guides that contradicts itself.
        (OneWay, Some(NoVerify), Some(true), Err(TlsError::FailWithoutVerify)),
        (OneWay, None, Some(true), Err(TlsError::FailWithoutVerify)),
        (OneWay, Some(Peer), None, Err(TlsError::OneWayVerifies)),
        (Mutual, None, None, Ok(ClientAuth::Required)),
        (Mutual, Some(Peer), Some(true), Ok(ClientAuth::Required)),
        (Mutual, Some(Peer), Some(false), Ok(ClientAuth::Optional)),
        (Mutual, Some(NoVerify), None, Err(TlsError::ModeNeedsVerify("mutual"))),
        (PerDevice, None, None, Ok(ClientAuth::Required)),
        (PerDevice, None, Some(false), Err(TlsError::PerDeviceOptional)),
        (PerDevice, Some(NoVerify), Some(false), Err(TlsError::ModeNeedsVerify("per_device"))),
    ];
    for (mode, verify, fail, expected) in cases {
        assert_eq!(ClientAuth::resolve(mode, verify, fail), expected, "{mode:?} {verify:?} {fail:?}");
    }
}

#[test]
fn wrong_material_says_which_file_and_why() {
    let ca = TestCa::new("CA");
    let (server, other) = (ca.server(), ca.server());
    let (certificate, key) = (server.pem(), server.key.serialize_pem());
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cases = [
        (certificate.clone(), key.clone()),
        (format!("{certificate}{}", ca.pem()), key.clone()),
        (format!("{}{certificate}", ca.pem()), key.clone()),
        (certificate.clone(), other.key.serialize_pem()),
        (String::new(), key.clone()),
        (garbled.into(), key.clone()),
        (certificate.clone(), String::new()),
        (certificate.clone(), encrypted.into()),
        (key.clone(), certificate.clone()),
    ];
    let answers: Vec<String> = cases
        .iter()
        .map(|(chain, key)| match read(chain, key, None) {
            Ok(certificate) => format!("fine: {}", certificate.facts().subject.display),
            Err(error) => error.to_string(),
        })
        .collect();
    insta::assert_snapshot!(answers.join("\n"));
    let now = crate::clock::now().seconds();
    let missing = ServerCertificate::load("no/such.crt".as_ref(), "no/such.key".as_ref(), None, now);
    assert!(missing.err().unwrap().to_string().starts_with("no/such.crt: "));
}

#[tokio::test]
async fn resumed_session_revoked_since() {
    use crate::audit::AuditLog;
    use crate::gate::{Accepted, Admission, Gate, GateSettings, ListenerPolicy, RegistrationMode};
    use crate::registry::{ManualRegistration, Registry, RegistrySettings};
    use crate::testing::{FakeHook, MemoryStorage, grant, hooks, member, metrics};
    use mqgate_codec::{Connect, ConnectProperties, ProtocolVersion};
    use mqgate_identity::hooks::{Authorization, Peer};
    use mqgate_identity::registry::rules::RevocationReason;

    let world = World::new();
    let server = world.server(resuming());
    let metrics = Arc::clone(&metrics().gate);
    let audit = Arc::new(AuditLog::default());
    let storage = Arc::new(MemoryStorage::default());
    let registry = Registry::open(
        storage,
        Arc::clone(&world.trust),
        Arc::clone(&audit),
        Arc::clone(&metrics),
        RegistrySettings::default(),
    );
    let registry = registry.await.unwrap();
    let hook = FakeHook { authorization: Some(Ok(Authorization::Allow(grant("#")))), ..FakeHook::default() };
    let policy = ListenerPolicy {
        auth_mode: AuthMode::PerDevice,
        registration: RegistrationMode::Manual,
        ..ListenerPolicy::default()
    };
    let settings = GateSettings { other_listeners: Some(policy), ..GateSettings::default() };
    let members = vec![member("acl", &Arc::new(hook))];
    let gate = Gate::new(hooks(members), Some(Arc::clone(&registry)), audit, metrics, settings);
    let admit = async |handshaken: Handshaken<DuplexStream>| {
        let accepted = Accepted {
            id: 1,
            listener: "mqtts".into(),
            accepted_at: crate::clock::now(),
            transport: crate::metrics::mqtt::Transport::Tls,
            peer: Peer { address: [127, 0, 0, 1].into(), port: 1, via_proxy: None },
            tls: Some(handshaken.session),
            certificate: handshaken.certificate,
            attributes: Vec::new(),
            server_certificate: None,
        };
        let connect = Connect {
            version: ProtocolVersion::V5,
            bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id: "c1".into(),
            will: None,
            user_name: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        match gate.admit(&accepted, &connect).await {
            Admission::Admitted(_) => Reason::Ok,
            Admission::Refused(refusal) => refusal.reason,
        }
    };

    for version in BOTH {
        let device = world.device_ca.device("device-7");
        let client = world.client(version, Some(&device));
        let first = connect(&server, &client).await.0.unwrap();
        assert_eq!(admit(first).await, Reason::CertNotRegistered);
        let request = ManualRegistration { pem: device.pem(), ..ManualRegistration::default() };
        registry.register(request, "admin").await.unwrap();
        for (expected, then_revoke) in [(Reason::Ok, true), (Reason::CertRevoked, false)] {
            let resumed = connect(&server, &client).await.0.unwrap();
            assert!(resumed.session.resumed, "{version:?}");
            assert_eq!(admit(resumed).await, expected, "{version:?}");
            if then_revoke {
                registry.revoke(device.id(), RevocationReason::Unspecified, "admin").await.unwrap();
            }
        }
    }
}
