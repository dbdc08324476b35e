//! Answers that count and that do not; and how they come to a certificate, stay and go.

mod responder;

use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::evaluation::{OcspGood, OcspQuestion};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use sha2::{Digest as _, Sha256};

use self::responder::{Answer, Responder, Signer, State, cert_id};
use super::*;
use crate::audit::AuditSettings;
use crate::testing::{TestCa, TestCertificate, metrics, sequence, tlv};
use crate::tls::material::Pem;
use crate::tls::{CertificateSet, TlsSet, TlsSettings};
use crate::trust::TrustStore;

const PATIENCE: Duration = Duration::from_secs(30);

fn now() -> UnixSeconds {
    clock::now().seconds()
}

fn question_about(certificate: &TestCertificate, ca: &TestCa) -> OcspQuestion {
    OcspQuestion::new(&certificate.der, &ca.der()).unwrap()
}

/// The word of metrics for what is made of an answer.
fn judged(question: &OcspQuestion, answer: &[u8]) -> &'static str {
    question.check(answer, now()).map_or_else(|error| error.as_str(), |_| "good")
}

#[test]
fn an_answer_counts_by_whom_about_what_and_when_it_should() {
    let (ca, stranger, namesake) = (TestCa::new("ca"), TestCa::new("stranger"), TestCa::new("ca"));
    let (server, other) = (ca.server(), ca.server());
    let question = question_about(&server, &ca);
    let delegate =
        |ca: &TestCa, usage, change: fn(&mut rcgen::CertificateParams)| ca.issue("responder", usage, change);
    let signing = ExtendedKeyUsagePurpose::OcspSigning;
    let unknown_extension = |params: &mut rcgen::CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[2, 999, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let delegates = [
        (delegate(&ca, signing.clone(), |_| {}), "good"),
        (delegate(&ca, signing.clone(), |p| p.key_usages.push(KeyUsagePurpose::DigitalSignature)), "good"),
        (delegate(&ca, signing.clone(), |p| p.key_usages.push(KeyUsagePurpose::CrlSign)), "signature"),
        (delegate(&ca, signing.clone(), unknown_extension), "signature"),
        (delegate(&ca, signing.clone(), |p| p.not_after = rcgen::date_time_ymd(2002, 1, 1)), "signature"),
        (delegate(&ca, ExtendedKeyUsagePurpose::Any, |_| {}), "signature"),
        (delegate(&ca, ExtendedKeyUsagePurpose::ServerAuth, |_| {}), "signature"),
        (delegate(&stranger, signing.clone(), |_| {}), "signature"),
        (delegate(&namesake, signing, |_| {}), "signature"),
    ];
    for (number, (delegate, expected)) in delegates.iter().enumerate() {
        let answer = Answer::good(Signer::Delegate(delegate)).to(question.request());
        assert_eq!(judged(&question, &answer), *expected, "delegate {number}");
    }
    let good = Answer::good(Signer::Ca(&ca));
    let revoked = State::Revoked;
    for (what, answer, expected) in [
        ("the issuer's", good, "good"),
        ("a stranger's", Answer { signer: Signer::Ca(&stranger), ..good }, "signature"),
        ("a namesake's", Answer { signer: Signer::Ca(&namesake), ..good }, "signature"),
        ("revoked", Answer { state: revoked, ..good }, "revoked"),
        (
            "revoked, says a stranger",
            Answer { state: revoked, signer: Signer::Ca(&namesake), ..good },
            "signature",
        ),
        ("unknown", Answer { state: State::Unknown, ..good }, "unknown"),
        ("expired", Answer { this_update: -7_200, next_update: Some(-1), ..good }, "stale"),
        ("the last moment", Answer { this_update: -7_200, next_update: Some(60), ..good }, "good"),
        ("to come", Answer { this_update: 600, ..good }, "stale"),
        ("by a clock that is ahead", Answer { this_update: 240, ..good }, "good"),
        ("without an end", Answer { next_update: None, ..good }, "good"),
        ("old and without an end", Answer { this_update: -3_700, next_update: None, ..good }, "stale"),
        ("with a critical extension", Answer { critical: true, ..good }, "malformed"),
    ] {
        assert_eq!(judged(&question, &answer.to(question.request())), expected, "{what}");
    }
    let good_until = |next_update| {
        let answer = Answer { next_update, ..good }.to(question.request());
        let OcspGood { this_update, next_update } = question.check(&answer, now()).unwrap();
        next_update.0 - this_update.0
    };
    assert_eq!((good_until(Some(600)), good_until(None)), (660, 3_600));

    // About another serial number; about the same of another CA of the same name.
    let mut namesakes = cert_id(question.request()).to_vec();
    // The first byte of the hash of the issuer's key.
    namesakes[2 + 11 + 22 + 2] ^= 1;
    for id in [cert_id(question_about(&other, &ca).request()), &namesakes] {
        assert_eq!(judged(&question, &good.about(id)), "other_certificate");
    }
    // Named by SHA-256.
    let facts = CertificateFacts::parse(&ca.der()).unwrap();
    let bits = mqgate_identity::evaluation::subject_public_key_info(&ca.der()).unwrap();
    let bits = &bits.as_ref()[bits.as_ref().len() - 65..];
    let algorithm = sequence(&[&[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01]]);
    let id = cert_id(question.request());
    let name = tlv(0x04, &Sha256::digest(&facts.subject.raw));
    let key = tlv(0x04, &Sha256::digest(bits));
    let serial = tlv(0x02, serial_content(id));
    let id = sequence(&[&algorithm, &name, &key, &serial]);
    assert_eq!(judged(&question, &good.about(&id)), "good");

    // RFC 6960, 4.2.1: what is no answer.
    for (code, what) in [
        (1, "malformedRequest"),
        (2, "internalError"),
        (3, "tryLater"),
        (5, "sigRequired"),
        (6, "unauthorized"),
    ] {
        let error = question.check(&[0x30, 3, 0x0a, 1, code], now()).unwrap_err();
        assert_eq!(error, OcspError::Status(what));
    }
    for garbage in [&b""[..], b"<html>", &[0x30, 3, 0x0a, 1, 0], &[0x30, 3, 0x0a, 1, 4]] {
        assert_eq!(judged(&question, garbage), "malformed");
    }
    assert!(OcspQuestion::new(&server.der, &stranger.der()).is_err());
    assert!(OcspQuestion::new(&server.der, &namesake.der()).is_err());
}

/// Behind algorithm and two hashes of SHA-1.
fn serial_content(id: &[u8]) -> &[u8] {
    &id[2 + 11 + 22 + 22 + 2..]
}

#[test]
fn a_changed_answer_is_no_answer() {
    let ca = TestCa::new("ca");
    let server = ca.server();
    let question = question_about(&server, &ca);
    let answer = Answer::good(Signer::Ca(&ca)).to(question.request());
    assert_eq!(judged(&question, &answer), "good");
    for at in 0..answer.len() {
        assert_ne!(judged(&question, &answer[..at]), "good", "{at} bytes");
        for bit in [0x01, 0x40] {
            let mut changed = answer.clone();
            changed[at] ^= bit;
            assert_ne!(judged(&question, &changed), "good", "byte {at}");
        }
    }
}

#[test]
fn a_certificate_may_demand_its_staple() {
    let ca = TestCa::new("ca");
    for (features, expected) in [
        (&[0x30, 3, 2, 1, 5][..], true),
        (&[0x30, 6, 2, 1, 17, 2, 1, 5], true),
        (&[0x30, 3, 2, 1, 17], false),
        (&[5, 0], false),
    ] {
        let server = ca.issue("server", ExtendedKeyUsagePurpose::ServerAuth, |params| {
            let oid = [1, 3, 6, 1, 5, 5, 7, 1, 24];
            params.custom_extensions.push(CustomExtension::from_oid_content(&oid, features.to_vec()));
        });
        assert_eq!(must_staple(&server.facts()), expected, "{features:02x?}");
    }
    assert!(!must_staple(&ca.server().facts()));
}

/// A stapler with one listener and a certificate of a CA.
struct World {
    ca: TestCa,
    server: TestCertificate,
    tls: Arc<TlsServer>,
    folder: tempfile::TempDir,
    audit: Arc<AuditLog>,
}

impl World {
    fn new() -> Self {
        let ca = TestCa::new("ca");
        let server = ca.server();
        let folder = tempfile::tempdir().unwrap();
        let settings =
            AuditSettings { path: Some(folder.path().join("audit.jsonl")), ..AuditSettings::default() };
        let audit = Arc::new(AuditLog::open(settings, Arc::clone(&metrics().gate)).unwrap());
        let tls = Arc::new(TlsServer::new(set(&[(&server, &ca)])));
        Self { ca, server, tls, folder, audit }
    }

    fn stapler(&self) -> Arc<Stapler> {
        let cache = Some(self.folder.path().join("ocsp"));
        Stapler::new(cache, Arc::clone(&self.audit), &prometheus::Registry::new()).unwrap()
    }

    fn is_stapled(&self) -> bool {
        self.tls.current().certificates().iter().all(|bound| bound.certificate.is_stapled())
    }
}

fn set(certificates: &[(&TestCertificate, &TestCa)]) -> TlsSet {
    let bound = certificates.iter().enumerate().map(|(number, (certificate, ca))| {
        let chain = format!("{}{}", certificate.pem(), ca.pem());
        let key = certificate.key.serialize_pem();
        let pem = Pem {
            chain: chain.as_bytes(),
            key: key.as_bytes(),
            password: None,
            chain_name: "c",
            key_name: "k",
        };
        let certificate = ServerCertificate::from_pem(pem, now()).unwrap();
        let label = (number > 0).then(|| format!("main-{}", number + 1));
        let source = CertificateSource::Files { certificate: "c".into(), key: "k".into(), label };
        BoundCertificate::new(source, certificate)
    });
    let certificates = CertificateSet::new(bound.collect());
    let settings = TlsSettings { staple: true, ..TlsSettings::default() };
    TlsSet::new(settings, certificates, Arc::new(TrustStore::new(1))).unwrap()
}

fn settings(responder: Option<&str>, networks: &[&str]) -> OcspSettings {
    OcspSettings {
        responder: responder.map(str::to_owned),
        issuers: Vec::new(),
        refresh: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
    }
}

/// Waits until the service, which is running, has come so far.
async fn until(what: &str, condition: impl Fn() -> bool) {
    tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what} does not come"));
}

