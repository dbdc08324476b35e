//! Each reason that a handshake can fail with: seen once in the audit log, with what is known of the client, and
//! once in the counter.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mqgate_identity::evaluation::{
    PathDepth, PathPolicy, RevocationList, RevocationPolicy, UnknownStatus, V1Leaf,
};
use mqgate_identity::time::UnixSeconds;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyPair};
use rustls::client::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tests::{World, open};
use super::*;
use crate::metrics::gate::HANDSHAKE_REASONS;
use crate::testing::{TestCa, TestCertificate};
use crate::tls::{TlsServer, TlsSet, TlsSettings, TlsVersion};
use crate::trust::TrustStore;

struct Scene {
    world: World,
    server_ca: TestCa,
    ca: TestCa,
    seen: BTreeSet<Reason>,
}

/// What a client does, and what the server is like for it.
struct Attempt<'a> {
    reason: Reason,
    device: Option<&'a TestCertificate>,
    chain: Vec<Vec<u8>>,
    settings: TlsSettings,
    lists: Vec<Vec<u8>>,
    client_version: TlsVersion,
    only_rsa: bool,
    /// Which server it asks for.
    name: &'static str,
    /// Sent instead of a hello.
    says: Option<&'static [u8]>,
}

impl<'a> Attempt<'a> {
    fn of(reason: Reason, device: &'a TestCertificate) -> Self {
        Self { device: Some(device), ..Self::without(reason) }
    }

    fn without(reason: Reason) -> Self {
        Self {
            reason,
            device: None,
            chain: Vec::new(),
            settings: TlsSettings::default(),
            lists: Vec::new(),
            client_version: TlsVersion::V1_3,
            only_rsa: false,
            name: "localhost",
            says: None,
        }
    }

    fn policy(mut self, policy: PathPolicy) -> Self {
        self.settings.policy = policy;
        self
    }
}

