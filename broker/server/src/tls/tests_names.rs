//! Which certificate a client gets, and what is made of certificates in files.

use mqgate_identity::reason::Reason;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::tests::{BOTH, PATIENCE, PLACES, World, alert, connect, read};
use super::*;
use crate::testing::TestCa;

/// The common name of the certificate that a client gets who asks for `name`; or the alert it hears.
async fn given(server: &TlsServer, world: &World, version: TlsVersion, name: &str) -> String {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let name = match name {
        "" => ServerName::IpAddress("127.0.0.1".parse::<std::net::IpAddr>().unwrap().into()),
        name => ServerName::try_from(name.to_owned()).unwrap(),
    };
    let mut client = rustls::ClientConfig::clone(&world.client(version, None));
    client.dangerous().set_certificate_verifier(world.anybody());
    let connector = TlsConnector::from(std::sync::Arc::new(client));
    let (server, client) = tokio::join!(server.accept(near, PATIENCE, &PLACES), connector.connect(name, far));
    match (server, client) {
        (Ok(_), Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap();
            let facts = mqgate_identity::certificate::CertificateFacts::parse(&chain[0]).unwrap();
            facts.subject.display.replace("CN=", "")
        }
        (Err(failure), Err(error)) => format!("{} {:?}", failure.reason, alert(error)),
        (server, client) => panic!("{:?} {:?}", server.err(), client.err()),
    }
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let world = World::new();
    let settings = TlsSettings { client_auth: ClientAuth::None, ..TlsSettings::default() };
    let set = |strict_sni| {
        let mut configured = world.bound("internal.example");
        configured.names = vec!["*.shop.example".into(), "shop.example".into()];
        let mut disabled = world.bound("disabled.example");
        disabled.enabled = false;
        let bound = vec![
            world.bound("first.example"),
            world.bound("*.wild.example"),
            world.bound("a.wild.example"),
            configured,
            disabled,
        ];
        world.set(TlsSettings { strict_sni, ..settings.clone() }, bound).unwrap()
    };
    let server = TlsServer::new(set(false));
    let strict = TlsServer::new(set(true));
    let unknown = Some("tls_sni_unknown UnrecognisedName");
    for (name, expected, when_strict) in [
        ("first.example", "first.example", None),
        ("FIRST.example", "first.example", None),
        // Exactly the name goes before a wildcard, wherever it stands in the list.
        ("a.wild.example", "a.wild.example", None),
        ("b.wild.example", "*.wild.example", None),
        // A wildcard is one label, and not none.
        ("c.b.wild.example", "first.example", unknown),
        ("wild.example", "first.example", unknown),
        // A configured name counts instead of those in the certificate.
        ("x.shop.example", "internal.example", None),
        ("shop.example", "internal.example", None),
        ("internal.example", "first.example", unknown),
        ("disabled.example", "first.example", unknown),
        ("elsewhere.example", "first.example", unknown),
        ("", "first.example", Some("tls_sni_required MissingExtension")),
    ] {
        for version in BOTH {
            assert_eq!(given(&server, &world, version, name).await, expected, "{name}");
            let expected = when_strict.unwrap_or(expected);
            assert_eq!(given(&strict, &world, version, name).await, expected, "{name}, strict");
        }
    }
}

#[tokio::test]
async fn a_swap_counts_for_the_next_handshake_and_can_be_taken_back() {
    let world = World::new();
    let settings = TlsSettings { client_auth: ClientAuth::None, ..TlsSettings::default() };
    let server = TlsServer::new(world.set(settings.clone(), vec![world.bound("old.example")]).unwrap());
    assert_eq!(given(&server, &world, TlsVersion::V1_3, "x.example").await, "old.example");
    let failed: Result<_, TlsError> = server.update(|set| set.with_certificates(CertificateSet::default()));
    assert_eq!(failed.err(), Some(TlsError::NoCertificate));
    assert_eq!(given(&server, &world, TlsVersion::V1_3, "x.example").await, "old.example");
    let before = server
        .update(|set| set.with_certificates(CertificateSet::new(vec![world.bound("new.example")])))
        .unwrap();
    assert_eq!(given(&server, &world, TlsVersion::V1_3, "x.example").await, "new.example");
    let back = before.with_settings(before.settings().clone()).unwrap();
    server.swap(back);
    assert_eq!(given(&server, &world, TlsVersion::V1_3, "x.example").await, "old.example");
}

#[tokio::test]
async fn only_the_configured_suites_are_spoken() {
    let world = World::new();
    for (names, version, good) in [
        ("TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256", TlsVersion::V1_2, true),
        ("TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256", TlsVersion::V1_3, true),
        // The certificate's key is ECDSA.
        ("TLS_AES_128_GCM_SHA256:ECDHE-RSA-AES128-GCM-SHA256", TlsVersion::V1_2, false),
    ] {
        let settings = TlsSettings {
            client_auth: ClientAuth::None,
            cipher_suites: CipherSuites::parse([names]).unwrap(),
            ..TlsSettings::default()
        };
        let server = world.server(settings);
        let (handshaken, _) = connect(&server, &world.client(version, None)).await;
        match handshaken {
            Ok(handshaken) => {
                assert!(good, "{names}");
                let suite = rustls::CipherSuite::from(handshaken.session.cipher_suite);
                assert!(suite.as_str().unwrap().contains("AES_128_GCM"), "{suite:?}");
            }
            Err(failure) => assert_eq!((good, failure.reason), (false, Reason::TlsNoSharedCipher)),
        }
    }
}