#[tokio::test]
async fn a_response_is_sent_kept_over_an_outage_and_over_a_restart_and_taken_back() {
    let world = World::new();
    let ca = Arc::new(TestCa::renewed(&world.ca, "ca"));
    let mood = Arc::new(Mutex::new("good"));
    let (signs, says) = (Arc::clone(&ca), Arc::clone(&mood));
    let responder = Responder::start(move |_, request| {
        let good = Answer::good(Signer::Ca(&signs));
        match *says.lock().unwrap() {
            "good" => good.to(request),
            "older" => Answer { this_update: -600, ..good }.to(request),
            "revoked" => Answer { state: State::Revoked, ..good }.to(request),
            "try later" => vec![0x30, 3, 0x0a, 1, 3],
            _ => Vec::new(),
        }
    })
    .await;
    let set_mood = |next| *mood.lock().unwrap() = next;
    let stapler = world.stapler();
    let end = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&stapler).run(end.clone()));
    stapler.watch("main", &world.tls, Some(settings(Some(&responder.url), &[])));
    until("the staple", || world.is_stapled()).await;
    let counted = |stapler: &Stapler, result| stapler.metrics.count("main", result);
    assert_eq!(*responder.asked.lock().unwrap(), ["GET"]);
    assert!(stapler.metrics.until("main") > now().0 as f64);

    // What the responder says meanwhile is no better: what it said counts.
    for (mood, result) in [("away", "status"), ("try later", "error_status"), ("older", "older")] {
        set_mood(mood);
        let before = counted(&stapler, result);
        until(mood, || counted(&stapler, result) > before).await;
        assert!(world.is_stapled(), "{mood}");
    }
    // A certificate that is read anew has it as well.
    world.tls.swap(set(&[(&world.server, &world.ca)]));
    until("the staple of the certificate read anew", || world.is_stapled()).await;
    end.cancel();
    running.await.unwrap();

    // Another process, the responder is away: sent from the first handshake.
    set_mood("away");
    world.tls.swap(set(&[(&world.server, &world.ca)]));
    let stapler = world.stapler();
    stapler.watch("main", &world.tls, Some(settings(Some(&responder.url), &[])));
    assert!(world.is_stapled() && stapler.metrics.until("main") > now().0 as f64);

    // Revoked: taken back at once, and for good.
    let end = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&stapler).run(end.clone()));
    set_mood("revoked");
    until("the end of the staple", || !world.is_stapled()).await;
    until("two of them", || counted(&stapler, "revoked") > 1).await;
    assert!(stapler.metrics.until("main") < 1.0);
    set_mood("older");
    until("an older answer", || counted(&stapler, "older") > 0).await;
    assert!(!world.is_stapled());
    end.cancel();
    running.await.unwrap();
    let stapler = world.stapler();
    stapler.watch("main", &world.tls, Some(settings(Some(&responder.url), &[])));
    assert!(!world.is_stapled());
    world.audit.close();
    let audited = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    assert_eq!(audited.matches("server_cert.revoked").count(), 1, "{audited}");
}