impl Scene {
    async fn play(&mut self, attempt: Attempt<'_>) {
        let Attempt { reason, device, chain, settings, lists, client_version, only_rsa, name, says } =
            attempt;
        let trust = Arc::new(TrustStore::new(32));
        trust.configure(vec![self.ca.anchor()]).unwrap();
        let lists = lists.iter().map(|der| Arc::new(RevocationList::parse(der, 1 << 20).unwrap()));
        trust.revoke(lists.collect()).unwrap();
        let certificates = self.server_ca.server().served();
        let tls = TlsServer::new(TlsSet::new(settings, certificates, trust).unwrap());
        let settings =
            ListenerSettings::new("mqtts", SocketAddr::from(([127, 0, 0, 1], 0)), Some(Arc::new(tls)));
        let listener = Listener::new(settings, self.world.parts.clone());
        let mut address = listener.address();
        let shutdown = self.world.shutdown.child_token();
        let running = tokio::spawn(listener.run(shutdown.clone()));
        let mut stream = TcpStream::connect(open(&mut address).await).await.unwrap();
        match says {
            Some(bytes) => {
                stream.write_all(bytes).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            None => {
                let client = self.client(device, chain, client_version, only_rsa);
                let name = ServerName::try_from(name).unwrap();
                if let Ok(mut stream) = TlsConnector::from(client).connect(name, stream).await {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        }
        shutdown.cancel();
        running.await.unwrap().unwrap();
        assert!(self.seen.insert(reason), "{reason} twice");
    }

    fn client(
        &self,
        device: Option<&TestCertificate>,
        chain: Vec<Vec<u8>>,
        version: TlsVersion,
        only_rsa: bool,
    ) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if only_rsa {
            provider
                .cipher_suites
                .retain(|suite| suite.suite().as_str().is_some_and(|name| name.starts_with("TLS_ECDHE_RSA")));
        }
        let version = match version {
            TlsVersion::V1_2 => &TLS12,
            TlsVersion::V1_3 => &TLS13,
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.server_ca.der().into()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match device {
            None => builder.with_no_client_auth(),
            Some(device) => {
                let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&device.private_key()).unwrap();
                let mut sent = device.chain();
                sent.extend(chain.into_iter().map(CertificateDer::from));
                let certified = CertifiedKey::new(sent, key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        })
    }
}

fn year(year: i32) -> impl FnOnce(&mut rcgen::CertificateParams) {
    move |params| {
        params.not_before = rcgen::date_time_ymd(year, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
    }
}

#[tokio::test]
async fn every_reason_is_one_record_and_one_count() {
    let ca = TestCa::only_for("devices", "devices.example");
    let mut scene =
        Scene { world: World::new(), server_ca: TestCa::new("server CA"), ca, seen: BTreeSet::new() };
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let issue = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        scene.ca.issue("device-7", ExtendedKeyUsagePurpose::ClientAuth, |params| change(params))
    };
    let plain = issue(&|_| {});
    let below = scene.ca.below("below");
    let v1 = scene.ca.v1_device("device-7");
    let unknown = issue(&|params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    });
    // It demands a policy, and has none.
    let unpolitical = issue(&|params| {
        let demand = CustomExtension::from_oid_content(&[2, 5, 29, 36], vec![0x30, 3, 0x80, 1, 0]);
        params.custom_extensions.push(demand);
    });
    let elsewhere = issue(&|params| {
        params.subject_alt_names.push(rcgen::SanType::DnsName("other.example".try_into().unwrap()));
    });
    let expired = scene.ca.issue("device-7", client.clone(), year(2001));
    let early = scene.ca.issue("device-7", client.clone(), year(2090));
    let server_like = scene.ca.issue("device-7", ExtendedKeyUsagePurpose::ServerAuth, |_| {});
    let deep = below.device("device-7");
    let stranger = TestCa::new("strangers").device("device-7");
    let mut thief = scene.ca.device("device-7");
    thief.key = KeyPair::generate().unwrap();
    let as_ca = scene.ca.as_device();
    let revoked = issue(&|_| {});
    let weak = {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "device-7");
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        scene.ca.certify(&params, key)
    };
    let checking = |unknown| PathPolicy {
        revocation: Some(RevocationPolicy { unknown, ..RevocationPolicy::default() }),
        ..PathPolicy::default()
    };
    let defaults = PathPolicy::default;

    let mut old = Attempt::without(Reason::TlsVersionUnsupported);
    old.client_version = TlsVersion::V1_2;
    old.settings.min_version = TlsVersion::V1_3;
    scene.play(old).await;
    let mut cipher = Attempt::without(Reason::TlsNoSharedCipher);
    (cipher.client_version, cipher.only_rsa) = (TlsVersion::V1_2, true);
    scene.play(cipher).await;
    scene.play(Attempt::without(Reason::TlsNoPeerCert)).await;
    let mut silent = Attempt::without(Reason::TlsHandshakeTimeout);
    (silent.says, silent.settings.handshake_timeout) =
        (Some(&b"\x16\x03\x01"[..]), Duration::from_millis(50));
    scene.play(silent).await;
    let mut garbage = Attempt::without(Reason::TlsProtocol);
    garbage.says = Some(b"GET / HTTP/1.1\r\n\r\n");
    scene.play(garbage).await;

    for (reason, name) in
        [(Reason::TlsSniUnknown, "elsewhere.example"), (Reason::TlsSniRequired, "127.0.0.1")]
    {
        let mut attempt = Attempt::without(reason);
        (attempt.name, attempt.settings.strict_sni) = (name, true);
        scene.play(attempt).await;
    }

    scene.play(Attempt::of(Reason::CertMalformed, &unknown)).await;
    let strict = PathPolicy { v1_leaf: V1Leaf::Deny, ..defaults() };
    scene.play(Attempt::of(Reason::CertV1, &v1).policy(strict)).await;
    scene.play(Attempt::of(Reason::CertCaAsLeaf, &as_ca)).await;
    let mut too_deep = Attempt::of(Reason::CertDepth, &deep)
        .policy(PathPolicy { max_depth: PathDepth::new(0).unwrap(), ..defaults() });
    too_deep.chain = vec![below.der()];
    scene.play(too_deep).await;
    scene.play(Attempt::of(Reason::CertUnknownCa, &stranger)).await;
    scene.play(Attempt::of(Reason::CertExpired, &expired)).await;
    scene.play(Attempt::of(Reason::CertNotYetValid, &early)).await;
    scene.play(Attempt::of(Reason::CertPurpose, &server_like)).await;
    let long_keys = PathPolicy { min_rsa_bits: 3072, ..defaults() };
    scene.play(Attempt::of(Reason::CertSigAlg, &weak).policy(long_keys)).await;
    scene.play(Attempt::of(Reason::CertBadSignature, &thief)).await;
    scene.play(Attempt::of(Reason::CertNameConstraint, &elsewhere)).await;
    scene.play(Attempt::of(Reason::CertPolicy, &unpolitical)).await;
    let mut large = Attempt::of(Reason::CertTooLarge, &plain);
    large.chain = vec![below.der(); 10];
    scene.play(large).await;
    let mut listed = Attempt::of(Reason::CertRevokedCrl, &revoked).policy(checking(UnknownStatus::Deny));
    listed.lists = vec![scene.ca.crl(1, 2090, &[&revoked])];
    scene.play(listed).await;
    let mut stale = Attempt::of(Reason::CrlStale, &plain).policy(checking(UnknownStatus::Deny));
    stale.lists = vec![scene.ca.crl(1, 2025, &[])];
    scene.play(stale).await;
    scene.play(Attempt::of(Reason::CrlUnknown, &plain).policy(checking(UnknownStatus::Deny))).await;

    assert_eq!(scene.seen, HANDSHAKE_REASONS.iter().copied().collect(), "each reason has its scene");
    scene.world.parts.audit.close();
    let text = std::fs::read_to_string(&scene.world.file).unwrap();
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for reason in HANDSHAKE_REASONS {
        let labels = ["mqtts", reason.as_str()];
        let counted = scene.world.metrics.gate.tls_handshake_failures.with_label_values(&labels).get();
        let found: Vec<_> = events.iter().filter(|event| event["reason"] == reason.as_str()).collect();
        assert_eq!((counted, found.len()), (1, 1), "{reason}: {text}");
        let event = found[0];
        assert_eq!((&event["name"], &event["listener"]), (&"tls.handshake_failed".into(), &"mqtts".into()));
        assert!(event["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{event}");
        let (is_silent, has_certificate) = match reason {
            Reason::TlsHandshakeTimeout | Reason::TlsProtocol | Reason::TlsSniRequired => (true, false),
            Reason::TlsVersionUnsupported
            | Reason::TlsNoSharedCipher
            | Reason::TlsNoPeerCert
            | Reason::TlsSniUnknown => (false, false),
            _ => (false, true),
        };
        assert_eq!(event["sni"].is_string(), !is_silent, "{event}");
        let fields = &event["fields"];
        for field in ["issuer", "serial", "not_before", "not_after"] {
            let field = format!("certificate.{field}");
            assert_eq!(fields[&field].is_string(), has_certificate, "{field}: {event}");
        }
        assert_eq!(event["fingerprint"].is_string(), has_certificate, "{event}");
        assert_eq!(event["subject"].is_string(), has_certificate, "{event}");
    }
    let late = events.iter().find(|event| event["reason"] == "cert_expired").unwrap();
    let facts = expired.facts();
    assert_eq!(late["fingerprint"], expired.id().to_hex());
    assert_eq!(late["fields"]["certificate.serial"], hex::encode(&facts.serial));
    assert_eq!(late["fields"]["certificate.not_after"], UnixSeconds(facts.not_after.0).to_string());
    assert_eq!(late["fields"]["certificate.issuer"], facts.issuer.display);
}