#[tokio::test]
async fn the_group_of_the_key_exchange() {
    let world = World::new();
    for (name, code) in [("X25519MLKEM768", 0x11ec), ("X25519", 0x1d), ("P-384", 0x18)] {
        let settings = TlsSettings {
            client_auth: ClientAuth::None,
            groups: KeyExchangeGroups::parse([name]).unwrap(),
            min_version: TlsVersion::V1_3,
            ..TlsSettings::default()
        };
        let (handshaken, _) = connect(&world.server(settings), &world.client(TlsVersion::V1_3, None)).await;
        assert_eq!(handshaken.unwrap().group.map(u16::from), Some(code), "{name}");
    }
}

#[test]
fn a_chain_is_put_in_order_and_what_cannot_be_mended_is_refused() {
    let root = TestCa::new("root");
    let (middle, low) = (root.below("middle"), root.below("unrelated"));
    let leaf = middle.server_named(&["a.example"]);
    let key = leaf.key.serialize_pem();
    let subjects = |chain: &[String]| {
        read(&chain.concat(), &key, None).map(|certificate| {
            let names: Vec<_> = certificate
                .chain()
                .iter()
                .map(|der| {
                    mqgate_identity::certificate::CertificateFacts::parse(der).unwrap().subject.display
                })
                .collect();
            (names.join(" ").replace("CN=", ""), certificate.warnings().join("\n"))
        })
    };
    let (names, warnings) = subjects(&[leaf.pem(), middle.pem(), root.pem()]).unwrap();
    assert_eq!((names.as_str(), warnings.as_str()), ("a.example middle root", ""));
    let (names, warnings) = subjects(&[leaf.pem(), root.pem(), low.pem(), middle.pem(), root.pem()]).unwrap();
    assert_eq!(names, "a.example middle root unrelated");
    assert!(
        warnings.contains("not in order") && warnings.contains("\"CN=unrelated\" signed none"),
        "{warnings}"
    );
    assert!(warnings.contains("twice"), "{warnings}");
    let error = subjects(&[middle.pem(), leaf.pem()]).unwrap_err();
    assert!(matches!(error, MaterialError::Order { number: 2, .. }), "{error}");

    // A CA's own pair cannot stand for a server.
    let error = read(&root.pem(), &root.key_pem(), None).err().unwrap();
    assert!(matches!(error, MaterialError::Ca { .. }), "{error}");
    let expired = root.expired("old.example");
    let warned = read(&expired.pem(), &expired.key.serialize_pem(), None).unwrap();
    let warnings = warned.warnings().join("\n");
    assert!(warnings.contains("has expired") && warnings.contains("not for servers"), "{warnings}");
    let error = read(&leaf.pem(), &middle.server().key.serialize_pem(), None).err().unwrap();
    assert!(matches!(error, MaterialError::KeyMismatch { .. }), "{error}");
}

#[test]
fn a_chain_that_ends_too_early_is_completed_from_other_cas() {
    let root = TestCa::new("root");
    let (middle, other) = (root.below("middle"), root.below("other"));
    let low = middle.below("low");
    let leaf = low.server_named(&["a.example"]);
    let completed = |chain: &[String], cas: &[&TestCa]| {
        let cas: Vec<String> = cas.iter().map(|ca| ca.pem()).collect();
        let cas = mqgate_identity::certificate::certificates_from_pem(cas.concat().as_bytes()).unwrap();
        let certificate =
            read(&chain.concat(), &leaf.key.serialize_pem(), None).unwrap().completed_from(&cas);
        assert_eq!(certificate.certified().cert, certificate.chain());
        let subject = |der: &rustls::pki_types::CertificateDer<'_>| {
            mqgate_identity::certificate::CertificateFacts::parse(der).unwrap().subject.display
        };
        certificate.chain().iter().map(subject).collect::<Vec<_>>().join(" ").replace("CN=", "")
    };
    assert_eq!(completed(&[leaf.pem()], &[&root, &other, &middle, &low]), "a.example low middle");
    assert_eq!(completed(&[leaf.pem(), low.pem()], &[&middle]), "a.example low middle");
    assert_eq!(completed(&[leaf.pem()], &[&middle, &root]), "a.example", "what signed it is not there");
    let whole = [leaf.pem(), low.pem(), middle.pem(), root.pem()];
    assert_eq!(completed(&whole, &[&low, &middle, &root]), "a.example low middle root");
    let with_another = [leaf.pem(), other.pem()];
    assert_eq!(completed(&with_another, &[&low, &middle]), "a.example low middle other");
}

#[tokio::test]
async fn what_was_replaced_is_shown_only_for_names_that_its_successor_has_not() {
    let world = World::new();
    let settings = TlsSettings { client_auth: ClientAuth::None, ..TlsSettings::default() };
    let retired = |name: &str| BoundCertificate {
        source: CertificateSource::Retired { transition: name.to_owned() },
        ..world.bound(name)
    };
    let bound = vec![
        world.bound("*.shop.example"),
        retired("mqtt.shop.example"),
        retired("old.example"),
        retired("*.old.example"),
    ];
    let server = TlsServer::new(world.set(settings, bound).unwrap());
    for (name, expected) in [
        // A wildcard of the new one goes before the very name in the old one.
        ("mqtt.shop.example", "*.shop.example"),
        ("old.example", "old.example"),
        ("a.old.example", "*.old.example"),
        ("elsewhere.example", "*.shop.example"),
        ("", "*.shop.example"),
    ] {
        assert_eq!(given(&server, &world, TlsVersion::V1_3, name).await, expected, "{name}");
    }
}