#[tokio::test]
async fn a_response_is_not_sent_past_its_time() {
    let world = World::new();
    let ca = Arc::new(TestCa::renewed(&world.ca, "ca"));
    let asked = Mutex::new(0);
    let responder = Responder::start(move |_, request| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        let short = Answer { next_update: Some(3), ..Answer::good(Signer::Ca(&ca)) };
        if *asked == 1 { short.to(request) } else { Vec::new() }
    })
    .await;
    let stapler = world.stapler();
    let end = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&stapler).run(end.clone()));
    stapler.watch("main", &world.tls, Some(settings(Some(&responder.url), &[])));
    until("the staple", || world.is_stapled()).await;
    until("its end", || !world.is_stapled()).await;
    // Asked before that, because it would not last until the interval is over.
    assert!(responder.times() > 1);
    assert!(stapler.metrics.until("main") < 1.0);
    end.cancel();
    running.await.unwrap();
    // What is on the disk has expired as well.
    let stapler = world.stapler();
    stapler.watch("main", &world.tls, Some(settings(Some(&responder.url), &[])));
    assert!(!world.is_stapled());
}

#[tokio::test]
async fn responders_are_those_that_may_be_asked_in_the_way_that_they_like() {
    let world = World::new();
    let ca = Arc::new(TestCa::renewed(&world.ca, "ca"));
    // It wants to be posted to.
    let responder = Responder::start(move |method, request| match method {
        "POST" => Answer::good(Signer::Ca(&ca)).to(request),
        _ => b"<html>".to_vec(),
    })
    .await;
    let stapler = world.stapler();
    stapler.watch("main", &world.tls, Some(settings(Some(&responder.url), &[])));
    stapler.look().await;
    assert!(world.is_stapled());
    assert_eq!(*responder.asked.lock().unwrap(), ["GET", "POST"]);

    // Whom only a certificate names must be public, or in a network that may be asked.
    let access = sequence(&[&[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1], &tlv(0x86, responder.url.as_bytes())]);
    let content = sequence(&[&access]);
    let named = world.ca.issue("named.example", ExtendedKeyUsagePurpose::ServerAuth, |params| {
        params.subject_alt_names.push(rcgen::SanType::DnsName("named.example".try_into().unwrap()));
        let oid = [1, 3, 6, 1, 5, 5, 7, 1, 1];
        params.custom_extensions.push(CustomExtension::from_oid_content(&oid, content.clone()));
    });
    for (networks, result) in [(&[][..], "refused"), (&["127.0.0.0/8"], "ok")] {
        let (folder, tls) =
            (tempfile::tempdir().unwrap(), Arc::new(TlsServer::new(set(&[(&named, &world.ca)]))));
        let cache = Some(folder.path().to_owned());
        let stapler = Stapler::new(cache, Arc::clone(&world.audit), &prometheus::Registry::new()).unwrap();
        stapler.watch("main", &tls, Some(settings(None, networks)));
        stapler.look().await;
        assert_eq!(stapler.metrics.count("main", result), 1, "{result}");
        let stapled = tls.current().certificates().iter().all(|bound| bound.certificate.is_stapled());
        assert_eq!(stapled, result == "ok");
    }
    // One that names nobody.
    let stapler = world.stapler();
    let tls = Arc::new(TlsServer::new(set(&[(&world.ca.server(), &world.ca)])));
    stapler.watch("main", &tls, Some(settings(None, &[])));
    stapler.look().await;
    assert_eq!(stapler.metrics.count("main", "no_responder"), 1);
}

#[tokio::test]
async fn every_certificate_that_can_be_asked_about_is_and_no_other() {
    let world = World::new();
    let ca = Arc::new(TestCa::renewed(&world.ca, "ca"));
    let responder = Responder::start(move |_, request| Answer::good(Signer::Ca(&ca)).to(request)).await;
    let second = world.ca.server_named(&["second.example"]);
    let tls = Arc::new(TlsServer::new(set(&[(&world.server, &world.ca), (&second, &world.ca)])));
    let again = Arc::new(TlsServer::new(set(&[(&second, &world.ca)])));
    let builtin = TlsSettings { staple: true, ..TlsSettings::default() };
    let builtin = TlsSet::new(builtin, world.ca.server().served(), Arc::new(TrustStore::new(1))).unwrap();
    let builtin = Arc::new(TlsServer::new(builtin));
    let stapler = world.stapler();
    for (name, tls) in [("main", &tls), ("other", &again), ("third", &builtin)] {
        stapler.watch(name, tls, Some(settings(Some(&responder.url), &[])));
    }
    stapler.look().await;
    let stapled = |tls: &TlsServer| -> Vec<bool> {
        tls.current().certificates().iter().map(|bound| bound.certificate.is_stapled()).collect()
    };
    assert_eq!(
        (stapled(&tls), stapled(&again), stapled(&builtin)),
        (vec![true, true], vec![true], vec![false])
    );
    // What two listeners have is asked about once.
    assert_eq!(responder.times(), 2);
    assert_eq!((stapler.metrics.count("main", "ok"), stapler.metrics.count("main-2", "ok")), (1, 1));

    // What no listener has any more is forgotten, on the disk as well.
    let kept = || std::fs::read_dir(world.folder.path().join("ocsp")).unwrap().count();
    assert_eq!(kept(), 4);
    tls.swap(set(&[(&world.server, &world.ca)]));
    stapler.forget("other");
    stapler.look().await;
    assert_eq!(kept(), 2);
}
